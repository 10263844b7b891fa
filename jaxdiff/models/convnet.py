"""A small classifier of clean images: the feature space of sets for which no network was ever trained by others."""

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.models.convnorm import EXACT
from jaxdiff.typing import Array, InputError


class ConvNet(nn.Module):
    """Images `[B, H, W, C]` in [-1, 1] -> features `[B, features]`, not negative, and logits `[B, num_classes]`.

    A convolution of 5 and one of 3, each with ReLU and then the means of 2x2 (an odd row or column is left out;
    gradients of strides and maxima are slow on CPUs); a dense layer of all positions, whose ReLUs are the features.

    Attributes:
      num_classes: the number of labels.
      widths: the channels.
      features: how many.

    Raises:
      InputError: images too small to be halved twice.
    """

    num_classes: int
    widths: tuple[int, int] = (16, 32)
    features: int = 128

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        if min(x.shape[1:3]) < 4:
            raise InputError(f"ConvNet: images of at least 4x4, got {x.shape[1]}x{x.shape[2]}")
        init = nn.initializers.he_normal()
        for i, (width, size) in enumerate(zip(self.widths, (5, 3), strict=True)):
            x = nn.relu(nn.Conv(width, (size, size), kernel_init=init, precision=EXACT, name=f"conv_{i}")(x))
            batch, height, wide, _ = x.shape
            x = (
                x[:, : height // 2 * 2, : wide // 2 * 2]
                .reshape(batch, height // 2, 2, wide // 2, 2, width)
                .mean((2, 4))
            )
        x = x.reshape(x.shape[0], -1)
        found = nn.relu(nn.Dense(self.features, kernel_init=init, precision=EXACT, name="features_of")(x))
        return found, jnp.asarray(nn.Dense(self.num_classes, precision=EXACT, name="out")(found))
