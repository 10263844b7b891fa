"""Anomalies: data that a model of normal data fails to restore, or finds unlikely. Three scores, large for anomalies:

* `reconstruct`: noise an image to several levels, denoise it again, and look at what was not restored, and where;
* `profile`: the training loss of one image at several levels;
* bits/dim, `likelihood.vlb` or `likelihood.ode`. Known to be bad: simple images are likely, also where they are not
  normal (Nalisnick et al. 2019, arXiv 1810.09136).

The first two are curves over the levels. How large an error is usual depends on the level, so compare curves with those
of normal images that the model was not trained on: `metrics.Normal`.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.losses import Distance, square
from jaxdiff.noise import fold_in, per_example, white_noise
from jaxdiff.process import q_sample
from jaxdiff.samplers.loop import check_times
from jaxdiff.schedules import as_float, check_whole, require
from jaxdiff.tasks.edit import from_noised
from jaxdiff.timesteps import user
from jaxdiff.typing import Array, Denoiser, InputError, Noise, Schedule


def grids(times: Sequence[float] | np.ndarray, levels: Sequence[float] | np.ndarray, *, steps: int) -> np.ndarray:
    """A grid from each level down, spaced as a given one is: `[L, steps + 1]`.

    With t(u) the given times, joined by straight lines over u in [0, 1], and t(u_l) the level, row l is t at equal
    steps from u_l to 1. Of a table take `timesteps.nearest_steps(row, T=T, spread=True)` of each row.

    Args:
      times: a decreasing grid, of a whole sampling run.
      levels: times within it, but not its end, `[L]`.
      steps: of each.

    Raises:
      InputError: times that do not decrease, no level, or one outside of them.

    >>> grids([1.0, 0.5, 0.0], [0.5, 0.8], steps=2).round(2).tolist()
    [[0.5, 0.25, 0.0], [0.8, 0.4, 0.0]]
    """
    check_whole("steps", steps)
    t, start = user(times), np.asarray(levels, np.float64)
    if start.ndim != 1 or not start.size or not np.all((start > t[-1]) & (start <= t[0])):
        raise InputError(f"levels: expected times above {t[-1]:g}, at most {t[0]:g}, at least one; got {levels}")
    u = np.linspace(0, 1, len(t))
    first = np.interp(start, t[::-1], u[::-1])[:, None]
    return np.asarray(np.interp(first + (1 - first) * np.arange(steps + 1) / steps, u, t))


def reconstruct(
    key: Array,
    x0: Array,
    denoise: Denoiser,
    sampler: Any,
    times: Array | np.ndarray,
    *,
    temperature: Array | float = 1.0,
    noise: Noise = white_noise,
) -> Array:
    """Data noised to several levels in closed form, and denoised from each again:

        x_l = alpha(t_l) x_0 + sigma(t_l) eps,        x0_l = the sampler's way from x_l down to the end of its grid

    At a low level all of x_0 is left in x_l, and all is restored, also what is wrong with it; at a high one nothing is,
    and what comes back is another example of what the model knows. A model of normal data restores these in between.

    Args:
      key: one typed key, or keys `[B]`. Level l of example n is `from_noised` with `fold_in(key_n, l)`.
      x0: data `[B, ...]`, images in [-1, 1].
      denoise: `(x_t, t) -> Prediction`.
      sampler: such as `DDIM(schedule)`, whose schedule gives alpha and sigma. With it and grids of one step x0_l is
        the denoiser's own `x0` at x_l.
      times: a grid for each level, which is its first time, `[L, n + 1]`, see `grids`. Rows that are equal are further
        draws of the noise.
      temperature: as of `sample`.
      noise: what x_l is made with.

    Returns:
      `[L, B, ...]`, the dtype of `x0`.

    Raises:
      InputError: times of another rank, or a row that does not decrease.

    >>> from jaxdiff import DDIM, schedules, testing
    >>> knows = testing.gaussian_denoiser(mean=1.0, std=0.0, schedule=schedules.Flow())  # nothing but 1
    >>> x0 = jnp.array([[1.0, 1.0, -1.0]])
    >>> times = grids([1.0, 0.0], [0.2, 0.8], steps=1)
    >>> found = reconstruct(jax.random.key(0), x0, knows, DDIM(schedules.Flow()), times)
    >>> found.shape, heat(x0, found).tolist()
    ((2, 1, 3), [[0.0, 0.0, 4.0]])

    Source: Graham et al. 2023 (arXiv 2211.07740), section 3, several levels; Wyatt et al. 2022, AnoDDPM (CVPR
    workshops), section 3, one, and where the error is.
    """
    if jnp.ndim(times) != 2:
        raise InputError(f"times: expected a grid for each level, [L, n + 1], got shape {jnp.shape(times)}")
    rows = jnp.stack([check_times(row) for row in times])
    x0 = as_float(x0)
    keys = per_example(key, x0.shape[0])

    def restored(level: tuple[Array, Array]) -> Array:
        i, grid = level
        return from_noised(
            fold_in(keys, i), denoise, x0, sampler=sampler, times=grid, noise=noise, temperature=temperature
        )

    return jnp.asarray(jax.lax.map(restored, (jnp.arange(rows.shape[0]), rows)))


def errors(x0: Array, found: Array, *, distance: Distance = square) -> Array:
    """How far reconstructions are off, by level: `distance(x0_l - x_0)`, the curve of each example, `[B, L]`.

    Args:
      x0: data `[B, ...]`.
      found: of `reconstruct`, `[L, B, ...]`.
      distance: `losses.square`, `absolute`, ..., or one of your own, `[B, ...] -> [B]`.

    >>> errors(jnp.zeros((2, 3)), jnp.stack([jnp.ones((2, 3)), jnp.full((2, 3), 2.0)])).tolist()
    [[1.0, 4.0], [1.0, 4.0]]
    """
    return jax.vmap(distance, out_axes=1)((found - x0[None]).astype(jnp.float32))


def heat(x0: Array, found: Array, *, weights: Array | None = None) -> Array:
    """Where reconstructions are off: `sum over levels of w_l (x0_l - x_0)^2`, the mean over channels, `[B, H, W]`.

    Args:
      x0: data `[B, H, W, C]`; without channels, `[B, D]`, nothing is averaged.
      found: of `reconstruct`, `[L, B, H, W, C]`.
      weights: w, `[L]`; default 1 / L each. One over the mean error of normal images makes the levels alike.

    Source: Wyatt et al. 2022, AnoDDPM (CVPR workshops), section 3.
    """
    w = jnp.full(found.shape[0], 1 / found.shape[0]) if weights is None else jnp.asarray(weights, jnp.float32)
    require(w.shape == found.shape[:1], f"weights: expected one for each of {found.shape[0]} levels, got {w.shape}")
    where = jnp.tensordot(w, jnp.square((found - x0[None]).astype(jnp.float32)), axes=1)
    return where.mean(-1) if where.ndim > 2 else where


def profile(
    key: Array,
    x0: Array,
    denoise: Denoiser,
    times: Array | np.ndarray,
    *,
    schedule: Schedule,
    draws: int = 1,
    distance: Distance = square,
    noise: Noise = white_noise,
) -> dict[str, Array]:
    """The loss of each example at several times, a mean over draws of the noise:

        eps(t) = E |eps - eps_guess(x_t, t)|^2 / D,        x0(t) = E |x_0 - x0_guess(x_t, t)|^2 / D

    They differ by the factor SNR(t) alone. A weighted sum of them over t is, but for a constant, the variational bound
    of -log p(x_0); which times it is at tells more.

    Args:
      key: one typed key, or keys `[B]`. Draw d at time i has `fold_in(key_n, i draws + d)`.
      x0: data `[B, ...]`, images in [-1, 1].
      denoise: `(x_t, t) -> Prediction`.
      times: in (0, 1], `[n]`; of a table its own.
      schedule: gives alpha and sigma.
      draws: of the noise, at each time.
      distance: of an error.
      noise: what x_t is made with.

    Returns:
      `{"eps": [B, n], "x0": [B, n]}`, float32.

    >>> from jaxdiff import schedules, testing
    >>> knows = testing.gaussian_denoiser(mean=1.0, std=0.0, schedule=schedules.Flow())
    >>> found = profile(jax.random.key(0), jnp.full((1, 4), 1.5), knows, jnp.array([0.5]), schedule=schedules.Flow())
    >>> found["x0"].tolist()
    [[0.25]]

    Source: as a loss Ho et al. 2020 (arXiv 2006.11239), eq. 14; as a curve that tells anomalies Mahmood et al. 2021
    (arXiv 2010.13132), section 3, who take the scores' norms at x_0 itself.
    """
    check_whole("draws", draws)
    x0 = as_float(x0)
    keys = per_example(key, x0.shape[0])
    drawn = jnp.repeat(as_float(jnp.asarray(times)), draws)

    def at(step: tuple[Array, Array]) -> dict[str, Array]:
        i, t = step
        eps = noise(fold_in(keys, i), x0.shape).astype(x0.dtype)
        guess = denoise(q_sample(x0, t, eps, schedule=schedule), t)
        off = {"eps": guess.eps - eps, "x0": guess.x0 - x0}
        return {name: distance(error.astype(jnp.float32)) for name, error in off.items()}

    found = jax.lax.map(at, (jnp.arange(drawn.shape[0]), drawn))
    return {name: error.reshape(-1, draws, x0.shape[0]).mean(1).T for name, error in found.items()}
