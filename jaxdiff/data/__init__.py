"""Data sources and the input pipeline. It knows no training."""

from jaxdiff.data.pipeline import batches
from jaxdiff.data.sources import ArraySource, Source, Unlabelled, array_file, digits
from jaxdiff.data.tfds import tfds_images

__all__ = ["ArraySource", "Source", "Unlabelled", "array_file", "batches", "digits", "tfds_images"]
