"""Schedules in closed form, in continuous time."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from jaxdiff.schedules.base import as_float, require, safe_sqrt
from jaxdiff.schedules.derivatives import VariancePreserving
from jaxdiff.typing import Array


@dataclasses.dataclass(frozen=True)
class _LinearBeta:
    """`alpha = exp(-h / 2)` with `h(t)` the integral of beta(t) = beta_min + t (beta_max - beta_min) from 0 to t."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        ok = 0 < self.beta_min <= self.beta_max
        name = type(self).__name__
        require(ok, f"{name}: expected 0 < beta_min <= beta_max, got {self.beta_min} and {self.beta_max}")

    def _h(self, t: Array | float) -> Array:
        t = as_float(t)
        return 0.5 * t**2 * (self.beta_max - self.beta_min) + t * self.beta_min

    def _time_at_h(self, h: Array) -> Array:
        # The root of h(t) = h, in the form that does not cancel.
        return 2 * h / (self.beta_min + jnp.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * h))

    def alpha(self, t: Array) -> Array:
        return jnp.exp(-0.5 * self._h(t))

    def drift(self, t: Array) -> Array:
        """`-beta(t) / 2`."""
        return -0.5 * (self.beta_min + as_float(t) * (self.beta_max - self.beta_min))


@dataclasses.dataclass(frozen=True)
class VP(VariancePreserving, _LinearBeta):
    """The variance-preserving SDE `dx = -beta(t)/2 x dt + sqrt(beta(t)) dW` with beta(t) linear in t.

        log alpha(t) = -t^2 (beta_max - beta_min) / 4 - t beta_min / 2,    sigma = sqrt(1 - alpha^2)

    It is the limit of `linear(T, beta_start=beta_min / T, beta_end=beta_max / T)` for T -> infinity; `linear(1000)` has
    the default values.

    >>> round(float(VP().sigma(1.0)), 4)
    1.0

    Source: Song et al. 2021 (arXiv 2011.13456), eq. 32-33.
    """

    def sigma(self, t: Array) -> Array:
        return safe_sqrt(-jnp.expm1(-self._h(t)))

    def time_at_log_snr(self, value: Array) -> Array:
        return self._time_at_h(jax.nn.softplus(-value))  # alpha^2 = exp(-h) = sigmoid(value)


@dataclasses.dataclass(frozen=True)
class SubVP(_LinearBeta):
    """The sub-VP SDE: the alpha of `VP` with less noise, `sigma = 1 - alpha^2`, that is,
    `dx = -beta(t)/2 x dt + sqrt(beta(t) (1 - alpha(t)^4)) dW`.

    >>> round(float(SubVP().alpha(0.5)) ** 2 + float(SubVP().sigma(0.5)), 6)
    1.0

    Source: Song et al. 2021 (arXiv 2011.13456), eq. 12 and 29.
    """

    def sigma(self, t: Array) -> Array:
        return -jnp.expm1(-self._h(t))

    def time_at_log_snr(self, value: Array) -> Array:
        # alpha / sigma = 1 / (exp(h/2) - exp(-h/2)) = 1 / (2 sinh(h/2)); the bound keeps float32 from inf
        return self._time_at_h(2 * jnp.arcsinh(0.5 * jnp.exp(-0.5 * jnp.clip(value, -160, None))))


@dataclasses.dataclass(frozen=True)
class VE:
    """The variance-exploding SDE: `alpha = 1`, `sigma(t) = sigma_min (sigma_max / sigma_min)^t`.

    sigma(0) = sigma_min, not 0: what is sampled at t = 0 is data with noise of that size, too small to see.

    >>> float(VE(sigma_min=0.01, sigma_max=100.0).sigma(0.5))
    1.0

    Source: Song et al. 2021 (arXiv 2011.13456), eq. 30-31.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        ok = 0 < self.sigma_min < self.sigma_max
        require(ok, f"VE: expected 0 < sigma_min < sigma_max, got {self.sigma_min} and {self.sigma_max}")

    def alpha(self, t: Array) -> Array:
        return jnp.ones_like(as_float(t))

    def sigma(self, t: Array) -> Array:
        t = as_float(t)
        return jnp.exp((1 - t) * math.log(self.sigma_min) + t * math.log(self.sigma_max))

    def time_at_log_snr(self, value: Array) -> Array:
        return (-0.5 * value - math.log(self.sigma_min)) / math.log(self.sigma_max / self.sigma_min)


@dataclasses.dataclass(frozen=True)
class EDM:
    """`alpha = 1`, `sigma(t) = sigma_max t`: the paper's sigma is our time, scaled to [0, 1].

    sigma(0) = 0 exactly. The paper's sigma_min = 0.002 is not the schedule's but the last noise level before 0 of the
    sampling grid (`timesteps.karras`); training draws sigma by `time_sampling.log_normal`.

    >>> float(EDM().sigma(0.5)), float(EDM().sigma(0.0))
    (40.0, 0.0)

    Source: Karras et al. 2022 (arXiv 2206.00364), table 1.
    """

    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        require(0 < self.sigma_max < math.inf, f"EDM: expected sigma_max > 0, got {self.sigma_max}")

    def alpha(self, t: Array) -> Array:
        return jnp.ones_like(as_float(t))

    def sigma(self, t: Array) -> Array:
        return self.sigma_max * as_float(t)

    def time_at_log_snr(self, value: Array) -> Array:
        return jnp.exp(-0.5 * value) / self.sigma_max


@dataclasses.dataclass(frozen=True)
class Flow:
    """The straight path of flow matching and rectified flow: `alpha = 1 - t`, `sigma = t`.

    >>> float(Flow().alpha(0.25)), float(Flow().sigma(0.25))
    (0.75, 0.25)

    Source: Lipman et al. 2023 (arXiv 2210.02747), eq. 22 with sigma_min = 0 and time reversed.
    """

    def alpha(self, t: Array) -> Array:
        return 1 - as_float(t)

    def sigma(self, t: Array) -> Array:
        return as_float(t)

    def time_at_log_snr(self, value: Array) -> Array:
        return jax.nn.sigmoid(-0.5 * value)
