"""Pieces that networks share: normalisation, convolution, attention, dropout, resampling. Channels last."""

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


def conv3x3(channels: int, *, dtype: Dtype, stride: int = 1, zero: bool = False, name: str | None = None) -> nn.Conv:
    """A 3x3 convolution that keeps the size, or divides it by `stride`; `zero`: starting at 0."""
    kernel_init = init_zero if zero else init_default
    return nn.Conv(channels, (3, 3), (stride, stride), dtype=dtype, kernel_init=kernel_init, name=name)


class GroupNorm(nn.Module):
    """Group normalisation with float32 statistics: `(x - mean) / sqrt(var + eps) * scale + bias` per example and group.

    Each channel is reduced over space first and the groups are combined from those `[B, C]` means, which on CPU is
    several times faster than reducing over the groups of the full array. The mean is subtracted before squares are
    taken, so that a mean far larger than the deviation costs no accuracy.

    Attributes:
      groups: the number of groups. Used is the largest divisor of the channels up to it that leaves a group two
        channels or more: the norm of a single channel would take out what DDPM's embeddings add to it.

    Source: Wu & He 2018 (arXiv 1803.08494), eq. 1-4.
    """

    groups: int = 32
    eps: float = 1e-5

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones_init(), (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (channels,), jnp.float32)
        most = max(min(self.groups, channels // 2), 1)
        groups = max(g for g in range(1, most + 1) if channels % g == 0)
        space = tuple(range(1, x.ndim - 1))
        ones = (1,) * len(space)

        def per_group(m: Array) -> Array:  # [B, C] means -> their group's mean for each channel, [B, 1.., C]
            m = m.reshape(-1, groups, channels // groups).mean(-1, keepdims=True)
            return jnp.broadcast_to(m, (m.shape[0], groups, channels // groups)).reshape(-1, *ones, channels)

        h = x.astype(jnp.float32)
        h = h - per_group(h.mean(space))
        factor = jax.lax.rsqrt(per_group(jnp.square(h).mean(space)) + self.eps)
        return (h * (factor * scale.reshape(1, *ones, -1)) + bias.reshape(1, *ones, -1)).astype(x.dtype)


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


class Attention(nn.Module):
    """Self-attention over all positions, with a residual: `x + W softmax(q k^T / sqrt(d)) v`, starting as `x`.

    Attributes:
      heads: the number of heads; must divide the channels.
    """

    heads: int = 1
    groups: int = 32
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, *space, channels = x.shape
        if self.heads < 1 or channels % self.heads:
            raise InputError(f"attention: {channels} channels cannot be split into {self.heads} heads")
        h = GroupNorm(self.groups, name="norm")(x).reshape(batch, -1, channels)
        qkv = nn.Dense(3 * channels, dtype=self.dtype, kernel_init=init_default, name="qkv")(h)
        q, k, v = jnp.split(qkv.reshape(batch, -1, 3 * self.heads, channels // self.heads), 3, axis=2)
        with jax.numpy_dtype_promotion("standard"):  # of bfloat16, it mixes dtypes itself, which strict mode refuses
            h = jax.nn.dot_product_attention(q, k, v).reshape(batch, *space, channels)
        return x + nn.Dense(channels, dtype=self.dtype, kernel_init=init_zero, name="out")(h)


def downsample(x: Array) -> Array:
    """Halve height and width: the mean of each 2x2 block."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def upsample(x: Array) -> Array:
    """Double height and width: each pixel becomes a 2x2 block."""
    b, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c))
    return x.reshape(b, 2 * h, 2 * w, c)


class ResBlock(nn.Module):
    """Residual block of DDPM and ADM: norm, SiLU, (resample), conv; + embedding; norm, SiLU, dropout, conv (zero).

    Attributes:
      channels: of the output.
      resample: `upsample` or `downsample`, applied inside the block and on its skip, or None.
      scale_shift: the embedding scales and shifts the second norm, instead of being added before it.

    Source: Ho et al. 2020 (arXiv 2006.11239), appendix B; Dhariwal & Nichol 2021 (arXiv 2105.05233), section 3.
    """

    channels: int
    resample: Callable[[Array], Array] | None = None
    scale_shift: bool = True
    dropout: float = 0.0
    groups: int = 32
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, emb: Array, key: Array | None = None) -> Array:
        dense = partial(nn.Dense, dtype=self.dtype, kernel_init=init_default)
        resample = self.resample or (lambda y: y)

        h = resample(nn.silu(GroupNorm(self.groups, name="norm1")(x)))
        h = conv3x3(self.channels, dtype=self.dtype, name="conv1")(h)
        emb = dense((2 if self.scale_shift else 1) * self.channels, name="emb")(nn.silu(emb))[:, None, None, :]
        if self.scale_shift:
            scale, shift = jnp.split(emb, 2, axis=-1)
            h = GroupNorm(self.groups, name="norm2")(h) * (1 + scale) + shift
        else:
            h = GroupNorm(self.groups, name="norm2")(h + emb)
        h = Dropout(self.dropout)(nn.silu(h), key)
        h = conv3x3(self.channels, dtype=self.dtype, zero=True, name="conv2")(h)

        x = resample(x)
        if x.shape[-1] != self.channels:
            x = dense(self.channels, name="skip")(x)
        return x + h
