"""What the exponential integrators in log-SNR share (`dpm_solver`, `unipc`).

With `lambda = log(alpha / sigma)`, h = lambda_s - lambda_t and x0 as a function m of lambda, exactly,

    x_s = sigma_s / sigma_t e^{-eta h} x_t + alpha_s int (1 + eta) e^{-(1 + eta)(lambda_s - lambda)} m(lambda) dlambda
          + sigma_s sqrt(1 - e^{-2 eta h}) z

over [lambda_t, lambda_s]; eta = 0 is the ODE, eta = 1 the reverse SDE. A solver puts a polynomial for m. The equation
for eps is the same one with alpha and sigma exchanged and lambda negated. A step that starts at alpha = 0 or ends at
sigma = 0, where h is infinite, is of first order.

Source: Lu et al. 2022 (arXiv 2206.00927), section 3; (arXiv 2211.01095), sections 4 and 5; eta: Xue et al. 2023 (arXiv
2309.05019), its tau^2.
"""

import math
from typing import Literal, NamedTuple

import jax.numpy as jnp

from jaxdiff.samplers.base import at_an_end
from jaxdiff.schedules import expand, half_log_snr
from jaxdiff.typing import Array, Schedule

Predict = Literal["x0", "eps"]


class Frame(NamedTuple):
    """A time in the solver's eyes: alpha, sigma and lambda, with the first two exchanged if eps is what it follows."""

    alpha: Array
    sigma: Array
    clock: Array


def frame(t: Array, *, schedule: Schedule, predict: Predict) -> Frame:
    """The `Frame` of time t."""
    alpha, sigma, clock = schedule.alpha(t), schedule.sigma(t), half_log_snr(t, schedule=schedule)
    return Frame(alpha, sigma, clock) if predict == "x0" else Frame(sigma, alpha, -clock)


def span(
    t: Array, s: Array, *, schedule: Schedule, predict: Predict, unused: Array | bool = False
) -> tuple[Frame, Frame, Array, Array]:
    """The frames of t and s, h, and whether the step is at an end (or its result unused).

    There h = 1 and sigma = 1 stand for what is infinite or zero, so that what is not used has finite gradients too.
    """
    here, there = (frame(time, schedule=schedule, predict=predict) for time in (t, s))
    end = at_an_end(t, s, schedule=schedule) | unused
    h = jnp.where(end, 1, there.clock - here.clock)
    sigma = jnp.where(end, 1, here.sigma)
    return here._replace(sigma=sigma), there._replace(clock=here.clock + h), h, end


def phi(H: Array, count: int) -> list[Array]:
    """The integrals of `H e^{-H (1 - u)} u^k / k!` over u in [0, 1], the weights of m and of its derivatives.

        phi_0 = 1 - e^{-H},        phi_k = 1 / k! - phi_{k-1} / H

    >>> [round(float(p), 6) for p in phi(jnp.float32(50.0), 3)]  # all weight at the end, u = 1, but for 1 / H
    [1.0, 0.98, 0.4804]
    """
    small = jnp.abs(H) < 1  # where the recursion would cancel, the series does
    safe = jnp.where(small, 1, H)
    # sum over j of H (-H)^j / (j + k + 1)!, by Horner's rule for all k at once
    inverse = [[1 / math.factorial(j + k + 1) for k in range(count)] for j in range(16)]
    near = jnp.zeros((*jnp.shape(H), count), jnp.result_type(H))
    for row in reversed(inverse):
        near = jnp.asarray(row, near.dtype).reshape((1,) * jnp.ndim(H) + (-1,)) - H[..., None] * near
    series = H[..., None] * near
    weights = [-jnp.expm1(-safe)]
    for k in range(1, count):
        weights.append(1 / math.factorial(k) - weights[-1] / safe)
    return [jnp.where(small, series[..., k], weight) for k, weight in enumerate(weights)]


def linear_step(x: Array, t: Frame, s: Frame, m: Array, *, eta: Array | float = 0.0) -> Array:
    """The step for a constant m: `(sigma_s / sigma_t) e^{-eta h} x + alpha_s (1 - e^{-(1 + eta) h}) m`."""
    h = s.clock - t.clock
    return expand(s.sigma / t.sigma * jnp.exp(-eta * h), x) * x + expand(-s.alpha * jnp.expm1(-(1 + eta) * h), m) * m
