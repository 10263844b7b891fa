"""What a network predicts. Every kind is affine in data and noise, `y = a x_0 + b eps`; one table holds (a, b).

Together with `x_t = alpha x_0 + sigma eps` that is a 2x2 system with determinant `det = alpha b - sigma a`:

    x_0 = (b x_t - sigma y) / det,        eps = (alpha y - a x_t) / det

so one solve converts any kind to any other, and a squared error in kind j is `(det_j / det_i)^2` times that in kind i.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdiff.schedules import alpha_sigma, expand
from jaxdiff.typing import Array, InputError, Prediction, Schedule

Coefficients = tuple[Array, Array]


def _derivative(f: Callable[[Array], Array], t: Array) -> Array:
    _, derivative = jax.jvp(f, (t,), (jnp.ones_like(t),))
    return jnp.asarray(derivative)


def _eps(t: Array, schedule: Schedule) -> Coefficients:
    return jnp.zeros_like(t), jnp.ones_like(t)


def _x0(t: Array, schedule: Schedule) -> Coefficients:
    return jnp.ones_like(t), jnp.zeros_like(t)


def _v(t: Array, schedule: Schedule) -> Coefficients:
    return -schedule.sigma(t), schedule.alpha(t)


def _score(t: Array, schedule: Schedule) -> Coefficients:
    return jnp.zeros_like(t), -1 / schedule.sigma(t)


def _velocity(t: Array, schedule: Schedule) -> Coefficients:
    return _derivative(schedule.alpha, t), _derivative(schedule.sigma, t)


KINDS: dict[str, Callable[[Array, Schedule], Coefficients]] = {
    "eps": _eps,  # the noise (Ho et al. 2020, arXiv 2006.11239, eq. 14)
    "x0": _x0,  # the data
    "v": _v,  # alpha eps - sigma x0 (Salimans & Ho 2022, arXiv 2202.00512, section 4)
    "score": _score,  # grad log q(x_t | x_0) = -eps / sigma (Song et al. 2021, arXiv 2011.13456)
    "velocity": _velocity,  # dx_t/dt at fixed (x0, eps); eps - x0 on the Flow schedule (arXiv 2210.02747)
}


def coefficients(t: Array, *, kind: str, schedule: Schedule) -> Coefficients:
    """`(a, b)` of `y = a x_0 + b eps` at time t, the shape of t.

    Raises:
      InputError: an unknown kind.

    >>> from jaxdiff.schedules import Flow
    >>> a, b = coefficients(jnp.float32(0.3), kind="velocity", schedule=Flow())
    >>> float(a), float(b)
    (-1.0, 1.0)
    """
    if kind not in KINDS:
        raise InputError(f"unknown prediction kind {kind!r}; expected one of {', '.join(KINDS)}")
    t = jnp.asarray(t)
    return KINDS[kind](t, schedule)


def determinant(t: Array, *, kind: str, schedule: Schedule) -> Array:
    """`det = alpha b - sigma a`: how much of data and noise the kind tells apart at time t; 0 is nothing.

    >>> from jaxdiff.schedules import Flow
    >>> float(determinant(jnp.float32(1.0), kind="eps", schedule=Flow()))
    0.0
    """
    a, b = coefficients(t, kind=kind, schedule=schedule)
    return schedule.alpha(t) * b - schedule.sigma(t) * a


def target(x0: Array, eps: Array, t: Array, *, kind: str, schedule: Schedule) -> Array:
    """What a network of this kind should output: `y = a x_0 + b eps`.

    Args:
      x0: data `[B, ...]`.
      eps: the noise, the shape of `x0`.
      t: times, scalar or `[B]`.
      kind: a key of `KINDS`.
      schedule: gives alpha and sigma.

    >>> from jaxdiff.schedules import Flow
    >>> float(target(jnp.ones((1, 1)), jnp.zeros((1, 1)), jnp.float32(0.5), kind="v", schedule=Flow())[0, 0])
    -0.5
    """
    a, b = coefficients(t, kind=kind, schedule=schedule)
    return expand(a, x0) * x0 + expand(b, x0) * eps


def to_prediction(x_t: Array, y: Array, t: Array, *, kind: str, schedule: Schedule) -> Prediction:
    """A network's output `y` as `Prediction(x0, eps)`, by the 2x2 solve at the top of this file.

    Not finite where det = 0, that is, where y says nothing of one half: noise at alpha = 0 (eps and score on the Flow
    schedule at t = 1), data at sigma = 0.

    Args:
      x_t: the network's input `[B, ...]`.
      y: its output, the shape of `x_t`.
      t: times, scalar or `[B]`.
      kind: a key of `KINDS`.
      schedule: gives alpha and sigma.

    >>> from jaxdiff.schedules import Flow
    >>> p = to_prediction(jnp.full((1, 1), 0.5), jnp.full((1, 1), 2.0), jnp.float32(0.25), kind="eps", schedule=Flow())
    >>> float(p.x0[0, 0]), float(p.eps[0, 0])
    (0.0, 2.0)
    """
    a, b = coefficients(t, kind=kind, schedule=schedule)
    det = determinant(t, kind=kind, schedule=schedule)
    alpha, sigma = alpha_sigma(x_t, t, schedule=schedule)
    a, b, det = expand(a, x_t), expand(b, x_t), expand(det, x_t)
    return Prediction(x0=(b * x_t - sigma * y) / det, eps=(alpha * y - a * x_t) / det)


def from_prediction(prediction: Prediction, t: Array, *, kind: str, schedule: Schedule) -> Array:
    """The output of another kind that says the same: `y = a x_0 + b eps`. Inverse of `to_prediction`."""
    return target(prediction.x0, prediction.eps, t, kind=kind, schedule=schedule)


def kind_weight(t: Array, *, kind: str, as_kind: str, schedule: Schedule) -> Array:
    """The weight that turns a squared error in `kind` into the same squared error in `as_kind`:
    `|y_as - y_as'|^2 = weight |y - y'|^2` for the same x_t, with `weight = (det_as / det_kind)^2`.

    >>> from jaxdiff.schedules import Flow  # an error in x0 is alpha/sigma times smaller than one in eps
    >>> float(kind_weight(jnp.float32(0.5), kind="x0", as_kind="eps", schedule=Flow()))
    1.0

    Source: Salimans & Ho 2022 (arXiv 2202.00512), section 4, for eps, x0 and v.
    """
    ours, theirs = (determinant(t, kind=k, schedule=schedule) for k in (kind, as_kind))
    return (theirs / ours) ** 2
