"""What a run's network is given beside x_t: the picture in fewer pixels, where the config says so."""

import jax
import jax.numpy as jnp

from jaxdiff import condition
from jaxdiff.config import Config
from jaxdiff.noise import fold_in
from jaxdiff.typing import Array, InputError

_STREAM = jnp.iinfo(jnp.uint32).max
"""Of an example's key: beyond those of the steps, which losses over a grid of times draw from."""


def check_condition(config: Config, image_shape: tuple[int, int, int]) -> None:
    """Raise `InputError` for sides that the factor does not divide."""
    factor, (height, width, _) = config.condition.factor, image_shape
    if factor is not None and (height % factor or width % factor):
        raise InputError(f"--condition.factor {factor}: does not divide the images' sides, {height}x{width} pixels")


def low_shape(config: Config, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Of the pictures that a network of such images is given.

    >>> from jaxdiff.config import Condition
    >>> low_shape(Config(condition=Condition(factor=2)), (8, 6, 3))
    (4, 3, 3)
    """
    height, width, channels = image_shape
    factor = config.condition.factor or 1
    return height // factor, width // factor, channels


def lowered(config: Config, images: Array) -> Array:
    """Images as training makes them smaller.

    Args:
      config: of which `condition` is read.
      images: in [-1, 1], `[B, H, W, C]`.

    Returns:
      `[B, H / factor, W / factor, C]`.
    """
    return condition.reduced(images, factor=config.condition.factor or 1, reduction=config.condition.reduction)


def channels(config: Config, keys: Array, low: Array, level: Array | float) -> Array:
    """What a network of super-resolution is given, `condition.channels` with the config's factor and enlargement.

    Args:
      config: of which `condition` is read.
      keys: of the examples, `[B]`.
      low: the small pictures in [-1, 1], `[B, H / factor, W / factor, C]`.
      level: of the noise that is added to them.

    Returns:
      `[B, H, W, C + 1]`.
    """
    c = config.condition
    return condition.channels(keys, low, level, factor=c.factor or 1, enlargement=c.enlargement)


def channels_of(config: Config, keys: Array, images: Array, *, level: float | None = None) -> Array | None:
    """What the network is given when it is asked of images that there are; None where it is given nothing.

    Args:
      config: of which `condition` is read.
      keys: of the examples, `[B]`.
      images: in [-1, 1], `[B, H, W, C]`.
      level: None: drawn for each example uniformly from 0 to `condition.augmentation`, as in training.

    Returns:
      `[B, H, W, C + 1]`.
    """
    c = config.condition
    if c.factor is None:
        return None
    own = fold_in(keys, jnp.uint32(_STREAM))
    levels: Array | float = 0.0 if level is None else level
    if level is None and c.augmentation:
        levels = c.augmentation * jax.vmap(jax.random.uniform)(fold_in(own, 0))
    return channels(config, fold_in(own, 1), lowered(config, images), levels)
