"""The simple loss and the time samplers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import losses, schedules, testing, weighting
from jaxdiff.parameterization import KINDS, from_prediction, kind_weight

rng = np.random.default_rng(0)
SCHEDULE = schedules.VP()
KEYS = jax.random.split(jax.random.key(0), 20_000)


@pytest.mark.parametrize("kind", KINDS)
def test_expected_loss_of_the_exact_model_is_the_posterior_variance(kind):
    """For data N(0, c^2) the best model's error in x0 is c^2 sigma^2 / (alpha^2 c^2 + sigma^2), times the kind's weight."""
    c, n = 0.5, 100_000
    x0 = jnp.asarray(c * rng.standard_normal((n, 1)), jnp.float32)
    eps = jnp.asarray(rng.standard_normal((n, 1)), jnp.float32)
    t = jnp.full((n,), 0.4)
    exact = testing.gaussian_denoiser(mean=0.0, std=c, schedule=SCHEDULE)

    def model(x, t):
        return from_prediction(exact(x, t), t, kind=kind, schedule=SCHEDULE)

    terms = losses.simple(x0, t, eps, model=model, schedule=SCHEDULE, kind=kind)
    assert set(terms) == {"loss"}
    assert terms["loss"].shape == (n,)
    alpha, sigma = float(SCHEDULE.alpha(0.4)), float(SCHEDULE.sigma(0.4))
    weight = float(kind_weight(jnp.float32(0.4), kind="x0", as_kind=kind, schedule=SCHEDULE))
    expected = weight * c**2 * sigma**2 / (alpha**2 * c**2 + sigma**2)
    np.testing.assert_allclose(terms["loss"].mean(), expected, rtol=0.03)


def test_loss_is_the_mean_over_dimensions_not_over_examples():
    x0 = jnp.asarray(rng.standard_normal((3, 2, 2, 1)), jnp.float32)
    loss = losses.simple(x0, jnp.full((3,), 0.5), x0, model=lambda x, t: 0 * x, schedule=schedules.Flow(), kind="x0")[
        "loss"
    ]
    np.testing.assert_allclose(loss, np.square(x0).mean((1, 2, 3)), rtol=1e-6)


def test_a_score_counted_as_noise_is_the_noise_loss():
    """Denoising score matching with lambda = sigma^2: |score + eps/sigma|^2 sigma^2 = |sigma score + eps|^2."""
    x0, eps = (jnp.asarray(rng.standard_normal((5, 3)), jnp.float32) for _ in range(2))
    t = jnp.array([0.01, 0.1, 0.3, 0.6, 0.9])
    sigma = np.asarray(SCHEDULE.sigma(t))[:, None]
    arguments = {"schedule": SCHEDULE, "model": lambda x, t: 0.7 * x}
    loss = losses.simple(x0, t, eps, kind="score", as_kind="eps", **arguments)["loss"]
    x_t = np.asarray(SCHEDULE.alpha(t))[:, None] * x0 + sigma * eps
    np.testing.assert_allclose(loss, ((sigma * 0.7 * x_t + eps) ** 2).mean(1), rtol=1e-4)


def test_uniform_steps_hit_every_step_equally_and_only_steps():
    t = np.asarray(weighting.uniform_steps(KEYS, T=10))
    k = np.rint(t * 10 - 1).astype(int)
    np.testing.assert_allclose(t * 10 - 1, k, atol=1e-5)
    counts = np.bincount(k, minlength=10)
    assert len(counts) == 10
    assert ((counts - 2000) ** 2 / 2000).sum() < 33.7  # chi-squared, 9 degrees of freedom, p = 1e-4


def test_uniform_time_is_uniform():
    t = np.sort(np.asarray(weighting.uniform_time(KEYS)))
    assert np.abs(t - (np.arange(20_000) + 0.5) / 20_000).max() < 2.23 / np.sqrt(20_000)  # Kolmogorov, p = 1e-4
    assert t[0] >= 1e-5


@pytest.mark.parametrize("draw", [lambda k: weighting.uniform_steps(k, T=1000), weighting.uniform_time])
def test_a_time_depends_on_its_example_alone(draw):
    np.testing.assert_array_equal(draw(KEYS[:8])[3:5], draw(KEYS[3:5]))
