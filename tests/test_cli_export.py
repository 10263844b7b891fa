"""`jaxdiff export`: what the file says, that it is whole or not there and the same every time, and what is refused."""

import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
import test_pretrained
import test_pretrained_classifier
import test_pretrained_dit
import torch_file
from safetensors import safe_open
from test_cli_train import fails

from jaxdiff import build, export, pretrained, runs, serving
from jaxdiff.cli import main, sample_main
from jaxdiff.config import Config, Sample, UNet
from jaxdiff.models import attention
from jaxdiff.weights import named

pytestmark = pytest.mark.usefixtures("standard_promotion")


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    """The run, its sampler exported, and that again with the weights beside it."""
    path = tmp_path_factory.mktemp("export")
    shutil.copytree(trained / "run", path / "run")
    with jax.numpy_dtype_promotion("standard"):
        for more in ("--out whole.jaxdiff", "--out parts.jaxdiff --weights-beside"):
            make(path, f"--run run {more} --labels 3 4 --seed 5 --sampler ddpm --temperature 0.5 --batch 8")
    return path


def make(folder, options):
    before = os.getcwd()
    os.chdir(folder)
    try:
        main(["export", *shlex.split(options)])
    finally:
        os.chdir(before)


def manifest(path):
    with zipfile.ZipFile(path) as file:
        return json.loads(file.read(serving.MANIFEST))


def test_the_manifest_says_what_is_in_the_file(folder):
    found = manifest(folder / "whole.jaxdiff")
    assert found["made_from"] == {"run": "run", "weights": "ema", "checkpoint": "step 6"}
    assert (found["platforms"], found["image_shape"], found["num_classes"]) == (["cpu", "cuda", "tpu"], [8, 8, 1], 10)
    assert (found["sampler"], found["steps"], found["network_evaluations"], found["batch"]) == ("ddpm", 3, 6, 8)
    assert found["versions"]["jax"] == jax.__version__
    assert {name: (about["dtype"], about["shape"]) for name, about in found["inputs"].items()} == {
        "seed": ("uint32", []),
        "index": ("int32", ["batch"]),
        "label": ("int32", ["batch"]),
        "guidance": ("float32", []),
        "temperature": ("float32", []),
    }
    defaults = {name: about["default"] for name, about in found["inputs"].items() if "default" in about}
    assert defaults == {"seed": 5, "label": [3, 4], "guidance": 1.5, "temperature": 0.5}
    assert found["inputs"]["label"]["range"] == [0, 9]
    assert found["output"] == {"dtype": "float32", "shape": ["batch", 8, 8, 1], "range": [-1, 1]}
    assert found["random"] == {"implementation": "threefry2x32", "partitionable": True}
    assert serving.load(folder / "whole.jaxdiff").manifest == found


def test_weights_are_in_the_file_or_beside_it_and_are_the_runs(folder, tmp_path):
    config, spec = runs.load_run(folder / "run")
    _, params = runs.load_weights(folder / "run", config, spec)
    expected = {name: np.asarray(leaf) for name, leaf in named(params).items()}
    for name in ("whole", "parts"):
        found = serving.load(folder / f"{name}.jaxdiff").weights
        assert found.keys() == expected.keys()
        for key, array in expected.items():
            np.testing.assert_array_equal(found[key], array)
    with zipfile.ZipFile(folder / "parts.jaxdiff") as file:
        assert file.namelist() == [serving.MANIFEST, serving.PROGRAM]
    with safe_open(folder / "parts.safetensors", framework="numpy") as file:
        assert set(file.keys()) == expected.keys()

    def sampled(options):
        out = tmp_path / "x.npz"
        sample_main(shlex.split(f"--run {folder / 'run'} --num 2 --out {out} {options}"))
        with np.load(out) as file:
            return file["images"]

    np.testing.assert_array_equal(sampled(f"--weights {folder / 'parts.safetensors'}"), sampled(""))


def test_weights_beside_that_are_gone_or_others_are_refused(folder, tmp_path, capsys):
    shutil.copy(folder / "parts.jaxdiff", tmp_path)
    with pytest.raises(serving.InputError, match=r"parts\.safetensors: no such file"):
        serving.load(tmp_path / "parts.jaxdiff")
    content = bytearray((folder / "parts.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "parts.safetensors").write_bytes(content)
    with pytest.raises(serving.InputError, match=r"parts\.safetensors: damaged, or of another export"):
        serving.load(tmp_path / "parts.jaxdiff")
    message = fails(
        capsys, main, f"export --run {folder / 'run'} --out {tmp_path}/new.jaxdiff --weights-beside --step 5"
    )
    assert "there are 4, 6" in message
    (tmp_path / "mine.safetensors").write_bytes(b"mine")
    message = fails(capsys, main, f"export --run {folder / 'run'} --out {tmp_path}/mine.jaxdiff --weights-beside")
    assert "mine.safetensors, which is of no" in message
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.safetensors", "parts.jaxdiff", "parts.safetensors"]
    assert (tmp_path / "mine.safetensors").read_bytes() == b"mine"


def test_named_weights_as_the_file_the_weights_are_beside(folder):
    """A file of that name inside is none beside it."""
    make(folder, "--run run --out weights.jaxdiff --weights-beside --steps 1")
    assert serving.load(folder / "weights.jaxdiff").weights


def test_the_same_bytes_every_time_and_nothing_of_this_machine(folder, tmp_path):
    command = "export --run run --labels 3 4 --seed 5 --sampler ddpm --temperature 0.5 --batch 8"
    subprocess.run(
        [sys.executable, "-m", "jaxdiff", *shlex.split(command), "--out", tmp_path / "again.jaxdiff"],
        check=True, cwd=folder, env=os.environ | {"PYTHONPATH": str(Path(export.__file__).parents[1])},
    )  # fmt: skip
    content = (tmp_path / "again.jaxdiff").read_bytes()
    assert content == (folder / "whole.jaxdiff").read_bytes()
    for place in (str(folder), str(Path(export.__file__).parents[1]), str(Path(jax.__file__).parent)):
        assert place.encode() not in content


def test_it_is_whole_or_not_there(folder, tmp_path, monkeypatch):
    """On a disk that fills up in the middle, or where the second file cannot be put."""
    made = export.Artefact(manifest(folder / "whole.jaxdiff"), b"program", b"weights")
    out, real = tmp_path / "x.jaxdiff", zipfile.ZipFile.writestr
    out.write_bytes(b"old")
    (tmp_path / "x.safetensors").mkdir()
    with pytest.raises(OSError, match="directory"):
        export.write(out, made, weights_beside=True)
    (tmp_path / "x.safetensors").rmdir()

    def full(self, info, content):
        real(self, info, content)
        if info.filename == serving.PROGRAM:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    for beside in (False, True):
        with pytest.raises(OSError, match="No space"):
            export.write(out, made, weights_beside=beside)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"x.jaxdiff": b"old"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--out x.zip", ["--out x.zip", ".jaxdiff"]),
        ("--out none/x/y.jaxdiff --seed -1", ["--seed -1"]),
        ("--out x.jaxdiff --platforms", ["--platforms", "cpu, cuda, tpu"]),
        ("--out x.jaxdiff --platforms abacus", ["abacus"]),
        ("--out x.jaxdiff --sampler heun9", ["unknown sampler 'heun9'"]),
        ("--out x.jaxdiff --labels 10", ["--labels 10", "0 to 9"]),
        ("--out x.jaxdiff --temperature 0.5", ["draws no noise"]),
        ("--out x.jaxdiff --batch 0", ["--batch 0"]),
        ("--out x.jaxdiff --sampler ode", ["--sampler ode: JAX cannot export", "Adaptive", "dpm_solver++"]),
        ("--out x.jaxdiff --sampler ode --platforms cpu", ["--sampler ode: JAX cannot export", "Adaptive"]),
        ("", ["--out"]),
    ],
)
def test_errors(folder, tmp_path, capsys, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    message = fails(capsys, main, f"export --run {folder / 'run'} {options}")
    for word in words:
        assert word in message, message
    assert not list(tmp_path.rglob("*.jaxdiff*"))


def test_cudnn_is_left_out_of_what_is_exported(monkeypatch):
    """On a GPU too, where bfloat16 would have it otherwise; the environment is as before."""

    class H100:
        device_kind, compute_capability = "NVIDIA H100", "9.0"

    model = UNet(channels=8, multipliers=(1,), blocks=1, attention_resolutions=(8,), dtype="bfloat16")
    config, spec = Config(model=model, sample=Sample(steps=1)), build.Spec((8, 8, 1), None)
    params = jax.eval_shape(lambda key: build.init_params(config, spec, key), jax.random.key(0))
    params = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), params)
    monkeypatch.setenv("JAXDIFF_ATTENTION", "cudnn")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [H100()])
    assert attention.cudnn_takes(jax.numpy.zeros((1, 64, 1, 8), "bfloat16"))
    export.artefact(config, spec, params, platforms=["cpu"])
    assert os.environ["JAXDIFF_ATTENTION"] == "cudnn"


def compared(tmp_path, options, key):
    """What sample.py makes and what the exported program does, three of each."""
    sample_main(shlex.split(f"{options} --num 3 --out {tmp_path / 'x.npz'}"))
    main(shlex.split(f"export {options} --platforms cpu --out {tmp_path / 'x.jaxdiff'}"))
    with np.load(tmp_path / "x.npz") as file:
        return file[key], serving.load(tmp_path / "x.jaxdiff")


@pytest.mark.slow
def test_a_network_and_its_classifier_of_another_library(tmp_path):
    pretrained.save_diffusers(tmp_path / "net", test_pretrained.ours())
    torch_file.save(tmp_path / "c.pt", test_pretrained_classifier.state_dict(test_pretrained_classifier.ENCODER)[2])
    expected, served = compared(
        tmp_path,
        f"--pretrained {tmp_path / 'net'} --classifier {tmp_path / 'c.pt'} --classifier-options num_head_channels 8 "
        "--classifier-scale 2 --labels 1 4 --steps 2 --dtype float32",
        "images",
    )
    assert served.manifest["made_from"] == {"pretrained": "net"}
    assert served.manifest["inputs"]["classifier_scale"]["default"] == 2
    assert np.abs(served(3).astype(int) - expected).max() <= 1
    assert (served(3, classifier_scale=0) != expected).any()


def test_a_network_of_latents(tmp_path):
    test_pretrained_dit.folder(tmp_path / "net")
    (tmp_path / "net" / "scheduler_config.json").write_text(json.dumps({"_class_name": "DDIMScheduler"}))
    expected, served = compared(tmp_path, f"--pretrained {tmp_path / 'net'} --steps 2 --guidance 2", "latents")
    np.testing.assert_allclose(served(3, floats=True), expected, atol=1e-4)


def test_a_sampler_whose_library_is_not_installed_is_told_of_by_its_option(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = fails(capsys, main, f"export --run {folder / 'run'} --sampler ode --out {tmp_path / 'x.jaxdiff'}")
    assert "error: --sampler ode needs diffrax" in message
