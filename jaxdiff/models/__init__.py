"""Flax networks. They know no diffusion: `network.apply(params, x, c_noise, cond, key=...)`."""

from typing import Any

from jaxdiff.models.classifier import Classifier
from jaxdiff.models.edm2 import EDM2UNet
from jaxdiff.models.lucidrains import LucidrainsUNet
from jaxdiff.models.ncsnpp import NCSNpp
from jaxdiff.models.unet import UNet

NETWORKS: dict[str, Any] = {"unet": UNet, "lucidrains": LucidrainsUNet, "ncsnpp": NCSNpp, "edm2": EDM2UNet}
"""By the name that a config gives them (`model.network`)."""

__all__ = ["NETWORKS", "Classifier", "EDM2UNet", "LucidrainsUNet", "NCSNpp", "UNet"]
