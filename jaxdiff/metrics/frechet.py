"""The Frechet distance of two sets of features as of two Gaussians, and its limit for infinitely many samples."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxdiff.metrics.base import check_whole, features, require
from jaxdiff.metrics.moments import Moments, moments
from jaxdiff.typing import Array


def frechet_distance(a: Moments, b: Moments) -> float:
    """The squared Wasserstein-2 distance of N(m_a, C_a) and N(m_b, C_b):

        |m_a - m_b|^2 + tr C_a + tr C_b - 2 tr (C_a C_b)^(1/2)

    The last trace is the sum of the singular values of `C_a^(1/2) C_b^(1/2)`: real and stable also for covariances
    without full rank, of fewer rows than features.

    With pool3 features of Inception it is FID, with its spatial features sFID. Of n samples it is too large by about
    c / n, with c of the order of the number of features: compare at equal n, or see `frechet_infinity`.

    Args:
      a: moments of one set, `moments(x)`.
      b: of the other; the order does not matter.

    Returns:
      Not negative, in squared units of the features.

    Raises:
      InputError: another dimension, or fewer than 2 rows.

    >>> x = np.array([[0.0, 1.0], [2.0, 5.0], [4.0, 2.0]])
    >>> round(frechet_distance(moments(x), moments(x + np.array([3.0, 4.0]))), 9)
    25.0

    Source: Dowson & Landau 1982, equation 4; Heusel et al. 2017 (arXiv 1706.08500), equation 6.
    """
    return frechet_to(b)(a)


def frechet_to(b: Moments) -> Callable[[Moments], float]:
    """`frechet_distance` of one set to any other, with half of its work done once.

    >>> far = frechet_to(Moments(100, np.zeros(2), 99 * np.eye(2)))
    >>> far(Moments(100, np.array([3.0, 4.0]), 99 * np.eye(2)))
    25.0
    """
    factor = _factor(b.covariance)
    return lambda a: _distance(a, b, factor)


def _factor(covariance: np.ndarray) -> np.ndarray:
    """A `[D, r]` with A A^T = C and r its rank.

    Eigenvalues that are rounding are dropped: their roots, 1e8 times as large, would count.
    """
    values, vectors = np.linalg.eigh(covariance)
    keep = values > len(values) * np.finfo(np.float64).eps * values[-1]
    return np.asarray(vectors[:, keep] * np.sqrt(values[keep]))


def _distance(a: Moments, b: Moments, factor_b: np.ndarray) -> float:
    require(
        a.mean.shape == b.mean.shape,
        f"moments of {a.mean.size} and of {b.mean.size} features; take both sets from one network",
    )
    # Eigenvalues of C_a^(1/2) C_b C_a^(1/2) would take a third of the time but be right to 1e-8 only: they are squares.
    cross = np.linalg.svd(_factor(a.covariance).T @ factor_b, compute_uv=False).sum()
    d = a.mean - b.mean
    return max(0.0, float(d @ d + (np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross)))


class FrechetInfinity(NamedTuple):
    """What `frechet_infinity` found.

    Attributes:
      value: the intercept, the distance at infinitely many samples. May be negative.
      slope: of the distance on 1 / n.
      counts: the n of the regression.
      distances: the Frechet distance at each.
    """

    value: float
    slope: float
    counts: np.ndarray
    distances: np.ndarray


def frechet_infinity(
    x: Array | np.ndarray, reference: Moments, *, points: int = 15, smallest: int | None = None, seed: int = 0
) -> FrechetInfinity:
    """The Frechet distance without its bias in the number of samples: a line through it on 1 / n, at 1 / n = 0.

        FD_n = FD_inf + slope / n + ...

    The n go from `smallest` to N in equal steps, each with a random part of x. What the reference's own number of rows
    adds stays in it. The line holds where n is well above the number of features D, and not below it.

    Args:
      x: features of the samples `[N, D]`.
      reference: moments of the data.
      points: how many n. Each costs a `frechet_distance`.
      smallest: the smallest n; None is N / 10 or 2 D if that is more, at most N / 2.
      seed: of the parts.

    Raises:
      InputError: x as of `moments`; another dimension than the reference's; fewer than 2 points; a smallest n below 2
        or not below N.

    >>> x = np.random.default_rng(0).standard_normal((2000, 2))
    >>> far = Moments(10**6, np.array([3.0, 0.0]), np.eye(2) * (10**6 - 1))
    >>> found = frechet_infinity(x, far)
    >>> found.counts[[0, -1]].tolist(), abs(found.value - 9) < 0.5
    ([200, 2000], True)

    Source: Chong & Forsyth 2020 (arXiv 1911.07023), section 3.
    """
    x = features(x, least=4)
    n, d = x.shape
    check_whole("points", points, 2)
    if smallest is None:
        smallest = min(max(n // 10, 2 * d), n // 2)
    check_whole("smallest", smallest, 2)
    require(smallest < n, f"smallest: expected less than the {n} rows of x, got {smallest}")
    rng = np.random.default_rng(seed)
    counts = np.linspace(smallest, n, points).round().astype(int)
    distance = frechet_to(reference)
    distances = np.array([distance(moments(x[rng.choice(n, size=count, replace=False)])) for count in counts])
    slope, value = np.polyfit(1 / counts, distances, 1)
    return FrechetInfinity(float(value), float(slope), counts, distances)
