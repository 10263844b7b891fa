"""U-ViT: a U-Net of residual blocks with a transformer as its lowest level."""

from collections.abc import Mapping, Sequence
from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.models.embed import sinusoidal, time_mlp
from jaxdiff.models.layers import GroupNorm, ResBlock, conv, init_default, rematerialised, wide
from jaxdiff.models.levels import check_size
from jaxdiff.models.network import Network
from jaxdiff.models.resampling import downsample, patches, unpatches, upsample
from jaxdiff.models.transformer import transformer
from jaxdiff.typing import Array


class UViT(Network):
    """A U-Net with a transformer at the bottom, `(x [B, ..., C], c_noise [B], cond) -> [B, ..., out_channels]`, float32
    out (float64 of that `dtype`).

    Made for large images: all levels but the last have a few residual blocks, with skips from the way down to the way
    up; the last, of 16x16 points or so, has most of the parameters, in blocks of a transformer. x is a batch of
    sequences `[B, L, C]`, images `[B, H, W, C]` or videos `[B, T, H, W, C]`, whose sizes must be divisible by
    patch 2^(levels - 1).

    Attributes, beside those of `Network`:
      channels: of the first level.
      multipliers: channels of each level, in units of `channels`; of the last, the transformer's. Each level is half as
        high and wide as the one before.
      blocks: residual blocks per level, on the way down and on the way up.
      depth: blocks of the transformer; they are DiT's, see `transformer.TransformerBlock`.
      heads: of its attention.
      patch: the first convolution gets, and the last one makes, patches of so many points in each dimension of space,
        so that no feature map has the size of the image.
      mlp_ratio: the MLP's width in units of the transformer's.
      mlp: "gelu", or "swiglu" with as many parameters.
      norm: of the transformer, "layer" or "rms".
      qk_norm: normalise queries and keys; see `attention.self_attention`.
      rotary: turn queries and keys by their positions, along each axis of space for itself, instead of adding fixed
        positions.
      dropout_resolution: feature maps whose smallest side is at most this have dropout; larger ones have none.
      groups: of the residual blocks' normalisations.
      scan: the transformer's blocks as one with stacked parameters, in a loop: compiles in a time that does not grow
        with the depth.

    Raises:
      InputError: a size that cannot be halved, missing or unexpected labels or other conditions, channels that cannot
        be split into heads.

    Source: Hoogeboom et al. 2023 (arXiv 2301.11093), section 3: the transformer in place of convolutions, without skips
    round its blocks; dropout at low resolutions alone; patches; means with a 1x1 convolution on the way down, and that
    with nearest neighbours on the way up. Not as there: the transformer's blocks are DiT's (Peebles & Xie 2022, arXiv
    2212.09748), with fixed positions, and skips are concatenated, as in `UNet`.
    """

    channels: int = 128
    multipliers: Sequence[int] = (1, 2, 4)
    blocks: int = 2
    depth: int = 12
    heads: int = 8
    patch: int = 1
    mlp_ratio: float = 4.0
    mlp: str = "gelu"
    norm: str = "layer"
    qk_norm: bool = False
    rotary: bool = False
    dropout_resolution: int = 16
    groups: int = 32
    scan: bool = False

    @nn.compact
    def __call__(
        self, x: Array, c_noise: Array, cond: Mapping[str, Array] | None = None, *, key: Array | None = None
    ) -> Array:
        """Apply the network, as `UNet.__call__`."""
        *size, in_channels = x.shape[1:]
        check_size(size, levels=len(self.multipliers), network="UViT", patch=self.patch)
        x, labels = self.conditions(x, c_noise, cond)
        emb = sinusoidal(c_noise, channels=self.channels)
        emb = time_mlp(emb, width=4 * self.channels, dtype=self.dtype)
        emb = self.with_label(emb, labels)

        norm = partial(GroupNorm, self.groups)
        dense = partial(nn.Dense, dtype=self.dtype, kernel_init=init_default)
        widths = [multiplier * self.channels for multiplier in self.multipliers]

        def dropout(h: Array) -> float:
            return self.dropout if min(h.shape[1:-1]) <= self.dropout_resolution else 0.0

        def block(h: Array, level: int, name: str) -> Array:
            make = rematerialised(ResBlock, self.remat)
            layer = make(widths[level], dropout=dropout(h), norm=norm, dtype=self.dtype, name=name)
            return jnp.asarray(layer(h, emb, key))

        h = conv(patches(x.astype(self.dtype), self.patch), self.channels, dtype=self.dtype, name="conv_in")
        skips = []
        last = len(widths) - 1
        for level in range(last):
            for i in range(self.blocks):
                h = block(h, level, f"down_{level}_{i}")
                skips.append(h)
            h = dense(widths[level + 1], name=f"down_{level}")(downsample(h))

        if not last:
            h = dense(widths[last], name="down")(h)
        h = transformer(
            h, emb, key, depth=self.depth, heads=self.heads, rotary=self.rotary, remat=self.remat, scan=self.scan,
            mlp_ratio=self.mlp_ratio, mlp=self.mlp, norm=self.norm, qk_norm=self.qk_norm, dropout=dropout(h),
            dtype=self.dtype,
        )  # fmt: skip

        for level in reversed(range(last)):
            h = upsample(dense(widths[level], name=f"up_{level}")(h))
            for i in range(self.blocks):
                h = block(jnp.concatenate([h, skips.pop()], axis=-1), level, f"up_{level}_{i}")

        h = nn.silu(norm(name="norm_out")(h.astype(wide(self.dtype))))
        outputs = self.patch ** len(size) * (self.out_channels or in_channels)
        return unpatches(conv(h, outputs, dtype=h.dtype, zero=True, name="conv_out"), self.patch)
