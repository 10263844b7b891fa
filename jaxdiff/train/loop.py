"""The training loop: no host sync in a step, numbers checked two calls late, callbacks at their steps."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax

from jaxdiff.train.parallel import shard
from jaxdiff.train.state import TrainState
from jaxdiff.typing import Array, Batch, InputError

IN_FLIGHT = 2  # calls dispatched and not waited for: enough to hide the host; more can deadlock forced CPU devices


class NonFiniteLossError(RuntimeError):
    """A loss, gradient or update was NaN or infinite; nothing was saved after it."""


class Every(NamedTuple):
    """Call `call(state, step)` after each multiple of `every` steps, and after the last step."""

    every: int
    call: Callable[[TrainState, int], None]


def fit(
    state: TrainState,
    batches: Iterator[Batch],
    run_steps: Callable[..., tuple[TrainState, dict[str, Array]]],
    key: Array,
    *,
    steps: int,
    steps_per_call: int = 1,
    on_metrics: Callable[[int, dict[str, float]], None],
    callbacks: Sequence[Every] = (),
    stop: Callable[[], bool] = lambda: False,
) -> TrainState:
    """Train from `state.step` until `steps`.

    Metrics come back asynchronously: two calls are under way, and the older one's numbers are fetched before the next
    is dispatched. Before a callback all are fetched and checked, so that a checkpoint never holds a state behind a
    non-finite loss.

    Args:
      state: see `TrainState`; donated.
      batches: host batches of the global batch size.
      run_steps: `parallel.pmapped(step)`.
      key: the run's key.
      steps: the number of updates at the end.
      steps_per_call: K, updates in one call; must divide the step to start from, the last one and the callbacks'.
      on_metrics: gets every step's number and metrics, in order, with the `seconds` it took, but for the first call,
        which compiles.
      callbacks: what to do at which steps.
      stop: asked before every call; if true, the calls under way are finished and checked, and `fit` returns early.

    Raises:
      InputError: `steps_per_call` does not divide.
      NonFiniteLossError: the loss, the gradient or the updated parameters are not finite; names the step.
    """
    done = int(state.step)
    for number in (done, steps, *(c.every for c in callbacks)):
        if number % steps_per_call:
            raise InputError(f"steps per call: {steps_per_call} does not divide {number}")
    devices = jax.local_device_count()

    pending: deque[tuple[int, dict[str, Array]]] = deque()
    clock: float | None = None  # when the call before was fetched; None: what passed since is not training time

    def fetch() -> None:
        nonlocal clock
        first, metrics = pending.popleft()
        values = jax.device_get(metrics)  # waits for this call only
        now = time.perf_counter()
        timing = {} if clock is None else {"seconds": (now - clock) / steps_per_call}
        clock = now
        for i in range(steps_per_call):
            at_step = {name: float(v[i]) for name, v in values.items()}
            if not all(map(math.isfinite, at_step.values())):
                raise NonFiniteLossError(
                    f"the loss, gradient or update is not finite at step {first + i + 1} "
                    f"(call of steps {first + 1} to {first + steps_per_call}): {at_step}"
                )
            on_metrics(first + i + 1, at_step | timing)

    while done < steps and not stop():
        while len(pending) >= IN_FLIGHT:
            fetch()
        group = shard([next(batches) for _ in range(steps_per_call)], devices=devices)
        state, metrics = run_steps(state, group, key)
        pending.append((done, metrics))
        done += steps_per_call
        due: list[Any] = [c for c in callbacks if done % c.every == 0 or done == steps]
        while due and pending:
            fetch()
        for callback in due:
            callback.call(state, done)
        if due:
            clock = None  # a checkpoint or a picture was made
    while pending:
        fetch()
    return state
