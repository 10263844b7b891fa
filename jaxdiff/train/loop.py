"""The training loop: no host sync in a step, numbers checked two calls late, callbacks at their steps."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from jaxdiff.train.feed import Feed
from jaxdiff.train.parallel import anyone
from jaxdiff.train.state import TrainState
from jaxdiff.train.watchdog import Watchdog
from jaxdiff.typing import Array, InputError

IN_FLIGHT = 2  # calls dispatched and not waited for: enough to hide the host; more can deadlock forced CPU devices


class NonFiniteLossError(RuntimeError):
    """Too many losses, gradients or updates in a row were NaN or infinite; none of them changed the parameters."""


class DataError(RuntimeError):
    """The data could not be read; the cause is what the source raised.

    Attributes:
      state: after the last step that had its data, fit to be saved: all its steps are finished and checked.
    """

    def __init__(self, state: TrainState):
        super().__init__(f"the data of step {int(state.step) + 1} could not be read")
        self.state = state


class Every(NamedTuple):
    """Call `call(state, step)` after each multiple of `every` steps, and after the last step."""

    every: int
    call: Callable[[TrainState, int], None]


def fit(
    state: TrainState,
    feed: Feed,
    run_steps: Callable[..., tuple[TrainState, dict[str, Array]]],
    key: Array,
    *,
    steps: int,
    steps_per_call: int = 1,
    on_metrics: Callable[[int, dict[str, float]], None],
    callbacks: Sequence[Every] = (),
    stop: Callable[[], bool] = lambda: False,
    skip_limit: int = 0,
    say: Callable[[str], None] = lambda message: None,
) -> TrainState:
    """Train from `state.step` until `steps`.

    Metrics come back asynchronously: two calls are under way, and the older one's numbers are fetched before the next
    is dispatched. Before a callback all are fetched and checked. `train_step` skips an update that is not finite, so no
    state, and no checkpoint, is ever behind one.

    Args:
      state: see `TrainState`; donated.
      feed: groups of `steps_per_call` batches.
      run_steps: `parallel.Parallel.run`.
      key: the run's key.
      steps: the number of updates at the end.
      steps_per_call: K, updates in one call; must divide the step to start from, the last one and the callbacks'.
      on_metrics: gets every step's number and metrics, in order, with the `seconds` it took, but for the first call,
        which compiles, and the part of them spent waiting for data, `data_seconds`.
      callbacks: what to do at which steps.
      stop: asked before every call; if true, on any host, the calls under way are finished and checked, and `fit`
        returns early, on all hosts after the same step.
      skip_limit: how many updates in a row may be skipped.
      say: gets what a person should know: a step that hangs, an update that was skipped.

    Raises:
      InputError: `steps_per_call` does not divide.
      NonFiniteLossError: more than `skip_limit` updates in a row were not finite; names the step.
      DataError: reading the data failed.
    """
    done = int(state.step)
    for number in (done, steps, *(c.every for c in callbacks)):
        if number % steps_per_call:
            raise InputError(f"steps per call: {steps_per_call} does not divide {number}")
    alone = jax.process_count() == 1

    pending: deque[tuple[int, float, dict[str, Array], Any]] = deque()
    clock: float | None = None  # when the call before was fetched; None: what passed since is not training time
    stopping, skipped = False, 0

    def fetch(dog: Watchdog) -> None:
        nonlocal clock, stopping, skipped
        first, waited, metrics, asked = pending.popleft()
        dog.watch(f"step {first + steps_per_call}")
        values, asked = jax.device_get((metrics, asked))  # waits for this call only
        now = time.perf_counter()
        timing = {}
        if clock is None:
            dog.rest()
        else:
            dog.beat()
            timing = {"seconds": (now - clock) / steps_per_call, "data_seconds": waited / steps_per_call}
        clock, stopping = now, stopping or bool(asked)
        for i in range(steps_per_call):
            at_step = {name: float(v[i]) for name, v in values.items()}
            on_metrics(first + i + 1, at_step | timing)
            if not at_step["skipped"]:
                skipped = 0
                continue
            skipped += 1
            if skipped > skip_limit:
                raise NonFiniteLossError(
                    f"the loss, gradient or update is not finite at step {first + i + 1}"
                    f"{f', nor at the {skipped - 1} before' if skipped > 1 else ''}: {at_step}"
                )
            say(
                f"step {first + i + 1}: the loss, gradient or update is not finite ({at_step}); this update was "
                f"skipped, the parameters are as before ({skipped} in a row; after {skip_limit} training stops)"
            )

    with Watchdog(say) as dog:
        while done < steps and not stopping:
            asked = stop()
            if asked and alone:
                break
            while len(pending) >= IN_FLIGHT:
                fetch(dog)
            if stopping:
                break
            dog.watch(f"reading the data of step {done + 1}")
            before = feed.waited
            try:
                group = next(feed)
            except Exception as error:  # whatever the source, a file system or a decoder raises
                while pending:
                    fetch(dog)
                raise DataError(state) from error
            state, metrics = run_steps(state, group, key)
            pending.append((done, feed.waited - before, metrics, anyone(asked)))
            done += steps_per_call
            due = [c for c in callbacks if done % c.every == 0 or done == steps]
            while due and pending:
                fetch(dog)
            if due:
                dog.rest()
            for callback in due:
                callback.call(state, done)
                clock = None  # what it did is not training time
        while pending:
            fetch(dog)
    return state
