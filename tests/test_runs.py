"""The real scripts as processes: killed and resumed bitwise, and the same pictures on 1, 2 and 4 devices."""

import random
import re
import signal
import sys
import time

import numpy as np
import pytest
import tiny
from processes import ROOT, finish, start

from jaxdiff.report import read_metrics

sys.path.append(str(ROOT / "benchmarks"))
import kill


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tiny.py").write_text(tiny.CONFIG)
    (tmp_path / "unet.py").write_text(tiny.U_NET)
    return tmp_path


PICTURES = ("--log.samples", "10", "--log.samples-every", "100", "--log.checkpoint-every", "8")


@pytest.mark.slow
def test_kill_9_at_random_moments_and_rerun_is_bitwise_the_uninterrupted_run(folder):
    """benchmarks/kill.py with fewer kills, all on one run; there is what is compared, and what 30 gave."""
    (folder / "kill.py").write_text(kill.CONFIG)
    command = ("--config", "kill.py", "--train.steps", "100")
    kill.finish(command, folder / "first")  # compiles
    lasts = kill.finish(command, folder / "whole")
    seed = str(random.randrange(10**6))
    killed, wrong = kill.trial(command, folder / "killed", folder / "whole", steps=100, lasts=lasts, kills=3, seed=seed)
    assert not wrong, (seed, killed, wrong)
    assert killed


def test_what_kill_py_compares_can_differ(folder):
    """Its verdict is not empty: another seed, a lost line and a step twice are found."""
    command = ("--config", "tiny.py", "--train.steps", "8", *PICTURES)
    for run, seed in (("a", 0), ("b", 0), ("c", 1)):
        kill.finish((*command, "--seed", str(seed)), folder / run)
    assert kill.differences(folder / "b", folder / "a", 8) == []
    found = " ".join(kill.differences(folder / "c", folder / "a", 8))
    assert all(f"['{name}']" in found for name in ("params", "ema", "opt_state", "key")), found
    assert "c: the logged metrics differ" in found
    lines = (folder / "b" / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "b" / "metrics.jsonl").write_text("".join([*lines, lines[-1]]))
    assert "metrics.jsonl has the steps" in kill.differences(folder / "b", folder / "a", 8)[0]
    assert kill.unsound(folder / "b") == []
    with open(folder / "b" / "checkpoints" / "8" / "data" / "metadata", "a") as file:  # it still restores
        file.write(" ")
    assert ["data/metadata has" in what for what in kill.unsound(folder / "b")] == [True]


@pytest.mark.slow
def test_one_two_and_four_devices_make_the_same_pictures(folder):
    """Which depend on the network, as on the labels. Of the same training: test_parallel.py."""
    finish(start(folder, "--config", "unet.py", "--run", "run", "--optim.learning-rate", "0.03"))

    def pictures(devices, *labels):
        sample = ("--run", "run", "--num", "10", "--batch", "8", "--sampler", "ddpm", "--out", "made.npz")
        finish(start(folder, *sample, *labels, script="sample.py", devices=devices))
        with np.load(folder / "made.npz") as file:
            return file["images"].astype(int)

    one = pictures(1)
    assert max(np.abs(one - pictures(devices)).max() for devices in (2, 4)) <= 1
    assert np.abs(one - pictures(1, "--labels", "7")).max(axis=(1, 2, 3)).min(where=np.arange(10) != 7, initial=255) > 5


@pytest.mark.slow
def test_a_checkpoint_of_one_device_resumes_on_two_and_bad_sizes_are_refused(folder):
    finish(start(folder, "--config", "tiny.py", "--run", "run"))
    finish(start(folder, "--config", "tiny.py", "--run", "run", "--train.steps", "8", devices=2))
    assert len(read_metrics(folder / "run" / "metrics.jsonl")) == 8

    process = start(folder, "--config", "tiny.py", "--train.batch-size", "10", devices=4)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "batch size 10 cannot be shared evenly by 4 devices; use 8 or 12" in err
    assert "Traceback" not in out + err


def test_the_scripts_themselves_fail_cleanly(folder):
    for script, args in (
        ("train.py", ["--config", "none.py"]),
        ("sample.py", ["--run", "none", "--num", "1", "--out", "x.png"]),
    ):
        process = start(folder, *args, script=script)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 2
        assert err.startswith("error: ")
        assert "Traceback" not in out + err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_signal_finishes_the_step_saves_and_the_same_command_goes_on(folder, number):
    command = (
        "--config",
        "tiny.py",
        "--run",
        "run",
        "--train.steps",
        "400",
        "--log.checkpoint-every",
        "400",
        "--log.samples-every",
        "400",
    )
    process = start(folder, *command)
    while process.poll() is None and len(read_metrics(folder / "run" / "metrics.jsonl")) < 5:
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err[-2000:]
    step = int(re.search(r"stopped and saved at step (\d+)", out)[1])
    assert 5 <= step < 400
    assert "Traceback" not in err
    assert len(read_metrics(folder / "run" / "metrics.jsonl")) == step

    shorter = [*command[:5], str(step + 4), *command[6:]]
    finish(start(folder, *shorter, "--resume", "must"))
    assert [m["step"] for m in read_metrics(folder / "run" / "metrics.jsonl")] == list(range(1, step + 5))
