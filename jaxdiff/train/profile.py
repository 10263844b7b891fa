"""A trace of a few training steps: what the devices and the host did, microsecond by microsecond."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from jaxdiff.train.state import TrainState
from jaxdiff.train.step import Metrics
from jaxdiff.typing import Array, Batch

RunSteps = Callable[[TrainState, Batch, Array], tuple[TrainState, Metrics]]


@contextmanager
def profiled(run_steps: RunSteps, folder: Path, *, skip: int = 3, calls: int = 3) -> Iterator[RunSteps]:
    """`run_steps` of which some calls are traced, into `folder`; the numbers are the same. Use it as a context.

    The trace begins when the devices have finished the calls before, and ends when they have finished its own, or with
    the context. It opens in TensorBoard or xprof (`pip install xprof; xprof --logdir FOLDER`), and its
    `*.trace.json.gz` in https://ui.perfetto.dev.

    Args:
      run_steps: such as `parallel.pmapped(step)`.
      folder: where the trace goes, `plugins/profile/<time>/`.
      skip: calls before it: the first one compiles, and the next fill caches.
      calls: to trace.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with profiled(lambda state, batch, key: (state + batch, {}), folder, skip=1, calls=1) as run_steps:
    ...     run_steps(1, 2, None), run_steps(3, 4, None)
    ((3, {}), (7, {}))
    >>> len(list(folder.rglob("*.xplane.pb")))
    1
    """
    called, tracing = 0, False

    def run(state: Any, batches: Batch, key: Array) -> tuple[TrainState, Metrics]:
        nonlocal called, tracing
        called += 1
        if called == skip + 1:
            jax.block_until_ready(state)
            jax.profiler.start_trace(folder)
            tracing = True
        if not tracing:
            return run_steps(state, batches, key)
        with jax.profiler.StepTraceAnnotation("train", step_num=called):
            result = run_steps(state, batches, key)
        if called == skip + calls:
            jax.block_until_ready(result)
            stop()
        return result

    def stop() -> None:
        nonlocal tracing
        if tracing:
            tracing = False
            try:
                jax.profiler.stop_trace()
            except Exception as error:  # a full disk: XLA's own kind
                warnings.warn(f"the trace was not written to {folder}: {error}", stacklevel=2)

    try:
        yield run
    finally:
        stop()
