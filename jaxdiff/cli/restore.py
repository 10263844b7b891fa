"""`jaxdiff restore`: super-resolution without training for it, deblurring, colouring."""

import dataclasses
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from jaxdiff import operators, tasks
from jaxdiff.cli.images import OfImages, Work, prepared
from jaxdiff.cli.out import check_numbers
from jaxdiff.evaluation import size_of
from jaxdiff.on_images import Given
from jaxdiff.pixels import from_uint8, to_uint8
from jaxdiff.samplers import draws_noise, remembers
from jaxdiff.typing import Array, InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guided:
    """How what was measured guides."""

    method: str
    noise: float | None = None
    """Of moments: the standard deviation of the noise in what was measured, in units of [-1, 1]; default 0."""
    iterations: int | None = None
    """Of moments: of conjugate gradients, each as dear as a call of the network; default 5."""
    zeta: float | None = None
    """Of dps: the step size of its Algorithm 1; default 1."""

    def restored(self, given: Given, A: Any, *, clip: bool) -> Array:
        """A draw from the posterior, by `tasks.restore`."""
        x = given.images
        shape = jax.eval_shape(A.pinv, x).shape
        return tasks.restore(
            given.keys, given.predict[0](given.labels[0]), A(x) if isinstance(A, operators.Mask) else x, A, shape=shape,
            sampler=given.sampler, schedule=given.schedule, times=given.times, method=self.method,  # type: ignore[arg-type]
            noise_std=self.noise or 0.0, iterations=self.iterations or 5, zeta=1.0 if self.zeta is None else self.zeta,
            clip=clip, temperature=given.temperature,
        )  # fmt: skip


OPTIONS = {"moments": ("noise", "iterations"), "dps": ("zeta",), "repaint": ("jump_length", "resamplings")}
"""Of each method, those that others do not have."""


def check_guided(command: Any) -> None:
    """Raise `InputError` for an option that the method does not have, and for numbers that none can be."""
    for method, names in OPTIONS.items():
        for name in names:
            if method != command.method and getattr(command, name, None) is not None:
                flag = f"--{name.replace('_', '-')}"
                raise InputError(f"{flag}: is of --method {method}, not of {command.method}; leave it out")
    for name, least in (("noise", 0.0), ("zeta", None)):
        value = getattr(command, name)
        if value is not None and not (np.isfinite(value) and (value > 0 if least is None else value >= least)):
            raise InputError(f"--{name} {value}: expected {'a positive number' if least is None else '0 or more'}")
    check_numbers(iterations=command.iterations)
    if command.method == "dps" and command.sampler not in (None, "ddpm"):
        raise InputError(f"--sampler {command.sampler}: dps is an algorithm of ddpm's steps; leave it out")


def check_even(work: Work) -> None:
    """Raise `InputError` for the steps of dps unless they are equal."""
    steps = np.diff(work.times)
    if work.command.method == "dps" and not np.allclose(steps, -1 / len(steps), atol=1e-6):  # type: ignore[attr-defined]
        raise InputError(
            f"--method dps: needs equal steps from 1 to 0, not these {len(steps)}; give --spacing trailing and --steps "
            "that divide the table's"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restore(OfImages, Guided):
    """Pictures from what was measured of them, by a network that was trained for nothing of the kind."""

    operator: Literal["downsample", "blur", "grey"]
    """What was done to the pictures: made smaller, blurred by a Gaussian, or their colours lost."""
    factor: int | None = None
    """Of downsample: each pixel is the mean of factor x factor; default 2."""
    blur: float | None = None
    """Of blur: the Gaussian's standard deviation in pixels; default 1."""
    degrade: bool = False
    """The images are whole ones: do it to them first (and add the noise), and compare with them."""
    method: Literal["moments", "dps", "null_space"] = "moments"
    """How: docs/tasks.md."""

    @property
    def A(self) -> Any:
        """The operator."""
        if self.operator == "downsample":
            return operators.Downsample(2 if self.factor is None else self.factor)
        if self.operator == "grey":
            return operators.Grey()
        return operators.Blur(jnp.asarray(operators.gaussian_kernel(1.0 if self.blur is None else self.blur)))


def restore(command: Annotated[Restore, tyro.conf.arg(name="")]) -> None:
    """Pictures from what was measured of them, by a network that was trained for nothing of the kind: super-resolution
    (--operator downsample), deblurring, colouring.

    Args:
        command: Which images, with which network, and how.
    """
    check_guided(command)
    for name, operator in (("factor", "downsample"), ("blur", "blur")):
        if getattr(command, name) is not None and command.operator != operator:
            raise InputError(f"--{name}: is of --operator {operator}, not of {command.operator}; leave it out")
    check_numbers(factor=command.factor)
    if command.blur is not None and not 0 < command.blur < np.inf:
        raise InputError(f"--blur {command.blur}: expected a positive number of pixels")
    A = command.A

    def measured(shape: tuple[int, int, int]) -> tuple[int, ...]:
        if command.operator == "grey" and shape[-1] != 3:
            raise InputError(f"--operator grey: needs a network of colour pictures; this one knows {size_of(shape)}")
        try:
            found: tuple[int, ...] = jax.eval_shape(A, jax.ShapeDtypeStruct((1, *shape), jnp.float32)).shape[1:]
        except InputError as error:
            flag = "--blur" if command.operator == "blur" else "--factor"
            raise InputError(f"{flag}: {error}") from None
        return shape if command.degrade else found

    work = prepared(command, default_sampler="ddpm", unguided=True, shape=measured)
    check_even(work)
    given: np.ndarray = work.images
    if command.degrade:
        y = np.asarray(A(jnp.asarray(from_uint8(work.images))))
        noise = np.random.default_rng(command.seed).standard_normal(y.shape)
        given = (y + (command.noise or 0) * noise).astype(np.float32)
    clip = work.made.config.sample.clip
    drawn = work.draw(lambda some: command.restored(some, A, clip=clip), given=given, clip=False)
    wide = from_uint8(given)
    enlarged = np.asarray(A.pinv(jnp.asarray(wide, jnp.float32)))
    if command.degrade:
        found = {"restored": drawn[0], **({"mean_of_the_draws": drawn.mean(0)} if len(drawn) > 1 else {})}
        if command.operator == "downsample":
            cubic = jax.image.resize(jnp.asarray(wide), enlarged.shape, "cubic")
            found |= {"nearest": enlarged, "bicubic": np.asarray(cubic)}
        else:
            found["pseudo-inverse"] = enlarged
        work.compare(**found)
    before = [to_uint8(enlarged if command.operator != "blur" else wide)]
    work.write(drawn, *([work.images] if command.degrade else []), *before)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Denoise(OfImages):
    """Take the noise out of images."""

    noise: float | None = None
    """Its standard deviation in units of [-1, 1]: 0.1 is 12.75 grey levels. Default: estimated, for each image."""
    mean: bool = False
    """The posterior mean, by one call of the network: the best in mean square, but smooth. Default: draws from the
    posterior."""
    degrade: float | None = None
    """The images have no noise: add so much of it first, and compare with them."""


def denoise(command: Annotated[Denoise, tyro.conf.arg(name="")]) -> None:
    """Take white noise out of images: draws from the posterior of what they were, or its mean.

    Args:
        command: Which images, with which network, and how.
    """
    for name, value in (("noise", command.noise), ("degrade", command.degrade)):
        if value is not None and not 0 < value < np.inf:
            raise InputError(f"--{name} {value}: expected a positive number")
    given_too = [
        name for name in ("sampler", "steps", "eta", "variance", "temperature") if getattr(command, name) is not None
    ]
    if command.mean and (command.draws > 1 or given_too):
        raise InputError("--mean: is one call of the network; leave --draws and the options of samplers out")
    if command.spacing is not None:
        raise InputError(f"--spacing {command.spacing}: the steps from the noise down are equal; leave it out")
    work = prepared(command, default_sampler="ddpm", unguided=True)
    if command.draws > 1 and not draws_noise(work.sampler):
        raise InputError(f"--draws {command.draws}: {work.made.config.sample.sampler} makes but one; use ddpm")
    if command.noise is None and not command.mean and remembers(work.sampler):
        raise InputError(
            f"--sampler {work.made.config.sample.sampler}: has one grid for all images; give their --noise"
        )
    real = from_uint8(work.images)
    given = real
    if command.degrade is not None:
        noise = np.random.default_rng(command.seed).standard_normal(real.shape)
        given = (real + command.degrade * noise).astype(np.float32)
    level = command.noise
    steps = work.made.config.sample.steps

    def task(some: Given) -> Array:
        std = jnp.maximum(tasks.estimate_noise(some.images), 1e-3) if level is None else jnp.float32(level)
        predict = some.predict[0](some.labels[0])
        if command.mean:
            return tasks.posterior_mean(predict, some.images, std, schedule=some.schedule)
        return tasks.posterior_samples(
            some.keys, predict, some.images, std, sampler=some.sampler, steps=steps, temperature=some.temperature
        )

    if level is None:
        found = np.asarray(tasks.estimate_noise(jnp.asarray(given)))
        print(f"noise: {found.mean():.4f} on average, estimated from {found.min():.4f} to {found.max():.4f}")
    drawn = work.draw(task, given=given)
    if command.degrade is not None:
        found_mean = {"mean_of_the_draws": drawn.mean(0)} if len(drawn) > 1 else {}
        work.compare(denoised=drawn[0], **found_mean, with_noise=given)
    work.write(drawn, *([work.images] if command.degrade is not None else []), to_uint8(given))
