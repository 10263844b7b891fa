"""Reading in worker processes: the same batches, whatever happens to the workers."""

import os
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor, wait

import numpy as np
import pytest

from jaxdiff import InputError
from jaxdiff.data import ArraySource, batches, digits
from jaxdiff.data import workers as data_workers
from jaxdiff.data.workers import InProcesses


class Deadly:
    """Ends whoever reads it."""

    image_shape, num_classes = (8, 8, 1), None

    def __len__(self):
        return 100

    def gather(self, index):
        os._exit(1)


@pytest.mark.slow
def test_batches_are_the_same_and_stay_so_when_a_worker_is_killed(caplog):
    options = dict(batch_size=64, seed=3, flip=True)
    expected = batches(digits(), **options)
    with InProcesses(digits(), 2) as source:
        found = batches(source, threads=4, **options)
        for step in range(30):
            if step in (10, 20):  # and all others with it, in the middle of what they read
                while not source._pool._processes:  # those killed before are just being replaced
                    time.sleep(0.01)
                os.kill(next(iter(source._pool._processes)), signal.SIGKILL)
            a, b = next(expected), next(found)
            np.testing.assert_array_equal(a["image"], b["image"])
            np.testing.assert_array_equal(a["label"], b["label"])
            assert expected.get_state() == found.get_state()
        workers = list(source._pool._processes.values())
        assert len(workers) == 2
    assert "a process that reads data died; starting new ones" in caplog.text
    assert not any(worker.is_alive() for worker in workers)


@pytest.mark.slow
def test_workers_leave_ctrl_c_to_their_parent_and_are_there_before_the_first_batch():
    with InProcesses(digits(), 2) as source:
        workers = source._pool._processes
        assert len(workers) == 2
        first = source.gather(np.arange(3))
        for pid in workers:
            os.kill(pid, signal.SIGINT)
        time.sleep(0.2)
        np.testing.assert_array_equal(source.gather(np.arange(3))["image"], first["image"])
        assert all(worker.is_alive() for worker in workers.values())
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])  # here it is not blocked


class Hesitant(ProcessPoolExecutor):
    """One whose tasks are done, if they can be, before the next is given: as on a machine with much else to do."""

    def submit(self, *args, **options):
        future = super().submit(*args, **options)
        wait([future], timeout=4)
        return future


@pytest.mark.slow
def test_all_workers_are_there_however_slowly_they_are_started(monkeypatch):
    monkeypatch.setattr(data_workers, "ProcessPoolExecutor", Hesitant)
    with InProcesses(digits(), 2) as source:
        assert len(source._pool._processes) == 2
        assert source.gather(np.arange(3))["image"].shape == (3, 8, 8, 1)


@pytest.mark.slow
def test_workers_that_always_die_end_in_one_message():
    with InProcesses(Deadly(), 1) as source, pytest.raises(InputError, match=r"died 3 times in a row.*--data.workers"):
        source.gather(np.arange(2))


@pytest.mark.slow
def test_what_a_source_raises_comes_back():
    with InProcesses(digits(), 1) as source, pytest.raises(IndexError):
        source.gather(np.array([10**6]))


def test_data_that_cannot_be_sent_are_refused():
    source = ArraySource(np.zeros((2, 4, 4), np.uint8))
    object.__setattr__(source, "lock", threading.Lock())
    with pytest.raises(InputError, match="cannot pickle.*use --data.workers 0"):
        InProcesses(source, 1)
