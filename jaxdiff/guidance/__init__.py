"""Guidance: denoiser -> denoiser. No sampler knows of it. To add one: a function here, and a row in its test's table.

* From two predictions (`guidance.pairs`): `classifier_free`, `rescaled`, `cfg_plus_plus`, `adaptive_projected`, each of
  a denoiser of two halves; `paired` makes one of two denoisers, `auto` and `product` combine denoisers.
* From a gradient (`guidance.gradients`): `classifier`, `posterior` and `dps`.
* From a linear measurement (`guidance.linear`, `operators`): `moment_matched` and `null_space`.
* Any `scale` may be a function of time; `interval` makes one. `APGMomentum` is the one that needs a memory, and so
  is sampler -> sampler.
"""

from jaxdiff.guidance.base import Scale, add_score, interval
from jaxdiff.guidance.gradients import classifier, dps, gaussian_likelihood, posterior
from jaxdiff.guidance.linear import moment_matched, null_space
from jaxdiff.guidance.momentum import APGMomentum
from jaxdiff.guidance.pairs import (
    adaptive_projected,
    auto,
    cfg_plus_plus,
    classifier_free,
    paired,
    product,
    rescaled,
)

__all__ = [
    "APGMomentum",
    "Scale",
    "adaptive_projected",
    "add_score",
    "auto",
    "cfg_plus_plus",
    "classifier",
    "classifier_free",
    "dps",
    "gaussian_likelihood",
    "interval",
    "moment_matched",
    "null_space",
    "paired",
    "posterior",
    "product",
    "rescaled",
]
