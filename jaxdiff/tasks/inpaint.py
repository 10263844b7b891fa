"""Inpainting and outpainting: a part of the picture is known, the rest is made to fit."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdiff.noise import fold_in, per_example
from jaxdiff.operators import check_mask
from jaxdiff.process import prior
from jaxdiff.samplers import Replacement, Way, check_resampling, run, time_travel
from jaxdiff.samplers.loop import check_times
from jaxdiff.schedules import check_monotone
from jaxdiff.typing import Array, Denoiser


def inpaint(
    key: Array,
    denoise: Denoiser,
    known: Array,
    mask: Array,
    *,
    sampler: Any,
    times: Array | np.ndarray,
    jump_length: int = 10,
    resamplings: int = 1,
    temperature: Array | float = 1.0,
) -> Array:
    """Pictures whose known part is `known`, by replacement, or by RePaint with `resamplings` above 1.

    Replacement alone (Song et al. 2021) harmonises the parts badly: the known one is drawn without regard to the
    other. RePaint goes back up and down again, `resamplings` times in jumps of `jump_length` steps. Neither is exact:
    their error on Gaussian data is in the docs. Exact there is `restore` with `operators.Mask`.

    Args:
      key: one typed key, or keys `[B]`: picture i depends on its own.
      denoise: of the prior, unconditional or not.
      known: `[B, H, W, C]` in [-1, 1]; anything where the mask is 0.
      mask: 1 where it is known, else 0; broadcasts against `known`, with as many dimensions.
      sampler: the paper's is `DDPM(schedule)`; with one resampling any.
      times: `[n + 1]`, decreasing.
      jump_length: j, in steps of the grid; 1 is Algorithm 1.
      resamplings: r; the paper's is 10.
      temperature: as of `sample`.

    Returns:
      `[B, H, W, C]`, where the mask is 1 `known` itself.

    Raises:
      InputError: numbers that are not whole, from 1; more than one resampling by a sampler with a history, or in jumps
        that are not shorter than the grid; a bad grid or schedule, as `sample`; another value in the mask, where it is
        concrete.

    >>> import jax
    >>> from jaxdiff import DDPM, schedules, testing, timesteps
    >>> denoise = testing.gaussian_denoiser(mean=2.0, std=0.0, schedule=schedules.Flow())
    >>> mask = jnp.array([[1.0, 0.0]])
    >>> sampler, times = DDPM(schedules.Flow()), timesteps.uniform(20)
    >>> inpaint(jax.random.key(0), denoise, 5 * mask, mask, sampler=sampler, times=times, resamplings=2).tolist()
    [[5.0, 2.0]]

    Source: Lugmayr et al. 2022 (arXiv 2201.09865), Algorithm 1 and appendix B.
    """
    keys = per_example(key, known.shape[0])
    way = inpainting_way(
        fold_in(keys, 0), known, mask, sampler=sampler, times=times, jump_length=jump_length, resamplings=resamplings
    )
    return with_known(run(fold_in(keys, 1), denoise, way, temperature=temperature), known, mask)


def inpainting_way(
    key: Array,
    known: Array,
    mask: Array,
    *,
    sampler: Any,
    times: Array | np.ndarray,
    jump_length: int = 10,
    resamplings: int = 1,
) -> Way:
    """What `inpaint` runs, for those who run it themselves, step by step say; its end goes through `with_known`.

    Args:
      key: one typed key, or keys `[B]`, of the start alone.
      known: as of `inpaint`, like the others.

    Returns:
      the sampler with replacement inside, the times `[m + 1]`, which may also rise, and the start.

    Raises:
      InputError: as `inpaint`.
    """
    check_monotone(sampler.schedule)
    times = check_times(times)
    check_resampling(sampler, resamplings)
    path = time_travel(times.shape[0] - 1, jump_length=jump_length, resamplings=resamplings)
    keys = per_example(key, known.shape[0])
    x = prior(keys, known.shape, schedule=sampler.schedule, t=times[0]).astype(known.dtype)
    return Way(Replacement(sampler, known, mask), times[path], x)


def with_known(x: Array, known: Array, mask: Array) -> Array:
    """`known` where the mask is 1, else x.

    Args:
      x: `[B, H, W, C]`, like the others, which broadcast.
      known: the picture.
      mask: 1 or 0.

    Raises:
      InputError: another value in the mask, where it is concrete.
    """
    check_mask(mask)
    return jnp.where(jnp.broadcast_to(mask, x.shape) > 0, known, x)
