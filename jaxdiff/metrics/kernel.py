"""The kernel distance (KID): the squared maximum mean discrepancy of two sets of features, without bias."""

import math
from typing import NamedTuple

import numpy as np

from jaxdiff.metrics.base import check_whole, paired_features, require
from jaxdiff.typing import Array


class KernelDistance(NamedTuple):
    """Mean and standard deviation over the subsets.

    The subsets share rows, so the deviation says how one subset varies and is no error of the mean.
    """

    mean: float
    std: float


def kernel_distance(
    x: Array | np.ndarray,
    y: Array | np.ndarray,
    *,
    subsets: int = 100,
    subset_size: int = 1000,
    degree: int = 3,
    seed: int = 0,
) -> KernelDistance:
    """The squared maximum mean discrepancy, unbiased, averaged over random subsets of m rows of each set:

        sum_(i != j) (k(x_i, x_j) + k(y_i, y_j)) / (m (m - 1)) - 2 sum_(i, j) k(x_i, y_j) / m^2,
        k(x, y) = (x . y / D + 1)^degree

    Unbiased at any m: it may be negative, and its mean is 0 for two sets of one distribution.

    Args:
      x: `[N, D]`.
      y: `[M, D]`.
      subsets: how many, drawn without replacement in each.
      subset_size: m.
      degree: of the kernel; 3 in KID.
      seed: of the subsets.

    Raises:
      InputError: x or y as of `moments`; of different dimensions; a subset larger than a set, or of fewer than 2 rows.

    >>> x, y = np.array([[1.0], [-1.0]]), np.array([[0.0], [2.0]])
    >>> kernel_distance(x, y, subsets=1, subset_size=2)  # k: 0 in x, 1 in y, (1 + 27 + 1 - 1) / 4 between
    KernelDistance(mean=-13.0, std=0.0)

    Source: Binkowski et al. 2018 (arXiv 1801.01401), section 4; Gretton et al. 2012, equation 3.
    """
    x, y = paired_features(x, y, ("x", "y"))
    check_whole("subsets", subsets)
    check_whole("subset_size", subset_size, 2)
    check_whole("degree", degree)
    least = min(len(x), len(y))
    require(
        subset_size <= least,
        f"subset_size: {subset_size} rows cannot be drawn from {least}; give subset_size={least} or less, or more rows",
    )
    rng = np.random.default_rng(seed)

    def subset(rows: np.ndarray) -> np.ndarray:
        return rows[rng.choice(len(rows), size=subset_size, replace=False)].astype(np.float64)

    found = [_discrepancy(subset(x), subset(y), degree) for _ in range(subsets)]
    return KernelDistance(float(np.mean(found)), float(np.std(found)))


def _discrepancy(x: np.ndarray, y: np.ndarray, degree: int) -> float:
    m, d = x.shape
    # Products, for numpy's power takes several times as long.
    xx, yy, xy = (math.prod([a @ b.T / d + 1] * degree) for a, b in ((x, x), (y, y), (x, y)))
    within = xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)
    return float(within / (m * (m - 1)) - 2 * xy.mean())
