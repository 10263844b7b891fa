"""Whether samples are copies of the images that were trained on."""

from typing import NamedTuple

import numpy as np

from jaxdiff.evaluation.measure import some_of
from jaxdiff.metrics import nearest
from jaxdiff.typing import InputError


class Copies(NamedTuple):
    """What `copies` finds.

    Attributes:
      distances: of each sample to its nearest real images, nearest first, `[N, k]`.
      rows: these images, `[N, k]`.
      radius: within which `quantile` of the real images have another one.
      share: of the samples that have a real image within it.
      exact: how many samples have one at distance 0.
      median: of the distances of real images to the nearest other one.
    """

    distances: np.ndarray
    rows: np.ndarray
    radius: float
    share: float
    exact: int
    median: float


def copies(
    samples: np.ndarray, real: np.ndarray, *, k: int = 1, quantile: float = 0.01, among: int | None = None
) -> Copies:
    """A check of memorisation by the nearest neighbours in features,

        radius = the quantile of min_{j != i} |real_i - real_j|
        share  = mean_n [min_j |sample_n - real_j| <= radius]

    Of samples from the distribution of the real images the share is about the quantile; of copies it is 1. It sees
    copies of images that are far from all others, and is blind where the real images lie dense.

    Args:
      samples: features, `[N, D]`.
      real: features of what was trained on, `[M, D]`.
      k: how many neighbours are wanted of each sample.
      quantile: above 0, below 1.
      among: how many of the real images set the radius, always the same ones; default all.

    Raises:
      InputError: a quantile that is none, fewer than two real images, and as of `metrics.nearest`.

    >>> real = np.arange(0.0, 100.0)[:, None] ** 2
    >>> found = copies(np.array([[4.0], [30.0], [36.5]]), real, quantile=0.02)
    >>> found.radius, found.exact, round(found.share, 2)  # 0, 1, 4 and 9 have another one within 1 or 3
    (1.0, 1, 0.67)
    """
    if not 0 < quantile < 1:
        raise InputError(f"quantile: expected a number above 0 and below 1, got {quantile}")
    if len(real) < 2:
        raise InputError(f"real: {len(real)} rows have no nearest other; give at least 2")
    distances, rows = nearest(samples, real, k=k)
    chosen = some_of(np.arange(len(real)), min(among or len(real), len(real)), np.random.default_rng(0))
    own, _ = nearest(real[chosen], real, k=2)  # of which the first is the image itself
    radius = float(np.quantile(own[:, 1], quantile, method="inverted_cdf"))
    first = distances[:, 0]
    return Copies(
        distances, rows, radius, float(np.mean(first <= radius)), int(np.sum(first == 0)), float(np.median(own[:, 1]))
    )
