"""Data sources and the input pipeline. It knows no training."""

from jaxdiff.data.pipeline import batches
from jaxdiff.data.sources import ArraySource, Source, Subset, Unlabelled, array_file, digits, hold_out, in_order
from jaxdiff.data.tfds import tfds_images

__all__ = [
    "ArraySource", "Source", "Subset", "Unlabelled", "array_file", "batches", "digits", "hold_out", "in_order",
    "tfds_images",
]  # fmt: skip
