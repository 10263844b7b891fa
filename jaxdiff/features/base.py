"""What turns images into vectors that distributions of images are compared by."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from jaxdiff.typing import Array, InputError, PyTree


@dataclasses.dataclass(frozen=True)
class Features:
    """A feature space. Distances in two of them cannot be compared, so a distance always carries `name`.

    Attributes:
      name: "inception", "efficientnet_lite0", "pixels".
      description: what it takes to make the same again, plain values that JSON takes: the sha256 of the file of
        weights, the resize and the scaling of the images.
      dimensions: of each output.
      params: `apply`'s, numpy arrays.
      apply: `(params, images) -> outputs`, each float32 `[B, D]`; the images uint8 or floating point `[B, H, W, C]`,
        in 0..255, grey ones repeated to RGB. Pure, so that the caller compiles it.
      file: of weights, where there is one; `description` has its sha256, which is the same wherever it lies.
    """

    name: str
    description: dict[str, Any]
    dimensions: dict[str, int]
    params: PyTree = dataclasses.field(repr=False)
    apply: Callable[[PyTree, Array], dict[str, Array]] = dataclasses.field(repr=False)
    file: Path | None = None


def rgb(images: Array) -> Array:
    """Images in 0..255, uint8 or floating point `[B, H, W, C]`, as float32 RGB `[B, H, W, 3]`.

    Raises:
      InputError: not four dimensions, neither one nor three channels, or another dtype.

    >>> rgb(jnp.full((1, 2, 2, 1), 255, jnp.uint8)).shape
    (1, 2, 2, 3)
    """
    images = jnp.asarray(images)
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise InputError(f"features: expected images [B, H, W, C] with 1 or 3 channels, got {images.shape}")
    if images.dtype != jnp.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
        raise InputError(f"features: expected uint8, or floating point in 0..255, got {images.dtype}")
    images = images.astype(jnp.float32)
    return images if images.shape[-1] == 3 else jnp.repeat(images, 3, axis=-1)
