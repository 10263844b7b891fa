"""Which examples are unlike a set of normal ones, and how well a score tells."""

from typing import NamedTuple

import numpy as np

from jaxdiff.metrics.base import features, require
from jaxdiff.typing import Array


class Normal(NamedTuple):
    """What curves of normal examples are like: of errors take the logarithms, which are closer to Gaussian.

    Attributes:
      mean: `[n]`, float64.
      std: `[n]`.
      precision: the inverse of the curves' correlations, `[n, n]`, after shrinkage.

    >>> curves = np.random.default_rng(0).normal([0.0, 5.0], [1.0, 2.0], (100_000, 2))
    >>> normal = Normal.of(curves)
    >>> [score(np.array([[1.0, 7.0]])).round(1).tolist() for score in (normal.z, normal.mahalanobis)]
    [[1.0], [1.4]]
    """

    mean: np.ndarray
    std: np.ndarray
    precision: np.ndarray

    @classmethod
    def of(cls, curves: Array | np.ndarray) -> "Normal":
        """From curves `[N, n]`, whose correlations are shrunk towards none, the more so the fewer there are.

        Raises:
          InputError: curves as of `moments`, fewer than n + 1 of them, or a column that is the same in all.

        Source: Ledoit & Wolf 2004, A well-conditioned estimator for large-dimensional covariance matrices.
        """
        from sklearn.covariance import ledoit_wolf  # here, for it takes a second to load

        x = features(curves, "curves", least=2).astype(np.float64)
        least = x.shape[1] + 1
        require(len(x) >= least, f"curves: {len(x)} of {least - 1} values say little of what is usual; give {least}")
        mean, std = x.mean(axis=0), x.std(axis=0, ddof=1)
        same = np.flatnonzero(std == 0)
        require(
            same.size == 0, f"curves: column {same[:1]} is the same in all {len(x)}, and says nothing; leave it out"
        )
        correlations, _ = ledoit_wolf((x - mean) / std, assume_centered=True)
        return cls(mean, std, np.linalg.inv(correlations))

    def z(self, curves: Array | np.ndarray) -> np.ndarray:
        """How much too large, the mean over the curve of `(x - mean) / std`, `[N]`: below 0 what is less than usual.

        Raises:
          InputError: curves of another length.

        Source: Graham et al. 2023 (arXiv 2211.07740), section 3, of reconstruction errors.
        """
        return np.asarray(self._standardised(curves).mean(axis=1))

    def mahalanobis(self, curves: Array | np.ndarray) -> np.ndarray:
        """How unlike, in whichever direction: `sqrt(z precision z)`, z the standardised curve, `[N]`.

        Raises:
          InputError: curves of another length.
        """
        z = self._standardised(curves)
        return np.asarray(np.sqrt(np.einsum("ni,ij,nj->n", z, self.precision, z)))

    def _standardised(self, curves: Array | np.ndarray) -> np.ndarray:
        x = features(curves, "curves").astype(np.float64)
        require(x.shape[1] == len(self.mean), f"curves: expected {len(self.mean)} values each, got {x.shape[1]}")
        return np.asarray((x - self.mean) / self.std)


def auroc(scores: Array | np.ndarray, anomalous: Array | np.ndarray) -> float:
    """The area under the ROC curve: the probability that an anomaly has a larger score than a normal example, ties
    counting half. 0.5 is what chance has.

    Args:
      scores: `[N]`.
      anomalous: which of them are anomalies, bool `[N]`.

    Raises:
      InputError: scores that are not finite or of another shape; no bools; all of them anomalies, or none.

    >>> auroc(np.array([0.1, 0.4, 0.3, 0.8]), np.array([False, False, True, True]))
    0.75

    Source: Hanley & McNeil 1982, The meaning and use of the area under a receiver operating characteristic curve.
    """
    from sklearn.metrics import roc_auc_score

    scores, anomalous = np.asarray(scores), np.asarray(anomalous)
    require(scores.ndim == 1, f"scores: expected one number per example, [N], got the shape {scores.shape}")
    features(scores[:, None], "scores")
    require(
        anomalous.shape == scores.shape and anomalous.dtype == bool,
        f"anomalous: expected a bool per score, {scores.shape}, got {anomalous.dtype} of the shape {anomalous.shape}",
    )
    require(
        0 < anomalous.sum() < len(anomalous),
        f"anomalous: {anomalous.sum()} of {len(anomalous)} are anomalies; an AUROC compares some of both",
    )
    return float(roc_auc_score(anomalous, scores))
