"""Between two pictures: along the sphere of their latents, or in the noisy pictures of the stochastic encoder."""

from typing import Any

from jaxdiff.noise import slerp
from jaxdiff.samplers import invert
from jaxdiff.schedules import expand
from jaxdiff.tasks.edit import from_noised, generated
from jaxdiff.typing import Array, Denoiser, Schedule


def between_latents(
    denoise: Denoiser, a: Array, b: Array, share: Array, *, times: Array, schedule: Schedule, corrections: int = 1
) -> Array:
    """Pictures between a and b: DDIM's inversion of both, the great circle between the latents, DDIM again.

    Args:
      denoise: `(x_t, t) -> Prediction`.
      a: `[B, ...]` in [-1, 1].
      b: the shape of a.
      share: of b, `[B]`: 0 returns a, 1 b, but for the length of the steps.
      times: `[n + 1]`, decreasing, from 1.
      schedule: gives alpha and sigma.
      corrections: of `samplers.invert`.

    >>> import jax.numpy as jnp
    >>> from jaxdiff import schedules, testing, timesteps
    >>> schedule = schedules.VP()
    >>> denoise = testing.gaussian_denoiser(mean=0.0, std=1.0, schedule=schedule)
    >>> ends = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
    >>> x = between_latents(denoise, *ends, jnp.array([0.5]), times=timesteps.uniform(100), schedule=schedule)
    >>> bool(abs(x - 0.5**0.5).max() < 1e-3)
    True

    Source: Song et al. 2021 (arXiv 2010.02502), section 5.3 and appendix D.5.
    """
    first, second = (invert(denoise, times, x, schedule=schedule, corrections=corrections) for x in (a, b))
    return generated(denoise, slerp(first, second, share), times=times, schedule=schedule)


def between_noised(
    key: Array, denoise: Denoiser, a: Array, b: Array, share: Array, *, sampler: Any, times: Array,
    temperature: Array | float = 1.0,
) -> Array:  # fmt: skip
    """Pictures between a and b: both noised up to `times[0]` by the same draw, the line between them, sampled down.

        x_t = (1 - share) (alpha a + sigma eps) + share (alpha b + sigma eps)

    The later the start, the further the picture may be from both.

    Args:
      key: one typed key, or keys `[B]`; the same key for all shares makes one path.
      denoise: `(x_t, t) -> Prediction`.
      a: `[B, ...]` in [-1, 1].
      b: the shape of a.
      share: of b, `[B]`, in [0, 1].
      sampler: any; the paper's is `DDPM(schedule)`.
      times: from where they are noised to, such as `timesteps.starting_at(grid, 0.5)`.
      temperature: as of `sample`.

    >>> import jax, jax.numpy as jnp
    >>> from jaxdiff import DDPM, schedules, testing, timesteps
    >>> denoise = testing.gaussian_denoiser(mean=2.0, std=0.0, schedule=schedules.Flow())
    >>> x, times = jnp.ones((1, 1)), timesteps.uniform(4, start=0.5)
    >>> sampler = DDPM(schedules.Flow())
    >>> between_noised(jax.random.key(0), denoise, x, -x, jnp.array([0.5]), sampler=sampler, times=times).tolist()
    [[2.0]]

    Source: Ho et al. 2020 (arXiv 2006.11239), section 4.3 and appendix D (figure 8).
    """
    middle = a + expand(share, a) * (b - a)  # the same noise on both: on the line between them it is that noise
    return from_noised(key, denoise, middle, sampler=sampler, times=times, temperature=temperature)
