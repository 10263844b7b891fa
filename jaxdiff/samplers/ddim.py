"""DDIM: from the deterministic probability-flow step (eta = 0) to the ancestral one (eta = 1)."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxdiff.noise import white_noise
from jaxdiff.process import transition
from jaxdiff.samplers.base import State
from jaxdiff.schedules import expand
from jaxdiff.typing import Array, Denoiser, Noise, Schedule


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DDIM:
    """`x_s = alpha_s x0 + sqrt(sigma_s^2 - std^2) eps + temperature std z`, `std = eta (sigma_s / sigma_t) sigma_ts`.

    With eta = 1 this is `DDPM(variance="fixed_small")` (on schedules with sigma(0) = 0; else this one adds noise in the
    last step too); with eta = 0 it injects nothing and is the first-order solver of the probability-flow ODE.

    Attributes:
      schedule: gives alpha and sigma.
      eta: the share of the posterior's standard deviation that is drawn afresh, in [0, 1]; a number or `[B]`.
      noise: what is drawn, `(key, shape) -> noise`.

    >>> from jaxdiff.schedules import linear
    >>> DDIM(linear(), eta=0.5).eta
    0.5

    Source: Song et al. 2021 (arXiv 2010.02502), eq. 12 and 16.
    """

    schedule: Schedule = dataclasses.field(metadata={"static": True})
    eta: Array | float = 0.0
    noise: Noise = dataclasses.field(default=white_noise, metadata={"static": True})

    def init(self, x: Array) -> State:
        return State(x)

    def step(
        self, key: Array, state: State, t: Array, s: Array, denoise: Denoiser, *, temperature: Array | float = 1.0
    ) -> State:
        x, prediction = state.x, denoise(state.x, t)
        sigma_s, sigma_t = self.schedule.sigma(s), self.schedule.sigma(t)
        _, var_ts = transition(s, t, schedule=self.schedule)
        std = self.eta * sigma_s / sigma_t * jnp.sqrt(var_ts)
        share = 1 - jnp.square(self.eta) * var_ts / sigma_t**2  # sigma_s^2 - std^2 is this share of sigma_s^2
        # The root of 0 (eta = 1 in the last step) would make the gradient NaN: it is not taken.
        kept = jnp.where(share > 0, sigma_s * jnp.sqrt(jnp.where(share > 0, share, 1)), 0)
        noise = self.noise(key, x.shape).astype(x.dtype)
        return State(
            expand(self.schedule.alpha(s), x) * prediction.x0
            + expand(kept, x) * prediction.eps
            + expand(temperature * std, x) * noise
        )
