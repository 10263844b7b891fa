"""What a week brings, one by one, through the real train.py: whatever happens, the run ends bitwise as if it had not.

Faults come at a step, not at a time: a config file is Python, and those here make `at(step)` be called after each step.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from processes import start, start_many, wait_for

from jaxdiff.data import digits
from jaxdiff.report import read_metrics
from jaxdiff.train import integrity

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import kill

pytestmark = pytest.mark.slow

STEPS = 32
CONFIG = """
import os, signal, sys, time
from pathlib import Path
from jaxdiff.cli import training
from jaxdiff.config import Config, Data, Diffusion, DiT, Log, Optim, Sample, Train
from jaxdiff.report import Report

config = Config(
    data=Data(name="digits.npy"),
    diffusion=Diffusion(kind="v"),
    model=DiT(width=16, depth=1, heads=2, patch=2, dropout=0.1),
    optim=Optim(learning_rate=1e-3, warmup=2),
    train=Train(steps=32, batch_size=16, ema_decay=0.9),
    sample=Sample(steps=2),
    log=Log(every=1, samples=0, samples_every=16, checkpoint_every=4, keep=3),
)
said = []

def say(message, before=training._say):
    said.append(message)
    before(message)

def metrics(self, step, values, before=Report.metrics):
    before(self, step, values)
    at(step)

def until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)

def first_time(name):
    new = not Path(name).exists()
    Path(name).touch()
    return new

def at(step):
    pass

training._say, Report.metrics = say, metrics
"""


def prepare(folder, then=""):
    """A config, with what shall happen, and its data beside it."""
    (folder / "config.py").write_text(CONFIG + then)
    np.save(folder / "digits.npy", digits().images[..., 0])
    return folder


def train(folder, *args, run="run", code=0, **options):
    """Run to the end, with that exit code; what it said."""
    process = start(folder, "--config", "config.py", "--run", str(run), *args, **options)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, (process.returncode, out[-1000:], err[-3000:])
    if code >= 0:  # of a process that is killed, a child may say how it met that
        assert "Traceback" not in err, err[-3000:]
    return out + err


def check_same(run, whole):
    assert kill.unsound(run) == []
    assert kill.differences(run, whole, STEPS) == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run to which nothing happens."""
    folder = prepare(tmp_path_factory.mktemp("whole"))
    train(folder)
    return folder / "run"


@pytest.fixture
def small_disk(tmp_path):
    """A disk of its own, of 16 MB."""
    sudo = [] if os.getuid() == 0 else ["sudo", "-n"]
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        made = subprocess.run([*sudo, "mount", "-t", "tmpfs", "-o", f"size=16m,uid={os.getuid()}", "tmpfs", str(disk)])
    except OSError:
        made = None
    if made is None or made.returncode:
        pytest.skip("mounting a tmpfs needs root, or sudo without a password")
    yield disk
    subprocess.run([*sudo, "umount", "-l", str(disk)], check=True)


def test_a_damaged_newest_checkpoint_is_put_aside_and_the_run_goes_on_from_the_one_before(tmp_path, whole):
    prepare(tmp_path)
    train(tmp_path, "--train.steps", "16")
    for fault in ("cut", "deleted"):
        run = shutil.copytree(tmp_path / "run", tmp_path / fault)
        path = max((f for f in (run / "checkpoints" / "16").rglob("*") if "/d/" in str(f)), key=os.path.getsize)
        if fault == "cut":
            os.truncate(path, path.stat().st_size // 2)
        else:
            path.unlink()
        said = train(tmp_path, run=fault)
        assert "the checkpoint of step 16 is damaged" in said
        assert path.name in said
        assert f"{fault}: from step 12 to {STEPS}" in said
        check_same(run, whole)


FULL = """
disk = Path("disk")

def fill():
    with open(disk / "filler", "wb", buffering=0) as file:
        for size in (2**20, 2**12, 2**8, 1):
            try:
                while True:
                    assert file.write(bytes(size)) == size
            except (AssertionError, OSError):
                pass
"""


def test_a_full_disk_loses_nothing_but_the_checkpoints_of_that_time(tmp_path, small_disk, whole):
    """Checkpoints 12 to 20, metrics, TensorBoard and the picture of step 16 find no room; later there is some."""
    prepare(
        tmp_path,
        FULL
        + """
def at(step):
    if step == 10:
        until(lambda: not list((disk / "run/checkpoints").glob("*tmp*")))  # the save of step 8
        fill()
    if step == 23:
        until(lambda: any("step 20 could NOT" in message for message in said))
        (disk / "filler").unlink()
""",
    )
    said = train(tmp_path, "--log.samples", "4", run="disk/run")
    for step in (12, 16, 20):
        assert f"the checkpoint of step {step} could NOT be saved" in said
    for step in (8, 24, 28, 32):
        assert f"the checkpoint of step {step} could" not in said
    assert "No space left" in said
    assert "the picture of step 16 could not be written" in said
    run = small_disk / "run"
    assert kill.unsound(run) == []
    # With every line of metrics.jsonl; all that differs is that the other was told to make no pictures.
    assert kill.differences(run, whole, STEPS) == ["run: ['description']['config']['log']['samples'] differs"]


def test_of_two_processes_too(tmp_path, small_disk):
    prepare(
        tmp_path,
        FULL
        + """
def at(step):
    if sys.argv[-1] != "0":
        return
    if step == 10:
        until(lambda: not list((disk / "run/checkpoints").glob("*tmp*")))
        fill()
    if step == 18:
        until(lambda: any("step 16 could NOT" in message for message in said))
        (disk / "filler").unlink()
""",
    )
    both = start_many(tmp_path, "--config", "config.py", "--run", "disk/run")
    for process in both:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err[-3000:]
        for step in (12, 16):
            assert f"the checkpoint of step {step} could NOT be saved" in err
        assert "Traceback" not in err
    run = small_disk / "run"
    assert kill.listed(run)[-3:] == [24, 28, 32]
    assert [wrong for step in (24, 28, 32) for wrong in integrity.damage(run / "checkpoints" / str(step))] == []
    assert [line["step"] for line in read_metrics(run / "metrics.jsonl")] == list(range(1, STEPS + 1))


def test_a_disk_that_stays_full_ends_in_one_message_and_the_last_checkpoint_is_good(tmp_path, small_disk, whole):
    prepare(
        tmp_path,
        FULL + "\ndef at(step):\n    if step == 10 and first_time('filled'):\n        time.sleep(2)\n        fill()\n",
    )
    said = train(tmp_path, run="disk/run", code=2)
    assert re.search(r"error: .*the checkpoint of step 32 could not be saved", said)
    assert kill.listed(small_disk / "run")[-1] == 8
    assert kill.unsound(small_disk / "run") == []
    (small_disk / "filler").unlink()
    assert "from step 8 to 32" in train(tmp_path, run="disk/run")
    check_same(small_disk / "run", whole)


def test_a_read_only_folder_is_one_message(tmp_path, small_disk, whole):
    prepare(tmp_path)
    shutil.copytree(whole, small_disk / "run")
    sudo = [] if os.getuid() == 0 else ["sudo", "-n"]
    subprocess.run([*sudo, "mount", "-o", "remount,ro", str(small_disk)], check=True)
    for run in ("disk/run", "disk/new"):  # to be resumed, and to be begun
        said = train(tmp_path, "--train.steps", "40", run=run, code=2)
        assert re.fullmatch(rf"error: run directory {run}: cannot be written, .*disk\S* is not .* writable\n", said), (
            said
        )


SLOW_SAVE = """
from jaxdiff.train.checkpoint import Checkpoints

def before_commit(self, before=Checkpoints._before_commit):
    assert list(self.folder.glob("*.orbax-checkpoint-tmp*"))
    if self._step == 12 and first_time("signalled"):
        for _ in range(SIGNALS):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.5)
    before(self)

Checkpoints._before_commit = before_commit
"""


def test_sigterm_amid_a_save_leaves_in_order(tmp_path, whole):
    prepare(tmp_path, SLOW_SAVE.replace("SIGNALS", "1"))
    said = train(tmp_path, "--log.checkpoint-every", "1")
    step = int(
        re.search(r"stopped and saved at step (\d+); the same command continues:\n +python train.py --config", said)[1]
    )
    assert 12 <= step < STEPS
    assert kill.listed(tmp_path / "run")[-1] == step
    assert kill.unsound(tmp_path / "run") == []
    assert f"from step {step} to" in train(tmp_path)
    check_same(tmp_path / "run", whole)


def test_nobody_who_reads_what_it_says_is_no_fault(tmp_path, whole):
    """As of `train.py 2>&1 | tee log`, whose tee dies first at Ctrl-C."""
    prepare(tmp_path)
    process = start(tmp_path, "--config", "config.py", "--run", "run", "--train.steps", "2000")
    wait_for(tmp_path / "run", 3, [process])
    process.stdout.close()
    process.stderr.close()
    done = len(read_metrics(tmp_path / "run" / "metrics.jsonl"))
    wait_for(tmp_path / "run", done + 20, [process])
    process.send_signal(signal.SIGINT)
    process.wait(timeout=120)
    assert kill.listed(tmp_path / "run")[-1] == read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["step"]
    assert kill.unsound(tmp_path / "run") == []


def test_a_second_signal_ends_at_once_and_the_run_can_go_on(tmp_path, whole):
    prepare(tmp_path, SLOW_SAVE.replace("SIGNALS", "2"))
    said = train(tmp_path, code=128 + signal.SIGTERM)
    assert "once more: at once" in said
    assert kill.listed(tmp_path / "run")[-1] == 8
    assert list((tmp_path / "run" / "checkpoints").glob("12.orbax-checkpoint-tmp*"))
    assert "from step 8 to" in train(tmp_path)
    check_same(tmp_path / "run", whole)


def alive(pids):
    """Which of the processes are there and no zombies."""
    found = subprocess.run(["ps", "-o", "pid=,stat=", "-p", ",".join(map(str, pids))], capture_output=True, text=True)
    return [line for line in found.stdout.splitlines() if "Z" not in line]


def test_workers_that_are_killed_are_replaced_and_none_outlives_the_training(tmp_path, whole):
    """A worker killed; then the training itself by -9; then Ctrl-C, which goes to all: each run goes on."""
    prepare(
        tmp_path,
        """
import multiprocessing

def at(step):
    workers = multiprocessing.active_children()
    with open("workers", "a") as file:
        file.writelines(f"{worker.pid}\\n" for worker in workers)
    if step == 6 and first_time("killed a worker"):
        assert len(workers) == 2
        workers[0].kill()
    if step == 14 and first_time("killed itself"):
        os.kill(os.getpid(), signal.SIGKILL)
    if step == 20:
        os.killpg(os.getpgid(0), signal.SIGINT)
""",
    )
    pids = lambda: sorted(set((tmp_path / "workers").read_text().split()))
    said = train(tmp_path, "--data.workers", "2", code=-signal.SIGKILL)
    assert "a process that reads data died; starting new ones" in said
    assert len(pids()) >= 3
    end = time.monotonic() + 10
    while alive(pids()) and time.monotonic() < end:
        time.sleep(0.1)
    assert alive(pids()) == []

    said = train(tmp_path, "--data.workers", "2", start_new_session=True)
    assert "stopped and saved at step 2" in said
    assert "KeyboardInterrupt" not in said
    assert "died" not in said
    assert "leaked" not in said
    assert alive(pids()) == []

    train(tmp_path)
    check_same(tmp_path / "run", whole)


def test_a_data_file_that_is_cut_is_named_and_the_same_command_goes_on_when_it_is_back(tmp_path, whole):
    """It is memory-mapped: to read on would be SIGBUS. One that is only deleted stays readable until the end."""
    prepare(
        tmp_path, "\ndef at(step):\n    if step == 6 and first_time('cut'):\n        os.truncate('digits.npy', 4096)\n"
    )
    data = (tmp_path / "digits.npy").read_bytes()
    said = train(tmp_path, code=2)
    step = int(re.search(r"saved at step (\d+)", said)[1])
    assert "digits.npy: has been cut to 4,096 of" in said
    assert "the same command continues:\n  python train.py --config config.py" in said
    assert 6 <= step < STEPS
    assert kill.listed(tmp_path / "run")[-1] == step
    (tmp_path / "digits.npy").write_bytes(data)
    (tmp_path / "config.py").write_text(
        CONFIG + "\ndef at(step):\n    if step == 20:\n        os.unlink('digits.npy')\n"
    )
    assert f"from step {step} to" in train(tmp_path)
    assert not (tmp_path / "digits.npy").exists()
    check_same(tmp_path / "run", whole)


NAN = """
import numpy as np
from jaxdiff.train.feed import Feed

class Spoilt:
    def __init__(self, batches):
        self.batches = batches
        self.get_state = batches.get_state

    def __next__(self):
        batch = next(self.batches)
        if self.get_state()["next_index"] in BAD:
            batch = batch | {"image": np.full(batch["image"].shape, np.nan, np.float32)}
        return batch

def init(self, batches, *args, before=Feed.__init__, **options):
    before(self, Spoilt(batches), *args, **options)

Feed.__init__ = init
"""


def test_a_batch_of_nan_is_skipped_and_counted(tmp_path):
    prepare(tmp_path, NAN.replace("BAD", "(6,)"))
    said = train(tmp_path, "--train.skip-limit", "1")
    assert "step 6: the loss, gradient or update is not finite" in said
    assert "(1 in a row; after 1 training stops)" in said
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines if line["skipped"]] == [6]
    assert lines[-1]["skipped_total"] == 1
    assert all(
        np.isfinite(leaf).all() for name, leaf in kill.everything(tmp_path / "run", STEPS).items() if "params" in name
    )


def test_more_nan_than_the_limit_end_training_and_the_last_checkpoint_is_good(tmp_path, whole):
    prepare(tmp_path, NAN.replace("BAD", "(14, 15)"))
    said = train(tmp_path, "--train.skip-limit", "1", code=2)
    assert "not finite at step 15, nor at the 1 before" in said
    assert "The checkpoint of step 12 is kept" in said
    assert kill.listed(tmp_path / "run")[-1] == 12
    prepare(tmp_path)
    assert "from step 12 to" in train(tmp_path)
    found, expected = (kill.everything(run, STEPS) for run in (tmp_path / "run", whole))
    assert [
        name for name in expected if found[name].tobytes() != expected[name].tobytes() and "skip_limit" not in name
    ] == []


def test_a_second_training_in_the_same_folder_is_refused_and_the_first_goes_on(tmp_path, whole):
    prepare(
        tmp_path,
        """
import subprocess

def at(step):
    if step == 18 and first_time("second"):
        done = subprocess.run([sys.executable, *sys.argv], capture_output=True, text=True)
        Path("said").write_text(f"{done.returncode} {os.getpid()} {done.stderr}")
""",
    )
    train(tmp_path)
    code, pid, said = (tmp_path / "said").read_text().split(maxsplit=2)
    assert code == "2"
    assert said.startswith(f"error: run directory run: another training is writing to it (process {pid} on "), said
    assert len(said.splitlines()) == 1
    check_same(tmp_path / "run", whole)


def test_clock_locale_time_zone_and_hash_seed_change_nothing(tmp_path, whole):
    """The clock of Python is 27 years late, and moves once a minute."""
    prepare(tmp_path, "\nreal = time.time\ntime.time = lambda: real() // 60 * 60 - 8.5e8\n")
    odd = {"PYTHONHASHSEED": "1234", "LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8", "TZ": "Pacific/Kiritimati"}
    train(tmp_path, environment=odd)
    check_same(tmp_path / "run", whole)
