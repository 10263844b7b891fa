"""Resizing as the programs do it that measured the published distances. A distance depends on it (Parmar et al. 2022).

Each is linear and separable, `y = R_h x R_w^T` for each channel, with two small matrices that are made in float64 once
the sizes are known: exact, differentiable, and two products of matrices on any device.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.typing import Array, InputError

_EXACT = jax.lax.Precision.HIGHEST


def tf1_bilinear(images: Array, size: int) -> Array:
    """Bilinear, as TensorFlow 1's `resize_bilinear` without aligned corners, within the graph of FID's Inception:

        y_i = (1 - f) x_l + f x_{l+1},    l + f = i n / size

    from n points. Half a pixel off the centre, without smoothing before points are left out.

    Args:
      images: `[B, H, W, C]`, floating point, in 0..255 or any other range.
      size: the height and width of the result.

    Returns:
      `[B, size, size, C]`.

    Raises:
      InputError: not four dimensions, or a size below 1.

    >>> tf1_bilinear(jnp.arange(2.0).reshape(1, 2, 1, 1).repeat(2, axis=2), 4)[0, :, 0, 0].tolist()
    [0.0, 0.5, 1.0, 1.0]

    Source: Heusel et al. 2017 (arXiv 1706.08500), whose graph has it; Parmar et al. 2022 (arXiv 2104.11222), section 3.
    """
    return _resize(images, size, lambda n, m: _two_points(np.arange(m) * (n / m), n))


def torch_bilinear(images: Array, size: int) -> Array:
    """Bilinear, as torch's `interpolate` without aligned corners or antialiasing, which pytorch-fid uses:

        y_i = (1 - f) x_l + f x_{l+1},    l + f = max((i + 1/2) n / size - 1/2, 0)

    from n points. Centred, without smoothing before points are left out.

    Args:
      images: `[B, H, W, C]`, floating point, in 0..255 or any other range.
      size: the height and width of the result.

    Returns:
      `[B, size, size, C]`.

    Raises:
      InputError: not four dimensions, or a size below 1.

    >>> torch_bilinear(jnp.arange(2.0).reshape(1, 2, 1, 1).repeat(2, axis=2), 4)[0, :, 0, 0].tolist()
    [0.0, 0.25, 0.75, 1.0]

    Source: Parmar et al. 2022 (arXiv 2104.11222), section 3.
    """
    return _resize(images, size, lambda n, m: _two_points(np.maximum((np.arange(m) + 0.5) * (n / m) - 0.5, 0), n))


def clean_bicubic(images: Array, size: int) -> Array:
    """Bicubic with antialiasing, as Pillow does it on floating point, cut off at 0 and 255: clean-fid's.

        y_i = sum_j k((j + 1/2 - c_i) / s) x_j / sum_j k((j + 1/2 - c_i) / s),    c_i = (i + 1/2) n / size

    from n points, with Keys' cubic k of a = -1/2 stretched by s = max(n / size, 1).

    Args:
      images: `[B, H, W, C]`, floating point, in 0..255.
      size: the height and width of the result.

    Returns:
      `[B, size, size, C]`, in 0..255.

    Raises:
      InputError: not four dimensions, or a size below 1.

    >>> clean_bicubic(jnp.full((1, 5, 7, 3), 80.0), 4).round(3).mean().item()
    80.0

    Source: Parmar et al. 2022 (arXiv 2104.11222), section 3.1; Keys 1981, eq. 4 (the kernel).
    """
    return jnp.clip(_resize(images, size, _cubic), 0, 255)


def _resize(images: Array, size: int, matrix: Callable[[int, int], np.ndarray]) -> Array:
    images = jnp.asarray(images)
    if images.ndim != 4 or size < 1 or 0 in images.shape[1:3]:
        raise InputError(f"resize: expected images [B, H, W, C] and a size of 1 or more, got {images.shape} and {size}")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise InputError(f"resize: expected floating point, got {images.dtype}: cast the images to float32 first")
    rows, columns = (jnp.asarray(matrix(n, size), images.dtype) for n in images.shape[1:3])
    wide = jnp.einsum("pw,bhwc->bhpc", columns, images, precision=_EXACT)
    return jnp.einsum("oh,bhpc->bopc", rows, wide, precision=_EXACT)


def _two_points(place: np.ndarray, n: int) -> np.ndarray:
    """`[size, n]`: the point at `place` between two of n, or beyond the last of them."""
    low = np.minimum(np.floor(place).astype(int), n - 1)
    high = np.minimum(low + 1, n - 1)
    fraction = (place - low)[:, None]
    points = np.eye(n)
    return np.asarray((1 - fraction) * points[low] + fraction * points[high])


def _cubic(n: int, size: int) -> np.ndarray:
    """`[size, n]`."""
    stretch = max(n / size, 1.0)
    centre = (np.arange(size)[:, None] + 0.5) * (n / size)
    at = np.arange(n)[None]
    # Pillow's kernel ends where its window does, whose ends are rounded to whole points.
    first, last = np.floor(centre - 2 * stretch + 0.5), np.floor(centre + 2 * stretch + 0.5)
    u = np.abs(at + 0.5 - centre) / stretch
    near = 1.5 * u**3 - 2.5 * u**2 + 1
    far = -0.5 * (u**3 - 5 * u**2 + 8 * u - 4)
    weights = np.where(u < 1, near, np.where(u < 2, far, 0.0)) * ((at >= first) & (at < last))
    return np.asarray(weights / weights.sum(1, keepdims=True))
