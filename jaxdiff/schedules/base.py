"""Noise schedules: `alpha(t)` and `sigma(t)` of `x_t = alpha(t) x_0 + sigma(t) eps`, `eps ~ N(0, I)`.

A Gaussian diffusion is a Markov chain q(x_t | x_s) = N(alpha_ts x_s, sigma_ts^2) for s < t. Composing s -> t with the
marginal at s must give the marginal at t, hence

    alpha_ts = alpha_t / alpha_s,        sigma_ts^2 = sigma_t^2 - alpha_ts^2 sigma_s^2,

and everything else (posterior, targets, samplers) follows from alpha and sigma alone. So a schedule is those two
functions and nothing more. Three kinds of them stand here:

* `Discrete(betas)`, the T-step table of DDPM, with one function per published table (`linear`, `cosine`, ...);
* closed forms in continuous time: `VP`, `SubVP`, `VE`, `EDM`, `Flow`;
* variance-preserving ones from their log-SNR: `CosineLogSNR`, and `LogSNR` of any function, learned ones too.

A schedule may have methods `time_at_log_snr(value)`, `d_alpha(t)`, `d_sigma(t)`, `drift(t)`, `diffusion(t)`: closed
forms that the free functions of the same names use in place of bisection and autodiff.
"""

import contextlib
import functools
from collections.abc import Callable, Collection, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.typing import Array, InputError, Schedule


def as_float(t: Array | float) -> Array:
    """A time, or data that is summed up, as float32, or as float64 if it is."""
    t = jnp.asarray(t)
    return t if t.dtype in (jnp.float32, jnp.float64) else t.astype(jnp.float32)


def require(condition: bool, message: str) -> None:
    """Raise `InputError(message)` unless the condition holds.

    >>> require(2 > 1, "expected more")
    """
    if not condition:
        raise InputError(message)


def check_choice(name: str, value: Any, choices: Collection[Any]) -> None:
    """Raise `InputError` for a value that is none of the choices, words or whole numbers.

    >>> check_choice("solver", "Euler", ("Tsit5", "Dopri5"))
    Traceback (most recent call last):
    ...
    jaxdiff.typing.InputError: unknown solver 'Euler'; expected one of Tsit5, Dopri5
    """
    exact = isinstance(value, str | int | np.integer) and not isinstance(
        value, bool
    )  # 2.0 is no order, though 2.0 == 2
    require(exact and value in choices, f"unknown {name} {value!r}; expected one of {', '.join(map(str, choices))}")


def check_whole(name: str, value: Any, least: int = 1) -> None:
    """Raise `InputError` for what is not a whole number of at least `least`.

    >>> check_whole("steps", 2.5)
    Traceback (most recent call last):
    ...
    jaxdiff.typing.InputError: steps: expected a whole number, at least 1, got 2.5
    """
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    require(whole and value >= least, f"{name}: expected a whole number, at least {least}, got {value!r}")


def check_flags(**flags: Any) -> None:
    """Raise `InputError` for what is not a bool.

    >>> check_flags(clip="yes")
    Traceback (most recent call last):
    ...
    jaxdiff.typing.InputError: clip: expected true or false, got 'yes'
    """
    for name, flag in flags.items():
        require(isinstance(flag, bool), f"{name}: expected true or false, got {flag!r}")


def safe_sqrt(y: Array) -> Array:
    """`sqrt(y)` whose gradient at 0 is 0, not infinite: sigma at the end of a grid, where t = 0 does not move.

    >>> float(jax.grad(safe_sqrt)(0.0)), float(jax.grad(safe_sqrt)(4.0))
    (0.0, 0.25)
    """
    return jnp.where(y > 0, jnp.sqrt(jnp.where(y > 0, y, 1)), 0)


@contextlib.contextmanager
def concretely() -> Iterator[None]:
    """Within it JAX computes numbers in float64 at once, also where the caller is being traced.

    >>> with concretely():
    ...     str(jnp.sin(1.0).dtype)
    'float64'
    """
    with (
        jax.ensure_compile_time_eval(),
        jax.enable_x64(True),
        jax.numpy_dtype_promotion("standard"),  # a user's schedule may hold numbers in float32
    ):
        yield


def derivative(f: Callable[[Array], Array], t: Array) -> Array:
    """`df/dt` of an elementwise function, at times of any shape.

    >>> derivative(jnp.square, jnp.array([1.0, 3.0])).tolist()
    [2.0, 6.0]
    """
    _, slope = jax.jvp(f, (t,), (jnp.ones_like(t),))
    return jnp.asarray(slope)


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
    t = as_float(t)
    return 2 * (jnp.log(schedule.alpha(t)) - jnp.log(schedule.sigma(t)))


def half_log_snr(t: Array, *, schedule: Schedule) -> Array:
    """`lambda = log(alpha / sigma)`, the clock of the exponential integrators, held finite: at most about 87 in size
    where alpha or sigma is 0, with gradient 0 in what is held.

    >>> from jaxdiff.schedules import Flow
    >>> [round(float(half_log_snr(jnp.float32(t), schedule=Flow()))) for t in (0.0, 0.5, 1.0)]
    [87, 0, -87]

    Source: Lu et al. 2022 (arXiv 2206.00927), section 2.2.
    """
    t = as_float(t)
    tiny = jnp.asarray(jnp.finfo(jnp.float32).tiny, t.dtype)
    return jnp.log(jnp.maximum(schedule.alpha(t), tiny)) - jnp.log(jnp.maximum(schedule.sigma(t), tiny))


def time_at_log_snr(value: Array, *, schedule: Schedule) -> Array:
    """The inverse of `log_snr`: the time in [0, 1] whose log-SNR is `value`, the nearest end where there is none.

    By the schedule's own `time_at_log_snr` if it has one, else by bisection; the gradient is that of the inverse
    function, `1 / (d log_snr / dt)`.

    Args:
      value: log-SNR, any shape.
      schedule: of decreasing log-SNR.

    Raises:
      InputError: it is not (`check_monotone`).

    >>> from jaxdiff.schedules import Flow
    >>> round(float(time_at_log_snr(jnp.float32(0.0), schedule=Flow())), 6)
    0.5
    """
    value = jnp.clip(as_float(value), -175, 175)  # what `half_log_snr` can be, twice; inf would make NaN of inf / inf
    own = getattr(schedule, "time_at_log_snr", None)
    if own is not None:
        return jnp.asarray(jnp.clip(own(value), 0, 1))
    check_monotone(schedule)

    def f(t: Array) -> Array:
        return 2 * half_log_snr(t, schedule=schedule)

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) / 2
        later = f(middle) > value  # the log-SNR falls: the time looked for is later
        return jnp.where(later, middle, low), jnp.where(later, high, middle)

    fixed = jax.lax.stop_gradient(value)
    value, wanted = fixed, value
    first, last = jnp.zeros_like(value), jnp.ones_like(value)
    low, high = jax.lax.fori_loop(0, 64, halve, (first, last))
    t = jnp.where(value >= f(first), first, jnp.where(value <= f(last), last, (low + high) / 2))
    slope = derivative(f, t)
    inside = (t > 0) & (t < 1) & (slope < 0)
    return jnp.asarray(
        t + jnp.where(inside, (wanted - fixed) / jnp.where(inside, slope, -1), 0)
    )  # adds a gradient only


def alpha_sigma(x: Array, t: Array, *, schedule: Schedule) -> tuple[Array, Array]:
    """`alpha(t)` and `sigma(t)` for a scalar or `[B]` time, shaped and cast to multiply `x` `[B, ...]`.

    >>> from jaxdiff.schedules import Flow
    >>> alpha, sigma = alpha_sigma(jnp.zeros((2, 3)), jnp.array([0.0, 1.0]), schedule=Flow())
    >>> alpha.shape
    (2, 1)
    """
    return expand(schedule.alpha(t), x), expand(schedule.sigma(t), x)


def check_monotone(schedule: Schedule) -> None:
    """Nothing, if the log-SNR falls strictly from t = 0 to t = 1, at 1,000 times in float64; +-inf at the ends is fine.

    It is computed once for each schedule (equal ones are one), and works in a function that is being traced. A
    schedule that is itself made of traced values, such as a learned one in its loss, is not checked.

    Raises:
      InputError: it rises, stays or is not a number, and where.

    >>> from jaxdiff.schedules import Flow, LogSNR
    >>> check_monotone(Flow())
    >>> check_monotone(LogSNR(lambda t: 10 * t))
    Traceback (most recent call last):
    ...
    jaxdiff.typing.InputError: LogSNR: the log-SNR must fall from data at t = 0 to noise at t = 1, but it goes ...
    """
    with contextlib.suppress(_TracedError):
        _check_monotone(schedule)  # type: ignore[arg-type]  # the protocol says: hashable by value


class _TracedError(Exception):
    pass  # raised, because `lru_cache` would keep what is returned, and the tracers in the schedule with it


@functools.lru_cache(maxsize=128)
def _check_monotone(schedule: Schedule) -> None:
    t = np.linspace(0, 1, 1000)
    with concretely():
        found = log_snr(jnp.asarray(t), schedule=schedule)
        if isinstance(found, jax.core.Tracer):
            raise _TracedError
        values = np.asarray(found)
    with np.errstate(invalid="ignore"):  # inf - inf
        falls = np.diff(values) < 0
    if not falls.all():
        i = int(np.argmin(falls))
        raise InputError(
            f"{type(schedule).__name__}: the log-SNR must fall from data at t = 0 to noise at t = 1, but it goes "
            f"from {values[i]:.6g} at t = {t[i]:.4f} to {values[i + 1]:.6g} at t = {t[i + 1]:.4f}; "
            "correct alpha(t) and sigma(t), or reverse t"
        )
