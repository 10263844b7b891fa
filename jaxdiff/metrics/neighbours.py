"""Metrics of distances between rows: precision, recall, density, coverage, diversity; and what a sample may be copied
from."""

from typing import NamedTuple

import numpy as np

from jaxdiff.metrics.base import check_whole, features, paired_features, require
from jaxdiff.typing import Array

_MEGABYTES = 256  # of distances at a time


class Manifold(NamedTuple):
    """Fidelity and diversity apart.

    Attributes:
      precision: the part of the fakes in the ball of some real; a ball reaches to its centre's k-th neighbour.
      recall: the part of the reals in the ball of some fake.
      density: in how many balls of reals a fake lies, mean over the fakes, divided by k; may exceed 1.
      coverage: the part of the reals with a fake in their ball.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def manifold(real: Array | np.ndarray, fake: Array | np.ndarray, *, k: int = 5) -> Manifold:
    """Improved precision and recall, density and coverage, with `r_k` the distance to the k-th neighbour in the set:

        precision = mean_j [some i: |real_i - fake_j| <= r_k(real_i)],        recall: real and fake in turn
        density   = mean_j #{i: |real_i - fake_j| <= r_k(real_i)} / k
        coverage  = mean_i [min_j |real_i - fake_j| <= r_k(real_i)]

    All depend on the numbers of rows, and on k: compare at equal ones (the papers': k = 3 of 50,000 for precision and
    recall, k = 5 of 10,000 for density and coverage). If fakes are as good as reals and equally many, density is 1 and
    coverage about 1 - 2^-k. Precision and recall also rise by one outlier with its large ball.

    Args:
      real: `[N, D]`.
      fake: `[M, D]`.
      k: at least 1, below N and M.

    Raises:
      InputError: real or fake as of `moments`; of different dimensions; not more than k rows.

    >>> real, fake = np.array([[0.0], [1.0], [3.0]]), np.array([[0.5], [9.0]])
    >>> manifold(real, fake, k=1)  # balls of radius 1, 1, 2 and 8.5, 8.5
    Manifold(precision=0.5, recall=1.0, density=1.0, coverage=0.6666666666666666)

    Source: Kynkaanniemi et al. 2019 (arXiv 1904.06991), equations 1 and 2; Naeem et al. 2020 (arXiv 2002.09797),
    equations 3 and 5.
    """
    from sklearn.metrics import pairwise_distances_chunked  # here, for it takes a second to load

    real, fake = paired_features(real, fake, ("real", "fake"))
    check_whole("k", k)
    for name, x in (("real", real), ("fake", fake)):
        require(
            len(x) > k, f"{name}: {len(x)} rows have no {k}-th neighbour among themselves; give more rows or less k"
        )
    real_radius, fake_radius = _radius(real, k), _radius(fake, k)

    balls, covered, recalled, start = np.zeros(len(fake), np.int64), 0, 0, 0
    for distances in pairwise_distances_chunked(real, fake, working_memory=_MEGABYTES):
        end = start + len(distances)
        inside = distances <= real_radius[start:end, None]
        balls += inside.sum(axis=0)
        covered += int(inside.any(axis=1).sum())
        recalled += int((distances <= fake_radius).any(axis=1).sum())
        start = end
    n, m = len(real), len(fake)
    return Manifold(
        precision=int(np.count_nonzero(balls)) / m,
        recall=recalled / n,
        density=float(balls.sum()) / (k * m),
        coverage=covered / n,
    )


def _radius(x: np.ndarray, k: int) -> np.ndarray:
    """The distance of each row to its k-th neighbour among the others, `[N]`."""
    from sklearn.neighbors import NearestNeighbors

    distances, _ = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(x).kneighbors()
    return np.asarray(distances[:, -1])


def diversity(x: Array | np.ndarray, labels: np.ndarray | None = None) -> float:
    """The mean Euclidean distance of two different rows, `mean_{i != j} |x_i - x_j|`, of all pairs, in blocks; with
    labels of all pairs of one label.

    Its expectation does not depend on N. It knows nothing of quality, noise is diverse: see it beside precision, and
    beside that of real images. Copies and modes that are left out lower it, and so does too strong a guidance.

    Args:
      x: `[N, D]`.
      labels: whole numbers `[N]`, or None.

    Raises:
      InputError: x as of `moments`; no two rows, or none of one label; another number of labels.

    >>> x = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]])  # 5, 0 and 5 apart
    >>> diversity(x), diversity(x, np.array([1, 1, 2]))
    (3.3333333333333335, 5.0)

    Source: Zhu et al. 2017 (arXiv 1711.11586) measure diversity so, by LPIPS and of random pairs.
    """
    from sklearn.metrics import pairwise_distances_chunked

    x = features(x, least=2)
    labels = np.zeros(len(x), int) if labels is None else np.asarray(labels)
    require(labels.shape == (len(x),), f"labels: expected one per row, {(len(x),)}, got the shape {labels.shape}")
    total, pairs = 0.0, 0
    for label in np.unique(labels):
        some = x[labels == label]
        for distances in pairwise_distances_chunked(some, working_memory=_MEGABYTES):
            total += float(distances.sum(dtype=np.float64))
        pairs += len(some) * (len(some) - 1)
    require(pairs > 0, "labels: no two rows have the same one")
    return total / pairs


def nearest(x: Array | np.ndarray, among: Array | np.ndarray, *, k: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest rows of a set for each row of another, nearest first: what a sample may have been copied from.

    A distance means little alone: compare those of samples to the training set with those of held-out data to it.

    Args:
      x: `[N, D]`, such as samples.
      among: `[M, D]`, such as the training set.
      k: at least 1, at most M.

    Returns:
      Euclidean distances `[N, k]`, 0 for an exact copy; and the rows of `among`, whole numbers `[N, k]`.

    Raises:
      InputError: x or among as of `moments`; of different dimensions; fewer than k rows in `among`.

    >>> distances, rows = nearest(np.array([[0.9], [7.0]]), np.array([[5.0], [1.0], [7.0]]))
    >>> distances.round(6).tolist(), rows.tolist()
    ([[0.1], [0.0]], [[1], [2]])
    """
    from sklearn.neighbors import NearestNeighbors

    x, among = paired_features(x, among, ("x", "among"))
    check_whole("k", k)
    require(k <= len(among), f"among: {len(among)} rows have no {k} nearest; give more rows or less k")
    rows = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(among).kneighbors(x, return_distance=False)
    distances = np.empty(rows.shape)
    for i, row in enumerate(x):  # again by differences, as |x|^2 - 2 x . y + |y|^2 is not 0 for a copy
        exact = np.linalg.norm(row.astype(np.float64) - among[rows[i]], axis=1)
        order = np.argsort(exact, kind="stable")
        distances[i], rows[i] = exact[order], rows[i, order]
    return distances, rows
