"""sample.py: formats, labels, the same picture whatever the batch, one program for all settings, and its errors."""

import dataclasses
import shlex

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from network_table import jit
from PIL import Image
from test_cli_train import fails
from tiny import first_params

from jaxdiff import InputError, build, sampling
from jaxdiff.cli import sample_main
from jaxdiff.config import Config, Sample, UNet
from jaxdiff.data.images import grid

pytestmark = pytest.mark.usefixtures("standard_promotion")


@pytest.fixture(scope="module")
def run(trained):
    return trained / "run"


@pytest.fixture
def make(run, tmp_path):
    """Sample with some options; return images and labels."""

    def make(options="", num=6, seed=1):
        out = tmp_path / "out.npz"
        sample_main(shlex.split(f"--run {run} --num {num} --seed {seed} --out {out} {options}"))
        with np.load(out) as file:
            return file["images"], file["labels"]

    return make


def close(a, b):
    """The same picture: programs of other batch sizes may round the last grey level another way."""
    assert np.abs(a.astype(int) - b.astype(int)).max() <= 1


def test_the_same_picture_for_any_batch_and_number(make):
    images, labels = make("--sampler ddpm")
    assert (images.dtype, images.shape) == (np.uint8, (6, 8, 8, 1))
    assert labels.tolist() == [0, 1, 2, 3, 4, 5]
    close(make("--sampler ddpm --batch 4")[0], images)
    close(make("--sampler ddpm --batch 1", num=3)[0], images[:3])
    assert np.abs(images[0].astype(int) - images[1]).max() > 50
    assert np.abs(make("--sampler ddpm", seed=2)[0].astype(int) - images).max() > 50


def test_labels_are_taken_in_turn(make):
    assert make("--labels 3")[1].tolist() == [3] * 6
    assert make("--labels 7 2 9")[1].tolist() == [7, 2, 9, 7, 2, 9]


def test_png_folder_and_npz_hold_the_same_pictures(run, make, tmp_path, capsys):
    images, _ = make()
    for out in ("grid.png", "folder"):
        sample_main(shlex.split(f"--run {run} --num 6 --seed 1 --out {tmp_path / out}"))
    with Image.open(tmp_path / "grid.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), grid(images)[..., 0])
    assert "not empty" in fails(capsys, sample_main, f"--run {run} --num 6 --seed 1 --out {tmp_path / 'folder'}")
    files = sorted((tmp_path / "folder").iterdir())
    assert [f.name for f in files] == [f"00000{i}_{i}.png" for i in range(6)]
    np.testing.assert_array_equal([np.asarray(Image.open(f)) for f in files], images[..., 0])


def test_the_starting_noise_is_cut_off_and_scaled(make):
    """Without any, a deterministic sampler makes one picture for each label; with nearly all, the same as ever."""
    plain = make("--labels 3")[0].astype(int)
    still = make("--labels 3 --start-scale 0")[0]
    close(still, np.repeat(still[:1], 6, axis=0))
    close(make("--labels 3 --truncation 1e-4")[0], still)
    close(make("--labels 3 --truncation 50")[0], plain)
    cut = make("--labels 3 --truncation 1")[0]
    assert 0 < np.std(cut.astype(int), axis=0).mean() < np.std(plain, axis=0).mean()


def test_pictures_are_changed_before_they_are_written(run, make, tmp_path, capsys):
    images, _ = make()
    turned = np.rot90(images[:, 1:7, 2:6], 1, (1, 2))
    how = "--crop 6 4 --rotate 90 --expand"
    np.testing.assert_array_equal(make(how)[0], turned)
    made = f"--run {run} --num 6 --seed 1"
    sample_main(shlex.split(f"{made} --out {tmp_path / 'grid.png'} {how}"))
    with Image.open(tmp_path / "grid.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), grid(turned)[..., 0])
    sample_main(shlex.split(f"{made} --out {tmp_path / 'folder'} --resize 32 --format jpeg --quality 90"))
    files = sorted((tmp_path / "folder").iterdir())
    assert [f.name for f in files] == [f"00000{i}_{i}.jpg" for i in range(6)]
    for file, image in zip(files, images, strict=True):
        expected = np.asarray(Image.fromarray(image[..., 0]).resize((32, 32), Image.Resampling.LANCZOS)).astype(int)
        assert np.abs(np.asarray(Image.open(file)) - expected).mean() < 4
    for options, words in [
        (f"--crop 9 --out {tmp_path / 'x.npz'}", "--crop 9: the pictures are 8 by 8"),
        (f"--format webp --out {tmp_path / 'x.npz'}", "--format webp: is of the files of a folder"),
        (f"--format png --out {tmp_path / 'x.png'}", "x.png is one file"),
        (f"--quality 9 --out {tmp_path / 'x'}", "--quality 9: is of --format jpeg or webp"),
        (f"--fill 9 --out {tmp_path / 'x'}", "--fill: is of --rotate"),
    ]:
        assert words in fails(capsys, sample_main, f"{made} {options}")
    assert not list(tmp_path.glob("x*"))


def test_weights_and_steps_choose_what_is_sampled(make):
    ema, _ = make()
    for other in ("--weights params", "--step 4"):
        assert (make(other)[0] != ema).any()
    np.testing.assert_array_equal(make("--step 6 --weights ema")[0], ema)
    close(make("--dtype bfloat16")[0] // 32, ema // 32)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--num 0", ["--num 0", "at least 1"]),
        ("--num 4 --batch 0", ["--batch 0"]),
        ("--num 4 --labels 10", ["--labels 10", "0 to 9"]),
        ("--num 4 --labels 3 -1", ["--labels -1"]),
        ("--num 4 --step 5", ["no checkpoint of step 5", "there are 4, 6"]),
        ("--num 4 --sampler heun9", ["unknown sampler 'heun9'", "ddpm, ddim"]),
        ("--num 4 --sampler ddpm --eta 1", ["ddpm has no eta"]),
        ("--num 4 --variance fixed_large", ["ddim has no variance"]),
        ("--num 4 --sampler ddpm --variance big", ["unknown variance 'big'"]),
        ("--num 4 --sampler euler --eta 0.5", ["--eta", "euler has no eta"]),
        ("--num 4 --temperature 0.5", ["ddim, as it is set, draws no noise", "ddpm"]),
        ("--num 4 --truncation 0", ["--truncation 0.0", "a positive number"]),
        ("--num 4 --start-scale -1", ["--start_scale -1.0", "0 or more"]),
        ("--num 4 --sampler ddpm --variance learned", ["learns no variance"]),
        ("--num 4 --guidance nan", ["--guidance nan", "a number"]),
        ("--num 4 --seed -1", ["--seed -1", "0 <= seed"]),
        ("--num 4 --seed 4294967296", ["--seed 4294967296"]),
        ("--num 4 --eta 2", ["eta: expected 0 to 1, got 2.0"]),
        ("--num 4 --steps 1001", ["table of 1000"]),
        ("--num 4 --spacing odd", ["unknown spacing 'odd'"]),
        ("--num four", ["--num", "four"]),
        ("", ["--num"]),
    ],
)
def test_errors(run, tmp_path, capsys, options, words):
    message = fails(capsys, sample_main, f"--run {run} {options} --out {tmp_path}/x.png")
    for word in words:
        assert word in message, message
    assert not (tmp_path / "x.png").exists()


def test_errors_of_the_run_and_of_out(run, tmp_path, capsys):
    assert "no run here" in fails(capsys, sample_main, f"--run {tmp_path} --num 4 --out x.png")
    (tmp_path / "run.json").write_text((run / "run.json").read_text())
    assert "no checkpoint in this run" in fails(capsys, sample_main, f"--run {tmp_path} --num 4 --out x.png")
    for damaged in (b"{", b"\xff\xfe", b"[]", b'{"image_shape": [8, 8], "num_classes": 10, "config": {}}'):
        (tmp_path / "run.json").write_bytes(damaged)
        assert "not readable" in fails(capsys, sample_main, f"--run {tmp_path} --num 4 --out x.png")
    assert ".png (a grid) or .npz" in fails(capsys, sample_main, f"--run {run} --num 4 --out x.jpg")


CONFIG = Config(
    model=UNet(channels=8, multipliers=(1,), blocks=1, attention_resolutions=()), sample=Sample(steps=2, guidance=2.0)
)
SPEC = build.Spec((8, 8, 1), 10)


def test_settings_do_not_recompile():
    """Another seed, labels, guidance, eta, temperature, starting noise or grid is the same program."""
    chex.clear_trace_counter()
    program = sampling.pmapped(chex.assert_max_traces(sampling.generator(CONFIG, SPEC), n=1))
    params = first_params(CONFIG, SPEC)
    for i in range(3):
        sample = Sample(
            steps=2, eta=i / 2, guidance=1.5 + i, temperature=0.5 * i, spacing=["trailing", "leading"][i % 2],
            truncation=[0.5, 2.0, None][i], start_scale=0.7 + i / 10,
        )  # fmt: skip
        config = dataclasses.replace(CONFIG, sample=sample)
        labels = sampling.cycle([i], 4)
        images = list(sampling.in_batches(program, config, params, jax.random.key(i), labels, num=4, batch=2))
        assert [len(x) for x in images] == [2, 2]


def test_guidance_changes_what_is_sampled_and_one_is_the_conditional_model():
    """With random weights: scale 1 equals the network called once with the labels, scale 3 does not."""
    params = first_params(CONFIG, SPEC, noise=0.1)
    schedule = build.schedule(CONFIG.diffusion)
    sampler, times = build.sampler(CONFIG, schedule), jnp.asarray(build.times(CONFIG.sample, schedule))
    args = (jax.random.key(0), jnp.arange(3), jnp.array([1, 5, 7]), sampler, times)
    generate = jit(sampling.generator(CONFIG, SPEC))
    none, one, three = (generate(params, *args, w, jnp.float32(1.0)) for w in (None, jnp.float32(1), jnp.float32(3)))
    np.testing.assert_allclose(none, one, atol=1e-4)
    assert float(jnp.abs(one - three).max()) > 0.01

    from jaxdiff import denoise, prior, sample
    from jaxdiff.noise import example_keys

    keys = example_keys(args[0], args[1])
    start, steps = (jax.vmap(jax.random.fold_in, (0, None))(keys, i) for i in range(2))
    model = build.model(CONFIG, SPEC, params, args[2])
    predict = denoise.clip_x0(denoise.denoiser(model, schedule=schedule, kind="eps"), schedule=schedule)
    direct = sample(steps, predict, sampler, times, prior(start, (3, 8, 8, 1), schedule=schedule))
    np.testing.assert_allclose(one, direct, atol=1e-4)


def test_pictures_that_are_not_finite_are_refused():
    params = first_params(CONFIG, SPEC, noise=np.nan)
    config = dataclasses.replace(CONFIG, sample=Sample(steps=2, clip=False))
    program = sampling.pmapped(sampling.generator(config, SPEC))
    with pytest.raises(InputError, match="not finite"):
        list(sampling.in_batches(program, config, params, jax.random.key(0), sampling.cycle([1], 2), num=2, batch=2))


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_bfloat16_stays_near_float32_through_a_thousand_steps(sampler):
    """With random weights: the pictures are finite, and differ by a few of 256 grey levels."""
    params = first_params(CONFIG, SPEC, noise=0.1)
    pictures = {}
    for dtype in ("float32", "bfloat16"):
        model = dataclasses.replace(CONFIG.model, dtype=dtype)
        config = dataclasses.replace(CONFIG, model=model, sample=Sample(sampler=sampler, steps=1000))
        program, labels = sampling.pmapped(sampling.generator(config, SPEC)), sampling.cycle(range(10), 4)
        made = sampling.in_batches(program, config, params, jax.random.key(1), labels, num=4, batch=4)
        pictures[dtype] = np.concatenate(list(made)).astype(int)
    difference = np.abs(pictures["bfloat16"] - pictures["float32"])
    assert 0 < difference.mean() < 3
    assert pictures["float32"].std() > 30
