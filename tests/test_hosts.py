"""Runs of two processes, as on two hosts: they stop together, one's death ends the other with words, none hangs."""

import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
import tiny
from processes import final_state, finish, start_many, wait_for

from jaxdiff import runs
from jaxdiff.report import read_metrics
from jaxdiff.train.checkpoint import saved_steps

STEPS, SOON = 60, 60  # of the whole run; seconds in which a process must notice what happened to the other
TINY = ("--config", "tiny.py", "--log.checkpoint-every", "6")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tiny.py").write_text(tiny.CONFIG)
    return tmp_path


SNAPSHOTS = ("--train.ema-lengths", "0.05", "0.1", "--log.snapshot-every", "12")
BROKEN = """
from jaxdiff.data import ArraySource
from itertools import count

def gather(self, index, before=ArraySource.gather, reads=count()):
    if next(reads) == 30:
        raise OSError(5, "Input/output error")
    return before(self, index)

ArraySource.gather = gather
"""


def begin(folder, *args, **options):
    return start_many(folder, *TINY, *args, **options)


def ended(process, *, within):
    """Code and messages of a process that must end soon."""
    begun = time.monotonic()
    out, err = process.communicate(timeout=within + 30)
    assert time.monotonic() - begun <= within
    return process.returncode, out, err


@pytest.mark.slow
@pytest.mark.parametrize(("form", "deaths"), [("pmap", (1, 0)), ("fsdp", ())])
def test_stopped_and_killed_they_end_together_and_go_on_bitwise_as_uninterrupted(folder, form, deaths):
    """SIGTERM to one; then, each time resumed by the same command, SIGKILL to one of them."""
    flags = ("--train.steps", str(STEPS), "--parallel", form, *SNAPSHOTS)
    for process in begin(folder, *flags, "--run", "whole"):
        finish(process)

    run = folder / "cut"
    flags += ("--run", "cut")
    both = begin(folder, *flags)
    wait_for(run, 8, both)
    both[1].send_signal(signal.SIGTERM)
    out = finish(both[0])
    finish(both[1])
    stopped = int(re.search(r"stopped and saved at step (\d+)", out)[1])
    assert 8 <= stopped < STEPS - 30
    assert stopped == max(saved_steps(run / "checkpoints"))
    assert [line["step"] for line in read_metrics(run / "metrics.jsonl")] == list(range(1, stopped + 1))

    for dead in deaths:
        both = begin(folder, *flags, "--resume", "must")
        wait_for(run, read_metrics(run / "metrics.jsonl")[-1]["step"] + 7, both)  # behind one more checkpoint
        both[dead].send_signal(signal.SIGKILL)
        code, _, err = ended(both[1 - dead], within=SOON)
        assert code != 0
        assert "another process of this run has died" in err or "one of them has died" in err
        assert "The same command, in all processes, goes on from the last checkpoint" in err
        both[dead].communicate()
    for process in begin(folder, *flags, "--resume", "must"):
        finish(process)

    whole, cut = final_state(folder / "whole"), final_state(run)
    assert whole.keys() == cut.keys()
    for name, x in whole.items():
        np.testing.assert_array_equal(cut[name], x, err_msg=name)
    losses = [[(m["step"], m["loss"]) for m in read_metrics(folder / r / "metrics.jsonl")] for r in ("whole", "cut")]
    assert losses[0] == losses[1]
    assert [step for step, _ in losses[0]] == list(range(1, STEPS + 1))

    made = []
    for name in ("whole", "cut"):
        config, spec = runs.load_run(folder / name)
        made.append(runs.reconstruct(folder / name, config, spec, length=0.07))
        assert saved_steps(folder / name / "snapshots") == list(range(12, STEPS + 1, 12))
    assert made[0][0] == made[1][0] == STEPS
    jax.tree.map(np.testing.assert_array_equal, made[0][1], made[1][1])


@pytest.mark.slow
def test_data_that_one_cannot_read_end_both_and_the_last_checkpoint_goes_on(folder):
    """On the way: not found by what is checked before."""
    (folder / "broken.py").write_text(tiny.CONFIG + BROKEN)
    flags = ("--run", "run", "--train.steps", str(STEPS))
    other, wrong = begin(folder, *flags, own=((), ("--config", "broken.py")))
    code, _, err = ended(wrong, within=300)
    assert code == 2
    assert re.search(r"error: the data of step \d+ could not be read: .*Input/output error", err)
    assert "Traceback" not in err
    code, _, err = ended(other, within=SOON)
    assert code != 0
    assert "another process of this run has died" in err or "one of them has died" in err
    kept = max(saved_steps(folder / "run" / "checkpoints"))
    assert kept >= 6
    both = begin(folder, *flags)
    assert f"run: from step {kept} to {STEPS}" in finish(both[0])
    finish(both[1])


@pytest.mark.slow
def test_what_is_wrong_with_one_is_said_by_it_and_the_other_does_not_hang(folder):
    """Three runs at once, for the others only wait."""
    wrongs = {
        "gone.py": ("--config", "gone.py"),
        "batch size 7 cannot be shared evenly by 2 devices": ("--train.batch-size", "7"),
        "no-such-flag": ("--no-such-flag",),
    }
    runs = [begin(folder, "--run", f"run {i}", own=((), own)) for i, own in enumerate(wrongs.values())]
    with ThreadPoolExecutor(len(runs)) as pool:  # each pair has its own clock
        ends = list(pool.map(lambda both: (ended(both[1], within=300), ended(both[0], within=SOON)), runs))
    for message, (wrong, other) in zip(wrongs, ends):
        code, out, err = wrong
        assert code == 2
        assert message in err
        assert "Traceback" not in out + err
        code, _, err = other
        assert code != 0
        assert "error: " in err
        assert "another process of this run has died" in err or "one of them has died" in err
    assert not list(folder.glob("run *"))


@pytest.mark.slow
def test_processes_that_were_not_started_alike_say_so_and_end(folder):
    cases = {
        ("not started alike:\n  config.optim: ", "0.125"): ((), ("--optim.learning-rate", "0.125")),
        ("not started alike:\n  run.json in --run: ", "missing"): (("--run", "a"), ("--run", "b")),
    }
    runs = [begin(folder, own=own) for own in cases.values()]
    for messages, both in zip(cases, runs):
        said = ""
        for code, _, err in [ended(process, within=200) for process in both]:
            assert code == 2
            assert messages[0] in err
            assert "Traceback" not in err
            said += err
        assert messages[1] in said


@pytest.mark.slow
def test_a_folder_of_a_run_that_one_does_not_see_is_not_continued(folder):
    for process in begin(folder, "--run", "run"):
        finish(process)
    both = begin(folder, "--train.steps", "12", own=(("--run", "run"), ("--run", "elsewhere")))
    for process in both:
        code, _, err = ended(process, within=200)
        assert code == 2
        assert "not started alike:\n  the last checkpoint in --run: " in err
        assert "Traceback" not in err
    assert max(saved_steps(folder / "run" / "checkpoints")) == 6
    finished = begin(folder, "--run", "run")  # nothing is left to do, and none waits for the other
    assert "run: finished, 6 of 6 steps are done" in finish(finished[0])
    finish(finished[1])


@pytest.mark.slow
@pytest.mark.parametrize("form", ["pmap", "fsdp"])
def test_a_dry_run_is_said_once_and_leaves_nothing(folder, form):
    first, other = begin(folder, "--run", "run", "--dry-run", "--parallel", form, devices=2)
    said = finish(first)
    assert "4 x cpu of 2 processes, batch 4 each" in said
    assert "state per device" in said
    assert "state per device" not in finish(other)
    assert not (folder / "run").exists()
