"""The one loop of the package: a sampler along a time grid."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.noise import fold_in, per_example
from jaxdiff.schedules import check_monotone
from jaxdiff.typing import Array, Denoiser, HasX, InputError, Prediction, Sampler


class Way(NamedTuple):
    """What `run` goes: how to step, along which times `[n + 1]`, and from which x `[B, ...]`."""

    sampler: Any
    times: Array | np.ndarray
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
    way = Way(sampler, check_times(times), x)
    return run(key, denoise, way, temperature=temperature, collect=collect)


def run(
    key: Array,
    denoise: Denoiser,
    way: Way,
    *,
    temperature: Array | float = 1.0,
    collect: Callable[[HasX], Any] | None = None,
) -> Any:
    """The scan of `sample`, along any times, also rising ones; of the sampler and the grid nothing is checked.

    Args:
      key: as of `sample`.
      denoise: as of `sample`.
      way: what it goes; times as `check_times` returns them.
      temperature: as of `sample`.
      collect: as of `sample`.

    Returns:
      as `sample`.
    """
    keys = per_example(key, way.x.shape[0])

    def body(state: HasX, step: tuple[Array, Array, Array]) -> tuple[HasX, Any]:
        state = one_step(keys, *step, state, denoise=denoise, sampler=way.sampler, temperature=temperature)
        return state, None if collect is None else collect(state)

    steps: Any = (jnp.arange(way.times.shape[0] - 1), way.times[:-1], way.times[1:])
    state, collected = jax.lax.scan(body, way.sampler.init(way.x), steps)
    return state.x if collect is None else (state.x, collected)


def one_step(
    keys: Array,
    i: Array | int,
    t: Array,
    s: Array,
    state: HasX,
    *,
    denoise: Denoiser,
    sampler: Sampler[Any],
    temperature: Array | float = 1.0,
) -> Any:
    """Step i of `run`, from t to s: the state after it.

    Args:
      keys: `[B]`, as given to `run`.
      i: from 0.
      t: where the state is.
      s: where to.
      state: the sampler's.
      denoise: as of `sample`.
      sampler: as of `sample`.
      temperature: as of `sample`.
    """

    def same_dtype(x_t: Array, *rest: Array) -> Prediction:  # x keeps its dtype, whatever the network computes in
        return Prediction(*jax.tree.map(lambda a: a.astype(x_t.dtype), denoise(x_t, *rest)))

    return sampler.step(fold_in(keys, i), state, t, s, same_dtype, temperature=temperature)


def check_times(times: Array | np.ndarray) -> Any:
    """The grid as float32 (float64 stays with x64), or an error that says what is wrong with it. Of numpy, where it is
    concrete: a grid of another length then compiles nothing."""
    if np.ndim(times) != 1 or np.size(times) < 2:
        raise InputError(f"times: expected at least two times in one dimension, got shape {np.shape(times)}")
    if isinstance(times, jax.core.Tracer):
        return jnp.asarray(times, jnp.result_type(float))
    values = np.asarray(times, jnp.result_type(float))  # as the steps see them: equal times have no step
    if not (np.all(np.diff(values) < 0) and values[0] <= 1 and values[-1] >= 0):
        raise InputError(f"times: expected decreasing times in [0, 1], got {values}")
    return values
