"""Ancestral sampling: draw x_s from q(x_s | x_t, x_0) with the predicted x_0."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxdiff.noise import white_noise
from jaxdiff.process import Variance, check_variance, q_posterior, reverse_log_var
from jaxdiff.samplers.base import OneStep, State
from jaxdiff.schedules import expand
from jaxdiff.typing import Array, Denoiser, Noise


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DDPM(OneStep):
    """`x_s = mean of q(x_s | x_t, x0) + temperature * std * z`, no noise in a step that ends at s = 0.

    Attributes:
      schedule: gives alpha and sigma.
      variance: what std^2 is:
        `fixed_small`: the posterior's, sigma_s^2 sigma_ts^2 / sigma_t^2 (beta-tilde), right for data at a point, and
          the better one in few steps;
        `fixed_large`: the transition's, sigma_ts^2 (beta), right for unit-variance data on a VP schedule; the paper's
          choice for its 1,000 steps;
        `learned`: exp(Prediction.log_var);
        `learned_range`: `Prediction.log_var` in [-1, 1] is the place between log small (-1) and log large (1).
      noise: what is drawn, `(key, shape) -> noise`.

    Raises:
      InputError: an unknown variance, or a learned one from a denoiser without `log_var`.

    >>> from jaxdiff.schedules import linear
    >>> DDPM(linear()).variance
    'fixed_small'

    Source: Ho et al. 2020 (arXiv 2006.11239), Algorithm 2 and section 3.2; learned_range: Nichol & Dhariwal 2021
    (arXiv 2102.09672), eq. 15.
    """

    variance: Variance = dataclasses.field(default="fixed_small", metadata={"static": True})
    noise: Noise = dataclasses.field(default=white_noise, metadata={"static": True})

    def __post_init__(self) -> None:
        check_variance(self.variance)

    def step(
        self, key: Array, state: State, t: Array, s: Array, denoise: Denoiser, *, temperature: Array | float = 1.0
    ) -> State:
        x, prediction = state.x, denoise(state.x, t)
        mean, _ = q_posterior(x, prediction.x0, s, t, schedule=self.schedule)
        log_var = reverse_log_var(prediction, s, t, schedule=self.schedule, variance=self.variance)
        std = jnp.exp(0.5 * log_var).astype(x.dtype)
        scale = expand(jnp.where(jnp.asarray(s) > 0, temperature, 0.0), x)
        return State(mean + scale * std * self.noise(key, x.shape).astype(x.dtype))
