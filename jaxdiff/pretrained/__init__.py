"""Networks that others trained, as ours: strict imports, and exports. See `load`."""

from jaxdiff.pretrained.base import Pretrained
from jaxdiff.pretrained.diffusers import load_diffusers, save_diffusers
from jaxdiff.pretrained.diffusers_scheduler import scheduler_file
from jaxdiff.pretrained.dit import load_dit
from jaxdiff.pretrained.guided_diffusion import load_guided_diffusion
from jaxdiff.pretrained.load import load
from jaxdiff.pretrained.read import read_weights

__all__ = [
    "Pretrained",
    "load",
    "load_diffusers",
    "load_dit",
    "load_guided_diffusion",
    "read_weights",
    "save_diffusers",
    "scheduler_file",
]
