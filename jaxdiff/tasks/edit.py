"""Pictures from pictures: variations, translation from one model or label to another, editing by a difference."""

from typing import Any

import jax

from jaxdiff.guidance import Scale, product
from jaxdiff.noise import fold_in, per_example, white_noise
from jaxdiff.process import q_sample
from jaxdiff.samplers import DDIM, invert, sample
from jaxdiff.typing import Array, Denoiser, Noise, Schedule


def from_noised(
    key: Array,
    denoise: Denoiser,
    x0: Array,
    *,
    sampler: Any,
    times: Array,
    noise: Noise = white_noise,
    temperature: Array | float = 1.0,
) -> Array:
    """Image to image: noise a picture up to `times[0]`, and sample down from there. Another key is another variation.

    The later the start, the less of the picture is left: at t = 1 nothing.

    Args:
      key: one typed key, or keys `[B]`.
      denoise: of what the picture shall become.
      x0: `[B, ...]`, any picture of the right size: a photograph, a sketch, in [-1, 1].
      sampler: any.
      times: from where it is noised to, such as `timesteps.starting_at(grid, 0.5)`.
      noise: what is drawn at the start.
      temperature: as of `sample`.

    Returns:
      `[B, ...]` at `times[-1]`.

    Raises:
      InputError: a bad grid, sampler or schedule, as `sample`.

    >>> import jax, jax.numpy as jnp
    >>> from jaxdiff import schedules, testing, timesteps
    >>> denoise = testing.gaussian_denoiser(mean=2.0, std=0.0, schedule=schedules.Flow())
    >>> times = timesteps.uniform(4, start=0.5)
    >>> from_noised(jax.random.key(0), denoise, jnp.ones((1, 1)), sampler=DDIM(schedules.Flow()), times=times).tolist()
    [[2.0]]

    Source: Meng et al. 2022 (arXiv 2108.01073), Algorithm 1.
    """
    keys = per_example(key, x0.shape[0])
    eps = noise(fold_in(keys, 0), x0.shape).astype(x0.dtype)
    x: Array = sample(
        fold_in(keys, 1), denoise, sampler, times, q_sample(x0, times[0], eps, schedule=sampler.schedule),
        temperature=temperature,
    )  # fmt: skip
    return x


def transfer(
    source: Denoiser, target: Denoiser, x0: Array, *, times: Array, schedule: Schedule, corrections: int = 1
) -> Array:
    """Style transfer: the latent of a picture under one denoiser, and the picture that another one makes of it.

    The two may be two models, or one under two labels. Deterministic; with `target = source` it returns the picture,
    but for the length of the steps.

    Args:
      source: what the picture is, such as the denoiser under its own label.
      target: what it shall become.
      x0: `[B, ...]` in [-1, 1].
      times: `[n + 1]`, decreasing, from 1 or earlier: a latent of an earlier time keeps more of the picture.
      schedule: gives alpha and sigma.
      corrections: of `samplers.invert`.

    Returns:
      `[B, ...]` at `times[-1]`.

    Raises:
      InputError: a bad grid or schedule, as `sample`.

    >>> import jax.numpy as jnp
    >>> from jaxdiff import schedules, testing, timesteps
    >>> zero, two = (testing.gaussian_denoiser(mean=m, std=1.0, schedule=schedules.VP()) for m in (0.0, 2.0))
    >>> x = transfer(zero, two, jnp.full((1, 1), 0.3), times=timesteps.uniform(200), schedule=schedules.VP())
    >>> bool(abs(x[0, 0] - 2.3) < 0.02)
    True

    Source: Su et al. 2023 (arXiv 2203.08382), Algorithm 1.
    """
    latent = invert(source, times, x0, schedule=schedule, corrections=corrections)
    return generated(target, latent, times=times, schedule=schedule)


def generated(denoise: Denoiser, latent: Array, *, times: Array, schedule: Schedule) -> Array:
    """What DDIM makes of a latent at `times[0]`: the way back of `samplers.invert`.

    Args:
      denoise: `(x_t, t) -> Prediction`.
      latent: `[B, ...]` at `times[0]`.
      times: `[n + 1]`, decreasing.
      schedule: gives alpha and sigma.

    Returns:
      `[B, ...]` at `times[-1]`.

    >>> import jax.numpy as jnp
    >>> from jaxdiff import schedules, testing, timesteps
    >>> denoise = testing.gaussian_denoiser(mean=2.0, std=0.0, schedule=schedules.Flow())
    >>> generated(denoise, jnp.ones((1, 1)), times=timesteps.uniform(3), schedule=schedules.Flow()).tolist()
    [[2.0]]
    """
    x: Array = sample(jax.random.key(0), denoise, DDIM(schedule), times, latent)  # which draws nothing
    return x


def edited(base: Denoiser, more: Denoiser, less: Denoiser, *, scale: Scale, schedule: Schedule) -> Denoiser:
    """A denoiser that goes from what `less` says towards what `more` says, for `transfer(base, edited(...))`:

        eps = eps_base + scale (eps_more - eps_less)

    Args:
      base: of the picture, such as the unconditional one.
      more: of the attribute that shall come.
      less: of the one that shall go.
      scale: 0 is base; a number, `[B]`, or a function of time.
      schedule: gives alpha and sigma.

    >>> import jax.numpy as jnp
    >>> from jaxdiff.schedules import Flow
    >>> from jaxdiff.typing import Prediction
    >>> say = lambda value: lambda x, t: Prediction(jnp.full_like(x, -value), jnp.full_like(x, value))
    >>> denoise = edited(say(0.0), say(3.0), say(1.0), scale=0.5, schedule=Flow())
    >>> float(denoise(jnp.zeros((1, 1)), jnp.float32(0.5)).eps[0, 0])
    1.0

    Source: Liu et al. 2022 (arXiv 2206.01714), section 3.2, of whose compositions it is one; Brack et al. 2023 (arXiv
    2301.12247), eq. 4, without its thresholds.
    """

    def negative(t: Array) -> Array:
        return -(scale(t) if callable(scale) else scale)  # type: ignore[return-value]

    return product([base, more, less], weights=[1.0, scale, negative], schedule=schedule)
