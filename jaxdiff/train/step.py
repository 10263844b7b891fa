"""The train step: pure, the same under jit, pmap and sharding."""

from collections.abc import Callable, Mapping

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
    axis_name: str | None = None,
) -> tuple[TrainState, Metrics]:
    """One update: `params <- params + tx(grad mean loss)`, `ema <- ema + share (params - ema)`.

    Example n of the global batch gets the key `fold_in(fold_in(key, step), n)`: the numbers drawn for it do not depend
    on how many devices share the batch, and a resumed run draws on where it stopped.

    Args:
      state: see `TrainState`.
      batch: this device's share, arrays `[B, ...]`.
      key: one typed key for the whole run.
      loss_fn: named per-example terms; the mean is taken here, over the whole batch.
      tx: an optax transformation.
      averages: of the parameters, by name, how fast each follows them (see `train.ema`); the state has one of each.
      axis_name: under `pmap`, its axis: gradients and metrics are averaged over it. None under `jit`.

    Raises:
      InputError: other averages than the state's.

    Returns:
      the new state, and the means of the terms with `grad_norm` and (after the update) `param_norm`, float32
      scalars, the same on all devices.

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

    def mean_loss(params: PyTree) -> tuple[Array, Metrics]:
        means = {name: jnp.mean(term) for name, term in loss_fn(params, batch, keys).items()}
        return means["loss"], means

    grads, metrics = jax.grad(mean_loss, has_aux=True)(state.params)
    if axis_name is not None:
        grads, metrics = jax.lax.pmean((grads, metrics), axis_name)

    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    # An update can overflow behind a finite loss; with this norm the loop sees it before that state is saved.
    metrics |= {"grad_norm": optax.tree.norm(grads), "param_norm": optax.tree.norm(params)}
    ema = {name: towards(params, state.ema[name], share(state.step)) for name, share in averages.items()}
    return TrainState(state.step + 1, params, ema, opt_state), metrics
