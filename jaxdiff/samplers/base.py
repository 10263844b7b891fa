"""What samplers share: states, histories, the skipping of calls, checks of numbers."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.schedules import alpha_sigma, expand
from jaxdiff.typing import Array, Denoiser, InputError, Prediction, Schedule, concrete


class State(NamedTuple):
    """The state of a one-step sampler: the current `x_t`."""

    x: Array


@dataclasses.dataclass(frozen=True)
class OneStep:
    """What samplers without a history have in common: a schedule, static, and a state that is x alone."""

    schedule: Schedule = dataclasses.field(metadata={"static": True})

    def init(self, x: Array) -> State:
        """The state at the start of the grid."""
        return State(x)


class History(NamedTuple):
    """The state of a multistep sampler: the current `x_t`, and of the steps before, newest first, what was predicted
    and at which clock reading (log-SNR, sigma / alpha, ...)."""

    x: Array
    values: tuple[Array, ...]
    clocks: tuple[Array, ...]
    steps: Array

    @classmethod
    def empty(cls, x: Array, length: int) -> "History":
        """Of no steps yet."""
        clock = jnp.zeros((), jnp.result_type(float))
        return cls(x, (jnp.zeros_like(x),) * length, (clock,) * length, jnp.zeros((), jnp.int32))

    def push(self, value: Array, clock: Array) -> "History":
        """With one step more in front, the oldest one forgotten."""
        values = (value.astype(self.x.dtype), *self.values)[: len(self.values)]
        return History(self.x, values, (clock, *self.clocks)[: len(self.clocks)], self.steps + 1)


def denoise_unless(skip: Array, denoise: Denoiser, x: Array, t: Array, otherwise: Prediction) -> Prediction:
    """`denoise(x, t)`, or `otherwise` where `skip`: for the second calls of a step, which a last step leaves out.

    The denoiser is called only if some example needs it, and never at a time that is to be skipped.
    """
    time = jnp.where(skip, jnp.ones_like(t), t)
    instead = otherwise._replace(log_var=None)  # nothing but the first call of a step reads it
    called: Prediction = jax.lax.cond(jnp.all(skip), lambda: instead, lambda: denoise(x, time)._replace(log_var=None))
    return Prediction(*(jnp.where(expand(skip, x) > 0, a, b) for a, b in zip(instead[:2], called[:2])))


def at_an_end(t: Array, s: Array, *, schedule: Schedule) -> Array:
    """Whether the step from t to s starts at pure noise (alpha = 0) or ends at pure data (sigma = 0).

    There the log-SNR is infinite, no polynomial in it is of use, and every solver takes the first-order step, which is
    exact in both limits: `x_s = alpha_s x0 + sigma_s eps`.
    """
    return (schedule.alpha(t) == 0) | (schedule.sigma(s) == 0)


def euler_step(prediction: Prediction, s: Array, *, schedule: Schedule) -> Array:
    """`alpha_s x0 + sigma_s eps`: the first-order step of the probability-flow ODE (DDIM, Euler, DPM-Solver-1)."""
    alpha, sigma = alpha_sigma(prediction.x0, s, schedule=schedule)
    return alpha * prediction.x0 + sigma * prediction.eps


def draws_noise(sampler: Any) -> bool:
    """Whether it draws noise, or one inside it does: whether a temperature or another key makes a difference.

    >>> from jaxdiff import DDIM, schedules
    >>> draws_noise(DDIM(schedules.VP())), draws_noise(DDIM(schedules.VP(), eta=1.0))
    (False, True)
    """
    inside = [*getattr(sampler, "samplers", ()), *([sampler.sampler] if hasattr(sampler, "sampler") else [])]
    own = getattr(sampler, "random", False) or (
        hasattr(sampler, "noise") and np.any(np.asarray(getattr(sampler, "eta", 1)) != 0)
    )
    return bool(own) or any(draws_noise(one) for one in inside)


def check_number(name: str, value: Any, low: float, high: float = np.inf) -> None:
    """Raise `InputError` for a number outside [low, high]; what is being traced passes."""
    values = concrete(value)
    if isinstance(value, str) or (values is not None and not np.all((values >= low) & (values <= high))):
        expected = f"{low} or more" if high == np.inf else f"{low} to {high}"
        raise InputError(f"{name}: expected {expected}, got {value!r}")
