"""The features of a small classifier that was trained on the set itself (`evaluation.trained_classifier`)."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff import weights
from jaxdiff.features.base import Features
from jaxdiff.files import sha256
from jaxdiff.models.convnet import ConvNet
from jaxdiff.pixels import from_uint8
from jaxdiff.typing import Array, InputError, PyTree


def classifier(path: str | Path) -> Features:
    """The features of a file that `evaluation.trained_classifier` wrote: `pool` `[B, 128]` and `logits` `[B, classes]`.

    Args:
      path: NAME.safetensors.

    Raises:
      InputError: it cannot be read, or holds other weights.
    """
    path = Path(path)
    about = described(path)
    height, width, channels = about["image_shape"]
    network = ConvNet(num_classes=about["num_classes"])
    x = jax.ShapeDtypeStruct((1, height, width, channels), jnp.float32)
    params = weights.read_weights(path, jax.eval_shape(network.init, jax.random.key(0), x))

    def apply(params: PyTree, images: Array) -> dict[str, Array]:
        if images.shape[1:] != (height, width, channels):
            raise InputError(f"{path}: a classifier of images {(height, width, channels)}, got {images.shape[1:]}")
        pool, logits = network.apply(params, from_uint8(images))
        return {"pool": pool, "logits": logits}

    dimensions = {"pool": network.features, "logits": network.num_classes}
    return Features("classifier", {"sha256": sha256(path), **about}, dimensions, params, apply, path)


def described(path: Path) -> dict[str, Any]:
    """What such a file says of itself, `image_shape` and `num_classes` among it; `InputError` for any other."""
    about = weights.read_metadata(path).get("classifier")
    if not isinstance(about, dict) or not {"image_shape", "num_classes"} <= about.keys():
        raise InputError(f"{path}: not the weights of such a classifier; leave the file out and one will be trained")
    return about
