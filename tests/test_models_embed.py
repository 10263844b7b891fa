"""The embedding of numbers against the formula in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import InputError
from jaxdiff.models.embed import sinusoidal


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
