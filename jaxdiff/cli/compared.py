"""What `jaxdiff evaluate` compares: real images or their statistics, and samples from files or a network."""

import dataclasses
import hashlib
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from jaxdiff import build, evaluation, runs, sampling
from jaxdiff.cli.common import read_run
from jaxdiff.cli.pictures import Pictures, Prepared, prepare
from jaxdiff.cli.sources import named_source, reading
from jaxdiff.config import Config, Data, to_dict
from jaxdiff.data import Source
from jaxdiff.data.folder import FolderSource
from jaxdiff.data.images import labels_in_names
from jaxdiff.evaluation import Gathered
from jaxdiff.features import Features
from jaxdiff.files import sha256
from jaxdiff.typing import InputError, PyTree
from jaxdiff.weights import SUFFIX, named, read_metadata

MOST = 50_000
"""How many samples of a run there are by default, at most: what papers report an FID of."""

Resize = Literal["tf1", "clean", "pytorch"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Real:
    """The real images, or their statistics."""

    reference: str | None = None
    """As --data.name of train.py: a folder of images, a .npz, .npy or IDX file, digits, tfds:NAME, hf:NAME; or a .npz
    of statistics, of `jaxdiff statistics`, or of pytorch-fid or guided-diffusion, which need --resize. Default: what
    the --run was trained on."""
    reference_split: str = "train"
    """Of a TFDS or Hugging Face set."""
    reference_dir: str | None = None
    """Where prepared TFDS sets are."""
    reference_num: int | None = None
    """So many of them, chosen by the seed 0; default all."""
    size: int | None = None
    """Resize the middle square of each real image to that side; default: as the images are."""
    channels: Literal[1, 3, 4] | None = None
    """1 grey, 3 RGB, 4 RGBA; default: as the images are."""
    features: str | None = None
    """pixels; classifier, trained on the real images with their labels (and kept), or classifier:FILE;
    efficientnet_lite0; inception:FILE. Default: classifier for grey images with labels, efficientnet_lite0 for
    colours, else pixels."""
    resize: Resize | None = None
    """Of inception: tf1 as the original, guided-diffusion and torch-fidelity, clean as clean-fid, pytorch as
    pytorch-fid. Default tf1, but of statistics that do not say it."""

    def refuse(self, why: str, *names: str) -> None:
        """Raise `InputError` for a setting that would be ignored."""
        plain = Real()
        for name in names:
            if getattr(self, name) != getattr(plain, name):
                flag = f"--{name.replace('_', '-')} {getattr(self, name)}"
                raise InputError(f"{flag}: the reference {self.reference or ''} {why}: leave it out".replace("  ", " "))

    def section(self) -> Data:
        """The same as the section of a config."""
        return Data(
            name=self.reference or "", split=self.reference_split, dir=self.reference_dir, size=self.size,
            channels=self.channels,
        )  # fmt: skip


class Samples(NamedTuple):
    """What is evaluated.

    Attributes:
      name: what it is called in messages.
      num: how many there are.
      shape: of each.
      labels: what they should show, or None.
      draw: makes or reads them, uint8 `[<= batch, H, W, C]` at a time.
      about: once they are drawn, what it takes to repeat them.
    """

    name: str
    num: int
    shape: tuple[int, int, int]
    labels: np.ndarray | None
    draw: Callable[[], Iterator[np.ndarray]]
    about: Callable[[], dict[str, Any]]


class Reference(NamedTuple):
    """What it is compared with.

    Attributes:
      name: what it is called in messages.
      num: how many images; None where only statistics are known.
      shape: of each, or None.
      source: the images, or None.
      numbers: which of them.
      labels: theirs, or None.
      about: what else it takes to find them again.
      gathered: `(features, moments_of, keep, batch)` -> what is known of them.
      features: of a file of statistics, the description of those that they are in, where it has one.
      moments_only: of such a file, whether it holds no more.
    """

    name: str
    num: int | None
    shape: tuple[int, int, int] | None
    source: Source | None
    numbers: np.ndarray
    labels: np.ndarray | None
    about: dict[str, Any]
    gathered: Callable[[Features, list[str], list[str], int], Gathered]
    features: dict[str, Any] | None = None
    moments_only: bool = False

    def images(self, batch: int) -> Iterator[np.ndarray]:
        """All of them."""
        assert self.source is not None
        return evaluation.images_of(self.source, self.numbers, batch=batch)


NO_REFERENCE = Reference("", None, None, None, np.arange(0), None, {}, lambda *_: Gathered("", None, {}))
"""Of metrics of the samples alone."""


def reference_of(real: Real, pictures: Pictures, *, made: bool) -> Reference:
    """Nothing of it is read yet but labels."""
    if real.reference is not None and evaluation.is_statistics(Path(real.reference)):
        real.refuse("are statistics", "reference_split", "reference_dir", "reference_num", "size", "channels")
        return _stored(Path(real.reference))
    if real.reference is not None:
        section = real.section()
        source, index = source_of(section, real)
    elif made and pictures.run is not None:
        real.refuse("is the data of the run", "reference_split", "reference_dir", "size", "channels")
        config, _ = runs.load_run(read_run(pictures.run))
        section = config.data
        source, index = _subset(_labelled(config), real)
    else:
        raise InputError("--reference: compared with what? A folder, a .npz file, digits, tfds:NAME, statistics, ...")

    def gathered(space: Features, moments_of: list[str], keep: list[str], batch: int) -> Gathered:
        if not moments_of and not keep:  # metrics of the samples alone
            return Gathered(section.name, len(index), {}, labels=labels, image_shape=source.image_shape)
        return gather_real(
            space, source, index, section.name, moments_of=moments_of, keep=keep, batch=batch, labels=labels
        )

    names = ["size", "channels", *(["split"] if section.name.startswith(("tfds:", "hf:")) else [])]
    about = {name: getattr(section, name) for name in names} | {"chosen": real.reference_num}
    labels = evaluation.labels_of(source, index)
    return Reference(section.name, len(index), source.image_shape, source, index, labels, about, gathered)


def _labelled(config: Config) -> Source:
    """The images that a run was trained on, with labels, which a classifier needs, though the run may have none."""
    with suppress(InputError):  # of a folder, say, that has images beside directories
        return build.sources(dataclasses.replace(config, data=dataclasses.replace(config.data, labels=True)))[0]
    return build.sources(config)[0]


def _stored(path: Path) -> Reference:
    """Statistics in a file."""
    try:
        about = evaluation.read_about(path)
    except Exception as error:  # numpy and zipfile raise many kinds
        raise InputError(
            f"{path}: not readable as statistics ({error}); make it again by jaxdiff statistics"
        ) from error
    shape = about.get("image_shape")

    def gathered(space: Features, moments_of: list[str], keep: list[str], batch: int) -> Gathered:
        return evaluation.read_statistics(path, space)

    return Reference(
        str(path), about.get("count"), None if shape is None else tuple(shape), None, np.arange(0),
        about.get("labels"), {"of": about.get("name"), "file_sha256": sha256(path)}, gathered,
        about.get("features"), not about.get("arrays"),
    )  # fmt: skip


def source_of(section: Data, real: Real) -> tuple[Source, np.ndarray]:
    """The images, and the numbers of those that are wanted."""
    return _subset(named_source(section, "--reference"), real)


def _subset(source: Source, real: Real) -> tuple[Source, np.ndarray]:
    num = len(source) if real.reference_num is None else real.reference_num
    if not 1 <= num <= len(source):
        raise InputError(f"--reference-num {num}: expected 1 to {len(source):,}, there are so many")
    return source, evaluation.some_of(np.arange(len(source)), num, np.random.default_rng(0))


def refuse_others(pictures: Pictures, *used: str, why: str) -> None:
    """Raise `InputError` for options of samples that would be ignored."""
    given = [f"--{field.name}" for field in dataclasses.fields(pictures)
             if field.name not in used and getattr(pictures, field.name) != field.default]  # fmt: skip
    if given:
        raise InputError(f"{why}; leave {', '.join(given).replace('_', '-')} out")


def from_files(name: str, num: int | None, pictures: Pictures) -> Samples:
    """Images that are there."""
    refuse_others(pictures, "batch", "seed", why=f"--samples {name}: are there already")
    source = named_source(Data(name=name), "--samples", num=num)
    index = evaluation.some_of(np.arange(len(source)), num or len(source), np.random.default_rng(0))
    draw = partial(evaluation.images_of, source, index, batch=pictures.batch)
    return Samples(name, len(index), source.image_shape, _shown(source, index), draw, lambda: {"chosen": num})


def _shown(source: Source, index: np.ndarray) -> np.ndarray | None:
    """The labels; of a folder also those in the names of its files, and numbers that are the names of its directories,
    of which 3 and 7 alone would be the classes 0 and 1."""
    labels = evaluation.labels_of(source, index)
    if not isinstance(source, FolderSource):
        return labels
    if labels is None or source.class_names is None:
        return labels_in_names([source.names[i] for i in index])
    if not all(re.fullmatch(r"\d{1,9}", name) for name in source.class_names):
        return labels
    numbers = np.array([int(name) for name in source.class_names], np.int32)
    return np.take(numbers, labels)


def check_files(flag: str, name: str, num: int, draw: Callable[[], Iterator[np.ndarray]]) -> None:
    """Raise `InputError` for a file of a folder that cannot be read or is of another size, before a network is trained
    or compiled to look at them. (Those of other sets are read already.)"""
    if not Path(name).is_dir():
        return
    with bar(num, "are they readable") as progress, reading(flag, name):
        for images in draw():
            progress(len(images))


def from_network(pictures: Pictures, reference: Reference, num: int | None) -> Samples:
    """A network's, whose labels are as often as in the reference unless they are given."""
    num = num or min(reference.num or MOST, MOST)
    found: dict[str, Any] = {"labels": "as given, in turn" if pictures.labels else "every class in turn"}

    def by_class(classes: int) -> np.ndarray | None:
        if pictures.labels or reference.labels is None:
            return None
        if int(reference.labels.max()) < classes:
            found["labels"] = "as often as in the reference"
            return evaluation.as_often(reference.labels, num)
        print(f"warning: {reference.name} has labels that the network lacks: samples of every class", file=sys.stderr)
        return None

    made: Prepared = prepare(pictures, num, by_class=by_class)
    if made.latents:
        raise InputError(
            "this network makes latents for an autoencoder: decode them, and give the pictures as --samples"
        )
    name = pictures.run or str(pictures.pretrained)

    def draw() -> Iterator[np.ndarray]:
        found["weights"], params = made.load()
        found["weights_sha256"] = sha256_of(params)
        return made.draw(params)

    def about() -> dict[str, Any]:
        evaluations = sampling.network_evaluations(made.config, made.spec)
        config = {name: to_dict(made.config)[name] for name in ("sample", "diffusion", "model")}
        of_each = None if made.labels is None else np.bincount(made.labels).tolist()
        if of_each is None:
            found["labels"] = None
        chosen: dict[str, Any] = {"item": pictures.weights, "seed": pictures.seed, "batch": pictures.batch}
        if pictures.weights.endswith(SUFFIX):
            there = read_metadata(Path(pictures.weights))
            chosen |= {"average": there.get("weights"), "step": there.get("step")}
        if pictures.classifier is not None:
            chosen["classifier"] = {"sha256": sha256(pictures.classifier), "scale": pictures.guide_scale}
        return {**found, **chosen, "network_evaluations": evaluations, "of_each_class": of_each, **config}

    return Samples(name, num, made.spec.image_shape, made.labels, draw, about)


def gather_real(
    space: Features,
    source: Source,
    index: np.ndarray,
    name: str,
    *,
    moments_of: list[str],
    keep: list[str],
    batch: int,
    labels: np.ndarray | None,
) -> Gathered:
    """One pass over the real images, with a progress bar."""
    extract = evaluation.extractor(space, {*moments_of, *keep}, batch=batch)
    with bar(len(index), "real images") as progress, reading("--reference", name):
        return evaluation.gather(
            evaluation.images_of(source, index, batch=batch), extract, name=name, moments_of=moments_of, keep=keep,
            labels=labels, progress=progress,
        )  # fmt: skip


@contextmanager
def bar(total: int, what: str, unit: str = "img") -> Iterator[Callable[[int], Any]]:
    """A progress bar, as what is told how many images, or other units, are done."""
    with tqdm(total=total, unit=unit, desc=what) as shown:
        yield shown.update


def sha256_of(params: PyTree) -> str:
    """Of all parameters with their names, in the tree's order."""
    digest = hashlib.sha256()
    for name, leaf in named(jax.device_get(params)).items():
        digest.update(f"{name} {leaf.dtype} {leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()
