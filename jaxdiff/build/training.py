"""What training minimises, and how."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import optax

from jaxdiff.build.condition import channels_of
from jaxdiff.build.diffusion import measured, schedule, times_seen
from jaxdiff.build.networks import Spec, model
from jaxdiff.config import Config
from jaxdiff.losses import by_time
from jaxdiff.noise import fold_in, white_noise
from jaxdiff.pixels import from_uint8
from jaxdiff.train.ema import Share, exponential, name_of, power
from jaxdiff.train.frozen import Trained, all_but, only, stop_frozen
from jaxdiff.train.normalized import normalized
from jaxdiff.train.step import LossFn
from jaxdiff.typing import Array, Batch, InputError, PyTree


def trained(config: Config) -> Trained | None:
    """Which parameters are: all (None), all but `optim.frozen`, or the low-rank adaptation alone."""
    frozen = [""] if config.model.lora_rank else config.optim.frozen
    return all_but(frozen) if frozen else None


def loss_fn(config: Config, spec: Spec) -> LossFn:
    """The loss of a batch of uint8 images: fresh times, noise, hidden labels and levels of what a network of
    super-resolution is given, from each example's key.

    Raises:
      InputError: labels to be hidden from a network that has no null label, or what `times_seen` and `measured` refuse.
    """
    d, alphas = config.diffusion, schedule(config.diffusion)
    draw_times, measure, which = times_seen(d, alphas), measured(d, alphas), trained(config)
    if spec.num_classes is not None and not config.model.null_label and config.train.label_dropout:
        raise InputError("--train.label-dropout: this network has no null label for hidden ones; use 0")

    def loss(params: PyTree, batch: Batch, keys: Array) -> dict[str, Array]:
        params = stop_frozen(params, which)
        x0 = from_uint8(batch["image"])
        t = draw_times(fold_in(keys, 0))
        eps = white_noise(fold_in(keys, 1), x0.shape)
        labels = None
        if spec.num_classes is not None:
            hidden = jax.vmap(jax.random.bernoulli, (0, None))(fold_in(keys, 2), config.train.label_dropout)
            labels = jnp.where(hidden, spec.num_classes, batch["label"])
        image = channels_of(config, keys, x0)
        net = model(config, spec, params, labels, image=image, key=fold_in(keys, 3))
        terms = measure(x0, t, eps, model=net, schedule=alphas, kind=d.kind)
        return by_time(terms, t, buckets=config.log.time_buckets) if config.log.time_buckets else terms

    return loss


def eval_loss_fn(config: Config, spec: Spec) -> LossFn:
    """`loss_fn` without dropout and hidden labels: what held-out images are evaluated by.

    Args:
      config: as of `loss_fn`.
      spec: as of `loss_fn`.
    """
    train = dataclasses.replace(config.train, label_dropout=0.0)
    return loss_fn(dataclasses.replace(config, train=train, model=dataclasses.replace(config.model, dropout=0.0)), spec)


def learning_rate(config: Config) -> optax.Schedule:
    """Updates done -> rate: warm-up, then constant or a half cosine."""
    c, steps, warmup = config.optim, config.train.steps, config.optim.warmup
    rate: optax.Schedule = optax.constant_schedule(c.learning_rate)
    if c.decay == "cosine" and steps > warmup:
        rate = optax.cosine_decay_schedule(c.learning_rate, steps - warmup)
    if warmup:
        rate = optax.join_schedules([optax.linear_schedule(0.0, c.learning_rate, warmup), rate], [warmup])
    return rate


def optimizer(config: Config) -> optax.GradientTransformation:
    """Clipping, then Adam or AdamW with warm-up; then kernels back to their norm, if that is asked for."""
    c, rate = config.optim, learning_rate(config)
    adam = optax.adamw(rate, c.b1, c.b2, c.eps, weight_decay=c.weight_decay if c.name == "adamw" else 0.0)
    tx = optax.chain(optax.clip_by_global_norm(c.clip), adam) if c.clip else adam
    forced = config.model.forced_weight_norm if c.forced_weight_norm is None else c.forced_weight_norm
    return only(normalized(tx) if forced else tx, trained(config))


def averages(config: Config) -> dict[str, Share]:
    """The averages of the parameters: "ema", and one of each of `train.ema_lengths`, such as "ema_0.05".

    >>> from jaxdiff.config import Train
    >>> list(averages(Config(train=Train(ema_lengths=(0.05, 0.1)))))
    ['ema', 'ema_0.05', 'ema_0.1']
    """
    lengths = {name_of(length): power(length) for length in config.train.ema_lengths}
    return {"ema": exponential(config.train.ema_decay), **lengths}


def evaluate_every(config: Config) -> int | None:
    """Steps between evaluations: `log.evaluate_every`, or with each checkpoint; None where nothing is held out.

    >>> from jaxdiff.config import Data
    >>> evaluate_every(Config()), evaluate_every(Config(data=Data(holdout=100)))
    (None, 5000)
    """
    if not config.data.holdout and config.data.eval_split is None:
        return None
    return config.log.evaluate_every or config.log.checkpoint_every


def steps_per_call(config: Config, *, done: int = 0) -> int:
    """`train.steps_per_call`; by default up to 10, but 1 on CPU, where gradients of convolutions in a loop are slow.

    Raises:
      InputError: it does not divide the steps at which something is to be done.
    """
    # `done` steps of a resumed run count too: calls begin there, and must end where something is to be done.
    log = config.log
    pictures = [log.samples_every] if log.samples else []
    others = [n for n in (log.snapshot_every, evaluate_every(config), config.evaluate.every, done) if n]
    counts = (config.train.steps, *pictures, log.checkpoint_every, *others)
    if config.train.steps_per_call is not None:
        for count in counts:
            if count % config.train.steps_per_call:
                names = (
                    "train.steps, the numbers log.*_every (but log.every), evaluate.every and the step to resume from"
                )
                raise InputError(f"--train.steps-per-call {config.train.steps_per_call}: must divide {names} {counts}")
        return config.train.steps_per_call
    if jax.default_backend() == "cpu":
        return 1
    return max(k for k in range(1, 11) if math.gcd(*counts) % k == 0)
