"""`jaxdiff ema` and --weights of sample.py, on runs of train.py: any length afterwards is the one trained with."""

import json
import os
import shlex
import shutil

import jax
import numpy as np
import pytest
import tiny
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from test_cli_train import fails

from jaxdiff import runs
from jaxdiff.cli import main, sample_main, train_main
from jaxdiff.train import ema
from jaxdiff.train.snapshots import Snapshots
from jaxdiff.weights import named, read_metadata

pytestmark = pytest.mark.usefixtures("standard_promotion")
COMMAND = "--config tiny.py --train.steps 40 --log.checkpoint-every 20"
LENGTHS = "--train.ema-lengths 0.05 0.1 --log.snapshot-every 4"


def train(args):
    train_main(shlex.split(args))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run with snapshots, and one of the same trajectory that averages over other lengths itself."""
    path = tmp_path_factory.mktemp("ema")
    (path / "tiny.py").write_text(tiny.CONFIG)
    before = os.getcwd()
    os.chdir(path)
    try:
        with jax.numpy_dtype_promotion("standard"):
            train(f"{COMMAND} {LENGTHS} --run run")
            train(f"{COMMAND} --train.ema-lengths 0.08 0.15 --log.keep 9 --run direct")
    finally:
        os.chdir(before)
    return path


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def weights(run, item, step=None):
    config, spec = runs.load_run(run)
    _, params = runs.load_weights(run, config, spec, item=item, step=step)
    return {name: np.asarray(leaf) for name, leaf in named(params).items()}


def distance(a, b):
    return np.sqrt(sum(np.sum((a[name] - b[name]).astype(np.float64) ** 2) for name in a))


@pytest.mark.parametrize(("length", "step", "within"), [(0.08, 40, 0.01), (0.08, 20, 0.03), (0.15, 40, 0.03)])
def test_a_length_made_afterwards_is_the_one_trained_with(here, length, step, within):
    """The error is a share of what lies between that average and the nearest stored one."""
    main(shlex.split(f"ema --run run --length {length} --step {step} --out w.safetensors"))
    made, direct = load_file("w.safetensors"), weights(here / "direct", f"ema_{length}", step)
    assert made.keys() == direct.keys()
    assert {array.dtype for array in made.values()} == {np.dtype(np.float32)}
    others = [weights(here / "run", f"ema_{other}", step) for other in (0.05, 0.1)]
    error, between = distance(made, direct), min(distance(other, direct) for other in others)
    assert error < within * distance(direct, weights(here / "run", "params", step))
    assert error < between / 5


def test_a_stored_length_is_the_checkpoints(here, capsys):
    main(shlex.split("ema --run run --length 0.05 --out w.safetensors"))
    assert "the average of the length 0.05 at step 40" in capsys.readouterr().out
    expected = weights(here / "run", "ema_0.05")
    for name, array in load_file("w.safetensors").items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-6, atol=1e-12)


def test_the_other_average_is_the_same_with_and_without_more_of_them(here):
    a, b = weights(here / "run", "ema"), weights(here / "direct", "ema")
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def test_the_file_says_what_it_is_and_sample_takes_it(here, tmp_path):
    main(shlex.split(f"ema --run run --length 0.05 --out {tmp_path}/w.safetensors"))
    said = read_metadata(tmp_path / "w.safetensors")
    assert (said["step"], said["weights"], said["image_shape"], said["num_classes"]) == (40, "ema_0.05", [8, 8, 1], 10)
    assert said["config"] == json.loads((here / "run" / "run.json").read_text())["config"]
    pictures = []
    for chosen in (f"{tmp_path}/w.safetensors", "ema_0.05", "ema", "params"):
        sample_main(shlex.split(f"--run run --num 4 --weights {chosen} --out {tmp_path}/x.npz"))
        with np.load(tmp_path / "x.npz") as file:
            pictures.append(file["images"].astype(int))
    assert np.abs(pictures[0] - pictures[1]).max() <= 1
    assert all((pictures[1] != other).any() for other in pictures[2:])


def test_a_run_that_was_cut_short_comes_to_the_same_snapshots(here, tmp_path):
    """As if killed after step 28, of which the last checkpoint is 20; but 28 is of another trajectory: it is made anew,
    as is 24, which was right."""
    run = tmp_path / "run"
    shutil.copytree(here / "run", run)
    shutil.rmtree(run / "checkpoints" / "40")
    for step in (28, 32, 36, 40):
        shutil.rmtree(run / "snapshots" / str(step))
    shutil.copytree(run / "snapshots" / "8", run / "snapshots" / "28")
    train(f"{COMMAND} {LENGTHS} --run {run} --resume must")
    with Snapshots(run / "snapshots", read_only=True) as snapshots:
        assert snapshots.steps() == list(range(4, 41, 4))
    config, spec = runs.load_run(run)
    for step in (24, 28, 40):
        for length in (0.05, 0.08):
            _, a, _ = runs.reconstruct(run, config, spec, length=length, step=step)
            _, b, _ = runs.reconstruct(here / "run", config, spec, length=length, step=step)
            jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("when", ["at once", "later"])
def test_a_snapshot_that_cannot_be_saved_is_said_and_training_goes_on(here, tmp_path, monkeypatch, capsys, when):
    """It alone: the next one is saved, and nothing is left of it."""

    name = "save" if when == "at once" else "_before_commit"
    before = getattr(Snapshots, name)

    def fails_once(self, *args):
        if (args[1] if args else self._step) == 8:
            raise OSError(28, "No space left on device")
        before(self, *args)

    monkeypatch.setattr(Snapshots, name, fails_once)
    train(f"--config tiny.py {LENGTHS} --run {tmp_path}/run --train.steps 16")
    assert "warning: a snapshot was not saved: OSError: [Errno 28]" in capsys.readouterr().err
    assert weights(tmp_path / "run", "ema_0.1")
    found = {path.name for path in (tmp_path / "run" / "snapshots").iterdir()}
    assert found == {"4", "12", "16"}


def test_lengths_without_snapshots_are_said_to_be_all_there_will_be(here, tmp_path, capsys):
    train(f"--config tiny.py --train.ema-lengths 0.1 --run {tmp_path}/run")
    assert "no average of another length can be made afterwards" in capsys.readouterr().err
    assert not (tmp_path / "run" / "snapshots").exists()
    message = fails(capsys, main, f"ema --run {tmp_path}/run --length 0.1 --out w.safetensors")
    assert "no snapshots in this run" in message
    assert "--log.snapshot-every" in message


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ("--length 0.3 --out x.safetensors", ["length 0.3", "0 < length < 0.2887"]),
        ("--length 0.1 --step 41 --out x.safetensors", ["step 41 has no snapshot", "up to 40"]),
        ("--length 0.1 --step 22 --out x.safetensors", ["step 22 has no snapshot", "20 and 24"]),
        ("--length 0.1 --out x.npz", ["x.npz", "ends in .safetensors"]),
        ("--length 0.1 --out tiny.py/x.safetensors", ["tiny.py/x.safetensors", "cannot be written"]),
        ("--length 0.1", ["--out"]),
    ],
)
def test_errors(here, capsys, args, words):
    message = fails(capsys, main, f"ema --run run {args}")
    for word in words:
        assert word in message, message
    assert not (here / "x.safetensors").exists()


@pytest.mark.parametrize("fault", ["cut", "a byte changed"])
def test_a_damaged_snapshot_is_named(here, tmp_path, capsys, fault):
    shutil.copytree(here / "run", tmp_path / "run")
    files = [path for path in (tmp_path / "run" / "snapshots" / "24" / "ema_0.05").rglob("*") if path.is_file()]
    if fault == "cut":
        for file in files:
            file.write_bytes(file.read_bytes()[:10])
    else:
        content = bytearray(max(files, key=lambda path: path.stat().st_size).read_bytes())
        content[len(content) // 2] ^= 1
        max(files, key=lambda path: path.stat().st_size).write_bytes(content)
    message = fails(capsys, main, f"ema --run {tmp_path}/run --length 0.08 --out {tmp_path}/w.safetensors")
    assert "snapshots/24: ema_0.05 of this snapshot cannot be read" in message
    shutil.rmtree(tmp_path / "run" / "snapshots" / "24")  # what the message proposes
    main(shlex.split(f"ema --run {tmp_path}/run --length 0.08 --out {tmp_path}/w.safetensors"))


def test_what_snapshots_do_not_express_is_warned_of(here, capsys):
    main(shlex.split("ema --run run --length 0.08 --out w.safetensors"))
    assert "warning" not in capsys.readouterr().err
    main(shlex.split("ema --run run --length 0.02 --out w.safetensors"))
    assert "warning: these snapshots give an average of the length 0.02 at step 40 only to" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "word"),
    [
        ("--train.ema-lengths 0.1 0.4", "train.ema_lengths (0.1, 0.4): expected different lengths with 0 < length <"),
        ("--train.ema-lengths 0.1 0.1", "train.ema_lengths (0.1, 0.1): expected different lengths"),
        ("--log.snapshot-every 4", "log.snapshot_every 4: expected at least 1, with --train.ema-lengths"),
        ("--train.ema-lengths 0.1 --log.snapshot-every 4 --train.steps-per-call 3", "must divide"),
    ],
)
def test_settings_that_no_run_can_have(here, capsys, args, word):
    assert word in fails(capsys, train_main, f"--config tiny.py --run no {args}")


def test_weights_of_sample(here, tmp_path, capsys):
    arrays = load_file(_made(tmp_path / "w.safetensors"))
    with safe_open(tmp_path / "w.safetensors", "numpy") as file:
        metadata = file.metadata()
    first = next(iter(arrays))
    save_file({n: a for n, a in arrays.items() if n != first}, tmp_path / "missing.safetensors")
    save_file(arrays | {"more": np.zeros(1)}, tmp_path / "extra.safetensors")
    save_file(arrays | {first: np.zeros((9, 9))}, tmp_path / "shape.safetensors")
    config = json.loads(metadata["config"])
    config["diffusion"]["kind"] = "eps"
    save_file(arrays, tmp_path / "kind.safetensors", metadata | {"config": json.dumps(config)})
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:-9])
    for name, words in {
        "ema_0.2": ["no weights ema_0.2 in this run; there are ema, ema_0.05, ema_0.1, params"],
        "none.safetensors": ["none.safetensors: no such file"],
        "missing.safetensors": [f"weights of another network: it has no {first}"],
        "extra.safetensors": ["weights of another network: it has also more"],
        "shape.safetensors": [f"{first} is (9, 9) there"],
        "kind.safetensors": ["weights of another run, with diffusion.kind 'eps', not 'v'"],
        "cut.safetensors": ["not readable"],
        "w.safetensors --step 40": ["--step chooses a checkpoint"],
    }.items():
        chosen = f"{tmp_path}/{name}" if "safetensors" in name else name
        message = fails(capsys, sample_main, f"--run run --num 1 --weights {chosen} --out {tmp_path}/x.png")
        for word in words:
            assert word in message, message
    sample_main(shlex.split(f"--run run --num 1 --weights {tmp_path}/w.safetensors --out {tmp_path}/x.png"))


def _made(path):
    main(shlex.split(f"ema --run run --length 0.1 --out {path}"))
    return path


def test_names_are_those_of_the_config(here):
    assert [ema.name_of(length) for length in runs.load_run(here / "run")[0].train.ema_lengths] == [
        "ema_0.05",
        "ema_0.1",
    ]
