"""Reading in worker processes: for images whose decoding takes longer than sending them to another process."""

import logging
import os
import pickle
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.synchronize import Semaphore

import numpy as np

from jaxdiff.data.sources import Examples, Source
from jaxdiff.typing import InputError

ATTEMPTS = 3  # at a batch, before a source that kills its workers is given up


class InProcesses:
    """A source read by worker processes; a worker that dies (killed, out of memory) is replaced, its batch read again.

    Which worker reads what changes nothing in what is read. Use it as a context: the workers end with it. They end
    with this process too, however that ends; Ctrl-C, which a terminal sends to them as well, is left to it.

    Args:
      source: can be pickled: each worker gets one.
      workers: how many; call `gather` from as many threads.

    Raises:
      InputError: a source that cannot be pickled; (when read) workers that die again and again.
    """

    def __init__(self, source: Source, workers: int):
        self._source, self._workers = source, workers
        self.image_shape, self.num_classes = source.image_shape, source.num_classes
        self._lock = threading.Lock()
        self._closed = False
        resource_tracker.ensure_running()  # by itself: it would unblock the signals that are blocked for the workers
        try:
            self._pool = self._new_pool()
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            raise InputError(
                f"these data cannot be read by other processes ({error}); use --data.workers 0 to read them in this one"
            ) from error

    def __enter__(self) -> "InProcesses":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._source)

    def gather(self, index: np.ndarray) -> Examples:
        """The examples, read by one of the workers."""
        for _ in range(ATTEMPTS):
            pool = self._pool
            try:
                return pool.submit(_gather, index).result()
            except BrokenProcessPool:
                self._replace(pool)
        raise InputError(
            f"the worker processes that read the data died {ATTEMPTS} times in a row: out of memory, or killed. "
            "Use fewer (--data.workers), or 0 to read in this process"
        )

    def _new_pool(self) -> ProcessPoolExecutor:
        context = get_context("spawn")  # not forked: JAX has threads, which a forked process lacks and may wait for
        started = context.Semaphore(0)  # no Event: who sets one waits for a worker that was killed while it waited
        pool = ProcessPoolExecutor(self._workers, context, initializer=_begin, initargs=(self._source, started))
        # A task starts a worker if none is idle, and none is before all are started. What is blocked here is blocked in
        # the workers from their beginning.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for _ in range(self._workers):
                pool.submit(_nothing)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            for _ in range(self._workers):
                started.release()
        return pool

    def _replace(self, broken: ProcessPoolExecutor) -> None:
        with self._lock:
            if self._pool is broken and not self._closed:  # nor replaced already by another thread
                logging.getLogger("jaxdiff.data").warning("a process that reads data died; starting new ones")
                broken.shutdown(wait=False, cancel_futures=True)
                self._pool = self._new_pool()

    def close(self) -> None:
        """End the workers."""
        with self._lock:
            self._closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)


_of_this_process: Source  # in a worker, what it reads: sent once, not with every batch


def _begin(source: Source, started: Semaphore) -> None:
    global _of_this_process
    _of_this_process = source
    end_with_parent()
    started.acquire()


def end_with_parent() -> None:
    """In a worker: end when the parent does. One that was killed closes no queue, its workers would wait for ever."""

    def wait() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _nothing() -> None: ...


def _gather(index: np.ndarray) -> Examples:
    return _of_this_process.gather(index)
