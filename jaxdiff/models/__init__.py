"""Flax networks. They know no diffusion: `network.apply(params, x, c_noise, cond, key=...)`."""

from typing import Any

from jaxdiff.models.lucidrains import LucidrainsUNet
from jaxdiff.models.ncsnpp import NCSNpp
from jaxdiff.models.unet import UNet

NETWORKS: dict[str, Any] = {"unet": UNet, "lucidrains": LucidrainsUNet, "ncsnpp": NCSNpp}
"""By the name that a config gives them (`model.network`)."""

__all__ = ["NETWORKS", "LucidrainsUNet", "NCSNpp", "UNet"]
