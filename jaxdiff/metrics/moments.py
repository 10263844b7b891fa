"""Mean and covariance of features in float64, in pieces that merge: of a stream, of shards, of machines."""

import dataclasses

import numpy as np

from jaxdiff.metrics.base import features, require
from jaxdiff.typing import Array

_BLOCK = 4096  # rows that are float64 at a time: 64 MiB of Inception's features


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """How many rows, their mean, and their scatter, `sum (x - mean) (x - mean)^T`: enough for a Frechet distance.

    Published statistics (mu, sigma) of n images are `Moments(n, mu, sigma * (n - 1))`.

    Attributes:
      count: of rows, at least 1.
      mean: `[D]`, float64.
      scatter: `[D, D]`, float64.

    Raises:
      InputError: shapes that do not fit, or a count below 1.
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    def __post_init__(self) -> None:
        require(self.count >= 1, f"count: expected at least 1 row, got {self.count}")
        fits = self.mean.ndim == 1 and self.scatter.shape == 2 * self.mean.shape
        require(fits, f"expected a mean [D] and a scatter [D, D], got {self.mean.shape} and {self.scatter.shape}")

    @property
    def covariance(self) -> np.ndarray:
        """`scatter / (count - 1)`, unbiased, as `numpy.cov`; two rows at least."""
        require(self.count > 1, "a covariance needs at least 2 rows, got 1")
        return self.scatter / (self.count - 1)


def moments(x: Array | np.ndarray) -> Moments:
    """Count, mean and scatter of rows, summed in float64 and in blocks, so that the memory is that of a block.

    Args:
      x: `[N, D]`, of any real dtype.

    Raises:
      InputError: not `[N, D]`, no rows, or rows with NaN or infinity: it says how many and which is the first.

    >>> m = moments(np.array([[0.0, 1.0], [2.0, 5.0]]))
    >>> m.count, m.mean.tolist(), m.covariance.tolist()
    (2, [1.0, 3.0], [[2.0, 4.0], [4.0, 8.0]])
    """
    x = features(x)
    whole = _block_moments(x[:_BLOCK])
    for start in range(_BLOCK, len(x), _BLOCK):
        whole = merged(whole, _block_moments(x[start : start + _BLOCK]))
    return whole


def _block_moments(x: np.ndarray) -> Moments:
    wide = x.astype(np.float64)
    mean = wide.mean(axis=0)
    wide -= mean  # before the products, which would cancel if the mean were taken off afterwards
    return Moments(len(x), mean, wide.T @ wide)


def merged(a: Moments, b: Moments) -> Moments:
    """The moments of the rows of both, whatever the order and the sizes of the pieces:

        scatter = scatter_a + scatter_b + d d^T n_a n_b / (n_a + n_b),        d = mean_b - mean_a

    Args:
      a: of some rows.
      b: of other rows, of the same dimension.

    Raises:
      InputError: of another dimension.

    >>> parts = moments(np.array([[0.0], [2.0]])), moments(np.array([[10.0]]))
    >>> whole = merged(*parts)
    >>> whole.count, whole.mean.tolist(), whole.covariance.tolist()
    (3, [4.0], [[28.0]])

    Source: Chan, Golub & LeVeque 1983, equation 2.1, for vectors.
    """
    require(a.mean.shape == b.mean.shape, f"moments of {a.mean.size} and of {b.mean.size} features do not merge")
    n = a.count + b.count
    d = b.mean - a.mean
    scatter = a.scatter + b.scatter + np.outer(d, d * (a.count * b.count / n))
    return Moments(n, a.mean + d * (b.count / n), scatter)
