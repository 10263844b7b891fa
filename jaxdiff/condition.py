"""What a network of super-resolution is given: the picture in fewer pixels, noised, enlarged, and its noise level."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.noise import white_noise
from jaxdiff.operators import Downsample
from jaxdiff.typing import Array, InputError, concrete

REDUCTIONS = ("mean", "lanczos")
"""mean: over squares. lanczos: Lanczos' filter (a = 3), as `data.size` resizes."""
ENLARGEMENTS = {"bicubic": "cubic", "bilinear": "linear", "nearest": "nearest"}
"""By our name that of `jax.image.resize`."""


def reduced(images: Array, *, factor: int, reduction: str = "mean") -> Array:
    """Pictures in fewer pixels.

    Args:
      images: float `[B, H, W, C]`, in [-1, 1].
      factor: of both sides.
      reduction: one of `REDUCTIONS`.

    Returns:
      `[B, H / factor, W / factor, C]`, in [-1, 1].

    Raises:
      InputError: an unknown reduction, or sides that the factor does not divide.

    >>> reduced(jnp.array([0.0, 1.0, 0.5, 0.5]).reshape(1, 2, 2, 1), factor=2).tolist()
    [[[[0.5]]]]
    """
    batch, height, width, channels = images.shape
    if height % factor or width % factor:
        raise InputError(f"reduced: {height}x{width} pixels are not divisible by the factor {factor}")
    if reduction not in REDUCTIONS:
        raise InputError(f"reduced: expected one of {', '.join(REDUCTIONS)}, got {reduction!r}")
    if reduction == "mean":
        return Downsample(factor)(images)
    small = jax.image.resize(images, (batch, height // factor, width // factor, channels), "lanczos3", antialias=True)
    return jnp.clip(small, -1, 1)  # it overshoots at edges


def enlarged(low: Array, *, factor: int, enlargement: str = "bicubic") -> Array:
    """Pictures `[B, h, w, C]` in more pixels, `[B, factor h, factor w, C]`, by one of `ENLARGEMENTS`.

    Raises:
      InputError: an unknown enlargement.

    >>> enlarged(jnp.ones((1, 2, 2, 1)), factor=2, enlargement="nearest").shape
    (1, 4, 4, 1)
    """
    if enlargement not in ENLARGEMENTS:
        raise InputError(f"enlarged: expected one of {', '.join(ENLARGEMENTS)}, got {enlargement!r}")
    batch, height, width, channels = low.shape
    shape = (batch, factor * height, factor * width, channels)
    return jnp.asarray(jax.image.resize(low, shape, ENLARGEMENTS[enlargement]))


def augmented(key: Array, low: Array, level: Array | float) -> Array:
    """Noise conditioning augmentation, the forward process of a variance-preserving schedule at sigma = s:

        z_s = sqrt(1 - s^2) z + s eps,        eps ~ N(0, I)

    Args:
      key: one typed key, or keys `[B]`.
      low: z, `[B, h, w, C]`, in [-1, 1].
      level: s in [0, 1], a number or `[B]`: 0 leaves z as it is, 1 nothing of it.

    Raises:
      InputError: a level outside [0, 1], where it is concrete.

    >>> augmented(jax.random.key(0), jnp.ones((1, 2, 2, 1)), 0.0).ravel().tolist()
    [1.0, 1.0, 1.0, 1.0]

    Source: Ho et al. 2021 (arXiv 2106.15282), section 4.2: non-truncated, z_s ~ q(z_s | z_0) of a whole z_0.
    """
    known = concrete(level)
    if known is not None and not np.all((known >= 0) & (known <= 1)):
        raise InputError(f"augmented: expected levels from 0 to 1, got {level}")
    s = _per_example(level, low)
    return jnp.sqrt(1 - jnp.square(s)) * low + s * white_noise(key, low.shape).astype(low.dtype)


def channels(key: Array, low: Array, level: Array | float, *, factor: int, enlargement: str = "bicubic") -> Array:
    """What the network is given beside x_t: the augmented picture, enlarged, and a channel that is the level.

    Args:
      key: one typed key, or keys `[B]`.
      low: `[B, h, w, C]`, in [-1, 1].
      level: of the augmentation, a number or `[B]`, in [0, 1].
      factor: of the sides.
      enlargement: one of `ENLARGEMENTS`.

    Returns:
      `[B, factor h, factor w, C + 1]`.

    Raises:
      InputError: what `augmented` and `enlarged` do.

    >>> given = channels(jax.random.key(0), jnp.ones((1, 1, 1, 1)), 0.0, factor=2)
    >>> given[..., 0].ravel().tolist(), given[..., 1].ravel().tolist()
    ([1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0])

    Source: Ho et al. 2021 (arXiv 2106.15282), sections 2 and 4.
    """
    image = enlarged(augmented(key, low, level), factor=factor, enlargement=enlargement)
    told = jnp.broadcast_to(_per_example(level, image), (*image.shape[:-1], 1))
    return jnp.concatenate([image, told], axis=-1)


def _per_example(level: Array | float, x: Array) -> Array:
    return jnp.broadcast_to(jnp.asarray(level, x.dtype), x.shape[:1]).reshape(-1, *[1] * (x.ndim - 1))
