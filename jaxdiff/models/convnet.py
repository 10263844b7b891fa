"""A small classifier of clean images: the feature space of sets for which no network was ever trained by others."""

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.typing import Array, InputError


class ConvNet(nn.Module):
    """Images `[B, H, W, C]` in [-1, 1] -> features `[B, widths[-1]]`, not negative, and logits `[B, num_classes]`.

    Convolutions of 5, 3, 3, ... with ReLU, each but the first with a stride of 2 (pooling's gradient is slow on CPUs).
    The features are the means of the last one's maps. No normalisation over the batch.

    Attributes:
      num_classes: the number of labels.
      widths: the channels.

    Raises:
      InputError: images too small to be halved so often.
    """

    num_classes: int
    widths: tuple[int, ...] = (32, 64, 128)

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        smallest = 2 ** (len(self.widths) - 1)
        if min(x.shape[1:3]) < smallest:
            raise InputError(f"ConvNet: images of at least {smallest}x{smallest}, got {x.shape[1]}x{x.shape[2]}")
        for i, width in enumerate(self.widths):
            size, stride = (5, 1) if i == 0 else (3, 2)
            conv = nn.Conv(
                width, (size, size), (stride, stride), kernel_init=nn.initializers.he_normal(), name=f"conv_{i}"
            )
            x = nn.relu(conv(x))
        features = x.mean((1, 2))
        return features, jnp.asarray(nn.Dense(self.num_classes, name="out")(features))
