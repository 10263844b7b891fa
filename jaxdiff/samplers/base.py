"""The one loop of the package, and the state most samplers share."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.noise import fold_in, per_example
from jaxdiff.typing import Array, Denoiser, HasX, InputError, Sampler


class State(NamedTuple):
    """The state of a one-step sampler: the current `x_t`."""

    x: Array


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
      InputError: a grid of fewer than two times, or one that does not decrease (checked where it is concrete).

    >>> from jaxdiff import DDIM, schedules, testing, timesteps
    >>> schedule = schedules.Flow()
    >>> denoise = testing.gaussian_denoiser(mean=2.0, std=0.0, schedule=schedule)
    >>> x = sample(jax.random.key(0), denoise, DDIM(schedule), timesteps.uniform(4), jnp.ones((1, 3)))
    >>> x.tolist()
    [[2.0, 2.0, 2.0]]
    """
    times = check_times(times)
    keys = per_example(key, x.shape[0])

    def body(state: HasX, step: tuple[Array, Array, Array]) -> tuple[HasX, Any]:
        i, t, s = step
        state = sampler.step(fold_in(keys, i), state, t, s, denoise, temperature=temperature)
        return state, None if collect is None else collect(state)

    steps = (jnp.arange(times.shape[0] - 1), times[:-1], times[1:])
    state, collected = jax.lax.scan(body, sampler.init(x), steps)
    return state.x if collect is None else (state.x, collected)


def check_times(times: Array | np.ndarray) -> Array:
    """The grid as a float32 array (float64 stays with x64), or an error that says what is wrong with it."""
    if np.ndim(times) != 1 or np.size(times) < 2:
        raise InputError(f"times: expected at least two times in one dimension, got shape {np.shape(times)}")
    if not isinstance(times, jax.core.Tracer):
        values = np.asarray(times, np.float64)
        if not (np.all(np.diff(values) < 0) and values[0] <= 1 and values[-1] >= 0):
            raise InputError(f"times: expected decreasing times within [1, 0], got {values}")
    return jnp.asarray(times, jnp.result_type(float))
