"""PSNR, SSIM and MS-SSIM by hand and by their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import InputError
from jaxdiff.metrics import ms_ssim, psnr, ssim


def images(seed=0, shape=(2, 32, 24, 3)):
    rng = np.random.default_rng(seed)
    return np.clip(rng.standard_normal(shape) * 0.3 + np.linspace(-0.7, 0.7, shape[2])[:, None], -1, 1)


def test_psnr_by_hand():
    a = jnp.zeros((2, 2, 2, 1))
    b = a.at[0, 0, 0, 0].set(0.4).at[1].set(2.0)
    np.testing.assert_allclose(psnr(a, b), [20, 0], atol=1e-4)  # 0.16 / 4 = 0.04; the whole range
    np.testing.assert_allclose(psnr(a, b, value_range=1.0), [20 - 20 * np.log10(2), -20 * np.log10(2)], atol=1e-4)
    assert psnr(a, a).tolist() == [np.inf, np.inf]


def test_psnr_of_bytes():
    a, b = np.full((1, 4, 4, 3), 250, np.uint8), np.full((1, 4, 4, 3), 5, np.uint8)  # the difference is no uint8
    assert float(psnr(a, b, value_range=255.0)[0]) == pytest.approx(20 * np.log10(255 / 245), rel=1e-5)


def test_ssim_of_constant_images_is_the_luminance_term():
    a, b = jnp.full((1, 16, 16, 3), 0.2), jnp.full((1, 16, 16, 3), -0.4)
    expected = (2 * 1.2 * 0.6 + 0.02**2) / (1.2**2 + 0.6**2 + 0.02**2)
    assert float(ssim(a, b)[0]) == pytest.approx(expected, rel=1e-5)


def test_ssim_of_one_window_by_hand():
    a, b = (images(seed, (1, 11, 11, 1))[0, :, :, 0] for seed in (0, 1))
    g = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    w = np.outer(g, g) / g.sum() ** 2
    ma, mb = (w * a).sum(), (w * b).sum()
    va, vb, cov = (w * (a - ma) ** 2).sum(), (w * (b - mb) ** 2).sum(), (w * (a - ma) * (b - mb)).sum()
    la, lb = ma + 1, mb + 1
    expected = (2 * la * lb + 4e-4) / (la**2 + lb**2 + 4e-4) * (2 * cov + 36e-4) / (va + vb + 36e-4)
    assert float(ssim(a[None, :, :, None], b[None, :, :, None])[0]) == pytest.approx(expected, rel=1e-5)


def test_ssim_does_not_depend_on_the_units():
    """In [-1, 1], [0, 1] and [0, 255]."""
    a, b = images(0), images(1)
    expected = ssim(a, b)
    np.testing.assert_allclose(ssim((a + 1) / 2, (b + 1) / 2, value_range=1.0, lowest=0.0), expected, rtol=1e-4)
    in_bytes = [np.round((x + 1) * 127.5).astype(np.uint8) for x in (a, b)]
    np.testing.assert_allclose(ssim(*in_bytes, value_range=255.0, lowest=0.0), expected, rtol=1e-2)


@pytest.mark.parametrize(
    ("metric", "shape"), [(psnr, (4, 12, 12, 3)), (ssim, (4, 16, 12, 3)), (ms_ssim, (3, 176, 180, 1))]
)
def test_contracts(metric, shape):
    """1 for equal images, symmetric, one number per example whatever the batch, and the same under jit."""
    a, b = (jnp.asarray(images(seed, shape), jnp.float32) for seed in (0, 1))
    run = jax.jit(metric)
    found = run(a, b)
    assert found.shape == shape[:1]
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, run(b, a), rtol=1e-6)
    np.testing.assert_allclose(found[1:2], run(a[1:2], b[1:2]), rtol=1e-6)
    if metric is not ms_ssim:  # which is slow op by op
        np.testing.assert_allclose(found, metric(a, b), rtol=1e-5)
    if metric is not psnr:
        np.testing.assert_allclose(run(a, a), 1, rtol=1e-5)
        assert bool(jnp.all(found < 1))
    assert jax.eval_shape(metric, a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)).dtype == jnp.float32


def test_ms_ssim_of_constant_images_is_the_fifth_luminance():
    a, b = jnp.full((1, 176, 176, 1), 0.2), jnp.full((1, 176, 176, 1), -0.4)
    luminance = (2 * 1.2 * 0.6 + 0.02**2) / (1.2**2 + 0.6**2 + 0.02**2)
    assert float(jax.jit(ms_ssim)(a, b)[0]) == pytest.approx(luminance**0.1333, rel=1e-5)


def test_ms_ssim_of_a_negative_is_0():
    a = jnp.asarray(images(0, (1, 176, 176, 1)), jnp.float32)
    assert float(jax.jit(ms_ssim)(a, -a)[0]) == 0


def test_refusals():
    a = jnp.zeros((2, 16, 16, 3))
    for metric in (psnr, ssim, ms_ssim):
        with pytest.raises(InputError, match="one shape"):
            metric(a, a[:1])
        with pytest.raises(InputError, match="value_range"):
            metric(a, a, value_range=0.0)
    with pytest.raises(InputError, match=r"\[B, \.\.\.\]"):
        psnr(jnp.zeros(3), jnp.zeros(3))
    with pytest.raises(InputError, match=r"\[B, H, W, C\]"):
        ssim(a[0], a[0])
    with pytest.raises(InputError, match="at least 11, got 10 x 16"):
        ssim(a[:, :10], a[:, :10])
    with pytest.raises(InputError, match="at least 176, got 16 x 16"):
        ms_ssim(a, a)
