"""Which times training sees. Draws belong to examples: keys `[B]` in, float32 times `[B]` out.

`uniform_steps` and `importance_sample` give times of a table; the others are for continuous schedules, and `to_steps`
moves them to a table's steps.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiff.schedules import require, time_at_log_snr
from jaxdiff.typing import Array, Schedule


def uniform_steps(keys: Array, *, T: int) -> Array:
    """Uniform over the knots of a table: `t = (k + 1) / T`, k uniform in 0..T-1.

    Args:
      keys: typed keys `[B]`, one per example.
      T: the table's length.

    Returns:
      float32 `[B]`.

    >>> t = uniform_steps(jax.random.split(jax.random.key(0), 100), T=10)
    >>> sorted({round(float(x), 3) for x in t})
    [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]

    Source: Ho et al. 2020 (arXiv 2006.11239), Algorithm 1.
    """
    k = jax.vmap(lambda key: jax.random.randint(key, (), 0, T))(keys)
    return (k + 1).astype(jnp.float32) / T


def uniform_time(keys: Array, *, start: float = 1e-5, end: float = 1.0) -> Array:
    """Uniform in [start, end), for continuous schedules; `start` > 0 keeps sigma away from 0.

    >>> t = uniform_time(jax.random.split(jax.random.key(0), 100))
    >>> bool((t > 0).all() and (t < 1).all())
    True

    Source: Song et al. 2021 (arXiv 2011.13456), section C.
    """
    return jax.vmap(lambda key: jax.random.uniform(key, (), jnp.float32, start, end))(keys)


def stratified(key: Array, index: Array, *, total: int, start: float = 1e-5, end: float = 1.0) -> Array:
    """One time in each of `total` equal parts of [start, end], all moved by the same draw:

        u_i = (u + i / total) mod 1,    t_i = start + (end - start) u_i,    u uniform in [0, 1)

    Each time is uniform, as in `uniform_time`, but the average over a batch varies less. It is about the batch: an
    example's time depends on its place in it and on `total`.

    Args:
      key: one typed key for the whole batch, the same on every device.
      index: int32 `[B]`, the places in the batch, 0..total-1, of the examples at hand: all of them, or a device's.
      total: the examples of the batch on all devices together.
      start: the earliest time.
      end: the latest time.

    >>> sorted(int(4 * t) for t in stratified(jax.random.key(0), jnp.arange(4), total=4))
    [0, 1, 2, 3]

    Source: Kingma et al. 2021 (arXiv 2107.00630), appendix I.1.
    """
    u = jax.random.uniform(key, (), jnp.float32)
    return start + (end - start) * jnp.mod(u + index.astype(jnp.float32) / total, 1)


def to_steps(t: Array, *, T: int) -> Array:
    """The time of the table's step in which t falls: `(k + 1) / T` for k / T <= t < (k + 1) / T, and 1 for t = 1.

    What is uniform in [0, 1) becomes what `uniform_steps` gives.

    >>> to_steps(jnp.array([0.0, 0.1, 0.3, 1.0]), T=4).tolist()
    [0.25, 0.25, 0.5, 1.0]
    """
    return (jnp.clip(jnp.floor(t * T), 0, T - 1) + 1) / T


def _normal(keys: Array, mean: float, std: float) -> Array:
    return mean + std * jax.vmap(lambda key: jax.random.normal(key, (), jnp.float32))(keys)


def log_normal(keys: Array, *, schedule: Schedule, mean: float = -1.2, std: float = 1.2) -> Array:
    """The times at which `log(sigma / alpha)` is N(mean, std^2); levels that the schedule lacks become its ends.

    Args:
      keys: typed keys `[B]`.
      schedule: gives the time of each level, `schedules.EDM` in the paper.
      mean: of log sigma.
      std: of log sigma.

    >>> from jaxdiff.schedules import EDM
    >>> t = log_normal(jax.random.split(jax.random.key(0), 1001), schedule=EDM())
    >>> bool(0.25 < 80 * jnp.median(t) < 0.35)  # exp(-1.2) = 0.30
    True

    Source: Karras et al. 2022 (arXiv 2206.00364), table 1.
    """
    return time_at_log_snr(-2 * _normal(keys, mean, std), schedule=schedule)


def logit_normal(keys: Array, *, mean: float = 0.0, std: float = 1.0) -> Array:
    """`t = sigmoid(z)`, z from N(mean, std^2): more of the middle; mean > 0 is more of the noise.

    >>> t = logit_normal(jax.random.split(jax.random.key(0), 1001))
    >>> bool(0.45 < jnp.median(t) < 0.55)
    True

    Source: Esser et al. 2024 (arXiv 2403.03206), section 3.1.
    """
    return jax.nn.sigmoid(_normal(keys, mean, std))


class Importance(NamedTuple):
    """The last losses of each step of a table, for `importance_sample`. A pytree: it is part of the training state.

    Attributes:
      losses: float32 `[T, history]`, a ring for each step.
      seen: int32 `[T]`, how many losses each step has had.
    """

    losses: Array
    seen: Array


UNIFORM_SHARE = 1e-3  # of the draws: no step has probability 0, or the weighted loss would not see it at all


def importance_init(*, T: int, history: int = 10) -> Importance:
    """No losses yet, of a table of `T` steps: sampling is uniform until every step has had `history` of them.

    >>> importance_init(T=100).losses.shape
    (100, 10)

    Source: Nichol & Dhariwal 2021 (arXiv 2102.09672), section 3.3.
    """
    require(T > 0 and history > 0, f"importance_init: expected T > 0 and history > 0, got {T} and {history}")
    return Importance(jnp.zeros((T, history), jnp.float32), jnp.zeros((T,), jnp.int32))


def _step(t: Array, state: Importance) -> Array:
    T = state.seen.shape[0]
    return jnp.clip(jnp.round(t * T).astype(jnp.int32) - 1, 0, T - 1)


def importance_update(state: Importance, t: Array, losses: Array) -> Importance:
    """Remember a batch: each loss takes the place of the oldest one of its step.

    Args:
      state: the losses so far.
      t: the table's times `[B]` of the batch, of all devices if there are several: gather them first, or the devices
        will sample from different distributions.
      losses: `[B]`, the losses at these times *before* their importance weights.

    >>> state = importance_update(importance_init(T=4), jnp.array([0.25, 0.25]), jnp.array([1.0, 2.0]))
    >>> state.losses[0, :3].tolist(), state.seen.tolist()
    ([1.0, 2.0, 0.0], [2, 0, 0, 0])
    """
    T, history = state.losses.shape
    k = _step(t, state)
    same = k[:, None] == k[None, :]
    before = jnp.sum(jnp.tril(same, -1), axis=1)  # losses of the same step earlier in the batch, and later:
    after = jnp.sum(jnp.triu(same, 1), axis=1)
    row = jnp.where(after < history, k, T)  # of more than the ring holds only the last are written: T is dropped
    losses = jax.lax.stop_gradient(losses).astype(jnp.float32)
    return Importance(
        state.losses.at[row, (state.seen[k] + before) % history].set(losses, mode="drop"),
        state.seen.at[k].add(1),
    )


def importance_probabilities(state: Importance) -> Array:
    """`p_k` proportional to sqrt(E[L_k^2]) over the losses remembered, float32 `[T]`; uniform until all rings are full.

    A thousandth of the draws is uniform, so that no p_k is 0.

    Source: Nichol & Dhariwal 2021 (arXiv 2102.09672), eq. 18.
    """
    T, history = state.losses.shape
    root = jnp.sqrt(jnp.mean(jnp.square(state.losses), axis=1))
    total = jnp.sum(root)
    p = (1 - UNIFORM_SHARE) * root / jnp.where(total > 0, total, 1) + UNIFORM_SHARE / T
    return jnp.where(jnp.all(state.seen >= history) & (total > 0), p, 1 / T)


def importance_sample(keys: Array, state: Importance) -> Array:
    """The table's times `(k + 1) / T` with k drawn from `importance_probabilities`, each from its example's key `[B]`.

    Multiply the losses at these times by `importance_weights`.

    >>> importance_sample(jax.random.split(jax.random.key(0), 3), importance_init(T=4)).shape
    (3,)
    """
    logits = jnp.log(importance_probabilities(state))
    k = jax.vmap(lambda key: jax.random.categorical(key, logits))(keys)
    return (k + 1).astype(jnp.float32) / state.seen.shape[0]


def importance_weights(t: Array, state: Importance) -> Array:
    """`1 / (T p_k)`, float32 `[B]`: with it the mean over sampled times estimates the mean over all, without bias.

    Args:
      t: times `[B]` from `importance_sample`.
      state: the one they were sampled from, not yet updated.

    >>> importance_weights(jnp.array([0.25, 1.0]), importance_init(T=4)).tolist()
    [1.0, 1.0]

    Source: Nichol & Dhariwal 2021 (arXiv 2102.09672), eq. 18.
    """
    return 1 / (state.seen.shape[0] * importance_probabilities(state)[_step(t, state)])
