"""The train step: pure, the same under jit, pmap and sharding."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jaxdiff.noise import example_keys
from jaxdiff.train.state import TrainState
from jaxdiff.typing import Array, Batch, PyTree

LossFn = Callable[[PyTree, Batch, Array], dict[str, Array]]
"""`(params, batch of B, keys [B]) -> named per-example terms [B]`, of which "loss" is minimised."""

Metrics = dict[str, Array]


def ema_decay_at(step: Array, *, decay: float) -> Array:
    """The decay of the moving average with warm-up: `min(decay, (1 + step) / (10 + step))`.

    >>> [round(float(ema_decay_at(jnp.int32(k), decay=0.999)), 3) for k in (0, 90, 10**6)]
    [0.1, 0.91, 0.999]
    """
    step = step.astype(jnp.float32)
    return jnp.minimum(decay, (1 + step) / (10 + step))


def train_step(
    state: TrainState,
    batch: Batch,
    key: Array,
    *,
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    ema_decay: float = 0.9999,
    axis_name: str | None = None,
) -> tuple[TrainState, Metrics]:
    """One update: `params <- params + tx(grad mean loss)`, `ema <- decay ema + (1 - decay) params`.

    Example n of the global batch gets the key `fold_in(fold_in(key, step), n)`: the numbers drawn for it do not depend
    on how many devices share the batch, and a resumed run draws on where it stopped.

    Args:
      state: see `TrainState`.
      batch: this device's share, arrays `[B, ...]`.
      key: one typed key for the whole run.
      loss_fn: named per-example terms; the mean is taken here, over the whole batch.
      tx: an optax transformation.
      ema_decay: in [0, 1), reached after a warm-up (`ema_decay_at`).
      axis_name: under `pmap`, its axis: gradients and metrics are averaged over it. None under `jit`.

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
    decay = ema_decay_at(state.step, decay=ema_decay)
    ema = jax.tree.map(lambda average, p: average + (1 - decay) * (p - average), state.ema, params)
    return TrainState(state.step + 1, params, ema, opt_state), metrics
