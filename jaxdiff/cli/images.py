"""Commands that begin from images: which, with which network, and what is made of them."""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from tqdm import tqdm

from jaxdiff import build, cascades, on_images
from jaxdiff.cli.out import check_numbers, writing
from jaxdiff.cli.pictures import Pictures, Prepared, prepare
from jaxdiff.cli.sources import check_shape, named_source, reading
from jaxdiff.config import Config, Data
from jaxdiff.data import Source
from jaxdiff.data.images import check_out, write_samples
from jaxdiff.evaluation import labels_of, size_of
from jaxdiff.metrics import psnr
from jaxdiff.pixels import from_uint8, to_uint8
from jaxdiff.typing import InputError, Schedule


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfImages(Pictures):
    """Which images, with which network, and how."""

    images: str
    """As --data.name of train.py: a folder of images, a .npz, .npy or IDX file, digits, tfds:NAME, hf:NAME."""
    split: str | None = None
    """Of a TFDS or Hugging Face set; default train."""
    size: int | None = None
    """Resize the middle square of each image to that side; default: as the images are."""
    channels: Literal[1, 3, 4] | None = None
    """1 grey, 3 RGB, 4 RGBA; default: as the images are."""
    num: int | None = None
    """The first so many; default all."""
    draws: int = 1
    """Pictures of each image."""
    out: Path
    """NAME.png: a row for each image, what was given first. NAME.npz: arrays `images` (uint8 NHWC) and `labels`. A
    folder: one PNG each. The draws of an image follow each other."""

    @property
    def source(self) -> Source:
        """All of the images, checked."""
        data = Data(name=self.images, size=self.size, channels=self.channels)
        return named_source(data, "--images", split=self.split, num=self.num)


@dataclasses.dataclass(frozen=True)
class Work:
    """A command's work, checked.

    Attributes:
      made: the network.
      others: networks besides.
      images: uint8 `[N, H, W, C]`.
      labels: of each, as the command said or as the images have them, `[N]`; None for a network without classes.
    """

    command: OfImages
    made: Prepared
    others: tuple[Prepared, ...]
    images: np.ndarray
    labels: np.ndarray | None

    @property
    def schedule(self) -> Schedule:
        """The network's."""
        return build.schedule(self.made.config.diffusion)

    @property
    def sampler(self) -> Any:
        """As the options say."""
        return build.sampler(self.made.config, self.schedule)

    @property
    def times(self) -> np.ndarray:
        """The whole grid."""
        return build.times(self.made.config.sample, self.schedule)

    def draw(
        self,
        task: on_images.Task,
        *,
        given: np.ndarray | None = None,
        labels: Sequence[np.ndarray | None] | None = None,
        times: np.ndarray | None = None,
        numbers: np.ndarray | None = None,
        clip: bool = True,
    ) -> np.ndarray:
        """Do it: float32 `[draws, N, H, W, C]`.

        Args:
          task: of `on_images`.
          given: what the task sees in place of the images, uint8 or float32 in [-1, 1], `[N, ...]`.
          labels: in place of the images'.
          times: in place of the whole grid.
          numbers: whose draws of noise each image has, `[N]`; default its own, 0, 1, ...
          clip: what each network predicts; False leaves it to the task.
        """
        command, every = self.command, (self.made, *self.others)
        networks = [
            on_images.Network(made.config if clip else _with(made.config, clip=False), made.spec) for made in every
        ]
        loaded = [made.load() for made in every]
        params = tuple(params for _, params in loaded)
        compiled = on_images.program(task, networks)
        own = (self.labels,) if labels is None else tuple(labels)
        what = self.images if given is None else given
        numbers = np.arange(len(what), dtype=np.int32) if numbers is None else numbers
        done = []
        with tqdm(total=command.draws * len(what), unit="img", desc=", ".join(name for name, _ in loaded)) as bar:
            for k in range(command.draws):
                key = cascades.of_draw(jax.random.key(command.seed), k)
                parts = []
                for pictures in on_images.in_batches(
                    compiled,
                    self.made.config,
                    params,
                    key,
                    own,
                    what,
                    batch=command.batch,
                    times=times,
                    numbers=numbers,
                ):
                    parts.append(pictures)
                    bar.update(len(pictures))
                done.append(np.concatenate(parts))
        return np.stack(done)

    def write(
        self,
        drawn: np.ndarray,
        *before: np.ndarray,
        labels: np.ndarray | None = None,
        after: Sequence[np.ndarray] = (),
    ) -> None:
        """The pictures, `[draws, N, H, W, C]` in [-1, 1]; in a grid between those of `before` and `after`, uint8
        `[N, H, W, C]`. `labels`: of each image's pictures, by default what the network was told."""
        out = self.command.out
        pictures = to_uint8(drawn).swapaxes(0, 1)
        shown = self.labels if labels is None else labels
        if shown is not None:  # a network that was told none does not say what the picture shows
            shown = np.where(shown == self.made.spec.num_classes, -1, shown)
        with writing(out):
            if out.suffix.lower() == ".png":
                rows = np.concatenate([*(x[:, None] for x in before), pictures, *(x[:, None] for x in after)], axis=1)
                write_samples(out, rows.reshape(-1, *rows.shape[2:]), None, columns=rows.shape[1])
            else:
                known = shown is not None and (out.suffix or (shown >= 0).all())  # in names of files or not at all
                each = np.repeat(shown, len(drawn)) if known and shown is not None else None
                write_samples(out, pictures.reshape(-1, *pictures.shape[2:]), each)
        print(f"{pictures.shape[0] * pictures.shape[1]} pictures: {out}")

    def compare(self, **made: np.ndarray) -> None:
        """Say the mean PSNR of pictures in [-1, 1], by name, to the images."""
        print(compared(self.images, **made))


def compared(real: np.ndarray, **made: np.ndarray) -> str:
    """The mean PSNR of pictures in [-1, 1], by name, to uint8 `[N, H, W, C]`; those that are exact, to which it is
    infinite, are counted.

    >>> real = np.zeros((2, 8, 8, 1), np.uint8)
    >>> half = from_uint8(real) + np.array([0.0, 0.2], np.float32)[:, None, None, None]
    >>> compared(real, the_same=from_uint8(real), half=half)
    'PSNR to the images: the same exact, half 20.00 dB (1 of 2 exact)'
    """
    wide, said = from_uint8(real), []
    for name, x in made.items():
        found = np.asarray(psnr(np.clip(x, -1, 1), wide))
        others = found[np.isfinite(found)]
        exact = len(found) - len(others)
        value = f"{others.mean():.2f} dB" if len(others) else "exact"
        some = f" ({exact} of {len(found)} exact)" if exact and len(others) else ""
        said.append(f"{name.replace('_', ' ')} {value}{some}")
    return "PSNR to the images: " + ", ".join(said)


def _with(config: Config, **settings: Any) -> Config:
    return dataclasses.replace(config, sample=dataclasses.replace(config.sample, **settings))


def prepared(
    command: OfImages,
    *,
    default_sampler: str | None = None,
    fixed_sampler: str | None = None,
    others: Sequence[Pictures] = (),
    unguided: bool = False,
    labels_flag: str = "--labels",
    shape: Callable[[tuple[int, int, int]], tuple[int, ...]] = tuple,
) -> Work:
    """Check all that can be before anything is compiled.

    Args:
      command: the options.
      default_sampler: in place of the run's, where none is given.
      fixed_sampler: of a task that is defined with it: another is refused.
      others: networks besides, of the same pictures.
      unguided: by default, whatever the run's guidance: what it makes of x_t is to be the mean of what x_0 may be.
      labels_flag: the option that gave `command.labels`.
      shape: of the network's pictures -> of the images.

    Raises:
      InputError: options that do not fit each other, the network or the images.
    """
    check_out(command.out)
    check_numbers(num=command.num, draws=command.draws, batch=command.batch)
    for name in ("truncation", "start_scale", "classifier", "classifier_scale", "classifier_options"):
        if getattr(command, name) != getattr(Pictures, name):
            raise InputError(f"--{name.replace('_', '-')}: of pictures that begin from noise alone; leave it out")
    if fixed_sampler is not None and command.sampler not in (None, fixed_sampler):
        raise InputError(f"--sampler {command.sampler}: this is done with {fixed_sampler}; leave it out")
    wanted = fixed_sampler or command.sampler or default_sampler
    source = command.source
    index = np.arange(command.num or len(source))
    own = labels_of(source, index)

    def by_class(classes: int, given: Sequence[int]) -> np.ndarray | None:
        if given:
            return None
        if own is not None and own.max() < classes:
            return own
        print("note: the images have no labels that the network knows: it is told none", file=sys.stderr)
        return np.full(len(index), classes, np.int32)

    flags = [labels_flag, *("--labels" for _ in others)]
    every = [
        prepare(one, len(index), by_class=partial(by_class, given=one.labels), labels_flag=flag)
        for one, flag in zip((dataclasses.replace(command, sampler=wanted), *others), flags, strict=True)
    ]
    if unguided and command.guidance is None:
        every = [one._replace(config=_with(one.config, guidance=1.0)) for one in every]
    made, *rest = every
    besides = tuple(rest)
    for other in besides:
        if other.spec.image_shape != made.spec.image_shape:
            sizes = " and ".join(size_of(one.spec.image_shape) for one in (made, other))
            raise InputError(f"the two networks know pictures of {sizes}: expected one size")
        if build.schedule(other.config.diffusion) != build.schedule(made.config.diffusion):
            raise InputError("the two networks have different schedules: a latent of one is none of the other")
    if made.latents:
        raise InputError("this network makes latents for an autoencoder, which are no pictures")
    for one, flag in zip(every, flags, strict=True):
        if one.labels is not None and (one.labels == one.spec.num_classes).any() and not build.knows_none(one.config):
            raise InputError(f"this network was never trained without a label: say what the pictures show by {flag}")
    whole = made.spec.image_shape
    check_shape(source, shape(whole), "--images", command.images, whole=whole)
    with reading("--images", command.images, sized=True):
        images = source.gather(index)["image"]
    return Work(command, made, besides, images, made.labels)
