"""A convolution with the batch normalisation of a network that is trained already, as feature networks have it."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdiff.models.layers import Dtype, wide
from jaxdiff.typing import Array, InputError

EXACT = jax.lax.Precision.HIGHEST
"""Of the products of feature networks: accelerators would otherwise round what they multiply to 10 bits or fewer, and
distances between features would depend on the device."""


class FrozenBatchNorm(nn.Module):
    """Batch normalisation by fixed statistics: `(x - mean) / sqrt(var + eps) * scale + bias`, each `[C]`.

    All four are parameters: nothing here changes when the network is applied.

    Source: Ioffe & Szegedy 2015 (arXiv 1502.03167), algorithm 2.
    """

    eps: float = 1e-3

    @nn.compact
    def __call__(self, x: Array) -> Array:
        def parameter(name: str, init: Any) -> Array:
            return jnp.asarray(self.param(name, init, x.shape[-1:], jnp.float32), wide(x.dtype))

        zeros, ones = nn.initializers.zeros_init(), nn.initializers.ones_init()
        mean, var = parameter("mean", zeros), parameter("var", ones)
        scale, bias = parameter("scale", ones), parameter("bias", zeros)
        factor = jax.lax.rsqrt(var + self.eps) * scale
        shape = (1,) * (x.ndim - 1) + (-1,)
        return (x * factor.reshape(shape) + (bias - mean * factor).reshape(shape)).astype(x.dtype)


class ConvNorm(nn.Module):
    """A convolution without bias, then `FrozenBatchNorm`.

    Attributes:
      channels: of the output.
      width: of the kernel, (height, width).
      stride: of both.
      padding: "SAME" or "VALID", as TensorFlow's.
      depthwise: each channel by itself.
    """

    channels: int
    width: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: str = "SAME"
    depthwise: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        groups = self.channels if self.depthwise else 1
        x = nn.Conv(
            self.channels, self.width, (self.stride, self.stride), padding=self.padding, use_bias=False,
            feature_group_count=groups, dtype=self.dtype, precision=EXACT, name="conv",
            conv_general_dilated=_depthwise if self.depthwise else None,
        )(x)  # fmt: skip
        return FrozenBatchNorm(name="norm")(x)


def _depthwise(x: Array, kernel: Array, strides: Sequence[int], padding: Any, **_: Any) -> Array:
    """Each channel by itself, as a sum of shifted images: XLA's own is many times slower on CPUs.

    x `[B, H, W, C]`, kernel `[h, w, 1, C]`; in place of `lax.conv_general_dilated`.
    """
    height, width = kernel.shape[:2]
    sides = (
        jax.lax.padtype_to_pads(x.shape[1:3], (height, width), strides, padding)
        if isinstance(padding, str)
        else padding
    )
    x = jnp.pad(x, ((0, 0), *sides, (0, 0)))
    down, right = (
        (size - edge) // stride * stride + 1 for size, edge, stride in zip(x.shape[1:3], (height, width), strides)
    )

    def shifted(i: int, j: int) -> Array:
        part = x[:, i : i + down : strides[0], j : j + right : strides[1]]
        return part * kernel[i, j].reshape(1, 1, 1, -1)

    return sum((shifted(i, j) for i in range(height) for j in range(width)), start=jnp.zeros((), x.dtype))


def check_rgb(x: Array, *, least: int, network: str) -> None:
    """Raise `InputError` unless x is `[B, H, W, 3]` with height and width of `least` or more."""
    if x.ndim != 4 or x.shape[-1] != 3 or min(x.shape[1:3]) < least:
        raise InputError(f"{network}: expected images [B, H, W, 3] of {least}x{least} or larger, got {x.shape}")
