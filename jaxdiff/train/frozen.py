"""Training some of the parameters: the others have no gradient and no optimiser state, and stay as they are."""

from collections.abc import Callable, Sequence

import jax
import optax

from jaxdiff.typing import InputError, PyTree

Trained = Callable[[PyTree], PyTree]
"""`params -> a tree of bools`, which of them are trained. In its place None: all of them."""


def all_but(frozen: Sequence[str]) -> Trained:
    """Which parameters are trained, if those are not whose names begin like this.

    Names are within the collection "params"; all of any other collection is trained.

    Args:
      frozen: "down_0" freezes down_0/kernel and down_0_1/conv1/bias, "down_0/" only the first.

    >>> params = {"params": {"conv_in": {"bias": 0.0}, "conv_out": {"bias": 0.0}}}
    >>> all_but(["conv_i"])(params)
    {'params': {'conv_in': {'bias': False}, 'conv_out': {'bias': True}}}
    """

    def trained(params: PyTree) -> PyTree:
        def one(path: tuple[jax.tree_util.DictKey, ...], _: object) -> bool:
            collection, *names = (str(key.key) for key in path)
            return collection != "params" or not "/".join(names).startswith(tuple(frozen))

        return jax.tree_util.tree_map_with_path(one, params)

    return trained


def check_frozen(frozen: Sequence[str], params: PyTree) -> None:
    """Raise `InputError` for a beginning that no parameter has, and where nothing is left to train."""
    modules = sorted(params["params"])
    for start in frozen:
        if all(jax.tree.leaves(all_but([start])(params))):
            raise InputError(f"nothing to freeze begins with {start!r}; the modules are {', '.join(modules)}")
    if not any(jax.tree.leaves(all_but(frozen)(params))):
        raise InputError(f"with {', '.join(frozen)} frozen, nothing is left to train")


def stop_frozen(params: PyTree, trained: Trained | None) -> PyTree:
    """The same parameters, of which the frozen ones have no gradient: their part of the backward pass is left out."""
    if trained is None:
        return params
    stopped: PyTree = jax.tree.map(lambda p, yes: p if yes else jax.lax.stop_gradient(p), params, trained(params))
    return stopped


def only(tx: optax.GradientTransformation, trained: Trained | None) -> optax.GradientTransformation:
    """An optimiser of the trained parameters alone: the others' updates are 0, also of weight decay.

    >>> import jax.numpy as jnp
    >>> params = {"params": {"a": jnp.ones(1), "b": jnp.ones(1)}}
    >>> tx = only(optax.sgd(0.5), all_but(["a"]))
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> [float(u[0]) for u in jax.tree.leaves(updates)]
    [0.0, -0.5]
    """
    return tx if trained is None else optax.multi_transform({True: tx, False: optax.set_to_zero()}, trained)
