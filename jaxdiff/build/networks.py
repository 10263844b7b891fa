"""The network, its parameters, and what it is as a function of time."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdiff import denoise, schedules
from jaxdiff.build.condition import check_condition
from jaxdiff.build.diffusion import preconditioning, schedule
from jaxdiff.config import Config
from jaxdiff.models import NETWORKS, lora
from jaxdiff.preconditioning import precondition
from jaxdiff.typing import Array, Denoiser, InputError, Model, PyTree


class Spec(NamedTuple):
    """What a network must know of the data."""

    image_shape: tuple[int, int, int]
    num_classes: int | None


def network(config: Config, spec: Spec) -> Any:
    """The Flax module that `config.model` names, for these images and labels.

    Args:
      config: of which `model`, and of `diffusion` the learned variance, which doubles the channels put out, are read.
      spec: of the data.

    Raises:
      InputError: sides that `condition.factor` does not divide.
    """
    check_condition(config, spec.image_shape)
    out_channels = (2 if config.diffusion.learned_variance else 1) * spec.image_shape[-1]
    options = vars(config.model) | {"dtype": jnp.dtype(config.model.dtype), "out_channels": out_channels}
    for name in ("network", "lora_rank"):
        del options[name]
    return NETWORKS[config.model.network](num_classes=spec.num_classes, **options)


def init_params(config: Config, spec: Spec, key: Array) -> PyTree:
    """Fresh parameters, those of a low-rank adaptation too, if the config has one.

    Args:
      config: of which `model` and `diffusion` are read.
      spec: of the data.
      key: typed; the parameters are a function of it.

    Returns:
      what `network(config, spec).apply` takes, float32.
    """
    net = network(config, spec)
    cond = {} if spec.num_classes is None else {"label": jnp.zeros(1, jnp.int32)}
    if config.condition.factor is not None:
        height, width, channels = spec.image_shape
        cond["image"] = jnp.zeros((1, height, width, channels + 1))
    return with_lora(config, jax.jit(net.init)(key, jnp.zeros((1, *spec.image_shape)), jnp.zeros(1), cond), key)


def with_lora(config: Config, params: PyTree, key: Array) -> PyTree:
    """Parameters with those of the low-rank adaptation, if the config has one.

    Args:
      config: of which `model.lora_rank` is read.
      params: of the network that is adapted.
      key: typed; the first factors are drawn from it, the second ones are 0.
    """
    if not config.model.lora_rank:
        return params
    return lora.adapted(jax.random.fold_in(key, 1), params, rank=config.model.lora_rank)  # not the key of the network


def model(
    config: Config,
    spec: Spec,
    params: PyTree,
    labels: Array | None,
    *,
    image: Array | None = None,
    key: Array | None = None,
) -> Model:
    """The network with parameters and labels bound, as a function of time.

    Args:
      config: of which `model`, `diffusion` and `condition.factor` are read.
      spec: of the data.
      params: the network's.
      labels: int32 `[B]`, `spec.num_classes` being the null label; None for a network without classes.
      image: what a network of super-resolution is given (`channels`, `channels_of`), `[B, H, W, C + 1]`.
      key: keys `[B]`: dropout is on. None: off.

    Returns:
      `(x_t [B, H, W, C], t scalar or [B]) -> y [B, H, W, C]`, of the kind `config.diffusion.kind`; with
      `learned_variance` twice as many channels.

    Raises:
      InputError: no image for a network that is given one, or one for another.
    """
    if (config.condition.factor is None) != (image is None):
        raise InputError(
            "this network is given nothing beside x_t: leave the image out" if config.condition.factor is None else
            "this network enlarges pictures: give it the channels of a small one (jaxdiff super-resolution does)"
        )  # fmt: skip
    cond = {} if labels is None else {"label": labels}
    if image is not None:
        cond["image"] = image
    net = network(config, spec)

    def apply(x: Array, c_noise: Array) -> Array:
        return jnp.asarray(net.apply(lora.merged(params), x, c_noise, cond, key=key))

    alphas = schedule(config.diffusion)
    design = preconditioning(config.diffusion, alphas)
    if design is not None:
        return precondition(apply, design, schedule=alphas)
    if isinstance(alphas, schedules.Discrete):
        return denoise.at_steps(apply, T=alphas.T, scale=config.diffusion.step_scale)
    return denoise.at_scaled_time(apply, scale=1000 * config.diffusion.step_scale)


def knows_none(config: Config) -> bool:
    """Whether the network was trained to be told no label."""
    return config.model.null_label and config.train.label_dropout > 0


def denoiser(
    config: Config, spec: Spec, params: PyTree, labels: Array | None, *, image: Array | None = None
) -> Denoiser:
    """The model's denoiser, without guidance or clipping.

    Args:
      config: as of `model`.
      spec: as of `model`.
      params: as of `model`.
      labels: as of `model`.
      image: as of `model`.

    Returns:
      `(x_t [B, ...], t) -> Prediction`.
    """
    alphas = schedule(config.diffusion)
    net, learned = model(config, spec, params, labels, image=image), config.diffusion.learned_variance
    return denoise.denoiser(net, schedule=alphas, kind=config.diffusion.kind, learned_variance=learned)
