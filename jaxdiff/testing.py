"""Exact denoisers: data whose posterior mean is known in closed form. Test any sampler against them.

For data x_0 ~ N(m, c^2) the best prediction from x_t is, with `g = alpha c^2 / (alpha^2 c^2 + sigma^2)`,

    E[x_0 | x_t] = m + g (x_t - alpha m),        E[eps | x_t] = sigma (x_t - alpha m) / (alpha^2 c^2 + sigma^2)
"""

import jax
import jax.numpy as jnp

from jaxdiff.schedules import alpha_sigma
from jaxdiff.typing import Array, Denoiser, Prediction, Schedule


def gaussian_denoiser(*, mean: Array | float, std: Array | float, schedule: Schedule) -> Denoiser:
    """The exact denoiser of data N(mean, std^2), elementwise independent; `std = 0` is a point.

    Args:
      mean: a number or an array `[1, ...]` that broadcasts against x.
      std: likewise, not negative.
      schedule: gives alpha and sigma.

    >>> from jaxdiff.schedules import Flow
    >>> denoise = gaussian_denoiser(mean=0.0, std=1.0, schedule=Flow())
    >>> float(denoise(jnp.ones((1, 1)), jnp.float32(0.5)).x0[0, 0])
    1.0
    """

    def denoise(x_t: Array, t: Array) -> Prediction:
        alpha, sigma = alpha_sigma(x_t, t, schedule=schedule)
        residual = (x_t - alpha * mean) / (alpha**2 * std**2 + sigma**2)
        return Prediction(x0=mean + alpha * std**2 * residual, eps=sigma * residual)

    return denoise


def mixture_denoiser(*, means: Array, std: float, weights: Array, schedule: Schedule) -> Denoiser:
    """The exact denoiser of a mixture of N(means_j, std^2 I) with probabilities `weights`.

    Each component's exact denoiser, averaged with the posterior probabilities of the components given x_t,

        p(j | x_t) ~ weights_j N(x_t; alpha means_j, alpha^2 std^2 + sigma^2)

    Args:
      means: `[J, ...]`, one mean per component, in the shape of an example.
      std: the components' common standard deviation, not negative.
      weights: `[J]`, positive; need not sum to 1.
      schedule: gives alpha and sigma.

    >>> from jaxdiff.schedules import Flow
    >>> denoise = mixture_denoiser(means=jnp.array([[-1.0], [1.0]]), std=0.0, weights=jnp.ones(2), schedule=Flow())
    >>> float(denoise(jnp.zeros((1, 1)), jnp.float32(0.5)).x0[0, 0])
    0.0
    """

    def denoise(x_t: Array, t: Array) -> Prediction:
        alpha, sigma = alpha_sigma(x_t, t, schedule=schedule)
        variance = alpha**2 * std**2 + sigma**2
        log_weights = jnp.log(weights.astype(x_t.dtype))

        def component(mean: Array, log_weight: Array) -> tuple[Array, Prediction]:
            mean = mean.astype(x_t.dtype)[None]
            squares = jnp.square(x_t - alpha * mean) / variance
            log_p = log_weight - 0.5 * jnp.sum(squares, axis=range(1, x_t.ndim))
            return log_p, gaussian_denoiser(mean=mean, std=std, schedule=schedule)(x_t, t)

        log_p, predictions = jax.vmap(component)(means, log_weights)
        p = jax.nn.softmax(log_p, axis=0).reshape(log_p.shape + (1,) * (x_t.ndim - 1))
        return Prediction(x0=jnp.sum(p * predictions.x0, axis=0), eps=jnp.sum(p * predictions.eps, axis=0))

    return denoise
