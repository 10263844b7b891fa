"""The images to train on."""

import dataclasses
from pathlib import Path

from jaxdiff.config import Config, Data
from jaxdiff.data import (
    Resized,
    Skipping,
    Source,
    Unlabelled,
    array_file,
    digits,
    hold_out,
    hugging_face_by_name,
    idx_images,
    image_folder,
    is_idx,
    is_record_folder,
    record_folder,
    tfds_images,
)
from jaxdiff.data.folder import SUFFIXES
from jaxdiff.typing import InputError


def source(data: Data) -> Source:
    """The images that `data.name` names, of the size and channels asked for, without their labels if `data.labels` is
    off."""
    found = _source(data)
    if data.skip_corrupt:
        found = Skipping(found)
    height, width, channels = found.image_shape
    if (data.size or height, data.size or width, data.channels or channels) != found.image_shape:
        found = Resized(found, data.size, data.channels)
    return found if data.labels else Unlabelled(found)


def sources(config: Config) -> tuple[Source, Source | None]:
    """The images to train on, and those to evaluate on, if any: `data.holdout` of them, or `data.eval_split`."""
    data, found = config.data, source(config.data)
    if data.holdout:
        return hold_out(found, data.holdout, seed=config.seed)
    if data.eval_split is None:
        return found, None
    if not data.name.startswith("tfds:"):
        raise InputError(f"--data.eval-split {data.eval_split}: {data.name} has no splits; use --data.holdout NUMBER")
    held = source(dataclasses.replace(data, split=data.eval_split))
    if (held.image_shape, held.num_classes) != (found.image_shape, found.num_classes):
        raise InputError(
            f"--data.eval-split {data.eval_split}: has images or classes of another kind than {data.split}"
        )
    return found, held


def _source(data: Data) -> Source:
    path = Path(data.name)
    if data.name == "digits":
        return digits()
    if data.name.startswith("tfds:"):
        return tfds_images(data.name.removeprefix("tfds:"), split=data.split, data_dir=data.dir)
    if data.name.startswith("hf:"):
        name = data.name.removeprefix("hf:")
        return hugging_face_by_name(name, split=data.split, size=data.size, channels=data.channels, labels=data.labels)
    if is_idx(data.name):
        return idx_images(path)
    if path.suffix in (".npz", ".npy"):
        return array_file(path)
    if path.is_dir():
        if is_record_folder(path):
            return record_folder(path)
        return image_folder(path, size=data.size, channels=data.channels, labels=data.labels)
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        raise InputError(f"--data.name {data.name}: is one picture; expected a folder of them. Put it in a folder")
    if not path.exists() and ("/" in data.name or path.suffix):
        raise InputError(f"--data.name {data.name}: no such file or folder")
    raise InputError(
        f"--data.name {data.name}: unknown data set. Expected digits, tfds:NAME (such as tfds:{data.name}), hf:NAME, "
        "a .npz or .npy file of images, an IDX file (...-idx3-ubyte or .gz), or a folder: of PNG, JPEG or WebP images, "
        "or one that jaxdiff data prepare wrote"
    )
