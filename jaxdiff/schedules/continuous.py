"""Schedules in closed form, in continuous time."""

import dataclasses
import math

import jax.numpy as jnp

from jaxdiff.schedules.base import as_time, require
from jaxdiff.typing import Array


@dataclasses.dataclass(frozen=True)
class VP:
    """The variance-preserving SDE `dx = -beta(t)/2 x dt + sqrt(beta(t)) dW` with beta(t) linear in t.

        log alpha(t) = -t^2 (beta_max - beta_min) / 4 - t beta_min / 2,    sigma = sqrt(1 - alpha^2)

    It is the limit of `linear(T, beta_start=beta_min / T, beta_end=beta_max / T)` for T -> infinity; `linear(1000)` has
    the default values.

    >>> round(float(VP().sigma(1.0)), 4)
    1.0

    Source: Song et al. 2021 (arXiv 2011.13456), eq. 32-33.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        ok = 0 <= self.beta_min <= self.beta_max and self.beta_max > 0
        require(ok, f"VP: expected 0 <= beta_min <= beta_max, beta_max > 0; got {self.beta_min} and {self.beta_max}")

    def _log_alpha(self, t: Array | float) -> Array:
        t = as_time(t)
        return -0.25 * t**2 * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min

    def alpha(self, t: Array) -> Array:
        return jnp.exp(self._log_alpha(t))

    def sigma(self, t: Array) -> Array:
        return jnp.sqrt(-jnp.expm1(2 * self._log_alpha(t)))


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
        return jnp.ones_like(as_time(t))

    def sigma(self, t: Array) -> Array:
        t = as_time(t)
        return jnp.exp((1 - t) * math.log(self.sigma_min) + t * math.log(self.sigma_max))


@dataclasses.dataclass(frozen=True)
class Flow:
    """The straight path of flow matching and rectified flow: `alpha = 1 - t`, `sigma = t`.

    >>> float(Flow().alpha(0.25)), float(Flow().sigma(0.25))
    (0.75, 0.25)

    Source: Lipman et al. 2023 (arXiv 2210.02747), eq. 22 with sigma_min = 0 and time reversed.
    """

    def alpha(self, t: Array) -> Array:
        return 1 - as_time(t)

    def sigma(self, t: Array) -> Array:
        return as_time(t)
