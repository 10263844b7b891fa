"""Pieces that networks share: normalisation, convolution, dropout, residual blocks. Channels last.

They take sequences `[B, L, C]`, images `[B, H, W, C]` and videos `[B, T, H, W, C]` alike.
"""

import itertools
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdiff.models.resampling import upsample
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
    double: bool = False,
    name: str | None = None,
) -> Array:
    """A convolution, `width` in each dimension of space, that keeps the size, or divides it by `stride`; `zero`:
    starting at 0; `double`: of `upsample(x)`."""
    space = x.ndim - 2
    layer = partial(
        nn.Conv, channels, (width,) * space, (stride,) * space, padding=padding, dtype=dtype,
        kernel_init=init_zero if zero else init_default, name=name,
    )  # fmt: skip
    if double and width == 3:
        return jnp.asarray(layer(conv_general_dilated=lambda x, kernel, *args, **more: convolve_double(x, kernel))(x))
    return jnp.asarray(layer()(upsample(x) if double else x))


def convolve(x: Array, kernel: Array, *, padding: Any = "SAME") -> Array:
    """The convolution of `x [B, ..., C]` with a kernel `[width.., C, channels]` that is at hand, by default keeping the
    size.

    >>> convolve(jnp.ones((1, 4, 1)), jnp.ones((3, 1, 2)))[0, :, 0].tolist()
    [2.0, 3.0, 3.0, 2.0]
    """
    n = kernel.ndim - 2
    space = tuple(range(1, n + 1))
    dimensions = jax.lax.ConvDimensionNumbers((0, n + 1, *space), (n + 1, n, *range(n)), (0, n + 1, *space))
    return jax.lax.conv_general_dilated(x, kernel, (1,) * n, padding, dimension_numbers=dimensions)


def convolve_double(x: Array, kernel: Array) -> Array:
    """`convolve(upsample(x), kernel)` for a kernel 3 wide.

    On CPUs with fewer sums: each point of the result is a sum over two points of x in each dimension, since of three
    points in a row of `upsample(x)` two are the same. Those at even places see x_{i-1} and x_i, by the kernel's taps
    w_0 and w_1 + w_2; those at odd places x_i and x_{i+1}, by w_0 + w_1 and w_2.

    >>> convolve_double(jnp.arange(1.0, 3.0).reshape(1, 2, 1), jnp.ones((3, 1, 1))).ravel().tolist()
    [2.0, 4.0, 5.0, 4.0]
    """
    if jax.default_backend() != "cpu":
        return convolve(upsample(x), kernel)
    n = kernel.ndim - 2

    def sums(kernel: Array, axis: int, place: int) -> Array:
        w0, w1, w2 = (jax.lax.slice_in_dim(kernel, i, i + 1, axis=axis) for i in range(3))
        return jnp.concatenate([w0 + w1, w2] if place else [w0, w1 + w2], axis)

    parts = []
    for places in itertools.product((0, 1), repeat=n):
        small = kernel
        for axis, place in enumerate(places):
            small = sums(small, axis, place)
        parts.append(convolve(x, small, padding=[(1 - place, place) for place in places]))
    y = jnp.stack(parts, axis=-2).reshape(*x.shape[:-1], *(2,) * n, -1)
    between = [axis for i in range(1, n + 1) for axis in (i, i + n)]
    return y.transpose(0, *between, 2 * n + 1).reshape(x.shape[0], *(2 * size for size in x.shape[1:-1]), -1)


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
    several times faster than reducing over the groups of the full array. One reading of x yields its sum and that of
    its squares; what is squared is the difference from the mean of the first row, so that a mean far larger than the
    deviation costs no accuracy.

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
        row = h[:, :1] if space else h
        near = jax.lax.stop_gradient(row.mean(space, keepdims=True))  # any constant gives the same result
        means, squares = ((h - near).mean(space), jnp.square(h - near).mean(space))
        mean = per_group(means + near.reshape(means.shape))
        from_group = means - (mean - near).reshape(means.shape)
        variance = per_group(squares - jnp.square(means) + jnp.square(from_group))
        scale, bias = (p.astype(precision).reshape(1, *ones, -1) for p in (scale, bias))
        factor = jax.lax.rsqrt(jnp.maximum(variance, 0) + self.eps) * scale
        return (h * factor + (bias - mean * factor)).astype(x.dtype)


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


REMAT = ("none", "blocks", "products")
"""What `rematerialised` may be told."""


def rematerialised(block: Any, remat: str, **options: Any) -> Any:
    """A class of modules whose activations the backward pass computes again, to save memory.

    Args:
      block: the class.
      remat: "none": all are kept. "blocks": what goes into a block is, which costs one forward pass more, a third of a
        training step. "products": so are the results of its convolutions and dense layers, and only what is cheap is
        computed again: norms, activation functions, dropout, and the logits of attention.
      options: of `nn.remat`.

    Raises:
      InputError: another word.
    """
    if remat not in REMAT:
        raise InputError(f"remat {remat!r}: expected one of {', '.join(REMAT)}")
    if remat == "none":
        return block
    return nn.remat(block, policy=_is_product if remat == "products" else None, **options)


def _is_product(primitive: Any, *args: Any, **params: Any) -> bool:
    """Of `jax.checkpoint`: a convolution, or a product of matrices that is no batch of them, as attention's are."""
    dense = jax.checkpoint_policies.dots_with_no_batch_dims_saveable(primitive, *args, **params)
    return primitive is jax.lax.conv_general_dilated_p or bool(dense)


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


def scaled(x: Array, factor: float) -> Array:
    """`factor x`; of 1 nothing is computed."""
    return x if factor == 1 else x * factor


class ResBlock(nn.Module):
    """Residual block of DDPM and ADM: norm, SiLU, (resample), conv; + embedding; norm, SiLU, dropout, conv (zero).

    Attributes:
      channels: of the output.
      resample: `upsample` or `downsample`, applied inside the block and on its skip, or None.
      scale_shift: the embedding scales and shifts the second norm, instead of being added before it.
      norm: makes the normalisations.
      resample_dense: the skip has a dense layer also where it resamples (BigGAN), not only where the channels change.
      factor: of the sum; 1/sqrt(2) keeps the variance (score_sde's skip_rescale).

    Source: Ho et al. 2020 (arXiv 2006.11239), appendix B; Dhariwal & Nichol 2021 (arXiv 2105.05233), section 3.
    """

    channels: int
    resample: Callable[[Array], Array] | None = None
    scale_shift: bool = True
    dropout: float = 0.0
    norm: Callable[..., nn.Module] = GroupNorm
    dtype: Dtype = jnp.float32
    resample_dense: bool = False
    factor: float = 1.0

    @nn.compact
    def __call__(self, x: Array, emb: Array, key: Array | None = None) -> Array:
        dense = partial(nn.Dense, dtype=self.dtype, kernel_init=init_default)
        resample = self.resample or (lambda y: y)

        h, doubles = nn.silu(self.norm(name="norm1")(x)), self.resample is upsample
        h = conv(h if doubles else resample(h), self.channels, double=doubles, dtype=self.dtype, name="conv1")
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
        if x.shape[-1] != self.channels or (self.resample_dense and self.resample is not None):
            x = dense(self.channels, name="skip")(x)
        return scaled(x + h, self.factor)
