"""`jaxdiff restore`: super-resolution without training for it, deblurring, colouring."""

import dataclasses
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from jaxdiff import operators, tasks
from jaxdiff.cli.images import OfImages, prepared
from jaxdiff.on_images import Given
from jaxdiff.pixels import to_uint8
from jaxdiff.typing import Array, InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guided:
    """How what was measured guides."""

    method: str
    noise: float = 0.0
    """Of moments: the standard deviation of the noise in what was measured, in units of [-1, 1]."""
    iterations: int = 5
    """Of moments: of conjugate gradients, each as dear as a call of the network."""
    zeta: float = 1.0
    """Of dps: the step size of its Algorithm 1."""

    def restored(self, given: Given, A: Any) -> Array:
        """A draw from the posterior, by `tasks.restore`."""
        x = given.images
        shape = jax.eval_shape(A.pinv, x).shape
        return tasks.restore(
            given.keys, given.predict[0](given.labels[0]), A(x) if isinstance(A, operators.Mask) else x, A, shape=shape,
            sampler=given.sampler, schedule=given.schedule, times=given.times, method=self.method,  # type: ignore[arg-type]
            noise_std=self.noise, iterations=self.iterations, zeta=self.zeta, clip=True, temperature=given.temperature,
        )  # fmt: skip


def check_guided(command: Any) -> None:
    """Raise `InputError` for options that the method does not have."""
    method = command.method
    if not 0 <= command.noise < np.inf:
        raise InputError(f"--noise {command.noise}: expected 0 or more")
    if command.noise and method != "moments":
        raise InputError(f"--noise {command.noise}: {method} takes what was measured as exact; use --method moments")
    if not 0 < command.zeta < np.inf:
        raise InputError(f"--zeta {command.zeta}: expected a positive number")
    if command.iterations < 1:
        raise InputError(f"--iterations {command.iterations}: expected at least 1")
    if method == "dps" and command.sampler not in (None, "ddpm"):
        raise InputError(f"--sampler {command.sampler}: dps is an algorithm of ddpm's steps; leave it out")
    if method == "dps" and command.spacing not in (None, "uniform", "trailing"):
        raise InputError(f"--spacing {command.spacing}: dps needs equal steps; leave it out")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restore(OfImages, Guided):
    """Pictures from what was measured of them, by a network that was trained for nothing of the kind."""

    operator: Literal["downsample", "blur", "grey"]
    """What was done to the pictures: made smaller, blurred by a Gaussian, or their colours lost."""
    factor: int = 2
    """Of downsample: each pixel is the mean of factor x factor."""
    blur: float = 1.0
    """Of blur: the Gaussian's standard deviation in pixels."""
    degrade: bool = False
    """The images are whole ones: do it to them first (and add the noise), and compare with them."""
    method: Literal["moments", "dps", "null_space"] = "moments"
    """How: docs/tasks.md."""

    @property
    def A(self) -> Any:
        """The operator."""
        if self.operator == "downsample":
            return operators.Downsample(self.factor)
        if self.operator == "grey":
            return operators.Grey()
        return operators.Blur(jnp.asarray(operators.gaussian_kernel(self.blur)))


def restore(command: Annotated[Restore, tyro.conf.arg(name="")]) -> None:
    """Pictures from what was measured of them, by a network that was trained for nothing of the kind: super-resolution
    (--operator downsample), deblurring, colouring.

    Args:
        command: Which images, with which network, and how.
    """
    check_guided(command)
    A = command.A

    def measured(shape: tuple[int, int, int]) -> tuple[int, ...]:
        found: tuple[int, ...] = jax.eval_shape(A, jax.ShapeDtypeStruct((1, *shape), jnp.float32)).shape[1:]
        return shape if command.degrade else found

    work = prepared(command, default_sampler="ddpm", shape=measured)
    measured(work.made.spec.image_shape)  # which the operator may refuse
    given: np.ndarray = work.images
    if command.degrade:
        y = np.asarray(A(jnp.asarray(work.images.astype(np.float32) / 127.5 - 1)))
        noise = np.random.default_rng(command.seed).standard_normal(y.shape)
        given = (y + command.noise * noise).astype(np.float32)
    drawn = work.draw(lambda some: command.restored(some, A), given=given, clip=False)
    wide = given if given.dtype == np.float32 else given.astype(np.float32) / 127.5 - 1
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
    if command.mean and (command.draws > 1 or command.sampler is not None or command.steps is not None):
        raise InputError("--mean: is one call of the network; leave --draws, --sampler and --steps out")
    work = prepared(command, default_sampler="ddpm")
    real = work.images.astype(np.float32) / 127.5 - 1
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
