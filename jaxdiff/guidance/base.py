"""What all guidance shares: scales, and a prediction moved by a score.

A denoiser's two halves tell the score of the density of x_t, `score = -eps / sigma`. Guidance replaces that density,
and as `x_t = alpha x0 + sigma eps` must go on to hold, adding a vector g to the score moves both halves:

    eps' = eps - sigma g,        x0' = x0 + (sigma^2 / alpha) g
"""

from collections.abc import Callable

import jax.numpy as jnp

from jaxdiff.schedules import expand
from jaxdiff.typing import Array, Prediction, Schedule

Scale = Array | float | Callable[[Array], Array]
"""How strong guidance is: a number, one per example `[B]`, or a function of time `t -> scalar or [B]` that gives it."""


def value_at(scale: Scale, t: Array) -> Array:
    """The scale at time t, a scalar or `[B]`."""
    return jnp.asarray(scale(t) if callable(scale) else scale)


def scale_at(scale: Scale, t: Array, x: Array) -> Array:
    """The scale at time t, shaped and cast to multiply `x`."""
    return expand(value_at(scale, t), x)


def interval(
    scale: Scale, *, low: Array | float, high: Array | float, schedule: Schedule, outside: Array | float = 1.0
) -> Scale:
    """Guide only in the middle of sampling: `scale` where sigma / alpha is in (low, high], `outside` elsewhere.

    A scale like any other: it goes into every guidance of this package. (It spares no call of the network: the halves
    are one batch, and times may differ by example.)

    Args:
      scale: inside the interval.
      low: a noise level sigma / alpha, the paper's sigma_lo; not negative.
      high: a noise level, sigma_hi; may be inf.
      schedule: gives alpha and sigma.
      outside: the scale that does nothing: 1 (conditional) for guidance from two predictions, 0 for gradients.

    Returns:
      a function of time.

    >>> from jaxdiff.schedules import Flow
    >>> scale = interval(2.5, low=0.5, high=3.0, schedule=Flow())
    >>> [float(scale(jnp.float32(t))) for t in (0.0, 0.25, 0.5, 0.75, 1.0)]
    [1.0, 1.0, 2.5, 2.5, 1.0]

    Source: Kynkaanniemi et al. 2024 (arXiv 2404.07724), section 3.
    """

    def at(t: Array) -> Array:
        level = schedule.sigma(t) / schedule.alpha(t)  # inf at pure noise
        return jnp.where((level > low) & (level <= high), value_at(scale, t), outside)

    return at


def add_score(prediction: Prediction, g: Array, t: Array, *, schedule: Schedule) -> Prediction:
    """Move the score of a prediction by g: `eps - sigma g` and `x0 + (sigma^2 / alpha) g`.

    At alpha = 0, where x_t says nothing of the data, x0 stays as it is.

    Args:
      prediction: of `x_t [B, ...]` at time t.
      g: the shape of `x_t`.
      t: times, scalar or `[B]`.
      schedule: gives alpha and sigma.

    >>> from jaxdiff.schedules import Flow
    >>> one = jnp.ones((1, 1))
    >>> p = add_score(Prediction(one, one), one, jnp.float32(0.5), schedule=Flow())
    >>> float(p.x0[0, 0]), float(p.eps[0, 0])
    (1.5, 0.5)
    """
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    signal = alpha > 0
    gain = jnp.where(signal, sigma**2 / jnp.where(signal, alpha, 1), 0)
    return prediction._replace(x0=prediction.x0 + expand(gain, g) * g, eps=prediction.eps - expand(sigma, g) * g)
