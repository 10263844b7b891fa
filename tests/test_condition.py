"""What a network of super-resolution is given: against Pillow, numpy and the forward process; and who binds it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from network_table import jit
from PIL import Image
from tiny import first_params

from jaxdiff import InputError, build, condition, likelihood, schedules
from jaxdiff import config as configs
from jaxdiff.config import Condition, Config, Diffusion, UNet
from jaxdiff.data import ArraySource, Resized
from jaxdiff.denoise import clip_x0
from jaxdiff.noise import example_keys, fold_in, white_noise
from jaxdiff.process import q_sample

RNG = np.random.default_rng(0)
LOW = RNG.uniform(-1, 1, (5, 4, 6, 3)).astype(np.float32)
KEYS = example_keys(jax.random.key(0), jnp.arange(5))


@pytest.mark.parametrize("reduction", condition.REDUCTIONS)
@pytest.mark.parametrize("enlargement", condition.ENLARGEMENTS)
@pytest.mark.parametrize("factor", [2, 3])
def test_a_constant_stays_one(reduction, enlargement, factor):
    constant = jnp.broadcast_to(jnp.array([-1.0, 0.25, 1.0]), (2, 6, 12, 3))
    low = condition.reduced(constant, factor=factor, reduction=reduction)
    assert low.shape == (2, 6 // factor, 12 // factor, 3)
    back = condition.enlarged(low, factor=factor, enlargement=enlargement)
    np.testing.assert_allclose(back, constant, atol=2e-6)


def test_the_means_are_those_of_squares():
    low = condition.reduced(jnp.asarray(LOW), factor=2)
    for y in range(2):
        for x in range(3):
            square = LOW[:, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
            np.testing.assert_allclose(low[:, y, x], square.mean((1, 2)), atol=1e-6)


@pytest.mark.parametrize("factor", [2, 4])
def test_lanczos_is_what_data_size_does_to_a_grey_level(factor):
    """So that a stage is trained on what the base of its cascade makes. Pillow rounds twice, each direction by itself."""
    images = RNG.integers(0, 256, (6, 16, 16, 1), np.uint8)
    theirs = Resized(ArraySource(images), size=16 // factor).gather(np.arange(6))["image"]
    ours = condition.reduced(jnp.asarray(images.astype(np.float32) / 127.5 - 1), factor=factor, reduction="lanczos")
    assert np.abs(127.5 * (np.asarray(ours) + 1) - theirs.astype(np.float32)).max() <= 1.01
    assert np.abs(ours).max() <= 1


@pytest.mark.parametrize("enlargement", condition.ENLARGEMENTS)
def test_enlargements_are_pillow_s(enlargement):
    ours = np.asarray(condition.enlarged(jnp.asarray(LOW), factor=3, enlargement=enlargement))
    how = Image.Resampling[enlargement.upper()]
    for image, large in zip(LOW, ours):
        for c in range(3):
            theirs = np.asarray(Image.fromarray(image[..., c]).resize((18, 12), how))
            np.testing.assert_allclose(large[..., c], theirs, atol=2e-6)


def test_no_noise_at_level_0_and_nothing_else_at_1():
    np.testing.assert_array_equal(condition.augmented(KEYS, LOW, 0.0), LOW)
    np.testing.assert_array_equal(condition.augmented(KEYS, LOW, 1.0), white_noise(KEYS, LOW.shape))


def test_the_augmentation_is_the_forward_process():
    """Of any schedule that preserves the variance, at the time whose sigma is the level."""
    vp = schedules.VP()
    t = jnp.linspace(0.1, 0.9, 5)
    expected = q_sample(jnp.asarray(LOW), t, white_noise(KEYS, LOW.shape), schedule=vp)
    np.testing.assert_allclose(condition.augmented(KEYS, LOW, vp.sigma(t)), expected, atol=1e-5)


def test_the_marginal_of_what_the_network_is_told():
    """A picture of constant colour c at the level s: N(sqrt(1 - s^2) c, s^2) in every channel of nearest pixels."""
    n, c, s = 4000, 0.7, 0.3
    low = jnp.full((n, 2, 2, 1), c)
    told = condition.channels(jax.random.key(1), low, s, factor=2, enlargement="nearest")
    np.testing.assert_array_equal(told[..., 1], np.float32(s))
    z = np.asarray(told[:, ::2, ::2, 0], np.float64)
    np.testing.assert_array_equal(told[:, 1::2, 1::2, 0], told[:, ::2, ::2, 0])
    count = z.size
    assert abs(z.mean() - np.sqrt(1 - s**2) * c) < 5 * s / np.sqrt(count)
    assert abs(z.var() - s**2) < 5 * s**2 * np.sqrt(2 / count)
    covariance = np.cov(z.reshape(n, -1).T)
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 5 * s**2 / np.sqrt(n)


def test_a_picture_s_channels_do_not_depend_on_its_batch():
    levels = jnp.array([0.0, 0.1, 0.2, 0.3, 0.4])
    every = condition.channels(KEYS, LOW, levels, factor=2)
    assert every.shape == (5, 8, 12, 4)
    np.testing.assert_array_equal(condition.channels(KEYS[2:4], LOW[2:4], levels[2:4], factor=2), every[2:4])
    np.testing.assert_array_equal(condition.channels(jax.random.key(0), LOW, levels, factor=2), every)
    for i, level in enumerate(levels):
        np.testing.assert_array_equal(every[i, ..., -1], level)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: condition.reduced(LOW, factor=4), "4x6 pixels are not divisible by the factor 4"),
        (lambda: condition.reduced(LOW, factor=2, reduction="box"), "mean, lanczos, got 'box'"),
        (lambda: condition.enlarged(LOW, factor=2, enlargement="cubic"), "bicubic, bilinear, nearest, got 'cubic'"),
        (lambda: condition.augmented(KEYS, LOW, 1.5), "from 0 to 1, got 1.5"),
        (lambda: condition.augmented(KEYS, LOW, float("nan")), "from 0 to 1, got nan"),
        (lambda: condition.augmented(KEYS[:3], LOW, 0.5), "one key or 5 keys"),
    ],
)
def test_errors(call, words):
    with pytest.raises(InputError, match=words):
        call()


# --- who binds it ---------------------------------------------------------------------------------------------------

SPEC = build.Spec((8, 8, 1), 3)
NET = UNet(channels=8, multipliers=(1,), blocks=1, attention_resolutions=(), groups=4)
CONFIG = Config(model=NET, condition=Condition(factor=2, augmentation=0.4, level=0.2))
BATCH = {"image": RNG.integers(0, 256, (5, 8, 8, 1), np.uint8), "label": np.arange(5, dtype=np.int32) % 3}
X0 = BATCH["image"].astype(np.float32) / 127.5 - 1


def test_training_draws_levels_evenly_and_sampling_takes_its_own():
    n = 3000
    keys, images = example_keys(jax.random.key(3), jnp.arange(n)), jnp.zeros((n, 4, 4, 1))
    level = np.asarray(build.channels_of(CONFIG, keys, images)[:, 0, 0, -1], np.float64) / 0.4
    assert level.min() >= 0
    assert level.max() < 1
    assert abs(level.mean() - 1 / 2) < 5 * np.sqrt(1 / 12 / n)
    assert abs((level**2).mean() - 1 / 3) < 5 * np.sqrt(4 / 45 / n)
    given = build.channels_of(CONFIG, keys, images, level=0.2)
    np.testing.assert_array_equal(given[..., -1], np.float32(0.2))
    z = np.asarray(given[..., 0])
    assert z.std() > 0.1  # of the noise, the images being zero
    none = dataclasses.replace(CONFIG, condition=Condition(factor=2, augmentation=0.0))
    np.testing.assert_array_equal(build.channels_of(none, keys, images), np.zeros((n, 4, 4, 2)))
    assert build.channels_of(Config(), keys, images) is None


@pytest.mark.parametrize(
    "diffusion",
    [
        Diffusion(kind="v"),
        Diffusion(kind="eps", learned_variance=True),
        Diffusion(schedule="edm", kind="F", preconditioning="edm", times="log_normal", weight="edm"),
    ],
    ids=["v", "learned variance", "edm"],
)
def test_the_loss_is_that_of_the_network_given_these_channels(diffusion):
    config = dataclasses.replace(CONFIG, diffusion=diffusion, log=configs.Log(time_buckets=0))
    params = first_params(config, SPEC, noise=0.05)
    terms = jit(build.eval_loss_fn(config, SPEC))(params, BATCH, KEYS)
    alphas = build.schedule(diffusion)
    t, eps = build.times_seen(diffusion, alphas)(fold_in(KEYS, 0)), white_noise(fold_in(KEYS, 1), X0.shape)
    image = build.channels_of(config, KEYS, jnp.asarray(X0))
    low = X0.reshape(5, 4, 2, 4, 2, 1).mean((2, 4))
    s = np.asarray(image)[:, :1, :1, -1:]
    assert np.abs(np.asarray(image)[..., :1] - np.sqrt(1 - s**2) * low.repeat(2, 1).repeat(2, 2)).mean() < 0.8

    def measure(params):
        net = build.model(config, SPEC, params, BATCH["label"], image=image)
        return build.measured(diffusion, alphas)(X0, t, eps, model=net, schedule=alphas, kind=diffusion.kind)

    for name, term in jit(measure)(params).items():
        np.testing.assert_allclose(terms[name], term, rtol=1e-4)
    # And the channels are of consequence.
    other = dataclasses.replace(config, condition=dataclasses.replace(config.condition, augmentation=0.0))
    assert (
        np.abs(np.asarray(jit(build.eval_loss_fn(other, SPEC))(params, BATCH, KEYS)["loss"] - terms["loss"])).min() > 0
    )


def test_the_bound_is_of_an_image_given_its_smaller_one():
    config = dataclasses.replace(CONFIG, diffusion=Diffusion(schedule="linear", steps=8))
    params = first_params(config, SPEC, noise=0.05)
    _, _, loss = build.bound_by_step(config, SPEC)
    alphas = build.schedule(config.diffusion)

    def direct(params):
        image = build.channels_of(config, KEYS, jnp.asarray(X0), level=0.2)
        predict = clip_x0(build.denoiser(config, SPEC, params, BATCH["label"], image=image), schedule=alphas)
        grid = np.arange(8, -1, -1) / 8
        return likelihood.vlb(KEYS, X0, predict, schedule=alphas, times=grid, variance="fixed_large")["total"]

    np.testing.assert_allclose(jit(loss)(params, BATCH, KEYS)["total"], jit(direct)(params), rtol=1e-5)
    assert set(jit(build.bits_per_dim(config, SPEC, "vlb"))(params, BATCH, KEYS)) >= {"bits_per_dim_vlb"}
    errors = jit(build.errors_by_time(config, SPEC, np.array([0.5, 1.0]), own=True))(params, BATCH, KEYS)
    assert np.isfinite(errors["eps"]).all()
    assert errors["own loss"].shape == (5, 2)


def test_a_network_that_is_given_nothing_and_one_that_lacks_it_are_told_apart():
    params = first_params(CONFIG, SPEC)
    with pytest.raises(InputError, match="this network enlarges pictures"):
        build.denoiser(CONFIG, SPEC, params, BATCH["label"])
    plain = Config(model=NET)
    with pytest.raises(InputError, match="is given nothing beside x_t"):
        build.denoiser(plain, SPEC, first_params(plain, SPEC), BATCH["label"], image=jnp.zeros((5, 8, 8, 2)))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"factor": 1}, "condition.factor 1: expected a whole number, 2 or more"),
        ({"factor": 2, "augmentation": 1.2}, "condition.augmentation 1.2: expected 0"),
        (
            {"factor": 2, "augmentation": 0.1, "level": 0.2},
            "condition.level 0.2: expected 0 to condition.augmentation 0.1",
        ),
    ],
)
def test_settings_that_no_run_can_have(settings, words):
    with pytest.raises(InputError, match=words):
        configs.check(Config(condition=Condition(**settings)))


def test_sides_that_the_factor_does_not_divide_are_refused():
    config = dataclasses.replace(CONFIG, condition=Condition(factor=3))
    with pytest.raises(InputError, match=r"--condition.factor 3: does not divide the images' sides, 8x8"):
        build.network(config, SPEC)


def test_only_the_level_of_sampling_may_change_when_a_run_resumes():
    for name, value in [("factor", 4), ("reduction", "lanczos"), ("enlargement", "nearest"), ("augmentation", 0.5)]:
        other = dataclasses.replace(CONFIG, condition=dataclasses.replace(CONFIG.condition, **{name: value}))
        assert list(configs.differences(CONFIG, other)) == [f"condition.{name}"]
    other = dataclasses.replace(CONFIG, condition=dataclasses.replace(CONFIG.condition, level=0.0))
    assert configs.differences(CONFIG, other) == {}
    old = configs.to_dict(Config())
    del old["condition"]  # of a run from before there was one
    assert configs.from_dict(old) == Config()
