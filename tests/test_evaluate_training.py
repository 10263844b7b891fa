"""--evaluate.every of train.py: the distance to the data while training, and the best checkpoint by it."""

import json
import shlex

import pytest
import tiny
from test_cli_train import fails

from jaxdiff.cli import main, train_main
from jaxdiff.report import read_metrics
from jaxdiff.train.checkpoint import Checkpoints

pytestmark = pytest.mark.usefixtures("standard_promotion")
OPTIONS = "--evaluate.every 2 --evaluate.samples 70 --evaluate.features pixels --log.keep 1 --log.keep-best 1 --log.best-by frechet"


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "tiny.py").write_text(tiny.CONFIG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def distances(run):
    return {
        line["step"]: line["frechet_pixels"] for line in read_metrics(run / "metrics.jsonl") if "frechet_pixels" in line
    }


@pytest.mark.slow
def test_a_training_tells_the_distance_that_evaluate_finds(here, capsys):
    train_main(shlex.split(f"--config tiny.py --run run {OPTIONS} --train.steps 4"))
    assert capsys.readouterr().err.count("\nwarning: --evaluate: frechet: 70 samples are few for 64 features") == 1
    found = distances(here / "run")
    assert sorted(found) == [2, 4]
    best = min(found, key=found.__getitem__)
    with Checkpoints(here / "run" / "checkpoints", read_only=True) as checkpoints:
        assert set(checkpoints.steps()) == {best, 4}
        (key,) = set(checkpoints.metrics(4)) - {"frechet_pixels"}  # with a mark of the settings
        assert checkpoints.metrics(4) == {"frechet_pixels": found[4], key: found[4]}
    capsys.readouterr()
    main(["checkpoint", "list", "--run", "run"])
    lines = {int(line.split()[0]): line for line in capsys.readouterr().out.splitlines()[1:]}
    assert {step: line.endswith(f", frechet_pixels {found[step]:.5g}, the best") for step, line in lines.items()} == {
        step: step == best for step in {best, 4}
    }
    # The same samples, in other batches: but for what rounding makes of a grey level.
    main(shlex.split("evaluate --run run --num 70 --features pixels --metrics frechet --out e.json"))
    again = json.loads((here / "e.json").read_text())["metrics"]["frechet_pixels"]
    assert again == pytest.approx(found[4], rel=1e-4)


@pytest.mark.slow
def test_a_resumed_run_tells_the_same_and_may_be_told_otherwise(here):
    train_main(shlex.split(f"--config tiny.py --run whole {OPTIONS}"))
    train_main(shlex.split(f"--config tiny.py --run parts {OPTIONS} --train.steps 2"))
    train_main(shlex.split(f"--config tiny.py --run parts {OPTIONS}"))
    assert distances(here / "parts") == distances(here / "whole")
    train_main(shlex.split("--config tiny.py --run parts --train.steps 8"))
    assert sorted(distances(here / "parts")) == [2, 4, 6]


def test_what_cannot_be_compared_is_said_before_the_first_step(here, capsys):
    start = "--config tiny.py --run run"
    for options, words in [
        ("--evaluate.every 0", "--evaluate.every 0: expected at least 1"),
        ("--evaluate.every 2 --evaluate.samples 64 --evaluate.features pixels", "64 samples are too few"),
        ("--evaluate.every 2 --evaluate.features inception", "inception:FILE"),
        ("--evaluate.every 2 --evaluate.features nonsense", "no such features"),
        (f"{OPTIONS} --evaluate.every 3", "expected a multiple of --log.checkpoint-every 2"),
        ("--log.keep-best 1 --log.best-by frechet", "--evaluate.every"),
        ("--evaluate.every 2 --train.steps-per-call 4 --train.steps 8", "evaluate.every"),
    ]:
        assert words in fails(capsys, train_main, f"{start} {options}")
        assert not (here / "run" / "checkpoints").exists()
