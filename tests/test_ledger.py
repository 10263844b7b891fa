"""The ledger's table: every figure where it belongs, and the one in the repository made of its results."""

import doctest
import importlib.util
import json
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).parents[1] / "benchmarks" / "ledger" / "ledger.py"


@pytest.fixture(scope="module")
def ledger():
    spec = importlib.util.spec_from_file_location("ledger", FILE)
    found = importlib.util.module_from_spec(spec)
    sys.modules["ledger"] = found  # dataclasses look there
    spec.loader.exec_module(found)
    yield found
    del sys.modules["ledger"]


def evaluated(metrics, weights="ab" * 32):
    about = {"seconds": 7, "load": 1.0, "date": "2026-01-02", "commit": "abc", "hardware": "H"}
    if "bits_per_dim_vlb" in metrics:
        return {"metrics": metrics, **about}
    samples = {"count": 1000, "network_evaluations": 50}
    return {"metrics": metrics, "features": {"name": "classifier", "sha256": weights}, "samples": samples, **about}


def test_examples(ledger):
    assert doctest.testmod(ledger).failed == 0


def test_the_table_is_that_of_the_results(ledger):
    assert (FILE.parent / "README.md").read_text() == ledger.table()


def test_figures_stand_where_they_belong(ledger, tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "RESULTS", tmp_path / "results.json")
    whole = {"frechet_classifier": 9.5, "kernel_classifier": 0.5, "kernel_std_classifier": 0.25}
    found = {
        "parameters": evaluated({"frechet_classifier": 20.25}, "cd" * 32),
        "bits/dim, vlb": evaluated({"bits_per_dim_vlb": 3.5, "bits_per_dim_vlb_error": 0.125}),
    }
    (tmp_path / "results.json").write_text(json.dumps({"fashion_eps": found}))
    row = next(line for line in ledger.table().splitlines() if "run fashion_eps" in line)
    assert "9.5" not in row  # the row's own evaluation was not made yet
    assert "20.25" not in row
    assert "bits per dim vlb 3.5 ± 0.12" in row
    found["moving average"] = evaluated(whole) | {"options": "--x 1"}
    (tmp_path / "results.json").write_text(json.dumps({"fashion_eps": found}))
    lines = ledger.table().splitlines()
    said = "| frechet classifier 9.5 (1,000 samples; classifier, sha256 abababababab), bits per dim vlb 3.5 ± 0.12 |"
    assert said in next(line for line in lines if "run fashion_eps" in line)
    at = lines.index("In the features classifier, sha256 abababababab:")
    assert (
        lines[at + 2] == "| evaluation | frechet | kernel | samples | network evaluations | time | `jaxdiff evaluate` |"
    )
    assert (
        lines[at + 4]
        == "| moving average | 9.5 | 0.5 ± 0.25 | 1,000 | 50 | 7 s (load 1.0), 2026-01-02, abc | `--x 1` |"
    )
    assert lines[at + 5].startswith("| parameters, in the features classifier, sha256 cdcdcdcdcdcd | 20.25 |  | 1,000")
    assert lines[at + 7] == "* bits/dim, vlb: 3.5 ± 0.12; 7 s (load 1.0), 2026-01-02, abc"
    assert sum("not run" in line for line in lines) == len(ledger.ROWS) - 1
