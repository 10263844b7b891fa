"""What a network predicts. Every kind is affine in data and noise, `y = a x_0 + b eps`; one table holds (a, b).

Together with `x_t = alpha x_0 + sigma eps` that is a 2x2 system with determinant `det = alpha b - sigma a`:

    x_0 = (b x_t - sigma y) / det,        eps = (alpha y - a x_t) / det

so one solve converts any kind to any other. Two predictions at the same x_t differ, pixel by pixel, by one number d,

    x_0 by sigma d,    eps by -alpha d,    y by -det d

so a squared error in kind j is `(det_j / det_i)^2` times that in kind i, and every loss weight is a function on d^2.
"""

from collections.abc import Callable

import jax.numpy as jnp

from jaxdiff.process import transition
from jaxdiff.schedules import as_float, check_choice, d_alpha, d_sigma, expand
from jaxdiff.typing import Array, Prediction, Schedule

Coefficients = tuple[Array, Array]
Row = Callable[[Array, Schedule], Coefficients]
"""`(t, schedule) -> (a, b)`, the shape of t."""

Kind = str | Row
"""A name in `KINDS`, or a row that is not there, such as `edm_F(1.0)` or `previous_mean(1000)`."""


def _eps(t: Array, schedule: Schedule) -> Coefficients:
    return jnp.zeros_like(t), jnp.ones_like(t)


def _x0(t: Array, schedule: Schedule) -> Coefficients:
    return jnp.ones_like(t), jnp.zeros_like(t)


def _v(t: Array, schedule: Schedule) -> Coefficients:
    return -schedule.sigma(t), schedule.alpha(t)


def _score(t: Array, schedule: Schedule) -> Coefficients:
    return jnp.zeros_like(t), -1 / schedule.sigma(t)


def _velocity(t: Array, schedule: Schedule) -> Coefficients:
    return d_alpha(t, schedule=schedule), d_sigma(t, schedule=schedule)


def edm_F(sigma_data: float = 0.5) -> Row:
    """The kind of EDM's network F, on any schedule; `preconditioning.edm` scales its input to match.

        F = (x_0 - c_skip x_t / alpha) / c_out = (sigma / sigma_data x_0 - alpha sigma_data eps) / scale,
        scale = sqrt(alpha^2 sigma_data^2 + sigma^2)

    It has unit variance for data of standard deviation `sigma_data`, is finite at both ends, and with sigma_data = 1
    on a variance-preserving schedule it is -v.

    >>> from jaxdiff.schedules import Flow
    >>> a, b = edm_F(1.0)(jnp.float32(0.0), Flow())
    >>> float(a), float(b)
    (0.0, -1.0)

    Source: Karras et al. 2022 (arXiv 2206.00364), eq. 7-8 and table 1, for x_t / alpha with noise sigma / alpha.
    """

    def row(t: Array, schedule: Schedule) -> Coefficients:
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        scale = jnp.hypot(alpha * sigma_data, sigma)
        return sigma / (sigma_data * scale), -alpha * sigma_data / scale

    return row


def previous_mean(T: int) -> Row:
    """The kind of networks that predict the mean of q(x_s | x_t, x_0) of the step before, s = t - 1/T:

        y = (alpha_ts sigma_s^2 x_t + alpha_s sigma_ts^2 x_0) / sigma_t^2

    Args:
      T: the length of the table that the network was trained on.

    >>> from jaxdiff.schedules import from_betas
    >>> a, b = previous_mean(2)(jnp.float32(0.5), from_betas([0.1, 0.2]))  # the first step: the data itself
    >>> float(a), float(b)
    (1.0, 0.0)

    Source: Ho et al. 2020 (arXiv 2006.11239), eq. 7-8.
    """

    def row(t: Array, schedule: Schedule) -> Coefficients:
        s, sigma_t = jnp.maximum(t - 1 / T, 0), schedule.sigma(t)
        alpha_ts, var_ts = transition(s, t, schedule=schedule)
        of_x_t = alpha_ts * (schedule.sigma(s) / sigma_t) ** 2
        return of_x_t * schedule.alpha(t) + schedule.alpha(s) * var_ts / sigma_t**2, of_x_t * sigma_t

    return row


KINDS: dict[str, Row] = {
    "eps": _eps,  # the noise (Ho et al. 2020, arXiv 2006.11239, eq. 14)
    "x0": _x0,  # the data
    "v": _v,  # alpha eps - sigma x0 (Salimans & Ho 2022, arXiv 2202.00512, section 4)
    "score": _score,  # grad log q(x_t | x_0) = -eps / sigma (Song et al. 2021, arXiv 2011.13456)
    "velocity": _velocity,  # dx_t/dt at fixed (x0, eps); eps - x0 on the Flow schedule (arXiv 2210.02747)
    "F": edm_F(0.5),  # EDM's network, for data of standard deviation 0.5
}


def coefficients(t: Array, *, kind: Kind, schedule: Schedule) -> Coefficients:
    """`(a, b)` of `y = a x_0 + b eps` at time t, the shape of t.

    Raises:
      InputError: an unknown kind.

    >>> from jaxdiff.schedules import Flow
    >>> a, b = coefficients(jnp.float32(0.3), kind="velocity", schedule=Flow())
    >>> float(a), float(b)
    (-1.0, 1.0)
    """
    if isinstance(kind, str):
        check_choice("prediction kind", kind, KINDS)
    row = KINDS[kind] if isinstance(kind, str) else kind
    return row(as_float(t), schedule)


def determinant(t: Array, *, kind: Kind, schedule: Schedule) -> Array:
    """`det = alpha b - sigma a`: how much of data and noise the kind tells apart at time t; 0 is nothing.

    >>> from jaxdiff.schedules import Flow
    >>> float(determinant(jnp.float32(1.0), kind="eps", schedule=Flow()))
    0.0
    """
    a, b = coefficients(t, kind=kind, schedule=schedule)
    return schedule.alpha(t) * b - schedule.sigma(t) * a


def target(x0: Array, eps: Array, t: Array, *, kind: Kind, schedule: Schedule) -> Array:
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


def to_prediction(x_t: Array, y: Array, t: Array, *, kind: Kind, schedule: Schedule) -> Prediction:
    """A network's output `y` as `Prediction(x0, eps)`, by the 2x2 solve at the top of this file.

    At sigma = 0 x_t is the data and the best guess of the noise is its mean: a kind that says nothing of the noise
    there gives `x0 = x_t / alpha, eps = 0`. At alpha = 0 a kind that says nothing of the data (eps and score, on the
    Flow schedule at t = 1) has no answer, and the result is not finite.

    Args:
      x_t: the network's input `[B, ...]`.
      y: its output, the shape of `x_t`.
      t: times, scalar or `[B]`.
      kind: a key of `KINDS`, or a row.
      schedule: gives alpha and sigma.

    >>> from jaxdiff.schedules import Flow
    >>> p = to_prediction(jnp.full((1, 1), 0.5), jnp.full((1, 1), 2.0), jnp.float32(0.25), kind="eps", schedule=Flow())
    >>> float(p.x0[0, 0]), float(p.eps[0, 0])
    (0.0, 2.0)
    """
    t = as_float(t)
    size = jnp.abs(determinant(t, kind=kind, schedule=schedule))
    silent = (schedule.sigma(t) == 0) & ~((size > 0) & (size < jnp.inf))  # of the noise, at sigma = 0
    elsewhere = jnp.where(silent, 0.5, t)  # so that no coefficient, nor its gradient, is NaN
    a, b = coefficients(elsewhere, kind=kind, schedule=schedule)
    det = determinant(elsewhere, kind=kind, schedule=schedule)
    alpha, sigma, y = schedule.alpha(t), schedule.sigma(t), y.astype(x_t.dtype)  # the model may compute in another
    x0_of_x, x0_of_y = jnp.where(silent, 1 / jnp.where(silent, alpha, 1), b / det), jnp.where(silent, 0, -sigma / det)
    eps_of_x, eps_of_y = jnp.where(silent, 0, -a / det), jnp.where(silent, 0, alpha / det)
    return Prediction(
        x0=expand(x0_of_x, x_t) * x_t + expand(x0_of_y, x_t) * y,
        eps=expand(eps_of_x, x_t) * x_t + expand(eps_of_y, x_t) * y,
    )


def from_prediction(prediction: Prediction, t: Array, *, kind: Kind, schedule: Schedule) -> Array:
    """The output of another kind that says the same: `y = a x_0 + b eps`. Inverse of `to_prediction`.

    Args:
      prediction: x0 and eps, `[B, ...]`.
      t: times, scalar or `[B]`.
      kind: of the output.
      schedule: gives alpha and sigma.

    >>> from jaxdiff.schedules import Flow
    >>> said = Prediction(x0=jnp.full((1, 1), 2.0), eps=jnp.full((1, 1), 5.0))
    >>> float(from_prediction(said, jnp.float32(0.5), kind="velocity", schedule=Flow())[0, 0])
    3.0
    """
    return target(prediction.x0, prediction.eps, t, kind=kind, schedule=schedule)


def error_weight(size: Array, t: Array, *, kind: Kind, schedule: Schedule) -> Array:
    """The weight on a squared error in `kind` that makes it `size^2 d^2`, whatever the kind: `(size / det)^2`.

    With d as at the top of this file: `size = sigma` counts the error in x0, `size = alpha` that in eps.

    Args:
      size: the shape of t.
      t: times, scalar or `[B]`.
      kind: a key of `KINDS`, or a row.
      schedule: gives alpha and sigma.

    >>> from jaxdiff.schedules import Flow
    >>> float(error_weight(jnp.float32(0.25), jnp.float32(0.25), kind="x0", schedule=Flow()))
    1.0
    """
    return (size / _floored_determinant(t, kind, schedule)) ** 2


def kind_weight(t: Array, *, kind: Kind, as_kind: Kind, schedule: Schedule) -> Array:
    """The weight that turns a squared error in `kind` into the same squared error in `as_kind`:
    `|y_as - y_as'|^2 = weight |y - y'|^2` for the same x_t, with `weight = (det_as / det_kind)^2`.

    >>> from jaxdiff.schedules import Flow  # an error in x0 is alpha/sigma times smaller than one in eps
    >>> float(kind_weight(jnp.float32(0.5), kind="x0", as_kind="eps", schedule=Flow()))
    1.0

    Source: Salimans & Ho 2022 (arXiv 2202.00512), section 4, for eps, x0 and v.
    """
    if kind == as_kind:
        return jnp.ones_like(as_float(t))
    return error_weight(_floored_determinant(t, as_kind, schedule), t, kind=kind, schedule=schedule)


def floored(t: Array, *, schedule: Schedule) -> tuple[Array, Array]:
    """alpha and sigma in the shape of t, at least 1e-30: quotients of determinants keep their limits at both ends.

    >>> from jaxdiff.schedules import Flow
    >>> float(floored(jnp.float32(0.0), schedule=Flow())[1]) > 0
    True
    """
    t = as_float(t)
    return jnp.maximum(schedule.alpha(t), 1e-30), jnp.maximum(schedule.sigma(t), 1e-30)


def _floored_determinant(t: Array, kind: Kind, schedule: Schedule) -> Array:
    (a, b), (alpha, sigma) = coefficients(t, kind=kind, schedule=schedule), floored(t, schedule=schedule)
    return alpha * b - sigma * a
