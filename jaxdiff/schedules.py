"""Noise schedules: `alpha(t)` and `sigma(t)` of `x_t = alpha(t) x_0 + sigma(t) eps`, `eps ~ N(0, I)`.

A Gaussian diffusion is a Markov chain q(x_t | x_s) = N(alpha_ts x_s, sigma_ts^2) for s < t. Composing s -> t with the
marginal at s must give the marginal at t, hence

    alpha_ts = alpha_t / alpha_s,        sigma_ts^2 = sigma_t^2 - alpha_ts^2 sigma_s^2,

and everything else (posterior, targets, samplers) follows from alpha and sigma alone. So a schedule is those two
functions and nothing more. Two kinds of them stand here:

* `Discrete(betas)`, the T-step table of DDPM, with one function per published table (`linear`, `cosine`, ...);
* closed forms in continuous time: `VP`, `VE`, `Flow`.
"""

import dataclasses
import math
from collections.abc import Sequence
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.typing import Array, InputError, Schedule


def _as_time(t: Array | float) -> Array:
    t = jnp.asarray(t)
    return t if t.dtype in (jnp.float32, jnp.float64) else t.astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class Discrete:
    """A variance-preserving table of `T` betas, as a schedule in continuous time.

        alpha_bar_k = prod_{j <= k} (1 - beta_j),    alpha = sqrt(alpha_bar_k),    sigma = sqrt(1 - alpha_bar_k)

    at `t = (k + 1) / T` for k = 0..T-1, and alpha = 1, sigma = 0 at t = 0. Between these knots log alpha is linear
    in t, that is, the noise of a step is added evenly over it.

    Attributes:
      betas: T numbers in (0, 1), the variances of the single steps.

    Raises:
      InputError: no betas, or one outside (0, 1).

    >>> schedule = Discrete((0.1, 0.5))
    >>> [round(float(schedule.alpha(t)) ** 2, 6) for t in (0.0, 0.5, 1.0)]
    [1.0, 0.9, 0.45]

    Source: Ho et al. 2020 (arXiv 2006.11239), eq. 2 and 4.
    """

    betas: tuple[float, ...]

    def __post_init__(self) -> None:
        betas = np.asarray(self.betas, np.float64)
        if betas.ndim != 1 or betas.size == 0:
            raise InputError(f"betas: expected a non-empty sequence of numbers, got shape {betas.shape}")
        if not np.all((betas > 0) & (betas < 1)):
            k = int(np.argmin((betas > 0) & (betas < 1)))
            raise InputError(f"betas: every beta must lie in (0, 1), but betas[{k}] = {betas[k]}")
        object.__setattr__(self, "betas", tuple(float(b) for b in betas))

    @property
    def T(self) -> int:
        """The number of steps."""
        return len(self.betas)

    @cached_property
    def alpha_bar(self) -> np.ndarray:
        """`alpha_bar_k`, k = 0..T-1, float64."""
        return np.asarray(np.exp(2 * self._log_alpha[1:]))

    @cached_property
    def _log_alpha(self) -> np.ndarray:
        return np.concatenate([[0.0], 0.5 * np.cumsum(np.log1p(-np.asarray(self.betas)))])

    def _log_alpha_at(self, t: Array | float) -> Array:
        t = _as_time(t)
        table = jnp.asarray(self._log_alpha, t.dtype)
        p = step_position(t, self.T) + 1  # 0 is data, k + 1 is step k
        low = jnp.clip(jnp.floor(jax.lax.stop_gradient(p)), 0, self.T - 1)
        w = p - low
        k = low.astype(jnp.int32)
        return (1 - w) * table[k] + w * table[k + 1]  # this form is exact at both ends, w = 0 and w = 1

    def alpha(self, t: Array) -> Array:
        return jnp.exp(self._log_alpha_at(t))

    def sigma(self, t: Array) -> Array:
        return jnp.sqrt(-jnp.expm1(2 * self._log_alpha_at(t)))


def step_position(t: Array | float, T: int) -> Array:
    """The step `k = t T - 1` of the papers' tables at time `t`; exactly an integer on the grid `t = (k + 1) / T`.

    (k + 1) / T * T is not k + 1 in float32, and a position off by 1e-4 would read the steep end of a cosine table
    1e-4 wrong; so positions within rounding error of an integer are that integer.

    >>> float(step_position(0.981, 1000))
    980.0
    >>> float(step_position(0.9815, 1000))
    980.5
    """
    t = _as_time(t)
    p = t * T - 1
    nearest = jnp.round(p)
    on_grid = jnp.abs(p - nearest) < 8 * T * jnp.finfo(t.dtype).eps
    # The correction carries no gradient: dp/dt stays T.
    return p + jax.lax.stop_gradient(jnp.where(on_grid, nearest - p, 0))


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(message)


def from_betas(betas: Sequence[float] | np.ndarray) -> Discrete:
    """The schedule of any table of betas. See `Discrete`.

    >>> from_betas([0.1, 0.2]).T
    2
    """
    return Discrete(tuple(np.asarray(betas, np.float64)))


def from_alpha_bar(alpha_bar: Sequence[float] | np.ndarray, *, max_beta: float = 0.999) -> Discrete:
    """The table whose cumulative products are `alpha_bar`: `beta_k = min(1 - alpha_bar_{k+1} / alpha_bar_k, max_beta)`.

    Args:
      alpha_bar: T + 1 decreasing numbers in [0, 1], the first one at t = 0.
      max_beta: a bound that prevents the singularity at the end.

    >>> [round(b, 3) for b in from_alpha_bar([1.0, 0.9, 0.45]).betas]
    [0.1, 0.5]

    Source: Nichol & Dhariwal 2021 (arXiv 2102.09672), section 3.2.
    """
    alpha_bar = np.asarray(alpha_bar, np.float64)
    return from_betas(np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], max_beta))


def constant(T: int = 1000, *, beta: float = 0.01) -> Discrete:
    """`beta_k = beta`: the signal decays exponentially.

    >>> constant(3, beta=0.5).betas
    (0.5, 0.5, 0.5)
    """
    return from_betas(np.full(T, beta))


def linear(T: int = 1000, *, beta_start: float = 1e-4, beta_end: float = 0.02) -> Discrete:
    """`beta_k` evenly spaced from `beta_start` to `beta_end`; the defaults at T = 1000 are DDPM's.

    >>> linear().betas[0], linear().betas[-1]
    (0.0001, 0.02)

    Source: Ho et al. 2020 (arXiv 2006.11239), section 4.
    """
    return from_betas(np.linspace(beta_start, beta_end, T))


def quadratic(T: int = 1000, *, beta_start: float = 0.00085, beta_end: float = 0.012) -> Discrete:
    """`sqrt(beta_k)` evenly spaced; called scaled-linear in latent diffusion, whose defaults these are.

    >>> betas = quadratic(3, beta_start=0.01, beta_end=0.09).betas
    >>> [round(b, 4) for b in betas]
    [0.01, 0.04, 0.09]

    Source: Rombach et al. 2022 (arXiv 2112.10752), section E; DDIM (arXiv 2010.02502) names it quadratic.
    """
    _require(min(beta_start, beta_end) > 0, f"quadratic: expected positive betas, got {beta_start} and {beta_end}")
    return from_betas(np.linspace(beta_start**0.5, beta_end**0.5, T) ** 2)


def cosine(T: int = 1000, *, offset: float = 0.008, max_beta: float = 0.999) -> Discrete:
    """`alpha_bar(t) = f(t) / f(0)`, `f(t) = cos^2(pi/2 (t + offset) / (1 + offset))`, betas at most `max_beta`.

    >>> round(cosine().betas[-1], 3)
    0.999

    Source: Nichol & Dhariwal 2021 (arXiv 2102.09672), eq. 17.
    """
    t = np.arange(T + 1) / T
    return from_alpha_bar(np.cos(np.pi / 2 * (t + offset) / (1 + offset)) ** 2, max_beta=max_beta)


def sigmoid(
    T: int = 1000, *, start: float = -3.0, end: float = 3.0, tau: float = 1.0, max_beta: float = 0.999
) -> Discrete:
    """`alpha_bar(t)` falls from 1 to 0 as a sigmoid: with `u(t) = sigmoid((start + t (end - start)) / tau)`,
    `alpha_bar(t) = (u(1) - u(t)) / (u(1) - u(0))`.

    >>> round(float(sigmoid(4).alpha_bar[1]), 6)
    0.5

    Source: Jabri et al. 2022 (arXiv 2212.11972), Algorithm 4.
    """
    _require(end > start and tau > 0, f"sigmoid: expected start < end and tau > 0, got {start}, {end}, {tau}")
    u = 1 / (1 + np.exp(-(start + np.arange(T + 1) / T * (end - start)) / tau))
    return from_alpha_bar((u[-1] - u) / (u[-1] - u[0]), max_beta=max_beta)


def tanh(T: int = 1000, *, beta_start: float = 1e-4, beta_end: float = 0.02, width: float = 3.0) -> Discrete:
    """Betas that rise from `beta_start` to `beta_end` as tanh over [-width, width], scaled to reach both exactly.

    `tanh(u) = 2 sigmoid(2u) - 1`, so this is, up to the scaling that makes it reach both ends, what several codes call
    the sigmoid *beta* schedule (width = 3); it is not the sigmoid in alpha_bar of `sigmoid`.

    >>> betas = tanh(3, beta_start=0.1, beta_end=0.3).betas
    >>> [round(b, 6) for b in betas]
    [0.1, 0.2, 0.3]
    """
    _require(width > 0, f"tanh: expected width > 0, got {width}")
    u = np.tanh(np.linspace(-width, width, T)) / np.tanh(width)
    return from_betas(beta_start + (beta_end - beta_start) * (u + 1) / 2)


def geometric(T: int = 1000, *, beta: float = 0.02) -> Discrete:
    """`beta_t = beta (1 - beta)^(T-1-t)`, t = 0..T-1: each step adds 1/(1-beta) times the noise of the one before.

    The betas sum to `1 - (1 - beta)^T < 1`, so `alpha_bar_T` stays near e^-1 (0.36 at beta = 0.02): this schedule
    never reaches pure noise. Sampling must start from q(x_1), not from N(0, I).

    >>> [round(b, 4) for b in geometric(3, beta=0.1).betas]
    [0.081, 0.09, 0.1]
    """
    _require(0 < beta < 1, f"geometric: expected beta in (0, 1), got {beta}")
    return from_betas(beta * (1 - beta) ** np.arange(T - 1, -1, -1.0))


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
        _require(ok, f"VP: expected 0 <= beta_min <= beta_max, beta_max > 0; got {self.beta_min} and {self.beta_max}")

    def _log_alpha(self, t: Array | float) -> Array:
        t = _as_time(t)
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
        _require(ok, f"VE: expected 0 < sigma_min < sigma_max, got {self.sigma_min} and {self.sigma_max}")

    def alpha(self, t: Array) -> Array:
        return jnp.ones_like(_as_time(t))

    def sigma(self, t: Array) -> Array:
        t = _as_time(t)
        return jnp.exp((1 - t) * math.log(self.sigma_min) + t * math.log(self.sigma_max))


@dataclasses.dataclass(frozen=True)
class Flow:
    """The straight path of flow matching and rectified flow: `alpha = 1 - t`, `sigma = t`.

    >>> float(Flow().alpha(0.25)), float(Flow().sigma(0.25))
    (0.75, 0.25)

    Source: Lipman et al. 2023 (arXiv 2210.02747), eq. 22 with sigma_min = 0 and time reversed.
    """

    def alpha(self, t: Array) -> Array:
        return 1 - _as_time(t)

    def sigma(self, t: Array) -> Array:
        return _as_time(t)


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
    """`log(alpha^2 / sigma^2)`, +inf at t = 0 where sigma is 0.

    >>> float(log_snr(jnp.float32(0.5), schedule=Flow()))
    0.0

    Source: Kingma et al. 2021 (arXiv 2107.00630), section 3.1.
    """
    return 2 * (jnp.log(schedule.alpha(t)) - jnp.log(schedule.sigma(t)))


def alpha_sigma(x: Array, t: Array, *, schedule: Schedule) -> tuple[Array, Array]:
    """`alpha(t)` and `sigma(t)` for a scalar or `[B]` time, shaped and cast to multiply `x` `[B, ...]`.

    >>> alpha, sigma = alpha_sigma(jnp.zeros((2, 3)), jnp.array([0.0, 1.0]), schedule=Flow())
    >>> alpha.shape
    (2, 1)
    """
    return expand(schedule.alpha(t), x), expand(schedule.sigma(t), x)
