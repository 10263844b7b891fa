"""A trace of a few steps: it is there, of the right steps, and changes no number."""

import json
import shlex

import numpy as np
import pytest
import tiny

from jaxdiff.cli import train_main
from jaxdiff.report import read_metrics
from jaxdiff.train.profile import profiled


def calls(folder, *, made, **options):
    """The numbers that a program gets and makes, with how many traces there are after each call."""
    seen = []

    def run_steps(state, batch, key):
        return np.float32(state + batch), {"loss": np.float32(batch)}

    state = np.float32(0)
    with profiled(run_steps, folder, **options) as run:
        for k in range(made):
            state, metrics = run(state, k, None)
            seen.append((float(state), float(metrics["loss"]), len(list(folder.rglob("*.xplane.pb")))))
    return seen, len(list(folder.rglob("*.xplane.pb")))


@pytest.mark.parametrize(("made", "after"), [(6, [0, 0, 0, 1, 1, 1]), (4, [0, 0, 0, 1]), (3, [0, 0, 0]), (2, [0, 0])])
def test_the_trace_ends_after_its_calls_or_with_the_run(tmp_path, made, after):
    """Calls 3 and 4 are traced: a run of 3 ends within them, one of 2 before."""
    seen, traces = calls(tmp_path, made=made, skip=2, calls=2)
    assert [count for *_, count in seen] == after
    assert traces == (1 if made > 2 else 0)
    assert [(state, loss) for state, loss, _ in seen] == [(k * (k + 1) / 2, k) for k in range(made)]


def test_an_error_ends_the_trace_too(tmp_path):
    with pytest.raises(ZeroDivisionError), profiled(lambda *_: 1 / 0, tmp_path, skip=0) as run:
        run(0, 0, None)
    assert len(list(tmp_path.rglob("*.xplane.pb"))) == 1
    assert calls(tmp_path / "next", made=2, skip=0, calls=1)[1] == 1  # another trace can begin


@pytest.mark.usefixtures("standard_promotion")
def test_a_run_with_a_trace_is_the_run_without_one(tmp_path, monkeypatch, capsys, trained):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.py").write_text(tiny.CONFIG)
    train_main(shlex.split("--config tiny.py --run run --profile"))
    out = capsys.readouterr().out
    assert "xprof --logdir run/profile" in out
    [trace] = (tmp_path / "run" / "profile").rglob("*.xplane.pb")
    assert trace.stat().st_size > 1000
    assert b"train" in trace.read_bytes()
    names = ("loss", "grad_norm", "param_norm")
    ours, theirs = (
        [[line[name] for name in names] for line in read_metrics(folder / "run" / "metrics.jsonl")]
        for folder in (tmp_path, trained)
    )
    assert json.dumps(ours) == json.dumps(theirs)
