"""A run of super-resolution through train.py, `jaxdiff super-resolution` and cascades, and who refuses such a run."""

import dataclasses
import json
import re
import shlex
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_parallel
import tiny
from network_table import jit
from PIL import Image
from processes import ROOT, final_state, finish, start_python
from test_cli_train import fails
from tiny import first_params

from jaxdiff import InputError, build, cascades, metrics, pretrained, runs, sampling
from jaxdiff.cli import main, sample_main, train_main
from jaxdiff.config import Condition, Config, Sample, UNet
from jaxdiff.data import digits
from jaxdiff.noise import example_keys, fold_in
from jaxdiff.report import read_metrics
from jaxdiff.tasks.super_resolution import super_resolve

pytestmark = pytest.mark.usefixtures("standard_promotion")

CONFIG = tiny.CONFIG.replace("import Config", "import Condition, Config, Data").replace(
    "optim=", "condition=Condition(factor=2), data=Data(holdout=50),\n    optim="
)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A run from 4x4 to 8x8 digits, `run`, and one that makes 4x4 digits, `base`; beside their config files."""
    folder = tmp_path_factory.mktemp("super_resolution")
    (folder / "sr.py").write_text(CONFIG)
    (folder / "base.py").write_text(tiny.CONFIG.replace("import Config", "import Config, Data").replace(
        "optim=", "data=Data(size=4),\n    optim="))  # fmt: skip
    with jax.numpy_dtype_promotion("standard"):
        train(folder, "sr.py", "run", "--log.samples 6")
        train(folder, "base.py", "base", "--train.steps 2")
    return folder


def train(folder, config, run, options=""):
    train_main(shlex.split(f"--config {folder / config} --run {folder / run} {options}"))


@pytest.fixture
def enlarge(here, tmp_path):
    """Enlarge some; return images and labels."""

    def enlarge(options="", images="digits --degrade --num 5", run="run"):
        out = tmp_path / "out.npz"
        main(shlex.split(f"super-resolution --run {here / run} --images {images} --out {out} {options}"))
        with np.load(out) as file:
            return file["images"], file["labels"]

    return enlarge


def close(a, b):
    """But for the last grey level, which programs of other batch sizes may round another way."""
    assert a.shape == b.shape
    assert np.abs(a.astype(int) - b.astype(int)).max() <= 1


def test_a_run_trains_evaluates_and_shows_threes(here):
    lines = read_metrics(here / "run" / "metrics.jsonl")
    assert np.isfinite([line["loss"] for line in lines if "loss" in line]).all()
    assert sum("eval_loss" in line for line in lines) == 3
    with Image.open(here / "run" / "samples" / "step_000006.png") as file:
        picture = np.asarray(file)
    assert picture.shape == (6 * 33 + 1, 3 * 33 + 1) or picture.shape == (3 * 33 + 1, 6 * 33 + 1)
    threes = [
        picture[1 + 33 * y : 33 + 33 * y, 1 + 33 * x : 33 + 33 * x].reshape(8, 4, 8, 4)[:, 0, :, 0]
        for y in range(picture.shape[0] // 33) for x in range(picture.shape[1] // 33)
    ]  # fmt: skip
    real = {image.tobytes() for image in digits().images[..., 0]}
    for low, made, image in zip(*(threes[i::3] for i in range(3))):
        assert image.tobytes() in real
        assert made.tobytes() not in real
        np.testing.assert_allclose(low[::2, ::2], image.reshape(4, 2, 4, 2).mean((1, 3)), atol=0.51)


def test_it_resumes_bitwise_also_with_the_gradient_in_parts(here):
    for options in ("--train.steps 4", ""):
        train(here, "sr.py", "parts", options)
    whole, parts = final_state(here / "run"), final_state(here / "parts")
    assert whole.keys() == parts.keys()
    for name, x in whole.items():
        np.testing.assert_array_equal(parts[name], x, err_msg=name)
    train(here, "sr.py", "accumulated", "--train.accumulate 2")
    losses = [[line["loss"] for line in read_metrics(here / r / "metrics.jsonl") if "loss" in line]
              for r in ("run", "accumulated")]  # fmt: skip
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


def test_a_picture_is_a_function_of_the_seed_and_its_number(enlarge):
    images, labels = enlarge()
    assert (images.dtype, images.shape) == (np.uint8, (5, 8, 8, 1))
    assert labels.tolist() == [0, 1, 2, 3, 4]  # theirs
    close(enlarge("--batch 2")[0], images)
    close(enlarge(images="digits --degrade --num 3")[0], images[:3])
    assert np.abs(enlarge("--seed 1")[0].astype(int) - images).max() > 20
    assert np.abs(enlarge("--level 0.4")[0].astype(int) - images).max() > 1
    assert enlarge("--labels 7")[1].tolist() == [7] * 5


def test_draws_and_their_mean(enlarge):
    images, labels = enlarge("--draws 3")
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]
    draws = images.reshape(5, 3, 8, 8, 1)
    close(draws[:, 0], enlarge()[0])  # the first is the one that is alone
    assert all(np.abs(draws[:, i].astype(int) - draws[:, j]).max() > 20 for i, j in [(0, 1), (0, 2), (1, 2)])
    mean = enlarge("--draws 3 --mean")[0].astype(float)
    assert np.abs(mean - draws.mean(1)).max() <= 1.01


def test_small_pictures_are_taken_as_they_are(enlarge, here, tmp_path):
    """Reduced ones but for the rounding of levels, which shifts what is made of them by as little."""
    config, _ = runs.load_run(here / "run")
    large = digits().images[:5].astype(np.float32) / 127.5 - 1
    low = np.rint((np.asarray(build.lowered(config, jnp.asarray(large))) + 1) * 127.5).astype(np.uint8)
    np.savez(tmp_path / "low.npz", images=low, labels=np.arange(5))
    small, reduced = enlarge(images=tmp_path / "low.npz")[0], enlarge()[0]
    assert np.abs(small.astype(int) - reduced).mean() < 2


def test_a_png_begins_each_row_with_the_small_picture(here, tmp_path, enlarge):
    out = tmp_path / "rows.png"
    main(shlex.split(f"super-resolution --run {here / 'run'} --images digits --degrade --num 5 --draws 2 --out {out}"))
    with Image.open(out) as file:
        picture = np.asarray(file)
    assert picture.shape == (5 * 33 + 1, 4 * 33 + 1)
    real = digits().images[2, ..., 0]
    np.testing.assert_array_equal(picture[1 + 66 : 33 + 66, 1:33][::4, ::4], real)
    low = real.reshape(4, 2, 4, 2).mean((1, 3)).repeat(8, 0).repeat(8, 1)
    np.testing.assert_allclose(picture[1 + 66 : 33 + 66, 34:66], low, atol=0.51)
    draws = enlarge("--draws 2")[0]
    close(picture[1 + 66 : 33 + 66, 67:99][::4, ::4], draws[4, ..., 0])


def test_whole_images_are_compared_with(enlarge, capsys):
    """The PSNR said is scikit-image's definition of the pictures written, but for the rounding of their levels."""
    real = digits().images[:5].astype(float)
    images, _ = enlarge("--draws 3")
    said = capsys.readouterr().out
    draws = images.reshape(5, 3, 8, 8, 1).astype(float)

    def psnr(x):
        return np.mean(10 * np.log10(255**2 / np.mean((x - real) ** 2, axis=(1, 2, 3))))

    low = jnp.asarray(real.reshape(5, 4, 2, 4, 2, 1).mean((2, 4)), jnp.float32)
    bicubic = np.clip(jax.image.resize(low, real.shape, "cubic"), 0, 255)
    found = re.search(r"images: enlarged ([\d.]+) dB, mean of the draws ([\d.]+) dB, bicubic ([\d.]+) dB", said)
    expected = [psnr(draws[:, 0]), psnr(draws.mean(1)), psnr(bicubic)]
    np.testing.assert_allclose([float(x) for x in found.groups()], expected, atol=0.03)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--images digits", ["--images digits: 8x8x1; expected 4x4x1", "give --degrade"]),
        ("--images large.npz", ["large.npz: 9x9x3; expected 4x4x1, for the network; give --size 4 --channels 1"]),
        ("--images large.npz --degrade", ["expected 8x8x1, for the network; give --size 8 --channels 1"]),
        ("--images digits --num 9999", ["--num 9999: there are 1,797 images in digits"]),
        ("--images digits --num 0 --degrade", ["--num 0: expected at least 1"]),
        ("--images nowhere.npz", ["nowhere.npz: no such file"]),
        ("--images digits --degrade --level 0.6", ["--level 0.6: expected 0 to 0.5"]),
        ("--images digits --degrade --level nan", ["--level nan"]),
        ("--images digits --degrade --draws 0", ["--draws 0"]),
        ("--images digits --degrade --mean", ["--mean: the mean of one draw is that draw; give --draws 2"]),
        ("--images digits --degrade --labels 10", ["--labels 10: expected labels from 0 to 9"]),
        ("--images unlabelled.npz", ["--labels: unlabelled.npz has none", "10 classes"]),
        ("--images digits --degrade --classifier x.pt", ["--classifier: guides no super-resolution"]),
        ("--images digits --degrade --pretrained x", ["--pretrained", "give a --run"]),
        ("--images digits --degrade --steps 1001", ["table of 1000"]),
        ("--images digits --degrade --out x.jpg", [".png (a grid) or .npz"]),
    ],
)
def test_errors(here, tmp_path, monkeypatch, capsys, options, words):
    monkeypatch.chdir(tmp_path)
    np.savez("unlabelled.npz", images=np.zeros((3, 4, 4), np.uint8))
    np.savez("large.npz", images=np.zeros((3, 9, 9, 3), np.uint8), labels=np.arange(3))
    out = "" if "--out" in options else "--out x.png"
    message = fails(capsys, main, f"super-resolution --run {here / 'run'} {options} {out}")
    for word in words:
        assert word in message, message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large.npz", "unlabelled.npz"]


def test_a_run_that_enlarges_nothing_is_refused(here, tmp_path, capsys):
    options = f"--run {here / 'base'} --images digits --out {tmp_path / 'x.png'}"
    assert "trained without --condition.factor" in fails(capsys, main, f"super-resolution {options}")


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (sample_main, "--num 4 --out x.png"),
        (main, "evaluate --num 70 --features pixels"),
        (main, "plot process --out x.png"),
        (main, "plot neighbours --out x.png --features pixels"),
    ],
)
def test_who_makes_pictures_of_noise_alone_refuses_it(here, tmp_path, monkeypatch, capsys, command, options):
    monkeypatch.chdir(tmp_path)
    message = fails(capsys, command, f"{options} --run {here / 'run'}")
    assert "makes no pictures from noise alone" in message
    assert "jaxdiff super-resolution" in message
    assert not list(tmp_path.iterdir())


def test_training_refuses_what_it_cannot_do_with_one(here, tmp_path, capsys):
    start = f"--config {here / 'sr.py'} --run {tmp_path / 'run'}"
    net = pretrained.Pretrained(*runs.load_run(here / "run"), params={})
    net = dataclasses.replace(net, config=dataclasses.replace(net.config, model=UNet()))
    with pytest.raises(InputError, match="a network of super-resolution"):
        pretrained.save_diffusers(tmp_path / "net", net)
    for options, words in [
        ("--condition.factor 3", "--condition.factor 3: does not divide"),
        ("--condition.factor 2 --evaluate.every 2", "none with --condition.factor"),
        ("--condition.reduction box", "--condition.reduction"),
        ("--condition.level 0.7", "0 to condition.augmentation 0.5"),
    ]:
        assert words in fails(capsys, train_main, f"{start} {options}")
    assert not list(tmp_path.iterdir())


def test_errors_and_bits_of_images_are_those_given_their_smaller_ones(here, tmp_path):
    main(shlex.split(f"plot loss --run {here / 'run'} --num 8 --out {tmp_path / 'loss.png'}"))
    assert (tmp_path / "loss.png").stat().st_size > 5000
    options = f"--run {here / 'run'} --reference-num 4 --metrics bits_per_dim_vlb --out {tmp_path / 'bits.json'}"
    main(shlex.split(f"evaluate {options}"))
    found = json.loads((tmp_path / "bits.json").read_text())
    assert np.isfinite(found["metrics"]["bits_per_dim_vlb"])
    assert found["likelihood"]["bits_per_dim_vlb"]["condition"]["factor"] == 2


# --- cascades -------------------------------------------------------------------------------------------------------


def cascade(here, out, options="", stage="run", num=4):
    sample_main(shlex.split(f"--run {here / 'base'} --cascade {here / stage} --num {num} --out {out} {options}"))
    with np.load(out) as file:
        return file["images"], file["labels"]


def test_a_cascade_enlarges_what_its_base_makes(here, tmp_path):
    images, labels = cascade(here, tmp_path / "c.npz")
    assert (images.shape, labels.tolist()) == ((4, 8, 8, 1), [0, 1, 2, 3])
    close(cascade(here, tmp_path / "c.npz", "--batch 3", num=3)[0], images[:3])
    others, labels = cascade(here, tmp_path / "c.npz", "--cascade-levels 0.5 --labels 7")
    assert np.abs(others.astype(int) - images).max() > 1
    assert labels.tolist() == [7] * 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--cascade {here}/base", "trained without --condition.factor"),
        ("--cascade {here}/run {here}/run", "run: enlarges 4x4x1, and {here}/run makes 8x8x1"),
        ("--cascade {here}/other", "other: has 10 classes, and {here}/base none"),
        ("--cascade {here}/run --cascade-levels 0.1 0.2", "--cascade-levels: expected one for each of 1 stages, got 2"),
        ("--cascade {here}/run --cascade-levels 0.9", "--cascade-levels 0.9: expected 0 to 0.5"),
        ("--cascade-levels 0.9", "--cascade-levels without --cascade"),
        ("--cascade {here}/nowhere", "nowhere: no run here"),
    ],
)
def test_errors_of_cascades(here, tmp_path, capsys, options, words):
    place, base = here, here / "base"
    if "other" in options:  # a base without classes
        place = tmp_path / "runs"
        for name, of in (("base", "base"), ("other", "run")):
            shutil.copytree(here / of, place / name)
        base = place / "base"
        told = json.loads((base / "run.json").read_text())
        (base / "run.json").write_text(json.dumps(told | {"num_classes": None}))
    arguments = f"--run {base} --num 4 --out {tmp_path / 'x.png'} {options.format(here=place)}"
    message = fails(capsys, sample_main, arguments)
    assert words.format(here=place) in message, message
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize("level", [0.0, 0.3])
def test_a_stage_sees_what_the_base_makes_of_the_same_key(level):
    """With random networks: `cascaded` is `super_resolve` of the pictures of `generator`, with the stage's own keys."""
    net = UNet(channels=8, multipliers=(1,), blocks=1, attention_resolutions=(), groups=4)
    base = Config(model=net, sample=Sample(steps=2))
    large = dataclasses.replace(base, condition=Condition(factor=2))
    specs = build.Spec((4, 4, 1), None), build.Spec((8, 8, 1), None)
    params = first_params(base, specs[0], noise=0.1), first_params(large, specs[1], noise=0.1)
    key, index, how = jax.random.key(4), jnp.arange(3), sampling.settings(base)
    small = jit(sampling.generator(base, specs[0]))(params[0], key, index, None, *how)
    stage = jit(cascades.cascaded(sampling.generator(base, specs[0]), [(large, specs[1])]))
    made = stage(params, key, index, (None, (jnp.full(3, level),)), *([x, x] for x in how), None)
    keys = fold_in(example_keys(key, index), 2)  # of the first stage

    def direct(params, low):
        bind = lambda image: sampling.guided(large, specs[1], params, None, None, image=image)
        schedule = build.schedule(large.diffusion)
        return super_resolve(
            keys, low, bind=bind, factor=2, sampler=how[0], times=how[1], schedule=schedule, level=level
        )

    np.testing.assert_allclose(made, jit(direct)(params[1], small), atol=1e-4)


@pytest.mark.slow
def test_spread_over_two_devices_it_trains_and_shows_the_same(tmp_path):
    net = test_parallel.NET.replace("import Config", "import Condition, Config").replace(
        "optim=", "condition=Condition(factor=2),\n    optim="
    )
    (tmp_path / "net.py").write_text(net)
    how = ["--train.steps", "6", "--log.samples", "6", "--log.samples-every", "6", "--log.checkpoint-every", "6"]
    for process in [
        start_python(tmp_path, test_parallel.trainings(["--run", "1", *how])),
        start_python(
            tmp_path, test_parallel.trainings(["--run", "fsdp", "--parallel", "fsdp", *how], ["--run", "2", *how]),
            devices=2,
        ),
    ]:  # fmt: skip
        finish(process)
    one = final_state(tmp_path / "1")
    picture = np.asarray(Image.open(tmp_path / "1" / "samples" / "step_000006.png")).astype(int)
    for run in ("2", "fsdp"):
        for name, x in final_state(tmp_path / run).items():
            np.testing.assert_allclose(x, one[name], atol=1e-5, err_msg=name)
        other = np.asarray(Image.open(tmp_path / run / "samples" / "step_000006.png")).astype(int)
        assert np.abs(other - picture).max() <= 1


@pytest.mark.slow
def test_a_short_training_enlarges_better_than_bicubic(tmp_path):
    """On digits that it has not seen: PSNR of the mean of four draws, and of one."""
    config = ROOT / "configs" / "digits_super_resolution.py"
    train_main(shlex.split(f"--config {config} --run {tmp_path / 'run'} --log.samples 0 --train.steps 300"))
    settings, _ = runs.load_run(tmp_path / "run")
    _, held_out = build.sources(settings)
    unseen = tiny.everything(held_out)
    np.savez(tmp_path / "unseen.npz", images=unseen["image"], labels=unseen["label"])
    found = {}
    for name, options in (("one", ""), ("mean", "--draws 4 --mean")):
        out = tmp_path / f"{name}.npz"
        main(shlex.split(f"super-resolution --run {tmp_path / 'run'} --images {tmp_path / 'unseen.npz'} --degrade "
                         f"--out {out} {options}"))  # fmt: skip
        found[name] = np.load(out)["images"]
    low = build.lowered(settings, jnp.asarray(unseen["image"].astype(np.float32) / 127.5 - 1))
    bicubic = np.clip(jax.image.resize(low, (200, 8, 8, 1), "cubic"), -1, 1)
    psnr = {name: float(metrics.psnr(x.astype(np.float32) / 127.5 - 1, unseen["image"].astype(np.float32) / 127.5 - 1)
                        .mean()) for name, x in found.items()}  # fmt: skip
    psnr["bicubic"] = float(metrics.psnr(bicubic, unseen["image"].astype(np.float32) / 127.5 - 1).mean())
    print(psnr)
    assert psnr["mean"] > psnr["one"] > psnr["bicubic"] + 1
