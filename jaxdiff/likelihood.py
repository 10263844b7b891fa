"""How likely data is under a model, per example: the variational bound, and the density of the probability-flow ODE.

What the number is of, is said by the function that gives it:

* `vlb`: an upper bound of `-log2 P(x_0)` per dimension, for images on 256 levels by the decoder's discretised Gaussian,
  and for continuous data (`bins=None`) of minus the log2-density;
* `ode`: the log-density of continuous data. Images on levels have none: add noise to fill the gaps between the levels.
  `dequantised` does, and returns bits/dim that bound those of the images and compare with `vlb`.

Nats become bits in `likelihood_terms.bits_per_dim` only.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.likelihood_terms import bits_per_dim, gaussian_log_prob, prior_term, total, vlb_term
from jaxdiff.noise import fold_in, per_example, white_noise
from jaxdiff.ode import Solver, integrate, scale_clock, straight_slope
from jaxdiff.process import Variance, q_sample
from jaxdiff.samplers.loop import check_times
from jaxdiff.schedules import as_float, check_monotone, check_whole, expand, require
from jaxdiff.typing import Array, Denoiser, InputError, Noise, Schedule


def vlb(
    key: Array,
    x0: Array,
    denoise: Denoiser,
    *,
    schedule: Schedule,
    times: Array | np.ndarray,
    variance: Variance,
    bins: int | None = 256,
    noise: Noise = white_noise,
) -> dict[str, Array]:
    """The variational bound of the sampler `DDPM(schedule, variance)` on a grid of times, in bits/dim:

        -log2 p(x_0) / D <= total = prior + sum of terms,    one draw of x_t ~ q(x_t | x_0) per term

    One draw is noisy: of an example by about 1.2 / sqrt(D) bits/dim (standard deviation, on Gaussian data with 1,000
    steps). Average over keys, or over the examples of a data set.

    Args:
      key: one typed key, or keys `[B]`.
      x0: data `[B, ...]`; with `bins`, images on that many levels of [-1, 1].
      denoise: `(x_t, t) -> Prediction`.
      schedule: gives alpha and sigma.
      times: `[n + 1]`, decreasing from 1 to 0: the grid that is sampled on. Of a table `timesteps.uniform(T)` for the
        bound of the papers, `trailing` for that of fewer steps. Of a continuous schedule what is even in t may be far
        too coarse, and one with sigma(0) > 0 does not end at the data: see `build.bound_chain`.
      variance: of the reverse process; see `process.reverse_log_var`. `fixed_large` is the true one as long as the
        noise is small against the spread of the data, `fixed_small` that of data at points.
      bins: the decoder's levels; None: the data is continuous.
      noise: what x_t is made with.

    Returns:
      `total`, `prior`, `decoder` `[B]`, the decoder being the last of the `terms` `[n, B]`, in the order of the grid;
      and the mean squared errors of the predictions, `x0_mse` and `eps_mse` `[n, B]`.

    Raises:
      InputError: a grid that does not fall from 1 to 0: the bound is of a chain from pure noise to the data.

    >>> from jaxdiff import schedules, testing, timesteps
    >>> x0, schedule = jnp.full((1, 5000), 0.2), schedules.linear()
    >>> denoise = testing.gaussian_denoiser(mean=0.0, std=0.2, schedule=schedule)
    >>> bits = vlb(jax.random.key(0), x0, denoise, schedule=schedule, times=timesteps.uniform(1000),
    ...            variance="fixed_large", bins=None)
    >>> bits["terms"].shape, round(float(bits["total"][0]), 1)  # -log2 N(0.2; 0, 0.2^2) = -0.27
    ((1000, 1), -0.3)

    Source: Ho et al. 2020 (arXiv 2006.11239), eq. 5; reported as in Nichol & Dhariwal 2021 (arXiv 2102.09672),
    section 3.3.
    """
    grid, times = times, check_times(times)
    ends = isinstance(grid, jax.core.Tracer) or (float(grid[0]) == 1 and float(grid[-1]) == 0)
    require(ends, f"times: expected a grid from 1 to 0, got one from {grid[0]} to {grid[-1]}")
    _require_floats(x0)
    check_monotone(schedule)
    x0 = as_float(x0)
    keys = per_example(key, x0.shape[0])

    def body(_: None, step: tuple[Array, Array, Array]) -> tuple[None, tuple[Array, Array, Array]]:
        i, t, s = step
        eps = noise(fold_in(keys, i), x0.shape).astype(x0.dtype)
        x_t = q_sample(x0, t, eps, schedule=schedule)
        prediction = denoise(x_t, t)
        term = vlb_term(x0, x_t, s, t, prediction, schedule=schedule, variance=variance, bins=bins)
        return None, (term, _mse(prediction.x0, x0), _mse(prediction.eps, eps))

    steps: Any = (jnp.arange(times.shape[0] - 1), times[:-1], times[1:])
    _, (terms, x0_mse, eps_mse) = jax.lax.scan(body, None, steps)
    prior = prior_term(x0, schedule=schedule)
    return {
        "total": prior + terms.sum(0),
        "prior": prior,
        "decoder": terms[-1],
        "terms": terms,
        "x0_mse": x0_mse,
        "eps_mse": eps_mse,
    }


def _mse(guess: Array, truth: Array) -> Array:
    return jnp.mean(jnp.square(guess.astype(truth.dtype) - truth), axis=range(1, truth.ndim))


class Density(NamedTuple):
    """What `ode` finds.

    Attributes:
      log_density: `log p(x)` in nats, `[B]`.
      bits_per_dim: minus it, in bits per dimension, `[B]`: of continuous data in its own units, may be negative.
      latent: `x_1`, the noise that the ODE connects x with.
      nfe: how often the denoiser and its derivative were called, for the whole batch; int32.
    """

    log_density: Array
    bits_per_dim: Array
    latent: Array
    nfe: Array


def rademacher(key: Array, shape: tuple[int, ...]) -> Array:
    """Random signs, float32 `[B, ...]`, each example from its own key: the probe of least variance with independent
    elements, exact where the Jacobian is diagonal.

    >>> sorted(set(rademacher(jax.random.key(0), (2, 8)).ravel().tolist()))
    [-1.0, 1.0]
    """
    keys = per_example(key, shape[0])
    return jax.vmap(lambda k: jax.random.rademacher(k, shape[1:], jnp.float32))(keys)


def ode(
    key: Array,
    x: Array,
    denoise: Denoiser,
    *,
    schedule: Schedule,
    start: Array | float = 1e-5,
    probe: Noise | None = rademacher,
    prior_log_density: Callable[[Array], Array] | None = None,
    rtol: Array | float = 1e-5,
    atol: Array | float = 1e-5,
    solver: Solver = "Tsit5",
    max_steps: int = 4096,
) -> Density:
    """The log-density of data under the probability-flow ODE, by the instantaneous change of variables,

        log p(x) = log p_1(x_1) + integral of tr(df/dz) dtau + D log(scale_1 / scale_start)

    along the path of `jaxdiff.ode`, dz/dtau = f, from `start` to 1. The trace is Hutchinson's estimate v . (df/dz) v
    with one v for the whole path, an unbiased estimate of the log-density, or exact.

    The density is that of the model at the time `start`, p_start(x): the data is taken to have been noised that
    little. Near 0 the ODE is not solved: a network says nothing of one half of its input at sigma = 0. Where the data
    lies near a surface of lower dimension the result depends on it, because the density grows without bound as
    `start` goes to 0. A network of T steps knows no time before 1 / T: give it `start=1 / T`.

    Args:
      key: one typed key, or keys `[B]`: the probes'.
      x: `[B, ...]`, continuous: images on levels through `dequantised`.
      denoise: `(x_t, t) -> Prediction`; an example's must not depend on the others of its batch.
      schedule: gives alpha and sigma, with decreasing log-SNR.
      start: the time that x is at, > 0.
      probe: v, `(key, shape) -> noise` of unit variance: `rademacher`, `noise.white_noise`; None: the exact trace,
        which costs D derivatives of the denoiser at once, for data of few dimensions.
      prior_log_density: log p_1, `x_1 [B, ...] -> [B]`, in nats; default that of `process.prior`, N(0, sigma(1)^2),
        which neglects alpha(1) x_0 against sigma(1): nothing on flow, little on the usual schedules, too much on one
        that does not end in noise (`process.prior`).
      rtol, atol, solver, max_steps: as of `ode.solve`; the tolerances are of the log-density in nats, too.

    Raises:
      InputError: diffrax is not installed, or `start` is not positive, or the denoiser has no forward-mode derivative.
      RuntimeError: when it runs: `max_steps` do not suffice.

    >>> from jaxdiff import schedules, testing
    >>> denoise = testing.gaussian_denoiser(mean=0.0, std=1.0, schedule=schedules.VP())
    >>> found = ode(jax.random.key(0), jnp.zeros((1, 3)), denoise, schedule=schedules.VP(), probe=None)
    >>> round(float(found.log_density[0]), 3)  # 3 log N(0; 0, 1)
    -2.757

    Source: Song et al. 2021 (arXiv 2011.13456), section 4.3 and appendix D.2; Chen et al. 2018 (arXiv 1806.07366),
    theorem 1; Grathwohl et al. 2019 (arXiv 1810.01367), section 3.1.
    """
    require(not isinstance(start, int | float) or 0 < start < 1, f"start: expected a time in (0, 1), got {start}")
    _require_floats(x)
    check_monotone(schedule)
    x = as_float(x)
    v = None if probe is None else probe(key, x.shape).astype(x.dtype)
    slope = straight_slope(denoise, schedule=schedule)

    def with_trace(y: tuple[Array, Array], t: Array) -> tuple[Array, Array]:
        rate, derivative = jax.linearize(lambda z: slope(z, t), y[0])
        if v is not None:
            return rate, total(v * derivative(v))
        basis = jnp.eye(math.prod(x.shape[1:]), dtype=x.dtype).reshape(-1, 1, *x.shape[1:])
        diagonal = jax.vmap(lambda e: total(e * derivative(jnp.broadcast_to(e, x.shape))))(basis)
        return rate, diagonal.sum(0)

    times = as_float(start), jnp.ones_like(as_float(start))
    (scale, tau), (last_scale, last_tau) = (scale_clock(t, schedule=schedule) for t in times)
    y = x / expand(scale, x), jnp.zeros(x.shape[:1], x.dtype)
    try:
        (z, change), nfe = integrate(
            with_trace, y, tau, last_tau, schedule=schedule, rtol=rtol, atol=atol, solver=solver, max_steps=max_steps
        )
    except TypeError as error:
        if "custom_vjp" not in str(error):
            raise
        raise InputError(
            "likelihood.ode: the network has no forward-mode derivative, as attention by cuDNN has none; compute in "
            "float32, or set JAXDIFF_ATTENTION=xla"
        ) from error
    latent = expand(last_scale, z) * z
    if prior_log_density is None:
        log_std = jnp.log(schedule.sigma(times[1])).astype(x.dtype)
        log_prior = total(gaussian_log_prob(latent, jnp.zeros_like(latent), log_std))
    else:
        log_prior = prior_log_density(latent)
    stretch = math.prod(x.shape[1:]) * jnp.log(last_scale / scale).astype(x.dtype)
    log_density = log_prior + change + stretch
    return Density(log_density, bits_per_dim(-log_density, x.shape), latent, nfe)


def _require_floats(x: Array) -> None:
    require(jnp.issubdtype(x.dtype, jnp.floating), f"expected floats in [-1, 1], got {x.dtype}: x / 127.5 - 1 of uint8")


def dequantise(key: Array, images: Array, *, levels: int = 256) -> Array:
    """Fill the gaps between the levels with uniform noise: `x = 2 (u + v) / (levels - 1) - 1`, v ~ U[-1/2, 1/2).

    The levels are where training has them, u / 127.5 - 1, each amid its bin of width 2 / (levels - 1); x lies in
    [-1, 1] and half a bin beyond.

    Args:
      key: one typed key, or keys `[B]`.
      images: u, integers in 0..levels-1, `[B, ...]`.
      levels: how many.

    Returns:
      float32, the shape of `images`.

    >>> x = dequantise(jax.random.key(0), jnp.full((1, 100), 255, jnp.uint8))
    >>> bool((abs(x - 1) <= 1 / 255).all())
    True

    Source: Theis et al. 2016 (arXiv 1511.01844), section 3.1.
    """
    require(jnp.issubdtype(images.dtype, jnp.integer), f"images: expected integers, such as uint8; got {images.dtype}")
    keys = per_example(key, images.shape[0])
    v = jax.vmap(lambda k: jax.random.uniform(k, images.shape[1:], jnp.float32, -0.5, 0.5))(keys)
    return 2 * (images.astype(jnp.float32) + v) / (levels - 1) - 1


def dequantised(
    key: Array,
    images: Array,
    log_density: Callable[[Array, Array], Array],
    *,
    samples: int = 1,
    levels: int = 256,
) -> Array:
    """An upper bound of the bits/dim of images on levels, from a density p of continuous data:

        bits/dim = -log2(mean over K of p(x_k)) / D + log2((levels - 1) / 2),      x_k = dequantise(images)

    The last term is the bins' width: log2(127.5) for uint8. (With levels spaced by 1/128, as in codes that scale
    [0, 256) to [-1, 1), it is 7 bits.) The model's probability of an image is p integrated over its bin, whose estimate
    from K draws is unbiased; minus its logarithm is on average too large, the less so the more draws: K = 1 is the
    usual bound, more the importance-weighted one.

    Args:
      key: one typed key, or keys `[B]`.
      images: integers in 0..levels-1, `[B, ...]`, such as uint8.
      log_density: `(keys [B], x [B, ...]) -> [B]` in nats, such as
        `lambda keys, x: likelihood.ode(keys, x, denoise, schedule=schedule).log_density`. With K > 1 give it the exact
        trace: the mean of exp of Hutchinson's estimates is too large, and the result no bound.
      samples: K.
      levels: how many.

    Returns:
      `[B]`.

    >>> images = jnp.arange(256, dtype=jnp.uint8)[None]
    >>> uniform = lambda keys, x: jnp.full(1, -256 * jnp.log(2 * 256 / 255))  # of x in [-1 - 1/255, 1 + 1/255]
    >>> round(float(dequantised(jax.random.key(0), images, uniform)[0]), 4)
    8.0

    Source: Theis et al. 2016 (arXiv 1511.01844), section 3.1; Burda et al. 2016 (arXiv 1509.00519), section 3, for
    this noise as the latent variable, as in Hoogeboom et al. 2020 (arXiv 2001.11235).
    """
    check_whole("samples", samples)
    keys = per_example(key, images.shape[0])

    def one(k: Array) -> Array:
        own = fold_in(keys, k)
        return log_density(fold_in(own, 0), dequantise(fold_in(own, 1), images, levels=levels))

    log_p = jax.nn.logsumexp(jax.lax.map(one, jnp.arange(samples)), axis=0) - math.log(samples)
    return bits_per_dim(-log_p, images.shape) + math.log2((levels - 1) / 2)
