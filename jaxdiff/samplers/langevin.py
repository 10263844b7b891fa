"""Langevin dynamics at one noise level: a corrector of other samplers' steps, and a sampler of its own."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxdiff.noise import fold_in, per_example, white_noise
from jaxdiff.samplers.base import OneStep, State, check_number, denoise_unless
from jaxdiff.samplers.chain import Chain
from jaxdiff.schedules import check_whole, expand
from jaxdiff.typing import Array, Denoiser, Noise, Prediction, Schedule


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LangevinCorrector(OneStep):
    """`steps_per_level` times x <- x - (e / sigma_s) eps + sqrt(2 e) z at time s, with e = 2 (snr sigma_s)^2.

    For small steps it leaves q(x_s) as it is: put it behind a predictor, `Chain((DDPM(schedule),
    LangevinCorrector(schedule)))`. At sigma = 0 it does nothing.

    The paper takes e = 2 (snr |z| / |g|)^2, with the norms averaged over the batch. |z| / |g| is sigma_s where the
    prediction is the noise itself; that is put in its place, as with an example's own norms the step would depend on
    its noise and on x, and no longer leave q(x_s) as it is in few dimensions.

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

    snr: Array | float = 0.16
    steps_per_level: int = dataclasses.field(default=1, metadata={"static": True})
    noise: Noise = dataclasses.field(default=white_noise, metadata={"static": True})

    def __post_init__(self) -> None:
        check_number("snr", self.snr, 0)
        check_whole("steps_per_level", self.steps_per_level)

    def step(
        self, key: Array, state: State, t: Array, s: Array, denoise: Denoiser, *, temperature: Array | float = 1.0
    ) -> State:
        sigma, keys = self.schedule.sigma(s), per_example(key, state.x.shape[0])
        drift, std = -2 * jnp.square(self.snr) * sigma, 2 * self.snr * sigma

        def body(x: Array, i: Array) -> tuple[Array, None]:
            eps = denoise_unless(sigma == 0, denoise, x, s, Prediction(x, jnp.zeros_like(x))).eps
            z = self.noise(fold_in(keys, i), x.shape).astype(x.dtype)
            return x + expand(drift, x) * eps + expand(temperature * std, x) * z, None

        return State(jax.lax.scan(body, state.x, jnp.arange(self.steps_per_level))[0])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LastDenoising(OneStep):
    """In a step that ends at sigma = 0 the prediction x0, with x taken to be still at t; else nothing.

    Attributes:
      schedule: gives sigma.

    >>> from jaxdiff.schedules import VP
    >>> LastDenoising(VP()).init(jnp.zeros((1, 2))).x.shape
    (1, 2)

    Source: Jolicoeur-Martineau et al. 2021 (arXiv 2009.05475), section 3.1.
    """

    def step(
        self, key: Array, state: State, t: Array, s: Array, denoise: Denoiser, *, temperature: Array | float = 1.0
    ) -> State:
        x = state.x
        return State(denoise_unless(self.schedule.sigma(s) > 0, denoise, x, t, Prediction(x, jnp.zeros_like(x))).x0)


def AnnealedLangevin(schedule: Schedule, *, step_size: Array | float = 0.2, steps_per_level: int = 100) -> Chain:
    """At each noise level s: `steps_per_level` times x <- x + (a / 2) g + sqrt(a) z, with a = step_size sigma_s^2.

    That is `LangevinCorrector` with snr = sqrt(step_size) / 2, without a predictor: x goes from one level to the next
    as it is, so take many levels. A step that ends at sigma = 0 is `LastDenoising`.

    Args:
      schedule: gives sigma.
      step_size: in units of sigma^2; NCSN's epsilon / sigma_L^2 = 2e-5 / 0.01^2.
      steps_per_level: NCSN's T.

    Raises:
      InputError: a negative step size, or no steps.

    >>> from jaxdiff.schedules import VE
    >>> round(float(AnnealedLangevin(VE()).samplers[0].snr), 4)
    0.2236

    Source: Song & Ermon 2019 (arXiv 1907.05600), Algorithm 1.
    """
    check_number("step_size", step_size, 0)
    return Chain((LangevinCorrector(schedule, step_size**0.5 / 2, steps_per_level), LastDenoising(schedule)))
