"""Flax networks. They know no diffusion: `network.apply(params, x, c_noise, cond, key=...)`.

Beside those of `NETWORKS`, a classifier of noisy images, and what metrics compare images by: `EfficientNetLite0`,
`Inception`, `LPIPS`.
"""

from typing import Any

from jaxdiff.models.classifier import Classifier
from jaxdiff.models.dit import DIT_SIZES, DiT
from jaxdiff.models.edm2 import EDM2UNet
from jaxdiff.models.efficientnet import EfficientNetLite0
from jaxdiff.models.inception import Inception
from jaxdiff.models.lucidrains import LucidrainsUNet
from jaxdiff.models.ncsnpp import NCSNpp
from jaxdiff.models.trunks import LPIPS
from jaxdiff.models.unet import UNet
from jaxdiff.models.uvit import UViT

NETWORKS: dict[str, Any] = {
    "unet": UNet, "lucidrains": LucidrainsUNet, "ncsnpp": NCSNpp, "dit": DiT, "uvit": UViT, "edm2": EDM2UNet,
}  # fmt: skip
"""By the name that a config gives them (`model.network`)."""

__all__ = [
    "DIT_SIZES",
    "LPIPS",
    "NETWORKS",
    "Classifier",
    "DiT",
    "EDM2UNet",
    "EfficientNetLite0",
    "Inception",
    "LucidrainsUNet",
    "NCSNpp",
    "UNet",
    "UViT",
]
