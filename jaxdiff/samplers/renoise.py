"""Noise round any solver: `Ancestral` steps too far and renoises, `Churn` renoises and then steps further."""

import dataclasses
import inspect
import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.noise import white_noise
from jaxdiff.process import q_transition
from jaxdiff.samplers.base import State, check_number, draws_noise
from jaxdiff.samplers.runge_kutta import Heun
from jaxdiff.schedules import expand, half_log_snr, require, time_at_log_snr
from jaxdiff.typing import Array, Denoiser, HasX, Noise, Schedule


class _Round:
    """What both have in common: the inner sampler's schedule and state."""

    sampler: Any

    @property
    def schedule(self) -> Schedule:
        """The inner sampler's."""
        schedule: Schedule = self.sampler.schedule
        return schedule

    def init(self, x: Array) -> HasX:
        state: HasX = self.sampler.init(x)
        return state


def _check_inner(sampler: Any) -> None:
    if hasattr(sampler, "init"):  # not while JAX takes the tree apart
        fit = inspect.signature(sampler.init).return_annotation is State and not draws_noise(sampler)
        require(fit, f"{type(sampler).__name__} draws noise or has a history; expected DDIM, Heun, DPM2 or such")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Ancestral(_Round):
    """The inner sampler goes from t to an earlier `down` < s, and fresh noise brings x back up to s:

        std = eta sigma_s sqrt(1 - e^{-2 h}),        (sigma / alpha)_down^2 = (sigma_s^2 - std^2) / alpha_s^2

    with e^{-h} the quotient of sigma / alpha at s and t. Of `DDIM` this is DDIM with that eta ("Euler ancestral"), of
    `DPM2` k-diffusion's "DPM2 ancestral".

    Attributes:
      sampler: a deterministic one without history.
      eta: 0 to 1, the share of the posterior's standard deviation.
      noise: what is drawn, `(key, shape) -> noise`.

    Raises:
      InputError: eta outside [0, 1]; an inner sampler that draws noise or has a history.

    >>> from jaxdiff.samplers import DPM2
    >>> from jaxdiff.schedules import linear
    >>> Ancestral(DPM2(linear())).eta
    1.0

    Source: Song et al. 2021 (arXiv 2010.02502), eq. 16, for the standard deviation; k-diffusion for the idea.
    """

    sampler: Any
    eta: Array | float = 1.0
    noise: Noise = dataclasses.field(default=white_noise, metadata={"static": True})

    def __post_init__(self) -> None:
        check_number("eta", self.eta, 0, 1)
        _check_inner(self.sampler)

    def step(
        self, key: Array, state: Any, t: Array, s: Array, denoise: Denoiser, *, temperature: Array | float = 1.0
    ) -> Any:
        clock_t, clock_s = (half_log_snr(time, schedule=self.schedule) for time in (t, s))
        kept = 1 + jnp.square(self.eta) * jnp.expm1(2 * (clock_t - clock_s))
        some = (kept > 0) & (self.schedule.sigma(s) > 0)  # else down is the data itself
        clock = clock_s - 0.5 * jnp.log(jnp.where(some, kept, 1))
        earlier = time_at_log_snr(2 * clock, schedule=self.schedule)
        down = jnp.where(some, jnp.minimum(earlier, s), jnp.zeros_like(earlier))
        state = self.sampler.step(key, state, t, down, denoise, temperature=temperature)
        return state._replace(x=_renoise(key, state.x, down, s, temperature, self))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Churn(_Round):
    """Fresh noise takes x from t up to `(sigma / alpha)_up = (1 + gamma) (sigma / alpha)_t`, the inner sampler to s.

    Of `Heun` it is EDM's stochastic sampler.

    Noise beyond the schedule's own end is not added: at t = 1 there is no churn.

    Attributes:
      sampler: a deterministic one without history.
      gamma: EDM's gamma_i, `min(S_churn / number of steps, sqrt(2) - 1)`.
      S_min, S_max: the range of sigma / alpha in which noise is added.
      S_noise: the standard deviation of that noise.
      noise: what is drawn, `(key, shape) -> noise`.

    Raises:
      InputError: gamma or S_noise below 0; an inner sampler that draws noise or has a history.

    >>> from jaxdiff.schedules import linear
    >>> Churn(Heun(linear()), gamma=0.2).S_noise
    1.0

    Source: Karras et al. 2022 (arXiv 2206.00364), Algorithm 2.
    """

    sampler: Any
    gamma: Array | float = 0.0
    S_min: Array | float = 0.0
    S_max: Array | float = float("inf")
    S_noise: Array | float = 1.0
    noise: Noise = dataclasses.field(default=white_noise, metadata={"static": True})

    def __post_init__(self) -> None:
        check_number("gamma", self.gamma, 0)
        check_number("S_noise", self.S_noise, 0)
        _check_inner(self.sampler)

    def step(
        self, key: Array, state: Any, t: Array, s: Array, denoise: Denoiser, *, temperature: Array | float = 1.0
    ) -> Any:
        clock = half_log_snr(t, schedule=self.schedule)
        inside = (clock <= -jnp.log(self.S_min)) & (clock >= -jnp.log(self.S_max))
        gamma = jnp.where(inside, self.gamma, 0.0)
        later = time_at_log_snr(2 * (clock - jnp.log1p(gamma)), schedule=self.schedule)
        up = jnp.where(gamma > 0, jnp.maximum(later, t), t)
        state = state._replace(x=_renoise(key, state.x, t, up, temperature * self.S_noise, self))
        return self.sampler.step(key, state, up, s, denoise, temperature=temperature)


def _renoise(key: Array, x: Array, t: Array, later: Array, size: Array | float, sampler: Ancestral | Churn) -> Array:
    eps = sampler.noise(key, x.shape).astype(x.dtype)
    same = t == later  # no noise to add, and at alpha = 0 no transition either: not computed from there
    noisy = q_transition(
        x, jnp.where(same, 0, t), later, expand(jnp.asarray(size), eps) * eps, schedule=sampler.schedule
    )
    return jnp.where(expand(same, x) > 0, x, noisy)


def EDM(
    schedule: Schedule,
    *,
    steps: int,
    S_churn: float = 40.0,
    S_min: float = 0.05,
    S_max: float = 50.0,
    S_noise: float = 1.003,
) -> Churn:
    """EDM's stochastic sampler: `Churn` of `Heun` with `gamma = min(S_churn / steps, sqrt(2) - 1)`.

    Args:
      schedule: gives alpha and sigma.
      steps: of the grid (`timesteps.karras`).
      S_churn: the amount of noise; the defaults are the paper's for ImageNet-64.
      S_min: see `Churn`.
      S_max: see `Churn`.
      S_noise: see `Churn`.

    >>> from jaxdiff import schedules
    >>> round(EDM(schedules.EDM(), steps=256).gamma, 5)
    0.15625

    Source: Karras et al. 2022 (arXiv 2206.00364), Algorithm 2 and table 5.
    """
    check_number("steps", steps, 1)
    check_number("S_churn", S_churn, 0)
    return Churn(Heun(schedule), min(S_churn / steps, math.sqrt(2) - 1), S_min, S_max, S_noise)
