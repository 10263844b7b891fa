"""`jaxdiff super-resolution`, and the cascades of sample.py."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from tqdm import tqdm

from jaxdiff import build, cascades, evaluation, sampling
from jaxdiff.cli.images import OfImages, compared
from jaxdiff.cli.out import check_numbers, writing
from jaxdiff.cli.pictures import Pictures, Prepared, prepare
from jaxdiff.cli.sources import check_shape, reading
from jaxdiff.config import Config
from jaxdiff.data.images import check_out, write_samples
from jaxdiff.evaluation import size_of
from jaxdiff.pixels import from_uint8, to_uint8
from jaxdiff.typing import InputError, PyTree


@dataclasses.dataclass(frozen=True, kw_only=True)
class SuperResolution(OfImages):
    """Enlarge pictures."""

    degrade: bool = False
    """The images are whole ones: make them smaller first, as in training."""
    level: float | None = None
    """Of the noise that the small picture gets, from 0 to the run's condition.augmentation; more trusts it less.
    Default the run's condition.level."""
    mean: bool = False
    """Write the mean of each image's draws, of which --draws says how many, in their place."""


def super_resolution(command: Annotated[SuperResolution, tyro.conf.arg(name="")]) -> None:
    """Enlarge pictures by a run that was trained with --condition.factor. Each draw is one picture that may be behind
    the small one; their mean is the best guess in squares, and blurred where they differ.

    Args:
        command: Which images, by which run, and how.
    """
    out, images = command.out, command.images
    check_out(out)
    check_numbers(num=command.num, draws=command.draws)
    if command.mean and command.draws == 1:
        raise InputError("--mean: the mean of one draw is that draw; give --draws 2 or more")
    if command.pretrained is not None:
        raise InputError("--pretrained: no such network is given small pictures; give a --run")
    source = command.source
    index = np.arange(command.num or len(source))

    def by_class(classes: int) -> np.ndarray | None:
        found = None if command.labels else evaluation.labels_of(source, index)
        if found is None and not command.labels:
            raise InputError(f"--labels: {images} has none, and this network of {classes} classes needs them")
        if found is not None and int(found.max()) >= classes:
            raise InputError(f"--images {images}: has the label {int(found.max())}, the network {classes} classes")
        return found

    made = prepare(command, len(index), by_class=by_class, of_images=True)
    _check_enlarges(made.config, f"--run {command.run}")
    level = checked_level(made.config, command.level, "--level")
    whole = made.spec.image_shape
    expected = whole if command.degrade else build.low_shape(made.config, whole)
    check_shape(source, expected, "--images", images, whole=whole)
    with reading("--images", images, sized=True):
        real = source.gather(index)["image"]
    low = lowered(made.config, real) if command.degrade else from_uint8(real)
    name, params = made.load()
    parts = []
    with tqdm(total=len(index), unit="img", desc=f"{name}, {made.config.sample.sampler}") as bar:
        program = sampling.pmapped(made.generate)
        for drawn in cascades.enlargements(
            program, made.config, params, jax.random.key(command.seed), made.labels, low.__getitem__, num=len(index),
            batch=command.batch, level=level, draws=command.draws,
        ):  # fmt: skip
            parts.append(drawn)
            bar.update(len(drawn))
    drawn = np.concatenate(parts)
    mean = drawn.mean(1)
    found = to_uint8(mean[:, None] if command.mean else drawn)
    if command.degrade:
        bicubic = np.asarray(jax.image.resize(jnp.asarray(low), mean.shape, "cubic"))
        of_draws = {"mean_of_the_draws": mean} if command.draws > 1 else {}
        print(compared(real, enlarged=drawn[:, 0], **of_draws, bicubic=bicubic))
    with writing(out):
        if out.suffix.lower() == ".png":
            before = [*([real] if command.degrade else []), shown_small(made.config, to_uint8(low))]
            rows = np.concatenate([*(x[:, None] for x in before), found], 1)
            write_samples(out, rows.reshape(-1, *found.shape[2:]), None, columns=rows.shape[1])
        else:
            labels = evaluation.labels_of(source, index) if made.labels is None else made.labels
            each = None if labels is None else np.repeat(labels, found.shape[1])
            write_samples(out, found.reshape(-1, *found.shape[2:]), each)
    what = f"the means of {command.draws} draws each" if command.mean else f"{command.draws} of each"
    print(f"{len(index)} pictures enlarged at the level {level:g}, {what}: {out}")


def lowered(config: Config, large: np.ndarray) -> np.ndarray:
    """Small pictures in [-1, 1], float32 `[B, h, w, C]`, of large ones, uint8."""
    return np.asarray(build.lowered(config, jnp.asarray(from_uint8(large))))


def shown_small(config: Config, low: np.ndarray) -> np.ndarray:
    """uint8 `[B, h, w, C]` in the size of the large ones, each pixel as it is."""
    factor = config.condition.factor or 1
    return low.repeat(factor, axis=1).repeat(factor, axis=2)


def checked_level(config: Config, level: float | None, flag: str) -> float:
    """The level of the augmentation, by default the config's; `InputError` for one that training has not seen."""
    most = config.condition.augmentation
    if level is not None and not (math.isfinite(level) and 0 <= level <= most):
        raise InputError(f"{flag} {level}: expected 0 to {most:g}, the levels that the run was trained with")
    return config.condition.level if level is None else level


def _check_enlarges(config: Config, run: str) -> None:
    if config.condition.factor is None:
        raise InputError(f"{run}: was trained without --condition.factor, and enlarges nothing; give one that was")


def prepare_cascade(pictures: Pictures, num: int, stages: tuple[str, ...], levels: tuple[float, ...]) -> Prepared:
    """The pictures of a run, enlarged by others, as those of one network.

    Args:
      pictures: of the base; its batch, dtype and seed hold for all, all else of a stage is its run's.
      num: how many.
      stages: the runs, in order.
      levels: of each one's augmentation; none for the runs' own.

    Raises:
      InputError: runs that do not follow on each other, and what `prepare` raises.
    """
    if levels and len(levels) != len(stages):
        raise InputError(f"--cascade-levels: expected one for each of {len(stages)} stages, got {len(levels)}")
    base = prepare(pictures, num)
    if base.latents:
        raise InputError("--cascade: the base makes latents for an autoencoder, which are no pictures")
    made, used, before = [base], [], f"{pictures.run or pictures.pretrained}"
    for i, run in enumerate(stages):
        own = Pictures(run=run, batch=pictures.batch, dtype=pictures.dtype, seed=pictures.seed)
        stage = prepare(own, num, by_class=lambda classes: base.labels, of_images=True)
        _check_enlarges(stage.config, f"--cascade {run}")
        there, low = made[-1].spec, build.low_shape(stage.config, stage.spec.image_shape)
        if there.image_shape != low:
            raise InputError(
                f"--cascade {run}: enlarges {size_of(low)}, and {before} makes {size_of(there.image_shape)}"
            )
        if stage.spec.num_classes not in (None, base.spec.num_classes):
            raise InputError(
                f"--cascade {run}: has {stage.spec.num_classes} classes, and {pictures.run or pictures.pretrained} "
                f"{base.spec.num_classes or 'none'}"
            )
        used.append(checked_level(stage.config, levels[i] if levels else None, "--cascade-levels"))
        made.append(stage)
        before = run
    generate = cascades.cascaded(base.generate, [(stage.config, stage.spec) for stage in made[1:]])

    def load() -> tuple[str, tuple[PyTree, ...]]:
        names, params = zip(*(one.load() for one in made), strict=True)
        return ", ".join(names), params

    def draw(params: tuple[PyTree, ...]) -> Iterator[np.ndarray]:
        return cascades.in_batches(
            sampling.pmapped(generate), [one.config for one in made], params, jax.random.key(pictures.seed),
            base.labels, num=num, batch=pictures.batch, levels=used, guide=base.guide(),
        )  # fmt: skip

    return base._replace(spec=made[-1].spec, generate=generate, load=load, draw=draw)
