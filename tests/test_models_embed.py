"""The embedding of numbers against the formula in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import InputError
from jaxdiff.models.embed import Fourier, fourier, normal_frequencies, sinusoidal


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
@pytest.mark.parametrize(("channels", "max_period"), [(4, 10_000), (10, 10_000), (128, 10_000), (128, 1_000)])
def test_the_formula_of_ddpm(channels, max_period, dtype):
    """w_i = max_period^(-i / (half - 1)); all sines, then all cosines. DDPM's steps are 0..999."""
    c = np.array([0, 1, 17, 500, 999], dtype)
    half = channels // 2
    angles = c.astype(np.float64)[:, None] * float(max_period) ** (-np.arange(half) / (half - 1))
    expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

    actual = sinusoidal(jnp.asarray(c), channels=channels, max_period=max_period)
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, expected, atol=1e-6)  # though in float32 an angle of 999 is off by up to 3e-5


@pytest.mark.parametrize(("freq_shift", "cos_first"), [(0.0, False), (0.0, True), (1.0, True)])
def test_the_other_published_orders_and_frequencies(freq_shift, cos_first):
    """Of guided diffusion (w_i = max_period^(-i / half), cosines first), exactly in float64."""
    c, half = np.array([0.0, 1.5, 999.0]), 8
    angles = c[:, None] * 10_000.0 ** (-np.arange(half) / (half - freq_shift))
    waves = [np.cos(angles), np.sin(angles)] if cos_first else [np.sin(angles), np.cos(angles)]
    with jax.enable_x64(True):
        found = sinusoidal(jnp.asarray(c), channels=2 * half, freq_shift=freq_shift, cos_first=cos_first)
        np.testing.assert_allclose(found, np.concatenate(waves, axis=1), atol=1e-12)


@pytest.mark.parametrize("channels", [0, 2, 7])
def test_a_width_that_cannot_be_is_refused(channels):
    with pytest.raises(InputError, match=f"even number of channels >= 4, got {channels}"):
        sinusoidal(jnp.zeros(1), channels=channels)


@pytest.mark.parametrize("learned", [True, False])
def test_fourier_features(learned):
    """The number itself, and sines and cosines of whole turns of it."""
    c, w = np.array([0.0, 0.25, 3.0, 999.0]), np.array([1.0, -0.3, 2.5])
    expected = [[x, *np.sin(2 * np.pi * x * w), *np.cos(2 * np.pi * x * w)] for x in c]
    module = Fourier(6, learned=learned)
    with jax.enable_x64(True):
        assert module.init(jax.random.key(0), c)["params"]["weights"].shape == (3,)
        found = module.apply({"params": {"weights": jnp.asarray(w)}}, jnp.asarray(c))
        np.testing.assert_allclose(found, expected, atol=1e-11)
    with pytest.raises(InputError, match="even number of channels, got 5"):
        Fourier(5).init(jax.random.key(0), jnp.zeros(1))


def test_fourier_features_of_given_frequencies():
    """In float32 an angle of hundreds of turns still has three digits, and in float64 all of them."""
    frequencies = normal_frequencies(64, scale=16.0)
    c = np.log([0.01, 0.5, 2.0, 50.0])
    for dtype, tolerance in ((np.float32, 3e-4), (np.float64, 1e-11)):
        with jax.enable_x64(dtype == np.float64):
            told, w = c.astype(dtype).astype(np.float64), frequencies.astype(dtype).astype(np.float64)
            angles = 2 * np.pi * told[:, None] * w
            found = fourier(jnp.asarray(c, dtype), frequencies)
            assert found.dtype == dtype
            expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
            np.testing.assert_allclose(found, expected, atol=tolerance)


def test_frequencies_that_are_drawn_are_normal_and_always_the_same():
    w = normal_frequencies(10_000, scale=16.0)
    assert abs(w.mean()) < 5 * 16 / 100
    assert abs(w.std() / 16 - 1) < 5 / np.sqrt(2 * 10_000)
    np.testing.assert_array_equal(w, normal_frequencies(10_000, scale=16.0))
    np.testing.assert_allclose(normal_frequencies(3, scale=1.0), w[:3] / 16)
