"""`jaxdiff inpaint`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import jax.numpy as jnp
import numpy as np
import tyro

from jaxdiff import operators, tasks
from jaxdiff.cli.images import OfImages, Work, prepared
from jaxdiff.cli.out import check_numbers
from jaxdiff.cli.restore import Guided, check_even, check_guided
from jaxdiff.data.images import read_grey
from jaxdiff.on_images import Given, Task
from jaxdiff.pixels import from_uint8
from jaxdiff.samplers import RESAMPLINGS, check_resampling, time_travel, usual_jump
from jaxdiff.typing import Array, InputError

SIDES = ("left", "right", "top", "bottom")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inpaint(OfImages, Guided):
    """Paint a part of each image anew, so that it fits the rest: inpainting, and with --mask frame:N outpainting.

    `repaint` and `replacement` keep the rest by putting it back, noised, after every step; `moments` and `dps` guide by
    it. docs/tasks.md has their errors against exact posteriors.
    """

    mask: str
    """What is painted anew: a picture of the images' size, white where it is; or left, right, top, bottom (a half),
    center:N (a square of N pixels), frame:N (N pixels at each edge), random:P (a share P of the pixels)."""
    method: Literal["repaint", "replacement", "moments", "dps", "null_space"] = "repaint"
    """How."""
    jump_length: int | None = None
    """Of repaint: steps that it goes back up; default 10, or all but one where there are no more."""
    resamplings: int | None = None
    """Of repaint: how often each piece of the way is gone; default 10."""


def known_of(mask: str, shape: tuple[int, int, int], *, seed: int) -> np.ndarray:
    """1 where pixels are known, 0 where they are to be painted: float32 `[H, W, 1]`.

    >>> known_of("center:2", (4, 4, 1), seed=0)[..., 0].tolist()
    [[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]]
    """
    height, width, _ = shape
    known = np.ones((height, width, 1), np.float32)
    name, colon, number = mask.partition(":")
    if Path(mask).is_file():
        known[_white(mask, (height, width))] = 0
    elif mask in SIDES:
        half: dict[str, tuple[slice, ...] | slice] = {
            "left": np.s_[:, : width // 2],
            "right": np.s_[:, width // 2 :],
            "top": np.s_[: height // 2],
            "bottom": np.s_[height // 2 :],
        }
        known[half[mask]] = 0
    elif colon and name == "center":
        n = _pixels(mask, (height, width), most=min(height, width))
        top, left = (height - n) // 2, (width - n) // 2
        known[top : top + n, left : left + n] = 0
    elif colon and name == "frame":
        n = _pixels(mask, (height, width), most=(min(height, width) - 1) // 2)
        known[:] = 0
        known[n:-n, n:-n] = 1
    elif colon and name == "random":
        share = _number(number)
        if not 0 < share <= 1:
            raise InputError(f"--mask {mask}: expected a share of the pixels, above 0 and at most 1, as random:0.5")
        known[np.random.default_rng(seed).random((height, width)) < share] = 0
    elif "/" in mask or Path(mask).suffix:
        raise InputError(f"--mask {mask}: no such file")
    else:
        raise InputError(
            f"--mask {mask}: expected a picture's file, {', '.join(SIDES)}, center:N or frame:N (N pixels of "
            f"{height}x{width}) or random:P (0 < P <= 1)"
        )
    if known.all():
        raise InputError(f"--mask {mask}: nothing is to be painted; white is what is painted anew")
    return known


def _white(path: str, size: tuple[int, int]) -> np.ndarray:
    grey = read_grey(Path(path))
    if grey.shape != size:
        raise InputError(f"--mask {path}: {grey.shape[0]}x{grey.shape[1]} pixels; expected {size[0]}x{size[1]}")
    return grey >= 128


def _pixels(mask: str, size: tuple[int, int], *, most: int) -> int:
    """N of `name:N`."""
    name, _, number = mask.partition(":")
    n = int(number) if number.isdecimal() else 0
    if not 0 < n <= most:
        wrong = "too large for" if n else "no number of pixels in"
        expected = f"expected {name}:1 to {name}:{most}"
        raise InputError(f"--mask {mask}: {wrong} pictures of {size[0]}x{size[1]}; {expected}")
    return n


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def inpaint(command: Annotated[Inpaint, tyro.conf.arg(name="")]) -> None:
    """Paint a part of each image anew, so that it fits the rest: inpainting, and with --mask frame:N outpainting.

    `repaint` and `replacement` keep the rest by putting it back, noised, after every step; `moments` and `dps` guide by
    it. docs/tasks.md has their errors against exact posteriors.

    Args:
        command: Which images, with which network, and how.
    """
    check_guided(command)
    check_numbers(jump_length=command.jump_length, resamplings=command.resamplings)
    work = prepared(command, default_sampler="ddpm")
    known = known_of(command.mask, work.made.spec.image_shape, seed=command.seed)
    check_even(work)
    if command.method in ("repaint", "replacement") and len(work.times) < 3:
        raise InputError("--steps: what is known is put in after each step, so there must be more than one")
    steps = len(work.times) - 1
    goes = _repaint(command, steps)
    check_resampling(work.sampler, goes["resamplings"])
    try:
        time_travel(steps, **goes)
    except InputError as error:
        raise InputError(str(error).replace("jump_length", "--jump-length")) from None
    grey = np.where(known > 0, work.images, 128).astype(np.uint8)
    made = work.draw(
        _task(command, known, goes, clip=work.made.config.sample.clip),
        given=grey,
        clip=command.method in ("repaint", "replacement"),
    )
    painted = np.where(known > 0, from_uint8(work.images), made)
    work.compare(**_compared(work, painted, known))
    work.write(painted, work.images, grey)


def _repaint(command: Inpaint, steps: int) -> dict[str, int]:
    """Jump length and resamplings, of `time_travel`."""
    if command.method != "repaint":
        return {"jump_length": 1, "resamplings": 1}
    return {
        "jump_length": usual_jump(steps) if command.jump_length is None else command.jump_length,
        "resamplings": RESAMPLINGS if command.resamplings is None else command.resamplings,
    }


def _task(command: Inpaint, known: np.ndarray, goes: dict[str, int], *, clip: bool) -> Task:
    def repaint(given: Given) -> Array:
        mask = jnp.asarray(known[None])
        return tasks.inpaint(
            given.keys, given.predict[0](given.labels[0]), mask * given.images, mask, sampler=given.sampler,
            times=given.times, temperature=given.temperature, **goes,
        )  # fmt: skip

    def guided(given: Given) -> Array:
        return command.restored(given, operators.Mask(jnp.asarray(known)), clip=clip)

    return repaint if command.method in ("repaint", "replacement") else guided


def _compared(work: Work, painted: np.ndarray, known: np.ndarray) -> dict[str, np.ndarray]:
    """Beside what needs no network: the mean of what is known."""
    real = from_uint8(work.images)
    mean = (real * known).sum((1, 2), keepdims=True) / max(float(known.sum()), 1)
    found = {"painted": painted[0], "mean_of_the_known": np.where(known > 0, real, mean)}
    if len(painted) > 1:
        found["mean_of_the_draws"] = painted.mean(0)
    return found
