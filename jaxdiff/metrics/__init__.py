"""Metrics: pure functions of arrays. They know no network, no data set and no file: whoever calls has the features.

* Of two sets of features, in float64 on the host: `frechet_distance` of `Moments` (FID, sFID), which add up over a
  stream or over machines by `merged`; its limit `frechet_infinity`; `kernel_distance` (KID); `manifold` (precision,
  recall, density, coverage); `nearest`, the check for copies. Of one: `diversity`.
* Of a classifier's logits: `inception_score`, `accuracy`.
* Of scores and curves of single examples: `Normal`, what is unlike the normal ones; `auroc`.
* Of pairs of images, in JAX, per example: `psnr`, `ssim`, `ms_ssim`.
* An interval for any of them: `bootstrap`.

The sliced Wasserstein distance is `jaxdiff.testing.sliced_wasserstein`, bits/dim are in `jaxdiff.likelihood`.
"""

from jaxdiff.metrics.frechet import FrechetInfinity, frechet_distance, frechet_infinity, frechet_to
from jaxdiff.metrics.inception_score import InceptionScore, inception_score
from jaxdiff.metrics.kernel import KernelDistance, kernel_distance
from jaxdiff.metrics.moments import Moments, merged, moments
from jaxdiff.metrics.neighbours import Manifold, diversity, manifold, nearest
from jaxdiff.metrics.outliers import Normal, auroc
from jaxdiff.metrics.paired import ms_ssim, psnr, ssim
from jaxdiff.metrics.scores import Interval, accuracy, bootstrap

__all__ = [
    "FrechetInfinity",
    "InceptionScore",
    "Interval",
    "KernelDistance",
    "Manifold",
    "Moments",
    "Normal",
    "accuracy",
    "auroc",
    "bootstrap",
    "diversity",
    "frechet_distance",
    "frechet_infinity",
    "frechet_to",
    "inception_score",
    "kernel_distance",
    "manifold",
    "merged",
    "moments",
    "ms_ssim",
    "nearest",
    "psnr",
    "ssim",
]
