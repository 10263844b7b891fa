"""Variance-preserving schedules given by their log-SNR: `alpha^2 = sigmoid(lambda)`, `sigma^2 = sigmoid(-lambda)`."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdiff.schedules.base import as_float, require
from jaxdiff.schedules.derivatives import VariancePreserving
from jaxdiff.typing import Array


class _FromLogSNR(VariancePreserving):
    log_snr: Callable[[Array], Array]

    def alpha(self, t: Array) -> Array:
        return jnp.exp(0.5 * jax.nn.log_sigmoid(self.log_snr(as_float(t))))

    def sigma(self, t: Array) -> Array:
        return jnp.exp(0.5 * jax.nn.log_sigmoid(-self.log_snr(as_float(t))))


@dataclasses.dataclass(frozen=True)
class LogSNR(_FromLogSNR):
    """The variance-preserving schedule of any log-SNR: `alpha^2 = sigmoid(log_snr(t))`, `sigma^2 = 1 - alpha^2`.

    Attributes:
      log_snr: a function of `t` in [0, 1], any shape, finite and strictly decreasing (`check_monotone`), elementwise.
        Two schedules are equal if this is the same function.

    >>> schedule = LogSNR(lambda t: 10 - 20 * t)
    >>> round(float(schedule.alpha(0.5)) ** 2, 6)
    0.5

    Source: Kingma et al. 2021 (arXiv 2107.00630), section 3.2.
    """

    log_snr: Callable[[Array], Array]


def _check_range(name: str, low: float, high: float) -> None:
    ok = -math.inf < low < high < math.inf
    require(ok, f"{name}: expected finite log_snr_min < log_snr_max, got {low} and {high}")


def _cosine_angles(log_snr_min: float, log_snr_max: float) -> tuple[float, float, float]:
    """The angle at t = 0, what is left of pi/2 at t = 1, and the way between."""
    first, last = math.atan(math.exp(-0.5 * log_snr_max)), math.atan(math.exp(0.5 * log_snr_min))
    return first, last, math.pi / 2 - first - last


def _cosine_log_snr(t: Array, log_snr_min: float, log_snr_max: float) -> Array:
    """`-2 log tan(first + way t)`, with the cosine as the sine of what is left of pi/2: exact near t = 1 too."""
    first, last, way = _cosine_angles(log_snr_min, log_snr_max)
    return 2 * (jnp.log(jnp.sin(last + way * (1 - t))) - jnp.log(jnp.sin(first + way * t)))


@dataclasses.dataclass(frozen=True)
class CosineLogSNR(_FromLogSNR):
    """The cosine schedule in continuous time, shifted in log-SNR:

        log_snr(t) = -2 log tan(pi t / 2) + shift,        alpha = cos(pi t / 2) where shift = 0

    with t scaled such that the first term runs from `log_snr_max` at t = 0 to `log_snr_min` at t = 1.

    Attributes:
      shift: 2 log(base / resolution) gives images of `resolution` the noise that `base` (64 in the paper) has without
        a shift; negative is more noise.
      log_snr_min: the log-SNR at t = 1, before the shift.
      log_snr_max: the log-SNR at t = 0, before the shift.

    >>> schedule = CosineLogSNR(shift=2 * math.log(64 / 256))
    >>> round(float(schedule.alpha(0.5) / schedule.sigma(0.5)), 6)  # the SNR is (64 / 256)^2 times as large
    0.25

    Source: Hoogeboom et al. 2023, simple diffusion (arXiv 2301.11093), section 3.1.
    """

    shift: float = 0.0
    log_snr_min: float = -15.0
    log_snr_max: float = 15.0

    def __post_init__(self) -> None:
        _check_range("CosineLogSNR", self.log_snr_min, self.log_snr_max)
        require(math.isfinite(self.shift), f"CosineLogSNR: expected a finite shift, got {self.shift}")

    def log_snr(self, t: Array) -> Array:
        return _cosine_log_snr(as_float(t), self.log_snr_min, self.log_snr_max) + self.shift

    def time_at_log_snr(self, value: Array) -> Array:
        first, last, way = _cosine_angles(self.log_snr_min, self.log_snr_max)
        half = 0.5 * (value - self.shift)
        early = (jnp.arctan(jnp.exp(-jnp.clip(half, -80, None))) - first) / way
        late = 1 - (jnp.arctan(jnp.exp(jnp.clip(half, None, 80))) - last) / way
        return jnp.where(half > 0, early, late)  # each where it does not cancel


@dataclasses.dataclass(frozen=True)
class InterpolatedCosineLogSNR(_FromLogSNR):
    """The cosine schedule whose shift goes from `shift_high` at the data to `shift_low` at the noise:

        log_snr(t) = -2 log tan(pi t / 2) + (1 - t) shift_high + t shift_low

    so that details get the noise of a high base resolution and the global structure that of a low one.

    Attributes:
      shift_low: at t = 1, 2 log(low base / resolution). The default is that of bases 32 and 256 at resolution 256.
      shift_high: at t = 0, 2 log(high base / resolution).
      log_snr_min: the log-SNR at t = 1, before the shift.
      log_snr_max: the log-SNR at t = 0, before the shift.

    >>> round(float(InterpolatedCosineLogSNR(shift_low=-4.0).log_snr(0.5)), 6)
    -2.0

    Source: Hoogeboom et al. 2023, simple diffusion (arXiv 2301.11093), section 3.1.
    """

    shift_low: float = 2 * math.log(32 / 256)
    shift_high: float = 0.0
    log_snr_min: float = -15.0
    log_snr_max: float = 15.0

    def __post_init__(self) -> None:
        _check_range("InterpolatedCosineLogSNR", self.log_snr_min, self.log_snr_max)
        # Where it is flattest, at t = 1/2, the cosine falls by 4 times the way of the angle.
        _, _, way = _cosine_angles(self.log_snr_min, self.log_snr_max)
        require(
            self.shift_low - self.shift_high < 4 * way,
            f"InterpolatedCosineLogSNR: expected shift_low - shift_high < {4 * way:.2f}, or the log-SNR rises; "
            f"got {self.shift_low} - {self.shift_high}",
        )

    def log_snr(self, t: Array) -> Array:
        t = as_float(t)
        shift = (1 - t) * self.shift_high + t * self.shift_low
        return _cosine_log_snr(t, self.log_snr_min, self.log_snr_max) + shift


def init_log_snr(key: Array, *, features: int = 1024) -> dict[str, Array]:
    """Parameters of `learned_log_snr`, float32: three vectors `[features]`. The curve starts close to a line.

    >>> sorted(init_log_snr(jax.random.key(0), features=8))
    ['scale', 'shift', 'slope']
    """
    slope = jnp.full((features,), 8.0)
    # Sigmoids of width about 1/8, their centres anywhere in [0, 1].
    return {
        "slope": slope,
        "shift": -slope * jax.random.uniform(key, (features,), jnp.float32),
        "scale": jnp.zeros((features,), jnp.float32),
    }


def learned_log_snr(
    params: dict[str, Array], t: Array, *, log_snr_min: Array | float = -5.0, log_snr_max: Array | float = 13.3
) -> Array:
    """A log-SNR that falls from `log_snr_max` at t = 0 to `log_snr_min` at t = 1 along a curve that is learned:

        log_snr(t) = log_snr_max - (log_snr_max - log_snr_min) h(t) / h(1)
        h(t) = t + mean_j softplus(scale_j) (sigmoid(softplus(slope_j) t + shift_j) - sigmoid(shift_j))

    All weights are positive, so h rises with slope at least 1, whatever the parameters. It is the paper's network of
    three layers: its first layer t -> w t + b is absorbed, b by `shift` and w by the division.

    Args:
      params: from `init_log_snr`.
      t: times in [0, 1], any shape.
      log_snr_min: the log-SNR at t = 1. The ends may be traced, and so be learned as well; or their default.
      log_snr_max: the log-SNR at t = 0.

    A schedule of it in a loss; gradients reach `params` through alpha and sigma:

    >>> params = init_log_snr(jax.random.key(0))
    >>> def loss(params):
    ...     schedule = LogSNR(lambda t: learned_log_snr(params, t))
    ...     t = jnp.array([0.25, 0.75])
    ...     return jnp.mean(schedule.alpha(t) ** 2)  # in place of a real one
    >>> jax.grad(loss)(params)["scale"].shape
    (1024,)

    Source: Kingma et al. 2021 (arXiv 2107.00630), appendix H.
    """
    t = as_float(t)
    slope, shift, scale = (params[name].astype(t.dtype) for name in ("slope", "shift", "scale"))
    slope, scale = jax.nn.softplus(slope), jax.nn.softplus(scale)

    def h(t: Array) -> Array:
        bends = jax.nn.sigmoid(t * slope + shift) - jax.nn.sigmoid(shift)
        return t + jnp.mean(scale * bends)

    share = jnp.vectorize(h)(t) / h(jnp.ones_like(t, shape=()))
    return jnp.asarray(log_snr_max - (log_snr_max - log_snr_min) * share)
