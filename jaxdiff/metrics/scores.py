"""Accuracy of a classifier, and the interval of any metric by bootstrap."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from jaxdiff.metrics.base import check_whole, features, require
from jaxdiff.typing import Array


def accuracy(logits: Array | np.ndarray, labels: Array | np.ndarray) -> float:
    """The part of the rows whose largest logit is that of the label, in [0, 1]; among equal logits the first counts.

    Args:
      logits: `[N, K]`.
      labels: whole numbers `[N]` from 0 to K - 1.

    Raises:
      InputError: logits as of `moments`; labels of another shape, dtype or range.

    >>> accuracy(np.array([[2.0, 1.0], [0.0, 3.0]]), np.array([0, 0]))
    0.5
    """
    logits, labels = features(logits, "logits"), np.asarray(labels)
    n, k = logits.shape
    require(labels.shape == (n,), f"labels: expected one per row of logits, {(n,)}, got the shape {labels.shape}")
    require(labels.dtype.kind in "iu", f"labels: expected whole numbers, got {labels.dtype}")
    require(
        bool(np.all((labels >= 0) & (labels < k))),
        f"labels: expected numbers from 0 to {k - 1}, got from {labels.min()} to {labels.max()}",
    )
    return float(np.mean(logits.argmax(axis=1) == labels))


class Interval(NamedTuple):
    """The ends of a confidence interval."""

    low: float
    high: float


def bootstrap(
    statistic: Callable[[np.ndarray], float],
    x: Array | np.ndarray,
    *,
    num: int = 200,
    level: float = 0.95,
    seed: int = 0,
    method: Literal["basic", "percentile"] = "basic",
) -> Interval:
    """A confidence interval of `statistic(x)`, from its values theta* on `num` draws of N rows with replacement:

        basic:         [2 theta - q(theta*, (1 + level) / 2), 2 theta - q(theta*, (1 - level) / 2)]
        percentile:    [q(theta*, (1 - level) / 2), q(theta*, (1 + level) / 2)]

    with theta the statistic of x itself and q a quantile.

    Of N draws with replacement 63 % are distinct, so a Frechet distance of them has its bias in N about twice: once of
    x, once more of the draws from x. Percentiles would lie wholly above the distance of x. "basic" takes the second
    off, and to first order in 1 / N the first too: its interval is one of the distance without bias, and may lie below
    theta. Where N is not well above the number of features neither is to be trusted. Metrics of neighbours suffer more,
    as a copy is its own neighbour at distance 0: do not bootstrap the set whose balls count.

    Args:
      statistic: `(rows of x) -> number`. For several arrays that belong together let x be `numpy.arange(N)`.
      x: `[N, ...]`.
      num: how many draws.
      level: of confidence, in (0, 1).
      seed: of the draws.
      method: "basic" or "percentile".

    Raises:
      InputError: fewer than 2 rows or draws; another level or method; a statistic that is not finite.

    >>> low, high = bootstrap(np.mean, np.arange(100.0))
    >>> round(low), round(high)  # 49.5 +- 1.96 * 28.9 / 10
    (44, 55)

    Source: Davison & Hinkley 1997, equations 5.6 and 5.18.
    """
    from scipy import stats  # here, for it takes a second to load

    x = np.asarray(x)
    require(x.ndim > 0 and len(x) > 1, f"x: expected at least 2 rows, got the shape {x.shape}")
    check_whole("num", num, 2)
    require(0 < level < 1, f"level: expected a number between 0 and 1, got {level}")
    require(method in ("basic", "percentile"), f"unknown method {method!r}; expected basic or percentile")

    def value(rows: np.ndarray) -> float:
        found = float(statistic(x[rows]))
        require(bool(np.isfinite(found)), f"the statistic of a draw with replacement is {found}; nothing bounds it")
        return found

    low, high = stats.bootstrap(
        (np.arange(len(x)),),
        value,
        n_resamples=num,
        batch=16,  # so that the rows' numbers of all draws need not be in memory
        vectorized=False,
        confidence_level=level,
        method=method,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(float(low), float(high))
