"""DDPM and DDIM against the papers' steps in numpy, and the moments of their samples against closed forms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import DDIM, DDPM, InputError, Prediction, prior, sample, schedules, testing, timesteps
from jaxdiff.noise import white_noise

rng = np.random.default_rng(0)
X, EPS, LOG_VAR = rng.standard_normal((3, 5, 4))
KEY = jax.random.key(7)
GAUSSIAN = {"mean": 0.7, "std": 0.3}


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def fixed_denoiser(alpha_bar, log_var=None):
    """A denoiser that predicts EPS; its x0 follows from alpha_bar."""
    x0 = (X - np.sqrt(1 - alpha_bar) * EPS) / np.sqrt(alpha_bar)
    prediction = Prediction(jnp.asarray(x0), jnp.asarray(EPS), None if log_var is None else jnp.asarray(log_var))
    return lambda x, t: prediction


def one_step(sampler, k, j, denoise, temperature=1.0):
    """From step k of a table of 1000 to step j < k (-1: the data)."""
    t, s = jnp.asarray((k + 1) / 1000), jnp.asarray((j + 1) / 1000)
    return sampler.step(KEY, sampler.init(jnp.asarray(X)), t, s, denoise, temperature=temperature).x


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("table", [schedules.linear(), schedules.cosine()], ids=["linear", "cosine"])
@pytest.mark.parametrize("k", [1, 400, 998])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_ddpm_step_is_algorithm_2(table, k, variance, temperature):
    """x = (x_t - beta / sqrt(1 - alpha_bar) eps) / sqrt(alpha) + sigma z, with sigma^2 beta or beta-tilde."""
    betas = np.array(table.betas)
    bar = np.cumprod(1 - betas)
    std = {"fixed_large": betas[k], "fixed_small": betas[k] * (1 - bar[k - 1]) / (1 - bar[k])}[variance] ** 0.5
    z = np.asarray(white_noise(KEY, X.shape))
    expected = (X - betas[k] / np.sqrt(1 - bar[k]) * EPS) / np.sqrt(1 - betas[k]) + temperature * std * z
    actual = one_step(DDPM(table, variance), k, k - 1, fixed_denoiser(bar[k]), temperature)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("k", "j"), [(999, 979), (500, 499), (20, 0)])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_step_is_equation_12(k, j, eta):
    table = schedules.linear()
    bar = np.cumprod(1 - np.array(table.betas))
    std = eta * np.sqrt((1 - bar[j]) / (1 - bar[k])) * np.sqrt(1 - bar[k] / bar[j])
    x0 = (X - np.sqrt(1 - bar[k]) * EPS) / np.sqrt(bar[k])
    z = np.asarray(white_noise(KEY, X.shape))
    expected = np.sqrt(bar[j]) * x0 + np.sqrt(1 - bar[j] - std**2) * EPS + 0.7 * std * z
    actual = one_step(DDIM(table, eta=eta), k, j, fixed_denoiser(bar[k]), temperature=0.7)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("k", "j"), [(999, 899), (300, 299), (3, -1)])
def test_ddim_with_eta_1_is_ddpm_with_the_small_variance(k, j):
    table = schedules.cosine()
    denoise = fixed_denoiser(table.alpha_bar[k])
    np.testing.assert_allclose(
        one_step(DDIM(table, eta=1.0), k, j, denoise), one_step(DDPM(table, "fixed_small"), k, j, denoise), rtol=1e-6
    )


@pytest.mark.usefixtures("x64")
def test_learned_variances():
    """learned: exp(log_var); learned_range: the geometric mean of beta and beta-tilde weighted by (v + 1) / 2."""
    table, k = schedules.linear(), 300
    betas = np.array(table.betas)
    bar = np.cumprod(1 - betas)
    large, small = betas[k], betas[k] * (1 - bar[k - 1]) / (1 - bar[k])
    z = np.asarray(white_noise(KEY, X.shape))
    mean = (X - betas[k] / np.sqrt(1 - bar[k]) * EPS) / np.sqrt(1 - betas[k])

    denoise = fixed_denoiser(bar[k], LOG_VAR)
    actual = one_step(DDPM(table, "learned"), k, k - 1, denoise)
    np.testing.assert_allclose(actual, mean + np.exp(LOG_VAR / 2) * z, rtol=1e-6)
    share = (LOG_VAR + 1) / 2
    actual = one_step(DDPM(table, "learned_range"), k, k - 1, denoise)
    np.testing.assert_allclose(actual, mean + np.sqrt(large**share * small ** (1 - share)) * z, rtol=1e-6)
    with pytest.raises(InputError, match="needs a denoiser with log_var"):
        one_step(DDPM(table, "learned"), k, k - 1, fixed_denoiser(bar[k]))


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned", "learned_range"])
def test_ddpm_adds_no_noise_in_the_last_step(variance):
    with jax.enable_x64(True):
        denoise = fixed_denoiser(schedules.linear().alpha_bar[0], np.ones_like(X))
        last = one_step(DDPM(schedules.linear(), variance), 0, -1, denoise)
        np.testing.assert_allclose(last, denoise(None, None).x0, rtol=1e-6)


def flow_map(x, schedule, start, mean, std):
    """The probability-flow ODE of Gaussian data, solved: quantiles keep their place."""
    alpha, sigma = float(schedule.alpha(start)), float(schedule.sigma(start))
    return mean + std * (np.asarray(x) - alpha * mean) / np.sqrt((alpha * std) ** 2 + sigma**2)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("schedule", [schedules.VP(), schedules.Flow()], ids=["vp", "flow"])
def test_ddim_converges_to_the_exact_ode_with_order_one(schedule):
    x = jnp.asarray(X)
    exact = flow_map(x, schedule, 1.0, **GAUSSIAN)
    denoise = testing.gaussian_denoiser(**GAUSSIAN, schedule=schedule)
    n = np.array([50, 100, 200, 400])
    errors = [
        np.abs(np.asarray(sample(KEY, denoise, DDIM(schedule), timesteps.uniform(i), x)) - exact).max() for i in n
    ]
    order = -np.polyfit(np.log(n), np.log(errors), 1)[0]
    assert 0.9 < order < 1.15
    assert errors[-1] < 0.01


def moments(sampler, schedule, grid, mean, std):
    """Exact mean and variance of what a sampler makes of Gaussian data, by its affine recursion, in numpy."""
    m, v = 0.0, float(schedule.sigma(1.0)) ** 2
    for t, s in zip(grid[:-1], grid[1:], strict=True):
        (a_t, v_t), (a_s, v_s) = ((float(schedule.alpha(u)), float(schedule.sigma(u)) ** 2) for u in (t, s))
        a, var = a_t / a_s, v_t - (a_t / a_s) ** 2 * v_s
        gain = a_t * std**2 / (a_t**2 * std**2 + v_t)  # x0 = mean + gain (x - a_t mean)
        small = v_s * var / v_t
        if isinstance(sampler, DDPM):
            from_x, from_x0 = a * v_s / v_t, a_s * var / v_t
            noise = (small if sampler.variance == "fixed_small" else var) if s > 0 else 0
        else:
            noise = sampler.eta**2 * small
            from_x = np.sqrt((v_s - noise) / v_t)
            from_x0 = a_s - from_x * a_t
        m = from_x * m + from_x0 * (mean + gain * (m - a_t * mean))
        v = (from_x + from_x0 * gain) ** 2 * v + noise
    return m, v


@pytest.mark.parametrize("spacing", [timesteps.trailing(1000, T=1000), timesteps.trailing(20, T=1000)], ids=len)
@pytest.mark.parametrize(
    "make", [partial(DDPM, variance="fixed_small"), partial(DDPM, variance="fixed_large"), DDIM, partial(DDIM, eta=0.6)]
)
def test_moments_of_samples_are_those_of_the_recursion(make, spacing):
    """20,000 draws: mean and standard deviation within five standard errors of the closed form."""
    schedule = schedules.linear()
    sampler = make(schedule)
    mean, var = moments(sampler, schedule, spacing, **GAUSSIAN)
    n = 20_000
    x = sample(
        KEY,
        testing.gaussian_denoiser(**GAUSSIAN, schedule=schedule),
        sampler,
        spacing,
        prior(jax.random.key(1), (100, n // 100), schedule=schedule),
    )
    assert abs(float(x.mean()) - mean) < 5 * np.sqrt(var / n)
    assert abs(float(x.std()) - np.sqrt(var)) < 5 * np.sqrt(var / (2 * n))


def test_a_thousand_ancestral_steps_make_the_data_distribution():
    """The recursion's fixed point: with 1,000 steps the moments are the data's to a few per cent."""
    mean, var = moments(
        DDPM(schedules.linear(), "fixed_small"), schedules.linear(), timesteps.uniform(1000), **GAUSSIAN
    )
    np.testing.assert_allclose([mean, np.sqrt(var)], [0.7, 0.3], rtol=0.02)


def test_temperature_zero_is_the_mean_path_and_scales_the_noise():
    schedule = schedules.VE(0.01, 10.0)
    denoise = testing.gaussian_denoiser(mean=0.0, std=0.0, schedule=schedule)
    x, grid = jnp.zeros((50, 40)), timesteps.uniform(10, end=0.5)
    cold = sample(KEY, denoise, DDPM(schedule), grid, x, temperature=0.0)
    assert float(jnp.abs(cold).max()) == 0
    warm, hot = (sample(KEY, denoise, DDPM(schedule), grid, x, temperature=c) for c in (1.0, 3.0))
    np.testing.assert_allclose(hot, 3 * warm, rtol=1e-4, atol=1e-5)
