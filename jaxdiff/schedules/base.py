"""Noise schedules: `alpha(t)` and `sigma(t)` of `x_t = alpha(t) x_0 + sigma(t) eps`, `eps ~ N(0, I)`.

A Gaussian diffusion is a Markov chain q(x_t | x_s) = N(alpha_ts x_s, sigma_ts^2) for s < t. Composing s -> t with the
marginal at s must give the marginal at t, hence

    alpha_ts = alpha_t / alpha_s,        sigma_ts^2 = sigma_t^2 - alpha_ts^2 sigma_s^2,

and everything else (posterior, targets, samplers) follows from alpha and sigma alone. So a schedule is those two
functions and nothing more. Two kinds of them stand here:

* `Discrete(betas)`, the T-step table of DDPM, with one function per published table (`linear`, `cosine`, ...);
* closed forms in continuous time: `VP`, `VE`, `Flow`.
"""

import jax
import jax.numpy as jnp

from jaxdiff.typing import Array, InputError, Schedule


def as_time(t: Array | float) -> Array:
    """A time as float32, or float64 if it is."""
    t = jnp.asarray(t)
    return t if t.dtype in (jnp.float32, jnp.float64) else t.astype(jnp.float32)


def require(condition: bool, message: str) -> None:
    """Raise `InputError(message)` unless the condition holds."""
    if not condition:
        raise InputError(message)


def expand(coefficient: Array, x: Array) -> Array:
    """A scalar or `[B]` coefficient shaped to multiply `x` `[B, ...]`, in the dtype of `x`.

    >>> expand(jnp.arange(3.0), jnp.zeros((3, 4, 4, 1))).shape
    (3, 1, 1, 1)
    """
    coefficient = jnp.asarray(coefficient)
    if coefficient.ndim == 0:
        return coefficient.astype(x.dtype)
    if coefficient.shape != x.shape[:1]:
        raise InputError(f"expected a scalar or one value per example, shape ({x.shape[0]},); got {coefficient.shape}")
    return coefficient.astype(x.dtype).reshape(coefficient.shape + (1,) * (x.ndim - 1))


def log_snr(t: Array, *, schedule: Schedule) -> Array:
    """`log(alpha^2 / sigma^2)`; +inf where sigma is 0, -inf where alpha is 0.

    >>> from jaxdiff.schedules import Flow
    >>> float(log_snr(jnp.float32(0.5), schedule=Flow()))
    0.0

    Source: Kingma et al. 2021 (arXiv 2107.00630), section 3.1.
    """
    t = as_time(t)
    return 2 * (jnp.log(schedule.alpha(t)) - jnp.log(schedule.sigma(t)))


def half_log_snr(t: Array, *, schedule: Schedule) -> Array:
    """`lambda = log(alpha / sigma)`, the clock of the exponential integrators, held finite: at most about 87 in size
    where alpha or sigma is 0, with gradient 0 in what is held.

    >>> from jaxdiff.schedules import Flow
    >>> [round(float(half_log_snr(jnp.float32(t), schedule=Flow()))) for t in (0.0, 0.5, 1.0)]
    [87, 0, -87]

    Source: Lu et al. 2022 (arXiv 2206.00927), section 2.2.
    """
    t = as_time(t)
    tiny = jnp.asarray(jnp.finfo(jnp.float32).tiny, t.dtype)
    return jnp.log(jnp.maximum(schedule.alpha(t), tiny)) - jnp.log(jnp.maximum(schedule.sigma(t), tiny))


def time_at_log_snr(value: Array, *, schedule: Schedule) -> Array:
    """The inverse of `log_snr`: the time in [0, 1] whose log-SNR is `value`, the nearest end where there is none.

    By the schedule's own `time_at_log_snr` if it has one, else by bisection; the gradient is that of the inverse
    function, `1 / (d log_snr / dt)`.

    Args:
      value: log-SNR, any shape.
      schedule: of decreasing log-SNR.

    >>> from jaxdiff.schedules import Flow
    >>> round(float(time_at_log_snr(jnp.float32(0.0), schedule=Flow())), 6)
    0.5
    """
    value = as_time(value)
    own = getattr(schedule, "time_at_log_snr", None)
    if own is not None:
        return jnp.asarray(jnp.clip(own(value), 0, 1))

    def f(t: Array) -> Array:
        return 2 * half_log_snr(t, schedule=schedule)

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) / 2
        later = f(middle) > value  # the log-SNR falls: the time looked for is later
        return jnp.where(later, middle, low), jnp.where(later, high, middle)

    fixed = jax.lax.stop_gradient(value)
    value, wanted = fixed, value
    low, high = jax.lax.fori_loop(0, 64, halve, (jnp.zeros_like(value), jnp.ones_like(value)))
    t = (low + high) / 2
    _, slope = jax.jvp(f, (t,), (jnp.ones_like(t),))
    inside = (t > 0) & (t < 1) & (slope < 0)
    return t + jnp.where(inside, (wanted - fixed) / jnp.where(inside, slope, -1), 0)  # adds 0, and its gradient


def alpha_sigma(x: Array, t: Array, *, schedule: Schedule) -> tuple[Array, Array]:
    """`alpha(t)` and `sigma(t)` for a scalar or `[B]` time, shaped and cast to multiply `x` `[B, ...]`.

    >>> from jaxdiff.schedules import Flow
    >>> alpha, sigma = alpha_sigma(jnp.zeros((2, 3)), jnp.array([0.0, 1.0]), schedule=Flow())
    >>> alpha.shape
    (2, 1)
    """
    return expand(schedule.alpha(t), x), expand(schedule.sigma(t), x)
