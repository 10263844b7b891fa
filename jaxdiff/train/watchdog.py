"""Says when training has stalled: a host that waits for a disk, a network or another host says nothing by itself."""

import statistics
import threading
import time
from collections import deque
from collections.abc import Callable

FACTOR, WINDOW, LEAST = 10, 100, 5.0  # times the median of the last steps; steps; seconds: no step is late before


class Watchdog:
    """Calls `say` once when a step takes `FACTOR` times the median step, and again when it ends. Use it as a context.

    Args:
      say: gets the message.
      least: seconds; a step that takes less is never late.

    >>> said = []
    >>> with Watchdog(said.append, least=0.05) as dog:
    ...     for pause in (0.001, 0.001, 0.2):
    ...         dog.watch("the step"); time.sleep(pause); dog.beat()
    >>> len(said), said[0].startswith("the step has taken")
    (2, True)
    """

    def __init__(self, say: Callable[[str], None], *, least: float = LEAST):
        self._say, self._least = say, least
        self._took: deque[float] = deque(maxlen=WINDOW)
        self._changed = threading.Condition()
        self._since: float | None = None  # None: nothing is watched
        self._what, self._late, self._closed = "", False, False
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def watch(self, what: str) -> None:
        """From now on it is `what` that must not take too long. A step that was watched goes on."""
        with self._changed:
            self._what = what
            if self._since is None:
                self._since = time.monotonic()
                self._changed.notify()

    def beat(self) -> None:
        """The step is done."""
        with self._changed:
            if self._since is None:
                return
            took = time.monotonic() - self._since
            if self._late:
                self._say(f"it went on after {took:,.0f} s")
            self._took.append(took)
            self._since, self._late = None, False

    def rest(self) -> None:
        """What comes now (compiling, a checkpoint, pictures) is no step: it may take long, and does not count."""
        with self._changed:
            self._since, self._late = None, False

    def _run(self) -> None:
        with self._changed:
            while not self._closed:
                if self._since is None or self._late or not self._took:
                    self._changed.wait()
                    continue
                median = statistics.median(self._took)
                left = self._since + max(FACTOR * median, self._least) - time.monotonic()
                if left > 0:
                    self._changed.wait(left)
                    continue
                self._late = True
                self._say(
                    f"{self._what} has taken {time.monotonic() - self._since:,.0f} s so far, "
                    f"{FACTOR} times the median step ({median:.3g} s) or more"
                )
