"""The jobs of the app against the functions that they are made of."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from PIL import Image

from jaxdiff import InputError, build, runs, sampling, tasks
from jaxdiff.app import Limits, images
from jaxdiff.app.limits import TooLargeError
from jaxdiff.app.model import Model, Settings
from jaxdiff.data import digits
from jaxdiff.noise import example_keys, fold_in
from jaxdiff.pixels import from_uint8, to_uint8

LIMITS = Limits(max_pictures=4, max_steps=60, max_pixels=100_000)
LEFT = np.repeat(np.arange(8) >= 4, 8).reshape(8, 8).T[..., None].astype(np.float32)  # the left half is painted


@pytest.fixture(scope="module")
def model(trained):
    config, spec = runs.load_run(trained / "run")
    params = tiny.first_params(config, spec, noise=0.1)
    return Model("tiny", config, spec, params, LIMITS)


@pytest.fixture(scope="module")
def image():
    return digits().gather(np.array([3]))["image"][0]


def of(job):
    """The frames of a job, of which there are as many as it says."""
    frames = list(job.frames())
    assert [frame.done for frame in frames] == list(range(job.steps + 1))
    return frames


def png(array, mode=None, kind="png"):
    file = io.BytesIO()
    Image.fromarray(array, mode).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    "settings",
    [
        {"num": 4, "seed": 3},
        {"num": 1, "steps": 5, "guidance": 1.0, "labels": [7]},
        {"num": 3, "sampler": "ddpm", "labels": [2, -1], "temperature": 0.8},
        {"num": 2, "sampler": "dpm_solver++", "guidance": 3.0},
        {"num": 2, "sampler": "ddim", "eta": 0.5, "steps": 2},
    ],
)
def test_the_pictures_are_those_of_the_sampling_command(model, settings):
    """By the same seed, whatever others are made with them."""
    job = model.sample(Settings(**settings))
    config = build.with_sample(model.config, {k: v for k, v in settings.items() if k not in ("num", "seed", "labels")})
    told = np.where(job.labels < 0, 10, job.labels)
    assert job.labels.tolist() == np.resize(settings.get("labels", range(10)), settings["num"]).tolist()
    theirs = np.concatenate(
        list(
            sampling.in_batches(
                sampling.pmapped(sampling.generator(config, model.spec)), config, model.params,
                jax.random.key(settings.get("seed", 0)), told, num=settings["num"], batch=8,
            )
        )
    )  # fmt: skip
    ours = of(job)[-1].pictures
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours.astype(int), theirs, atol=1)


def test_the_process_begins_with_noise_of_unit_variance(model):
    first = of(model.sample(Settings(num=4)))[0].pictures
    levels = np.sort(first.ravel()).astype(float)
    inside = (levels > 0) & (levels < 255)
    assert abs(np.mean(inside) - 0.683) < 0.08  # of N(0, 1), between -1 and 1


def test_inpainting_is_repaint_and_keeps_what_is_known(model, image):
    job = model.inpaint(Settings(num=2, steps=6, seed=5), image, LEFT, jump_length=2, resamplings=3)
    pictures = of(job)[-1].pictures
    np.testing.assert_array_equal(pictures[:, :, 4:], np.stack([image] * 2)[:, :, 4:])
    config = build.with_sample(model.config, {"sampler": "ddpm", "steps": 6})
    sampler, times, scale, *_ = sampling.settings(config)
    keys = fold_in(example_keys(jax.random.key(5), jnp.arange(2)), 0)
    predict = sampling.guided(config, model.spec, model.params, jnp.full(2, 10, jnp.int32), scale)
    known, mask = jnp.asarray(np.stack([from_uint8(image) * LEFT] * 2)), jnp.asarray(LEFT[None])
    theirs = tasks.inpaint(keys, predict, known, mask, sampler=sampler, times=times, jump_length=2, resamplings=3)
    np.testing.assert_allclose(pictures.astype(int), to_uint8(np.asarray(theirs)), atol=1)
    assert (pictures[0, :, :4] != image[:, :4]).any()


@pytest.mark.parametrize("noise", [0.4, None])
@pytest.mark.parametrize("mean", [True, False])
def test_denoising_is_the_posterior(model, image, noise, mean):
    settings = Settings() if mean else Settings(num=2, steps=4, seed=5)
    job = model.denoise(settings, image, noise=noise, mean=mean)
    y = jnp.asarray(from_uint8(image)[None].repeat(settings.num, 0))
    std = float(tasks.estimate_noise(y)[0]) if noise is None else noise
    config = build.with_sample(model.config, {"sampler": "ddpm", "steps": 4})
    predict = sampling.guided(
        config, model.spec, model.params, jnp.full(settings.num, 10, jnp.int32), None
    )  # no guidance: the mean of what the image may be
    if mean:
        theirs = tasks.posterior_mean(predict, y, std, schedule=model.schedule)
    else:
        keys = fold_in(example_keys(jax.random.key(5), jnp.arange(2)), 0)
        sampler = build.sampler(config, model.schedule)
        theirs = tasks.posterior_samples(keys, predict, y, std, sampler=sampler, steps=4)
    np.testing.assert_allclose(of(job)[-1].pictures.astype(int), to_uint8(np.asarray(theirs)), atol=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": -1}, "steps: expected 1 to 60"),
        ({"steps": 0}, "steps: expected 1 to 60"),
        ({"steps": 61}, "steps: expected 1 to 60"),
        ({"num": 0}, "num 0: expected 1 to 4"),
        ({"num": 5}, "num 5: expected 1 to 4"),
        ({"seed": -1}, "seed -1: expected 0 <= seed"),
        ({"seed": 2**32}, "expected 0 <= seed"),
        ({"labels": [10]}, "labels 10: expected labels from 0 to 9, or -1"),
        ({"labels": [-2]}, "labels -2: expected"),
        ({"sampler": "ode"}, "sampler 'ode': expected one of ddim"),
        ({"sampler": "../x"}, "expected one of"),
        ({"sampler": "ddpm", "eta": 1.0}, "eta: the sampler ddpm has no eta"),
        ({"eta": -1.0}, "eta -1.0: expected 0 or more"),
        ({"sampler": "ddpm", "temperature": -1.0}, "temperature"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_any_work(model, image, settings, message):
    for job in (
        lambda one: model.sample(one),
        lambda one: model.inpaint(one, image, LEFT),
        lambda one: model.denoise(one, image),
    ):
        with pytest.raises(InputError, match=message):
            job(Settings(**settings))


def test_a_temperature_that_nothing_reads_is_refused(model):
    with pytest.raises(InputError, match="temperature: ddim, as it is set, draws no noise"):
        model.sample(Settings(temperature=0.5))


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"resamplings": 0}, "resamplings: expected a whole number, at least 1"),
        ({"resamplings": -3}, "resamplings: expected a whole number, at least 1"),
        ({"jump_length": 0, "resamplings": 1}, "jump_length: expected a whole number, at least 1"),
        ({"jump_length": 20, "resamplings": 2}, "expected fewer than the grid's 20 steps"),
        ({"jump_length": 1, "resamplings": 10}, "steps: expected 1 to 60 in all, got"),
        ({"resamplings": 10**12}, "steps: expected 1 to 60 in all, got"),
    ],
)
def test_resampling_that_cannot_be_is_refused(model, image, numbers, message):
    with pytest.raises(InputError, match=message):
        model.inpaint(Settings(steps=20), image, LEFT, **numbers)


def test_denoising_that_cannot_be_is_refused(model, image):
    for noise in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="noise .*: expected a positive number"):
            model.denoise(Settings(), image, noise=noise)
    with pytest.raises(InputError, match="there is but one such picture"):
        model.denoise(Settings(num=2), image, mean=True)
    with pytest.raises(InputError, match="there is but one such picture"):
        model.denoise(Settings(num=2, sampler="ddim"), image)
    with pytest.raises(InputError, match="steps: the mean is one call"):
        model.denoise(Settings(steps=5), image, mean=True)


def test_a_network_without_labels_is_told_none(model):
    plain = Model("plain", model.config, build.Spec((8, 8, 1), None), None, LIMITS)
    assert plain.sample(Settings()).labels is None
    with pytest.raises(InputError, match="labels: this network was trained without"):
        plain.sample(Settings(labels=[1]))
    with pytest.raises(InputError, match="guidance: this network was trained without"):
        plain.sample(Settings(guidance=2.0))


def test_limits_that_cannot_be_are_refused():
    with pytest.raises(InputError, match="--max-upload 0: expected at least 1"):
        Limits(max_upload=0)
    with pytest.raises(InputError, match="--max-seconds nan"):
        Limits(max_seconds=float("nan"))
    assert Limits(max_waiting=0).max_waiting == 0


def opened(content, **limits):
    return images.opened(content, "image", max_pixels=limits.get("max_pixels", LIMITS.max_pixels))


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"<svg/>", b"GIF89a", b"%!PS-Adobe EPS"])
def test_what_is_no_image_is_refused(content):
    with pytest.raises(InputError, match="image: is no image; expected a file of PNG, JPEG"):
        opened(content)


def test_a_damaged_image_is_refused():
    whole = png(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    with pytest.raises(InputError, match="image: cannot be read to its end"):
        images.as_pixels(opened(whole[: len(whole) // 2]), "image", (8, 8, 1))


def test_too_many_pixels_are_refused_by_the_header_alone():
    with pytest.raises(TooLargeError, match="image: 400x300 pixels; expected 100,000 at most"):
        opened(png(np.zeros((300, 400), np.uint8))[:200])


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "gif", "bmp"])
def test_images_of_all_formats_are_fitted(kind):
    """The middle square, of one grey."""
    wide = np.full((40, 60, 3), 255, np.uint8)
    wide[:, 10:50] = 100
    pixels = images.as_pixels(opened(png(wide, kind=kind)), "image", (8, 8, 1))
    assert pixels.shape == (8, 8, 1)
    assert abs(int(pixels[4, 4, 0]) - 100) <= 2
    assert images.as_pixels(opened(png(wide, kind=kind)), "image", (40, 60, 3)).shape == (40, 60, 3)
    with pytest.raises(InputError, match="image: 60x40 pixels; expected 6x4"):
        images.as_pixels(opened(png(wide, kind=kind)), "image", (4, 6, 1))


def test_masks():
    mask = np.zeros((16, 16), np.uint8)
    mask[:, :8] = 255
    for size in (16, 8):
        given = opened(png(mask[:: 16 // size, :: 16 // size]))
        np.testing.assert_array_equal(images.mask_of(given, (16, 16), (8, 8, 1)), LEFT)
    with pytest.raises(InputError, match="mask: 16x16 pixels; expected 8x8, or as many as the image has"):
        images.mask_of(opened(png(mask)), (32, 32), (8, 8, 1))
    with pytest.raises(InputError, match="nothing is to be painted"):
        images.mask_of(opened(png(np.zeros((8, 8), np.uint8))), (8, 8), (8, 8, 1))
