"""`jaxdiff augment`: what it writes is the set and the pictures that sample.py makes, and trains."""

import json
import shlex

import numpy as np
import pytest
from test_cli_train import fails

from jaxdiff.cli import main, sample_main, train_main
from jaxdiff.data import array_file, digits

pytestmark = pytest.mark.usefixtures("standard_promotion")


def test_the_set_with_pictures_of_every_class(trained, tmp_path):
    some = tmp_path / "some.npz"
    np.savez(some, images=digits().images[:30], labels=digits().labels[:30])
    out = tmp_path / "more.npz"
    main(shlex.split(f"augment --run {trained / 'run'} --data {some} --per-class 2 --steps 1 --seed 3 --out {out}"))
    found = array_file(out)
    assert (len(found), found.num_classes) == (50, 10)
    np.testing.assert_array_equal(found.images[:30], digits().images[:30])
    np.testing.assert_array_equal(found.labels, [*digits().labels[:30], *np.repeat(np.arange(10), 2)])
    with np.load(out) as arrays:
        np.testing.assert_array_equal(arrays["made"], np.arange(50) >= 30)
    labels = " ".join(str(c) for c in np.repeat(np.arange(10), 2))
    how = f"--num 20 --labels {labels} --steps 1 --seed 3 --out {tmp_path / 'made.npz'}"
    sample_main(shlex.split(f"--run {trained / 'run'} {how}"))
    with np.load(tmp_path / "made.npz") as made:
        np.testing.assert_array_equal(found.images[30:], made["images"])
    train_main([
        "--config", str(trained / "tiny.py"), "--run", str(tmp_path / "run"), "--data.name", str(out), "--train.steps", "1",
    ])  # fmt: skip
    assert json.loads((tmp_path / "run" / "run.json").read_text())["images"] == 50


def test_by_default_it_is_what_the_run_was_trained_on(trained, tmp_path):
    main(shlex.split(f"augment --run {trained / 'run'} --per-class 1 --steps 1 --out {tmp_path / 'more.npz'}"))
    np.testing.assert_array_equal(array_file(tmp_path / "more.npz").images[:-10], digits().images)


def test_what_cannot_be_topped_up_is_said_in_one_line(trained, tmp_path, capsys):
    run = trained / "run"
    np.savez(tmp_path / "plain.npz", images=digits().images[:20])
    np.savez(tmp_path / "few.npz", images=digits().images[:3], labels=np.arange(3))
    np.savez(tmp_path / "small.npz", images=digits().images[:20, :6], labels=digits().labels[:20])
    for options, words in [
        (f"--run {run} --per-class 0", "--per-class 0: expected at least 1"),
        (f"--run {run} --per-class 1 --labels 3", "every class gets as many pictures; leave --labels out"),
        (f"--run {run} --per-class 1 --data {tmp_path / 'plain.npz'}", "--data: has no labels"),
        (
            f"--run {run} --per-class 1 --data {tmp_path / 'few.npz'}",
            "of 3 classes, the network makes images 8x8x1 of 10",
        ),
        (f"--run {run} --per-class 1 --data {tmp_path / 'small.npz'}", "--data: has images 6x8x1 of 10 classes"),
        (f"--run {run} --per-class 1 --data {tmp_path / 'none.npz'}", "none.npz: no such file"),
        (f"--run {run} --per-class 1 --data nonsense", "--data nonsense: unknown data set"),
        (f"--run {run} --per-class 1 --steps 0", "--steps"),
        (f"--run {tmp_path} --per-class 1", "no run here"),
        ("--per-class 1", "--data: what is to be topped up?"),
    ]:
        assert words in fails(capsys, main, f"augment {options} --out {tmp_path / 'x.npz'}")
    assert "ends in .npz" in fails(capsys, main, f"augment --run {run} --per-class 1 --out {tmp_path / 'x.png'}")
    assert not list(tmp_path.glob("x*"))
