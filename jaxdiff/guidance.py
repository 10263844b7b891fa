"""Guidance: denoiser -> denoiser. No sampler knows of it."""

import jax.numpy as jnp

from jaxdiff.schedules import expand
from jaxdiff.typing import Array, Denoiser, Prediction


def classifier_free(denoise: Denoiser, *, scale: Array | float) -> Denoiser:
    """Classifier-free guidance from one batched call of two halves:

        y = y_uncond + scale (y_cond - y_uncond)        for x0 and eps alike

    Scale 0 is unconditional, 1 conditional, above 1 guided. (The paper's w is scale - 1.)

    Args:
      denoise: a denoiser of a batch of 2 B: conditional on the first half, unconditional on the second. Bind the
        network to labels `concatenate([labels, null])` to get it.
      scale: a number or one per example `[B]`; a traced value, so that another scale does not recompile.

    Returns:
      a denoiser of a batch of B; `log_var` is the conditional one.

    >>> both = lambda x, t: Prediction(*(2 * [jnp.concatenate([jnp.ones((1, 1)), jnp.zeros((1, 1))])]))
    >>> float(classifier_free(both, scale=1.5)(jnp.zeros((1, 1)), jnp.float32(0.5)).x0[0, 0])
    1.5

    Source: Ho & Salimans 2022 (arXiv 2207.12598), eq. 6.
    """

    def guided(x_t: Array, t: Array) -> Prediction:
        twice = t if jnp.ndim(t) == 0 else jnp.concatenate([t, t])
        both = denoise(jnp.concatenate([x_t, x_t]), twice)
        w = expand(jnp.asarray(scale, x_t.dtype), x_t)

        def mix(y: Array) -> Array:
            conditional, unconditional = jnp.split(y, 2)
            return unconditional + w * (conditional - unconditional)

        log_var = None if both.log_var is None else jnp.split(both.log_var, 2)[0]
        return Prediction(mix(both.x0), mix(both.eps), log_var)

    return guided
