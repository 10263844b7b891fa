"""Bits/dim of a run's network, as a loss of batches of images."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdiff import likelihood, schedules, timesteps
from jaxdiff.build.condition import channels_of
from jaxdiff.build.diffusion import schedule
from jaxdiff.build.networks import Spec, denoiser
from jaxdiff.config import Config
from jaxdiff.denoise import clip_x0
from jaxdiff.noise import fold_in
from jaxdiff.pixels import from_uint8
from jaxdiff.train.step import LossFn
from jaxdiff.typing import Array, Batch, Denoiser, InputError, PyTree, Schedule


def bound_by_step(config: Config, spec: Spec, *, steps: int = 1000) -> tuple[np.ndarray, np.ndarray, LossFn]:
    """`likelihood.vlb` of uint8 images, of the ancestral sampler with `sample.variance` and `sample.clip` on all steps
    of the table, or on `steps` of a continuous schedule (`bound_chain`).

    Args:
      config: of which `diffusion`, `model` and those two of `sample` are read.
      spec: of the data.
      steps: of a continuous schedule.

    Returns:
      the times t that the n steps begin at, decreasing from 1; their log-SNRs; and the loss, in bits/dim, per example:
      `total` and `prior` `[B]`, and `terms` `[B, n]`, the last of which is the decoder's. total = prior + sum of terms.
    """
    alphas = schedule(config.diffusion)
    chain, times = bound_chain(alphas, steps=steps)
    variance: Any = bound_settings(config)["variance"]

    def loss(params: PyTree, batch: Batch, keys: Array) -> dict[str, Array]:
        x0 = from_uint8(batch["image"])
        predict = _given(config, spec, params, batch, keys)
        if config.sample.clip:  # a bound of the sampler that clips, which is the better one
            predict = clip_x0(predict, schedule=alphas)
        found = likelihood.vlb(keys, x0, predict, schedule=chain, times=times, variance=variance)
        return {"total": found["total"], "prior": found["prior"], "terms": found["terms"].T}

    begin = times[:-1]
    return begin, np.asarray(schedules.log_snr(jnp.asarray(begin, jnp.float32), schedule=alphas)), loss


def _given(config: Config, spec: Spec, params: PyTree, batch: Batch, keys: Array) -> Denoiser:
    """The denoiser of the batch's labels, of a network of super-resolution also of its images in fewer pixels, at the
    level of sampling: then p is that of an image given its smaller one."""
    x0 = from_uint8(batch["image"])
    image = channels_of(config, keys, x0, level=config.condition.level)
    return denoiser(config, spec, params, batch["label"] if spec.num_classes is not None else None, image=image)


def bound_chain(alphas: Schedule, *, steps: int = 1000) -> tuple[Schedule, np.ndarray]:
    """The schedule and the grid, from 1 to 0, of `bound_by_step`: a table with all of its times.

    Of a continuous schedule `steps` that are even in log-SNR between -12 and 12, as far as it has them; even in t they
    may be far too coarse: of EDM's schedule the last would have all of the noise below sigma = 0.08. The last one ends
    at the data themselves, on VE too, which would stop at its sigma_min.

    >>> bound_chain(schedules.Flow(), steps=4)[1].round(4).tolist()
    [1.0, 0.8808, 0.1192, 0.0025, 0.0]
    """
    if isinstance(alphas, schedules.Discrete):
        return alphas, timesteps.uniform(alphas.T)
    times = timesteps.log_snr_uniform(steps, schedule=alphas)
    times[0] = 1  # the little that is known at a log-SNR of -12 is in the first step
    return _ToData(alphas), times


@dataclasses.dataclass(frozen=True)
class _ToData:
    """A schedule that has no noise at t = 0."""

    schedule: Schedule

    def alpha(self, t: Array) -> Array:
        return jnp.where(t == 0, 1, self.schedule.alpha(t))

    def sigma(self, t: Array) -> Array:
        return jnp.where(t == 0, 0, self.schedule.sigma(t))


def bound_settings(config: Config, *, steps: int = 1000) -> dict[str, Any]:
    """What `bound_by_step` is the bound of besides the network, for a result to say: the ancestral sampler's `clip` and
    `variance` (`sample.variance`, or what the network learned, or the larger of the fixed ones), `steps`, `spacing`.

    >>> bound_settings(Config())
    {'clip': True, 'variance': 'fixed_large', 'steps': 1000, 'spacing': 'uniform'}
    """
    alphas = schedule(config.diffusion)
    table = alphas.T if isinstance(alphas, schedules.Discrete) else None
    return {
        "clip": config.sample.clip,
        "variance": config.sample.variance or ("learned_range" if config.diffusion.learned_variance else "fixed_large"),
        "steps": table or steps,
        "spacing": "uniform" if table else "log_snr",
    }


def bits_per_dim(config: Config, spec: Spec, which: str, *, steps: int = 1000) -> LossFn:
    """Upper bounds of -log2 p(image) / D of uint8 images, per example, as "bits_per_dim_vlb" or "bits_per_dim_ode", and
    their "..._square", which say how far the mean may be off.

    vlb: the discrete bound, the total of `bound_by_step`. ode: of the probability-flow ODE on images with uniform
    noise between their levels, `likelihood.dequantised` of `likelihood.ode` with one of Hutchinson's probes.

    Args:
      config: of which `diffusion`, `model` and those two of `sample` are read.
      spec: of the data.
      which: of the two.
      steps: of a continuous schedule.

    Raises:
      InputError: another name.
    """
    if which not in ("vlb", "ode"):
        raise InputError(f"bits_per_dim: expected vlb or ode, got {which!r}")
    if which == "vlb":
        *_, bound = bound_by_step(config, spec, steps=steps)

        def bits(params: PyTree, batch: Batch, keys: Array) -> Array:
            return bound(params, batch, keys)["total"]
    else:
        alphas = schedule(config.diffusion)
        start = 1 / alphas.T if isinstance(alphas, schedules.Discrete) else 1e-5

        def bits(params: PyTree, batch: Batch, keys: Array) -> Array:
            predict = _given(config, spec, params, batch, keys)

            def log_density(keys: Array, x: Array) -> Array:
                return likelihood.ode(keys, x, predict, schedule=alphas, start=start).log_density

            return likelihood.dequantised(fold_in(keys, 0), batch["image"], log_density)

    def loss(params: PyTree, batch: Batch, keys: Array) -> dict[str, Array]:
        found = bits(params, batch, keys)
        return {f"bits_per_dim_{which}": found, f"bits_per_dim_{which}_square": jnp.square(found)}

    return loss
