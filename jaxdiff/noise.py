"""Keys that belong to examples, and the noise they give: an example's draws do not depend on its batch or device."""

import jax
import jax.numpy as jnp

from jaxdiff.typing import Array, InputError


def example_keys(key: Array, index: Array) -> Array:
    """One key per example: `fold_in(key, index_i)`.

    Args:
      key: a typed key.
      index: int32 `[B]`, the examples' global numbers: image 17 is number 17 in any batch and on any device.

    Returns:
      keys `[B]`.

    >>> keys = example_keys(jax.random.key(0), jnp.arange(8))
    >>> bool((jax.random.key_data(keys[5:]) == jax.random.key_data(
    ...     example_keys(jax.random.key(0), jnp.arange(5, 8)))).all())
    True
    """
    return jax.vmap(jax.random.fold_in, (None, 0))(key, index)


def fold_in(keys: Array, data: Array | int) -> Array:
    """`fold_in(key_n, data)` for each of the keys `[B]`: the examples' keys of a step, or of one of several streams.

    >>> fold_in(jax.random.split(jax.random.key(0), 3), 7).shape
    (3,)
    """
    return jax.vmap(jax.random.fold_in, (0, None))(keys, data)


def per_example(key: Array, batch: int) -> Array:
    """Keys `[B]` from keys `[B]` (unchanged) or from one key (folded with 0..B-1)."""
    if key.ndim == 0:
        return example_keys(key, jnp.arange(batch))
    if key.shape != (batch,):
        raise InputError(f"expected one key or {batch} keys, one per example; got keys of shape {key.shape}")
    return key


def white_noise(key: Array, shape: tuple[int, ...]) -> Array:
    """Standard normal noise, float32 of the given shape `[B, ...]`, each example from its own key.

    Args:
      key: one typed key, or keys `[B]`.
      shape: `(B, ...)`.

    Raises:
      InputError: another number of keys than B.

    >>> white_noise(jax.random.key(0), (2, 3)).shape
    (2, 3)
    """
    keys = per_example(key, shape[0])
    return jax.vmap(lambda k: jax.random.normal(k, shape[1:], jnp.float32))(keys)
