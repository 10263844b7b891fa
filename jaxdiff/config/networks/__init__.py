"""The settings of each network, and what they may be: one file each. `Config.model` is one of these."""

from typing import Any

from jaxdiff.config.networks.base import Model, Rules
from jaxdiff.config.networks.edm2 import EDM2UNet
from jaxdiff.config.networks.lucidrains import LucidrainsUNet
from jaxdiff.config.networks.ncsnpp import NCSNpp
from jaxdiff.config.networks.transformers import DiT, UViT
from jaxdiff.config.networks.unet import UNet

Network = UNet | LucidrainsUNet | NCSNpp | DiT | UViT | EDM2UNet
"""Any of them. A config file chooses, or `--model.network NAME`; then the flags are its own."""

NETWORKS: dict[str, Any] = {
    "unet": UNet, "lucidrains": LucidrainsUNet, "ncsnpp": NCSNpp, "dit": DiT, "uvit": UViT, "edm2": EDM2UNet,
}  # fmt: skip

__all__ = ["NETWORKS", "DiT", "EDM2UNet", "LucidrainsUNet", "Model", "NCSNpp", "Network", "Rules", "UNet", "UViT"]
