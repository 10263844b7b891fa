"""Training kernels whose norm says nothing: after each update they are brought back to the norm that they had.

A network that divides its kernels by their norm (`models.magnitude`) has gradients orthogonal to them. Steps along
those make the norm grow for ever, and the larger it is the less a step turns the kernel: the learning rate decays by
itself, differently in each layer. With the norm kept, it is what the schedule says.
"""

import jax
import jax.numpy as jnp
import optax

from jaxdiff.train.frozen import Trained
from jaxdiff.typing import Array, InputError, PyTree


def kernels(params: PyTree) -> PyTree:
    """Which parameters are kernels: those of that name, in the collection "params".

    >>> kernels({"params": {"conv": {"kernel": 0.0}, "gain": 0.0}, "lora": {"conv": {"a": 0.0}}})
    {'lora': {'conv': {'a': False}}, 'params': {'conv': {'kernel': True}, 'gain': False}}
    """

    def one(path: tuple[jax.tree_util.DictKey, ...], _: object) -> bool:
        return (path[0].key, path[-1].key) == ("params", "kernel")

    return jax.tree_util.tree_map_with_path(one, params)


def normalized(tx: optax.GradientTransformation, which: Trained = kernels) -> optax.GradientTransformation:
    """An optimiser that leaves the weights of each output, `w = kernel[..., i]`, with a mean square of 1:

        w <- sqrt(n) (w + u) / |w + u|,        u the update of `tx`, n the number of weights

    Args:
      tx: an optax transformation.
      which: params -> a tree of bools, the kernels that are normalised; the network must not depend on their norm.

    >>> params = {"params": {"dense": {"kernel": jnp.array([[7.0], [1.0]])}}}
    >>> tx = normalized(optax.sgd(0.0))
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> [round(float(w), 4) for w in optax.apply_updates(params, updates)["params"]["dense"]["kernel"].ravel()]
    [1.4, 0.2]

    Source: Karras et al. 2023 (arXiv 2312.02696), section 2.3 and eq. 66 (forced weight normalisation).
    """

    def update(
        grads: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        if params is None:
            raise InputError("normalized: tx.update needs the params, as its third argument")
        updates, state = tx.update(grads, state, params)

        def back(u: Array, p: Array, yes: bool) -> Array:
            if not yes:
                return u
            w = p + u
            return w / jnp.sqrt(jnp.square(w).mean(range(w.ndim - 1), keepdims=True)) - p

        return jax.tree.map(back, updates, params, which(params)), state

    return optax.GradientTransformation(tx.init, update)
