"""Smaller and larger feature maps: halves and doubles of each dimension of space, and patches. Channels last."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxdiff.typing import Array, InputError


def downsample(x: Array) -> Array:
    """Halve each dimension of space: the mean of each block of 2.

    >>> downsample(jnp.arange(4.0).reshape(1, 4, 1)).ravel().tolist()
    [0.5, 2.5]
    """
    batch, *space, channels = x.shape
    blocks = [n for size in space for n in (size // 2, 2)]
    return x.reshape(batch, *blocks, channels).mean(tuple(range(2, 2 + 2 * len(space), 2)))


def upsample(x: Array) -> Array:
    """Double each dimension of space: each point becomes a block of 2.

    >>> upsample(jnp.arange(2.0).reshape(1, 2, 1)).ravel().tolist()
    [0.0, 0.0, 1.0, 1.0]
    """
    batch, *space, channels = x.shape
    apart, blocks = ([n for size in space for n in (size, k)] for k in (1, 2))
    x = jnp.broadcast_to(x.reshape(batch, *apart, channels), (batch, *blocks, channels))
    return x.reshape(batch, *(2 * size for size in space), channels)


def patches(x: Array, size: int) -> Array:
    """Blocks of `size` points in each dimension of space as one point: `[B, ..., C]` -> `[B, ... / size, size^n C]`.

    >>> patches(jnp.arange(4.0).reshape(1, 4, 1), 2).tolist()
    [[[0.0, 1.0], [2.0, 3.0]]]
    """
    batch, *space, channels = x.shape
    if size < 1:
        raise InputError(f"patches of {size}: expected at least 1 point in each dimension of space")
    if any(n % size for n in space):
        raise InputError(
            f"patches of {size}: the image's size must be divisible by it; got {'x'.join(map(str, space))}. Use "
            "another patch, or pad or resize the images."
        )
    dims = len(space)
    x = x.reshape(batch, *(n for side in space for n in (side // size, size)), channels)
    x = x.transpose(0, *range(1, 2 * dims, 2), *range(2, 2 * dims + 1, 2), 2 * dims + 1)
    return x.reshape(batch, *(side // size for side in space), -1)


def unpatches(x: Array, size: int) -> Array:
    """The inverse of `patches`.

    >>> x = jnp.arange(48.0).reshape(1, 4, 4, 3)
    >>> bool((unpatches(patches(x, 2), 2) == x).all())
    True
    """
    batch, *grid, channels = x.shape
    dims = len(grid)
    x = x.reshape(batch, *grid, *(size,) * dims, channels // size**dims)
    x = x.transpose(0, *(axis for i in range(dims) for axis in (1 + i, 1 + dims + i)), 1 + 2 * dims)
    return x.reshape(batch, *(size * n for n in grid), -1)


def unshuffle(x: Array) -> Array:
    """Halve each dimension of space: each block of 2 becomes one point with all its channels, those of the first
    channel first.

    >>> unshuffle(jnp.arange(8.0).reshape(1, 4, 2)).tolist()
    [[[0.0, 2.0, 1.0, 3.0], [4.0, 6.0, 5.0, 7.0]]]

    Source: Shi et al. 2016 (arXiv 1609.05158), eq. 4, the inverse.
    """
    y = patches(x, 2)
    return y.reshape(*y.shape[:-1], -1, x.shape[-1]).swapaxes(-1, -2).reshape(y.shape)


def upfirdn(
    x: Array, kernel: Sequence[float], *, up: int = 1, down: int = 1, padding: tuple[int, int] = (0, 0)
) -> Array:
    """Along each dimension of space: `up - 1` zeros after each point, zeros at both ends, a filter, and of the result
    every `down`-th point.

    The filter is a convolution (its kernel is turned round) where it lies within what it is given, as in
    scipy.signal.upfirdn, which has no padding of its own.

    >>> upfirdn(jnp.arange(1.0, 3.0).reshape(1, 2, 1), (1.0, 0.5), up=2, padding=(1, 0)).ravel().tolist()
    [1.0, 0.5, 2.0, 1.0]

    Source: Zhang 2019 (arXiv 1904.11486); Karras et al. 2020 (arXiv 1912.04958), whose name it has.
    """
    low, high = padding
    for axis in range(1, x.ndim - 1):
        sides = [(0, 0, 0)] * x.ndim
        sides[axis] = (low, high + up - 1, up - 1)
        x = jax.lax.pad(x, jnp.zeros((), x.dtype), sides)
        within = x.shape[axis] - len(kernel) + 1
        taps = [jax.lax.slice_in_dim(x, i, i + within, down, axis) * k for i, k in enumerate(reversed(kernel))]
        x = jnp.asarray(sum(taps))
    return x


FIR = (0.125, 0.375, 0.375, 0.125)
"""StyleGAN2's filter, `[1, 3, 3, 1] / 8`; times `up` where there are zeros between the points, so that means stay."""


def fir_downsample(x: Array) -> Array:
    """Halve each dimension of space, by the filter `FIR`.

    >>> fir_downsample(jnp.ones((1, 6, 1))).ravel().tolist()
    [0.875, 1.0, 0.875]
    """
    return upfirdn(x, FIR, down=2, padding=(1, 1))


def fir_upsample(x: Array, *, more: int = 0) -> Array:
    """Double each dimension of space, by the filter `FIR`; with `more` points at each end, for a convolution to take.

    >>> fir_upsample(jnp.ones((1, 2, 1))).ravel().tolist()
    [0.75, 1.0, 1.0, 0.75]
    """
    return upfirdn(x, [2 * k for k in FIR], up=2, padding=(2 + more, 1 + more))
