"""Embeddings of numbers, and the conditions of a network."""

import math
from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

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


class Fourier(nn.Module):
    """`[c, sin(2 pi c w_i), cos(2 pi c w_i)]` of numbers `[B]`, with frequencies that are drawn from N(0, 1).

    Attributes:
      channels: of sines and cosines together, even; there is one more, c itself.
      learned: the frequencies are trained; else they stay as they were drawn.

    Source: Tancik et al. 2020 (arXiv 2006.10739), eq. 5, with b from N(0, 1).
    """

    channels: int = 16
    learned: bool = True

    @nn.compact
    def __call__(self, c: Array) -> Array:
        if self.channels < 2 or self.channels % 2:
            raise InputError(f"Fourier embedding: expected an even number of channels, got {self.channels}")
        w = self.param("weights", nn.initializers.normal(1.0), (self.channels // 2,), jnp.float32)
        c = c.astype(wide(c.dtype))
        return jnp.concatenate([c[:, None], fourier(c, w if self.learned else jax.lax.stop_gradient(w))], axis=-1)


def fourier(c: Array, frequencies: Sequence[float] | np.ndarray | Array) -> Array:
    """`[sin(2 pi c w_i), cos(2 pi c w_i)]` of given frequencies, for noise levels: c is a logarithm of one.

    Args:
      c: `[B]`.
      frequencies: w, per unit of c; of the papers normally distributed, with standard deviation 16, and never trained.

    Returns:
      `[B, 2 len(frequencies)]`, in [-1, 1]; float32, or float64 if c is.

    >>> fourier(jnp.array([0.0, 0.25]), [1.0]).round(4).tolist()
    [[0.0, 1.0], [1.0, -0.0]]

    Source: Tancik et al. 2020 (arXiv 2006.10739); Song et al. 2021 (arXiv 2011.13456), appendix H.
    """
    c = c.astype(wide(c.dtype))
    turns = c[:, None] * jnp.asarray(frequencies, c.dtype)[None]
    angles = 2 * math.pi * (turns - jnp.round(turns))  # of hundreds the product would be rounded
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def normal_frequencies(count: int, *, scale: float) -> np.ndarray:
    """Normally distributed numbers times `scale`, always the same.

    >>> normal_frequencies(2, scale=16.0).round(3).tolist()
    [2.012, -2.114]
    """
    return scale * np.random.default_rng(0).standard_normal(count)


def conditions(
    x: Array, cond: Mapping[str, Array] | None, *, num_classes: int | None, network: str
) -> tuple[Array, Array | None]:
    """x with a conditioning image as further channels, and the labels, of `cond`.

    Raises:
      InputError: labels for a network without classes, none for one with, or anything but `label` and `image`.

    >>> x, labels = conditions(jnp.ones((1, 2, 3)), {"image": jnp.zeros((1, 2, 1))}, num_classes=None, network="UNet")
    >>> x.shape, labels
    ((1, 2, 4), None)
    """
    cond = cond or {}
    if (num_classes is not None) != ("label" in cond):
        expected = "labels" if num_classes is not None else "no labels (num_classes is None)"
        raise InputError(f"{network}: this network takes {expected}; cond has {sorted(cond) or 'nothing'}")
    if set(cond) - {"label", "image"}:
        raise InputError(f"{network}: cond may have 'label' and 'image'; got {sorted(cond)}")
    if "image" in cond:
        x = jnp.concatenate([x, cond["image"].astype(x.dtype)], axis=-1)
    return x, cond.get("label")
