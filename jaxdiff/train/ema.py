"""Averages of the parameters over training: exponential, and of power functions, which give those of any length later.

The average of a power function weighs the parameters theta_k after update k by how late it was,

    theta_hat(t) = sum_{k <= t} p_k theta_k,    p_k = (k / t)^(gamma + 1) - ((k - 1) / t)^(gamma + 1),

which is the integral of the profile p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1) over [k - 1, k], exactly: the
recursion that makes it, `theta_hat(t) = beta theta_hat(t - 1) + (1 - beta) theta_t`, has beta = (1 - 1/t)^(gamma + 1).
Its length sigma_rel is the profile's standard deviation as a share of t. A profile of any length is nearly a linear
combination of those of stored averages (`fit`); the same combination of the averages is nearly that length's average.

Source: Karras et al. 2023 (arXiv 2312.02696), section 3 and appendix C.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.typing import Array, InputError, PyTree

Share = Callable[[Array], Array]
"""`step -> s`: the update after `step` others changes an average by `s (params - average)`; 1 - s is its decay."""

Numbers = float | np.ndarray

LONGEST = 12**-0.5
"""sigma_rel of gamma = 0, where all steps count alike; a longer average would weigh the first most."""


def ema_decay_at(step: Array, *, decay: float) -> Array:
    """The decay of the exponential average with warm-up: `min(decay, (1 + step) / (10 + step))`.

    >>> [round(float(ema_decay_at(jnp.int32(k), decay=0.999)), 3) for k in (0, 90, 10**6)]
    [0.1, 0.91, 0.999]
    """
    return 1 - exponential(decay)(step)


def exponential(decay: float) -> Share:
    """The average of `ema_decay_at`: `max(1 - decay, 9 / (10 + step))`.

    Args:
      decay: in [0, 1), reached after a warm-up.

    >>> round(float(exponential(0.999)(jnp.int32(90))), 3)
    0.09
    """
    return lambda step: jnp.maximum(1 - decay, 9 / (10 + step.astype(jnp.float32)))  # 1 - decay in double precision


def power(sigma_rel: float) -> Share:
    """The average of a power function: `1 - beta(t)`, t = step + 1.

    Args:
      sigma_rel: its length as a share of the training so far, 0 < sigma_rel < `LONGEST`.

    Raises:
      InputError: another length.

    >>> [round(float(power(0.1)(jnp.int32(k))), 3) for k in (0, 9, 99)]
    [1.0, 0.567, 0.077]
    """
    exponent = float(gamma_of(sigma_rel)) + 1

    def share(step: Array) -> Array:
        t = step.astype(jnp.float32) + 1
        return -jnp.expm1(exponent * jnp.log1p(-1 / t))  # 1 - beta itself would lose its digits where beta is nearly 1

    return share


def towards(params: PyTree, average: PyTree, share: Array) -> PyTree:
    """`average + share (params - average)`: an average after one more update.

    >>> towards({"w": jnp.ones(1)}, {"w": jnp.zeros(1)}, jnp.float32(0.25))
    {'w': Array([0.25], dtype=float32)}
    """
    return jax.tree.map(lambda a, p: a + share * (p - a), average, params)


def name_of(sigma_rel: float) -> str:
    """What the average of a length is called in a state and in checkpoints.

    >>> name_of(0.05)
    'ema_0.05'
    """
    return f"ema_{sigma_rel:g}"


def sigma_rel_of(gamma: float) -> float:
    """The length of the profile tau^gamma, `sqrt((gamma + 1) / ((gamma + 2)^2 (gamma + 3)))`.

    >>> round(sigma_rel_of(6.94), 4)
    0.1
    """
    return float(np.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3))))


def gamma_of(sigma_rel: float) -> float:
    """The inverse of `sigma_rel_of`: the largest root of `gamma^3 + 7 gamma^2 + (16 - s) gamma + 12 - s`,
    s = 1 / sigma_rel^2.

    Raises:
      InputError: not 0 < sigma_rel < 12^(-1/2) = 0.2887.

    >>> [round(gamma_of(length), 2) for length in (0.05, 0.1)]
    [16.97, 6.94]
    """
    if not 0 < sigma_rel < LONGEST:
        raise InputError(
            f"length {sigma_rel:g} of an average: expected 0 < length < {LONGEST:.4f}, a share of training"
        )
    s = np.float64(sigma_rel) ** -2
    return float(np.roots([1, 7, 16 - s, 12 - s]).real.max())


def inner_product(gamma_a: Numbers, t_a: Numbers, gamma_b: Numbers, t_b: Numbers) -> np.ndarray:
    """Of two profiles, the integral of `p_a(tau) p_b(tau)`:

        (gamma_a + 1) (gamma_b + 1) / (gamma_a + gamma_b + 1) (t_min / t_max)^gamma / t_max,    gamma that of t_max

    >>> float(inner_product(0.0, 2.0, 0.0, 4.0))  # 1/2 on [0, 2] and 1/4 on [0, 4]
    0.25
    """
    earlier, later = np.minimum(t_a, t_b), np.maximum(t_a, t_b)
    exponent = np.where(np.asarray(t_a) < t_b, gamma_b, gamma_a)
    scale = (np.asarray(gamma_a) + 1) * (np.asarray(gamma_b) + 1) / (np.asarray(gamma_a) + gamma_b + 1)
    product: np.ndarray = scale * (earlier / later) ** exponent / later
    return product


class Fit(NamedTuple):
    """A profile as a combination of others.

    Attributes:
      weights: float64, one for each of the others; their sum is 1.
      residual: the L2 norm of what is left, as a share of the profile's.
    """

    weights: np.ndarray
    residual: float


def fit(snapshots: Sequence[tuple[float, int]], *, sigma_rel: float, step: int) -> Fit:
    """The weights of stored averages by which their sum is nearest to the average of a length at a step.

    Least squares over profiles, under the condition that the weights sum to 1: what does not move in training then
    stays what it is, however few the snapshots.

    Args:
      snapshots: length and step of each; those after `step` get the weight 0.
      sigma_rel: the length that is wanted.
      step: one of the snapshots'.

    Raises:
      InputError: no snapshot is of that step, or a length that no average has.

    >>> fit([(0.05, 100), (0.1, 100)], sigma_rel=0.1, step=100).weights.round(6).tolist()
    [0.0, 1.0]
    """
    steps = sorted({t for _, t in snapshots})
    if step not in steps:
        near = sorted(sorted(steps, key=lambda t: abs(t - step))[:2])
        there = f"they go up to {steps[-1]}, and the nearest are of {' and '.join(map(str, near))}" if near else "none"
        raise InputError(f"step {step} has no snapshot: {there}")
    used = np.array([t <= step for _, t in snapshots])
    gamma = np.array([gamma_of(length) for length, _ in snapshots])[used]
    t = np.array([t for _, t in snapshots], np.float64)[used] / step
    wanted = gamma_of(sigma_rel)
    gram = inner_product(gamma[:, None], t[:, None], gamma, t)
    target, norm2 = inner_product(gamma, t, wanted, 1.0), float(inner_product(wanted, 1.0, wanted, 1.0))

    # In units of each profile's norm the matrix is nearly singular but no worse than it must be.
    unit = 1 / np.sqrt(np.diag(gram))
    border = unit / np.linalg.norm(unit)
    n = len(unit)
    matrix = np.zeros((n + 1, n + 1))  # of the least squares, and of the condition with its multiplier
    matrix[:n, :n], matrix[:n, n], matrix[n, :n] = gram * unit[:, None] * unit, border, border
    right = np.append(target * unit, 1 / np.linalg.norm(unit))
    found = unit * np.linalg.lstsq(matrix, right, rcond=None)[0][:n]

    left = norm2 - 2 * found @ target + found @ gram @ found
    weights = np.zeros(len(snapshots))
    weights[used] = found
    return Fit(weights, float(np.sqrt(max(left, 0.0) / norm2)))


def weighted_sum(terms: Iterable[tuple[float, PyTree]]) -> PyTree:
    """`sum_i weight_i tree_i` of trees of arrays, added up in float64 on the host, one leaf at a time.

    Args:
      terms: weights and trees; read one by one, so that a generator needs memory for one of them alone.

    Returns:
      numpy arrays of the dtypes of the first tree.

    >>> weighted_sum([(0.5, {"w": np.float32([2, 4])}), (2.0, {"w": np.float32([1, 0])})])
    {'w': array([3., 2.], dtype=float32)}
    """
    total: PyTree = None
    dtypes: PyTree = None
    for weight, tree in terms:
        if total is None:
            dtypes = jax.tree.map(lambda x: x.dtype, tree)
            total = jax.tree.map(lambda x: np.zeros(x.shape), tree)
        for sum_, x in zip(jax.tree.leaves(total), jax.tree.leaves(tree), strict=True):
            sum_ += weight * np.asarray(x, np.float64)
    return jax.tree.map(lambda x, dtype: x.astype(dtype), total, dtypes)


def reconstruct(snapshots: Sequence[tuple[float, int, PyTree]], *, sigma_rel: float, step: int) -> PyTree:
    """The average of any length at a step of a training, from averages that were stored in it.

    Args:
      snapshots: length, step and parameters of each. Where they do not fit into memory together, `fit` and
        `weighted_sum`.
      sigma_rel: the length that is wanted; how well it is met, `fit` says.
      step: one of the snapshots'.

    Raises:
      InputError: no snapshot of that step, or a length that no average has.

    >>> stored = [(0.05, 100, {"w": np.float32([1.0])}), (0.1, 100, {"w": np.float32([2.0])})]
    >>> reconstruct(stored, sigma_rel=0.05, step=100)
    {'w': array([1.], dtype=float32)}
    """
    weights = fit([(length, t) for length, t, _ in snapshots], sigma_rel=sigma_rel, step=step).weights
    return weighted_sum((weight, tree) for weight, (_, _, tree) in zip(weights, snapshots) if weight)
