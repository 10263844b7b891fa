"""The forward process and its posterior against the discrete formulas of DDPM and against Bayes' rule, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import prior, process, q_posterior, q_sample, q_transition, schedules
from jaxdiff.build import SCHEDULES

rng = np.random.default_rng(0)
SHAPE = (5, 4, 4, 3)
X0, XT, EPS = rng.standard_normal((3, *SHAPE))


def column(a):
    return np.reshape(a, (-1, 1, 1, 1))


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("table", [schedules.linear, schedules.cosine])
def test_the_discrete_formulas_of_ddpm(table):
    """Eq. 2, 4, 6 and 7 with tables computed here, at several steps k."""
    schedule = table(1000)
    betas = np.array(schedule.betas)
    alphas, alpha_bar = 1 - betas, np.cumprod(1 - betas)
    k = np.array([1, 10, 500, 900, 999])
    t, s = jnp.asarray((k + 1) / 1000), jnp.asarray(k / 1000)
    before = alpha_bar[k - 1]

    x_t = q_sample(jnp.asarray(X0), t, jnp.asarray(EPS), schedule=schedule)
    np.testing.assert_allclose(
        x_t, column(np.sqrt(alpha_bar[k])) * X0 + column(np.sqrt(1 - alpha_bar[k])) * EPS, rtol=1e-6
    )
    x_t = q_transition(jnp.asarray(X0), s, t, jnp.asarray(EPS), schedule=schedule)
    np.testing.assert_allclose(x_t, column(np.sqrt(alphas[k])) * X0 + column(np.sqrt(betas[k])) * EPS, rtol=1e-6)

    mean, var = q_posterior(jnp.asarray(XT), jnp.asarray(X0), s, t, schedule=schedule)
    np.testing.assert_allclose(
        mean,
        column(np.sqrt(before) * betas[k] / (1 - alpha_bar[k])) * X0
        + column(np.sqrt(alphas[k]) * (1 - before) / (1 - alpha_bar[k])) * XT,
        rtol=1e-6,
    )
    np.testing.assert_allclose(var, column((1 - before) / (1 - alpha_bar[k]) * betas[k]), rtol=1e-6)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_chain_of_transitions_has_the_closed_form(name):
    """Mean factor and variance of s -> t composed over many steps equal alpha(t) and sigma(t)^2."""
    schedule = SCHEDULES[name]()
    times = jnp.linspace(0.0, 0.95, 40)
    alpha, var = schedule.alpha(times[0]), schedule.sigma(times[0]) ** 2
    for s, t in zip(times[:-1], times[1:], strict=True):
        a, v = process.transition(s, t, schedule=schedule)
        alpha, var = alpha * a, a**2 * var + v
    np.testing.assert_allclose(alpha.item(), schedule.alpha(times[-1]), rtol=1e-6)
    np.testing.assert_allclose(var.item(), schedule.sigma(times[-1]) ** 2, rtol=1e-6)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("s", "t"), [(0.1, 0.11), (0.2, 0.7), (0.05, 0.95)])
def test_posterior_is_bayes_rule(name, s, t):
    """q(x_s | x_t, x_0) from the precision-weighted product of q(x_s | x_0) and the likelihood q(x_t | x_s)."""
    schedule = SCHEDULES[name]()
    a_s, v_s = float(schedule.alpha(s)), float(schedule.sigma(s)) ** 2
    a_t, v_t = float(schedule.alpha(t)), float(schedule.sigma(t)) ** 2
    a, v = a_t / a_s, v_t - (a_t / a_s) ** 2 * v_s
    precision = 1 / v_s + a**2 / v
    expected = (a_s * X0 / v_s + a * XT / v) / precision

    mean, var = q_posterior(jnp.asarray(XT), jnp.asarray(X0), jnp.asarray(s), jnp.asarray(t), schedule=schedule)
    np.testing.assert_allclose(mean, expected, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(var, 1 / precision, rtol=1e-6)


def test_posterior_at_the_data_is_a_point():
    mean, var = q_posterior(jnp.asarray(XT), jnp.asarray(X0), 0.0, 0.001, schedule=schedules.linear())
    np.testing.assert_allclose(mean, X0, rtol=1e-9)
    assert float(jnp.max(jnp.abs(var))) == 0


def test_sampled_chain_has_the_moments_of_q_sample():
    """100,000 draws through 20 random transitions: mean and standard deviation within five standard errors."""
    schedule, n, x0 = schedules.linear(20, beta_end=0.2), 100_000, 1.5
    x = jnp.full((n, 1), x0)
    for k in range(20):
        eps = jnp.asarray(rng.standard_normal((n, 1)))
        x = q_transition(x, k / 20, (k + 1) / 20, eps, schedule=schedule)
    alpha, sigma = float(schedule.alpha(1.0)), float(schedule.sigma(1.0))
    assert abs(float(x.mean()) - alpha * x0) < 5 * sigma / np.sqrt(n)
    assert abs(float(x.std()) - sigma) < 5 * sigma / np.sqrt(2 * n)


def test_prior_has_the_standard_deviation_of_the_schedule_and_one_stream_per_example():
    schedule, key = schedules.VE(0.01, 50.0), jax.random.key(0)
    x = prior(key, (200, 8, 8, 1), schedule=schedule)
    assert abs(float(x.std()) - 50) < 5 * 50 / np.sqrt(2 * x.size)
    np.testing.assert_array_equal(prior(key, (7, 8, 8, 1), schedule=schedule), x[:7])
    assert x.dtype == jnp.float32


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_dtype_and_shape_are_kept(dtype):
    schedule = schedules.cosine()
    x, t = jnp.asarray(X0, dtype), jnp.full((5,), 0.5, jnp.float32)
    for y in (
        q_sample(x, t, x, schedule=schedule),
        q_transition(x, t / 2, t, x, schedule=schedule),
        q_posterior(x, x, t / 2, t, schedule=schedule).mean,
    ):
        assert (y.dtype, y.shape) == (dtype, x.shape)
