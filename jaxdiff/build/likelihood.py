"""Bits/dim of a run's network, as a loss of batches of images."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdiff import likelihood, schedules, timesteps
from jaxdiff.build.diffusion import schedule
from jaxdiff.build.networks import Spec, denoiser
from jaxdiff.config import Config
from jaxdiff.denoise import clip_x0
from jaxdiff.noise import fold_in
from jaxdiff.train.step import LossFn
from jaxdiff.typing import Array, Batch, InputError, PyTree


def bound_by_step(config: Config, spec: Spec, *, steps: int = 1000) -> tuple[np.ndarray, LossFn]:
    """`likelihood.vlb` of uint8 images, of the ancestral sampler with `sample.variance` and `sample.clip` on all steps
    of the table, or on `steps` of a continuous schedule.

    Args:
      config: of which `diffusion`, `model` and those two of `sample` are read.
      spec: of the data.
      steps: of a continuous schedule.

    Returns:
      the times t that the n steps begin at, decreasing from 1; and the loss, in bits/dim, per example: `total` and
      `prior` `[B]`, and `terms` `[B, n]`, the last of which is the decoder's. total = prior + sum of terms.
    """
    alphas = schedule(config.diffusion)
    table = alphas.T if isinstance(alphas, schedules.Discrete) else None
    times = timesteps.uniform(table or steps)
    variance: Any = variance_of(config)

    def loss(params: PyTree, batch: Batch, keys: Array) -> dict[str, Array]:
        x0 = batch["image"].astype(jnp.float32) / 127.5 - 1
        predict = denoiser(config, spec, params, batch["label"] if spec.num_classes is not None else None)
        if config.sample.clip:  # a bound of the sampler that clips, which is the better one
            predict = clip_x0(predict, schedule=alphas)
        found = likelihood.vlb(keys, x0, predict, schedule=alphas, times=times, variance=variance)
        return {"total": found["total"], "prior": found["prior"], "terms": found["terms"].T}

    return np.asarray(times)[:-1], loss


def variance_of(config: Config) -> str:
    """That of `bound_by_step`: `sample.variance`, or what the network learned, or the larger of the fixed ones.

    >>> variance_of(Config())
    'fixed_large'
    """
    return config.sample.variance or ("learned_range" if config.diffusion.learned_variance else "fixed_large")


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
    alphas = schedule(config.diffusion)
    table = alphas.T if isinstance(alphas, schedules.Discrete) else None
    _, bound = bound_by_step(config, spec, steps=steps)

    def vlb(params: PyTree, batch: Batch, keys: Array) -> Array:
        return bound(params, batch, keys)["total"]

    def ode(params: PyTree, batch: Batch, keys: Array) -> Array:
        start = 1 / table if table else 1e-5
        predict = denoiser(config, spec, params, batch["label"] if spec.num_classes is not None else None)

        def log_density(keys: Array, x: Array) -> Array:
            return likelihood.ode(keys, x, predict, schedule=alphas, start=start).log_density

        return likelihood.dequantised(fold_in(keys, 0), batch["image"], log_density)

    if which not in ("vlb", "ode"):
        raise InputError(f"bits_per_dim: expected vlb or ode, got {which!r}")
    bits = vlb if which == "vlb" else ode

    def loss(params: PyTree, batch: Batch, keys: Array) -> dict[str, Array]:
        found = bits(params, batch, keys)
        return {f"bits_per_dim_{which}": found, f"bits_per_dim_{which}_square": jnp.square(found)}

    return loss
