"""Linear inverse problems: pictures from what was measured of them. Zero-shot super-resolution, deblurring, colouring,
filling in: one function, another operator."""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp

from jaxdiff import guidance
from jaxdiff.denoise import clip_x0
from jaxdiff.noise import fold_in, per_example
from jaxdiff.process import prior
from jaxdiff.samplers import sample
from jaxdiff.schedules import check_choice, require
from jaxdiff.typing import Array, Denoiser, Sampler, Schedule

Method = Literal["moments", "dps", "null_space"]
"""How the measurement guides; see `restore`."""
METHODS: tuple[Method, ...] = ("moments", "dps", "null_space")


def restore(
    key: Array,
    denoise: Denoiser,
    y: Array,
    A: Callable[[Array], Array],
    *,
    shape: tuple[int, ...],
    sampler: Sampler,  # type: ignore[type-arg]
    schedule: Schedule,
    times: Array,
    method: Method = "moments",
    noise_std: Array | float = 0.0,
    iterations: int = 5,
    zeta: Array | float = 1.0,
    clip: bool = False,
    temperature: Array | float = 1.0,
) -> Array:
    """Draws from the posterior of pictures given `y = A x + noise_std n`.

    * `moments`: `guidance.moment_matched`, exact for Gaussian data, if `iterations` are as many as
      numbers were measured (often far fewer will do); a step costs 2 + `iterations` calls of the network.
    * `dps`: `guidance.dps`; its Algorithm 1 with `DDPM` and an even grid; one backward pass a call.
    * `null_space`: `guidance.null_space`, for `noise_std` 0 and an operator of `operators`; no backward pass.

    Args:
      key: one typed key, or keys `[B]`.
      denoise: of the prior, not clipped.
      y: measured, `[B, ...]`.
      A: an operator; see `operators`.
      shape: of the pictures, `(B, H, W, C)`.
      sampler: for dps `DDPM(schedule)`.
      schedule: gives alpha and sigma.
      times: `[n + 1]`, decreasing.
      method: see above.
      noise_std: of the measurement, 0 or more.
      iterations: of moments.
      zeta: of dps, the paper's step size.
      clip: the guided x0 to [-1, 1].
      temperature: as of `sample`.

    Returns:
      float `[B, H, W, C]`.

    Raises:
      InputError: an unknown method; dps or null_space with noise; null_space without a pseudo-inverse.

    >>> import jax
    >>> from jaxdiff import DDIM, operators, schedules, testing, timesteps
    >>> schedule = schedules.Flow()
    >>> denoise = testing.gaussian_denoiser(mean=0.0, std=1.0, schedule=schedule)
    >>> small = jnp.full((1, 1, 1, 1), 0.5)
    >>> half = operators.Downsample(2)
    >>> x = restore(jax.random.key(0), denoise, small, half, shape=(1, 2, 2, 1), sampler=DDIM(schedule),
    ...             schedule=schedule, times=timesteps.uniform(20))
    >>> round(float(half(x)[0, 0, 0, 0]), 3)
    0.5

    Source: Chung et al. 2023 (arXiv 2209.14687); Boys et al. 2023 (arXiv 2310.06721); Wang et al. 2022 (arXiv
    2212.00490).
    """
    check_choice("method", method, METHODS)
    exact = isinstance(noise_std, int | float) and noise_std == 0
    require(
        method == "moments" or exact, f"{method}: takes what was measured as exact, noise_std {noise_std}; use moments"
    )
    if method == "moments":
        guided = guidance.moment_matched(denoise, y, A, noise_std=noise_std, schedule=schedule, iterations=iterations)
    elif method == "dps":
        guided = guidance.dps(denoise, y, A, zeta=zeta, steps=jnp.shape(times)[0] - 1, schedule=schedule)
    else:
        require(hasattr(A, "pinv"), "null_space: expected an operator with a pseudo-inverse, of jaxdiff.operators")
        guided = guidance.null_space(denoise, y, A, schedule=schedule)  # type: ignore[arg-type]  # it has pinv
    if clip:
        guided = clip_x0(guided, schedule=schedule)
    keys = per_example(key, shape[0])
    x = prior(fold_in(keys, 0), shape, schedule=schedule, t=times[0])
    return jnp.asarray(sample(fold_in(keys, 1), guided, sampler, times, x, temperature=temperature))
