"""Euler and Maruyama's step of the reverse SDE, in time."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxdiff.noise import white_noise
from jaxdiff.samplers.base import OneStep, State, check_number, euler_step
from jaxdiff.schedules import d_alpha, d_sigma, diffusion, expand, safe_sqrt
from jaxdiff.typing import Array, Denoiser, Noise


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EulerMaruyama(OneStep):
    """One step of the reverse SDE, from t to s with d = t - s:

        x_s = x_t - d (alpha' x0 + sigma' eps) - d eta^2 g^2 / (2 sigma) eps + eta g sqrt(d) z

    that is, the probability-flow velocity and eta^2 times Langevin's drift and noise; eta = 1 is the reverse SDE
    `dx = (f x - g^2 score) dt + g dW` itself. alpha', sigma', g and sigma are taken in the middle of the step, where
    they are finite on every schedule (g is not at t = 1 of Flow, sigma' is not at t = 0 of VP). The step to sigma = 0
    returns x0.

    Attributes:
      schedule: gives alpha and sigma.
      eta: the share of noise, from 0 (the ODE) on.
      noise: what is drawn, `(key, shape) -> noise`.

    Raises:
      InputError: a negative eta.

    >>> from jaxdiff.schedules import VP
    >>> EulerMaruyama(VP()).eta
    1.0

    Source: Song et al. 2021 (arXiv 2011.13456), eq. 6 and 13; eta: Karras et al. 2022 (arXiv 2206.00364), eq. 6.
    """

    eta: Array | float = 1.0
    noise: Noise = dataclasses.field(default=white_noise, metadata={"static": True})

    def __post_init__(self) -> None:
        check_number("eta", self.eta, 0)

    def step(
        self, key: Array, state: State, t: Array, s: Array, denoise: Denoiser, *, temperature: Array | float = 1.0
    ) -> State:
        x, prediction = state.x, denoise(state.x, t)
        middle, d = (t + s) / 2, t - s
        fresh = jnp.square(self.eta * diffusion(middle, schedule=self.schedule)) * d
        from_x0 = -d * d_alpha(middle, schedule=self.schedule)
        from_eps = -d * d_sigma(middle, schedule=self.schedule) - fresh / (2 * self.schedule.sigma(middle))
        last = self.schedule.sigma(s) == 0
        std = jnp.where(last, 0, temperature * safe_sqrt(fresh))
        moved = x + expand(from_x0, x) * prediction.x0 + expand(from_eps, x) * prediction.eps
        moved = jnp.where(expand(last, x) > 0, euler_step(prediction, s, schedule=self.schedule), moved)
        return State(moved + expand(std, x) * self.noise(key, x.shape).astype(x.dtype))
