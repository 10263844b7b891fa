"""Image against image: PSNR, SSIM and MS-SSIM, per example, in JAX."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.metrics.base import require
from jaxdiff.typing import Array

_WINDOW, _STD = 11, 1.5
_SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""The exponents of the five scales, Wang et al. 2003, section 3.2."""


def psnr(a: Array | np.ndarray, b: Array | np.ndarray, *, value_range: float = 2.0) -> Array:
    """The peak signal-to-noise ratio, `10 log10(value_range^2 / mean (a - b)^2)`, in decibels.

    Args:
      a: `[B, ...]`; integers are taken as they are.
      b: likewise, the shape of a.
      value_range: from black to white: 2 for images in [-1, 1], 1 for [0, 1], 255 for uint8.

    Returns:
      float32 or better `[B]`, infinite for equal images.

    Raises:
      InputError: shapes that differ or have no axis for the examples; a range that is not positive.

    >>> round(float(psnr(jnp.zeros((1, 4, 4, 3)), jnp.full((1, 4, 4, 3), 0.2))[0]), 4)
    20.0

    Source: Huynh-Thu & Ghanbari 2008, equation 1.
    """
    a, b = _pair(a, b, value_range)
    error = jnp.mean(jnp.square(a - b), axis=tuple(range(1, a.ndim)))
    return 20 * math.log10(value_range) - 10 * jnp.log10(error)


def ssim(a: Array | np.ndarray, b: Array | np.ndarray, *, value_range: float = 2.0, lowest: float = -1.0) -> Array:
    """The structural similarity, mean over all whole windows and the channels:

        (2 m_a m_b + c_1) / (m_a^2 + m_b^2 + c_1) * (2 s_ab + c_2) / (s_a^2 + s_b^2 + c_2),
        c_1 = (0.01 value_range)^2,        c_2 = (0.03 value_range)^2

    with means, variances and covariance in a Gaussian window of 11 x 11 and standard deviation 1.5; the means are
    brightnesses, measured from black, so that images in [-1, 1] have the score of the same images in [0, 255].

    Args:
      a: images `[B, H, W, C]`; integers are taken as they are.
      b: likewise, the shape of a.
      value_range: from black to white: 2 for images in [-1, 1], 1 for [0, 1], 255 for uint8.
      lowest: black: -1 for images in [-1, 1], 0 for the others.

    Returns:
      float32 or better `[B]`, at most 1.

    Raises:
      InputError: shapes that differ or are not `[B, H, W, C]`; sides below 11; a range that is not positive.

    >>> x = jnp.linspace(-1, 1, 256).reshape(1, 16, 16, 1)
    >>> round(float(ssim(x, x)[0]), 6), bool(ssim(x, -x)[0] < 0)
    (1.0, True)

    Source: Wang et al. 2004, equation 13.
    """
    a, b = _images(a, b, value_range, _WINDOW)
    luminance, structure = _maps(a, b, value_range, lowest)
    return jnp.mean(luminance * structure, axis=(1, 2, 3))


def ms_ssim(a: Array | np.ndarray, b: Array | np.ndarray, *, value_range: float = 2.0, lowest: float = -1.0) -> Array:
    """The structural similarity over five scales, each half the last, mean over the channels:

        SSIM_5^0.1333 prod_(j = 1..4) CS_j^(w_j),        w = 0.0448, 0.2856, 0.3001, 0.2363

    where CS is the second factor of `ssim`, contrast and structure, alone; a scale of negative mean counts as 0. Images
    are halved by the mean of 2 x 2 pixels, a last odd row or column left out (others fill up there: of sides that
    cannot be halved four times, values differ between libraries).

    Args:
      a: images `[B, H, W, C]` with sides of at least 176, so that the fifth scale has a window.
      b: likewise, the shape of a.
      value_range: as of `ssim`.
      lowest: as of `ssim`.

    Returns:
      float32 or better `[B]`, from 0 to 1.

    Raises:
      InputError: as of `ssim`; sides below 176.

    >>> x = jnp.linspace(-1, 1, 176 * 176).reshape(1, 176, 176, 1)
    >>> round(float(jax.jit(ms_ssim)(x, x)[0]), 6)
    1.0

    Source: Wang et al. 2003, equation 7.
    """
    a, b = _images(a, b, value_range, _WINDOW << (len(_SCALES) - 1))
    product = jnp.ones((a.shape[0], a.shape[3]), a.dtype)
    for scale, weight in enumerate(_SCALES):
        if scale:
            a, b = _halved(a), _halved(b)
        luminance, structure = _maps(a, b, value_range, lowest)
        factor = luminance * structure if scale == len(_SCALES) - 1 else structure
        product = product * jnp.maximum(jnp.mean(factor, axis=(1, 2)), 0) ** weight
    return jnp.mean(product, axis=1)


def _pair(a: Array | np.ndarray, b: Array | np.ndarray, value_range: float) -> tuple[Array, Array]:
    require(a.shape == b.shape, f"expected images of one shape, got {a.shape} and {b.shape}")
    require(len(a.shape) > 1, f"expected [B, ...], one image per example, got the shape {a.shape}")
    require(value_range > 0, f"value_range: expected a positive number, got {value_range}")
    a, b = jnp.asarray(a), jnp.asarray(b)
    dtype = jnp.float64 if jnp.float64 in (a.dtype, b.dtype) else jnp.float32
    return a.astype(dtype), b.astype(dtype)


def _images(a: Array | np.ndarray, b: Array | np.ndarray, value_range: float, least: int) -> tuple[Array, Array]:
    a, b = _pair(a, b, value_range)
    require(a.ndim == 4, f"expected images [B, H, W, C], got the shape {a.shape}")
    require(
        min(a.shape[1:3]) >= least,
        f"expected sides of at least {least}, got {a.shape[1]} x {a.shape[2]}; "
        + ("take ssim for small images" if least > _WINDOW else "take psnr for smaller images"),
    )
    return a, b


# Written out and not dm_pix.ssim, which mixes dtypes (an error under strict promotion), is right to 4e-5 in bright
# flat regions where this is to 1e-6, as it squares values that are measured from black, and has no contrast factor.
def _maps(a: Array, b: Array, value_range: float, lowest: float) -> tuple[Array, Array]:
    """SSIM's two factors, luminance and contrast with structure, at each window: `[B, H - 10, W - 10, C]`."""
    moments = _blurred(jnp.concatenate([a, b, a * a, b * b, a * b], axis=-1))
    mean_a, mean_b, aa, bb, ab = jnp.split(moments, 5, axis=-1)
    variances, covariance = aa - mean_a**2 + bb - mean_b**2, ab - mean_a * mean_b
    c1, c2 = (0.01 * value_range) ** 2, (0.03 * value_range) ** 2
    light_a, light_b = mean_a - lowest, mean_b - lowest
    luminance = (2 * light_a * light_b + c1) / (light_a**2 + light_b**2 + c1)
    return luminance, (2 * covariance + c2) / (variances + c2)


def _blurred(x: Array) -> Array:
    """The Gaussian window's mean; a sum of shifted images, as convolutions round to fewer digits on accelerators."""
    weights = np.exp(-0.5 * ((np.arange(_WINDOW) - _WINDOW // 2) / _STD) ** 2)
    w = jnp.asarray(weights / weights.sum(), x.dtype)
    for axis in (1, 2):
        shifted = partial(jax.lax.dynamic_slice_in_dim, x, slice_size=x.shape[axis] - _WINDOW + 1, axis=axis)
        x = jax.lax.fori_loop(1, _WINDOW, lambda i, so_far, f=shifted: so_far + w[i] * f(i), w[0] * shifted(0))
    return x


def _halved(x: Array) -> Array:
    n, height, width, channels = x.shape
    even = x[:, : height // 2 * 2, : width // 2 * 2]
    return jnp.mean(even.reshape(n, height // 2, 2, width // 2, 2, channels), axis=(2, 4))
