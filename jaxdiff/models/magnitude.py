"""Layers that keep magnitudes: what comes in with unit magnitude goes out with unit magnitude, without normalisation.

The magnitude of x, of n elements, is `sqrt(mean_i E[x_i^2])`. Sums and concatenations of uncorrelated inputs keep it by
their weights, nonlinearities by a constant, and convolutions as each output's weights have the norm 1 whatever their
parameters' norm. As that norm says nothing, training should keep it (`jaxdiff.train.normalized`): it would only grow,
and with it the learning rate fall.

Source: Karras et al. 2023 (arXiv 2312.02696), section 2 and appendix B.
"""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.models.attention import attend
from jaxdiff.models.layers import Dtype, convolve, wide
from jaxdiff.typing import Array, InputError


def normalize(x: Array, axes: Sequence[int], *, eps: float) -> Array:
    """`x / (eps + sqrt(mean(x^2)))` over these axes, in float32 or better; 0 where x is 0.

    >>> [round(float(y), 4) for y in normalize(jnp.array([7.0, 1.0]), [0], eps=0.0)]
    [1.4, 0.2]
    """
    x = x.astype(wide(x.dtype))
    square = jnp.square(x).mean(axes, keepdims=True)
    return x / (eps + jnp.sqrt(jnp.where(square > 0, square, 1)))


def pixel_norm(x: Array) -> Array:
    """Each vector of channels with unit magnitude: `x / (1e-4 + sqrt(mean(x^2)))`.

    Source: Karras et al. 2023 (arXiv 2312.02696), eq. 30; Karras et al. 2018 (arXiv 1710.10196), section 4.2.
    """
    return normalize(x, [-1], eps=1e-4).astype(x.dtype)


def mp_silu(x: Array) -> Array:
    """`silu(x) / 0.596`, as silu of a normal number has the magnitude 0.596.

    Source: Karras et al. 2023 (arXiv 2312.02696), eq. 81.
    """
    return nn.silu(x) / 0.596


def mp_sum(a: Array, b: Array, *, t: float) -> Array:
    """`((1 - t) a + t b) / sqrt((1 - t)^2 + t^2)`.

    >>> mp_sum(jnp.array([5.0]), jnp.array([0.0]), t=3 / 7).round(4).tolist()
    [4.0]

    Source: Karras et al. 2023 (arXiv 2312.02696), eq. 88.
    """
    return ((1 - t) * a + t * b) / math.hypot(1 - t, t)


def mp_cat(a: Array, b: Array, *, t: float) -> Array:
    """`sqrt((N_a + N_b) / ((1 - t)^2 + t^2)) [(1 - t) / sqrt(N_a) a, t / sqrt(N_b) b]`, of N_a and N_b channels: what
    each contributes to a convolution depends on t, not on how many channels it has.

    >>> mp_cat(jnp.ones((1, 2)), jnp.ones((1, 2)), t=0.5).round(4).tolist()
    [[1.0, 1.0, 1.0, 1.0]]

    Source: Karras et al. 2023 (arXiv 2312.02696), eq. 103.
    """
    n_a, n_b = a.shape[-1], b.shape[-1]
    scale = math.sqrt(n_a + n_b) / math.hypot(1 - t, t)
    return jnp.concatenate([(scale * (1 - t) / n_a**0.5) * a, (scale * t / n_b**0.5) * b], axis=-1)


def mp_fourier(c: Array, *, channels: int) -> Array:
    """`sqrt(2) cos(2 pi (f_i c + phi_i))` with f_i ~ N(0, 1) and phi_i ~ U(0, 1), drawn once and for ever.

    c is to be of order 1, as log(sigma) / 4 is: numbers of diffusion steps, 0..999, would be told apart, but near ones
    would be as different as far ones. The draws belong to no seed and no parameters (they are of numpy's
    RandomState(0), whose stream is frozen): every network has the same.

    Args:
      c: numbers `[B]`.
      channels: how many.

    Returns:
      `[B, channels]`; float32, or float64 if c is.

    Source: Karras et al. 2023 (arXiv 2312.02696), eq. 75.
    """
    draw = np.random.RandomState(0)
    frequencies, phases = draw.standard_normal(channels), draw.random_sample(channels)
    c = c.astype(wide(c.dtype))
    turns = c[:, None] * jnp.asarray(frequencies, c.dtype)[None] + jnp.asarray(phases, c.dtype)[None]
    return math.sqrt(2) * jnp.cos(2 * math.pi * turns)


def unit_norm(kernel: Array) -> Array:
    """The weights of each output, `kernel[..., i]`, with the norm 1: `w / |w|`.

    The paper has `w / (|w| + eps)`. Without eps the norm of the kernel is of no consequence at all, and its gradient is
    orthogonal to it.

    Source: Karras et al. 2023 (arXiv 2312.02696), eq. 47.
    """
    return normalize(kernel, range(kernel.ndim - 1), eps=0.0) / math.sqrt(kernel.size // kernel.shape[-1])


def _init(key: Array, shape: Sequence[int], dtype: Dtype) -> Array:
    """Normal numbers, of which each output's have a mean square of 1; there training keeps them."""
    return normalize(jax.random.normal(key, shape, dtype), range(len(shape) - 1), eps=0.0)


class Conv(nn.Module):
    """A convolution that keeps its input's size, with weights of norm 1 and no bias: `x * (w_i / |w_i|)`.

    Attributes:
      channels: of the output.
      width: in each dimension of space. 1: a dense layer, of any array.

    Source: Karras et al. 2023 (arXiv 2312.02696), eq. 47.
    """

    channels: int
    width: int = 1
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        space = () if self.width == 1 else (self.width,) * (x.ndim - 2)
        kernel = self.param("kernel", _init, (*space, x.shape[-1], self.channels), jnp.float32)
        kernel = unit_norm(kernel.astype(wide(self.dtype))).astype(self.dtype)
        x = x.astype(self.dtype)
        return convolve(x, kernel) if space else x @ kernel


class Embed(nn.Module):
    """Rows `[rows, channels]` by their number, each channel of unit magnitude over the rows.

    It is `Conv` of one-hot vectors times sqrt(rows), which have unit magnitude.

    Source: Karras et al. 2023 (arXiv 2312.02696), appendix B.
    """

    rows: int
    channels: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, labels: Array) -> Array:
        kernel = self.param("kernel", _init, (self.rows, self.channels), jnp.float32)
        return normalize(kernel.astype(wide(self.dtype)), [0], eps=0.0).astype(self.dtype)[labels]


class CosineAttention(nn.Module):
    """Self-attention over all positions, of queries, keys and values that are each of unit magnitude:
    `mp_sum(x, W softmax(q k^T / sqrt(d)) v)`.

    Means of values that differ are smaller than these: of all layers this one alone does not keep magnitudes.

    Attributes:
      heads: the number of heads; must divide the channels.
      balance: t of the sum.

    Source: Karras et al. 2023 (arXiv 2312.02696), appendix B.
    """

    heads: int
    balance: float = 0.3
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, *space, channels = x.shape
        if self.heads < 1 or channels % self.heads:
            raise InputError(f"attention: {channels} channels cannot be split into {self.heads} heads")
        qkv = Conv(3 * channels, dtype=self.dtype, name="qkv")(x)
        qkv = pixel_norm(qkv.reshape(batch, -1, 3 * self.heads, channels // self.heads))
        q, k, v = jnp.split(qkv, 3, axis=2)
        h = Conv(channels, dtype=self.dtype, name="out")(attend(q, k, v).reshape(batch, *space, channels))
        return mp_sum(x, h, t=self.balance)
