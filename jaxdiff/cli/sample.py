"""The command line of sample.py."""

import dataclasses
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from tqdm import tqdm

from jaxdiff.cli.common import say_errors
from jaxdiff.cli.out import writing
from jaxdiff.cli.pictures import Pictures, Prepared, prepare
from jaxdiff.cli.super_resolution import prepare_cascade
from jaxdiff.data.images import check_out, write_samples
from jaxdiff.data.postprocess import PostProcess, check_postprocess, postprocess
from jaxdiff.typing import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleCommand(Pictures):
    """Make pictures with a trained model. What is not given is as in the run's config."""

    num: int
    """How many."""
    out: Path
    """NAME.png: one grid. NAME.npz: arrays `images` (uint8 NHWC) and `labels`. A folder: one file each. What a network
    makes for an autoencoder to decode goes into a .npz alone, as `latents` (float32)."""
    after: Annotated[PostProcess, tyro.conf.arg(name="")] = dataclasses.field(default_factory=PostProcess)
    """What is done to each picture before it is written, in this order."""
    cascade: tuple[str, ...] = ()
    """Runs of super-resolution that enlarge the pictures one after the other, each as its config says."""
    cascade_levels: tuple[float, ...] = ()
    """Of the noise that each of these puts on what it is given, such as 0.1: more hides more of the faults of the
    smaller pictures. Default each run's condition.level."""


def sample_main(argv: Sequence[str] | None = None) -> None:
    """The command line of sample.py."""
    args = sys.argv[1:] if argv is None else list(argv)
    command = partial(tyro.cli, SampleCommand, args=args, prog="sample.py")
    say_errors(lambda: _sample(command()), stopped="stopped; nothing was written")


def _sample(command: SampleCommand) -> None:
    check_out(command.out)
    if command.cascade_levels and not command.cascade:
        raise InputError("--cascade-levels without --cascade")
    made = (
        prepare_cascade(command, command.num, command.cascade, command.cascade_levels)
        if command.cascade
        else prepare(command, command.num)
    )
    if made.latents and command.out.suffix.lower() != ".npz":
        raise InputError(
            f"--out {command.out}: this network makes no pictures but latents, "
            f"{'x'.join(map(str, made.spec.image_shape))}, for an autoencoder to decode; expected a name that ends in "
            ".npz"
        )
    _check_after(command, made)
    name, params = made.load()
    parts = []
    with tqdm(total=command.num, unit="img", desc=f"{name}, {made.config.sample.sampler}") as bar:
        for images in made.draw(params):
            parts.append(images if made.latents else postprocess(images, command.after))
            bar.update(len(images))
    with writing(command.out):
        kind, quality = command.after.format or "png", command.after.quality
        write_samples(command.out, np.concatenate(parts), made.labels, kind=kind, quality=quality)
    print(f"{command.num} {'latents' if made.latents else 'pictures'}: {command.out}")


def _check_after(command: SampleCommand, made: Prepared) -> None:
    """What is done to pictures fits them, and the place they go to."""
    given = [field.name for field in dataclasses.fields(PostProcess)
             if getattr(command.after, field.name) != field.default]  # fmt: skip
    if made.latents and given:
        raise InputError(f"--{given[0]}: is of pictures, and this network makes latents; leave it out")
    if command.after.format is not None and command.out.suffix:
        raise InputError(
            f"--format {command.after.format}: is of the files of a folder, and --out {command.out} is one file; leave "
            "it out, or give a folder"
        )
    if not made.latents:
        check_postprocess(command.after, made.spec.image_shape)
