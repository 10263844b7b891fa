"""One-step solvers of the probability-flow ODE with two calls: Heun and the midpoint rule.

Divided by `scale = alpha + w sigma`, with the clock `c = sigma / scale`, every Gaussian path is straight:

    x_t / scale = x0 + c (eps - w x0),        d(x_t / scale) / dc = eps - w x0 =: slope

so the ODE has no linear term and a constant slope on data at a point. w = 0 is the form of EDM and k-diffusion, whose
clock is sigma / alpha; w = 1 that of flow matching, whose clock stays below 1. A schedule that ends with next to no
signal (flow, zero terminal SNR, cosine with its sigma / alpha of 20,000) gets w = 1: in the first form its first steps
would be all error, and in float32 rounding too. The first-order step is `alpha_s x0 + sigma_s eps` for every w; a
solver adds to it its correction of the slope.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxdiff import ode
from jaxdiff.samplers.base import OneStep, State, at_an_end, denoise_unless, euler_step
from jaxdiff.schedules import as_float, expand, half_log_snr, time_at_log_snr
from jaxdiff.typing import Array, Denoiser, Prediction, Schedule


def straight_weight(schedule: Schedule) -> Array:
    """w: 0, or 1 for a schedule that ends with next to no signal, alpha(1) < sigma(1) / 1000."""
    end = jnp.ones((), jnp.float32)
    return jnp.where(schedule.alpha(end) < schedule.sigma(end) / 1000, 1.0, 0.0)


def slope(prediction: Prediction, *, schedule: Schedule) -> Array:
    """`eps - w x0`, the derivative of `x_t / scale` by the clock."""
    return prediction.eps - straight_weight(schedule).astype(prediction.x0.dtype) * prediction.x0


def scale_clock(t: Array, *, schedule: Schedule) -> tuple[Array, Array]:
    """`alpha + w sigma` and `sigma / (alpha + w sigma)`, in the shape of t."""
    return ode.scale_clock(t, schedule=schedule, w=straight_weight(schedule).astype(as_float(t).dtype))


def corrected(first: Prediction, change: Array, weight: Array | float, t: Array, s: Array, schedule: Schedule) -> Array:
    """The first-order step from t to s, plus `weight * scale_s (c_s - c_t) * change` for a slope that changes."""
    scale, clock = scale_clock(s, schedule=schedule)
    reach = scale * (clock - scale_clock(t, schedule=schedule)[1])
    return euler_step(first, s, schedule=schedule) + expand(weight * reach, change) * change


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Heun(OneStep):
    """The trapezoidal rule: an Euler step to s, then the mean of the slopes at both ends; order 2, two calls.

        x_s = scale_s (x_t / scale_t + (c_s - c_t) (slope_t + slope'_s) / 2)

    A step that ends at sigma = 0 is Euler's, with one call.

    Attributes:
      schedule: gives alpha and sigma.

    >>> from jaxdiff.schedules import EDM
    >>> Heun(EDM()).schedule.sigma_max
    80.0

    Source: Karras et al. 2022 (arXiv 2206.00364), Algorithm 1.
    """

    def step(
        self, key: Array, state: State, t: Array, s: Array, denoise: Denoiser, *, temperature: Array | float = 1.0
    ) -> State:
        first = denoise(state.x, t)
        there = euler_step(first, s, schedule=self.schedule)
        second = denoise_unless(self.schedule.sigma(s) == 0, denoise, there, s, first)
        change = slope(second, schedule=self.schedule) - slope(first, schedule=self.schedule)
        return State(corrected(first, change, 0.5, t, s, self.schedule))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DPM2(OneStep):
    """The midpoint rule, with the middle in log-SNR: the slope there carries x from t to s; order 2, two calls.

    A step that starts at alpha = 0 or ends at sigma = 0, where log-SNR has no middle, is Euler's, with one call.

    Attributes:
      schedule: gives alpha and sigma.

    >>> from jaxdiff.schedules import VP
    >>> DPM2(VP()).init(jnp.zeros((1, 2))).x.shape
    (1, 2)

    Source: Karras et al. 2022 (arXiv 2206.00364), appendix D.2 (alpha = 1/2), with the middle of Lu et al. 2022
    (arXiv 2206.00927), as in k-diffusion.
    """

    def step(
        self, key: Array, state: State, t: Array, s: Array, denoise: Denoiser, *, temperature: Array | float = 1.0
    ) -> State:
        end = at_an_end(t, s, schedule=self.schedule)
        first = denoise(state.x, t)
        log_snr = half_log_snr(t, schedule=self.schedule) + half_log_snr(s, schedule=self.schedule)
        middle = jnp.where(end, t, time_at_log_snr(log_snr, schedule=self.schedule))
        there = euler_step(first, middle, schedule=self.schedule)
        second = denoise_unless(end, denoise, there, middle, first)
        change = slope(second, schedule=self.schedule) - slope(first, schedule=self.schedule)
        return State(corrected(first, change, 1.0, t, s, self.schedule))
