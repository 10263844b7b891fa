"""The images to train on."""

import dataclasses
from pathlib import Path

from jaxdiff.config import Config, Data
from jaxdiff.data import Source, Unlabelled, array_file, digits, hold_out, tfds_images
from jaxdiff.typing import InputError


def source(data: Data) -> Source:
    """The images that `data.name` names, without their labels if `data.labels` is off."""
    found = _source(data)
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
