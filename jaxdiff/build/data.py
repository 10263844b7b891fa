"""The images to train on."""

from pathlib import Path

from jaxdiff.config import Data
from jaxdiff.data import Source, Unlabelled, array_file, digits, tfds_images
from jaxdiff.typing import InputError


def source(data: Data) -> Source:
    """The images that `data.name` names, without their labels if `data.labels` is off."""
    found = _source(data)
    return found if data.labels else Unlabelled(found)


def _source(data: Data) -> Source:
    if data.name == "digits":
        return digits()
    if data.name.startswith("tfds:"):
        return tfds_images(data.name.removeprefix("tfds:"), split=data.split, data_dir=data.dir)
    if Path(data.name).suffix in (".npz", ".npy"):
        return array_file(data.name)
    raise InputError(
        f"--data.name {data.name}: unknown data set. Expected digits, tfds:NAME (such as tfds:{data.name}), "
        "or a .npz or .npy file of images"
    )
