"""Guidance by a gradient: Bayes' rule for scores, `grad log p(x_t | y) = grad log p(x_t) + grad log p(y | x_t)`.

What is added to the score moves both halves of the prediction (`guidance.add_score`). The kinds differ only in where
`log p(y | x_t)` comes from: a network on noisy data, or a likelihood of the denoised picture, differentiated through
the denoiser.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdiff.guidance.base import Scale, add_score, scale_at
from jaxdiff.process import transition
from jaxdiff.schedules import as_float, require, safe_sqrt
from jaxdiff.typing import Array, Denoiser, Prediction, Schedule

LogProb = Callable[[Array, Array], Array]
"""`(x [B, ...], t scalar or [B]) -> log p(y | x)` `[B]`, each from its own example."""


def classifier(denoise: Denoiser, log_prob: LogProb, *, scale: Scale, schedule: Schedule) -> Denoiser:
    """Classifier guidance: `eps - scale sigma grad log p(y | x_t)`, and x0 with it.

    Scale 1 is Bayes' rule; guiding an unconditional model by scale w is `classifier_free` of scale w.

    Args:
      denoise: the unconditional denoiser (or a conditional one, guided further).
      log_prob: `(x_t, t) -> log p(y | x_t)` `[B]` of the wanted labels, by a classifier of noisy data.
      scale: 0 does nothing; a number, `[B]`, or a function of time (`interval(..., outside=0.0)`).
      schedule: gives alpha and sigma.

    >>> from jaxdiff.schedules import Flow
    >>> denoise = lambda x, t: Prediction(x, x)
    >>> guided = classifier(denoise, lambda x, t: 2 * x[:, 0], scale=3.0, schedule=Flow())
    >>> float(guided(jnp.ones((1, 1)), jnp.float32(0.5)).eps[0, 0])
    -2.0

    Source: Dhariwal & Nichol 2021 (arXiv 2105.05233), Algorithm 2.
    """

    def guided(x_t: Array, t: Array) -> Prediction:
        g = jax.grad(lambda x: jnp.sum(log_prob(x, t)))(x_t)
        return add_score(denoise(x_t, t), scale_at(scale, t, x_t) * g, t, schedule=schedule)

    return guided


def posterior(denoise: Denoiser, log_likelihood: LogProb, *, schedule: Schedule, scale: Scale = 1.0) -> Denoiser:
    """Posterior sampling: classifier guidance with `log p(y | x_t)` taken at the denoised picture,

        score + scale grad_{x_t} log p(y | x0(x_t)),

    the gradient through the denoiser (it costs a backward pass of the network).

    Args:
      denoise: the denoiser of the prior.
      log_likelihood: `(x0, t) -> log p(y | x0)` `[B]`, such as `gaussian_likelihood`; any differentiable reward.
      schedule: gives alpha and sigma.
      scale: 1 is Bayes' rule; a number, `[B]`, or a function of time.

    >>> from jaxdiff.schedules import Flow
    >>> guided = posterior(lambda x, t: Prediction(2 * x, 0 * x), lambda x0, t: x0[:, 0], schedule=Flow())
    >>> float(guided(jnp.ones((1, 1)), jnp.float32(0.5)).x0[0, 0])
    3.0

    Source: Chung et al. 2023 (arXiv 2209.14687), section 3.2; on rewards Bansal et al. 2023 (arXiv 2302.07121).
    """

    def guided(x_t: Array, t: Array) -> Prediction:
        def log_prob(x: Array) -> tuple[Array, Prediction]:
            prediction = denoise(x, t)
            return jnp.sum(log_likelihood(prediction.x0, t)), prediction

        g, prediction = jax.grad(log_prob, has_aux=True)(x_t)
        return add_score(prediction, scale_at(scale, t, x_t) * g, t, schedule=schedule)

    return guided


def gaussian_likelihood(
    y: Array,
    A: Callable[[Array], Array],
    *,
    noise_std: Array | float,
    schedule: Schedule,
    data_std: Array | float = 0.0,
) -> LogProb:
    """The likelihood of a measurement `y = A(x) + noise_std n`, n ~ N(0, I), for `posterior`, up to a constant:

        log p = -|y - A(x0)|^2 / (2 (noise_std^2 + r_t^2)),        r_t^2 = c^2 sigma^2 / (alpha^2 c^2 + sigma^2)

    r_t is how uncertain x0 is given x_t, if the data had variance c^2 = `data_std`^2. For data N(m, c^2 I) and linear
    A with `A A^T = I` it makes `posterior` exact; c = 0 is DPS as derived, which overrates what is measured while
    the noise is large, and with a small `noise_std` moves far.

    Args:
      y: what was measured, `[B, ...]` (or `[1, ...]`, for all).
      A: pictures `[B, ...]` to measurements, differentiable, each from its own example.
      noise_std: positive; a number or `[B]`.
      schedule: gives alpha and sigma.
      data_std: c; a number or `[B]`.

    >>> from jaxdiff.schedules import Flow
    >>> log_p = gaussian_likelihood(jnp.ones((1, 1)), lambda x: 2 * x, noise_std=0.5, schedule=Flow())
    >>> float(log_p(jnp.ones((1, 1)), jnp.float32(0.5))[0])
    -2.0

    Source: Chung et al. 2023 (arXiv 2209.14687), section 3.2; r_t as in Song et al. 2023 (PiGDM, ICLR), section 3.
    """
    if isinstance(noise_std, (int, float)):
        require(noise_std > 0, f"noise_std: expected more than 0, got {noise_std}")

    def log_likelihood(x0: Array, t: Array) -> Array:
        alpha, sigma, c = schedule.alpha(t), schedule.sigma(t), jnp.asarray(data_std)
        signal, noise = jnp.square(alpha * c), jnp.square(sigma)
        some = signal + noise > 0
        r2 = jnp.where(some, jnp.square(c) * noise / jnp.where(some, signal + noise, 1), 0)
        return -0.5 * _squares(y, A(x0)) / (jnp.square(jnp.asarray(noise_std)) + r2)

    return log_likelihood


def dps(
    denoise: Denoiser,
    y: Array,
    A: Callable[[Array], Array],
    *,
    zeta: Array | float,
    steps: int,
    schedule: Schedule,
) -> Denoiser:
    """Diffusion posterior sampling with the paper's step size: together with `samplers.DDPM` its Algorithm 1,

        x_s <- x_s - (zeta / |y - A(x0)|) grad_{x_t} |y - A(x0)|^2        after the ancestral step from t to s

    As denoiser -> denoiser: the mean of q(x_s | x_t, x0) holds `(alpha_s sigma_ts^2 / sigma_t^2) x0`, and a score moved
    by g moves x0 by `(sigma_t^2 / alpha_t) g`, hence x_s by `(sigma_ts^2 / alpha_ts) g`. So the algorithm is
    `posterior` with

        log p = -|y - A(x0)|,        scale(t) = 2 zeta alpha_ts / sigma_ts^2,

    a likelihood that grows as steps get smaller: unlike `gaussian_likelihood` it depends on the grid, and with other
    samplers than DDPM it is another algorithm.

    Args:
      denoise: the denoiser of the prior.
      y: what was measured, `[B, ...]` (or `[1, ...]`, for all).
      A: pictures `[B, ...]` to measurements, differentiable, each from its own example.
      zeta: the paper's zeta', often 0.1 to 1; a number or `[B]`.
      steps: of the sampling grid, which must be even, `s = t - 1 / steps` (`timesteps.uniform`, or `trailing` where
        steps divides T).
      schedule: gives alpha and sigma.

    >>> from jaxdiff.schedules import Flow
    >>> guided = dps(lambda x, t: Prediction(x, x), jnp.zeros((1, 1)), lambda x: x, zeta=0.5, steps=2, schedule=Flow())
    >>> float(guided(jnp.ones((1, 1)), jnp.float32(0.5)).x0[0, 0])  # the last step lands on x0 - 2 zeta
    0.0

    Source: Chung et al. 2023 (arXiv 2209.14687), Algorithm 1 and its step size, section 4 and appendix.
    """

    def log_likelihood(x0: Array, t: Array) -> Array:
        return -safe_sqrt(_squares(y, A(x0)))

    def scale(t: Array) -> Array:
        t = as_float(t)
        alpha_ts, var = transition(jnp.maximum(t - 1 / steps, 0), t, schedule=schedule)
        return 2 * jnp.asarray(zeta) * jnp.where(var > 0, alpha_ts / jnp.where(var > 0, var, 1), 0)

    return posterior(denoise, log_likelihood, schedule=schedule, scale=scale)


def _squares(y: Array, measured: Array) -> Array:
    """`|y - A(x0)|^2` of each example, in float32 or better."""
    measured = as_float(measured)
    residual = jnp.asarray(y).astype(measured.dtype) - measured
    return jnp.sum(jnp.square(residual), axis=tuple(range(1, residual.ndim)))
