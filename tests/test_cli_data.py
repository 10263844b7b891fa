"""`jaxdiff data`: a folder prepared and looked at, with what is said on the way, errors included."""

import dataclasses
import re
import shlex

import numpy as np
import pytest
from PIL import Image

from jaxdiff import build
from jaxdiff.cli import main
from jaxdiff.cli.data import Images, histogram, statistics
from jaxdiff.config import Config, Data, check, from_dict, to_dict
from jaxdiff.data import batches, digits
from jaxdiff.data.images import grid
from jaxdiff.typing import InputError

rng = np.random.default_rng(0)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with 12 real digits as pictures of 16x20, in directories by class."""
    monkeypatch.chdir(tmp_path)
    for i in range(12):
        folder = tmp_path / "pictures" / f"digit_{digits().labels[i]}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits().images[i, ..., 0]).resize((16, 20)).save(folder / f"{i}.png")
    return tmp_path


def run(capsys, command):
    main(shlex.split(command))
    return capsys.readouterr().out


def fails(capsys, command):
    """Run a command that must fail cleanly; return its message."""
    with pytest.raises(SystemExit) as exit_info:
        main(shlex.split(command))
    assert exit_info.value.code == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return re.sub(r"[\s│]+", " ", message)


def test_a_folder_is_prepared_and_trained_on_as_it_was(here, capsys):
    out = run(capsys, "data prepare --data pictures --out records --size 8 --shard-images 5 --workers 1")
    assert "pictures: 12 images, 8x8x1, 10 classes (digit_0, digit_1, digit_2, digit_3, ...)" in out
    assert "records: 12 images in 3 shards" in out
    name = re.search(r"--data\.name (\S+)", out)[1]
    before, after = (build.source(Data(name=n, size=8)) for n in ("pictures", name))
    a, b = (next(batches(source, batch_size=12, seed=0)) for source in (before, after))
    np.testing.assert_array_equal(a["image"], b["image"])
    np.testing.assert_array_equal(a["label"], b["label"])
    assert "12 images in 3 shards" in run(
        capsys, "data prepare --data pictures --out records --size 8 --shard-images 5 --workers 1"
    )
    assert "shard_images: 5 there, 6 now" in fails(
        capsys, "data prepare --data pictures --out records --size 8 --shard-images 6"
    )


def test_show_draws_the_batch_that_training_sees(here, capsys):
    out = run(capsys, "data show --data digits --num 9 --seed 5 --flip --out batch.png")
    batch = next(batches(digits(), batch_size=9, seed=5, flip=True))
    with Image.open("batch.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), grid(batch["image"])[..., 0])
    levels = batch["image"].astype(float)
    assert "digits: 1,797 images, 8x8x1, 10 classes" in out
    assert f"{levels.mean():.2f}" in out
    assert f"{levels.std():.2f}" in out
    for label, count in enumerate(np.bincount(batch["label"], minlength=10)):
        assert re.search(rf"^{label} +{count}\b", out, re.MULTILINE)


def test_corrupt_images_are_named_and_left_out_only_on_request(here, capsys):
    (here / "pictures" / "digit_0" / "bad.png").write_text("no image")
    command = "data prepare --data pictures --out records --workers 1"
    message = fails(capsys, command)
    assert "1 of 13 images cannot be read: pictures/digit_0/bad.png: " in message
    assert "--skip-corrupt" in message
    out = run(capsys, f"{command} --skip-corrupt")
    assert "left out: pictures/digit_0/bad.png: " in out
    assert "12 images" in out
    assert "not a usable image" in fails(capsys, "data show --data pictures --num 13 --out batch.png")
    said = run(capsys, "data show --data pictures --num 13 --out batch.png --skip-corrupt")
    assert "a batch of 13, shuffled" in said
    said = run(capsys, "data show --data pictures --num 14 --out batch.png --skip-corrupt")
    assert "a batch of 14, of which some are there more than once" in said


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("data show --data digits --out batch.jpg", "expected a name that ends in .png"),
        ("data show --data digits --out no/such/../../pictures", "expected a name that ends in .png"),
        ("data show --data digits --num 0 --out a.png", "expected at least 1"),
        ("data show --data digits --seed -1 --out a.png", "expected at least 0"),
        ("data show --data digits --size 0 --out a.png", "--data.size 0: expected at least 1"),
        ("data prepare --data digits --workers 0 --out a", "workers: expected at least 1"),
        (
            "data prepare --data nonsense --out a",
            "unknown data set. Expected digits, tfds:NAME .*hf:NAME.*idx3.*folder",
        ),
        ("data prepare --data digits --out pictures", "the folder is not empty"),
        ("data prepare --data digits --out pictures/digit_0/0.png", "cannot be written"),
    ],
)
def test_what_makes_no_sense_is_one_message_and_code_2(here, capsys, command, message):
    before = sorted(here.rglob("*"))
    assert re.search(message, fails(capsys, command))
    assert sorted(here.rglob("*")) == before


def test_the_flags_are_the_settings_of_training():
    of_training = {"flip", "skip_corrupt", "workers", "holdout", "eval_split"}
    names = {f.name for f in dataclasses.fields(Data)} - of_training
    assert {f.name for f in dataclasses.fields(Images)} == names - {"name"} | {"data"}
    images = Images("a", split="s", dir="d", size=3, channels=1, labels=False)
    expected = Data("a", split="s", dir="d", size=3, channels=1, labels=False, skip_corrupt=True, flip=True)
    assert images.section(skip_corrupt=True, flip=True) == expected
    assert from_dict(to_dict(Config(data=expected))).data == expected


@pytest.mark.parametrize(("name", "value"), [("size", 0), ("size", -4), ("channels", 2), ("channels", 0)])
def test_settings_that_no_run_can_have(name, value):
    with pytest.raises(InputError, match=rf"--data\.{name} {value}: expected"):
        check(Config(data=dataclasses.replace(Data(), **{name: value})))


def test_statistics_are_those_of_numpy_per_channel():
    images = rng.integers(0, 256, (5, 4, 3, 3), np.uint8)
    lines = statistics(images).splitlines()[1:]
    for i, (line, name) in enumerate(zip(lines, ("red", "green", "blue"), strict=True)):
        scaled = images[..., i] / 127.5 - 1
        found = line.split()
        assert found[0] == name
        expected = [images[..., i].min(), images[..., i].max(), images[..., i].mean(), images[..., i].std()]
        np.testing.assert_allclose([float(x) for x in found[1:5]], expected, atol=0.006)
        np.testing.assert_allclose([float(x) for x in found[5:]], [scaled.mean(), scaled.std()], atol=6e-4)


def test_a_histogram_of_many_classes_has_the_most_frequent():
    labels = np.concatenate([np.full(5, 700), np.full(3, 2), np.arange(100, 140)])
    lines = histogram(labels, 1000).splitlines()
    assert len(lines) == 22
    assert any(line.split()[:2] == ["700", "5"] for line in lines)
    assert lines[-1] == "and 22 more; 42 of 1000 classes occur, 5 times at most"
