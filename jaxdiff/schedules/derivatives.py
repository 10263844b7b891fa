"""The SDE of a schedule, `dx = f(t) x dt + g(t) dW`, and the slopes of alpha and sigma.

The marginal of the SDE must be x_t = alpha x_0 + sigma eps. Its mean obeys m' = f m, its variance v' = 2 f v + g^2, so

    f = alpha' / alpha = d log alpha / dt,        g^2 = d sigma^2 / dt - 2 f sigma^2

By autodiff, or by the schedule's own method of the same name. Of a `Discrete` table log alpha is linear between the
knots: its slopes jump there, and at a knot they are those of the step that follows (at t = 1, of the last).
"""

import jax.numpy as jnp

from jaxdiff.schedules.base import as_float, derivative, safe_sqrt
from jaxdiff.typing import Array, Schedule


def d_alpha(t: Array, *, schedule: Schedule) -> Array:
    """`d alpha / dt`, the shape of t.

    >>> from jaxdiff.schedules import Flow
    >>> float(d_alpha(jnp.float32(1.0), schedule=Flow()))
    -1.0
    """
    return jnp.asarray(getattr(schedule, "d_alpha", lambda t: derivative(schedule.alpha, t))(as_float(t)))


def d_sigma(t: Array, *, schedule: Schedule) -> Array:
    """`d sigma / dt`, the shape of t. At t = 0 of a variance-preserving schedule it is +inf: sigma grows as sqrt(t).

    >>> from jaxdiff.schedules import Flow, VP
    >>> float(d_sigma(jnp.float32(0.0), schedule=Flow())), float(d_sigma(jnp.float32(0.0), schedule=VP()))
    (1.0, inf)
    """
    return jnp.asarray(getattr(schedule, "d_sigma", lambda t: derivative(schedule.sigma, t))(as_float(t)))


def drift(t: Array, *, schedule: Schedule) -> Array:
    """`f(t) = d log alpha / dt` of `dx = f x dt + g dW`, the shape of t; -inf where alpha is 0.

    >>> from jaxdiff.schedules import VP
    >>> round(float(drift(jnp.float32(0.0), schedule=VP(beta_min=0.1))), 6)  # -beta(t) / 2
    -0.05

    Source: Song et al. 2021 (arXiv 2011.13456), section 3.4; from alpha and sigma Kingma et al. 2021
    (arXiv 2107.00630).
    """

    def f(t: Array) -> Array:
        return d_alpha(t, schedule=schedule) / schedule.alpha(t)

    return jnp.asarray(getattr(schedule, "drift", f)(as_float(t)))


def diffusion(t: Array, *, schedule: Schedule) -> Array:
    """`g(t) = sqrt(d sigma^2 / dt - 2 f sigma^2)` of `dx = f x dt + g dW`, the shape of t; +inf where alpha is 0.

    >>> from jaxdiff.schedules import VP
    >>> round(float(diffusion(jnp.float32(1.0), schedule=VP(beta_max=16.0))), 6)  # sqrt(beta(t))
    4.0

    Source: as `drift`.
    """

    def g(t: Array) -> Array:
        sigma = schedule.sigma(t)
        return safe_sqrt(2 * sigma * (d_sigma(t, schedule=schedule) - drift(t, schedule=schedule) * sigma))

    return jnp.asarray(getattr(schedule, "diffusion", g)(as_float(t)))


class VariancePreserving:
    """What follows from `alpha^2 + sigma^2 = 1` without the 0 * inf of sigma sigma' at t = 0; schedules inherit it."""

    def d_sigma(self: Schedule, t: Array) -> Array:
        """`-alpha alpha' / sigma`."""
        return -self.alpha(t) * d_alpha(t, schedule=self) / self.sigma(t)

    def diffusion(self: Schedule, t: Array) -> Array:
        """`g^2 = -2 f`, because 2 sigma sigma' = -2 alpha alpha' = -2 f alpha^2."""
        return jnp.sqrt(-2 * drift(t, schedule=self))
