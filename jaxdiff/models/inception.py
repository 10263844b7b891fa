"""Inception-v3 as the Frechet distance takes it: the graph that TensorFlow published on 2015-12-05."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.models.convnorm import EXACT, ConvNorm, check_rgb
from jaxdiff.models.layers import Dtype, init_default
from jaxdiff.typing import Array


class Inception(nn.Module):
    """Inception-v3 `[B, H, W, 3] -> outputs by name`; the features of FID are those of images of 299x299 in [-1, 1].

    It is not quite the network of the paper, nor torchvision's: average pools leave out the padding, the last block has
    a maximum in the place of its average, and there are 1,008 logits.

    Outputs, float32 (float64 of that dtype), at 299x299:
      maps_64: `[B, 73, 73, 64]`, after the first maximum pool.
      maps_192: `[B, 35, 35, 192]`, after the second.
      mixed_6: `[B, 17, 17, 768]`, the block of this name in TensorFlow's graph, Mixed_6d in others; its first 192
        channels are a convolution 1 wide ("mixed_6/conv").
      maps_768: `[B, 17, 17, 768]`, before the auxiliary classifier.
      pool: `[B, 2048]`, the mean of the last maps.
      logits_unbiased: `[B, 1008]`, without the bias of the last layer.
      logits: `[B, 1008]`.

    Raises:
      InputError: images that are not RGB, or smaller than 75x75.

    Source: Szegedy et al. 2015 (arXiv 1512.00567), table 1; Heusel et al. 2017 (arXiv 1706.08500).
    """

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> dict[str, Array]:
        """Apply the network."""
        check_rgb(x, least=75, network="Inception")
        unit = partial(_unit, dtype=self.dtype)
        h = unit("conv_1a", x, 32, (3, 3), stride=2, padding="VALID")
        h = unit("conv_2a", h, 32, (3, 3), padding="VALID")
        h = unit("conv_2b", h, 64, (3, 3))
        maps_64 = _shrink(h)
        h = unit("conv_3b", maps_64, 80)
        h = unit("conv_4a", h, 192, (3, 3), padding="VALID")
        maps_192 = h = _shrink(h)

        for name, pooled in (("mixed_5b", 32), ("mixed_5c", 64), ("mixed_5d", 64)):
            h = BlockA(pooled, self.dtype, name=name)(h)
        h = BlockB(self.dtype, name="mixed_6a")(h)
        for name, inner in (("mixed_6b", 128), ("mixed_6c", 160), ("mixed_6d", 160)):
            h = BlockC(inner, self.dtype, name=name)(h)
        mixed_6 = h
        maps_768 = h = BlockC(192, self.dtype, name="mixed_6e")(h)
        h = BlockD(self.dtype, name="mixed_7a")(h)
        h = BlockE(False, self.dtype, name="mixed_7b")(h)
        h = BlockE(True, self.dtype, name="mixed_7c")(h)

        pool = h.mean((1, 2))
        unbiased, logits = Last(1008, self.dtype, name="logits")(pool)
        return {
            "maps_64": maps_64, "maps_192": maps_192, "mixed_6": mixed_6, "maps_768": maps_768, "pool": pool,
            "logits_unbiased": unbiased, "logits": logits,
        }  # fmt: skip


class BlockA(nn.Module):
    """Of the 35x35 maps."""

    pooled: int
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        unit = partial(_unit, dtype=self.dtype)
        five = unit("branch5x5_2", unit("branch5x5_1", x, 48), 64, (5, 5))
        three = unit("branch3x3dbl_2", unit("branch3x3dbl_1", x, 64), 96, (3, 3))
        three = unit("branch3x3dbl_3", three, 96, (3, 3))
        pooled = unit("branch_pool", _average(x), self.pooled)
        return jnp.concatenate([unit("branch1x1", x, 64), five, three, pooled], axis=-1)


class BlockB(nn.Module):
    """From 35x35 to 17x17."""

    dtype: Dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        unit = partial(_unit, dtype=self.dtype)
        three = unit("branch3x3", x, 384, (3, 3), stride=2, padding="VALID")
        double = unit("branch3x3dbl_2", unit("branch3x3dbl_1", x, 64), 96, (3, 3))
        double = unit("branch3x3dbl_3", double, 96, (3, 3), stride=2, padding="VALID")
        return jnp.concatenate([three, double, _shrink(x)], axis=-1)


class BlockC(nn.Module):
    """Of the 17x17 maps."""

    inner: int
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        unit, inner = partial(_unit, dtype=self.dtype), self.inner
        seven = unit("branch7x7_2", unit("branch7x7_1", x, inner), inner, (1, 7))
        seven = unit("branch7x7_3", seven, 192, (7, 1))
        double = unit("branch7x7dbl_1", x, inner)
        for i, channels in ((2, inner), (3, inner), (4, inner), (5, 192)):
            double = unit(f"branch7x7dbl_{i}", double, channels, (1, 7) if i % 2 else (7, 1))
        pooled = unit("branch_pool", _average(x), 192)
        return jnp.concatenate([unit("branch1x1", x, 192), seven, double, pooled], axis=-1)


class BlockD(nn.Module):
    """From 17x17 to 8x8."""

    dtype: Dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        unit = partial(_unit, dtype=self.dtype)
        three = unit("branch3x3_2", unit("branch3x3_1", x, 192), 320, (3, 3), stride=2, padding="VALID")
        seven = unit("branch7x7x3_2", unit("branch7x7x3_1", x, 192), 192, (1, 7))
        seven = unit("branch7x7x3_3", seven, 192, (7, 1))
        seven = unit("branch7x7x3_4", seven, 192, (3, 3), stride=2, padding="VALID")
        return jnp.concatenate([three, seven, _shrink(x)], axis=-1)


class BlockE(nn.Module):
    """Of the 8x8 maps; `largest`: its pool is a maximum."""

    largest: bool
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        unit = partial(_unit, dtype=self.dtype)
        three = unit("branch3x3_1", x, 384)
        double = unit("branch3x3dbl_2", unit("branch3x3dbl_1", x, 448), 384, (3, 3))
        pooled = nn.max_pool(x, (3, 3), padding="SAME") if self.largest else _average(x)
        parts = [
            unit("branch1x1", x, 320),
            unit("branch3x3_2a", three, 384, (1, 3)),
            unit("branch3x3_2b", three, 384, (3, 1)),
            unit("branch3x3dbl_3a", double, 384, (1, 3)),
            unit("branch3x3dbl_3b", double, 384, (3, 1)),
            unit("branch_pool", pooled, 192),
        ]
        return jnp.concatenate(parts, axis=-1)


class Last(nn.Module):
    """A dense layer without and with its bias."""

    channels: int
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        kernel = self.param("kernel", init_default, (x.shape[-1], self.channels), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.channels,), jnp.float32)
        y = jnp.dot(x, kernel.astype(self.dtype), precision=EXACT)
        return y, y + bias.astype(self.dtype)[None]


def _unit(
    name: str, x: Array, channels: int, width: tuple[int, int] = (1, 1), *, dtype: Dtype, stride: int = 1,
    padding: str = "SAME",
) -> Array:  # fmt: skip
    return nn.relu(ConvNorm(channels, width, stride, padding, dtype=dtype, name=name)(x))


def _shrink(x: Array) -> Array:
    return jnp.asarray(nn.max_pool(x, (3, 3), strides=(2, 2)))


def _average(x: Array) -> Array:
    """Of the 3x3 around each point, as far as they are in the image."""
    rows, columns = (np.convolve(np.ones(n), np.ones(3))[1:-1] for n in x.shape[1:3])
    share = jnp.asarray(1 / np.outer(rows, columns), x.dtype)  # flax's own count has another dtype under x64
    return jnp.asarray(nn.pool(x, 0.0, jax.lax.add, (3, 3), (1, 1), "SAME")) * share[None, :, :, None]
