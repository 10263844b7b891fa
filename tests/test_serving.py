"""`jaxdiff.serving`: the pictures of sample.py from a file alone, and what it refuses, of calls and of files."""

import dataclasses
import hashlib
import json
import os
import pickle
import shlex
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import network_table
import numpy as np
import pytest
from jax import export as jax_export
from safetensors.numpy import load, save
from tiny import first_params

from jaxdiff import InputError, build, export, sampling, serving
from jaxdiff.cli import main, sample_main
from jaxdiff.config import Config, Sample, UNet

pytestmark = pytest.mark.usefixtures("standard_promotion")
SETTINGS = {
    "guided": "--steps 3 --guidance 1.5 --seed 1",
    "ancestral": "--sampler ddpm --steps 3 --guidance 1 --temperature 0.9 --seed 1",
    "solver": "--sampler dpm_solver++ --steps 4 --guidance 3 --seed 1 --labels 7 2 9 --weights params --step 4",
}


@pytest.fixture(scope="module")
def files(trained, tmp_path_factory):
    """The run's sampler with each of the settings."""
    folder = tmp_path_factory.mktemp("exported")
    with jax.numpy_dtype_promotion("standard"):
        for name, options in SETTINGS.items():
            main(shlex.split(f"export --run {trained / 'run'} {options} --out {folder / name}.jaxdiff"))
    return folder


@pytest.fixture(scope="module")
def guided(files):
    return serving.load(files / "guided.jaxdiff")


@pytest.fixture
def sampled(trained, tmp_path):
    def sampled(options, num):
        out = tmp_path / "out.npz"
        sample_main(shlex.split(f"--run {trained / 'run'} {options} --num {num} --out {out}"))
        with np.load(out) as file:
            return file["images"]

    return sampled


def close(a, b):
    """The same picture: programs of other batch sizes may round the last grey level another way."""
    assert a.shape == b.shape
    assert np.abs(a.astype(int) - b).max() <= 1


@pytest.mark.parametrize("name", SETTINGS)
def test_the_pictures_are_those_of_sample_py_in_any_batch(files, sampled, name):
    expected, served = sampled(SETTINGS[name], 6), serving.load(files / f"{name}.jaxdiff")
    assert expected.std() > 10
    images = served(6)
    assert images.dtype == np.uint8
    close(images, expected)
    close(served(6, batch=4), expected)  # the second filled up
    close(served(2, start=3, batch=4), expected[3:5])


def test_what_a_call_changes_is_as_the_options_of_sample_py(files, guided, sampled):
    close(guided(4, seed=2**32 - 1), sampled("--steps 3 --seed 4294967295", 4))
    close(guided(4, labels=3, guidance=-0.5), sampled("--steps 3 --seed 1 --labels 3 --guidance -0.5", 4))
    close(guided(4, labels=[5, 6]), sampled("--steps 3 --seed 1 --labels 5 6", 4))
    ancestral, options = serving.load(files / "ancestral.jaxdiff"), SETTINGS["ancestral"].replace("0.9", "0")
    close(ancestral(4, temperature=0), sampled(options, 4))
    assert (ancestral(4) != ancestral(4, temperature=0)).any()


def test_labels_go_on_with_the_number_or_begin_with_those_given(guided):
    np.testing.assert_array_equal(guided(4, start=2), guided(4, labels=[2, 3, 4, 5], start=2))
    assert (guided(4, start=2) != guided(4, start=2, labels=[0, 1, 2, 3])).any()


def test_floats_are_what_is_rounded(guided):
    floats = guided(4, floats=True)
    assert floats.dtype == np.float32
    np.testing.assert_array_equal(np.rint((np.clip(floats, -1, 1) + 1) * 127.5).astype(np.uint8), guided(4))


def test_calls_from_several_threads_do_not_meet(guided):
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda seed: guided(4, seed=seed), range(8)))
    for seed, images in enumerate(found):
        np.testing.assert_array_equal(images, guided(4, seed=seed))


def test_nothing_but_another_batch_compiles(guided):
    guided(4)
    before = guided.run._cache_size()
    guided(4, seed=7, labels=[1], guidance=9.0, start=100)
    guided(3, batch=4)
    assert guided.run._cache_size() == before
    guided(5)
    assert guided.run._cache_size() == before + 1


REFUSED = """
import sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        first = name.split(".")[0]
        others = name.startswith("jaxdiff.") and name.split(".")[1] in {others!r}
        if first in {packages!r} or others:
            raise ImportError("refused: " + name)

sys.meta_path.insert(0, Refused())
import jax
import numpy as np
from jaxdiff import serving

served = serving.load(sys.argv[1])
assert len(jax.devices()) == 4
np.save(sys.argv[2], served(6))
assert {{d for w in served.weights.values() for d in w.devices()}} == {{jax.devices()[0]}}
"""
PACKAGES = [
    "flax",
    "optax",
    "orbax",
    "grain",
    "tyro",
    "PIL",
    "matplotlib",
    "sklearn",
    "safetensors",
    "dacite",
    "fsspec",
    "tqdm",
    "tensorboardX",
    "array_record",
    "diffrax",
    "blackjax",
    "datasets",
    "tensorflow",
    "torch",
]  # not scipy: JAX imports it
ROOMS = [
    "build",
    "cli",
    "config",
    "data",
    "evaluation",
    "export",
    "features",
    "models",
    "pretrained",
    "report",
    "runs",
    "sampling",
    "train",
    "weights",
]


def test_it_needs_jax_numpy_and_flatbuffers_alone(files, sampled, tmp_path):
    """Of four devices it takes the first. How random numbers are made there is of no account."""
    code = REFUSED.format(packages=PACKAGES, others=ROOMS)
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "PYTHONPATH": str(Path(__file__).parents[1])}
    flags |= {"JAX_ENABLE_X64": "1", "JAX_DEFAULT_PRNG_IMPL": "rbg", "JAX_THREEFRY_PARTITIONABLE": "0"}
    command = [sys.executable, "-c", code, files / "guided.jaxdiff", tmp_path / "x.npy"]
    done = subprocess.run(command, env=os.environ | flags, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    close(np.load(tmp_path / "x.npy"), sampled(SETTINGS["guided"], 6))


@pytest.mark.slow
def test_another_version_of_jax_makes_the_same_pictures(files, sampled, tmp_path):
    """JAXDIFF_OTHER_JAX: a Python with another jax, and flatbuffers, as `python -m venv` and pip make one."""
    other = os.environ.get("JAXDIFF_OTHER_JAX")
    if other is None:
        pytest.skip("JAXDIFF_OTHER_JAX names no Python with another version of jax")
    code = (
        "import sys, jax, numpy; from jaxdiff import serving; numpy.save(sys.argv[2], serving.load(sys.argv[1])(6)); "
        "print(jax.__version__)"
    )
    command = [other, "-c", code, files / "guided.jaxdiff", tmp_path / "x.npy"]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() != jax.__version__
    close(np.load(tmp_path / "x.npy"), sampled(SETTINGS["guided"], 6))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"num": 0}, "num 0: expected a whole number from 1"),
        ({"num": 2.0}, "num 2.0: expected a whole number"),
        ({"num": True}, "num True"),
        ({"seed": -1}, "seed -1: expected a whole number from 0 to 4294967295"),
        ({"seed": 2**32}, "seed 4294967296"),
        ({"batch": 0}, "batch 0"),
        ({"start": -1}, "start -1"),
        ({"num": 2, "start": 2**31 - 1}, "start 2147483647: expected a whole number from 0 to 2147483646"),
        ({"labels": [3, 10]}, r"labels \[3, 10\]: expected whole numbers from 0 to 9"),
        ({"labels": -1}, "labels -1"),
        ({"labels": []}, r"labels \[\]"),
        ({"labels": [1.5]}, r"labels \[1.5\]"),
        ({"labels": [[1]]}, "labels"),
        ({"labels": "three"}, "labels 'three'"),
        ({"guidance": float("nan")}, "guidance nan: expected a number"),
        ({"guidance": 1e39}, r"guidance 1e\+39"),
        ({"guidance": "much"}, "guidance 'much'"),
        ({"temperature": 0.5}, "temperature 0.5: this program has no such input; its sampler draws no noise"),
        ({"classifier_scale": 1.0}, "no --classifier guides it"),
    ],
)
def test_calls_that_are_refused_before_anything_is_computed(guided, given, words):
    untouched = dataclasses.replace(guided, run=None)
    with pytest.raises(InputError, match=words):
        untouched(**given)


def test_what_a_program_has_no_input_for(files):
    ancestral = dataclasses.replace(serving.load(files / "ancestral.jaxdiff"), run=None)
    with pytest.raises(InputError, match="guidance 2.0: this program has no such input; it has no labels, or"):
        ancestral(guidance=2.0)
    with pytest.raises(InputError, match=r"temperature -1: expected 0 or more"):
        ancestral(temperature=-1)


CONFIG = Config(
    model=UNet(channels=8, multipliers=(1,), blocks=1, attention_resolutions=()), sample=Sample(steps=2, guidance=2.0)
)
SHAPE = (8, 8, 1)


def served_of(tmp_path, config, spec, params, **options):
    out = tmp_path / "made.jaxdiff"
    export.write(out, export.artefact(config, spec, params, platforms=["cpu"], **options))
    return serving.load(out)


def pictures(config, spec, params, labels, *, guide=None, classify=None):
    program = sampling.pmapped(sampling.generator(config, spec, classify=classify))
    made = sampling.in_batches(program, config, params, jax.random.key(0), labels, num=3, batch=3, guide=guide)
    return np.concatenate(list(made))


def test_a_model_without_labels(tmp_path):
    spec = build.Spec(SHAPE, None)
    params = first_params(CONFIG, spec, noise=0.1)
    served = served_of(tmp_path, CONFIG, spec, params)
    assert served.manifest["inputs"].keys() == {"seed", "index"}
    close(served(3), pictures(CONFIG, spec, params, None))
    for given in ({"labels": [0]}, {"guidance": 1.0}):
        with pytest.raises(InputError, match="this program has no such input"):
            served(**given)


def test_a_classifier_guides_towards_the_labels(tmp_path):
    """Of a network without classes: `log p(label | x) = -w (mean(x) - label / 10)^2`."""
    spec = build.Spec(SHAPE, None)

    def classify(labels, params):
        wanted = labels.astype(jnp.float32) / 10
        return lambda x, t: -params["w"] * (x.mean((1, 2, 3)) - wanted) ** 2

    params, its = first_params(CONFIG, spec, noise=0.1), {"w": np.float32(30.0)}
    guide = export.Guide(classify, its, 10, 5.0)
    served = served_of(tmp_path, CONFIG, spec, params, guide=guide)
    assert served.manifest["inputs"]["label"]["range"] == [0, 9]
    labels = np.array([0, 9, 5], np.int32)
    for scale in (5.0, 40.0):
        expected = pictures(
            CONFIG, spec, params, labels, guide=({"w": jnp.float32(30.0)}, jnp.float32(scale)), classify=classify
        )
        close(served(3, labels=labels, classifier_scale=scale), expected)
    assert np.abs(served(3, labels=[0]).astype(int) - served(3, labels=[9])).max() > 2


def test_latents_come_as_floats(tmp_path):
    spec = build.Spec(SHAPE, None)
    config = dataclasses.replace(CONFIG, sample=dataclasses.replace(CONFIG.sample, clip=False))
    params = first_params(config, spec, noise=0.1)
    served = served_of(tmp_path, config, spec, params, latents=True)
    assert (served.manifest["makes"], served.manifest["output"]["range"]) == ("latents", None)
    with pytest.raises(InputError, match="an autoencoder's latents: give floats=True"):
        served(3)
    program = sampling.pmapped(sampling.generator(config, spec))
    (expected,) = sampling.in_batches(
        program, config, params, jax.random.key(0), None, num=3, batch=3, latents=True
    )  # fmt: skip
    np.testing.assert_allclose(served(3, floats=True), expected, atol=1e-4)


def test_pictures_that_are_not_finite_are_refused(tmp_path):
    config = dataclasses.replace(CONFIG, sample=Sample(steps=2, clip=False))
    spec = build.Spec(SHAPE, None)
    with pytest.raises(InputError, match="not finite"):
        served_of(tmp_path, config, spec, first_params(config, spec, noise=np.nan))(2)


@pytest.mark.parametrize("name", network_table.NETS)
def test_every_network_takes_a_batch_of_any_size(name):
    """Of twice any, as guidance asks for."""
    net, (batch,) = network_table.NETS[name], jax_export.symbolic_shape("batch")
    x, c_noise, cond = network_table.inputs(net)
    params = network_table.shapes(net, x, c_noise, cond)
    n = 2 * batch
    inputs = [jax.ShapeDtypeStruct((n, *a.shape[1:]), jnp.dtype(jnp.result_type(a))) for a in (x, c_noise)]
    labels = {key: jax.ShapeDtypeStruct((n,), jnp.int32) for key in cond}
    assert jax.eval_shape(net.apply, params, *inputs, labels).shape == (n, *x.shape[1:])


def rewritten(path, out, *, compression=zipfile.ZIP_STORED, sums=True, **members):
    """The file with other members, bytes or functions of the old ones; by default the manifest has their sums."""
    with zipfile.ZipFile(path) as file:
        content = {name: file.read(name) for name in file.namelist()}
    for name, new in members.items():
        full = {"manifest": serving.MANIFEST, "program": serving.PROGRAM, "weights": serving.WEIGHTS}[name]
        content[full] = new(content[full]) if callable(new) else new
    if sums:
        manifest = json.loads(content[serving.MANIFEST])
        for part, name in (("program", serving.PROGRAM), ("weights", serving.WEIGHTS)):
            manifest[part]["sha256"] = hashlib.sha256(content[name]).hexdigest()
        content[serving.MANIFEST] = json.dumps(manifest).encode()
    with zipfile.ZipFile(out, "w", compression) as file:
        for name, data in content.items():
            file.writestr(name, data)
    return out


def manifest(**changes):
    return lambda old: json.dumps(json.loads(old) | changes).encode()


def flipped(content):
    return content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]


def exported_with(function, *shapes):
    """A program of the same arguments as those of a file, with another body."""

    def of(old):
        exported = jax_export.deserialize(bytearray(old))
        like = jax.tree.unflatten(exported.in_tree, exported.in_avals)[0]
        return bytes(
            jax_export.export(
                jax.jit(function), disabled_checks=[jax_export.DisabledSafetyCheck.custom_call(CALLBACK)]
            )(*like).serialize()
        )

    return of


CALLBACK = "xla_ffi_python_cpu_callback"


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("bombed",)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weights": flipped, "sums": False}, "damaged.*the sha256 of its weights"),
        ({"program": flipped, "sums": False}, "damaged.*the sha256 of its program"),
        ({"weights": b""}, "cut short or damaged"),
        ({"weights": pickle.dumps(Bomb())}, "cut short or damaged"),
        ({"program": pickle.dumps(Bomb())}, "cut short or damaged"),
        ({"weights": lambda old: save({k: v for k, v in load(old).items() if "out" not in k})}, "for other weights"),
        ({"weights": lambda old: save({k: v[None] for k, v in load(old).items()})}, "for other weights"),
        ({"weights": lambda old: save({k: v.astype(np.float16) for k, v in load(old).items()})}, "F16, expected F32"),
        ({"program": exported_with(lambda weights, inputs: inputs["seed"])}, None),
        (
            {
                "program": exported_with(
                    lambda weights, inputs: jax.ffi.ffi_call(CALLBACK, jax.ShapeDtypeStruct((), jnp.uint32))(
                        inputs["seed"]
                    )
                )
            },
            "a call that is not allowed.*python_cpu_callback",
        ),
        ({"manifest": manifest(format="zip of mine")}, "its format is 'zip of mine'"),
        ({"manifest": manifest(format_version=2)}, "format has version 2, this jaxdiff reads 1; install"),
        ({"manifest": manifest(inputs={})}, "for other weights or inputs"),
        ({"manifest": manifest(batch="many")}, "batch 'many'"),
        ({"manifest": manifest(makes="money")}, "it makes 'money'"),
        ({"manifest": b"{"}, "cut short or damaged"),
        ({"manifest": b"[]", "sums": False}, "cut short or damaged"),
        ({"compression": zipfile.ZIP_DEFLATED}, "a member is compressed"),
    ],
)
def test_files_that_are_refused(files, tmp_path, monkeypatch, changes, words):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.jaxdiff"
    if words is None:  # what makes the others: without a fault it is taken
        serving.load(rewritten(files / "guided.jaxdiff", path, **changes))
        return
    if callable(changes.get("manifest")) or changes.get("manifest") == b"{":
        changes = changes | {"sums": False}
    rewritten(files / "guided.jaxdiff", path, **changes)
    with pytest.raises(InputError, match=words) as info:
        serving.load(path)
    assert str(path) in str(info.value)
    assert not (tmp_path / "bombed").exists()


def test_files_that_are_none_or_in_part(files, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        serving.load(tmp_path / "none.jaxdiff")
    with pytest.raises(InputError, match="no file of jaxdiff export"):
        serving.load(tmp_path)
    whole = (files / "guided.jaxdiff").read_bytes()
    for part in (b"", b"PK", whole[: len(whole) // 2], whole[:-1], whole[100:], whole.replace(b"params", b"pxrams")):
        (tmp_path / "part.jaxdiff").write_bytes(part)
        with pytest.raises(InputError, match="no file of jaxdiff export, or cut short or damaged"):
            serving.load(tmp_path / "part.jaxdiff")
    np.savez(tmp_path / "other.npz", images=np.zeros(3))
    with pytest.raises(InputError, match="no file of jaxdiff export"):
        serving.load(tmp_path / "other.npz")


def test_another_platform_and_another_convention_are_refused_in_words(files, trained, tmp_path, monkeypatch):
    out = tmp_path / "tpu.jaxdiff"
    main(shlex.split(f"export --run {trained / 'run'} --platforms tpu --steps 1 --out {out}"))
    with pytest.raises(InputError, match="lowered for tpu, and this machine's platform is cpu: export it with --platf"):
        serving.load(out)
    monkeypatch.setattr(jax_export, "minimum_supported_calling_convention_version", 99)
    with pytest.raises(InputError, match=r"exported by jax .*, which reads calling conventions 99 to"):
        serving.load(files / "guided.jaxdiff")


def test_without_flatbuffers_it_says_what_to_install(files, monkeypatch):
    def missing(*_):
        raise ImportError("Please install 'flatbuffers'")

    monkeypatch.setattr(jax_export, "deserialize", missing)
    with pytest.raises(InputError, match="pip install flatbuffers"):
        serving.load(files / "guided.jaxdiff")


def test_tensors_are_read_as_the_library_reads_them():
    rng = np.random.default_rng(0)
    arrays = {
        "a/b": rng.standard_normal((2, 3)).astype(np.float32),
        "s": np.array(3.0, np.float32),
        "é": np.ones(0, np.float32),
    }
    content = save(arrays, {"config": "{}"})
    found, expected = serving.read_tensors(content), load(content)
    assert found.keys() == expected.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name])
    for cut in (content[:-1], content[:20], content[:4]):
        with pytest.raises(ValueError, match=r"buffer size|Unterminated|Expecting"):
            serving.read_tensors(cut)
