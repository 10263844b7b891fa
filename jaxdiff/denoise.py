"""From a network to a denoiser, and denoisers round denoisers.

network(x, c_noise) --at_steps / at_scaled_time--> model(x_t, t) --denoiser--> denoise(x_t, t) --clip_x0--> ...
"""

import jax.numpy as jnp

from jaxdiff.parameterization import to_prediction
from jaxdiff.schedules import alpha_sigma, step_position
from jaxdiff.typing import Array, Denoiser, Model, Prediction, Schedule


def at_steps(network: Model, *, T: int) -> Model:
    """A model of t from a network that was built for step numbers k = 0..T-1 of a table: `c_noise = t T - 1`.

    This is the one place where a step number is made; time (k + 1) / T is exactly step k, as a float.

    >>> model = at_steps(lambda x, k: k, T=1000)
    >>> model(jnp.zeros((2, 1)), jnp.array([0.001, 1.0])).tolist()
    [0.0, 999.0]
    """
    return lambda x, t: network(x, _per_batch(step_position(t, T), x))


def at_scaled_time(network: Model, *, scale: float = 1000.0) -> Model:
    """A model of t from a network for continuous time: `c_noise = scale t`.

    >>> model = at_scaled_time(lambda x, c: c)
    >>> model(jnp.zeros((2, 1)), jnp.float32(0.5)).tolist()
    [500.0, 500.0]
    """
    return lambda x, t: network(x, _per_batch(scale * jnp.asarray(t), x))


def _per_batch(c_noise: Array, x: Array) -> Array:
    return jnp.broadcast_to(c_noise, x.shape[:1])


def denoiser(model: Model, *, schedule: Schedule, kind: str, learned_variance: bool = False) -> Denoiser:
    """The denoiser of a model: `(x_t, t) -> Prediction(x0, eps)`, whatever kind the model predicts.

    Args:
      model: `(x_t [B, ..., C], t [B]) -> y [B, ..., C]`, or `[B, ..., 2 C]` with `learned_variance`.
      schedule: the schedule it was trained on.
      kind: a key of `parameterization.KINDS`.
      learned_variance: the second half of the channels is `Prediction.log_var`.

    Returns:
      `(x_t [B, ..., C], t scalar or [B]) -> Prediction`.

    >>> from jaxdiff.schedules import Flow
    >>> denoise = denoiser(lambda x, t: jnp.zeros_like(x), schedule=Flow(), kind="eps")
    >>> float(denoise(jnp.ones((1, 1)), jnp.float32(0.5)).x0[0, 0])
    2.0
    """

    def denoise(x_t: Array, t: Array) -> Prediction:
        y, log_var = model(x_t, _per_batch(jnp.asarray(t), x_t)), None
        if learned_variance:
            y, log_var = jnp.split(y, 2, axis=-1)
        return to_prediction(x_t, y, t, kind=kind, schedule=schedule)._replace(log_var=log_var)

    return denoise


def clip_x0(denoise: Denoiser, *, schedule: Schedule, low: float = -1.0, high: float = 1.0) -> Denoiser:
    """Clip the predicted data to [low, high] and let the noise follow: `eps = (x_t - alpha x0) / sigma`.

    >>> from jaxdiff.schedules import Flow
    >>> denoise = lambda x, t: Prediction(x0=3 * x, eps=x)
    >>> p = clip_x0(denoise, schedule=Flow())(jnp.ones((1, 1)), jnp.float32(0.5))
    >>> float(p.x0[0, 0]), float(p.eps[0, 0])
    (1.0, 1.0)
    """

    def clipped(x_t: Array, t: Array) -> Prediction:
        prediction = denoise(x_t, t)
        alpha, sigma = alpha_sigma(x_t, t, schedule=schedule)
        x0 = jnp.clip(prediction.x0, low, high)
        return prediction._replace(x0=x0, eps=(x_t - alpha * x0) / sigma)

    return clipped
