"""Offset and truncated noise: their distributions, and that they belong to their examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from network_table import jit
from scipy import stats

from jaxdiff import samplers, schedules, testing, timesteps
from jaxdiff.noise import OffsetNoise, TruncatedNoise, white_noise
from jaxdiff.process import prior
from jaxdiff.typing import InputError

KEYS = jax.random.split(jax.random.key(0), 4000)


def test_covariance_of_offset_noise():
    """1 + strength^2 on the diagonal, strength^2 between pixels of a channel, 0 between channels."""
    n, strength = len(KEYS), 0.7
    eps = np.asarray(OffsetNoise(strength)(KEYS, (n, 2, 2, 3))).reshape(n, 4, 3)
    expected = np.eye(12) + strength**2 * np.kron(np.ones((4, 4)), np.eye(3))
    covariance = eps.reshape(n, 12).T @ eps.reshape(n, 12) / n
    np.testing.assert_allclose(covariance, expected, atol=5 * 2 / np.sqrt(n))


def test_offset_noise_is_a_constant_added_to_white_noise():
    eps = OffsetNoise(0.5)(KEYS[:6], (6, 5, 4, 2)) - white_noise(KEYS[:6], (6, 5, 4, 2))
    np.testing.assert_allclose(eps, np.broadcast_to(eps[:, :1, :1], eps.shape), atol=1e-6)
    np.testing.assert_array_equal(OffsetNoise(0.0)(KEYS[:6], (6, 5)), white_noise(KEYS[:6], (6, 5)))


def test_offset_noise_belongs_to_its_example_and_equals_its_like():
    noise = OffsetNoise(0.1)
    whole = noise(KEYS[:8], (8, 3, 3, 1))
    np.testing.assert_array_equal(noise(KEYS[3:5], (2, 3, 3, 1)), whole[3:5])
    one = noise(jax.random.key(1), (8, 3))
    # Another number of numbers may be rounded another way in the last bit: jax 0.12 does so here.
    np.testing.assert_allclose(noise(jax.random.key(1), (5, 3)), one[:5], rtol=5e-7)
    assert hash(noise) == hash(OffsetNoise(0.1))  # static in a sampler: an equal one does not recompile
    assert whole.dtype == jnp.float32
    assert prior(KEYS[:2], (2, 3, 3, 1), schedule=schedules.VP(), noise=noise).shape == (2, 3, 3, 1)


@pytest.mark.parametrize("limit", [0.1, 0.5, 1.5, 3.0, 5.0])
def test_truncated_noise_is_scipys_truncnorm(limit):
    """All of the distribution (Kolmogorov-Smirnov), and its variance, which is not brought back to 1."""
    z = np.asarray(TruncatedNoise(limit)(KEYS[:100], (100, 400)), np.float64).ravel()
    assert np.abs(z).max() <= limit
    expected = stats.truncnorm(-limit, limit)
    assert stats.kstest(z, expected.cdf).pvalue > 1e-3
    fourth = expected.moment(4) - expected.var() ** 2
    np.testing.assert_allclose(z.var(), expected.var(), atol=5 * np.sqrt(fourth / len(z)))
    np.testing.assert_array_equal(
        TruncatedNoise(limit, 2.0)(KEYS[:9], (9, 7)), 2 * TruncatedNoise(limit)(KEYS[:9], (9, 7))
    )


def test_truncated_noise_is_a_monotone_function_of_white_noise_and_without_a_limit_that():
    white = np.asarray(white_noise(KEYS[:4], (4, 100_000)))
    for limit in (0.01, 1.0, 4.0):
        cut = np.asarray(TruncatedNoise(limit)(KEYS[:4], white.shape))
        assert (np.diff(cut.ravel()[np.argsort(white.ravel())]) >= 0).all()
        # u -> (2 Phi(l) - 1) u of the two-sided probabilities
        np.testing.assert_allclose(
            2 * stats.norm.cdf(cut) - 1, (2 * stats.norm.cdf(limit) - 1) * (2 * stats.norm.cdf(white) - 1), atol=2e-6
        )
    for limit in (6.0, 1e9, jnp.inf):  # where the inverse of Phi(limit) = 1 would be infinite
        free = np.asarray(TruncatedNoise(limit)(KEYS[:4], white.shape))
        np.testing.assert_allclose(free, white, rtol=1e-4, atol=0.05)  # float32 is coarse in the tails of Phi
        np.testing.assert_allclose(free[np.abs(white) < 3], white[np.abs(white) < 3], atol=1e-3)


def test_truncated_noise_belongs_to_its_example_and_its_numbers_do_not_recompile():
    noise, traces = TruncatedNoise(1.0), []
    np.testing.assert_array_equal(noise(KEYS[3:5], (2, 3, 3, 1)), noise(KEYS[:8], (8, 3, 3, 1))[3:5])

    @jit
    def start(noise):
        traces.append(None)
        return prior(KEYS[:2], (2, 5), schedule=schedules.VP(), noise=noise)

    found = [start(TruncatedNoise(jnp.float32(limit), jnp.float32(scale))) for limit, scale in ((1, 1), (2, 1), (1, 3))]
    assert len(traces) == 1
    np.testing.assert_allclose(found[2], 3 * found[0], rtol=1e-6)
    assert found[0].dtype == jnp.float32


@pytest.mark.parametrize("limit", [0, -1.0, np.nan, jnp.float32(0), "1"])
def test_a_limit_that_leaves_no_noise_is_refused(limit):
    with pytest.raises(InputError, match="limit: expected a positive number"):
        TruncatedNoise(limit)


@pytest.mark.parametrize("scale", [-1.0, np.nan, np.inf])
def test_a_scale_that_is_no_scale_is_refused(scale):
    with pytest.raises(InputError, match="scale: expected 0 or more, finite"):
        TruncatedNoise(1.0, scale)


def test_the_scale_of_the_start_is_a_flows_temperature():
    """Of Gaussian data a deterministic sampler makes N(mean, scale^2 std^2): half, none or twice the deviation."""
    schedule, mean, std = schedules.VP(), 0.3, 0.5
    exact = testing.gaussian_denoiser(mean=mean, std=std, schedule=schedule)

    def made(scale):
        x = prior(KEYS, (len(KEYS), 4), schedule=schedule, noise=TruncatedNoise(jnp.inf, scale))
        return samplers.sample(KEYS, exact, samplers.DDIM(schedule), jnp.asarray(timesteps.uniform(200)), x)

    made = jit(made)
    still = made(jnp.float32(0))
    np.testing.assert_allclose(still, mean, atol=0.01)
    for scale in (0.5, 2.0):
        found = made(jnp.float32(scale))
        np.testing.assert_allclose(found - still, scale * (made(jnp.float32(1)) - still), atol=1e-4)
        np.testing.assert_allclose(found.std(), scale * std, rtol=0.03)
