"""Guidance by a linear measurement `y = A x + noise_std n`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdiff.guidance.base import add_score
from jaxdiff.operators import Operator
from jaxdiff.schedules import alpha_sigma, as_float, check_whole, expand, require
from jaxdiff.typing import Array, Denoiser, Prediction, Schedule


def moment_matched(
    denoise: Denoiser,
    y: Array,
    A: Callable[[Array], Array],
    *,
    noise_std: Array | float,
    schedule: Schedule,
    iterations: int = 5,
) -> Denoiser:
    """Posterior sampling with the denoiser's own second moments: x_0 given x_t taken as Gaussian, N(x0, S),

        x0 <- x0 + S A^T (A S A^T + noise_std^2 I)^{-1} (y - A x0),        S = (sigma^2 / alpha) dx0 / dx_t

    S is Cov[x_0 | x_t] (Tweedie's second formula), never formed: the system is solved by conjugate gradients, each
    iteration a product with A S A^T. As a covariance is symmetric, S v is a derivative in the direction v, forward: it
    costs about a call of the network, and no memory. (A network's dx0 / dx_t is symmetric as far as it is right. And on
    CPUs a backward pass inside a loop is far slower.) eps follows x0, as of a score (`add_score`).

    Exact for Gaussian data of any covariance, any linear A and any noise_std, 0 too, with as many iterations as there
    are measured numbers (often far fewer); for other data an approximation, best at low noise. At alpha = 0 it does
    nothing. Wrap the network before it is clipped, and clip what this returns: a clipped pixel has no variance.

    Args:
      denoise: the denoiser of the prior.
      y: what was measured, `[B, ...]`.
      A: linear, pictures `[B, ...]` to measurements, each from its own example; see `operators`.
      noise_std: of the measurement, 0 or more; a number or `[B]`.
      schedule: gives alpha and sigma.
      iterations: of conjugate gradients, the same number for each example.

    Raises:
      InputError: fewer than one iteration; a negative noise_std.

    >>> from jaxdiff import operators, testing
    >>> from jaxdiff.schedules import Flow
    >>> prior = testing.gaussian_denoiser(mean=0.0, std=1.0, schedule=Flow())  # at t = 1/2 x0 = x_t, S = 1/2
    >>> guided = moment_matched(prior, jnp.full((1, 1), 4.0), lambda x: 2 * x, noise_std=1.0, schedule=Flow())
    >>> round(float(guided(jnp.ones((1, 1)), jnp.float32(0.5)).x0[0, 0]), 5)  # 1 + (1/2) 2 (4 / 2 + 1)^-1 (4 - 2)
    1.66667

    Source: Boys et al. 2023 (arXiv 2310.06721), section 3; by conjugate gradients Rozet et al. 2024 (arXiv
    2405.13712), section 4.
    """
    check_whole("iterations", iterations)
    if isinstance(noise_std, int | float):
        require(noise_std >= 0, f"noise_std: expected 0 or more, got {noise_std}")

    def guided(x_t: Array, t: Array) -> Prediction:
        def predicted(x: Array) -> tuple[Array, Prediction]:
            prediction = denoise(x, t)
            return prediction.x0, prediction

        x0, along, prediction = jax.linearize(predicted, x_t, has_aux=True)
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        signal = alpha > 0
        gain = expand(jnp.where(signal, sigma**2 / jnp.where(signal, alpha, 1), 0), x_t)
        measured, back = jax.vjp(A, x0)
        variance = expand(jnp.square(jnp.asarray(noise_std)), measured)

        def direction(u: Array) -> Array:  # dx0 / dx_t A^T u
            found = jnp.asarray(along(*back(u.astype(measured.dtype))))
            return jnp.where(
                expand(signal, found) > 0, found, 0
            )  # what a network says of data that x_t knows nothing of

        def product(u: Array) -> Array:
            return jnp.asarray(variance * u + jax.jvp(A, (x0,), (gain * direction(u),))[1])

        u = _conjugate_gradient(product, jnp.asarray(y, measured.dtype) - measured, iterations)
        return add_score(prediction, direction(u), t, schedule=schedule)

    return guided


def null_space(denoise: Denoiser, y: Array, operator: Operator, *, schedule: Schedule) -> Denoiser:
    """What was measured without noise is put into every prediction; the rest, A's null space, stays the network's:

        x0 <- x0 + A^+ (y - A x0),        eps = (x_t - alpha x0) / sigma

    One call of the network, no gradient. The sample fulfils `A x = y`; it is not the posterior's (as its mean and
    variance ignore how uncertain x0 is), but sharp.

    Args:
      denoise: the denoiser of the prior.
      y: what was measured, `[B, ...]`.
      operator: A with `pinv`; see `operators`.
      schedule: gives alpha and sigma.

    >>> from jaxdiff import operators
    >>> from jaxdiff.schedules import Flow
    >>> half = operators.Mask(jnp.array([1.0, 0.0]))
    >>> guided = null_space(lambda x, t: Prediction(x, x), jnp.array([[5.0, 0.0]]), half, schedule=Flow())
    >>> guided(jnp.ones((1, 2)), jnp.float32(0.5)).x0.tolist()
    [[5.0, 1.0]]

    Source: Wang et al. 2022 (arXiv 2212.00490), eq. 13 and Algorithm 1.
    """

    def projected(x_t: Array, t: Array) -> Prediction:
        prediction = denoise(x_t, t)
        correction = operator.pinv(jnp.asarray(y, prediction.x0.dtype) - operator(prediction.x0))
        alpha, sigma = alpha_sigma(x_t, t, schedule=schedule)
        ratio = jnp.where(sigma > 0, alpha / jnp.where(sigma > 0, sigma, 1), 0)  # at sigma = 0 eps is not known
        return prediction._replace(x0=prediction.x0 + correction, eps=prediction.eps - ratio * correction)

    return projected


def _conjugate_gradient(product: Callable[[Array], Array], b: Array, iterations: int) -> Array:
    """u with `product(u) = b`, product symmetric and positive semidefinite, each example a system of its own.

    (jax.scipy's takes a batch for one system, whose steps would then depend on the batch that an example is in.) What a
    network says is positive and symmetric in part only, where the residual may grow: u is that of the smallest one.
    """

    def dot(a: Array, c: Array) -> Array:
        return jnp.sum(as_float(a) * as_float(c), axis=tuple(range(1, a.ndim)), keepdims=True)

    def ratio(a: Array, c: Array) -> Array:  # nothing is left to solve, or product sees nothing of the direction
        return jnp.where(c > 0, a / jnp.where(c > 0, c, 1), 0)

    def step(_: int, state: tuple[Array, ...]) -> tuple[Array, ...]:
        u, r, p, size, best, least = state
        q = product(p)
        a = ratio(size, dot(p, q))
        u, r = u + a * p, r - a * q
        new = dot(r, r)
        better = new < least
        return u, r, r + ratio(new, size) * p, new, jnp.where(better, u, best), jnp.where(better, new, least)

    b = as_float(b)
    start = (jnp.zeros_like(b), b, b, dot(b, b), jnp.zeros_like(b), dot(b, b))
    return jnp.asarray(jax.lax.fori_loop(0, iterations, step, start)[4])
