"""Flax networks. They know no diffusion: `network.apply(params, x, c_noise, cond, key=...)`."""

from jaxdiff.models.unet import UNet

__all__ = ["UNet"]
