"""The train step: pure, the same under jit, pmap and sharding."""

import operator
from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import optax

from jaxdiff.noise import example_keys
from jaxdiff.train.ema import Share, exponential, towards
from jaxdiff.train.state import TrainState
from jaxdiff.typing import Array, Batch, InputError, PyTree

LossFn = Callable[[PyTree, Batch, Array], dict[str, Array]]
"""`(params, batch of B, keys [B]) -> named per-example terms [B]`, of which "loss" is minimised."""

Metrics = dict[str, Array]


EMA = {"ema": exponential(0.9999)}


def train_step(
    state: TrainState,
    batch: Batch,
    key: Array,
    *,
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    averages: Mapping[str, Share] = EMA,
    accumulate: int = 1,
    axis_name: str | None = None,
) -> tuple[TrainState, Metrics]:
    """One update: `params <- params + tx(grad mean loss)`, `ema <- ema + share (params - ema)`.

    If the loss, the gradient or the updated parameters are not finite, parameters and optimiser stay as they were.

    Example n of the global batch gets the key `fold_in(fold_in(key, step), n)`: the numbers drawn for it do not depend
    on how many devices share the batch, and a resumed run draws on where it stopped.

    Args:
      state: see `TrainState`.
      batch: this device's share, arrays `[B, ...]`.
      key: one typed key for the whole run.
      loss_fn: named per-example terms; the mean is taken here, over the whole batch.
      tx: an optax transformation.
      averages: of the parameters, by name, how fast each follows them (see `train.ema`); the state has one of each.
      accumulate: in how many parts, one after the other, the gradient of this share is computed; must divide B.
      axis_name: under `pmap`, its axis: gradients and metrics are averaged over it. None under `jit`.

    Raises:
      InputError: other averages than the state's.

    Returns:
      the new state, and the means of the terms with `grad_norm`, (after the update) `param_norm` and `skipped`, 1 if
      there was no update, else 0: float32 scalars, the same on all devices.

    >>> loss_fn = lambda params, batch, keys: {"loss": (params["w"] - batch["image"]) ** 2}
    >>> from jaxdiff.train.state import init_state
    >>> tx = optax.sgd(0.5)
    >>> state = init_state({"w": jnp.float32(0.0)}, tx)
    >>> state, metrics = train_step(state, {"image": jnp.array([1.0, 3.0])}, jax.random.key(0), loss_fn=loss_fn, tx=tx)
    >>> float(metrics["loss"]), float(state.params["w"])
    (5.0, 2.0)

    Source: Ho et al. 2020 (arXiv 2006.11239), Algorithm 1 and appendix B (moving average).
    """
    if averages.keys() != state.ema.keys():
        raise InputError(
            f"averages {', '.join(averages)}: the state has {', '.join(state.ema) or 'none'}; make it by "
            "init_state(params, tx, averages) with the same"
        )
    local = next(iter(batch.values())).shape[0]
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * local
    keys = example_keys(jax.random.fold_in(key, state.step), first + jnp.arange(local))

    def mean_loss(params: PyTree, batch: Batch, keys: Array) -> tuple[Array, Metrics]:
        means = {name: jnp.mean(term) for name, term in loss_fn(params, batch, keys).items()}
        return means["loss"], means

    gradient = jax.grad(mean_loss, has_aux=True)
    grads, metrics = _in_parts(partial(gradient, state.params), (batch, keys), accumulate)
    if axis_name is not None:
        grads, metrics = jax.lax.pmean((grads, metrics), axis_name)

    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    # An update can overflow behind a finite loss: hence the norm of the parameters too.
    metrics |= {"grad_norm": optax.tree.norm(grads), "param_norm": optax.tree.norm(params)}
    finite = jnp.isfinite(metrics["loss"] + metrics["grad_norm"] + metrics["param_norm"])
    metrics |= {"skipped": 1 - finite.astype(jnp.float32)}
    updated, before = (params, opt_state), (state.params, state.opt_state)
    params, opt_state = jax.tree.map(partial(jnp.where, finite), updated, before)
    ema = {name: towards(params, state.ema[name], share(state.step)) for name, share in averages.items()}
    return TrainState(state.step + 1, params, ema, opt_state), metrics


def _in_parts(mean: Callable[..., PyTree], examples: tuple[PyTree, ...], parts: int) -> PyTree:
    """`mean(*examples)`, a mean over them, from the means over equal parts of them.

    Part i is every `parts`-th example: so each device, which has a piece of them, has a piece of every part.
    """
    if parts == 1:
        return mean(*examples)
    split = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), examples)
    if jax.default_backend() == "cpu":  # XLA on CPU runs gradients of convolutions 30-50 times slower inside a loop
        means = [mean(*jax.tree.map(operator.itemgetter(i), split)) for i in range(parts)]
        return jax.tree.map(lambda *m: sum(m) / parts, *means)

    def add(total: PyTree, some: tuple[PyTree, ...]) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, total, mean(*some)), None

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(mean, *examples))
    total, _ = jax.lax.scan(add, zeros, split)
    return jax.tree.map(lambda x: x / parts, total)
