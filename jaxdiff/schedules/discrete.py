"""Tables of T betas, and the function of each published one."""

import dataclasses
from collections.abc import Sequence
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.schedules.base import as_float, require, safe_sqrt
from jaxdiff.schedules.derivatives import VariancePreserving
from jaxdiff.typing import Array, InputError


@dataclasses.dataclass(frozen=True)
class Discrete(VariancePreserving):
    """A variance-preserving table of `T` betas, as a schedule in continuous time.

        alpha_bar_k = prod_{j <= k} (1 - beta_j),    alpha = sqrt(alpha_bar_k),    sigma = sqrt(1 - alpha_bar_k)

    at `t = (k + 1) / T` for k = 0..T-1, and alpha = 1, sigma = 0 at t = 0. Between these knots log alpha is linear
    in t, that is, the noise of a step is added evenly over it. The slopes of alpha and sigma jump at the knots.

    The last beta may be exactly 1: no signal is left, alpha(1) = 0 (`zero_terminal_snr`). Over that step alpha itself
    is linear.

    Attributes:
      betas: T numbers in (0, 1), the variances of the single steps; the last one in (0, 1].

    Raises:
      InputError: no betas, or one outside (0, 1).

    >>> schedule = Discrete((0.1, 0.5))
    >>> [round(float(schedule.alpha(t)) ** 2, 6) for t in (0.0, 0.5, 1.0)]
    [1.0, 0.9, 0.45]
    >>> schedule
    Discrete(betas=(0.1, ..., 0.5), T=2)

    Source: Ho et al. 2020 (arXiv 2006.11239), eq. 2 and 4.
    """

    betas: tuple[float, ...]

    def __post_init__(self) -> None:
        betas = np.asarray(self.betas, np.float64)
        if betas.ndim != 1 or betas.size == 0:
            raise InputError(f"betas: expected a non-empty sequence of numbers, got shape {betas.shape}")
        good = (betas > 0) & (betas < 1)
        good[-1] |= betas[-1] == 1
        if not good.all():
            k = int(np.argmin(good))
            raise InputError(
                f"betas: every beta must lie in (0, 1), and only the last may be 1, but betas[{k}] = {betas[k]}"
            )
        object.__setattr__(self, "betas", tuple(float(b) for b in betas))

    def __repr__(self) -> str:
        return f"Discrete(betas=({self.betas[0]:.6g}, ..., {self.betas[-1]:.6g}), T={self.T})"  # not all thousand

    @property
    def T(self) -> int:
        """The number of steps."""
        return len(self.betas)

    @cached_property
    def alpha_bar(self) -> np.ndarray:
        """`alpha_bar_k`, k = 0..T-1, float64."""
        alpha_bar = np.exp(2 * self._log_alpha[1:])
        alpha_bar[-1] *= not self._ends_in_zero
        return np.asarray(alpha_bar)

    @property
    def _ends_in_zero(self) -> bool:
        return self.betas[-1] == 1

    @cached_property
    def _log_alpha(self) -> np.ndarray:
        """At t = 0 and the T knots; a last beta of 1 is left out, `_kept` has it."""
        betas = np.asarray(self.betas)
        return np.concatenate([[0.0], 0.5 * np.cumsum(np.log1p(-np.where(betas < 1, betas, 0)))])

    def _segment(self, t: Array) -> tuple[Array, Array]:
        """The step that t is in, 0..T-1, and how far in it, 0 to 1."""
        p = step_position(t, self.T) + 1  # 0 is data, k + 1 is step k
        low = jnp.clip(jnp.floor(jax.lax.stop_gradient(p)), 0, self.T - 1)
        return low.astype(jnp.int32), p - low

    def _at(self, t: Array | float) -> tuple[Array, Array]:
        """`log alpha` without a last beta of 1, and how far its step has gone, 0 to 1."""
        t = as_float(t)
        table = jnp.asarray(self._log_alpha, t.dtype)
        k, w = self._segment(t)
        log_alpha = (1 - w) * table[k] + w * table[k + 1]  # this form is exact at both ends, w = 0 and w = 1
        return log_alpha, jnp.where(k == self.T - 1, w, 0) if self._ends_in_zero else jnp.zeros_like(w)

    def alpha(self, t: Array) -> Array:
        log_alpha, gone = self._at(t)
        return (1 - gone) * jnp.exp(log_alpha)

    def sigma(self, t: Array) -> Array:
        log_alpha, gone = self._at(t)
        # 1 - (1 - gone)^2 alpha^2 as a sum of positive terms
        return safe_sqrt(-jnp.expm1(2 * log_alpha) + jnp.exp(2 * log_alpha) * gone * (2 - gone))

    def drift(self, t: Array) -> Array:
        """The slope of log alpha, log(1 - beta_k) / 2 T: of the step after t where t is a knot."""
        t = as_float(t)
        k, w = self._segment(t)
        slope = jnp.asarray(np.diff(self._log_alpha) * self.T, t.dtype)[k]
        return jnp.where(k == self.T - 1, -self.T / (1 - w), slope) if self._ends_in_zero else slope

    def time_at_log_snr(self, value: Array) -> Array:
        log_alpha = -0.5 * jax.nn.softplus(-value)
        table = jnp.asarray(self._log_alpha, value.dtype)
        k = jnp.clip(jnp.searchsorted(-table, -log_alpha, side="right") - 1, 0, self.T - 1)
        below, step = log_alpha - table[k], table[k + 1] - table[k]
        w = below / jnp.minimum(step, -jnp.finfo(step.dtype).tiny)
        if self._ends_in_zero:
            w = jnp.where(k == self.T - 1, -jnp.expm1(below), w)
        return (k.astype(w.dtype) + jnp.clip(w, 0, 1)) / self.T


def step_position(t: Array | float, T: int) -> Array:
    """The step `k = t T - 1` of the papers' tables at time `t`; exactly an integer on the grid `t = (k + 1) / T`.

    (k + 1) / T * T is not k + 1 in float32, and a position off by 1e-4 would read the steep end of a cosine table
    1e-4 wrong; so positions within rounding error of an integer are that integer.

    >>> float(step_position(0.981, 1000))
    980.0
    >>> float(step_position(0.9815, 1000))
    980.5
    """
    t = as_float(t)
    p = t * T - 1
    nearest = jnp.round(p)
    on_grid = jnp.abs(p - nearest) < 8 * T * jnp.finfo(t.dtype).eps
    # The correction carries no gradient: dp/dt stays T.
    return p + jax.lax.stop_gradient(jnp.where(on_grid, nearest - p, 0))


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
      max_beta: a bound that prevents the singularity at the end; 1 lets alpha_bar end in 0.

    >>> [round(b, 3) for b in from_alpha_bar([1.0, 0.9, 0.45]).betas]
    [0.1, 0.5]

    Source: Nichol & Dhariwal 2021 (arXiv 2102.09672), section 3.2.
    """
    alpha_bar = np.asarray(alpha_bar, np.float64)
    return from_betas(np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], max_beta))


def zero_terminal_snr(schedule: Discrete) -> Discrete:
    """The table moved and stretched in sqrt(alpha_bar) such that no signal is left at t = 1, the first step as it was:

        sqrt(alpha_bar_k) <- (sqrt(alpha_bar_k) - sqrt(alpha_bar_{T-1})) sqrt(alpha_bar_0) / (sqrt(alpha_bar_0) - ...)

    A network of kind eps says nothing of the data at t = 1; train v.

    Raises:
      InputError: a table of one step.

    >>> rescaled = zero_terminal_snr(linear())
    >>> round(rescaled.betas[0], 9), rescaled.betas[-1]
    (0.0001, 1.0)

    Source: Lin et al. 2023 (arXiv 2305.08891), Algorithm 1.
    """
    require(
        schedule.T > 1, "zero_terminal_snr: expected at least 2 steps, the first is kept and the last loses all; got 1"
    )
    root = np.sqrt(schedule.alpha_bar)
    root = root - root[-1]  # the stretch does not change the ratios, and the first beta is kept
    return from_betas([schedule.betas[0], *(1 - (root[1:] / root[:-1]) ** 2)])


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
    require(min(beta_start, beta_end) > 0, f"quadratic: expected positive betas, got {beta_start} and {beta_end}")
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
    require(end > start and tau > 0, f"sigmoid: expected start < end and tau > 0, got {start}, {end}, {tau}")
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
    require(width > 0, f"tanh: expected width > 0, got {width}")
    u = np.tanh(np.linspace(-width, width, T)) / np.tanh(width)
    return from_betas(beta_start + (beta_end - beta_start) * (u + 1) / 2)


def geometric(T: int = 1000, *, beta: float = 0.02) -> Discrete:
    """`beta_t = beta (1 - beta)^(T-1-t)`, t = 0..T-1: each step adds 1/(1-beta) times the noise of the one before.

    The betas sum to `1 - (1 - beta)^T < 1`, so `alpha_bar_T` stays near e^-1 (0.36 at beta = 0.02): this schedule
    never reaches pure noise. Sampling must start from q(x_1), not from N(0, I).

    >>> [round(b, 4) for b in geometric(3, beta=0.1).betas]
    [0.081, 0.09, 0.1]
    """
    require(0 < beta < 1, f"geometric: expected beta in (0, 1), got {beta}")
    return from_betas(beta * (1 - beta) ** np.arange(T - 1, -1, -1.0))
