"""A source whose unreadable images are left out."""

import logging
import threading
from typing import Any

import numpy as np

from jaxdiff.data.fit import UnreadableError
from jaxdiff.data.sources import Examples, Source, Wrapped
from jaxdiff.typing import InputError

logger = logging.getLogger("jaxdiff.data")


class Skipping(Wrapped):
    """In place of an image that cannot be read stands the next one that can: a function of its number alone.

    Each is named once, through `logging.getLogger("jaxdiff.data")`; `skipped` has those met so far, by number.

    >>> from jaxdiff.data import digits
    >>> source = Skipping(digits())
    >>> len(source), source.skipped
    (1797, {})
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.skipped: dict[int, UnreadableError] = {}
        self._lock = threading.Lock()

    def gather(self, index: np.ndarray) -> Examples:
        try:
            return self.source.gather(index)
        except UnreadableError:
            examples = [self._one(int(i)) for i in index]
        return {name: np.concatenate([e[name] for e in examples]) for name in examples[0]}

    def _one(self, number: int) -> Examples:
        for place in range(number, number + len(self)):
            i = place % len(self)
            if i in self.skipped:
                continue
            try:
                return self.source.gather(np.array([i]))
            except UnreadableError as error:
                self._skip(i, error)
        raise InputError(f"none of the {len(self)} images can be read. The first: {self.skipped[0]}")

    def _skip(self, number: int, error: UnreadableError) -> None:
        with self._lock:  # several threads read
            if number not in self.skipped:
                self.skipped[number] = error
                logger.warning(
                    "%s: left out, the next image takes its place (%s); %d left out so far",
                    error.name, error.reason, len(self.skipped),
                )  # fmt: skip

    def __getstate__(self) -> dict[str, Any]:
        return {"source": self.source, "skipped": dict(self.skipped)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())
