"""The images of `jaxdiff anomaly`: which are scored, what is normal, and which are anomalies."""

import dataclasses
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np

from jaxdiff import build, evaluation, runs
from jaxdiff.build import Spec
from jaxdiff.cli.common import read_run
from jaxdiff.cli.sources import check_shape, named_source
from jaxdiff.config import Data
from jaxdiff.data import Source, class_names
from jaxdiff.typing import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images:
    """Which images, and which are normal."""

    images: str
    """A folder of images, a .npz, .npy or IDX file, digits, tfds:NAME, hf:NAME."""
    split: str | None = None
    """Of a TFDS or Hugging Face set; default test."""
    num: int | None = None
    """So many of them, chosen by the seed 0; default all."""
    normal: str | None = None
    """Images that are normal, whose values say what is usual. Default: those that the run held out (--data.holdout), or
    else those that it was trained on, whose errors are somewhat small for new ones."""
    normal_split: str | None = None
    """Of a TFDS or Hugging Face set; default train."""
    normal_num: int = 1000
    """So many of them at most, chosen by the seed 0."""
    dir: str | None = None
    """Where prepared TFDS sets are."""
    size: int | None = None
    """Resize the middle square of each image to that side; default: as the images are."""
    channels: Literal[1, 3, 4] | None = None
    """1 grey, 3 RGB, 4 RGBA; default: as the images are."""
    labels_normal: tuple[str, ...] = ()
    """For the AUROC the classes of --images that are normal: numbers, or names of a folder's directories. Default all
    but --labels-anomalous; if both are given, images of other classes do not count."""
    labels_anomalous: tuple[str, ...] = ()
    """The classes that are anomalies. Default all but --labels-normal."""


class Some(NamedTuple):
    """Images of a source, by their numbers."""

    name: str
    source: Source
    numbers: np.ndarray

    def numbered(self, batch: int) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """As `data.in_order`, but each keeps its number in the source."""
        for first in range(0, len(self.numbers), batch):
            some = self.numbers[first : first + batch]
            full = np.concatenate([some, np.full(batch - len(some), -1)]).astype(np.int32)
            yield full, {"image": self.source.gather(np.where(full < 0, some[-1], full))["image"]}

    @property
    def names(self) -> list[str] | None:
        """Of the images' files; None of a set without files of its own."""
        every = getattr(self.source, "names", None)
        return None if every is None else [every[i] for i in self.numbers]

    def called(self) -> list[str]:
        """The images by their files' names, or their numbers."""
        return self.names or [str(i) for i in self.numbers]


def some_of(name: str, split: str | None, flag: str, images: Images, spec: Spec, *, num: int | None = None) -> Some:
    """All images of a set, or `num`, of the network's size."""
    labels = flag == "images" and bool(images.labels_normal or images.labels_anomalous)
    data = Data(
        name=name, split="test" if flag == "images" else "train", dir=images.dir, size=images.size,
        channels=images.channels, labels=labels,
    )  # fmt: skip
    source = named_source(data, f"--{flag}", split=split, num=num if flag == "images" else None)
    check_shape(source, spec.image_shape, f"--{flag}", name)
    return Some(name, source, _chosen(source, num))


def _chosen(source: Source, num: int | None) -> np.ndarray:
    return evaluation.some_of(np.arange(len(source)), num or len(source), np.random.default_rng(0))


def normal_of(run: str | None, images: Images, spec: Spec) -> Some:
    """The images given, or the run's own."""
    if images.normal is not None:
        found = some_of(images.normal, images.normal_split, "normal", images, spec, num=images.normal_num)
    elif run is None:
        raise InputError("--normal: what is normal? Give images, or --standard no")
    else:
        config, _ = runs.load_run(read_run(run))
        try:
            source, held_out = build.sources(config)
        except InputError as error:
            raise InputError(f"the run's own images cannot be read; give --normal SET ({error})") from error
        source = source if held_out is None else held_out
        found = Some(config.data.name, source, _chosen(source, images.normal_num))
    return found


class Classes(NamedTuple):
    """Which images are anomalies, and which of all count, bools `[N]`."""

    anomalous: np.ndarray
    counted: np.ndarray


def classes_of(images: Images, some: Some) -> Classes | None:
    """By the flags of the labels; None without them."""
    if not images.labels_normal and not images.labels_anomalous:
        return None
    labels = evaluation.labels_of(some.source, some.numbers)
    if labels is None:
        raise InputError(f"--labels-normal, --labels-anomalous: {some.name} has no labels")
    names = class_names(some.source) or ()

    def of(flag: str, words: tuple[str, ...]) -> np.ndarray:
        unknown = [word for word in words if word not in names and not word.isdecimal()]
        if unknown:
            known = ", ".join(names) if names else "numbers"
            raise InputError(f"--{flag} {unknown[0]}: no such class in {some.name}; expected {known}")
        found = np.isin(labels, [names.index(word) if word in names else int(word) for word in words])
        if words and not found.any():
            raise InputError(f"--{flag} {' '.join(words)}: no image of {some.name} has such a label")
        return found

    normal, anomalous = of("labels-normal", images.labels_normal), of("labels-anomalous", images.labels_anomalous)
    if (normal & anomalous).any():
        raise InputError("--labels-normal and --labels-anomalous name the same class; a class is one or the other")
    if not images.labels_anomalous:
        anomalous = ~normal
    counted = normal | anomalous if images.labels_normal else np.ones_like(anomalous)
    if not 0 < anomalous[counted].sum() < counted.sum():
        raise InputError(f"--labels-normal, --labels-anomalous: an AUROC needs both in {some.name}, and one is missing")
    return Classes(anomalous & counted, counted)
