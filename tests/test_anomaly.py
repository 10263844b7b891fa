"""Anomalies: what a Gaussian model restores, and loses, has closed forms; so has how well that tells."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm
from tiny import first_params

from jaxdiff import DDIM, build, losses, schedules, testing, timesteps, white_noise
from jaxdiff.build import Spec
from jaxdiff.config import Config, Diffusion, DiT, Sample
from jaxdiff.data import digits
from jaxdiff.metrics import Normal, auroc
from jaxdiff.samplers import DDPM, Heun
from jaxdiff.tasks import anomaly
from jaxdiff.typing import InputError

MEAN, STD = 0.3, 0.5
LEVELS = np.array([0.2, 0.5, 0.8])
SCHEDULES = [schedules.Flow(), schedules.cosine(1000), schedules.VP()]


def exact(schedule):
    return testing.gaussian_denoiser(mean=MEAN, std=STD, schedule=schedule)


def level_of(schedule):
    """alpha, sigma, and the variance of x_t of normal data."""
    t = jnp.asarray(LEVELS, jnp.float32)
    alpha, sigma = (np.asarray(f(t), np.float64) for f in (schedule.alpha, schedule.sigma))
    return alpha, sigma, alpha**2 * STD**2 + sigma**2


def agrees(values, expected):
    """The mean over examples `[B, L]`, within 5 standard errors."""
    values = np.asarray(values, np.float64)
    error = values.std(0, ddof=1) / np.sqrt(len(values))
    assert np.all(np.abs(values.mean(0) - expected) < 5 * error + 1e-5), (values.mean(0), expected, error)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("off", [0.0, 2.0])
def test_the_profile_of_a_gaussian(schedule, off):
    """Of an x_0 that is `off` away from the mean: eps - E[eps | x_t] = (alpha^2 c^2 eps - alpha sigma off) / var."""
    alpha, sigma, var = level_of(schedule)
    x0 = jnp.full((2000, 5), MEAN + off)
    found = anomaly.profile(jax.random.key(1), x0, exact(schedule), LEVELS, schedule=schedule, draws=2)
    expected = ((alpha * STD) ** 4 + (alpha * sigma * off) ** 2) / var**2
    agrees(found["eps"], expected)
    np.testing.assert_allclose(found["x0"], np.asarray(found["eps"]) * (sigma / alpha) ** 2, rtol=1e-3)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("how", ["one step", "the ODE", "ancestral"])
def test_the_reconstruction_of_a_gaussian(schedule, how):
    """x0_l - m = k (x_l - alpha m), with k of the posterior mean or of the flow, so that the error is
    (k alpha - 1) off + k sigma eps; a draw from the posterior has its variance besides."""
    alpha, sigma, var = level_of(schedule)
    off, steps = 1.5, {"one step": 1, "the ODE": 60, "ancestral": 160}[how]
    sampler = {"one step": DDIM, "the ODE": Heun, "ancestral": partial(DDPM, variance="fixed_small")}[how](schedule)
    times = anomaly.grids(timesteps.uniform(100), LEVELS, steps=steps)
    if isinstance(schedule, schedules.Discrete):
        times = np.stack([timesteps.nearest_steps(row, T=1000, spread=True) for row in times])
    x0 = jnp.full((1000, 5), MEAN + off)
    found = anomaly.reconstruct(jax.random.key(2), x0, exact(schedule), sampler, times)
    assert found.shape == (3, 1000, 5)
    k = STD / np.sqrt(var) if how == "the ODE" else alpha * STD**2 / var
    expected = ((k * alpha - 1) * off) ** 2 + (k * sigma) ** 2
    if how == "ancestral":
        spread = STD**2 * sigma**2 / var
        errors = np.asarray(anomaly.errors(x0, found)).mean(0)
        np.testing.assert_allclose(
            errors, expected + spread, rtol=0.08
        )  # the steps' variances are not quite the data's
    else:
        agrees(anomaly.errors(x0, found), expected)


def test_how_well_the_profile_tells_two_gaussians():
    """In two dimensions |x - m|^2 is exponential, of mean 2 c^2; without noise the profile is a multiple of it, and an
    anomaly of spread c' exceeds a normal example with the probability c'^2 / (c'^2 + c^2)."""
    schedule, n, wide = schedules.Flow(), 4000, 2.0
    x = MEAN + STD * white_noise(jax.random.key(0), (2 * n, 2)) * jnp.where(jnp.arange(2 * n)[:, None] < n, 1.0, wide)
    silent = lambda key, shape: jnp.zeros(shape)
    curves = anomaly.profile(jax.random.key(1), x, exact(schedule), LEVELS, schedule=schedule, noise=silent)["eps"]
    anomalous, expected = np.arange(2 * n) >= n, wide**2 / (wide**2 + 1)
    usual = Normal.of(np.log(curves[:n]))
    for scores in (np.asarray(curves).sum(1), usual.z(np.log(curves))):
        assert abs(auroc(scores, anomalous) - expected) < 5 * np.sqrt(expected * (1 - expected) / n)


@pytest.mark.parametrize("delta", [0.0, 0.7, 2.0])
def test_the_auroc_of_shifted_gaussians(delta):
    rng, n = np.random.default_rng(0), 3000
    scores, expected = rng.standard_normal(2 * n) + delta * (np.arange(2 * n) < n), norm.cdf(delta / np.sqrt(2))
    assert abs(auroc(scores, np.arange(2 * n) < n) - expected) < 5 * np.sqrt(expected * (1 - expected) / n)
    assert auroc(-scores, np.arange(2 * n) < n) == pytest.approx(1 - auroc(scores, np.arange(2 * n) < n))


def test_distances_from_normal_curves():
    """Squared, those of Gaussian curves are chi-squared, however the levels hang together; z is the mean's."""
    rng, mix = np.random.default_rng(0), np.array([[1.0, 0.0, 0.0], [2.0, 1.0, 0.0], [0.5, -1.0, 3.0]])
    usual = Normal.of(rng.standard_normal((20_000, 3)) @ mix.T + 5)
    curves = rng.standard_normal((20_000, 3)) @ mix.T + 5
    squares = usual.mahalanobis(curves) ** 2
    assert squares.mean() == pytest.approx(3, abs=5 * np.sqrt(6 / 20_000) + 0.02)
    assert squares.var() == pytest.approx(6, rel=0.1)
    assert usual.z(curves).mean() == pytest.approx(0, abs=0.03)
    std = np.sqrt((mix**2).sum(1))
    np.testing.assert_allclose(usual.z(5 + np.array([std, -std])), [1, -1], atol=0.03)
    np.testing.assert_allclose(*usual.mahalanobis(usual.mean + np.array([std, -std])))  # either way
    few = Normal.of(rng.standard_normal((4, 3)))  # which say little of correlations: shrunk towards none
    assert np.abs(few.precision - np.eye(3)).max() < 0.5


def test_the_heat_is_where_a_pixel_was_altered():
    """Pixels that know nothing of each other: the error of the altered one has the closed form of its own `off`."""
    schedule, off = schedules.Flow(), 3.0
    mean = np.linspace(-0.5, 0.5, 30, dtype=np.float32).reshape(1, 5, 6, 1)
    model = testing.gaussian_denoiser(mean=jnp.asarray(mean), std=0.1, schedule=schedule)
    x0 = (
        jnp.asarray(mean + 0.1 * np.asarray(white_noise(jax.random.key(0), (500, 5, 6, 1))))
        .at[:, 2, 3]
        .set(mean[0, 2, 3] + off)
    )
    times = anomaly.grids([1.0, 0.0], LEVELS, steps=1)
    found = anomaly.reconstruct(jax.random.key(1), x0, model, DDIM(schedule), times)
    heat = anomaly.heat(x0, found)
    assert heat.shape == (500, 5, 6)
    assert (np.asarray(heat).reshape(500, -1).argmax(1) == 2 * 6 + 3).all()
    alpha, sigma = 1 - LEVELS, LEVELS
    k = alpha * 0.01 / (alpha**2 * 0.01 + sigma**2)
    expected = ((k * alpha - 1) * off) ** 2 + (k * sigma) ** 2
    agrees(heat[:, 2, 3, None], expected.mean(keepdims=True))
    weights = np.array([0.0, 2.0, 1.0])
    agrees(anomaly.heat(x0, found, weights=jnp.asarray(weights))[:, 2, 3, None], (weights @ expected)[None])
    np.testing.assert_allclose(heat.mean((1, 2)), anomaly.errors(x0, found).mean(1), rtol=1e-4)
    largest = anomaly.errors(x0, found, distance=lambda e: jnp.abs(e).max((1, 2, 3)))
    np.testing.assert_allclose(largest[:, 1] ** 2, jnp.square(found[1] - x0)[:, 2, 3, 0], rtol=1e-4)


def test_what_is_said_of_an_example_does_not_depend_on_the_others():
    schedule = schedules.Flow()
    keys, x0 = jax.random.split(jax.random.key(3), 6), white_noise(jax.random.key(4), (6, 4))
    times = anomaly.grids(timesteps.uniform(4), LEVELS, steps=3)

    def curves(some):
        args = keys[some], x0[some], exact(schedule)
        found = anomaly.reconstruct(*args, DDIM(schedule, eta=1.0), times)
        profile = anomaly.profile(*args, LEVELS, schedule=schedule, draws=3, distance=losses.absolute)
        return np.concatenate([anomaly.errors(x0[some], found), profile["eps"], profile["x0"]], axis=1)

    np.testing.assert_allclose(curves(np.array([5, 2])), curves(np.arange(6))[[5, 2]], rtol=1e-6)


def test_grids_have_the_spacing_of_the_one_given():
    np.testing.assert_allclose(
        anomaly.grids(timesteps.uniform(7), [0.9, 0.4], steps=5), np.outer([0.9, 0.4], timesteps.uniform(5))
    )
    edm = timesteps.karras(18, schedule=schedules.EDM())  # from one of its own times on it is the same
    np.testing.assert_allclose(anomaly.grids(edm, edm[6:7], steps=12)[0], edm[6:])


SPEC, IMAGES = Spec((8, 8, 1), 10), digits().images[:20]
TINY = Config(
    model=DiT(width=16, depth=1, heads=2, patch=2), diffusion=Diffusion(kind="x0"), sample=Sample(clip=False, steps=3)
)


def terms(loss, params, weights=None):
    batch = {"image": jnp.asarray(IMAGES)}
    inputs = params if weights is None else (params, jnp.asarray(weights, jnp.float32))
    return jax.jit(loss)(inputs, batch, jax.random.split(jax.random.key(0), len(IMAGES)))


def test_a_run_whose_network_says_nothing():
    """A fresh one guesses x_0 = 0, of whichever class: all of an image is lost at every level."""
    params, levels = first_params(TINY, SPEC), build.anomaly.noise_levels(TINY, 4)
    square = np.square(IMAGES / 127.5 - 1)
    log_snr = schedules.log_snr(jnp.asarray(levels, jnp.float32), schedule=build.schedule(TINY.diffusion))
    np.testing.assert_allclose(log_snr, np.linspace(-4, 4, 4), atol=0.05)
    found = terms(
        build.anomaly.reconstruction(TINY, SPEC, levels, draws=2, pictures=True), params, [0.5, 0.0, 0.5, 1.0]
    )
    np.testing.assert_allclose(found["curve"], np.broadcast_to(square.mean((1, 2, 3))[:, None], (20, 4)), rtol=1e-5)
    np.testing.assert_allclose(found["heat"], 2 * square[..., 0], rtol=1e-4, atol=1e-6)
    assert found["x0"].shape == (20, 4, 8, 8, 1)
    assert not np.asarray(found["x0"]).any()
    found = terms(build.anomaly.profile(TINY, SPEC, levels), params)
    expected = np.exp(np.asarray(log_snr)) * square.mean((1, 2, 3))[:, None]
    np.testing.assert_allclose(found["curve"], expected, rtol=2e-3)


@pytest.mark.parametrize("schedule", ["cosine", "flow"])
def test_bits_are_the_bound_of_the_same_steps(schedule):
    """With all of a table's the bound of `build.bits_per_dim`, with fewer another one."""
    config = dataclasses.replace(TINY, diffusion=Diffusion(kind="x0", schedule=schedule, steps=40))
    spec = Spec((8, 8, 1), None)
    params = first_params(config, spec)
    few, all_ = (terms(build.anomaly.bits(config, spec, steps=n), params)["curve"] for n in (4, 40))
    assert few.shape == all_.shape == (20, 1)
    assert np.all(few != all_)
    expected = terms(build.bits_per_dim(config, spec, "vlb", steps=40), params)["bits_per_dim_vlb"]
    np.testing.assert_allclose(all_[:, 0], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: anomaly.grids([1.0, 0.0], [0.0], steps=1), "levels: expected times above 0"),
        (lambda: anomaly.grids([0.5, 0.0], [0.8], steps=1), "at most 0.5"),
        (lambda: anomaly.grids([1.0, 0.0], [], steps=1), "at least one"),
        (lambda: anomaly.grids([1.0, 0.0], [0.5], steps=0), "steps: expected a whole number, at least 1"),
        (lambda: reconstruct([0.5, 0.0]), "times: expected a grid for each level"),
        (lambda: reconstruct([[0.0, 0.5]]), "times: expected decreasing times"),
        (
            lambda: anomaly.heat(jnp.zeros((1, 2)), jnp.zeros((3, 1, 2)), weights=jnp.ones(2)),
            "one for each of 3 levels",
        ),
        (lambda: auroc(np.zeros(3), np.ones(3, bool)), "3 of 3 are anomalies"),
        (lambda: auroc(np.zeros(3), np.zeros(3, bool)), "0 of 3 are anomalies"),
        (lambda: auroc(np.array([0.0, np.nan]), np.array([True, False])), "NaN or infinity"),
        (lambda: auroc(np.zeros(3), np.zeros(3, int)), "expected a bool per score"),
        (lambda: auroc(np.zeros((3, 1)), np.zeros(3, bool)), "one number per example"),
        (lambda: Normal.of(np.zeros((5, 2))), "is the same in all 5"),
        (lambda: Normal.of(np.zeros((1, 2))), "at least 2 rows"),
        (lambda: Normal.of(np.eye(4)[:3]), "3 of 4 values say little of what is usual; give 5"),
        (lambda: Normal.of(np.eye(5)[:, :4]).z(np.zeros((3, 2))), "expected 4 values each, got 2"),
        (lambda: build.anomaly.known_levels(TINY, np.array([1.5])), "above 0 and not above 1"),
        (lambda: build.anomaly.reconstruction(TINY, SPEC, np.array([0.5, 0.002])), "2 are below the level t = 0.002"),
    ],
)
def test_what_is_wrong_is_said(wrong, words):
    with pytest.raises(InputError, match=".*".join(words.split("|"))):
        wrong()


def reconstruct(times):
    schedule = schedules.Flow()
    x0 = jnp.zeros((1, 2))
    return anomaly.reconstruct(jax.random.key(0), x0, exact(schedule), DDIM(schedule), np.array(times))
