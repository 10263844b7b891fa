"""Scores of anomalies (`tasks.anomaly`) by a run's network: losses of batches of uint8 images, whose labels are not
read. A network of classes is asked without one."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdiff import likelihood, schedules, timesteps
from jaxdiff.build.diffusion import schedule
from jaxdiff.build.likelihood import bound_chain, bound_settings
from jaxdiff.build.networks import Spec, denoiser
from jaxdiff.build.sample import sampler, times
from jaxdiff.config import Config
from jaxdiff.denoise import clip_x0
from jaxdiff.pixels import from_uint8
from jaxdiff.tasks import anomaly
from jaxdiff.train.step import LossFn
from jaxdiff.typing import Array, Batch, Denoiser, InputError, PyTree


def noise_levels(config: Config, num: int = 8, *, log_snr: float = 4.0) -> np.ndarray:
    """So many times, decreasing, evenly spaced in log-SNR from -`log_snr` to `log_snr`: sigma / alpha from 7.4 to 0.14
    by default. Of a table its own.

    >>> noise_levels(Config(), 3).round(2).tolist()
    [0.91, 0.5, 0.08]
    """
    found = timesteps.log_snr_uniform(
        num, schedule=schedule(config.diffusion), log_snr_min=-log_snr, log_snr_max=log_snr
    )
    return known_levels(config, found[:num])


def known_levels(config: Config, levels: np.ndarray) -> np.ndarray:
    """The times themselves; of a table its nearest.

    Raises:
      InputError: one that is not above 0 and at most 1.

    >>> known_levels(Config(), np.array([0.1234])).tolist()
    [0.123]
    """
    alphas = schedule(config.diffusion)
    if not np.all((levels > 0) & (levels <= 1)):
        raise InputError(f"levels: expected times above 0 and not above 1, got {levels.tolist()}")
    if not isinstance(alphas, schedules.Discrete):
        return levels
    return np.asarray(np.clip(np.rint(levels * alphas.T), 1, alphas.T) / alphas.T)


def reconstruction(
    config: Config,
    spec: Spec,
    levels: np.ndarray,
    *,
    draws: int = 1,
    pictures: bool = False,
) -> LossFn:
    """`tasks.anomaly.reconstruct` by the sampler of `config.sample`, with `sample.steps` from each level down.

    Args:
      config: of which `diffusion`, `model` and `sample` are read.
      spec: of the data.
      levels: times, `[L]`; of a table its own.
      draws: of the noise, at each.
      pictures: also the reconstructions, of the first draw.

    Returns:
      the loss, whose params are the network's and the weights of the levels for the heat (`tasks.anomaly.heat`), and
      whose terms are `curve` `[B, L]`, the mean squared errors; `heat` `[B, H, W]`; and, if `pictures`, `x0`
      `[B, L, H, W, C]`.

    Raises:
      InputError: a level of a table that has fewer steps below it.
    """
    alphas = schedule(config.diffusion)
    way = times(config.sample, alphas)
    steps = len(way) - 1
    if way[0] < levels.max():  # the few steps of `leading` begin anywhere
        way = np.concatenate([[1.0], way])
    grids = anomaly.grids(way, levels, steps=steps)
    if isinstance(alphas, schedules.Discrete):
        few = levels * alphas.T < steps - 0.5
        if few.any():
            lowest = levels[few].min()
            raise InputError(
                f"--steps {steps}: of the table's {alphas.T} steps {round(lowest * alphas.T)} are below the "
                f"level t = {lowest:g}; ask for fewer, or leave that level out"
            )
        grids = np.stack([timesteps.nearest_steps(row, T=alphas.T, spread=True) for row in grids])
    step, grids = sampler(config, alphas), np.repeat(grids, draws, axis=0)

    def loss(params: tuple[PyTree, Array], batch: Batch, keys: Array) -> dict[str, Array]:
        x0, (params, weights) = _x0(batch), params
        predict = _denoiser(config, spec, params, x0)
        found = anomaly.reconstruct(keys, x0, predict, step, grids, temperature=config.sample.temperature)
        curve = anomaly.errors(x0, found).reshape(-1, len(levels), draws).mean(-1)
        terms = {"curve": curve, "heat": anomaly.heat(x0, found, weights=jnp.repeat(weights / draws, draws))}
        return terms | ({"x0": jnp.moveaxis(found[::draws], 0, 1)} if pictures else {})

    return loss


def profile(config: Config, spec: Spec, levels: np.ndarray, *, draws: int = 1) -> LossFn:
    """`tasks.anomaly.profile`.

    Args:
      config: of which `diffusion`, `model` and `sample.clip` are read.
      spec: of the data.
      levels: times, `[L]`; of a table its own.
      draws: of the noise, at each.

    Returns:
      the loss, whose term is `curve` `[B, L]`, the mean squared error of eps.
    """
    alphas = schedule(config.diffusion)

    def loss(params: PyTree, batch: Batch, keys: Array) -> dict[str, Array]:
        x0 = _x0(batch)
        predict = _denoiser(config, spec, params, x0)
        found = anomaly.profile(keys, x0, predict, levels, schedule=alphas, draws=draws)
        return {"curve": found["eps"]}

    return loss


def bits(config: Config, spec: Spec, *, steps: int = 100) -> LossFn:
    """The variational bound of -log2 p(image) / D, of the ancestral sampler with `steps` steps.

    Args:
      config: of which `diffusion`, `model`, `sample.variance` and `sample.clip` are read.
      spec: of the data.
      steps: of a table, `timesteps.trailing`, all of them if it has fewer; of a continuous schedule, see `bound_chain`.

    Returns:
      the loss, whose term is `curve` `[B, 1]`.
    """
    chain, grid = bound_chain(schedule(config.diffusion), steps=steps)
    if isinstance(chain, schedules.Discrete):
        grid = timesteps.trailing(min(steps, chain.T), T=chain.T)
    variance: Any = bound_settings(config)["variance"]

    def loss(params: PyTree, batch: Batch, keys: Array) -> dict[str, Array]:
        x0 = _x0(batch)
        predict = _denoiser(config, spec, params, x0)
        found = likelihood.vlb(keys, x0, predict, schedule=chain, times=grid, variance=variance)
        return {"curve": found["total"][:, None]}

    return loss


def _x0(batch: Batch) -> Array:
    return from_uint8(batch["image"])


def _denoiser(config: Config, spec: Spec, params: PyTree, x0: Array) -> Denoiser:
    """Of images whose classes nobody knows, clipped if pictures are."""
    labels = None if spec.num_classes is None else jnp.full(x0.shape[0], spec.num_classes, jnp.int32)
    predict = denoiser(config, spec, params, labels)
    return clip_x0(predict, schedule=schedule(config.diffusion)) if config.sample.clip else predict
