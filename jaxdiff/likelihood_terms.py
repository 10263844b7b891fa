"""The terms of the variational bound, per example and in bits/dim:

    -log p(x_0) <= L_prior + sum over steps s < t of L_(s, t),

    L_prior  = KL(q(x_1 | x_0) || p(x_1))
    L_(s, t) = KL(q(x_s | x_t, x_0) || p(x_s | x_t)),    in the last step, to s = 0, -log p(x_0 | x_t)

with p(x_s | x_t) the Gaussian that `samplers.DDPM` draws from. `losses` trains on them; `likelihood` adds them up.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp

from jaxdiff.process import Variance, posterior_log_var, q_posterior, reverse_log_var
from jaxdiff.schedules import as_float, expand
from jaxdiff.typing import Array, Prediction, Schedule


def bits_per_dim(nats: Array, shape: tuple[int, ...]) -> Array:
    """`nats / (log 2 * number of dimensions of an example)`: the only place where nats become bits.

    Args:
      nats: of whole examples, `[B]`.
      shape: of the data, `(B, ...)`.

    >>> round(float(bits_per_dim(jnp.log(jnp.full((1,), 2.0**12)), (1, 2, 2, 3))[0]), 5)
    1.0
    """
    return nats / (math.log(2.0) * math.prod(shape[1:]))


def gaussian_kl(mean1: Array | float, log_var1: Array | float, mean2: Array | float, log_var2: Array | float) -> Array:
    """`KL(N(mean1, var1) || N(mean2, var2))` in nats, elementwise:

        (log_var2 - log_var1 + exp(log_var1 - log_var2) - 1 + (mean1 - mean2)^2 exp(-log_var2)) / 2

    >>> float(gaussian_kl(1.0, 0.0, 0.0, 0.0))
    0.5
    """
    ratio = jnp.asarray(log_var1 - log_var2)
    return 0.5 * (jnp.expm1(ratio) - ratio + jnp.square(mean1 - mean2) * jnp.exp(-jnp.asarray(log_var2)))


def gaussian_log_prob(x: Array, mean: Array, log_std: Array) -> Array:
    """`log N(x; mean, exp(log_std)^2)` in nats, elementwise: the decoder of continuous data.

    >>> round(float(gaussian_log_prob(jnp.ones(()), jnp.ones(()), jnp.zeros(()))), 4)
    -0.9189
    """
    return -0.5 * (jnp.square((x - mean) * jnp.exp(-log_std)) + math.log(2 * math.pi)) - log_std


def discretised_gaussian_log_prob(x: Array, mean: Array, log_std: Array, *, bins: int = 256) -> Array:
    """`log P(x)` of a Gaussian rounded to one of `bins` levels, in nats, elementwise: the decoder of images.

    The levels are evenly spaced over [-1, 1] (2/255 apart); a level has the mass half-way to its neighbours, the first
    and the last have all the mass beyond too, so that the probabilities of all levels sum to 1.

    Args:
      x: data on the levels, in [-1, 1]; in float32, as bfloat16 does not hold the levels.
      mean: broadcasts against x.
      log_std: log of the standard deviation, broadcasts against x.
      bins: the number of levels.

    >>> x = jnp.array([-1.0, 1.0])
    >>> jnp.exp(discretised_gaussian_log_prob(x, jnp.zeros(2), jnp.zeros(2), bins=2)).tolist()
    [0.5, 0.5]

    Source: Ho et al. 2020 (arXiv 2006.11239), eq. 13.
    """
    half = 1 / (bins - 1)
    inverse_std = jnp.exp(-log_std)
    z, w = (x - mean) * inverse_std, half * inverse_std
    # By symmetry the interval [|z| - w, |z| + w] has the same mass, and there the survival function loses nothing.
    near, far = _log_survival(jnp.abs(z) - w), _log_survival(jnp.abs(z) + w)
    tiny = jnp.finfo(near.dtype).tiny
    inside = near + jnp.log(jnp.maximum(-jnp.expm1(far - near), tiny))
    at_first, at_last = _log_survival(-z - w), _log_survival(z - w)
    return jnp.where(x < -1 + half, at_first, jnp.where(x > 1 - half, at_last, inside))


def _log_survival(z: Array) -> Array:
    """`log P(Z > z)` of a standard normal Z; right far out in the tail too, and so is its gradient."""
    bulk = jnp.log(0.5 * jax.scipy.special.erfc(jnp.where(z < 12, z, 12) * math.sqrt(0.5)))
    far = jnp.where(z < 12, 12, z)
    inverse = 1 / jnp.square(far)
    # Beyond 12, where erfc is about to underflow: the asymptotic series of Mills' ratio, to 105 / 12^8 = 2e-7.
    series = -jnp.square(far) / 2 - jnp.log(far) - 0.5 * math.log(2 * math.pi)
    return jnp.where(z < 12, bulk, series + jnp.log1p(inverse * (-1 + inverse * (3 - 15 * inverse))))


def prior_term(x0: Array, *, schedule: Schedule) -> Array:
    """`KL(q(x_1 | x_0) || N(0, sigma_1^2)) = alpha_1^2 |x_0|^2 / (2 sigma_1^2)` in bits/dim, `[B]`: what is lost by
    starting from `process.prior`.

    >>> from jaxdiff.schedules import Flow
    >>> prior_term(jnp.ones((2, 3)), schedule=Flow()).tolist()
    [0.0, 0.0]

    Source: Ho et al. 2020 (arXiv 2006.11239), L_T of eq. 5.
    """
    x0 = as_float(x0)
    one = jnp.ones((), x0.dtype)
    alpha, log_var = schedule.alpha(one), 2 * jnp.log(schedule.sigma(one))
    return bits_per_dim(total(gaussian_kl(alpha * x0, log_var, 0.0, log_var)), x0.shape)


def vlb_term(
    x0: Array,
    x_t: Array,
    s: Array,
    t: Array,
    prediction: Prediction,
    *,
    schedule: Schedule,
    variance: Variance,
    bins: int | None = 256,
) -> Array:
    """One step's term of the bound, in bits/dim: KL(q(x_s | x_t, x_0) || p(x_s | x_t)), or -log p(x_0 | x_t) at s = 0.

    Args:
      x0: data `[B, ...]`; with `bins`, images on that many levels of [-1, 1].
      x_t: x0 noised to time t, the shape of `x0`.
      s: where the step ends, scalar or `[B]`; `t - 1/T` in a table's own chain, 0 the last step.
      t: times later than s, scalar or `[B]`.
      prediction: the denoiser's, of x_t.
      schedule: gives alpha and sigma.
      variance: of p(x_s | x_t); see `process.reverse_log_var`.
      bins: the decoder's levels; None: the data is continuous, and the last term minus a log-density.

    Returns:
      `[B]`, float32 (float64 of float64 data).

    >>> from jaxdiff.schedules import Flow
    >>> x0, eps = jnp.ones((1, 4)), jnp.zeros((1, 4))
    >>> exact = Prediction(x0, eps)
    >>> vlb_term(x0, 0.5 * x0, 0.25, 0.5, exact, schedule=Flow(), variance="fixed_small").tolist()
    [0.0]

    Source: Ho et al. 2020 (arXiv 2006.11239), eq. 5 and 13; in bits/dim: Nichol & Dhariwal 2021 (arXiv 2102.09672),
    eq. 4-7.
    """
    x0, x_t, guess = as_float(x0), as_float(x_t), as_float(prediction.x0)
    s, t = as_float(s), as_float(t)
    log_var = reverse_log_var(prediction, s, t, schedule=schedule, variance=variance)
    true_log_var = expand(posterior_log_var(s, t, schedule=schedule), x0)
    # The means of q and p differ by their x0 alone; subtracting that first loses no digits.
    difference, _ = q_posterior(jnp.zeros_like(x_t), x0 - guess, s, t, schedule=schedule)
    kl = gaussian_kl(difference, true_log_var, 0.0, log_var)

    last = jnp.broadcast_to(s == 0, x0.shape[:1])
    mean, _ = q_posterior(x_t, guess, s, t, schedule=schedule)
    # Elsewhere the decoder is asked for its own mean: it has no finite answer to be multiplied by 0 in the gradient.
    mean = jnp.where(expand(last, x0) == 1, mean, jax.lax.stop_gradient(x0))
    decoder = gaussian_log_prob if bins is None else partial(discretised_gaussian_log_prob, bins=bins)
    nll = -decoder(x0, mean, 0.5 * log_var)
    return bits_per_dim(jnp.where(last, total(nll), total(kl)), x0.shape)


def total(x: Array) -> Array:
    """The sum over the dimensions of each example, `[B]`.

    >>> total(jnp.ones((2, 3, 4))).tolist()
    [12.0, 12.0]
    """
    return jnp.sum(x, axis=range(1, x.ndim))
