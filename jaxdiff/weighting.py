"""Which times training sees, and how much each counts. Per-example draws: keys `[B]` in, times `[B]` out."""

import jax
import jax.numpy as jnp

from jaxdiff.typing import Array


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
