"""The forward process and its posterior, in closed form, for any schedule and any pair of times s < t."""

from typing import Literal, NamedTuple, get_args

import jax.numpy as jnp

from jaxdiff.noise import white_noise
from jaxdiff.schedules import Discrete, alpha_sigma, as_float, check_choice, expand, safe_sqrt
from jaxdiff.typing import Array, InputError, Noise, Prediction, Schedule

Variance = Literal["fixed_small", "fixed_large", "learned", "learned_range"]
"""What Var[x_s | x_t] of the reverse process is; see `reverse_log_var`."""


class Gaussian(NamedTuple):
    """`N(mean, var I)`; `var` broadcasts against `mean`."""

    mean: Array
    var: Array


def q_sample(x0: Array, t: Array, eps: Array, *, schedule: Schedule) -> Array:
    """Noise data in one step: `x_t = alpha_t x_0 + sigma_t eps`.

    Args:
      x0: data `[B, ...]`, images in [-1, 1].
      t: times in [0, 1], scalar or `[B]`.
      eps: standard normal noise, the shape of `x0`.
      schedule: gives alpha and sigma.

    Returns:
      `x_t`, the shape and dtype of `x0`.

    >>> from jaxdiff.schedules import Flow
    >>> q_sample(jnp.ones((1, 2)), jnp.array([0.25]), -jnp.ones((1, 2)), schedule=Flow()).tolist()
    [[0.5, 0.5]]

    Source: Ho et al. 2020 (arXiv 2006.11239), eq. 4.
    """
    alpha, sigma = alpha_sigma(x0, t, schedule=schedule)
    return alpha * x0 + sigma * eps


def transition(s: Array, t: Array, *, schedule: Schedule) -> tuple[Array, Array]:
    """`alpha_ts = alpha_t / alpha_s` and the *variance* `sigma_ts^2 = sigma_t^2 - alpha_ts^2 sigma_s^2` of
    q(x_t | x_s), s <= t, in the shape of the times.

    For step k of a table, from s = k/T to t = (k+1)/T, these are sqrt(1 - beta_k) and beta_k.

    >>> from jaxdiff.schedules import from_betas
    >>> a, var = transition(jnp.float32(0.5), jnp.float32(1.0), schedule=from_betas([0.1, 0.36]))
    >>> round(float(a), 5), round(float(var), 5)
    (0.8, 0.36)

    Source: Kingma et al. 2021 (arXiv 2107.00630), section 3.
    """
    alpha_ts = schedule.alpha(t) / schedule.alpha(s)
    sigma_t, kept = schedule.sigma(t), alpha_ts * schedule.sigma(s)
    # As a product of sum and difference: less cancellation than the difference of squares.
    return alpha_ts, jnp.maximum((sigma_t - kept) * (sigma_t + kept), 0)


def q_transition(x_s: Array, s: Array, t: Array, eps: Array, *, schedule: Schedule) -> Array:
    """Noise `x_s` further, from time s to a later t: `x_t = alpha_ts x_s + sigma_ts eps`.

    Args:
      x_s: `[B, ...]`.
      s: times, scalar or `[B]`.
      t: later times, scalar or `[B]`.
      eps: fresh standard normal noise, the shape of `x_s`.
      schedule: gives alpha and sigma.

    A chain of transitions has the distribution of `q_sample`.

    >>> from jaxdiff.schedules import from_betas
    >>> x = q_transition(jnp.ones((1, 1)), jnp.float32(0.5), jnp.float32(1.0), jnp.zeros((1, 1)),
    ...                  schedule=from_betas([0.1, 0.36]))
    >>> round(float(x[0, 0]), 5)
    0.8

    Source: Ho et al. 2020 (arXiv 2006.11239), eq. 2; Kingma et al. 2021 (arXiv 2107.00630), section 3.
    """
    alpha_ts, var = transition(s, t, schedule=schedule)
    return expand(alpha_ts, x_s) * x_s + expand(safe_sqrt(var), x_s) * eps


def q_posterior(x_t: Array, x0: Array, s: Array, t: Array, *, schedule: Schedule) -> Gaussian:
    """`q(x_s | x_t, x_0)` for s < t:

        mean = (alpha_ts sigma_s^2 x_t + alpha_s sigma_ts^2 x_0) / sigma_t^2,    var = sigma_s^2 sigma_ts^2 / sigma_t^2

    At s = 0 of a schedule with sigma(0) = 0 it is the point x_0: mean x_0, variance 0.

    Args:
      x_t: `[B, ...]`.
      x0: the shape of `x_t`.
      s: times, scalar or `[B]`.
      t: later times, scalar or `[B]`, where sigma(t) > 0.
      schedule: gives alpha and sigma.

    >>> from jaxdiff.schedules import from_betas
    >>> q = q_posterior(jnp.ones((1, 1)), jnp.zeros((1, 1)), jnp.float32(0.5), jnp.float32(1.0),
    ...                 schedule=from_betas([0.1, 0.5]))
    >>> round(float(q.var), 5)  # (1 - 0.9) / (1 - 0.45) * 0.5
    0.09091

    Source: Ho et al. 2020 (arXiv 2006.11239), eq. 6-7; for any s < t Kingma et al. 2021 (arXiv 2107.00630), appendix A.
    """
    alpha_ts, var_ts = transition(s, t, schedule=schedule)
    kept = (schedule.sigma(s) / schedule.sigma(t)) ** 2
    from_x0 = schedule.alpha(s) * var_ts / schedule.sigma(t) ** 2
    # Coefficients are formed in float32 and cast last: in the dtype of a bfloat16 x they would cancel.
    return Gaussian(expand(alpha_ts * kept, x_t) * x_t + expand(from_x0, x_t) * x0, expand(kept * var_ts, x_t))


def check_variance(variance: str) -> None:
    """Refuse a variance that is not one of `Variance`."""
    check_choice("variance", variance, get_args(Variance))


def posterior_log_var(s: Array, t: Array, *, schedule: Schedule) -> Array:
    """`log Var[x_s | x_t, x_0] = log(sigma_s^2 sigma_ts^2 / sigma_t^2)`, in the shape of the times.

    At sigma(s) = 0 the posterior is a point. There it is the transition's variance, that of the noise on the data, so
    that the logarithm is finite; of a table that of the next step, from 2 t to t, unless it has but one.

    >>> from jaxdiff.schedules import from_betas
    >>> schedule = from_betas([0.1, 0.5])
    >>> [round(float(jnp.exp(posterior_log_var(s, s + 0.5, schedule=schedule))), 5) for s in (0.0, 0.5)]
    [0.09091, 0.09091]

    Source: Ho et al. 2020 (arXiv 2006.11239), eq. 7; the first step: Nichol & Dhariwal 2021 (arXiv 2102.09672), whose
    published numbers are made that way.
    """

    s, t = as_float(s), as_float(t)
    start, end = s, t
    if isinstance(schedule, Discrete):
        first = (schedule.sigma(s) == 0) & (t < 1)
        start, end = jnp.where(first, t, s), jnp.where(first, jnp.minimum(2 * t, 1), t)
    small = (schedule.sigma(start) / schedule.sigma(end)) ** 2 * transition(start, end, schedule=schedule)[1]
    return jnp.log(jnp.where(small > 0, small, transition(s, t, schedule=schedule)[1]))


def reverse_log_var(prediction: Prediction, s: Array, t: Array, *, schedule: Schedule, variance: Variance) -> Array:
    """`log Var[x_s | x_t]` of the reverse process for s < t, never -inf.

    Args:
      prediction: at x_t; for its `log_var` and its shape.
      s: times, scalar or `[B]`.
      t: later times, scalar or `[B]`.
      schedule: gives alpha and sigma.
      variance: what it is:
        `fixed_small`: the posterior's, sigma_s^2 sigma_ts^2 / sigma_t^2 (beta-tilde);
        `fixed_large`: the transition's, sigma_ts^2 (beta);
        `learned`: `Prediction.log_var` itself;
        `learned_range`: `Prediction.log_var` in [-1, 1] is the place between log small (-1) and log large (1).

    Returns:
      float32 (float64 of float64 times) that broadcasts against x_t.

    Raises:
      InputError: an unknown variance, or a learned one from a denoiser without `log_var`.

    >>> from jaxdiff.schedules import from_betas
    >>> x = jnp.zeros((1, 1))
    >>> middle = Prediction(x, x, log_var=x)  # the geometric mean of 0.0909 and 0.5
    >>> log_var = reverse_log_var(middle, 0.5, 1.0, schedule=from_betas([0.1, 0.5]), variance="learned_range")
    >>> round(float(jnp.exp(log_var)[0, 0]), 4)
    0.2132

    Source: Ho et al. 2020 (arXiv 2006.11239), section 3.2; learned_range: Nichol & Dhariwal 2021 (arXiv 2102.09672),
    eq. 15.
    """
    check_variance(variance)
    learned = prediction.log_var
    if learned is None and variance.startswith("learned"):
        raise InputError(f"variance {variance!r} needs a denoiser with log_var; this one predicts none")
    wide = as_float(prediction.x0 if learned is None else learned)
    if variance == "learned":
        return wide
    small = expand(posterior_log_var(s, t, schedule=schedule), wide)
    large = expand(jnp.log(transition(as_float(s), as_float(t), schedule=schedule)[1]), wide)
    if variance == "learned_range":
        place = (wide + 1) / 2
        return place * large + (1 - place) * small
    return small if variance == "fixed_small" else large


def prior(
    key: Array, shape: tuple[int, ...], *, schedule: Schedule, t: Array | float = 1.0, noise: Noise = white_noise
) -> Array:
    """Where sampling starts: `x_t = sigma(t) eps` at t = 1, or where the grid begins, float32 `[B, ...]`.

    Each example draws from its own key. Another noise than white: `noise.OffsetNoise`, for a network trained with it;
    `noise.TruncatedNoise`, for better and less varied samples.

    It is q(x_1) where the schedule leaves no signal, alpha(1) much smaller than sigma(1). `schedules.geometric`, or a
    table of 1000 steps' betas cut to 100, does not: there start from `q_sample` of data at t = 1.

    >>> import jax; from jaxdiff.schedules import VE
    >>> prior(jax.random.key(0), (2, 8, 8, 1), schedule=VE()).shape
    (2, 8, 8, 1)
    """
    return schedule.sigma(as_float(t)).astype(jnp.float32) * noise(key, shape)
