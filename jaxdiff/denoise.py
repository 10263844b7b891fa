"""From a network to a denoiser, and denoisers round denoisers.

network(x, c_noise) --at_steps / at_scaled_time / precondition--> model(x_t, t) --denoiser--> denoise(x_t, t)
--clip_x0 / dynamic_threshold / guidance--> ...
"""

from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp

from jaxdiff.noise import per_example
from jaxdiff.parameterization import Kind, to_prediction
from jaxdiff.schedules import alpha_sigma, as_float, expand, require, step_position
from jaxdiff.typing import Array, Denoiser, Model, Prediction, Schedule


def at_steps(network: Model, *, T: int, scale: float = 1.0) -> Model:
    """A model of t from a network that was built for step numbers k = 0..T-1 of a table: `c_noise = scale (t T - 1)`.

    This is the one place where a step number is made; time (k + 1) / T is exactly step k, as a float.

    >>> model = at_steps(lambda x, k: k, T=1000)
    >>> model(jnp.zeros((2, 1)), jnp.array([0.001, 1.0])).tolist()
    [0.0, 999.0]
    """
    return lambda x, t: network(x, _per_batch(scale * step_position(t, T), x))


def at_scaled_time(network: Model, *, scale: float = 1000.0) -> Model:
    """A model of t from a network for continuous time: `c_noise = scale t`.

    >>> model = at_scaled_time(lambda x, c: c)
    >>> model(jnp.zeros((2, 1)), jnp.float32(0.5)).tolist()
    [500.0, 500.0]
    """
    return lambda x, t: network(x, _per_batch(scale * jnp.asarray(t), x))


def _per_batch(c_noise: Array, x: Array) -> Array:
    return jnp.broadcast_to(c_noise, x.shape[:1])


def denoiser(model: Model, *, schedule: Schedule, kind: Kind, learned_variance: bool = False) -> Denoiser:
    """The denoiser of a model: `(x_t, t) -> Prediction(x0, eps)`, whatever kind the model predicts.

    Args:
      model: `(x_t [B, ..., C], t [B]) -> y [B, ..., C]`, or `[B, ..., 2 C]` with `learned_variance`.
      schedule: the schedule it was trained on.
      kind: a key of `parameterization.KINDS`, or a row such as `previous_mean(1000)`.
      learned_variance: the second half of the channels is `Prediction.log_var`.

    Returns:
      `(x_t [B, ..., C], t scalar or [B]) -> Prediction`.

    Raises:
      InputError: an unknown kind, or a model that returns another shape; when the denoiser is called.

    >>> from jaxdiff.schedules import Flow
    >>> denoise = denoiser(lambda x, t: jnp.zeros_like(x), schedule=Flow(), kind="eps")
    >>> float(denoise(jnp.ones((1, 1)), jnp.float32(0.5)).x0[0, 0])
    2.0
    """

    def denoise(x_t: Array, t: Array) -> Prediction:
        y, log_var = model(x_t, _per_batch(jnp.asarray(t), x_t)), None
        *rest, channels = x_t.shape
        expected = (*rest, (1 + learned_variance) * channels)
        require(
            jnp.shape(y) == expected,
            f"the model returned {jnp.shape(y)} for x_t {x_t.shape}; with learned_variance={learned_variance} expected "
            f"{expected}",
        )
        if learned_variance:
            y, log_var = jnp.split(y, 2, axis=-1)
        return to_prediction(x_t, y, t, kind=kind, schedule=schedule)._replace(log_var=log_var)

    return denoise


def _with_x0(prediction: Prediction, x0: Array, x_t: Array, t: Array, schedule: Schedule) -> Prediction:
    """The prediction with another x0 and the noise that follows, `eps = (x_t - alpha x0) / sigma`.

    Where x0 is as it was, so is eps; at sigma = 0, where x_t says nothing of the noise, it stays too.
    """
    alpha, sigma = alpha_sigma(x_t, t, schedule=schedule)
    eps = (x_t - alpha * x0) / jnp.where(sigma > 0, sigma, 1)
    return prediction._replace(x0=x0, eps=jnp.where((x0 != prediction.x0) & (sigma > 0), eps, prediction.eps))


def clip_x0(denoise: Denoiser, *, schedule: Schedule, low: float = -1.0, high: float = 1.0) -> Denoiser:
    """Clip the predicted data to [low, high] and let the noise follow: `eps = (x_t - alpha x0) / sigma`.

    >>> from jaxdiff.schedules import Flow
    >>> denoise = lambda x, t: Prediction(x0=3 * x, eps=-x)
    >>> p = clip_x0(denoise, schedule=Flow())(jnp.ones((1, 1)), jnp.float32(0.5))
    >>> float(p.x0[0, 0]), float(p.eps[0, 0])
    (1.0, 1.0)
    """

    def clipped(x_t: Array, t: Array) -> Prediction:
        prediction = denoise(x_t, t)
        return _with_x0(prediction, jnp.clip(prediction.x0, low, high), x_t, t, schedule)

    return clipped


def dynamic_threshold(
    denoise: Denoiser, *, schedule: Schedule, percentile: Array | float = 0.995, limit: Array | float = 1.0
) -> Denoiser:
    """Dynamic thresholding: with r the given quantile of |x0| over an example, `s = max(limit, r)`,

        x0 <- clip(x0, -s, s) limit / s,        eps = (x_t - alpha x0) / sigma

    so strong guidance neither leaves the range of the data nor saturates it, as `clip_x0` does.

    Args:
      denoise: whose x0 is to be thresholded.
      schedule: gives alpha and sigma.
      percentile: in [0, 1].
      limit: the largest absolute value of the data.

    >>> from jaxdiff.schedules import Flow
    >>> denoise = lambda x, t: Prediction(x0=3 * x, eps=-x)
    >>> x = jnp.array([[1.0, 0.5]])
    >>> dynamic_threshold(denoise, schedule=Flow(), percentile=1.0)(x, jnp.float32(0.5)).x0.tolist()
    [[1.0, 0.5]]

    Source: Saharia et al. 2022 (arXiv 2205.11487), section 2.3.
    """

    def thresholded(x_t: Array, t: Array) -> Prediction:
        prediction = denoise(x_t, t)
        x0 = as_float(prediction.x0)
        size = jnp.abs(x0).reshape(x0.shape[0], -1)
        s = expand(jnp.maximum(jnp.quantile(size, percentile, axis=1), limit), x0)
        # Examples within the limit are left as they are, to the last bit.
        inside = jnp.where(s > limit, jnp.clip(x0, -s, s) * (limit / s), jnp.clip(x0, -s, s))
        return _with_x0(prediction, inside.astype(prediction.x0.dtype), x_t, t, schedule)

    return thresholded


SelfModel = Callable[[Array, Array, Array], Array]
"""A network for self-conditioning: `(x_t [B, ...], t [B], estimate of x0 [B, ...]) -> y`; 0 is no estimate."""


class SelfDenoiser(Protocol):
    """A denoiser that may be told an estimate of x0. Without, it is a `Denoiser` like any other."""

    def __call__(self, x_t: Array, t: Array, estimate: Array | None = None) -> Prediction: ...


def self_conditioned(
    model: SelfModel, *, schedule: Schedule, kind: Kind, learned_variance: bool = False
) -> SelfDenoiser:
    """The denoiser of a model for self-conditioning: `(x_t, t, estimate) -> Prediction`.

    Sample with `samplers.SelfConditioning(sampler)`, which hands on the estimate of the step before, or with
    `two_pass`. A wrapper goes inside: `lambda x, t, e=None: clip_x0(lambda x, t: denoise(x, t, e), ...)(x, t)`.

    Args:
      model: `(x_t, t, estimate) -> y`.
      schedule: as of `denoiser`.
      kind: as of `denoiser`.
      learned_variance: as of `denoiser`.

    >>> from jaxdiff.schedules import Flow
    >>> denoise = self_conditioned(lambda x, t, estimate: estimate, schedule=Flow(), kind="x0")
    >>> x = jnp.ones((1, 1))
    >>> [float(denoise(x, jnp.float32(0.5), *e).x0[0, 0]) for e in [(), (3 * x,)]]
    [0.0, 3.0]

    Source: Chen et al. 2022 (arXiv 2208.04202), section 3.
    """

    def denoise(x_t: Array, t: Array, estimate: Array | None = None) -> Prediction:
        given = jnp.zeros_like(x_t) if estimate is None else estimate

        def bound(x_t: Array, t: Array) -> Array:
            return model(x_t, t, given)

        return denoiser(bound, schedule=schedule, kind=kind, learned_variance=learned_variance)(x_t, t)

    return denoise


def two_pass(denoise: SelfDenoiser) -> Denoiser:
    """Self-conditioning without a memory: a first call makes the estimate for a second one. Works with any sampler.

    >>> x = jnp.ones((1, 1))
    >>> denoise = lambda x, t, e=None: Prediction(x0=x if e is None else 2 * e, eps=x)
    >>> float(two_pass(denoise)(x, jnp.float32(0.5)).x0[0, 0])
    2.0
    """
    return lambda x_t, t: denoise(x_t, t, denoise(x_t, t).x0)


def with_first_estimate(
    key: Array,
    model: SelfModel,
    *,
    schedule: Schedule,
    kind: Kind,
    learned_variance: bool = False,
    probability: Array | float = 0.5,
) -> Model:
    """The model that training with self-conditioning sees, for any loss: with the given probability an example's
    estimate is the model's own x0 of a first call, without gradient, else 0.

    Args:
      key: one typed key, or keys `[B]`.
      model: `(x_t, t, estimate) -> y`.
      schedule: as of `denoiser`.
      kind: as of `denoiser`.
      learned_variance: as of `denoiser`.
      probability: of an estimate.

    >>> import jax; from jaxdiff.schedules import Flow
    >>> network = lambda x, t, estimate: 0.5 * x + estimate
    >>> always = with_first_estimate(jax.random.key(0), network, schedule=Flow(), kind="x0", probability=1.0)
    >>> float(always(jnp.ones((1, 1)), jnp.full((1,), 0.5))[0, 0])
    1.0

    Source: Chen et al. 2022 (arXiv 2208.04202), section 3.
    """
    denoise = self_conditioned(model, schedule=schedule, kind=kind, learned_variance=learned_variance)

    def conditioned(x_t: Array, t: Array) -> Array:
        keys = per_example(key, x_t.shape[0])
        told = jax.vmap(lambda k: jax.random.bernoulli(k, probability))(keys)
        estimate = jax.lax.stop_gradient(denoise(x_t, t).x0)
        return model(x_t, t, jnp.where(expand(told, x_t) > 0, estimate, 0))

    return conditioned
