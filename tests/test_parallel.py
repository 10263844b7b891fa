"""The same training on any devices, under pmap or spread over them, by one process or many, all by train.py itself."""

import json

import numpy as np
import pytest
from PIL import Image
from processes import final_state, finish, start_many, start_python

from jaxdiff.report import read_metrics

# Attention, dropout, hidden labels, and kernels of more than parallel.SMALL numbers, which fsdp spreads. Adam divides a
# gradient by its size: one that is zero but for rounding (of the keys' bias in attention) would move its parameter by the
# whole learning rate, to and fro. Hence eps, below which gradients count as small; the others go through Adam as ever.
NET = """
from jaxdiff.config import Config, Log, Optim, Sample, Train, UNet

config = Config(
    model=UNet(channels=16, multipliers=(1,), blocks=1, attention_resolutions=(8,), groups=4, dropout=0.1),
    optim=Optim(learning_rate=1e-3, warmup=2, eps=1e-4),
    train=Train(steps=20, batch_size=16, ema_decay=0.9),
    sample=Sample(steps=3, guidance=1.5),
    log=Log(every=1, samples=0, samples_every=20, checkpoint_every=20),
)
"""
PICTURES = ["--log.samples", "10"]
FSDP = ["--parallel", "fsdp"]


def trainings(*commands):
    """The code of a process that trains several times, as train.py does."""
    full = [["--config", "net.py", *command] for command in commands]
    return f"from jaxdiff.cli import train_main\nfor args in {full!r}: train_main(args)"


@pytest.fixture(scope="module")
def as_users_compile():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "0")
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory, as_users_compile):
    """Runs of 20 steps, in folders named as the devices."""
    folder = tmp_path_factory.mktemp("parallel")
    (folder / "net.py").write_text(NET)
    moved = ["--run", "moved"]
    first = [
        start_python(folder, trainings(["--run", "1", *PICTURES], ["--run", "accumulated", "--train.accumulate", "2"])),
        start_python(
            folder,
            trainings(
                ["--run", "fsdp8", *FSDP],
                ["--run", "fsdp2x4", *FSDP, "--shards", "4", *PICTURES],
                ["--run", "8", *PICTURES],
                [*moved, *FSDP, "--train.steps", "8"],
            ),
            devices=8,
        ),
    ]
    for process in first:
        finish(process)
    second = [
        start_python(folder, trainings(["--run", "4"]), devices=4),
        start_python(folder, trainings(["--run", "2"], [*moved, "--train.steps", "14"]), devices=2),
    ]
    for process in second:
        finish(process)
    for run, devices, flags in (("2x4", 4, PICTURES), ("fsdp, 2x4", 4, FSDP), ("moved", 2, [*FSDP, *PICTURES])):
        for process in start_many(folder, "--config", "net.py", "--run", run, *flags, devices=devices):
            finish(process)
    return folder


PICTURED = ["8", "fsdp2x4", "2x4", "moved"]
OTHERS = ["2", "4", "8", "fsdp8", "fsdp2x4", "accumulated", "2x4", "fsdp, 2x4", "moved"]


@pytest.mark.slow
@pytest.mark.parametrize("run", OTHERS)
def test_the_parameters_after_20_steps_are_those_of_one_device(folder, run):
    """`moved` was begun by fsdp on 8 devices, went on under pmap on 2, and ended as two processes by fsdp."""
    one, other = final_state(folder / "1"), final_state(folder / run)
    assert one.keys() == other.keys()
    assert {name.split("[")[0] for name in one} == {"params", "ema", "rest"}
    worst = {}
    for name, x in one.items():
        if x.dtype == np.float32:
            worst[name] = np.abs(other[name] - x).max()
        else:  # the key, the step's number
            np.testing.assert_array_equal(other[name], x, err_msg=name)
    name = max(worst, key=worst.get)
    print(f"{run}: {worst[name]:.1e} in {name}")
    assert worst[name] <= 1e-5, name
    losses = [[line["loss"] for line in read_metrics(folder / r / "metrics.jsonl")] for r in ("1", run)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


@pytest.mark.slow
def test_the_parameters_have_moved_by_far_more_than_the_tolerance(folder):
    one = final_state(folder / "1")
    far = [
        np.abs(x - one["ema" + name.removeprefix("params")]).max()
        for name, x in one.items()
        if name.startswith("params[")
    ]
    assert np.median(far) > 5e-4


@pytest.mark.slow
@pytest.mark.parametrize("run", PICTURED)
def test_the_pictures_are_those_of_one_device_to_a_grey_level(folder, run):
    one, other = (np.asarray(Image.open(folder / r / "samples" / "step_000020.png")).astype(int) for r in ("1", run))
    assert one.std() > 10
    assert np.abs(one - other).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("run", OTHERS)
def test_one_process_writes_the_logs(folder, run):
    run = folder / run
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 21))
    expected = {".lock", "checkpoints", "loss.png", "metrics.jsonl", "run.json", "tensorboard"}
    assert {path.name for path in run.iterdir()} == expected | ({"samples"} if run.name in PICTURED else set())
    parts = 3 if run.name == "moved" else 1
    assert len(list((run / "tensorboard").iterdir())) == parts
    others = [path for path in (run / "checkpoints").iterdir() if not path.name.isdigit()]
    assert [path.name for path in others] == [".deleted"]
    assert not list(others[0].iterdir())
