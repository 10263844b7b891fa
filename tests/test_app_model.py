"""The jobs of the app against the functions that they are made of."""

import asyncio
import io
import logging
import re
import threading
from contextlib import aclosing, contextmanager

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from PIL import Image

from jaxdiff import InputError, build, runs, sampling, tasks
from jaxdiff.app import Limits, images
from jaxdiff.app.limits import BusyError, TooLargeError
from jaxdiff.app.line import Line, worked
from jaxdiff.app.model import Frame, Job, Model, Settings
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
    for noise in (0.0, -1.0, float("nan"), float("inf"), 1e39):
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


def jpeg_of_scans(scans):
    """A progressive JPEG whose last scan is there so often."""
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    Image.fromarray(noise).save(file, "jpeg", progressive=True)
    whole = file.getvalue()
    last = whole.rindex(b"\xff\xda")
    return whole[:-2] + whole[last:-2] * scans + whole[-2:]


def test_a_jpeg_that_asks_for_thousands_of_passes_is_refused():
    opened(jpeg_of_scans(1))
    with pytest.raises(TooLargeError, match="a JPEG of more than 64 scans"):
        opened(jpeg_of_scans(100))


def turned(array):
    """As a camera held upright writes it."""
    file = io.BytesIO()
    picture = Image.fromarray(np.rot90(array).copy())  # turned back by orientation 6
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(file, "png", exif=exif)
    return file.getvalue()


def test_an_image_that_exif_turns_has_the_mask_that_people_see():
    picture, mask = np.zeros((20, 40), np.uint8), np.zeros((20, 40), np.uint8)
    picture[:, :20], mask[:, :20] = 200, 255
    image = opened(turned(picture))
    assert images.upright_size(image) == (40, 20)
    known = images.mask_of(opened(png(mask)), (40, 20), (8, 8, 1))
    pixels = images.as_pixels(image, "image", (8, 8, 1))
    np.testing.assert_array_equal(known[..., 0] == 0, pixels[..., 0] > 100)
    np.testing.assert_array_equal(images.as_pixels(opened(turned(picture)), "image", (20, 40, 1))[..., 0], picture)


def test_what_is_transparent_in_a_mask_is_kept():
    mask = np.zeros((8, 8, 4), np.uint8)
    mask[:, :4] = 255
    np.testing.assert_array_equal(images.mask_of(opened(png(mask)), (8, 8), (8, 8, 1)), LEFT)


def test_a_mask_for_pictures_that_are_no_squares():
    mask = np.zeros((40, 60), np.uint8)
    mask[:, :30] = 255
    known = images.mask_of(opened(png(mask)), (60, 40), (4, 6, 1))
    assert known[..., 0].tolist() == [[0, 0, 0, 1, 1, 1]] * 4


def test_defaults_of_resampling_fit_the_sampler_and_the_steps(model, image):
    assert model.inpaint(Settings(steps=1), image, LEFT).steps == 1
    assert model.inpaint(Settings(steps=3, sampler="unipc"), image, LEFT).steps == 3
    assert model.inpaint(Settings(steps=3), image, LEFT).steps > 3


def test_a_step_is_compiled_once(model):
    """Not anew for what the first step returned, and for no other settings."""
    twin = Model("twin", model.config, model.spec, model.params, LIMITS)
    for settings in ({"sampler": "heun"}, {"sampler": "heun", "steps": 7, "seed": 4, "labels": [3], "guidance": 2.0}):
        with count_compilations() as compiled:
            of(twin.sample(Settings(**settings)))
        assert [name for name in compiled if "step" in name] == (["jit(_step)"] if "seed" not in settings else [])
    assert compiled == []


@contextmanager
def count_compilations():
    """The names of all programs that are compiled meanwhile."""
    found, before = [], jax.config.jax_log_compiles

    class Reader(logging.Handler):
        def emit(self, record):
            if name := re.match(r"Compiling (\S+)", record.getMessage()):
                found.append(name[1])

    reader, logger = Reader(), logging.getLogger("jax._src.interpreters.pxla")
    logger.addHandler(reader)
    jax.config.update("jax_log_compiles", True)
    try:
        yield found
    finally:
        logger.removeHandler(reader)
        jax.config.update("jax_log_compiles", before)


def line_of(at_once=1, waiting=2):
    return Line(at_once=at_once, waiting=waiting)


def slow_job(gate, steps=3):
    def frames():
        for i in range(steps + 1):
            if i:
                gate.wait(10)
            yield Frame(i, np.zeros((1, 1, 1, 1), np.uint8))

    return Job(steps, None, frames)


def test_a_place_is_kept_until_the_step_has_ended_that_was_cancelled():
    """A thread cannot be stopped: another one must not be begun beside it."""

    async def scenario():
        line, gate = line_of(), threading.Event()

        async def work():
            async with line.join(), aclosing(worked(slow_job(gate), seconds=60)) as frames:
                async for _ in frames:
                    pass

        task = asyncio.create_task(work())
        await asyncio.sleep(0.3)
        task.cancel()
        await asyncio.sleep(0.3)
        assert len(line.tickets) == 1
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert line.tickets == []

    asyncio.run(scenario())


def test_work_that_takes_too_long_is_ended():
    """But for the first step, which may compile."""
    gate, seen = threading.Event(), []

    async def scenario():
        async for frame in worked(slow_job(gate), seconds=0.2):
            seen.append(frame.done)
            gate.set()
            await asyncio.sleep(0.3)

    with pytest.raises(InputError, match="stopped after 0.2 s, 1 of 3 steps: ask for fewer"):
        asyncio.run(scenario())
    assert seen == [0, 1]


def test_the_line_is_first_come_first_served():
    async def scenario():
        line, order = line_of(at_once=2, waiting=3), []

        async def visit(i):
            async with line.join() as ticket:
                async for _ in ticket.wait(every=10):
                    pass
                order.append(i)
                await asyncio.sleep(0.05)

        tasks_ = [asyncio.create_task(visit(i)) for i in range(5)]
        await asyncio.sleep(0)
        assert [ticket.ahead for ticket in line.tickets] == [-2, -1, 0, 1, 2]
        with pytest.raises(BusyError, match="5 requests are here already"):
            line.join()
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*tasks_)
        assert order == [0, 1, 2, 3, 4]
        assert asyncio.get_running_loop().time() - began < 5  # nobody waited for the clock
        assert line.tickets == []

    asyncio.run(scenario())
