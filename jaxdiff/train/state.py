"""What training carries from step to step."""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdiff.typing import Array, PyTree


class TrainState(NamedTuple):
    """A pytree of arrays: all that a resumed run needs besides its key and its place in the data.

    Attributes:
      step: int32, the number of updates done.
      params: the network's parameters.
      ema: their averages by name, what one samples with: "ema", exponential, and others of `train.ema`.
      opt_state: the optimiser's.
    """

    step: Array
    params: PyTree
    ema: dict[str, PyTree]
    opt_state: optax.OptState


def init_state(params: PyTree, tx: optax.GradientTransformation, averages: Iterable[str] = ("ema",)) -> TrainState:
    """The state before the first step; the averages, of these names, start at the parameters.

    >>> int(init_state({"w": jnp.ones(3)}, optax.sgd(0.1)).step)
    0
    """
    # With buffers of their own: the state is donated, and no buffer can be donated twice.
    ema = {name: jax.tree.map(jnp.copy, params) for name in averages}
    return TrainState(jnp.zeros((), jnp.int32), params, ema, tx.init(params))
