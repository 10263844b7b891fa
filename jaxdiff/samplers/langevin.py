"""Langevin dynamics at one noise level: correctors of another sampler's step, or samplers of their own."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdiff.noise import fold_in, per_example, white_noise
from jaxdiff.samplers.base import State, check_number, denoise_unless
from jaxdiff.schedules import as_float, expand, safe_sqrt
from jaxdiff.typing import Array, Denoiser, Noise, Prediction, Schedule


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LangevinCorrector:
    """`steps_per_level` times x <- x + e g + sqrt(2 e) z at time s; g = -eps / sigma_s, e = 2 (snr |z| / |g|)^2.

    It leaves q(x_s) as it is: put it behind a predictor, `Chain((DDPM(schedule), LangevinCorrector(schedule)))`. The
    norms are each example's own (the paper's code averages them over the batch). At sigma = 0 it does nothing.

    Attributes:
      schedule: gives sigma.
      snr: the signal-to-noise ratio r of a step, 0.16 in the paper for VE and VP.
      steps_per_level: how many.
      noise: what is drawn, `(key, shape) -> noise`.

    Raises:
      InputError: a negative snr, or no steps.

    >>> from jaxdiff.schedules import VE
    >>> LangevinCorrector(VE()).steps_per_level
    1

    Source: Song et al. 2021 (arXiv 2011.13456), Algorithms 4 and 5 (without the factor 1 - beta of the latter).
    """

    schedule: Schedule = dataclasses.field(metadata={"static": True})
    snr: Array | float = 0.16
    steps_per_level: int = dataclasses.field(default=1, metadata={"static": True})
    noise: Noise = dataclasses.field(default=white_noise, metadata={"static": True})

    def __post_init__(self) -> None:
        check_number("snr", self.snr, 0)
        check_number("steps_per_level", self.steps_per_level, 1)

    def init(self, x: Array) -> State:
        return State(x)

    def step(
        self, key: Array, state: State, t: Array, s: Array, denoise: Denoiser, *, temperature: Array | float = 1.0
    ) -> State:
        x, sigma = state.x, self.schedule.sigma(s)
        skip = sigma == 0
        idle = Prediction(x, jnp.zeros_like(x))

        def size(eps: Array, z: Array) -> Array:
            ratio = _squared_norm(z) / jnp.where(skip, 1, jnp.maximum(_squared_norm(eps), 1e-12))
            return jnp.where(skip, 0, 2 * jnp.square(self.snr * sigma) * ratio.astype(sigma.dtype))

        def predict(x: Array) -> Array:
            return denoise_unless(skip, denoise, x, s, idle._replace(x0=x)).eps

        return State(
            walk(key, x, jnp.where(skip, 1, sigma), predict, size, self.steps_per_level, temperature, self.noise)
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AnnealedLangevin:
    """At each level s: `steps_per_level` times x <- x + (e / 2) g + sqrt(e) z, with e = step_size sigma_s^2.

    There is no predictor: x goes from one level to the next as it is, so take many levels. A step that ends at
    sigma = 0 returns x0, the last denoising of Jolicoeur-Martineau et al. 2021 (arXiv 2009.05475).

    Attributes:
      schedule: gives sigma.
      step_size: in units of sigma^2; NCSN's epsilon / sigma_L^2 = 2e-5 / 0.01^2.
      steps_per_level: NCSN's T.
      noise: what is drawn, `(key, shape) -> noise`.

    Raises:
      InputError: a negative step size, or no steps.

    >>> from jaxdiff.schedules import VE
    >>> AnnealedLangevin(VE()).step_size
    0.2

    Source: Song & Ermon 2019 (arXiv 1907.05600), Algorithm 1.
    """

    schedule: Schedule = dataclasses.field(metadata={"static": True})
    step_size: Array | float = 0.2
    steps_per_level: int = dataclasses.field(default=100, metadata={"static": True})
    noise: Noise = dataclasses.field(default=white_noise, metadata={"static": True})

    def __post_init__(self) -> None:
        check_number("step_size", self.step_size, 0)
        check_number("steps_per_level", self.steps_per_level, 1)

    def init(self, x: Array) -> State:
        return State(x)

    def step(
        self, key: Array, state: State, t: Array, s: Array, denoise: Denoiser, *, temperature: Array | float = 1.0
    ) -> State:
        sigma = self.schedule.sigma(s)
        last = sigma == 0
        time = jnp.where(last, t, s)
        sigma = self.schedule.sigma(time)

        def size(eps: Array, z: Array) -> Array:
            return 0.5 * self.step_size * jnp.square(sigma)

        def predict(x: Array) -> Array:
            return denoise(x, time).eps

        x = walk(key, state.x, sigma, predict, size, self.steps_per_level, temperature, self.noise)
        data = denoise_unless(~last, denoise, x, time, Prediction(x, x)).x0
        return State(jnp.where(expand(last, x) > 0, data, x))


def walk(
    key: Array,
    x: Array,
    sigma: Array,
    predict: Callable[[Array], Array],
    size: Callable[[Array, Array], Array],
    steps: int,
    temperature: Array | float,
    noise: Noise,
) -> Array:
    """`steps` times `x <- x - e eps / sigma + temperature sqrt(2 e) z`, with `e = size(eps, z)`, a scalar or `[B]`."""
    keys = per_example(key, x.shape[0])

    def body(x: Array, i: Array) -> tuple[Array, None]:
        eps, z = predict(x), noise(fold_in(keys, i), x.shape).astype(x.dtype)
        e = size(eps, z)
        return x + expand(-e / sigma, x) * eps + expand(temperature * safe_sqrt(2 * e), x) * z, None

    return jax.lax.scan(body, x, jnp.arange(steps))[0]


def _squared_norm(x: Array) -> Array:
    return jnp.sum(jnp.square(as_float(x)), axis=range(1, x.ndim))
