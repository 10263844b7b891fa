"""The one place where names become objects: from a `Config` to schedules, networks, losses, optimisers, data."""

import difflib
import importlib.util
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdiff import denoise, losses, samplers, schedules, time_sampling, timesteps
from jaxdiff.config import Config, Data, Diffusion, Sample
from jaxdiff.data import Source, Unlabelled, array_file, digits, tfds_images
from jaxdiff.models import UNet, lora
from jaxdiff.models.unet import check_size
from jaxdiff.noise import fold_in, white_noise
from jaxdiff.parameterization import KINDS, determinant
from jaxdiff.preconditioning import PRECONDITIONINGS, Preconditioning, precondition
from jaxdiff.train.frozen import Trained, all_but, only, stop_frozen
from jaxdiff.train.step import LossFn
from jaxdiff.typing import Array, Batch, Denoiser, InputError, Model, PyTree, Schedule
from jaxdiff.weighting import WEIGHTS


def _zero_snr(table: Callable[..., schedules.Discrete]) -> Callable[..., schedules.Discrete]:
    @wraps(table)  # with the options of the table
    def rescaled(*args: Any, **options: Any) -> schedules.Discrete:
        return schedules.zero_terminal_snr(table(*args, **options))

    return rescaled


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": schedules.constant,
    "linear": schedules.linear,
    "quadratic": schedules.quadratic,
    "cosine": schedules.cosine,
    "sigmoid": schedules.sigmoid,
    "tanh": schedules.tanh,
    "geometric": schedules.geometric,
    "linear_zero_snr": _zero_snr(schedules.linear),
    "quadratic_zero_snr": _zero_snr(schedules.quadratic),
    "vp": schedules.VP,
    "sub_vp": schedules.SubVP,
    "ve": schedules.VE,
    "edm": schedules.EDM,
    "flow": schedules.Flow,
    "cosine_log_snr": schedules.CosineLogSNR,
    "cosine_log_snr_interpolated": schedules.InterpolatedCosineLogSNR,
}


SPACINGS: dict[str, Callable[..., np.ndarray]] = {
    "uniform": timesteps.uniform,
    "quadratic": timesteps.quadratic,
    "trailing": timesteps.trailing,
    "leading": timesteps.leading,
    "linspace": timesteps.linspace,
    "ddim": timesteps.ddim_respacing,
    "karras": timesteps.karras,
    "log_snr": timesteps.log_snr_uniform,
    "exponential": timesteps.exponential,
}


TIMES: dict[str, Callable[..., Array]] = {
    "uniform": time_sampling.uniform_time,
    "log_normal": time_sampling.log_normal,
    "logit_normal": time_sampling.logit_normal,
}

Row = TypeVar("Row")


def named(table: Mapping[str, Row], name: str, what: str) -> Row:
    """The row of a table, or an `InputError` that names the nearest and all others."""
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, table, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise InputError(f"unknown {what} {name!r}.{hint} There are: {', '.join(table)}")


def check_options(what: str, make: Callable[..., Any], given: Mapping[str, Any], *, besides: tuple[str, ...]) -> None:
    """Raise `InputError` for an option that the function does not have; `besides`: arguments that are none."""
    options = [name for name in inspect.signature(make).parameters if name not in besides]
    for name in given:
        if name not in options:
            expected = f"it has {', '.join(options)}" if options else "it has none"
            raise InputError(f"{what} has no option {name!r}; {expected}")


class Spec(NamedTuple):
    """What a network must know of the data."""

    image_shape: tuple[int, int, int]
    num_classes: int | None


def source(data: Data) -> Source:
    """The images that `data.name` names, without their labels if `data.labels` is off."""
    found = _source(data)
    return found if data.labels else Unlabelled(found)


def _source(data: Data) -> Source:
    if data.name == "digits":
        return digits()
    if data.name.startswith("tfds:"):
        return tfds_images(data.name.removeprefix("tfds:"), split=data.split, data_dir=data.dir)
    if Path(data.name).suffix in (".npz", ".npy"):
        return array_file(data.name)
    raise InputError(
        f"--data.name {data.name}: unknown data set. Expected digits, tfds:NAME (such as tfds:{data.name}), "
        "or a .npz or .npy file of images"
    )


def schedule(diffusion: Diffusion) -> Schedule:
    """The schedule, with T = `diffusion.steps` for a table; `InputError` if the prediction kind does not suit it."""
    make = named(SCHEDULES, diffusion.schedule, "schedule")
    named(KINDS, diffusion.kind, "prediction kind")
    check_options(f"schedule {diffusion.schedule}", make, diffusion.schedule_options, besides=("T",))
    is_table = "T" in inspect.signature(make).parameters
    alphas = make(*([diffusion.steps] if is_table else []), **diffusion.schedule_options)
    with jax.ensure_compile_time_eval():  # a number, also where a traced function builds its schedule
        at_start = float(determinant(jnp.float32(1.0), kind=diffusion.kind, schedule=alphas))
    if at_start == 0:
        raise InputError(
            f"kind {diffusion.kind} says nothing of the data at t = 1 of the schedule {diffusion.schedule}, where "
            "alpha is 0 and sampling starts; use --diffusion.kind v, x0 or velocity"
        )
    return alphas


def network(config: Config, spec: Spec) -> UNet:
    """The U-Net for these images and labels."""
    check_size(spec.image_shape[:2], levels=len(config.model.multipliers))
    out_channels = (2 if config.diffusion.learned_variance else 1) * spec.image_shape[-1]
    options = vars(config.model) | {"dtype": jnp.dtype(config.model.dtype), "out_channels": out_channels}
    del options["lora_rank"]
    return UNet(num_classes=spec.num_classes, **options)


def init_params(config: Config, spec: Spec, key: Array) -> PyTree:
    """Fresh parameters."""
    net = network(config, spec)
    cond = {} if spec.num_classes is None else {"label": jnp.zeros(1, jnp.int32)}
    return with_lora(config, jax.jit(net.init)(key, jnp.zeros((1, *spec.image_shape)), jnp.zeros(1), cond), key)


def with_lora(config: Config, params: PyTree, key: Array) -> PyTree:
    """Parameters with those of the low-rank adaptation, if the config has one."""
    return lora.adapted(key, params, rank=config.model.lora_rank) if config.model.lora_rank else params


def trained(config: Config) -> Trained | None:
    """Which parameters are: all (None), all but `optim.frozen`, or the low-rank adaptation alone."""
    frozen = [""] if config.model.lora_rank else config.optim.frozen
    return all_but(frozen) if frozen else None


def preconditioning(diffusion: Diffusion, alphas: Schedule) -> Preconditioning | None:
    """How the network is fed, if not with x_t as it is."""
    if diffusion.preconditioning is None:
        return None
    design = named(PRECONDITIONINGS, diffusion.preconditioning, "preconditioning")()
    with jax.ensure_compile_time_eval():
        scale = float(design.c_in(jnp.float32(1.0), alphas))
    if not math.isfinite(scale):
        raise InputError(
            f"--diffusion.preconditioning {diffusion.preconditioning}: divides by alpha, which is 0 at t = 1 of the "
            f"schedule {diffusion.schedule}; use edm"
        )
    return design


def model(config: Config, spec: Spec, params: PyTree, labels: Array | None, *, key: Array | None = None) -> Model:
    """The network with parameters and labels bound, as a function of time.

    Args:
      config: of which `model` and `diffusion` are read.
      spec: of the data.
      params: the network's.
      labels: int32 `[B]`, `spec.num_classes` being the null label; None for a network without classes.
      key: keys `[B]`: dropout is on. None: off.

    Returns:
      `(x_t [B, H, W, C], t scalar or [B]) -> y [B, H, W, C]`, of the kind `config.diffusion.kind`; with
      `learned_variance` twice as many channels.
    """
    cond = {} if labels is None else {"label": labels}
    net = network(config, spec)

    def apply(x: Array, c_noise: Array) -> Array:
        return jnp.asarray(net.apply(lora.merged(params), x, c_noise, cond, key=key))

    alphas = schedule(config.diffusion)
    design = preconditioning(config.diffusion, alphas)
    if design is not None:
        return precondition(apply, design, schedule=alphas)
    if isinstance(alphas, schedules.Discrete):
        return denoise.at_steps(apply, T=alphas.T, scale=config.diffusion.step_scale)
    return denoise.at_scaled_time(apply)


def times_seen(diffusion: Diffusion, alphas: Schedule) -> Callable[[Array], Array]:
    """keys `[B]` -> the times of training, `[B]`; of a table its own."""
    draw = named(TIMES, diffusion.times, "times")
    if "schedule" in inspect.signature(draw).parameters:
        draw = partial(draw, schedule=alphas)
    if not isinstance(alphas, schedules.Discrete):
        return draw
    if draw is time_sampling.uniform_time:
        return partial(time_sampling.uniform_steps, T=alphas.T)
    return lambda keys: time_sampling.to_steps(draw(keys), T=alphas.T)


def measured(diffusion: Diffusion, alphas: Schedule) -> Callable[..., dict[str, Array]]:
    """The loss, `losses.simple` or `hybrid` with its options."""
    loss: Callable[..., dict[str, Array]] = losses.simple
    if diffusion.weight is not None:
        weight = named(WEIGHTS, diffusion.weight, "weight")
        check_options(f"weight {diffusion.weight}", weight, diffusion.weight_options, besides=("t", "kind", "schedule"))
        weight = partial(weight, **diffusion.weight_options)
        with jax.ensure_compile_time_eval():
            found = np.asarray(weight(jnp.linspace(0.01, 0.99, 99), kind=diffusion.kind, schedule=alphas))
        if not (np.isfinite(found).all() and (found >= 0).all()):
            raise InputError(
                f"--diffusion.weight {diffusion.weight} {diffusion.weight_options}: negative or not finite somewhere"
            )
        loss = partial(loss, weight=weight)
    elif diffusion.weight_options:
        raise InputError("--diffusion.weight-options without --diffusion.weight: name the weight that they belong to")
    elif diffusion.kind == "score":
        loss = partial(loss, as_kind="eps")
    if not diffusion.learned_variance:
        return loss
    if not isinstance(alphas, schedules.Discrete):
        raise InputError(
            f"--diffusion.learned-variance: the schedule {diffusion.schedule} has no steps whose variance could be "
            "learned; use a table, such as cosine"
        )
    return partial(losses.hybrid, T=alphas.T, mean_loss=loss)


def loss_fn(config: Config, spec: Spec) -> LossFn:
    """The loss of a batch of uint8 images: fresh times, noise and hidden labels from each example's key."""
    d, alphas = config.diffusion, schedule(config.diffusion)
    draw_times, measure, which = times_seen(d, alphas), measured(d, alphas), trained(config)
    if spec.num_classes is not None and not config.model.null_label and config.train.label_dropout:
        raise InputError("--train.label-dropout: this network has no null label for hidden ones; use 0")

    def loss(params: PyTree, batch: Batch, keys: Array) -> dict[str, Array]:
        params = stop_frozen(params, which)
        x0 = batch["image"].astype(jnp.float32) / 127.5 - 1
        t = draw_times(fold_in(keys, 0))
        eps = white_noise(fold_in(keys, 1), x0.shape)
        labels = None
        if spec.num_classes is not None:
            hidden = jax.vmap(jax.random.bernoulli, (0, None))(fold_in(keys, 2), config.train.label_dropout)
            labels = jnp.where(hidden, spec.num_classes, batch["label"])
        net = model(config, spec, params, labels, key=fold_in(keys, 3))
        return measure(x0, t, eps, model=net, schedule=alphas, kind=d.kind)

    return loss


def optimizer(config: Config) -> optax.GradientTransformation:
    """Clipping, then Adam or AdamW with warm-up."""
    c, steps, warmup = config.optim, config.train.steps, config.optim.warmup
    rate: optax.Schedule = optax.constant_schedule(c.learning_rate)
    if c.decay == "cosine" and steps > warmup:
        rate = optax.cosine_decay_schedule(c.learning_rate, steps - warmup)
    if warmup:
        rate = optax.join_schedules([optax.linear_schedule(0.0, c.learning_rate, warmup), rate], [warmup])
    adam = optax.adamw(rate, c.b1, c.b2, c.eps, weight_decay=c.weight_decay if c.name == "adamw" else 0.0)
    tx = optax.chain(optax.clip_by_global_norm(c.clip), adam) if c.clip else adam
    return only(tx, trained(config))


def steps_per_call(config: Config, *, done: int = 0) -> int:
    """`train.steps_per_call`; by default up to 10, but 1 on CPU, where gradients of convolutions in a loop are slow."""
    # `done` steps of a resumed run count too: calls begin there, and must end where something is to be done.
    counts = (config.train.steps, config.log.samples_every, config.log.checkpoint_every, *([done] if done else []))
    if config.train.steps_per_call is not None:
        for count in counts:
            if count % config.train.steps_per_call:
                names = "train.steps, log.samples_every, log.checkpoint_every and the step to resume from"
                raise InputError(f"--train.steps-per-call {config.train.steps_per_call}: must divide {names} {counts}")
        return config.train.steps_per_call
    if jax.default_backend() == "cpu":
        return 1
    return max(k for k in range(1, 11) if math.gcd(*counts) % k == 0)


def denoiser(config: Config, spec: Spec, params: PyTree, labels: Array | None) -> Denoiser:
    """The model's denoiser, without guidance or clipping."""
    alphas = schedule(config.diffusion)
    net, learned = model(config, spec, params, labels), config.diffusion.learned_variance
    return denoise.denoiser(net, schedule=alphas, kind=config.diffusion.kind, learned_variance=learned)


def check_unused(sample: Sample, given: Sequence[str]) -> None:
    """Raise `InputError` for a setting that the sampler does not have: it would be ignored."""
    own = inspect.signature(named(samplers.SAMPLERS, sample.sampler, "sampler")).parameters
    for name in given:
        if name not in own:
            raise InputError(f"--{name}: the sampler {sample.sampler} has no {name}")


def sampler(config: Config, alphas: Schedule) -> Any:
    """The sampler by its row in `samplers.SAMPLERS`, with those of the sample settings that it has."""
    sample, learned = config.sample, config.diffusion.learned_variance
    if (sample.variance or "").startswith("learned") and not (learned and sample.variance == "learned_range"):
        found = "learns its place in a range; use learned_range" if learned else "learns no variance; use fixed_small"
        raise InputError(f"--sample.variance {sample.variance}: this network {found}")
    make = named(samplers.SAMPLERS, sample.sampler, "sampler")
    given = vars(sample) | ({"variance": sample.variance or "learned_range"} if learned else {})
    if isinstance(alphas, schedules.Discrete):
        given |= {"end": 1 / alphas.T}  # the earliest time that its network knows
    if sample.sampler == "ode" and importlib.util.find_spec("diffrax") is None:
        raise InputError("--sample.sampler ode needs diffrax: pip install 'jaxdiff[ode]'")
    options = [name for name in inspect.signature(make).parameters if given.get(name) is not None]
    return make(alphas, **{name: given[name] for name in options})


def times(sample: Sample, alphas: Schedule) -> np.ndarray:
    """The time grid. Of a table only its own times, for which uniform is trailing; on a continuous schedule trailing,
    leading, linspace and ddim are uniform."""
    make = named(SPACINGS, sample.spacing, "spacing")
    if sample.sampler == "ode":  # it takes its own steps
        return np.array([1.0, 0.0])
    if "schedule" in inspect.signature(make).parameters:
        grid = make(sample.steps, schedule=alphas)
        if not isinstance(alphas, schedules.Discrete):
            return grid
        return timesteps.nearest_steps(grid, T=alphas.T, spread=True)
    if isinstance(alphas, schedules.Discrete):
        make = timesteps.trailing if make is timesteps.uniform else make
        return np.asarray(make(sample.steps, T=alphas.T))
    make = timesteps.quadratic if make is timesteps.quadratic else timesteps.uniform
    return np.asarray(make(sample.steps))
