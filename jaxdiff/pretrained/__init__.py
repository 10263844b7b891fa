"""Networks that others trained, as ours: strict imports, and exports. See `load`."""

from jaxdiff.pretrained.base import Pretrained
from jaxdiff.pretrained.diffusers import load_diffusers, save_diffusers
from jaxdiff.pretrained.diffusers_scheduler import scheduler_file
from jaxdiff.pretrained.dit import load_dit
from jaxdiff.pretrained.edm import load_edm
from jaxdiff.pretrained.efficientnet import efficientnet_file, load_efficientnet_lite0
from jaxdiff.pretrained.guided_classifier import GuidedClassifier, load_guided_classifier
from jaxdiff.pretrained.guided_diffusion import load_guided_diffusion
from jaxdiff.pretrained.inception import load_inception
from jaxdiff.pretrained.load import load
from jaxdiff.pretrained.lpips import load_lpips
from jaxdiff.pretrained.lucidrains import load_lucidrains
from jaxdiff.pretrained.read import read_weights
from jaxdiff.pretrained.score_sde import load_score_sde

__all__ = [
    "GuidedClassifier",
    "Pretrained",
    "efficientnet_file",
    "load",
    "load_diffusers",
    "load_dit",
    "load_edm",
    "load_efficientnet_lite0",
    "load_guided_classifier",
    "load_guided_diffusion",
    "load_inception",
    "load_lpips",
    "load_lucidrains",
    "load_score_sde",
    "read_weights",
    "save_diffusers",
    "scheduler_file",
]
