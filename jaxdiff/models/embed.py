"""Embeddings of numbers, and the conditions of a network."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.models.layers import init_default, wide
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
    # In float32 an angle of 999 would be off by 3e-5. So each w has a part of 12 bits, whose products with steps up
    # to 4095 are exact, and a rest, whose products are small: sin(a + b) = sin a cos b + cos a sin b.
    frequencies = max_period ** (-np.arange(half) / (half - freq_shift))
    digits, exponents = np.frexp(frequencies)
    coarse = np.ldexp(np.round(digits * 2**12), exponents - 12)
    a, b = (c[:, None] * jnp.asarray(w[None], c.dtype) for w in (coarse, frequencies - coarse))
    waves = [
        jnp.sin(a) * jnp.cos(b) + jnp.cos(a) * jnp.sin(b),
        jnp.cos(a) * jnp.cos(b) - jnp.sin(a) * jnp.sin(b),
    ]
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
    [28.225, 6.403]
    """
    return scale * np.random.RandomState(0).standard_normal(count)  # whose stream numpy has promised to keep


def grid_angles(size: Sequence[int], *, pairs: int, max_period: float = 10_000.0) -> list[np.ndarray]:
    """Angles of the points of a grid, `p max_period^(-i / n)` with p a coordinate, by axis, the last axis first.

    Args:
      size: of the grid, of any number of dimensions.
      pairs: of a sine and a cosine, shared out among the axes as evenly as can be: n of each, i = 0..n - 1.
      max_period: see `sinusoidal`.

    Returns:
      For each axis float64 `[points, n]`; the points in the order of a reshaped array.

    >>> [a.tolist() for a in grid_angles((2, 3), pairs=2)]
    [[[0.0], [1.0], [2.0], [0.0], [1.0], [2.0]], [[0.0], [0.0], [0.0], [1.0], [1.0], [1.0]]]
    """
    shares = [pairs // len(size) + (i < pairs % len(size)) for i in range(len(size))]
    coordinates = np.indices(size).reshape(len(size), -1)[::-1]
    return [p[:, None] * max_period ** (-np.arange(n) / n) for p, n in zip(coordinates, shares) if n]


def grid_positions(size: Sequence[int], *, channels: int) -> np.ndarray:
    """Fixed positions of the points of a grid: for each axis, the last first, `[sin(angles), cos(angles)]`.

    Args:
      size: of the grid, of any number of dimensions.
      channels: even.

    Returns:
      float64 `[points, channels]`.

    >>> grid_positions((2, 2), channels=4).round(2).tolist()
    [[0.0, 1.0, 0.0, 1.0], [0.84, 0.54, 0.0, 1.0], [0.0, 1.0, 0.84, 0.54], [0.84, 0.54, 0.84, 0.54]]

    Source: Vaswani et al. 2017 (arXiv 1706.03762), section 3.5, by axis; for images as in Peebles & Xie 2022 (arXiv
    2212.09748).
    """
    if channels < 2 or channels % 2:
        raise InputError(f"positions: expected an even number of channels, got {channels}")
    angles = grid_angles(size, pairs=channels // 2)
    return np.concatenate([wave(a) for a in angles for wave in (np.sin, np.cos)], axis=-1)


def rotary_angles(grid: Sequence[int], *, channels: int, heads: int) -> Array:
    """Of `attention.rotate`: `[points, channels / heads / 2]`, shared out among the axes of space.

    Raises:
      InputError: heads of an odd size, or too small for the axes.

    >>> rotary_angles((4, 4), channels=48, heads=2).shape
    (16, 12)
    """
    size = channels // max(heads, 1)
    if size % 2 or size // 2 < len(grid):
        raise InputError(
            f"rotary positions: heads of {size} channels cannot be turned along {len(grid)} axes; expected an even "
            f"number of channels, at least {2 * len(grid)}"
        )
    return jnp.asarray(np.concatenate(grid_angles(grid, pairs=size // 2), axis=-1))


def time_mlp(
    features: Array,
    *,
    width: int,
    dtype: Any,
    init: nn.initializers.Initializer = init_default,
    act: Callable[[Array], Array] = nn.silu,
) -> Array:
    """`W act(V features)`, `[B, width]`, of an embedding of the time, within the module that calls it."""
    dense = partial(nn.Dense, width, dtype=dtype, kernel_init=init)
    return jnp.asarray(dense(name="time_2")(act(dense(name="time_1")(features))))


def check_words(network: str, given: Mapping[str, str], known: Mapping[str, Sequence[str]]) -> None:
    """Raise `InputError` for an argument that is none of its words.

    >>> check_words("DiT", {"norm": "rms"}, {"norm": ("layer", "rms")})
    """
    for name, word in given.items():
        if word not in known[name]:
            raise InputError(f"{network}: {name} {word!r}; expected one of {', '.join(known[name])}")
