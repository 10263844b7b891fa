"""What training carries from step to step."""

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
      ema: their exponential moving average, what one samples with.
      opt_state: the optimiser's.
    """

    step: Array
    params: PyTree
    ema: PyTree
    opt_state: optax.OptState


def init_state(params: PyTree, tx: optax.GradientTransformation) -> TrainState:
    """The state before the first step; the average starts at the parameters.

    >>> int(init_state({"w": jnp.ones(3)}, optax.sgd(0.1)).step)
    0
    """
    ema = jax.tree.map(jnp.copy, params)  # its own buffers: the state is donated, and no buffer can be donated twice
    return TrainState(jnp.zeros((), jnp.int32), params, ema, tx.init(params))
