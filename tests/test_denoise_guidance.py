"""Denoisers, their wrappers, guidance, and the exact denoisers, against Bayes' rule and small linear algebra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from jaxdiff import Prediction, q_sample, schedules, testing
from jaxdiff.denoise import at_scaled_time, at_steps, clip_x0, denoiser
from jaxdiff.guidance import classifier_free
from jaxdiff.parameterization import KINDS, target

rng = np.random.default_rng(0)
X0, EPS = rng.standard_normal((2, 3, 2, 2, 1)).astype(np.float32)
T = jnp.array([0.1, 0.5, 0.9])
SCHEDULE = schedules.cosine()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("schedule", [SCHEDULE, schedules.VP(), schedules.Flow()], ids=["cosine", "vp", "flow"])
def test_a_perfect_model_of_any_kind_is_a_perfect_denoiser(kind, schedule):
    y = target(jnp.asarray(X0), jnp.asarray(EPS), T, kind=kind, schedule=schedule)
    x_t = q_sample(jnp.asarray(X0), T, jnp.asarray(EPS), schedule=schedule)
    prediction = denoiser(lambda x, t: y, schedule=schedule, kind=kind)(x_t, T)
    np.testing.assert_allclose(prediction.x0, X0, atol=1e-4)
    np.testing.assert_allclose(prediction.eps, EPS, atol=1e-4)
    assert prediction.log_var is None


def test_learned_variance_is_the_second_half_of_the_channels():
    def model(x, t):
        return jnp.concatenate([x, 5 * jnp.ones_like(x)], axis=-1)

    prediction = denoiser(model, schedule=SCHEDULE, kind="eps", learned_variance=True)(jnp.asarray(X0), T)
    np.testing.assert_allclose(prediction.eps, X0, rtol=1e-6)
    np.testing.assert_array_equal(prediction.log_var, 5)


def test_the_network_gets_exactly_the_papers_step_numbers():
    k = np.arange(1000)
    t = jnp.asarray((k + 1) / 1000, jnp.float32)
    seen = at_steps(lambda x, c: c, T=1000)(jnp.zeros((1000, 1)), t)
    np.testing.assert_array_equal(seen, k)
    assert at_steps(lambda x, c: c, T=1000)(jnp.zeros((4, 1)), jnp.float32(0.5)).tolist() == [499.0] * 4
    np.testing.assert_allclose(at_scaled_time(lambda x, c: c)(jnp.zeros((3, 1)), T), [100, 500, 900], rtol=1e-6)


def test_clipped_prediction_still_adds_up_to_x_t():
    x_t = q_sample(jnp.asarray(X0), T, jnp.asarray(EPS), schedule=SCHEDULE)
    wild = lambda x, t: Prediction(3 * jnp.asarray(X0), jnp.asarray(EPS))
    prediction = clip_x0(wild, schedule=SCHEDULE)(x_t, T)
    np.testing.assert_allclose(prediction.x0, np.clip(3 * X0, -1, 1), rtol=1e-6)
    np.testing.assert_allclose(q_sample(prediction.x0, T, prediction.eps, schedule=SCHEDULE), x_t, atol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1.5, 7.0])
def test_classifier_free_guidance_is_equation_6(scale):
    """eps = (1 + w) eps_c - w eps_u with w = scale - 1, from one call of a doubled batch."""
    calls = []

    def both(x, t):
        calls.append((x.shape, t.shape))
        half = jnp.arange(2, dtype=jnp.float32).repeat(3).reshape(6, 1, 1, 1)  # 0: conditional, 1: unconditional
        return Prediction(x + half, 2 * x - half, half)

    x = jnp.asarray(X0)
    guided = classifier_free(both, scale=scale)(x, T)
    assert calls == [((6, 2, 2, 1), (6,))]
    w = scale - 1
    np.testing.assert_allclose(guided.x0, (1 + w) * X0 - w * (X0 + 1), atol=1e-5)
    np.testing.assert_allclose(guided.eps, (1 + w) * 2 * X0 - w * (2 * X0 - 1), atol=1e-5)
    np.testing.assert_array_equal(guided.log_var, np.zeros((3, 1, 1, 1)))


def test_guidance_scale_may_differ_by_example():
    both = lambda x, t: Prediction(*2 * [jnp.concatenate([jnp.ones_like(x[:3]), jnp.zeros_like(x[3:])])])
    guided = classifier_free(both, scale=jnp.array([0.0, 1.0, 2.0]))(jnp.asarray(X0), jnp.float32(0.5))
    np.testing.assert_array_equal(guided.x0[:, 0, 0, 0], [0, 1, 2])


def test_guidance_of_gaussians_is_the_exact_denoiser_of_the_guided_density():
    """Scores of p_c^w p_u^(1-w) of two unit Gaussians with means 1 and 0: a unit Gaussian with mean w."""
    one, two = (testing.gaussian_denoiser(mean=m, std=1.0, schedule=SCHEDULE) for m in (1.0, 0.0))

    def both(x, t):
        c, u = one(x[:3], t[:3]), two(x[3:], t[3:])
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), c, u)

    guided = classifier_free(both, scale=1.7)(jnp.asarray(X0), T)
    exact = testing.gaussian_denoiser(mean=1.7, std=1.0, schedule=SCHEDULE)(jnp.asarray(X0), T)
    np.testing.assert_allclose(guided.eps, exact.eps, atol=1e-5)


@pytest.mark.parametrize("t", [0.2, 0.6])
def test_exact_denoisers_are_posterior_means(t):
    """E[x_0 | x_t] by numerical integration of Bayes' rule, for one Gaussian and for a mixture of two."""
    means, weights, std, x_t = np.array([-0.6, 0.9]), np.array([1.0, 3.0]), 0.25, 0.35
    alpha, sigma = float(SCHEDULE.alpha(t)), float(SCHEDULE.sigma(t))

    def posterior_mean(density):
        joint = lambda x: density(x) * norm.pdf(x_t, alpha * x, sigma)
        return quad(lambda x: x * joint(x), -4, 4, limit=200)[0] / quad(joint, -4, 4, limit=200)[0]

    x = jnp.full((1, 1), x_t, jnp.float32)
    gaussian = testing.gaussian_denoiser(mean=-0.6, std=std, schedule=SCHEDULE)(x, jnp.float32(t))
    np.testing.assert_allclose(gaussian.x0[0, 0], posterior_mean(lambda x: norm.pdf(x, -0.6, std)), rtol=1e-4)

    mixture = testing.mixture_denoiser(
        means=jnp.asarray(means[:, None], jnp.float32), std=std, weights=jnp.asarray(weights), schedule=SCHEDULE
    )(x, jnp.float32(t))
    expected = posterior_mean(lambda x: (weights * norm.pdf(x, means, std)).sum())
    np.testing.assert_allclose(mixture.x0[0, 0], expected, rtol=1e-4)
    np.testing.assert_allclose(alpha * mixture.x0 + sigma * mixture.eps, x, rtol=1e-5)
