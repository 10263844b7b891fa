"""Embeddings of numbers and labels."""

import math

import jax.numpy as jnp

from jaxdiff.typing import Array, InputError


def sinusoidal(c: Array, *, channels: int, max_period: float = 10_000.0) -> Array:
    """`[sin(c w_i), cos(c w_i)]` with `channels / 2` frequencies w_i from 1 down to 1 / max_period, geometrically.

    Args:
      c: numbers `[B]`, for diffusion steps 0..999.
      channels: even, at least 4.
      max_period: the longest period, over 2 pi.

    Returns:
      float32 `[B, channels]`, in [-1, 1].

    >>> sinusoidal(jnp.zeros(1), channels=4).tolist()
    [[0.0, 0.0, 1.0, 1.0]]

    Source: Vaswani et al. 2017 (arXiv 1706.03762), section 3.5, with DDPM's order (all sines, then all cosines).
    """
    if channels < 4 or channels % 2:
        raise InputError(f"sinusoidal embedding: expected an even number of channels >= 4, got {channels}")
    half = channels // 2
    frequencies = jnp.exp(-math.log(max_period) / (half - 1) * jnp.arange(half, dtype=jnp.float32))
    angles = c.astype(jnp.float32)[:, None] * frequencies[None]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
