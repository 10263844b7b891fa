"""When a process becomes one of many, and what is wrong with flags that say so; which part of the data it reads."""

import jax
import numpy as np
import pytest

from jaxdiff import InputError
from jaxdiff.cli import hosts, train_main
from jaxdiff.data import batches, digits

THREE = ["--coordinator", "10.0.0.1:1234", "--num-processes", "4", "--process-id", "3"]


@pytest.fixture
def joined(monkeypatch):
    """What jax.distributed.initialize was given: nothing here starts."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **options: calls.append(args))
    monkeypatch.setattr(hosts.importlib.util, "find_spec", lambda name: None)  # no libtpu
    before = jax.config.jax_enable_preemption_service
    yield calls
    jax.config.update("jax_enable_preemption_service", before)


@pytest.mark.parametrize(
    ("args", "environment", "expected"),
    [
        ([], {}, []),
        (["--config", "a.py"], {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"}, []),  # sbatch or salloc, but not by srun
        ([], {"SLURM_STEP_NUM_TASKS": "1"}, []),
        ([], {"SLURM_STEP_NUM_TASKS": "8"}, [(None, None, None)]),
        ([], {"OMPI_COMM_WORLD_SIZE": "2"}, [(None, None, None)]),
        ([], {"OMPI_COMM_WORLD_SIZE": "1"}, []),
        (THREE, {}, [("10.0.0.1:1234", 4, 3)]),
        (["--coordinator=h:1", "--num_processes=2", "--process_id=0"], {}, [("h:1", 2, 0)]),
        (
            [],
            {"JAX_COORDINATOR_ADDRESS": "h:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"},
            [("h:1", 2, 1)],
        ),
        (["--process-id", "1"], {"JAX_COORDINATOR_ADDRESS": "h:1", "JAX_NUM_PROCESSES": "2"}, [("h:1", 2, 1)]),
        (THREE, {"SLURM_STEP_NUM_TASKS": "8"}, [("10.0.0.1:1234", 4, 3)]),  # flags come first
        (["--coordinator", "h:1", "--num-processes", "1", "--process-id", "0"], {}, []),
    ],
)
def test_by_flags_by_the_environment_or_by_the_launcher(joined, args, environment, expected):
    hosts.join(args, environment)
    assert joined == expected


def test_on_a_tpu_jax_finds_the_others_itself(joined, monkeypatch):
    monkeypatch.setattr(hosts.importlib.util, "find_spec", lambda name: name == "libtpu")
    hosts.join([], {"JAX_PLATFORMS": "cpu"})
    assert joined == []
    hosts.join([], {})
    assert joined == [(None, None, None)]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (THREE[:2], "needs --num-processes (or JAX_NUM_PROCESSES), --process-id (or JAX_PROCESS_ID) too"),
        (THREE[2:], "needs --coordinator (or JAX_COORDINATOR_ADDRESS) too"),
        ([*THREE[:5], "4"], "process ids from 0 up to one less than their number"),
        ([*THREE[:5], "-1"], "process ids from 0 up to one less than their number"),
        ([*THREE[:5], "one"], "--process-id one: expected whole numbers"),
        (["--coordinator", "h", *THREE[2:]], "expected HOST:PORT"),
        (["--coordinator", "h:", *THREE[2:]], "expected HOST:PORT"),
        (["--coordinator", "h:port", *THREE[2:]], "expected HOST:PORT"),
        (["--coordinator", ":1234", *THREE[2:]], "expected HOST:PORT"),
        ([*THREE[:4], "--process-id"], "needs --process-id (or JAX_PROCESS_ID) too"),
    ],
)
def test_wrong_flags_are_one_message_and_exit_2(joined, capsys, args, message):
    with pytest.raises(SystemExit) as end:
        train_main(["--config", "none.py", *args])
    assert end.value.code == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert joined == []


@pytest.mark.parametrize("processes", [2, 4])
def test_the_shares_side_by_side_are_the_batches_of_one_process(processes):
    """In order, over an epoch's end, with flips; and they go on from a place that another number of processes saved."""
    options = {"batch_size": 64, "seed": 3, "flip": True}
    whole = batches(digits(), **options)
    shares = [batches(digits(), **options, share=(i, processes)) for i in range(processes)]
    for _ in range(30):  # 1,920 of 1,797
        expected, parts = next(whole), [next(share) for share in shares]
        for name, x in expected.items():
            assert all(len(part[name]) == 64 // processes for part in parts)
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), x)
    assert all(share.get_state() == whole.get_state() for share in shares)
    for share in shares:
        share.set_state(whole.get_state())
    expected = next(whole)["image"]
    np.testing.assert_array_equal(np.concatenate([next(share)["image"] for share in shares]), expected)


def test_a_batch_that_the_processes_do_not_divide_is_refused():
    with pytest.raises(InputError, match="divisible by the 4 processes, got 6"):
        batches(digits(), batch_size=6, seed=0, share=(0, 4))


def test_one_process_agrees_with_itself():
    hosts.agree({"anything": object()})
    assert hosts.as_first(True)
    assert not hosts.as_first(False)
    assert not hosts.many()
