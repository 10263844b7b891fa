"""Exact solutions: data whose denoiser, density and flow are known in closed form. Test any sampler against them.

Data x_0 ~ N(m, c^2) has x_t ~ N(alpha m, var) with `var = alpha^2 c^2 + sigma^2`, and from x_t the best prediction is

    E[x_0 | x_t] = m + alpha c^2 (x_t - alpha m) / var,        E[eps | x_t] = sigma (x_t - alpha m) / var

Mixtures of such Gaussians average this over the components, and `std = 0` is data at points. All is computed in
float32 or better whatever the dtype of x, and is finite at both ends of every schedule, also where var = 0.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.noise import fold_in, per_example
from jaxdiff.parameterization import coefficients
from jaxdiff.schedules import alpha_sigma, as_float, expand, require, safe_sqrt
from jaxdiff.typing import Array, Denoiser, Model, Prediction, Schedule

_TINY = 1e-30  # a variance in place of 0: what is divided by it stays finite in float32


def _marginal(x: Array, t: Array, std: Array | float, schedule: Schedule) -> tuple[Array, Array, Array, Array]:
    """x in float32 or better; alpha, sigma and var = alpha^2 std^2 + sigma^2 shaped to multiply it."""
    x = as_float(x)
    alpha, sigma = alpha_sigma(x, t, schedule=schedule)
    return x, alpha, sigma, (alpha * jnp.asarray(std, x.dtype)) ** 2 + sigma**2


def _inverse(var: Array) -> Array:
    """1 / var, 0 where var = 0: a point, and at sigma = 0, from which nothing deviates."""
    some = var > 0
    return jnp.where(some, 1 / jnp.where(some, var, 1), 0)


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
        x, alpha, sigma, var = _marginal(x_t, t, std, schedule)
        m = jnp.asarray(mean, x.dtype)
        residual = (x - alpha * m) * _inverse(var)
        x0, eps = m + alpha * jnp.asarray(std, x.dtype) ** 2 * residual, sigma * residual
        return Prediction(x0.astype(x_t.dtype), eps.astype(x_t.dtype))

    return denoise


def covariance_denoiser(*, mean: Array | np.ndarray, covariance: np.ndarray, schedule: Schedule) -> Denoiser:
    """The exact denoiser of data N(mean, C) of any covariance, in C's eigenvectors that of independent Gaussians:

        E[x_0 | x_t] = m + alpha C (alpha^2 C + sigma^2 I)^{-1} (x_t - alpha m)

    Args:
      mean: `[...]`, the shape of an example.
      covariance: C, `[n, n]` of the n numbers of an example in row-major order; symmetric, not negative.
      schedule: gives alpha and sigma.

    >>> from jaxdiff.schedules import Flow
    >>> same = np.ones((2, 2))  # two pixels that are always equal
    >>> denoise = covariance_denoiser(mean=np.zeros(2), covariance=same, schedule=Flow())
    >>> bool(abs(denoise(jnp.array([[1.0, 0.0]]), jnp.float32(0.5)).x0 - 2 / 3).max() < 1e-6)
    True
    """
    values, vectors = np.linalg.eigh(np.asarray(covariance, np.float64))
    std = np.sqrt(np.maximum(values, 0))
    along = gaussian_denoiser(mean=0.0, std=jnp.asarray(std[None], jnp.float32), schedule=schedule)

    def denoise(x_t: Array, t: Array) -> Prediction:
        x = as_float(x_t)
        m, basis = jnp.asarray(mean, x.dtype)[None], jnp.asarray(vectors, x.dtype)
        deviation = (x - alpha_sigma(x, t, schedule=schedule)[0] * m).reshape(x.shape[0], -1)
        high = jax.lax.Precision.HIGHEST
        found = along(jnp.matmul(deviation, basis, precision=high), t)
        x0, eps = (jnp.matmul(half, basis.T, precision=high).reshape(x.shape) for half in found[:2])
        return Prediction((m + x0).astype(x_t.dtype), eps.astype(x_t.dtype))

    return denoise


def mixture_denoiser(
    *, means: Array | np.ndarray, std: Array | float, weights: Array | np.ndarray, schedule: Schedule
) -> Denoiser:
    """The exact denoiser of a mixture of N(means_j, std^2 I) with probabilities `weights`; `std = 0` is a data set.

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
        x = as_float(x_t)

        def component(mean: Array) -> Prediction:
            return gaussian_denoiser(mean=mean[None], std=std, schedule=schedule)(x, t)

        predictions = jax.vmap(component)(jnp.asarray(means, x.dtype))
        log_p = _component_log_density(x, t, means=means, std=std, weights=weights, schedule=schedule)
        p = jax.nn.softmax(log_p, axis=0).reshape(log_p.shape + (1,) * (x.ndim - 1))
        return Prediction(*(jnp.sum(p * half, axis=0).astype(x_t.dtype) for half in predictions[:2]))

    return denoise


def exact_model(denoise: Denoiser, *, kind: str, schedule: Schedule) -> Model:
    """The network of some kind that says what a denoiser says, `y = a x_0 + b eps`: tests the chain from a model on.

    Where a coefficient is infinite (score, and the velocity of VP, at sigma = 0) that half, whose mean is 0 there, is
    left out.

    Args:
      denoise: `(x_t, t) -> Prediction`, such as `gaussian_denoiser`.
      kind: a key of `parameterization.KINDS`.
      schedule: gives alpha and sigma.

    >>> from jaxdiff.denoise import denoiser
    >>> from jaxdiff.schedules import Flow
    >>> exact = gaussian_denoiser(mean=0.5, std=1.0, schedule=Flow())
    >>> chain = denoiser(exact_model(exact, kind="v", schedule=Flow()), kind="v", schedule=Flow())
    >>> x, t = jnp.ones((1, 1)), jnp.float32(0.5)
    >>> float(exact(x, t).x0[0, 0]), float(chain(x, t).x0[0, 0])
    (1.25, 1.25)
    """

    def model(x_t: Array, t: Array) -> Array:
        prediction = denoise(x_t, t)
        a, b = (jnp.where(jnp.isfinite(c), c, 0) for c in coefficients(t, kind=kind, schedule=schedule))
        return expand(a, x_t) * prediction.x0 + expand(b, x_t) * prediction.eps

    return model


def gaussian_log_density(x: Array, t: Array, *, mean: Array | float, std: Array | float, schedule: Schedule) -> Array:
    """`log p_t(x) = log N(x; alpha mean, alpha^2 std^2 + sigma^2)` of data N(mean, std^2), in nats.

    Args:
      x: `[B, ...]`.
      t: times, scalar or `[B]`.
      mean: a number or an array `[1, ...]` that broadcasts against x.
      std: likewise. A point (0) has a density only where sigma > 0.
      schedule: gives alpha and sigma.

    Returns:
      `[B]`, summed over the dimensions of an example.

    >>> from jaxdiff.schedules import Flow
    >>> log_p = gaussian_log_density(jnp.zeros((1, 2)), jnp.float32(1.0), mean=3.0, std=0.0, schedule=Flow())
    >>> round(float(log_p[0] + np.log(2 * np.pi)), 6)
    0.0
    """
    x, alpha, _, var = _marginal(x, t, std, schedule)
    var = jnp.where(var > _TINY, var, _TINY)  # whose gradient at var = 0 is 0, not that of 1 / var
    squares = jnp.square(x - alpha * jnp.asarray(mean, x.dtype)) / var
    return -0.5 * jnp.sum(squares + jnp.log(2 * np.pi * var), axis=range(1, x.ndim))


def _component_log_density(
    x: Array,
    t: Array,
    *,
    means: Array | np.ndarray,
    std: Array | float,
    weights: Array | np.ndarray,
    schedule: Schedule,
) -> Array:
    """`log(weights_j N(x; alpha means_j, alpha^2 std^2 + sigma^2))`, `[J, B]`, with the weights made to sum to 1."""

    def component(mean: Array) -> Array:
        return gaussian_log_density(x, t, mean=mean[None], std=std, schedule=schedule)

    log_p = jax.vmap(component)(jnp.asarray(means, as_float(x).dtype))
    return jax.nn.log_softmax(jnp.log(jnp.asarray(weights, log_p.dtype)))[:, None] + log_p


def mixture_log_density(
    x: Array,
    t: Array,
    *,
    means: Array | np.ndarray,
    std: Array | float,
    weights: Array | np.ndarray,
    schedule: Schedule,
) -> Array:
    """`log p_t(x)` `[B]`, in nats, of a mixture of N(means_j, std^2 I) with probabilities `weights` (normalised here).

    Arguments as of `mixture_denoiser`; points (`std = 0`) have a density only where sigma > 0.

    >>> from jaxdiff.schedules import Flow
    >>> same = {"means": jnp.zeros((3, 1)), "std": 1.0, "weights": jnp.ones(3), "schedule": Flow()}
    >>> round(float(jnp.exp(mixture_log_density(jnp.zeros((1, 1)), jnp.float32(0.0), **same))[0]), 6)  # N(0; 0, 1)
    0.398942
    """
    return jax.nn.logsumexp(
        _component_log_density(x, t, means=means, std=std, weights=weights, schedule=schedule), axis=0
    )


def mixture_samples(
    key: Array, n: int, *, means: Array | np.ndarray, std: Array | float, weights: Array | np.ndarray
) -> Array:
    """Draws from a mixture of N(means_j, std^2 I), float32 `[n, ...]`, each from its own key.

    Args:
      key: one typed key, or keys `[n]`.
      n: how many.
      means, std, weights: as of `mixture_denoiser`.

    >>> x = mixture_samples(jax.random.key(0), 5, means=jnp.array([[-1.0], [1.0]]), std=0.0, weights=jnp.ones(2))
    >>> sorted(set(x[:, 0].tolist()))
    [-1.0, 1.0]
    """
    keys = per_example(key, n)
    means, log_weights = jnp.asarray(means, jnp.float32), jnp.log(jnp.asarray(weights, jnp.float32))
    j = jax.vmap(lambda k: jax.random.categorical(k, log_weights))(fold_in(keys, 0))
    noise = jax.vmap(lambda k: jax.random.normal(k, means.shape[1:], jnp.float32))(fold_in(keys, 1))
    return means[j] + jnp.asarray(std, jnp.float32) * noise


def gaussian_flow(
    x: Array, t: Array, s: Array, *, mean: Array | float, std: Array | float, schedule: Schedule
) -> Array:
    """The probability-flow ODE of Gaussian data solved from time t to s, earlier or later: quantiles keep their place,

        x_s = alpha_s m + sqrt(var_s / var_t) (x_t - alpha_t m),        var = alpha^2 c^2 + sigma^2

    Args:
      x: `[B, ...]`, at time t.
      t: times, scalar or `[B]`.
      s: times, scalar or `[B]`.
      mean: a number or an array `[1, ...]` that broadcasts against x.
      std: likewise, not negative.
      schedule: gives alpha and sigma.

    >>> from jaxdiff.schedules import Flow
    >>> gaussian_flow(jnp.full((1, 1), 1.5), jnp.float32(1.0), jnp.float32(0.0), mean=2.0, std=0.1, schedule=Flow())[0]
    Array([2.15], dtype=float32)
    """
    wide, alpha_t, _, var_t = _marginal(x, t, std, schedule)
    _, alpha_s, _, var_s = _marginal(x, s, std, schedule)
    m, ratio = jnp.asarray(mean, wide.dtype), safe_sqrt(var_s * _inverse(var_t))
    return (alpha_s * m + ratio * (wide - alpha_t * m)).astype(x.dtype)


def convergence_order(errors: Sequence[float] | np.ndarray, ns: Sequence[int] | np.ndarray) -> float:
    """The order p of `error ~ n^-p`: minus the slope of the regression line of log error on log n.

    Args:
      errors: one error per run, positive; measure them in float64, rounding flattens the line.
      ns: the numbers of steps of the runs.

    Raises:
      InputError: fewer than two runs, or an error that is not positive and finite.

    >>> round(convergence_order([3.0, 0.75, 0.1875], [10, 20, 40]), 6)
    2.0
    """
    e, n = np.asarray(errors, np.float64), np.asarray(ns, np.float64)
    require(e.shape == n.shape and e.ndim == 1 and e.size > 1, f"expected an error per n; got {errors} for {ns}")
    require(bool(np.all((e > 0) & np.isfinite(e))), f"errors: expected positive finite numbers, got {errors}")
    return float(-np.polyfit(np.log(n), np.log(e), 1)[0])


def sliced_wasserstein(key: Array, x: Array, y: Array, *, projections: int = 128) -> Array:
    """The distance of two samples of equal size: the Wasserstein-2 distances of their projections on random lines,

        SW^2 = mean over unit vectors u of mean_i (sorted(x u)_i - sorted(y u)_i)^2

    In one dimension it is the Wasserstein-2 distance. It is not 0 for samples of one distribution, but falls with n;
    compare it with `sliced_wasserstein_null`.

    Args:
      key: one typed key; gives the lines.
      x: `[n, ...]`.
      y: `[n, ...]`, the shape of x.
      projections: how many lines.

    Returns:
      float32 scalar, in the units of x.

    Raises:
      InputError: another shape of y than of x.

    >>> x = jax.random.normal(jax.random.key(0), (100, 1))
    >>> round(float(sliced_wasserstein(jax.random.key(1), x, x + 0.5)), 4)
    0.5

    Source: Kolouri et al. 2019 (arXiv 1902.00434), section 2.
    """
    require(x.shape == y.shape, f"expected samples of one shape, got {x.shape} and {y.shape}")
    x, y = (jnp.asarray(a, jnp.float32).reshape(a.shape[0], -1) for a in (x, y))
    u = jax.random.normal(key, (x.shape[1], projections), jnp.float32)
    u = u / jnp.linalg.norm(u, axis=0, keepdims=True)
    high = jax.lax.Precision.HIGHEST
    gap = jnp.sort(jnp.matmul(x, u, precision=high), axis=0) - jnp.sort(jnp.matmul(y, u, precision=high), axis=0)
    return jnp.sqrt(jnp.mean(jnp.square(gap)))


def sliced_wasserstein_null(
    key: Array, draw: Callable[[Array, int], Array], *, n: int, repeats: int, projections: int = 128
) -> Array:
    """`sliced_wasserstein` of exact against exact: what the distance is when nothing is wrong.

    A sampler is right if its distance to an exact sample lies below a quantile, `jnp.quantile(null, 0.99)`.

    Args:
      key: one typed key.
      draw: `(key, n) -> exact samples [n, ...]`, such as `mixture_samples` with its parameters bound.
      n: the size of each sample: the one that the sampler will be judged with.
      repeats: how many independent pairs; 200 give the 99 % quantile.
      projections: how many lines, as in the comparison.

    Returns:
      float32 `[repeats]`.

    >>> from jaxdiff import white_noise
    >>> null = sliced_wasserstein_null(jax.random.key(0), lambda key, n: white_noise(key, (n, 2)), n=100, repeats=20)
    >>> null.shape, bool(jnp.quantile(null, 0.99) < 0.5)
    ((20,), True)
    """

    def once(k: Array) -> Array:
        first, second, lines = jax.random.split(k, 3)
        return sliced_wasserstein(lines, draw(first, n), draw(second, n), projections=projections)

    return jnp.asarray(jax.lax.map(once, jax.random.split(key, repeats)))
