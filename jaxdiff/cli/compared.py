"""What `jaxdiff evaluate` compares: real images or their statistics, and samples from files or a network."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from jaxdiff import build, evaluation, runs, sampling
from jaxdiff.cli.common import read_run
from jaxdiff.cli.pictures import Pictures, Prepared, prepare
from jaxdiff.config import Config, Data, check, to_dict
from jaxdiff.data import Source
from jaxdiff.evaluation import Gathered
from jaxdiff.features import Features
from jaxdiff.typing import InputError, PyTree

MOST = 50_000
"""How many samples of a run there are by default, at most: what papers report an FID of."""

Resize = Literal["tf1", "clean", "pytorch"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Real:
    """The real images, or their statistics."""

    reference: str | None = None
    """As --data.name of train.py: a folder of images, a .npz, .npy or IDX file, digits, tfds:NAME, hf:NAME; or a .npz
    of statistics, of `jaxdiff statistics` or pytorch-fid. Default: what the --run was trained on."""
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
    """Of inception: tf1 as the original, clean as clean-fid, pytorch as pytorch-fid."""

    def section(self) -> Data:
        """The same as the section of a config."""
        found = Data(
            name=self.reference or "", split=self.reference_split, dir=self.reference_dir, size=self.size,
            channels=self.channels,
        )  # fmt: skip
        check(Config(data=found))
        return found


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
    """

    name: str
    num: int | None
    shape: tuple[int, int, int] | None
    source: Source | None
    numbers: np.ndarray
    labels: np.ndarray | None
    about: dict[str, Any]
    gathered: Callable[[Features, list[str], list[str], int], Gathered]

    def images(self, batch: int) -> Iterator[np.ndarray]:
        """All of them."""
        assert self.source is not None
        return evaluation.images_of(self.source, self.numbers, batch=batch)


def reference_of(real: Real, pictures: Pictures, *, made: bool) -> Reference:
    """Nothing of it is read yet but labels."""
    if real.reference is not None and evaluation.is_statistics(Path(real.reference)):
        path = Path(real.reference)

        def read(space: Features, moments_of: list[str], keep: list[str], batch: int) -> Gathered:
            return evaluation.read_statistics(path, space)

        return Reference(str(path), None, None, None, np.arange(0), None, {"file": str(path)}, read)
    if real.reference is not None:
        section = real.section()
        source, index = source_of(section, real)
    elif made and pictures.run is not None:
        config, _ = runs.load_run(read_run(pictures.run))
        section = config.data
        source, index = _subset(build.sources(config)[0], real)
    else:
        raise InputError("--reference: compared with what? A folder, a .npz file, digits, tfds:NAME, statistics, ...")

    def gathered(space: Features, moments_of: list[str], keep: list[str], batch: int) -> Gathered:
        return gather_real(space, source, index, section.name, moments_of=moments_of, keep=keep, batch=batch)

    about = {name: value for name, value in vars(section).items() if name in ("split", "size", "channels") and value}
    labels = evaluation.labels_of(source, index)
    return Reference(section.name, len(index), source.image_shape, source, index, labels, about, gathered)


def source_of(section: Data, real: Real) -> tuple[Source, np.ndarray]:
    """The images, and the numbers of those that are wanted."""
    try:
        return _subset(build.source(section), real)
    except InputError as error:
        raise InputError(str(error).replace("--data.name", "--reference")) from None


def _subset(source: Source, real: Real) -> tuple[Source, np.ndarray]:
    num = real.reference_num
    if num is not None and not 1 <= num <= len(source):
        raise InputError(f"--reference-num {num}: expected 1 to {len(source):,}, there are so many")
    everything = np.arange(len(source))
    return source, everything if num is None else np.sort(np.random.default_rng(0).permutation(everything)[:num])


def from_files(name: str, num: int | None, pictures: Pictures) -> Samples:
    """Images that are there."""
    given = [f"--{field.name}" for field in dataclasses.fields(pictures)
             if field.name not in ("batch", "seed") and getattr(pictures, field.name) != field.default]  # fmt: skip
    if given:
        raise InputError(f"--samples {name}: are there already; leave {', '.join(given).replace('_', '-')} out")
    try:
        source = build.source(Data(name=name))
    except InputError as error:
        raise InputError(str(error).replace("--data.name", "--samples")) from None
    if num is not None and num > len(source):
        raise InputError(f"--num {num}: there are {len(source):,} images in {name}")
    index = np.arange(num or len(source))
    draw = partial(evaluation.images_of, source, index, batch=pictures.batch)
    labels = evaluation.labels_of(source, index)
    return Samples(name, len(index), source.image_shape, labels, draw, dict)


def from_network(pictures: Pictures, reference: Reference, num: int | None) -> Samples:
    """A network's, whose labels are as often as in the reference unless they are given."""
    num = num or min(reference.num or MOST, MOST)
    made: Prepared = prepare(pictures, num)
    if made.latents:
        raise InputError(
            "this network makes latents for an autoencoder: decode them, and give the pictures as --samples"
        )
    theirs = None if pictures.labels or made.labels is None else reference.labels
    if theirs is not None and int(theirs.max()) < (made.spec.num_classes or 0):
        made = prepare(pictures, num, labels=evaluation.as_often(theirs, num))
    name, found = pictures.run or str(pictures.pretrained), {}

    def draw() -> Iterator[np.ndarray]:
        found["weights"], params = made.load()
        found["weights_sha256"] = _sha256(params)
        return made.draw(params)

    def about() -> dict[str, Any]:
        evaluations = sampling.network_evaluations(made.config, made.spec)
        how = to_dict(made.config)["sample"]
        labels = None if made.labels is None else np.bincount(made.labels).tolist()
        chosen = {"item": pictures.weights, "dtype": made.config.model.dtype, "seed": pictures.seed}
        return {**found, **chosen, "sample": how, "network_evaluations": evaluations, "of_each_class": labels}

    return Samples(name, num, made.spec.image_shape, made.labels, draw, about)


def gather_real(
    space: Features, source: Source, index: np.ndarray, name: str, *, moments_of: list[str], keep: list[str], batch: int
) -> Gathered:
    """One pass over the real images, with a progress bar."""
    extract = evaluation.extractor(space, {*moments_of, *keep}, batch=batch)
    with bar(len(index), "real images") as progress:
        return evaluation.gather(
            evaluation.images_of(source, index, batch=batch), extract, name=name, moments_of=moments_of, keep=keep,
            labels=evaluation.labels_of(source, index), progress=progress,
        )  # fmt: skip


def check_features(real: Real) -> None:
    """Raise `InputError` for a name that there is not, before anything is read."""
    if real.features is not None:
        evaluation.check_name(real.features, resize=real.resize)
    elif real.resize is not None:
        raise InputError(f"--resize {real.resize}: is of Inception's features; give --features inception:FILE too")


def features_name(real: Real, shape: tuple[int, int, int], source: Source | None) -> str:
    """What is asked for, or what fits the images."""
    return real.features or evaluation.default_features(shape, None if source is None else source.num_classes)


def features_of(real: Real, shape: tuple[int, int, int], source: Source | None, name: str = "") -> Features:
    """The features asked for, or those that fit the images; a classifier is trained now if there is none yet."""
    return evaluation.features(
        features_name(real, shape, source), shape, source=source, source_name=name or str(real.reference),
        resize=real.resize, progress=partial(tqdm, desc="classifier", unit="step"),
    )  # fmt: skip


@contextmanager
def bar(total: int, what: str) -> Iterator[Callable[[int], Any]]:
    """A progress bar, as what is told how many images are done."""
    with tqdm(total=total, unit="img", desc=what) as shown:
        yield shown.update


def _sha256(params: PyTree) -> str:
    """Of all the parameters' bytes, in the tree's order."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(jax.device_get(params)):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def size_of(shape: tuple[int, ...]) -> str:
    """In words.

    >>> size_of((8, 8, 1))
    '8x8x1'
    """
    return "x".join(map(str, shape))
