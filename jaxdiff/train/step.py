"""The train step: pure, the same under jit, pmap and sharding."""

import operator
from collections.abc import Callable
from functools import partial

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
    accumulate: int = 1,
    axis_name: str | None = None,
) -> tuple[TrainState, Metrics]:
    """One update: `params <- params + tx(grad mean loss)`, `ema <- decay ema + (1 - decay) params`.

    If the loss, the gradient or the updated parameters are not finite, nothing but the step's number changes.

    Example n of the global batch gets the key `fold_in(fold_in(key, step), n)`: the numbers drawn for it do not depend
    on how many devices share the batch, and a resumed run draws on where it stopped.

    Args:
      state: see `TrainState`.
      batch: this device's share, arrays `[B, ...]`.
      key: one typed key for the whole run.
      loss_fn: named per-example terms; the mean is taken here, over the whole batch.
      tx: an optax transformation.
      ema_decay: in [0, 1), reached after a warm-up (`ema_decay_at`).
      accumulate: in how many parts, one after the other, the gradient of this share is computed; must divide B.
      axis_name: under `pmap`, its axis: gradients and metrics are averaged over it. None under `jit`.

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
    decay = ema_decay_at(state.step, decay=ema_decay)
    ema = jax.tree.map(lambda average, p: average + (1 - decay) * (p - average), state.ema, params)
    new = TrainState(state.step + 1, params, ema, opt_state)

    # An update can overflow behind a finite loss: hence the norm of the parameters too.
    metrics |= {"grad_norm": optax.tree.norm(grads), "param_norm": optax.tree.norm(params)}
    finite = jnp.isfinite(metrics["loss"] + metrics["grad_norm"] + metrics["param_norm"])
    metrics |= {"skipped": 1 - finite.astype(jnp.float32)}
    return jax.tree.map(partial(jnp.where, finite), new, state._replace(step=state.step + 1)), metrics


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
