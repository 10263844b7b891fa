"""The U-Net of lucidrains' denoising-diffusion-pytorch."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.models.attention import AttentionBlock, attend, linear_attend
from jaxdiff.models.embed import Fourier, sinusoidal, time_mlp
from jaxdiff.models.layers import (
    Dropout,
    RMSNorm,
    conv,
    init_default,
    init_zero,
    rematerialised,
    wide,
)
from jaxdiff.models.levels import check_size
from jaxdiff.models.network import Network
from jaxdiff.models.resampling import unshuffle
from jaxdiff.typing import Array, InputError

# x / |x| * sqrt(channels) for all but vectors of zeros, which stay what they are.
_norm = partial(RMSNorm, eps=1e-24)


class Block(nn.Module):
    """Residual block with its norms after the convolutions: conv, norm, scale and shift by the embedding, SiLU,
    dropout; conv, norm, SiLU."""

    channels: int
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, emb: Array, key: Array | None = None) -> Array:
        dense = partial(nn.Dense, dtype=self.dtype, kernel_init=init_default)
        emb = dense(2 * self.channels, name="emb")(nn.silu(emb))
        scale, shift = jnp.split(emb.reshape(emb.shape[0], *(1,) * (x.ndim - 2), -1), 2, axis=-1)

        h = _norm(name="norm1")(conv(x, self.channels, dtype=self.dtype, name="conv1")) * (1 + scale) + shift
        h = Dropout(self.dropout)(nn.silu(h), key)
        h = nn.silu(_norm(name="norm2")(conv(h, self.channels, dtype=self.dtype, name="conv2")))
        if x.shape[-1] != self.channels:
            x = dense(self.channels, name="skip")(x)
        return x + h


class LucidrainsUNet(Network):
    """A U-Net `(x [B, ..., C], c_noise [B], cond) -> [B, ..., out_channels]`, float32 out (float64 of that `dtype`).

    x is a batch of sequences `[B, L, C]`, images `[B, H, W, C]` or videos `[B, T, H, W, C]`, whose sizes must be
    divisible by 2^(levels - 1). The defaults are denoising-diffusion-pytorch's (MIT) and those of its README. What
    makes it another network than `UNet`: normalisation by the root mean square, after the convolutions; attention at
    every level, linear but for the last, over learned keys and values too; resampling that loses nothing on the way
    down; a first convolution 7 wide, whose output comes back at the end. Labels, which the original has none of, are
    added to the embedding of time as in `UNet`; and the last layer starts at 0, as do full attentions.

    Attributes, beside those of `Network`:
      channels: the unit of channels; those of the embedding of time, of which the blocks get 4 times as many.
      first_channels: of the first convolution; None for `channels`.
      multipliers: what each level hands on to the next, in units of `channels`, and works with on the way up; on the
        way down it works with what it got. One level is half as high and wide as the one before.
      full_attention_levels: levels, from 0, with full instead of linear attention; None for the last alone. The middle
        always has it.
      heads: of each attention.
      head_channels: of each head.
      memories: learned keys, and values, of each attention.
      frequencies: of the embedding of time: "fixed" for `embed.sinusoidal`, "learned" or "random" for `embed.Fourier`.
      fourier_channels: of the latter.
      max_period: of the former.

    Raises:
      InputError: a size that cannot be halved, missing or unexpected labels or other conditions, unknown frequencies.

    Source: the network has no paper. Its parts: Zhang & Sennrich 2019 (arXiv 1910.07467), Shen et al. 2018
    (arXiv 1812.01243), Sukhbaatar et al. 2019 (arXiv 1907.01470), and the block's order of Ho et al.'s successors.
    """

    channels: int = 64
    first_channels: int | None = None
    multipliers: Sequence[int] = (1, 2, 4, 8)
    full_attention_levels: Sequence[int] | None = None
    heads: int = 4
    head_channels: int = 32
    memories: int = 4
    frequencies: str = "fixed"
    fourier_channels: int = 16
    max_period: float = 10_000.0

    @nn.compact
    def __call__(
        self, x: Array, c_noise: Array, cond: Mapping[str, Array] | None = None, *, key: Array | None = None
    ) -> Array:
        """Apply the network, as `UNet.__call__`."""
        *size, in_channels = x.shape[1:]
        check_size(size, levels=len(self.multipliers), network="LucidrainsUNet")
        x, labels = self.conditions(x, c_noise, cond)

        block = partial(rematerialised(Block, self.remat), dropout=self.dropout, dtype=self.dtype)
        dense = partial(nn.Dense, dtype=self.dtype, kernel_init=init_default)
        last = len(self.multipliers) - 1
        full = (last,) if self.full_attention_levels is None else self.full_attention_levels

        def attention(h: Array, name: str, *, linear: bool) -> Array:
            return AttentionBlock(
                self.heads, norm=_norm, dtype=self.dtype, head_channels=self.head_channels, bias=False,
                memories=self.memories, attend=linear_attend if linear else attend,
                norm_out=_norm if linear else None, name=f"{name}_attention",
            )(h)  # fmt: skip

        gelu = partial(nn.gelu, approximate=False)
        emb = time_mlp(self._time(c_noise), width=4 * self.channels, dtype=self.dtype, act=gelu)
        emb = self.with_label(emb, labels)

        first = self.first_channels or self.channels
        start = h = conv(x.astype(self.dtype), first, width=7, dtype=self.dtype, name="conv_in")
        widths = [first, *(multiplier * self.channels for multiplier in self.multipliers)]
        skips = []
        for level, (above, below) in enumerate(pairwise(widths)):
            h = block(above, name=f"down_{level}_0")(h, emb, key)
            skips.append(h)
            h = block(above, name=f"down_{level}_1")(h, emb, key)
            h = attention(h, f"down_{level}", linear=level not in full)
            skips.append(h)
            if level < last:
                h = dense(below, name=f"down_{level}")(unshuffle(h))
            else:
                h = conv(h, below, dtype=self.dtype, name=f"down_{level}")

        h = block(h.shape[-1], name="middle_0")(h, emb, key)
        h = attention(h, "middle", linear=False)
        h = block(h.shape[-1], name="middle_1")(h, emb, key)

        for level, (above, below) in reversed(list(enumerate(pairwise(widths)))):
            for i in range(2):
                h = block(below, name=f"up_{level}_{i}")(jnp.concatenate([h, skips.pop()], axis=-1), emb, key)
            h = attention(h, f"up_{level}", linear=level not in full)
            h = conv(h, above, double=level > 0, dtype=self.dtype, name=f"up_{level}")

        h = block(first, name="last")(jnp.concatenate([h, start], axis=-1), emb, key)
        precise = wide(self.dtype)
        return nn.Dense(self.out_channels or in_channels, dtype=precise, kernel_init=init_zero, name="conv_out")(
            h.astype(precise)
        )

    def _time(self, c_noise: Array) -> Array:
        if self.frequencies == "fixed":
            return sinusoidal(c_noise, channels=self.channels, max_period=self.max_period)
        if self.frequencies not in ("learned", "random"):
            raise InputError(
                f"LucidrainsUNet: unknown frequencies {self.frequencies!r}; expected fixed, learned or random"
            )
        return Fourier(self.fourier_channels, learned=self.frequencies == "learned", name="time_0")(c_noise)
