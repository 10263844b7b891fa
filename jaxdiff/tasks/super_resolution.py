"""Super-resolution by a network that was trained to be given the smaller picture, and cascades of such."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdiff import condition, process, samplers
from jaxdiff.noise import fold_in, per_example, white_noise
from jaxdiff.typing import Array, Denoiser, Noise, Sampler, Schedule

Bind = Callable[[Array], Denoiser]
"""What the network is given, `[B, H, W, C + 1]` of `condition.channels`, -> its denoiser of those B pictures."""

Make = Callable[[Array], Array]
"""Keys `[B]` -> pictures `[B, h, w, C]`."""

Enlarge = Callable[[Array, Array], Array]
"""Keys `[B]`, pictures `[B, h, w, C]` -> `[B, H, W, C]`, such as `super_resolve` with its settings bound."""


def super_resolve(
    key: Array,
    low: Array,
    *,
    bind: Bind,
    factor: int,
    sampler: Sampler[Any],
    times: Array | np.ndarray,
    schedule: Schedule,
    level: Array | float = 0.0,
    enlargement: str = "bicubic",
    noise: Noise = white_noise,
    temperature: Array | float = 1.0,
) -> Array:
    """One draw of the larger picture given the smaller one: `x ~ p(x | z_s)`, `z_s = sqrt(1 - s^2) low + s eps`.

    Args:
      key: one typed key, or keys `[B]`; other ones give other draws.
      low: the small pictures, `[B, h, w, C]`, in [-1, 1].
      bind: makes the denoiser.
      factor: of the sides.
      sampler: how to step.
      times: `[n + 1]`, decreasing.
      schedule: gives alpha and sigma.
      level: s of the augmentation (`condition.augmented`), a number or `[B]`: 0 trusts the picture, more hides its
        faults, where it is itself made by a network.
      enlargement: of `condition.ENLARGEMENTS`, that of training.
      noise: that sampling starts from.
      temperature: as of `samplers.sample`.

    Returns:
      float32 `[B, factor h, factor w, C]`.

    Raises:
      InputError: what `condition.channels` and `samplers.sample` do.

    >>> import jax; from jaxdiff import schedules, testing, timesteps
    >>> flow, low = schedules.Flow(), jnp.full((1, 2, 2, 1), 0.5)
    >>> bind = lambda image: testing.gaussian_denoiser(mean=image[..., :-1], std=0.0, schedule=flow)
    >>> x = super_resolve(jax.random.key(0), low, bind=bind, factor=2, sampler=samplers.DDIM(flow),
    ...                   times=timesteps.uniform(2), schedule=flow)
    >>> x.shape, round(float(x.min()), 4), round(float(x.max()), 4)
    ((1, 4, 4, 1), 0.5, 0.5)

    Source: Saharia et al. 2021, SR3 (arXiv 2104.07636); the augmentation Ho et al. 2021 (arXiv 2106.15282), section 4.
    """
    batch, height, width, channels = low.shape
    keys = per_example(key, batch)
    start, steps, draw = (fold_in(keys, i) for i in range(3))
    given = condition.channels(draw, low, level, factor=factor, enlargement=enlargement)
    shape = (batch, factor * height, factor * width, channels)
    x = process.prior(start, shape, schedule=schedule, t=jnp.asarray(times)[0], noise=noise)
    made: Array = samplers.sample(steps, bind(given), sampler, times, x, temperature=temperature)
    return made


def cascade(key: Array, base: Make, stages: Sequence[Enlarge], *, num: int) -> tuple[Array, ...]:
    """Pictures of all stages of a cascade: `base`'s, and then each stage's, given those of the one before.

    Args:
      key: one typed key, or keys `[num]`.
      base: makes the smallest; it gets the keys as they are, and may fold 0 and 1 into them.
      stages: enlarge; stage i, from 0, gets the keys with i + 2 folded in.
      num: how many.

    Returns:
      `1 + len(stages)` arrays of `num` pictures, the last of which are the largest.

    >>> import jax; from jaxdiff import white_noise
    >>> base = lambda keys: white_noise(keys, (len(keys), 1, 1, 1))
    >>> double = lambda keys, low: condition.enlarged(low, factor=2)
    >>> [x.shape for x in cascade(jax.random.key(0), base, [double, double], num=3)]
    [(3, 1, 1, 1), (3, 2, 2, 1), (3, 4, 4, 1)]

    Source: Ho et al. 2021 (arXiv 2106.15282), section 3.
    """
    keys = per_example(key, num)
    made = [base(keys)]
    for i, enlarge in enumerate(stages):
        made.append(enlarge(fold_in(keys, i + 2), made[-1]))
    return tuple(made)
