"""The Inception Score, of any classifier's logits."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from jaxdiff.metrics.base import check_whole, features, require
from jaxdiff.typing import Array


class InceptionScore(NamedTuple):
    """Mean and standard deviation over the splits."""

    mean: float
    std: float


def inception_score(logits: Array | np.ndarray, *, splits: int = 10) -> InceptionScore:
    """`exp(mean_x KL(p(y | x) || p(y)))`, with p(y) the mean of p(y | x) over the split: from 1 to K, more is better.

    The rows are split in the order given: shuffle them if they are sorted by class. It rises with the number of rows of
    a split: few give a score too low, by up to the part (K - 1) / (2 rows). So a score goes with its n and splits:
    published ones are 50,000 in 10.

    Args:
      logits: `[N, K]`, before the softmax.
      splits: how many parts of N, of equal size if it divides N.

    Raises:
      InputError: logits as of `moments`; more splits than rows.

    >>> inception_score(1e3 * np.eye(4), splits=1)
    InceptionScore(mean=4.0, std=0.0)

    Source: Salimans et al. 2016 (arXiv 1606.03498), section 4.
    """
    logits = features(logits, "logits")
    check_whole("splits", splits)
    n = len(logits)
    require(splits <= n, f"splits: {n} rows cannot be split in {splits}; give splits={n} or fewer, or more rows")
    edges = np.arange(splits + 1) * n // splits
    scores = [_score(logits[start:end].astype(np.float64)) for start, end in pairwise(edges)]
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)))


def _score(logits: np.ndarray) -> float:
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    p = np.exp(log_p)
    tiny = np.finfo(np.float64).tiny  # a class that no row has: p is 0 there, and 0 log 0 is 0
    return float(np.exp(np.mean(np.sum(p * (log_p - np.log(np.maximum(p.mean(axis=0), tiny))), axis=1))))
