"""EfficientNet-Lite0, a small classifier of images whose weights are a package of their own."""

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.models.convnorm import EXACT, ConvNorm, check_rgb
from jaxdiff.models.layers import Dtype
from jaxdiff.typing import Array

STAGES = (
    # blocks, kernel's width, first stride, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 `[B, H, W, 3] -> {"pool": [B, 1280], "logits": [B, 1000]}`, float32 (float64 of that dtype).

    It was trained on images of 224x224, `(x - 127) / 128` of values in 0..255. B0 without squeeze and excitation, and
    with ReLU6 in the place of swish.

    Raises:
      InputError: images that are not RGB, or smaller than 32x32.

    Source: Tan & Le 2019 (arXiv 1905.11946), table 1.
    """

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> dict[str, Array]:
        """Apply the network."""
        check_rgb(x, least=32, network="EfficientNetLite0")
        h = nn.relu6(ConvNorm(32, (3, 3), 2, dtype=self.dtype, name="stem")(x))
        i = 0
        for blocks, width, first, expansion, channels in STAGES:
            for j in range(blocks):
                h = InvertedResidual(channels, expansion, width, 1 if j else first, self.dtype, name=f"block_{i}")(h)
                i += 1
        h = nn.relu6(ConvNorm(1280, dtype=self.dtype, name="head")(h))
        pool = h.mean((1, 2))
        logits = nn.Dense(1000, dtype=self.dtype, precision=EXACT, name="logits")(pool)
        return {"pool": pool, "logits": jnp.asarray(logits)}


class InvertedResidual(nn.Module):
    """Expand the channels, convolve each by itself, and bring them down again; added to x where the shapes allow it.

    Source: Sandler et al. 2018 (arXiv 1801.04381), table 1.
    """

    channels: int
    expansion: int
    width: int
    stride: int
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        inner, h = self.expansion * x.shape[-1], x
        if self.expansion > 1:
            h = nn.relu6(ConvNorm(inner, dtype=self.dtype, name="expand")(h))
        width = (self.width, self.width)
        h = nn.relu6(ConvNorm(inner, width, self.stride, depthwise=True, dtype=self.dtype, name="depthwise")(h))
        h = ConvNorm(self.channels, dtype=self.dtype, name="project")(h)
        return x + h if h.shape == x.shape else h
