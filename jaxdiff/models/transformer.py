"""Transformers: the block that an embedding modulates, and a stack of them."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.models.attention import SelfAttention
from jaxdiff.models.embed import check_words, grid_positions, rotary_angles
from jaxdiff.models.layers import Dropout, init_default, init_zero, normalised, rematerialised
from jaxdiff.noise import fold_in, per_example
from jaxdiff.typing import Array


def modulated(x: Array, shift: Array, scale: Array, *, norm: str = "layer", eps: float = 1e-6) -> Array:
    """`norm(x) * (1 + scale) + shift` with a norm without parameters, layer or RMS, in float32 or better.

    Args:
      x: `[B, ..., C]`.
      shift: `[B, C]`.
      scale: `[B, C]`.
      norm: "layer" or "rms".
      eps: added to the variance.

    Source: Peebles & Xie 2022 (arXiv 2212.09748), section 3.2 (adaLN).
    """
    h = normalised(x, centre=norm == "layer", eps=eps)
    shift, scale = (m.astype(h.dtype).reshape(m.shape[0], *(1,) * (x.ndim - 2), -1) for m in (shift, scale))
    return (h * (1 + scale) + shift).astype(x.dtype)


CHOICES = {"mlp": ("gelu", "swiglu"), "norm": ("layer", "rms")}
"""What the arguments in words may be."""


class TransformerBlock(nn.Module):
    """A block of DiT, which starts as the identity (adaLN-zero):

        x = x + gate_1 attention(norm(x) (1 + scale_1) + shift_1)
        x = x + gate_2 mlp(norm(x) (1 + scale_2) + shift_2),     shifts, scales and gates = W silu(emb), W starting at 0

    Attributes:
      heads: of attention; must divide the channels.
      mlp_ratio: the width of the MLP in units of the channels'.
      mlp: "gelu" (its tanh form), or "swiglu": `W (silu(A x) * B x)`, two thirds as wide, so with as many parameters.
      norm: "layer" or "rms".
      qk_norm: see `attention.self_attention`.
      dropout: rate, of the attention's output and within the MLP.
      norm_eps: of the normalisations.
      mlp_norm_eps: of the one before the MLP; None: the same.

    Source: Peebles & Xie 2022 (arXiv 2212.09748), section 3.2; swiglu: Shazeer 2020 (arXiv 2002.05202), eq. 6.
    """

    heads: int
    mlp_ratio: float = 4.0
    mlp: str = "gelu"
    norm: str = "layer"
    qk_norm: bool = False
    dropout: float = 0.0
    norm_eps: float = 1e-6
    mlp_norm_eps: float | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, emb: Array, key: Array | None = None, angles: Array | None = None) -> Array:
        """x `[B, positions, C]`, emb `[B, C']`; keys `[B]` of dropout; angles of rotary positions."""
        check_words("transformer", {"mlp": self.mlp, "norm": self.norm}, CHOICES)
        channels = x.shape[-1]
        dense = partial(nn.Dense, dtype=self.dtype, kernel_init=init_default)
        modulation = nn.Dense(6 * channels, dtype=self.dtype, kernel_init=init_zero, name="modulation")(nn.silu(emb))
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = jnp.split(modulation, 6, axis=-1)
        gate_1, gate_2 = (gate.reshape(x.shape[0], *(1,) * (x.ndim - 2), -1) for gate in (gate_1, gate_2))

        h = modulated(x, shift_1, scale_1, norm=self.norm, eps=self.norm_eps)
        h = SelfAttention(self.heads, self.qk_norm, self.dtype, name="attention")(h, angles)
        x = x + gate_1 * Dropout(self.dropout)(h, key)

        h = modulated(x, shift_2, scale_2, norm=self.norm, eps=self.mlp_norm_eps or self.norm_eps)
        width = self.mlp_ratio * channels
        if self.mlp == "gelu":
            h = nn.gelu(dense(round(width), name="mlp_in")(h))
        else:
            width = max(8 * round(2 / 3 * width / 8), 8)  # of a multiple of 8, which accelerators want
            h = nn.silu(dense(width, name="mlp_gate")(h)) * dense(width, name="mlp_in")(h)
        return x + gate_2 * dense(channels, name="mlp_out")(Dropout(self.dropout)(h, key))


def transformer(
    x: Array,
    emb: Array,
    key: Array | None,
    *,
    depth: int,
    heads: int,
    rotary: bool = False,
    remat: str = "none",
    scan: bool = False,
    **options: Any,
) -> Array:
    """Positions, and `depth` blocks, one after the other, within the module that calls it.

    Args:
      x: `[B, ..., C]`, the points of a grid of any number of dimensions.
      emb: `[B, C']`.
      key: keys `[B]`, one that stands for them, or None, for dropout.
      depth: the number of blocks.
      heads: of attention.
      rotary: the positions turn queries and keys, instead of being added to x.
      remat: what of them the backward pass computes again; see `layers.rematerialised`.
      scan: the blocks are one, "blocks", with stacked parameters, in a loop, which compiles once whatever the depth;
        else "block_0", "block_1", ...
      options: of `TransformerBlock`.
    """
    batch, *grid, channels = x.shape
    h = x.reshape(batch, -1, channels)
    angles = rotary_angles(grid, channels=channels, heads=heads) if rotary else None
    if not rotary:
        h = h + jnp.asarray(grid_positions(grid, channels=channels)[None], x.dtype)

    block = partial(rematerialised(TransformerBlock, remat, prevent_cse=not scan), heads, **options)
    if not scan:
        for i in range(depth):
            h = block(name=f"block_{i}")(h, emb, key, angles)
        return h.reshape(x.shape)
    keys = None if key is None else per_example(key, batch)

    def step(block: Any, h: Array, i: Array) -> tuple[Array, None]:
        # Dropout folds the place in the network into the key, and here that is the same for all blocks.
        return block(h, emb, None if keys is None else fold_in(keys, i), angles), None

    loop = nn.scan(step, variable_axes={"params": 0}, split_rngs={"params": True}, length=depth)
    y, _ = loop(block(name="blocks"), h, jnp.arange(depth))
    return jnp.asarray(y).reshape(x.shape)
