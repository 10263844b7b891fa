"""Data sources and the input pipeline. It knows no training."""

from jaxdiff.data.folder import image_folder
from jaxdiff.data.hugging_face import hugging_face, hugging_face_by_name
from jaxdiff.data.idx import idx_images, is_idx
from jaxdiff.data.pipeline import batches
from jaxdiff.data.prepare import prepare
from jaxdiff.data.records import is_record_folder, record_folder
from jaxdiff.data.resized import Resized
from jaxdiff.data.skipping import Skipping
from jaxdiff.data.sources import (
    ArraySource,
    Source,
    Subset,
    Unlabelled,
    array_file,
    class_names,
    digits,
    hold_out,
    in_order,
)
from jaxdiff.data.tfds import tfds_images

__all__ = [
    "ArraySource", "Resized", "Skipping", "Source", "Subset", "Unlabelled", "array_file", "batches", "class_names",
    "digits", "hold_out", "hugging_face", "hugging_face_by_name", "idx_images", "image_folder", "in_order", "is_idx",
    "is_record_folder", "prepare", "record_folder", "tfds_images",
]  # fmt: skip
