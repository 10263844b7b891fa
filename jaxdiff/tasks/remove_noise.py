"""Denoising of pictures `y = x + std n`, which are x_t / alpha(t) at the time where sigma / alpha = std."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdiff.noise import per_example
from jaxdiff.samplers import Way, remembers, run
from jaxdiff.schedules import Discrete, as_float, check_whole, expand, require, time_at_log_snr
from jaxdiff.typing import Array, Denoiser, Schedule, concrete


def time_of_noise(std: Array | float, *, schedule: Schedule) -> Array:
    """The time at which `x_t / alpha(t)` is data with noise of that standard deviation: `sigma / alpha = std`.

    Less noise than the schedule's, or of a table its first step's, counts as that, more as that at t = 1.

    Args:
      std: in the units of the data (pixels in [-1, 1]: 1/127.5 is a grey level); a number or `[B]`, positive.
      schedule: gives alpha and sigma.

    Raises:
      InputError: a std that is not positive.

    >>> from jaxdiff.schedules import Flow
    >>> round(float(time_of_noise(1.0, schedule=Flow())), 6)
    0.5
    """
    values = concrete(std)
    require(values is None or bool(np.all(values > 0)), f"std: expected a positive number, got {std}")
    t = time_at_log_snr(-2 * jnp.log(as_float(std)), schedule=schedule)
    return jnp.maximum(t, 1.01 * _first(schedule))  # not the first step itself: a grid from there has steps


def _first(schedule: Schedule) -> float:
    """The earliest time that a network knows."""
    return 1 / schedule.T if isinstance(schedule, Discrete) else 0.0


def estimate_noise(y: Array) -> Array:
    """The standard deviation of white noise in pictures, from the finest diagonal details, which have little else:

        d = (y_00 - y_01 - y_10 + y_11) / 2 of each 2x2 square,        std = median |d| / 0.6745

    Detail of the picture itself counts as noise: it is too large for small, busy pictures. An odd last row or column is
    not read.

    Args:
      y: `[B, H, W, C]`, at least 2x2.

    Returns:
      `[B]`.

    >>> import jax
    >>> y = 0.5 + 0.1 * jax.random.normal(jax.random.key(0), (1, 64, 64, 1))
    >>> bool(abs(estimate_noise(y)[0] - 0.1) < 0.01)
    True

    Source: Donoho & Johnstone 1994 (Biometrika 81), section 4.2.
    """
    b, h, w, _ = y.shape
    require(h > 1 and w > 1, f"estimate_noise: expected pictures of at least 2x2, got {h}x{w}")
    y = as_float(y)[:, : h // 2 * 2, : w // 2 * 2]
    d = (y[:, ::2, ::2] - y[:, ::2, 1::2] - y[:, 1::2, ::2] + y[:, 1::2, 1::2]) / 2
    return jnp.median(jnp.abs(d).reshape(b, -1), axis=1) / 0.6744898


def posterior_mean(denoise: Denoiser, y: Array, std: Array | float, *, schedule: Schedule) -> Array:
    """`E[x | y]`, the best guess in mean square: one call of the denoiser, at the time of the noise.

    Args:
      denoise: `(x_t, t) -> Prediction`.
      y: pictures with noise, `[B, ...]`.
      std: of the noise; a number or `[B]`.
      schedule: gives alpha and sigma.

    >>> from jaxdiff import testing
    >>> from jaxdiff.schedules import Flow
    >>> prior = testing.gaussian_denoiser(mean=0.0, std=1.0, schedule=Flow())
    >>> round(float(posterior_mean(prior, jnp.ones((1, 1)), 1.0, schedule=Flow())[0, 0]), 5)
    0.5

    Source: Efron 2011 (JASA 106), Tweedie's formula.
    """
    t = time_of_noise(std, schedule=schedule)
    return denoise(expand(schedule.alpha(t), y) * y, t).x0


def posterior_samples(
    key: Array,
    denoise: Denoiser,
    y: Array,
    std: Array | float,
    *,
    sampler: Any,
    steps: int,
    temperature: Array | float = 1.0,
) -> Array:
    """Draws from p(x | y): the reverse process from where the noise is that of y. Exact, but for the steps' length.

    Args:
      key: one typed key, or keys `[B]`.
      denoise: `(x_t, t) -> Prediction`.
      y: pictures with noise, `[B, ...]`.
      std: of the noise; a number or `[B]`: every picture has a grid of its own, of equal steps in time from there
        down to 0, of a table to its first step and then to 0.
      sampler: one that draws noise, such as `DDPM(schedule)`; a deterministic one makes one picture of each y.
      steps: of the grid.
      temperature: as of `sample`.

    Returns:
      `[B, ...]`.

    Raises:
      InputError: steps that are no whole number from 1; a std that is not positive; a sampler with a history, where
        std is `[B]`.

    >>> import jax
    >>> from jaxdiff import DDPM, schedules, testing
    >>> prior = testing.gaussian_denoiser(mean=2.0, std=0.0, schedule=schedules.Flow())
    >>> posterior_samples(jax.random.key(0), prior, jnp.ones((1, 1)), 0.5, sampler=DDPM(schedules.Flow()), steps=9)
    Array([[2.]], dtype=float32)

    Source: Kawar et al. 2021 (arXiv 2101.09552), section 3.
    """
    keys = per_example(key, y.shape[0])
    return jnp.asarray(run(keys, denoise, posterior_way(y, std, sampler=sampler, steps=steps), temperature=temperature))


def posterior_way(y: Array, std: Array | float, *, sampler: Any, steps: int) -> Way:
    """What `posterior_samples` runs, for those who run it themselves, step by step say.

    Args:
      y: as of `posterior_samples`, like the others.
      std: of the noise.
      sampler: how to step.
      steps: of the grid.

    Returns:
      the sampler, the times `[steps + 1]`, or of each picture `[steps + 1, B]`, and the start.

    Raises:
      InputError: as `posterior_samples`.
    """
    check_whole("steps", steps)
    schedule = sampler.schedule
    t = time_of_noise(std, schedule=schedule)
    require(t.ndim == 0 or not remembers(sampler), f"{type(sampler).__name__}: has one grid for all; give one std")
    x = expand(schedule.alpha(t), y) * y
    first, values = _first(schedule), concrete(t)
    xp: Any = jnp if values is None else np  # numpy where it can be: another number of steps then compiles nothing
    start = t if values is None else values
    share = xp.arange(steps, dtype=start.dtype) / (max(steps - 1, 1) if first else steps)
    wide = (-1, *(1,) * start.ndim)
    down = start[None] + share.reshape(wide) * (first - start)[None]
    return Way(sampler, xp.concatenate([down, xp.zeros_like(down[:1])]), x)
