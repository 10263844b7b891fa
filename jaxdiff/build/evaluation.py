"""The loss of images that are not trained on, and their errors by time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import schedules, timesteps
from jaxdiff.build.condition import channels_of
from jaxdiff.build.diffusion import measured, schedule
from jaxdiff.build.networks import Spec, denoiser, model
from jaxdiff.build.training import eval_loss_fn, evaluate_every
from jaxdiff.config import Config
from jaxdiff.data import Source, in_order
from jaxdiff.noise import fold_in, white_noise
from jaxdiff.pixels import from_uint8
from jaxdiff.process import q_sample
from jaxdiff.train.evaluate import Program, evaluate, pmapped
from jaxdiff.train.loop import Every
from jaxdiff.train.step import LossFn
from jaxdiff.typing import Array, Batch, PyTree


def evaluation(
    config: Config,
    spec: Spec,
    held_out: Source,
    key: Array,
    *,
    make: Callable[..., Program] = pmapped,
    process: int = 0,
    processes: int = 1,
    total: Callable[[dict[str, float]], dict[str, float]] = lambda sums: sums,
) -> Callable[[PyTree], dict[str, float]]:
    """weights -> the mean terms of the held-out images, as "eval_loss" and so on; nothing of it is random.

    Args:
      config: of which `train.batch_size` is the size of a batch.
      spec: of the data.
      held_out: the images.
      key: always the same.
      make: what compiles the loss.
      process: of many, each of which takes its share of every batch: which one this is.
      processes: how many there are.
      total: see `train.evaluate.evaluate`.
    """
    program, share = make(eval_loss_fn(config, spec)), config.train.batch_size // processes

    def found(params: PyTree) -> dict[str, float]:
        some = in_order(held_out, batch_size=share, process=process, processes=processes)
        return {f"eval_{name}": value for name, value in evaluate(params, some, key, program, total=total).items()}

    return found


def evaluating(
    config: Config,
    spec: Spec,
    held_out: Source | None,
    key: Array,
    tell: Callable[[int, dict[str, float]], None],
    **options: Any,
) -> list[Every]:
    """The callback of `train.fit` that evaluates the moving average and tells step and terms; none if nothing is held
    out. Put it before the one that saves: a kill between the two then leads to a second evaluation, not to none.

    Args:
      config: see `evaluation`, as are the arguments that follow, and the options.
      spec: of the data.
      held_out: the images, or None.
      key: always the same.
      tell: such as `Report.scalars`.
      options: see `evaluation`.
    """
    every = evaluate_every(config)
    if held_out is None or every is None:
        return []
    found = evaluation(config, spec, held_out, key, **options)
    return [Every(every, lambda state, step: tell(step, found(state.ema["ema"])))]


def times_shown(config: Config, num: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Times that are spread evenly over (0, 1], increasing, and their log-SNRs; of a table `num` of its own times, or
    all if it has fewer.

    >>> times, log_snr = times_shown(Config(), 4)
    >>> times.tolist(), bool((np.diff(log_snr) < 0).all())
    ([0.25, 0.5, 0.75, 1.0], True)
    """
    alphas = schedule(config.diffusion)
    if isinstance(alphas, schedules.Discrete):
        times = timesteps.nearest_steps(timesteps.uniform(min(num, alphas.T)), T=alphas.T)[:-1][::-1]
    else:
        times = timesteps.uniform(num)[:-1][::-1]
    return times, np.asarray(schedules.log_snr(jnp.asarray(times, jnp.float32), schedule=alphas))


def errors_by_time(config: Config, spec: Spec, times: np.ndarray, *, own: bool = False) -> LossFn:
    """How wrong a network is on uint8 images at each time, one draw of noise each, without clipping or guidance:

        eps = mean over the dimensions of (eps - eps_guess)^2

    in whatever kind it predicts, all times alike. A guess of zero has the error 1, at t -> 1 a good network's is 0.

    Args:
      config: of which `diffusion` and `model` are read.
      spec: of the data.
      times: in (0, 1], `[n]`; of a table its own.
      own: also the terms of the training's loss: "own loss", and with a learned variance "own simple" and "own vlb".

    Returns:
      the loss, whose terms are `[B, n]`.
    """
    alphas, d = schedule(config.diffusion), config.diffusion
    measure = measured(d, alphas)

    def loss(params: PyTree, batch: Batch, keys: Array) -> dict[str, Array]:
        x0 = from_uint8(batch["image"])
        labels = batch["label"] if spec.num_classes is not None else None
        image = channels_of(config, keys, x0)
        predict = denoiser(config, spec, params, labels, image=image)

        def at(step: tuple[Array, Array]) -> dict[str, Array]:
            i, t = step
            eps = white_noise(fold_in(keys, i), x0.shape)
            guess = predict(q_sample(x0, t, eps, schedule=alphas), t).eps
            found = {"eps": jnp.mean(jnp.square(guess.astype(jnp.float32) - eps), axis=range(1, eps.ndim))}
            if own:
                net = model(config, spec, params, labels, image=image)
                terms = measure(x0, jnp.full(len(x0), t), eps, model=net, schedule=alphas, kind=d.kind)
                found |= {f"own {name}": term for name, term in terms.items()}
            return found

        found = jax.lax.map(at, (jnp.arange(len(times)), jnp.asarray(times, jnp.float32)))
        return {name: term.T for name, term in found.items()}

    return loss
