"""Pictures from pictures: `jaxdiff variations`, `transfer`, `edit` and `interpolate`."""

import dataclasses
import sys
from typing import Annotated, Literal

import jax.numpy as jnp
import numpy as np
import tyro

from jaxdiff import build, tasks, timesteps
from jaxdiff.cli.images import OfImages, Work, prepared
from jaxdiff.cli.pictures import Pictures, prepare
from jaxdiff.on_images import Given
from jaxdiff.typing import Array, InputError
from jaxdiff.weights import SUFFIX


@dataclasses.dataclass(frozen=True, kw_only=True)
class FromNoised(OfImages):
    """Begin from the images, noised."""

    strength: float = 0.5
    """How far up the time each image is noised, above 0 to 1: at 1 nothing of it is left."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transfer(OfImages):
    """From one label or network to another."""

    source_labels: tuple[int, ...] = ()
    """What the images show, in turn; default: their own labels, if the network knows them."""
    to_run: str | None = None
    """The network that generates, another run on pictures of this size with the same schedule; default: the same. Its
    --weights are as given, but its moving average where that is a file."""
    strength: float = 1.0
    """The time up to which images are inverted: below 1 more of them is kept."""
    corrections: int = 1
    """Of the inversion: fixed-point iterations a step."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Edit(OfImages):
    """Towards one label and away from another."""

    more: int
    """The label that shall come."""
    less: int
    """The label that shall go."""
    scale: float = 2.0
    """How far."""
    strength: float = 1.0
    """The time up to which images are inverted: below 1 more of them is kept."""
    corrections: int = 1
    """Of the inversion: fixed-point iterations a step."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interpolate(OfImages):
    """Between images: the first and the second, the third and the fourth, ..."""

    shown: int = 6
    """Pictures between two images."""
    through: Literal["latents", "noised"] = "latents"
    """latents: by inversion, along the sphere, deterministic. noised: both noised by the same draw, sampled down."""
    strength: float | None = None
    """Of noised: how far up the time; default 0.5."""
    corrections: int | None = None
    """Of latents: fixed-point iterations a step of the inversion; default 1."""


def variations(command: Annotated[FromNoised, tyro.conf.arg(name="")]) -> None:
    """Variations of images, or what the network makes of any image of its size (image to image): noised up to
    --strength, and sampled down.

    Args:
        command: Which images, with which network, and how.
    """
    work = prepared(command)
    times = _from(work, command.strength)

    def task(given: Given) -> Array:
        return tasks.from_noised(
            given.keys, given.predict[0](given.labels[0]), given.images, sampler=given.sampler, times=given.times,
            temperature=given.temperature,
        )  # fmt: skip

    work.write(work.draw(task, times=times), work.images)


def transfer(command: Annotated[Transfer, tyro.conf.arg(name="")]) -> None:
    """Style transfer: the latent of each image under one label or network (DDIM's inversion), and what another label
    (--labels) or network (--to-run) makes of it.

    Args:
        command: Which images, with which network, and how.
    """
    if not command.labels and command.to_run is None:
        raise InputError("transfer to what? Give --labels, what the pictures shall show, or --to-run, another network")
    source = dataclasses.replace(command, labels=command.source_labels)
    if command.to_run is not None:
        weights = "ema" if command.weights.endswith(SUFFIX) else command.weights
        target = Pictures(
            run=command.to_run, labels=command.labels, weights=weights, dtype=command.dtype, guidance=command.guidance
        )
        work = _deterministic(source, [target], labels_flag="--source-labels")
        to = work.others[0].labels
    else:
        work = _deterministic(source, [], labels_flag="--source-labels")
        to = prepare(dataclasses.replace(source, labels=command.labels, sampler="ddim"), len(work.images)).labels

    def task(given: Given) -> Array:
        return tasks.transfer(
            given.predict[0](given.labels[0]), given.predict[-1](given.labels[1]), given.images, times=given.times,
            schedule=given.schedule, corrections=command.corrections,
        )  # fmt: skip

    made = work.draw(task, labels=(work.labels, to), times=_from(work, command.strength))
    work.write(made, work.images, labels=to)


def edit(command: Annotated[Edit, tyro.conf.arg(name="")]) -> None:
    """Edit an attribute: each image's latent, and from there generation with `eps + scale (eps of --more - eps of
    --less)`.

    Args:
        command: Which images, with which network, and how.
    """
    work = _deterministic(command, [])
    classes = work.made.spec.num_classes
    if classes is None:
        raise InputError("edit: this model was trained without labels, of which it needs two")
    for name, label in (("more", command.more), ("less", command.less)):
        if not 0 <= label < classes:
            raise InputError(f"--{name} {label}: expected a label from 0 to {classes - 1}")

    def task(given: Given) -> Array:
        own = given.labels[0]
        base = given.predict[0](own)
        more, less = (
            given.predict[0](jnp.full(given.images.shape[:1], label, jnp.int32))
            for label in (command.more, command.less)
        )
        there = tasks.edited(base, more, less, scale=command.scale, schedule=given.schedule)
        return tasks.transfer(
            base, there, given.images, times=given.times, schedule=given.schedule, corrections=command.corrections
        )

    made = work.draw(task, times=_from(work, command.strength))
    work.write(made, work.images, labels=np.full(len(work.images), -1, np.int32))  # what they show now is not known


def interpolate(command: Annotated[Interpolate, tyro.conf.arg(name="")]) -> None:
    """Pictures between two images: the first and the second, the third and the fourth, ...

    Args:
        command: Which images, with which network, and how.
    """
    if command.shown < 1:
        raise InputError(f"--shown {command.shown}: expected at least 1")
    if command.draws != 1:
        raise InputError(f"--draws {command.draws}: there is one path; give another --seed, with --through noised")
    latents = command.through == "latents"
    for name, through in (("strength", "noised"), ("corrections", "latents")):
        if getattr(command, name) is not None and command.through != through:
            raise InputError(f"--{name}: is of --through {through}, not of {command.through}; leave it out")
    corrections = 1 if command.corrections is None else command.corrections
    work = _deterministic(command, []) if latents else prepared(command)
    pairs = len(work.images) // 2
    if not pairs:
        raise InputError("interpolate: expected at least two images; give more, or a larger --num")
    if len(work.images) % 2:
        print("note: the last image is the first of no pair", file=sys.stderr)
    a, b = (work.images[i : 2 * pairs : 2] for i in (0, 1))
    ends = np.repeat(np.concatenate([a, b], -1), command.shown, 0)
    shares = np.tile(np.arange(1, command.shown + 1, dtype=np.float32) / (command.shown + 1), pairs)
    shown = _of_both(work, pairs)
    labels = None if shown is None else np.repeat(shown, command.shown)
    channels = work.images.shape[-1]

    def task(given: Given) -> Array:
        first, second = given.images[..., :channels], given.images[..., channels:]
        predict, share = given.predict[0](given.labels[0]), given.labels[1]
        assert share is not None
        if latents:
            return tasks.between_latents(
                predict, first, second, share, times=given.times, schedule=given.schedule, corrections=corrections
            )
        return tasks.between_noised(
            given.keys, predict, first, second, share, sampler=given.sampler, times=given.times,
            temperature=given.temperature,
        )  # fmt: skip

    times = work.times if latents else _from(work, 0.5 if command.strength is None else command.strength)
    numbers = np.repeat(np.arange(pairs, dtype=np.int32), command.shown)  # a path has one draw of noise
    made = work.draw(task, given=ends, labels=(labels, shares), times=times, numbers=numbers)[0]
    path = made.reshape(pairs, command.shown, *made.shape[1:]).swapaxes(0, 1)
    work.write(path, a, labels=shown, after=[b])


def _of_both(work: Work, pairs: int) -> np.ndarray | None:
    """The label of each pair, none where the two differ."""
    if work.labels is None:
        return None
    a, b = (work.labels[i : 2 * pairs : 2] for i in (0, 1))
    if not build.knows_none(work.made.config) and (a != b).any():
        raise InputError("the two images of a pair have different labels, and this network must be told one: --labels")
    return np.where(a == b, a, np.int32(work.made.spec.num_classes or 0))


def _from(work: Work, strength: float) -> np.ndarray:
    """The times of the grid from `strength` on."""
    if not 0 < strength <= 1:
        raise InputError(f"--strength {strength}: expected above 0, at most 1")
    try:
        return timesteps.starting_at(work.times, strength)
    except InputError:
        raise InputError(
            f"--strength {strength}: no step of {len(work.times) - 1} begins there or below; give more, or more --steps"
        ) from None


def _deterministic(command: OfImages, others: list[Pictures], *, labels_flag: str = "--labels") -> Work:
    """With DDIM, which inversion is defined by."""
    if command.eta not in (None, 0) or command.temperature is not None:
        raise InputError("this is done by DDIM without noise; leave --eta and --temperature out")
    for name, value in (("draws", command.draws), ("seed", command.seed)):
        if value != getattr(OfImages, name):
            raise InputError(f"--{name} {value}: nothing is drawn, there is but one; leave it out")
    others = [dataclasses.replace(other, sampler="ddim") for other in others]
    return prepared(command, fixed_sampler="ddim", unguided=True, others=others, labels_flag=labels_flag)
