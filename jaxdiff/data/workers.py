"""Reading in worker processes: for images whose decoding takes longer than sending them to another process."""

import logging
import threading
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

import numpy as np

from jaxdiff.data.sources import Examples, Source
from jaxdiff.typing import InputError

ATTEMPTS = 3  # at a batch, before a source that kills its workers is given up


class InProcesses:
    """A source read by worker processes; a worker that dies (killed, out of memory) is replaced, its batch read again.

    Which worker reads what changes nothing in what is read.

    Args:
      source: can be pickled: each worker gets one.
      workers: how many; call `gather` from as many threads.

    Raises:
      InputError: (when read) workers that die again and again.
    """

    def __init__(self, source: Source, workers: int):
        self._source, self._workers = source, workers
        self.image_shape, self.num_classes = source.image_shape, source.num_classes
        self._lock = threading.Lock()
        self._pool = self._new_pool()

    def __len__(self) -> int:
        return len(self._source)

    def gather(self, index: np.ndarray) -> Examples:
        """The examples, read by one of the workers."""
        for _ in range(ATTEMPTS):
            pool, task = self._submit(index)
            try:
                return task.result()
            except BrokenProcessPool:
                self._replace(pool)
        raise InputError(
            f"the worker processes that read the data died {ATTEMPTS} times in a row: out of memory, or killed. "
            "Use fewer (--data.workers), or 0 to read in this process"
        )

    def _new_pool(self) -> ProcessPoolExecutor:
        # Not forked: JAX has threads, which a forked process lacks and may wait for. Everything is started now, by the
        # main thread's program as it is.
        return ProcessPoolExecutor(self._workers, get_context("spawn"), initializer=_begin, initargs=(self._source,))

    def _submit(self, index: np.ndarray) -> tuple[ProcessPoolExecutor, "Future[Examples]"]:
        with self._lock:
            try:
                return self._pool, self._pool.submit(_gather, index)
            except BrokenProcessPool:
                self._pool = self._new_pool()
                return self._pool, self._pool.submit(_gather, index)

    def _replace(self, broken: ProcessPoolExecutor) -> None:
        with self._lock:
            if self._pool is broken:  # and not replaced already by another thread
                logging.getLogger("jaxdiff.data").warning("a process that reads data died; starting new ones")
                broken.shutdown(wait=False, cancel_futures=True)
                self._pool = self._new_pool()

    def close(self) -> None:
        """End the workers."""
        self._pool.shutdown(wait=True, cancel_futures=True)


_of_this_process: Source  # in a worker, what it reads: sent once, not with every batch


def _begin(source: Source) -> None:
    global _of_this_process
    _of_this_process = source


def _gather(index: np.ndarray) -> Examples:
    return _of_this_process.gather(index)
