"""Batches on the devices before they are asked for, and the place in the data of those that were used."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from jaxdiff.typing import Batch

AHEAD = 2  # groups: one is copied to the devices while the one before is trained on


class Feed:
    """Groups of K host batches, put on the devices by a thread that is two groups ahead. Use it as a context.

    Args:
      batches: an iterator of host batches with `get_state()`, as `data.batches`.
      put: K host batches -> arrays on the devices (`parallel.Parallel.feed`).
      steps_per_call: K.

    >>> class Count:
    ...     n = 0
    ...     def __next__(self): self.n += 1; return {"image": self.n}
    ...     def get_state(self): return {"n": self.n}
    >>> with Feed(Count(), lambda group: [batch["image"] for batch in group], steps_per_call=3) as feed:
    ...     feed.place(), next(feed), feed.place()
    ({'n': 0}, [1, 2, 3], {'n': 3})
    """

    def __init__(self, batches: Any, put: Callable[[Sequence[Any]], Batch], *, steps_per_call: int):
        self._batches, self._put, self._steps_per_call = batches, put, steps_per_call
        self._place: dict[str, Any] = batches.get_state()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="feed")
        self._ahead: deque[Future[tuple[Batch, dict[str, Any]]]] = deque()
        self.waited = 0.0
        """Seconds that `next` has waited for data, in all."""

    def __enter__(self) -> "Feed":
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _make(self) -> tuple[Batch, dict[str, Any]]:
        group = [next(self._batches) for _ in range(self._steps_per_call)]
        return self._put(group), self._batches.get_state()

    def __iter__(self) -> "Feed":
        return self

    def __next__(self) -> Batch:
        """The next group; what went wrong while it was read is raised here."""
        while len(self._ahead) < AHEAD:
            self._ahead.append(self._thread.submit(self._make))
        begun = time.perf_counter()
        group, place = self._ahead.popleft().result()
        self.waited += time.perf_counter() - begun
        self._place = place  # only now: what was read ahead is read again by a resumed run
        self._ahead.append(self._thread.submit(self._make))
        return group

    def place(self) -> dict[str, Any]:
        """The place in the data behind the last group that `next` returned, for a checkpoint."""
        return self._place
