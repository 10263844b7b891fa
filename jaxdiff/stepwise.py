"""A sampler's run as one call a step, in place of one program: to be watched, and stopped in between.

It makes the pictures of `samplers.run`, up to rounding, at the cost of a call from Python a step. The program of a step
is compiled once for a sampler, a network and a batch: any number of steps, any times, any numbers go through it.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.noise import per_example
from jaxdiff.samplers import Way, one_step
from jaxdiff.typing import Array, Denoiser


def states(key: Array, denoise: Denoiser, way: Way, *, temperature: Array | float = 1.0) -> Iterator[Any]:
    """The sampler's states along a way: the first, `sampler.init(x)`, and the one after each step.

    A step is made when it is asked for: who asks no more has stopped it.

    Args:
      key: one typed key, or keys `[B]`, as of `samplers.run`.
      denoise: a pytree whose leaves are all that changes from call to call, params and labels: a
        `jax.tree_util.Partial` of a function that is the same object each time. Another function compiles anew.
      way: the sampler, the times `[n + 1]`, which may also rise, and x `[B, ...]`; see `tasks.inpainting_way`.
      temperature: as of `samplers.run`.

    Yields:
      n + 1 states; the last one's `x` is the picture.

    >>> from jaxdiff import DDIM, schedules, testing, timesteps
    >>> schedule = schedules.Flow()
    >>> denoise = jax.tree_util.Partial(testing.gaussian_denoiser(mean=2.0, std=0.0, schedule=schedule))
    >>> way = Way(DDIM(schedule), jnp.asarray(timesteps.uniform(4), jnp.float32), jnp.ones((1, 1)))
    >>> [round(float(state.x[0, 0]), 3) for state in states(jax.random.key(0), denoise, way)]
    [1.0, 1.25, 1.5, 1.75, 2.0]
    """
    keys = per_example(key, way.x.shape[0])
    state = way.sampler.init(way.x)
    yield state
    scale = jnp.asarray(temperature, jnp.float32)
    for i, (t, s) in enumerate(pairwise(np.asarray(way.times))):
        state = _step(denoise, way.sampler, keys, np.int32(i), t, s, state, scale)
        yield state


@jax.jit
def _step(
    denoise: Denoiser, sampler: Any, keys: Array, i: Array, t: Array, s: Array, state: Any, temperature: Array
) -> Any:
    return one_step(keys, i, t, s, state, denoise=denoise, sampler=sampler, temperature=temperature)
