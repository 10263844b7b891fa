"""Ancestral sampling: draw x_s from q(x_s | x_t, x_0) with the predicted x_0."""

import dataclasses
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from jaxdiff.noise import white_noise
from jaxdiff.process import q_posterior, transition
from jaxdiff.samplers.base import State
from jaxdiff.schedules import expand
from jaxdiff.typing import Array, Denoiser, InputError, Noise, Prediction, Schedule

Variance = Literal["fixed_small", "fixed_large", "learned", "learned_range"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DDPM:
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

    schedule: Schedule = dataclasses.field(metadata={"static": True})
    variance: Variance = dataclasses.field(default="fixed_small", metadata={"static": True})
    noise: Noise = dataclasses.field(default=white_noise, metadata={"static": True})

    def __post_init__(self) -> None:
        if self.variance not in get_args(Variance):
            expected = ", ".join(get_args(Variance))
            raise InputError(f"unknown variance {self.variance!r}; expected one of {expected}")

    def init(self, x: Array) -> State:
        return State(x)

    def step(
        self, key: Array, state: State, t: Array, s: Array, denoise: Denoiser, *, temperature: Array | float = 1.0
    ) -> State:
        prediction = denoise(state.x, t)
        mean, small = q_posterior(state.x, prediction.x0, s, t, schedule=self.schedule)
        _, large = transition(s, t, schedule=self.schedule)
        std = jnp.sqrt(self._variance(prediction, small, expand(large, state.x)))
        scale = expand(jnp.where(jnp.asarray(s) > 0, temperature, 0.0), state.x)
        return State(mean + scale * std * self.noise(key, state.x.shape).astype(state.x.dtype))

    def _variance(self, prediction: Prediction, small: Array, large: Array) -> Array:
        if self.variance == "fixed_small":
            return small
        if self.variance == "fixed_large":
            return large
        if prediction.log_var is None:
            raise InputError(f"variance {self.variance!r} needs a denoiser with log_var; this one predicts none")
        if self.variance == "learned":
            return jnp.exp(prediction.log_var)
        place = (prediction.log_var + 1) / 2
        tiny = jnp.finfo(small.dtype).tiny  # small is 0 in the last step, where no noise is added
        return jnp.exp(place * jnp.log(large) + (1 - place) * jnp.log(jnp.maximum(small, tiny)))
