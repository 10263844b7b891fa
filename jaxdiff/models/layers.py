"""Pieces that networks share: normalisation, convolution, attention, dropout, resampling. Channels last.

They take sequences `[B, L, C]`, images `[B, H, W, C]` and videos `[B, T, H, W, C]` alike.
"""

import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdiff.noise import per_example
from jaxdiff.typing import Array, InputError

Dtype = Any

# Weights: uniform with variance 1 / ((fan_in + fan_out) / 2), as DDPM has them; layers that end a residual start at 0.
init_default = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
init_zero = nn.initializers.zeros_init()


def wide(dtype: Dtype) -> Dtype:
    """The dtype of statistics and sums: float64 for float64, else float32."""
    return jnp.float64 if dtype == jnp.float64 else jnp.float32


def conv(
    x: Array,
    channels: int,
    *,
    dtype: Dtype,
    width: int = 3,
    stride: int = 1,
    padding: Any = "SAME",
    zero: bool = False,
    name: str | None = None,
) -> Array:
    """A convolution, `width` in each dimension of space, that keeps the size, or divides it by `stride`; `zero`:
    starting at 0."""
    space = x.ndim - 2
    kernel_init = init_zero if zero else init_default
    layer = nn.Conv(
        channels, (width,) * space, (stride,) * space, padding=padding, dtype=dtype, kernel_init=kernel_init, name=name
    )
    return jnp.asarray(layer(x))


def group_count(channels: int, *, groups: int, least: int = 2) -> int:
    """The largest divisor of the channels up to `groups` that leaves a group `least` channels or more.

    >>> group_count(48, groups=32), group_count(8, groups=32), group_count(8, groups=32, least=1)
    (24, 4, 8)
    """
    most = max(min(groups, channels // least), 1)
    return max(g for g in range(1, most + 1) if channels % g == 0)


class GroupNorm(nn.Module):
    """Group normalisation: `(x - mean) / sqrt(var + eps) * scale + bias` per example and group, with statistics in
    float32 or better.

    Each channel is reduced over space first and the groups are combined from those `[B, C]` means, which on CPU is
    several times faster than reducing over the groups of the full array. The mean is subtracted before squares are
    taken, so that a mean far larger than the deviation costs no accuracy.

    Attributes:
      groups: the number of groups; used is `group_count`.
      least: the fewest channels of a group. The norm of a single channel takes out what DDPM's embeddings add to it.
      eps: added to the variance.

    Source: Wu & He 2018 (arXiv 1803.08494), eq. 1-4.
    """

    groups: int = 32
    eps: float = 1e-5
    least: int = 2

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels, precision = x.shape[-1], wide(x.dtype)
        scale = self.param("scale", nn.initializers.ones_init(), (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (channels,), jnp.float32)
        groups = group_count(channels, groups=self.groups, least=self.least)
        space = tuple(range(1, x.ndim - 1))
        ones = (1,) * len(space)

        def per_group(m: Array) -> Array:  # [B, C] means -> their group's mean for each channel, [B, 1.., C]
            m = m.reshape(-1, groups, channels // groups).mean(-1, keepdims=True)
            return jnp.broadcast_to(m, (m.shape[0], groups, channels // groups)).reshape(-1, *ones, channels)

        h = x.astype(precision)
        h = h - per_group(h.mean(space))
        factor = jax.lax.rsqrt(per_group(jnp.square(h).mean(space)) + self.eps)
        scale, bias = (p.astype(precision).reshape(1, *ones, -1) for p in (scale, bias))
        return (h * (factor * scale) + bias).astype(x.dtype)


def normalised(x: Array, *, centre: bool, eps: float = 1e-6) -> Array:
    """Each vector of channels as `(x - mean) / sqrt(var + eps)`, or without `centre` `x / sqrt(mean(x^2) + eps)`.

    Returns:
      float32 or better, whatever x is.

    >>> normalised(jnp.array([1.0, 3.0]), centre=True).round(3).tolist()
    [-1.0, 1.0]

    Source: Ba et al. 2016 (arXiv 1607.06450), section 3.1; Zhang & Sennrich 2019 (arXiv 1910.07467), eq. 4.
    """
    h = x.astype(wide(x.dtype))
    h = h - h.mean(-1, keepdims=True) if centre else h
    return h * jax.lax.rsqrt(jnp.square(h).mean(-1, keepdims=True) + eps)


class RMSNorm(nn.Module):
    """Normalisation of each vector of channels by its root mean square: `x / sqrt(mean(x^2) + eps) * scale`, with
    statistics in float32 or better.

    Source: Zhang & Sennrich 2019 (arXiv 1910.07467), eq. 4.
    """

    eps: float = 1e-6

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones_init(), x.shape[-1:], jnp.float32)
        h = normalised(x, centre=False, eps=self.eps)
        return (h * scale.astype(h.dtype).reshape((1,) * (x.ndim - 1) + (-1,))).astype(x.dtype)


class Dropout(nn.Module):
    """Dropout by per-example keys `[B]`, so that an example's mask does not depend on its batch or device.

    No keys, no dropout: evaluation is the call without a key. One key stands for B, as everywhere in the package.
    Each place in a network folds its own path into the key.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Array, key: Array | None) -> Array:
        if not 0 <= self.rate < 1:
            raise InputError(f"the dropout rate must be in [0, 1); got {self.rate}")
        if key is None or self.rate == 0:
            return x
        place = zlib.crc32("/".join(self.path).encode())
        keep = 1 - self.rate

        def mask(k: Array) -> Array:
            return jax.random.bernoulli(jax.random.fold_in(k, place), keep, x.shape[1:])

        return jnp.where(jax.vmap(mask)(per_example(key, x.shape[0])), x / keep, 0).astype(x.dtype)


def attend(q: Array, k: Array, v: Array) -> Array:
    """`softmax(q k^T / sqrt(d)) v`, each `[B, positions, heads, d]`; of keys and values there may be more or fewer.

    >>> one = jnp.ones((1, 3, 2, 4))
    >>> attend(one, one, one).shape
    (1, 3, 2, 4)

    Source: Vaswani et al. 2017 (arXiv 1706.03762), eq. 1.
    """
    if q.dtype == jnp.float64:  # JAX's own has its logits in float32, whatever comes in
        logits = jnp.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5
        return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(logits), v)
    with jax.numpy_dtype_promotion("standard"):  # of bfloat16, it mixes dtypes itself, which strict mode refuses
        return jnp.asarray(jax.nn.dot_product_attention(q, k, v))


def rotate(x: Array, angles: Array) -> Array:
    """Rotary positions: turn the pairs of channels `(x_i, x_{i + d/2})`, position n by `angles[n, i]`.

    Angles that are linear in the position make `q . k` a function of the difference of positions alone.

    Args:
      x: queries or keys `[B, positions, heads, d]`, d even.
      angles: `[positions, d / 2]`, in radians.

    >>> quarter = jnp.full((1, 1), jnp.pi / 2)
    >>> rotate(jnp.array([1.0, 0.0]).reshape(1, 1, 1, 2), quarter).round(3).ravel().tolist()
    [-0.0, 1.0]

    Source: Su et al. 2021 (arXiv 2104.09864), section 3.2.2; which channels make a pair is of no consequence.
    """
    precision = wide(x.dtype)
    cos, sin = (f(jnp.asarray(angles, precision))[None, :, None] for f in (jnp.cos, jnp.sin))
    a, b = jnp.split(x.astype(precision), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


class Attention(nn.Module):
    """Self-attention over all positions, with a residual: `x + W softmax(q k^T / sqrt(d)) v`, starting as `x`.

    Attributes:
      heads: the number of heads; must divide the channels.
      norm: makes the normalisation; None: there is none.
      residual: False: `W softmax(q k^T / sqrt(d)) v` alone, for a block that has its own residual, which does not start
        at 0.
      qk_norm: the queries and the keys of each head are divided by their root mean square, and scaled, so that logits
        cannot grow without bound.

    Source of `qk_norm`: Henry et al. 2020 (arXiv 2010.04245); Dehghani et al. 2023 (arXiv 2302.05442), section 2.
    """

    heads: int = 1
    norm: Callable[..., nn.Module] | None = GroupNorm
    dtype: Dtype = jnp.float32
    residual: bool = True
    qk_norm: bool = False

    @nn.compact
    def __call__(self, x: Array, angles: Array | None = None) -> Array:
        """`angles`: of rotary positions, `[positions, channels / heads / 2]`; see `rotate`."""
        batch, *space, channels = x.shape
        if self.heads < 1 or channels % self.heads:
            raise InputError(f"attention: {channels} channels cannot be split into {self.heads} heads")
        h = x if self.norm is None else self.norm(name="norm")(x)
        h = h.reshape(batch, -1, channels)
        qkv = nn.Dense(3 * channels, dtype=self.dtype, kernel_init=init_default, name="qkv")(h)
        q, k, v = jnp.split(qkv.reshape(batch, -1, 3 * self.heads, channels // self.heads), 3, axis=2)
        if self.qk_norm:
            q, k = RMSNorm(name="q_norm")(q), RMSNorm(name="k_norm")(k)
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        h = attend(q, k, v).reshape(batch, *space, channels)
        out = nn.Dense(
            channels, dtype=self.dtype, kernel_init=init_zero if self.residual else init_default, name="out"
        )(h)
        return x + out if self.residual else out


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


class ResBlock(nn.Module):
    """Residual block of DDPM and ADM: norm, SiLU, (resample), conv; + embedding; norm, SiLU, dropout, conv (zero).

    Attributes:
      channels: of the output.
      resample: `upsample` or `downsample`, applied inside the block and on its skip, or None.
      scale_shift: the embedding scales and shifts the second norm, instead of being added before it.
      norm: makes the normalisations.

    Source: Ho et al. 2020 (arXiv 2006.11239), appendix B; Dhariwal & Nichol 2021 (arXiv 2105.05233), section 3.
    """

    channels: int
    resample: Callable[[Array], Array] | None = None
    scale_shift: bool = True
    dropout: float = 0.0
    norm: Callable[..., nn.Module] = GroupNorm
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, emb: Array, key: Array | None = None) -> Array:
        dense = partial(nn.Dense, dtype=self.dtype, kernel_init=init_default)
        resample = self.resample or (lambda y: y)

        h = resample(nn.silu(self.norm(name="norm1")(x)))
        h = conv(h, self.channels, dtype=self.dtype, name="conv1")
        emb = dense((2 if self.scale_shift else 1) * self.channels, name="emb")(nn.silu(emb))
        emb = emb.reshape(emb.shape[0], *(1,) * (x.ndim - 2), -1)
        if self.scale_shift:
            scale, shift = jnp.split(emb, 2, axis=-1)
            h = self.norm(name="norm2")(h) * (1 + scale) + shift
        else:
            h = self.norm(name="norm2")(h + emb)
        h = Dropout(self.dropout)(nn.silu(h), key)
        h = conv(h, self.channels, dtype=self.dtype, zero=True, name="conv2")

        x = resample(x)
        if x.shape[-1] != self.channels:
            x = dense(self.channels, name="skip")(x)
        return x + h
