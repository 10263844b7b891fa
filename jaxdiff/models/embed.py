"""Embeddings of numbers and labels."""

import math

import jax.numpy as jnp

from jaxdiff.models.layers import wide
from jaxdiff.typing import Array, InputError


def sinusoidal(
    c: Array, *, channels: int, max_period: float = 10_000.0, freq_shift: float = 1.0, cos_first: bool = False
) -> Array:
    """`[sin(c w_i), cos(c w_i)]` with `w_i = max_period^(-i / (channels / 2 - freq_shift))`, i = 0..channels / 2 - 1.

    Args:
      c: numbers `[B]`, for diffusion steps 0..999.
      channels: even, at least 4.
      max_period: the longest period over 2 pi, which the last frequency reaches (`freq_shift` 1) or would be next.
      freq_shift: 1 in DDPM, 0 in guided diffusion.
      cos_first: the cosines come before the sines, as in guided diffusion.

    Returns:
      `[B, channels]`, in [-1, 1]; float32, or float64 if c is.

    >>> sinusoidal(jnp.zeros(1), channels=4).tolist()
    [[0.0, 0.0, 1.0, 1.0]]

    Source: Vaswani et al. 2017 (arXiv 1706.03762), section 3.5, with DDPM's order (all sines, then all cosines).
    """
    if channels < 4 or channels % 2:
        raise InputError(f"sinusoidal embedding: expected an even number of channels >= 4, got {channels}")
    half = channels // 2
    c = c.astype(wide(c.dtype))
    frequencies = jnp.exp(-math.log(max_period) / (half - freq_shift) * jnp.arange(half, dtype=c.dtype))
    angles = c[:, None] * frequencies[None]
    waves = [jnp.sin(angles), jnp.cos(angles)]
    return jnp.concatenate(waves[::-1] if cos_first else waves, axis=-1)
