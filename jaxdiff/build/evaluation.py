"""The loss of images that are not trained on."""

from collections.abc import Callable
from typing import Any

from jaxdiff.build.networks import Spec
from jaxdiff.build.training import eval_loss_fn, evaluate_every
from jaxdiff.config import Config
from jaxdiff.data import Source, in_order
from jaxdiff.train.evaluate import Program, evaluate, pmapped
from jaxdiff.train.loop import Every
from jaxdiff.typing import Array, PyTree


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
