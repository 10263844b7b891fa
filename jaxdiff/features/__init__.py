"""Images as vectors, and distances between images, by networks: what metrics are measured in."""

from jaxdiff.features.base import Features
from jaxdiff.features.classifier import classifier, described
from jaxdiff.features.networks import DIMENSIONS, PREPROCESSING, efficientnet_lite0, inception, pixels
from jaxdiff.features.perceptual import PerceptualDistance, lpips
from jaxdiff.features.resize import clean_bicubic, tf1_bilinear, torch_bilinear

__all__ = [
    "DIMENSIONS",
    "PREPROCESSING",
    "Features",
    "PerceptualDistance",
    "classifier",
    "clean_bicubic",
    "described",
    "efficientnet_lite0",
    "inception",
    "lpips",
    "pixels",
    "tf1_bilinear",
    "torch_bilinear",
]
