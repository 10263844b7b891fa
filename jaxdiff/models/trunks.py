"""LPIPS: a distance between images by the feature maps of a classifier, AlexNet or VGG-16."""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.models.convnorm import EXACT, check_rgb
from jaxdiff.models.layers import Dtype
from jaxdiff.typing import Array, InputError

# Convolutions (channels, width, stride, padding) by the place that they have in torchvision's `features`. After each of
# them a ReLU; before some a maximum pool.
ALEX = {0: (64, 11, 4, 2), 3: (192, 5, 1, 2), 6: (384, 3, 1, 1), 8: (256, 3, 1, 1), 10: (256, 3, 1, 1)}
VGG = {
    place: (channels, 3, 1, 1)
    for channels, places in (
        (64, (0, 2)), (128, (5, 7)), (256, (10, 12, 14)), (512, (17, 19, 21, 24, 26, 28)),
    )
    for place in places
}  # fmt: skip
TRUNKS = {
    # convolutions, those after a pool, the pool's width, those whose maps are taken
    "alex": (ALEX, (3, 6), 3, (0, 3, 6, 8, 10)),
    "vgg": (VGG, (5, 10, 17, 24), 2, (2, 7, 14, 21, 28)),
}

# Mean and deviation of ImageNet's colours, of values in [-1, 1].
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)


class Trunk(nn.Module):
    """The feature maps of a classifier, `[B, H, W, 3]` in [-1, 1] -> five `[B, h, w, C]`, each after its ReLU.

    Attributes:
      trunk: "alex" or "vgg".

    Raises:
      InputError: another trunk, images that are not RGB or too small.

    Source: Krizhevsky 2014 (arXiv 1404.5997); Simonyan & Zisserman 2014 (arXiv 1409.1556), table 1, D.
    """

    trunk: Literal["alex", "vgg"] = "alex"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> list[Array]:
        """Apply the network."""
        if self.trunk not in TRUNKS:
            raise InputError(f"LPIPS: unknown trunk {self.trunk!r}; there are {', '.join(TRUNKS)}")
        convolutions, pooled, width, taken = TRUNKS[self.trunk]
        check_rgb(x, least=31 if self.trunk == "alex" else 16, network=f"LPIPS with the trunk {self.trunk}")
        shift, scale = (jnp.asarray(c, x.dtype).reshape(1, 1, 1, 3) for c in (SHIFT, SCALE))
        h, maps = (x - shift) / scale, []
        for place, (channels, size, stride, padding) in convolutions.items():
            if place in pooled:
                h = nn.max_pool(h, (width, width), strides=(2, 2))
            layer = nn.Conv(
                channels, (size, size), (stride, stride), padding=padding, dtype=self.dtype, precision=EXACT,
                name=f"conv_{place}",
            )  # fmt: skip
            h = nn.relu(layer(h))
            if place in taken:
                maps.append(h)
        return maps


class LPIPS(nn.Module):
    """The learned perceptual distance of images, `(x, y [B, H, W, 3] in [-1, 1]) -> [B]`:

        d(x, y) = sum_l mean_hw sum_c w_lc (u_lc(x) - u_lc(y))^2

    with the trunk's maps l, each vector of channels divided by its length: u = h / (|h| + 1e-10).

    Attributes:
      trunk: "alex" or "vgg".

    Source: Zhang et al. 2018 (arXiv 1801.03924), eq. 1; w as in its code, which multiplies squares.
    """

    trunk: Literal["alex", "vgg"] = "alex"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, y: Array) -> Array:
        """Apply the network."""
        if x.shape != y.shape:
            raise InputError(f"LPIPS: two batches of the same shape are compared; got {x.shape} and {y.shape}")
        maps = Trunk(self.trunk, self.dtype, name="trunk")(jnp.concatenate([x, y]))
        total = jnp.zeros(x.shape[0], self.dtype)
        for i, h in enumerate(maps):
            a, b = jnp.split(_unit_length(h), 2)
            weigh = nn.Dense(1, use_bias=False, dtype=self.dtype, precision=EXACT, name=f"linear_{i}")
            total += weigh(jnp.square(a - b)).mean((1, 2, 3))
        return total


def _unit_length(h: Array) -> Array:
    squares = jnp.square(h).sum(-1, keepdims=True)
    some = squares > 0  # where all channels are 0, the root has no derivative
    return h / (jnp.where(some, jnp.sqrt(jnp.where(some, squares, 1)), 0) + 1e-10)
