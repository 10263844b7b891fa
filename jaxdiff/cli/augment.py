"""`jaxdiff augment`: a labelled training set, topped up with pictures that a network makes of its classes."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from jaxdiff import build, runs
from jaxdiff.cli.common import read_run
from jaxdiff.cli.compared import bar, check_files, refuse_others
from jaxdiff.cli.out import check_file, check_numbers, writing
from jaxdiff.cli.pictures import Pictures, prepare
from jaxdiff.cli.sources import named_source
from jaxdiff.config import Data
from jaxdiff.data import Source
from jaxdiff.evaluation import images_of, labels_of, size_of
from jaxdiff.files import write_atomically
from jaxdiff.typing import InputError


def augment(
    pictures: Annotated[Pictures, tyro.conf.arg(name="")],
    *,
    per_class: int,
    out: Path,
    data: str | None = None,
) -> None:
    """Write a labelled set of images, and with it as many pictures of each class that a network makes.

    Whether a classifier gains by them must be measured, on images that neither it nor the network was trained on.

    Args:
        pictures: With which network, one that was trained with labels, and how; as sample.py has them.
        per_class: How many are made of each class.
        out: A .npz file with the arrays images, labels and made (whether a picture is), for --data.name of train.py.
        data: As --data.name of train.py; default what the run was trained on.
    """
    check_file(out, ".npz")
    check_numbers(**{"per-class": per_class})
    used = [name for name in vars(pictures) if name != "labels"]
    refuse_others(pictures, *used, why="every class gets as many pictures")
    source, which = _source(pictures, data)
    if not source.num_classes:
        raise InputError("--data: has no labels, by which a classifier is trained; give a set that has")
    labels = np.repeat(np.arange(source.num_classes, dtype=np.int32), per_class)
    made = prepare(pictures, len(labels), by_class=lambda classes: labels)
    if made.latents or tuple(made.spec) != (source.image_shape, source.num_classes):
        raise InputError(
            f"--data: has images {size_of(source.image_shape)} of {source.num_classes} classes, the network makes "
            f"{'latents' if made.latents else 'images'} {size_of(made.spec.image_shape)} of "
            f"{made.spec.num_classes or 'no'}; expected the same of both"
        )
    index = np.arange(len(source))
    check_files("--data", which, len(source), lambda: images_of(source, index, batch=pictures.batch))
    name, params = made.load()
    parts = list(images_of(source, index, batch=pictures.batch))
    with bar(len(labels), name) as progress:
        for images in made.draw(params):
            parts.append(images)
            progress(len(images))
    arrays: dict[str, Any] = {
        "images": np.concatenate(parts),
        "labels": np.concatenate([labels_of(source, index), labels]),
        "made": np.arange(len(source) + len(labels)) >= len(source),
    }
    with writing(out):
        write_atomically(out, lambda file: np.savez_compressed(file, **arrays))
    print(f"{len(source):,} images and {len(labels):,} made by {name}: {out}")


def _source(pictures: Pictures, name: str | None) -> tuple[Source, str]:
    """The images to top up, of the size that the run's are, and their name."""
    section = Data()
    if pictures.run is not None:
        config, _ = runs.load_run(read_run(pictures.run))
        if name is None:
            return build.sources(config)[0], config.data.name
        section = config.data
    if name is None:
        raise InputError("--data: what is to be topped up? A .npz file, a folder, digits, tfds:NAME, ...")
    return named_source(dataclasses.replace(section, name=name, labels=True), "--data"), name
