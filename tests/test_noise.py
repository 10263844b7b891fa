"""Offset noise: its moments, and that it belongs to its example."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import schedules
from jaxdiff.noise import OffsetNoise, white_noise
from jaxdiff.process import prior

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
