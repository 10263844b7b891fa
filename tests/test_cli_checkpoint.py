"""The command `jaxdiff checkpoint`: what a run has, whether it is whole, and its weights in a file."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxdiff import config as configs
from jaxdiff import runs
from jaxdiff.cli import main
from jaxdiff.train.checkpoint import Checkpoints
from jaxdiff.weights import read_metadata


@pytest.fixture
def run(trained, tmp_path):
    """A run with checkpoints of steps 4 and 6, to be changed."""
    shutil.copytree(trained / "run", tmp_path / "run")
    return tmp_path / "run"


def test_list_shows_every_checkpoint_with_its_weights(run, capsys):
    main(["checkpoint", "list", "--run", str(run)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["4", "6"]
    assert all("ema params" in line for line in lines[1:])


def test_verify_is_content_with_what_was_written(run, capsys):
    main(["checkpoint", "verify", "--run", str(run)])
    assert capsys.readouterr().out.splitlines() == ["step 4: whole", "step 6: whole"]


@pytest.mark.parametrize("sums", [True, False], ids=["with sums", "without"])
@pytest.mark.parametrize("item", ["params", "ema", "rest"])
def test_verify_names_what_is_damaged(run, capsys, item, sums):
    """Without the sums, of an older version say, by restoring every array."""
    folder = run / "checkpoints" / "4"
    files = sorted((p for p in (folder / item).rglob("*") if p.is_file()), key=lambda path: path.stat().st_size)
    if sums:
        files[-1].write_bytes(files[-1].read_bytes()[:-1])
    else:
        (folder / "checksums.json").unlink()
        for file in files:
            file.write_bytes(file.read_bytes()[:10])
    with pytest.raises(SystemExit) as caught:
        main(["checkpoint", "verify", "--run", str(run)])
    said = capsys.readouterr()
    assert caught.value.code == 2
    assert said.out.splitlines()[0].startswith(f"step 4: {item}")
    assert said.out.splitlines()[1] == "step 6: whole"
    assert "1 damaged" in said.err


@pytest.mark.parametrize("weights", ["ema", "params"])
def test_export_writes_the_weights_that_sampling_reads(run, tmp_path, weights):
    out = tmp_path / "w.safetensors"
    main(["checkpoint", "export", "--run", str(run), "--step", "4", "--weights", weights, "--out", str(out)])
    config, spec = runs.load_run(run)
    _, params = runs.load_weights(run, config, spec, item=weights, step=4)
    arrays = load_file(out)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    assert len(arrays) == len(leaves)
    for path, leaf in leaves:
        np.testing.assert_array_equal(arrays["/".join(key.key for key in path)], np.asarray(leaf))
    assert read_metadata(out)["step"] == 4


@pytest.mark.parametrize(
    ("losses", "marks"),
    [
        ({4: np.nan, 6: 0.5}, {4: "", 6: "the best"}),
        ({4: 0.25, 6: 0.5}, {4: "the best", 6: "number 2 of the best"}),
    ],
)
def test_the_best_that_are_kept_are_marked(run, capsys, monkeypatch, losses, marks):
    config, spec = runs.load_run(run)
    kept = dataclasses.replace(config, log=dataclasses.replace(config.log, keep_best=2))
    monkeypatch.setattr(runs, "load_run", lambda folder: (kept, spec))
    monkeypatch.setattr(Checkpoints, "metrics", lambda self, step: {"eval_loss": losses[step]})
    main(["checkpoint", "list", "--run", str(run)])
    lines = capsys.readouterr().out.splitlines()[1:]
    assert len(lines) == 2
    for line, step in zip(lines, marks, strict=True):
        assert line.partition(f"eval_loss {losses[step]:.5g}")[2].removeprefix(", ") == marks[step]


def test_config_prints_what_the_run_was_trained_with(run, capsys):
    main(["checkpoint", "config", "--run", str(run)])
    printed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if len(line.split()) > 1)
    asked = {name: str(value) for name, value in configs.flatten(configs.to_dict(runs.load_run(run)[0])).items()}
    assert {name: value.strip() for name, value in printed.items()} == {k: v for k, v in asked.items() if v}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["list", "--run", "none"], "none: no run here"),
        (["verify", "--run", "{run}", "--step", "5"], "no checkpoint of step 5 in this run; there are 4, 6"),
        (["export", "--run", "{run}", "--out", "w.pt"], "ends in .safetensors"),
        (["export", "--run", "{run}", "--weights", "old", "--out", "w.safetensors"], "there are ema, params"),
        (["config", "--run", "{run}", "--step", "5"], "no checkpoint of step 5"),
    ],
)
def test_mistakes_are_one_message_and_exit_code_2(run, args, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(["checkpoint", *(arg.format(run=run) for arg in args)])
    said = capsys.readouterr()
    assert caught.value.code == 2
    assert said.err.startswith("error: ")
    assert message in said.err
    assert not list(tmp_path.glob("w.*"))
