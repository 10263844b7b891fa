"""The one loop of the package, and what samplers share: states, histories, and the skipping of calls."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.noise import fold_in, per_example
from jaxdiff.schedules import alpha_sigma, check_monotone, expand
from jaxdiff.typing import Array, Denoiser, HasX, InputError, Prediction, Sampler, Schedule


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


def concrete(value: Any) -> np.ndarray | None:
    """The number or numbers, or None for what is being traced or is no number."""
    values = None if isinstance(value, jax.core.Tracer) else np.asarray(value)
    return values if values is not None and values.dtype.kind in "fiub" else None


def check_number(name: str, value: Any, low: float, high: float = np.inf) -> None:
    """Raise `InputError` for a number outside [low, high]; what is being traced passes."""
    values = concrete(value)
    if isinstance(value, str) or (values is not None and not np.all((values >= low) & (values <= high))):
        expected = f"{low} or more" if high == np.inf else f"{low} to {high}"
        raise InputError(f"{name}: expected {expected}, got {value!r}")


def sample(
    key: Array,
    denoise: Denoiser,
    sampler: Sampler[Any],
    times: Array | np.ndarray,
    x: Array,
    *,
    temperature: Array | float = 1.0,
    collect: Callable[[HasX], Any] | None = None,
) -> Any:
    """Run a sampler down a time grid: one `lax.scan`, one program.

    Args:
      key: one typed key, or keys `[B]`, one per example. Step i of example n draws from
        `fold_in(fold_in(key, n), i)`: its picture does not depend on the batch it is made in.
      denoise: `(x_t, t) -> Prediction`.
      sampler: how to step, for example `samplers.DDIM(schedule)`.
      times: `[n + 1]`, decreasing from where `x` is to where to stop, usually 0 (see `timesteps`).
      x: `[B, ...]` at `times[0]`, usually from `process.prior`.
      temperature: scales the noise that the sampler injects; 1 is the model's distribution. (The starting noise is
        in `x`: scale that where it is drawn.)
      collect: what to keep of the state after each step, for example `lambda state: state.x`.

    Returns:
      `x` at `times[-1]`; with `collect`, a pair `(x, collected)`, `collected` stacked over the n steps.

    Raises:
      InputError: a grid of fewer than two times, or one that does not decrease (checked where it is concrete); what
        is no sampler; one whose schedule's log-SNR does not fall with t; a key that is not typed.

    >>> from jaxdiff import DDIM, schedules, testing, timesteps
    >>> schedule = schedules.Flow()
    >>> denoise = testing.gaussian_denoiser(mean=2.0, std=0.0, schedule=schedule)
    >>> x = sample(jax.random.key(0), denoise, DDIM(schedule), timesteps.uniform(4), jnp.ones((1, 3)))
    >>> x.tolist()
    [[2.0, 2.0, 2.0]]
    """
    if isinstance(sampler, type) or not hasattr(sampler, "step"):
        raise InputError(f"sampler: expected an instance, such as DDIM(schedule), got {sampler!r}")
    schedule = getattr(sampler, "schedule", None)
    if schedule is not None:
        check_monotone(schedule)
    return run(key, denoise, sampler, check_times(times), x, temperature=temperature, collect=collect)


def run(
    key: Array,
    denoise: Denoiser,
    sampler: Sampler[Any],
    times: Array,
    x: Array,
    *,
    temperature: Array | float = 1.0,
    collect: Callable[[HasX], Any] | None = None,
) -> Any:
    """The scan of `sample`, along any times, also rising ones; of the sampler and the grid nothing is checked.

    Args:
      key: as of `sample`.
      denoise: as of `sample`.
      sampler: as of `sample`.
      times: `[n + 1]`, as `check_times` returns them.
      x: `[B, ...]` at `times[0]`.
      temperature: as of `sample`.
      collect: as of `sample`.

    Returns:
      as `sample`.
    """
    keys = per_example(key, x.shape[0])

    def same_dtype(x_t: Array, *rest: Array) -> Prediction:  # x keeps its dtype, whatever the network computes in
        return Prediction(*jax.tree.map(lambda a: a.astype(x_t.dtype), denoise(x_t, *rest)))

    def body(state: HasX, step: tuple[Array, Array, Array]) -> tuple[HasX, Any]:
        i, t, s = step
        state = sampler.step(fold_in(keys, i), state, t, s, same_dtype, temperature=temperature)
        return state, None if collect is None else collect(state)

    steps = (jnp.arange(times.shape[0] - 1), times[:-1], times[1:])
    state, collected = jax.lax.scan(body, sampler.init(x), steps)
    return state.x if collect is None else (state.x, collected)


def check_times(times: Array | np.ndarray) -> Array:
    """The grid as a float32 array (float64 stays with x64), or an error that says what is wrong with it."""
    if np.ndim(times) != 1 or np.size(times) < 2:
        raise InputError(f"times: expected at least two times in one dimension, got shape {np.shape(times)}")
    if not isinstance(times, jax.core.Tracer):
        values = np.asarray(times, jnp.result_type(float))  # as the steps see them: equal times have no step
        if not (np.all(np.diff(values) < 0) and values[0] <= 1 and values[-1] >= 0):
            raise InputError(f"times: expected decreasing times in [0, 1], got {values}")
    return jnp.asarray(times, jnp.result_type(float))
