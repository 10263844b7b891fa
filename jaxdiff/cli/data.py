"""`jaxdiff data`: a set of images prepared for training, and looked at."""

import dataclasses
import os
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from tyro.extras import SubcommandApp

from jaxdiff import build
from jaxdiff import data as sources
from jaxdiff.config import Config, Data, check
from jaxdiff.data.images import check_out, grid, write_png
from jaxdiff.typing import InputError

data = SubcommandApp()
CLASSES = 20  # that a histogram lists
BAR = 40  # characters of its longest


@dataclasses.dataclass(frozen=True)
class Images:
    """Which images: as the section `data` of train.py."""

    data: str
    """As --data.name of train.py: a folder of images, a .npz, .npy or IDX file, digits, tfds:NAME, hf:NAME."""
    split: str = "train"
    """Of a TFDS or Hugging Face set."""
    dir: str | None = None
    """Where prepared TFDS sets are."""
    size: int | None = None
    """Resize the middle square of each image to that side; default: as the images are."""
    channels: Literal[1, 3, 4] | None = None
    """1 grey, 3 RGB, 4 RGBA; default: as the images are, files of a folder as the first, transparency on white."""
    labels: bool = True
    """--no-labels leaves them out; of a folder the directories are then no classes."""

    def section(self, *, skip_corrupt: bool, flip: bool = False) -> Data:
        """The same as the section of a config."""
        fields = dataclasses.asdict(self)
        found = Data(name=fields.pop("data"), skip_corrupt=skip_corrupt, flip=flip, **fields)
        check(Config(data=found))
        return found


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@data.command
def prepare(
    images: Annotated[Images, tyro.conf.arg(name="")],
    *,
    out: Path,
    shard_images: int | None = None,
    workers: int | None = None,
    skip_corrupt: bool = False,
) -> None:
    """Decode and resize images once, into a folder that --data.name of train.py takes and reads fast.

    The same command continues where it was killed. The files do not depend on --workers.

    Args:
        images: Which.
        out: A new folder. It will have the shards, as ArrayRecord files of raw pixels, and index.json.
        shard_images: Images per shard; default 128 MiB of them, at most 10,000.
        workers: Processes; default the number of cores.
        skip_corrupt: Leave images out that cannot be read; default: name them all, and exit with code 2.
    """
    source = build.source(images.section(skip_corrupt=False))
    height, width, channels = source.image_shape
    print(f"{images.data}: {len(source):,} images, {height}x{width}x{channels}, {_classes(source)}", flush=True)
    index = sources.prepare(
        source, out, name=images.data, shard_images=shard_images, workers=cores() if workers is None else workers,
        skip_corrupt=skip_corrupt, progress=True,
    )  # fmt: skip
    for shard in index["shards"]:
        for name, reason in shard["skipped"]:
            print(f"left out: {name}: {reason}")
    size = sum(shard["bytes"] for shard in index["shards"])
    print(
        f"{out}: {index['count']:,} images in {len(index['shards'])} shards, {size / 2**20:,.1f} MiB, "
        f"{index['skipped']} left out\nTrain on it: python train.py --config FILE --data.name {out}"
    )


@data.command
def show(
    images: Annotated[Images, tyro.conf.arg(name="")],
    *,
    out: Path,
    num: int = 64,
    seed: int = 0,
    flip: bool = False,
    skip_corrupt: bool = False,
) -> None:
    """Draw a batch as training would see it, and print its statistics.

    Args:
        images: Which.
        out: A .png file.
        num: Images in the batch.
        seed: Of the shuffling, as --seed of train.py.
        flip: Mirror each image left to right with probability 1/2.
        skip_corrupt: In place of an image that cannot be read take the next that can.
    """
    if out.suffix.lower() != ".png":
        raise InputError(f"--out {out}: expected a name that ends in .png")
    check_out(out)
    source = build.source(images.section(skip_corrupt=skip_corrupt, flip=flip))
    batch = next(sources.batches(source, batch_size=num, seed=seed, flip=flip, threads=1))
    write_png(out, grid(batch["image"]))
    height, width, channels = source.image_shape
    print(f"{images.data}: {len(source):,} images, {height}x{width}x{channels}, {_classes(source)}")
    again = ", of which some are there more than once" if num > len(source) else ""
    print(f"{out}: a batch of {num}{again}, shuffled by seed {seed}")
    print(statistics(batch["image"]))
    if "label" in batch:
        print(histogram(batch["label"], source.num_classes or 1, sources.class_names(source)))


def _classes(source: sources.Source) -> str:
    names = sources.class_names(source)
    if names is None:
        return f"{source.num_classes or 'no'} classes"
    return f"{len(names)} classes ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})"


def statistics(images: np.ndarray) -> str:
    """Range, mean and standard deviation of uint8 `[N, H, W, C]`, per channel, in levels and as the network sees them.

    >>> print(statistics(np.array([0, 255, 255, 0], np.uint8).reshape(1, 2, 2, 1)))
    channel   min   max    mean     std   in [-1, 1]: mean     std
    grey        0   255  127.50  127.50              0.000   1.000
    """
    names = {1: ("grey",), 2: ("grey", "alpha"), 3: ("red", "green", "blue"), 4: ("red", "green", "blue", "alpha")}
    lines = ["channel   min   max    mean     std   in [-1, 1]: mean     std"]
    for i, name in enumerate(names[images.shape[-1]]):
        levels = images[..., i].astype(np.float64)
        mean, std = levels.mean(), levels.std()
        lines.append(
            f"{name:7} {levels.min():5.0f} {levels.max():5.0f} {mean:7.2f} {std:7.2f} {mean / 127.5 - 1:18.3f} "
            f"{std / 127.5:7.3f}"
        )
    return "\n".join(lines)


def histogram(labels: np.ndarray, num_classes: int, names: tuple[str, ...] | None = None) -> str:
    """How often each class occurs, as text; of more than `CLASSES` the most frequent.

    >>> print(histogram(np.array([0, 2, 2, 2]), 3, ("cat", "dog", "emu")))
    class      count
    0 cat          1  #############
    1 dog          0
    2 emu          3  ########################################
    """
    counts = np.bincount(labels, minlength=num_classes)
    shown = np.arange(num_classes) if num_classes <= CLASSES else np.sort(np.argsort(-counts, kind="stable")[:CLASSES])
    titles = [f"{i} {names[i]}" if names else str(i) for i in shown]
    width = max(8, *map(len, titles))
    lines = [f"{'class':{width}}   count"]
    for i, title in zip(shown, titles, strict=True):
        bar = "#" * round(BAR * counts[i] / counts.max())
        lines.append(f"{title:{width}} {counts[i]:7}  {bar}".rstrip())
    if num_classes > CLASSES:
        rest, seen = int(counts.sum() - counts[shown].sum()), int((counts > 0).sum())
        lines.append(f"and {rest} more; {seen} of {num_classes} classes occur, {int(counts.max())} times at most")
    return "\n".join(lines)
