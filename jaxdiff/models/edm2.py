"""The magnitude-preserving U-Net of EDM2."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.models.layers import Dropout, rematerialised, wide
from jaxdiff.models.levels import ascend, check_size, descend, heads_of
from jaxdiff.models.magnitude import Conv, CosineAttention, Embed, mp_cat, mp_fourier, mp_silu, mp_sum, pixel_norm
from jaxdiff.models.network import Network
from jaxdiff.models.resampling import downsample, upsample
from jaxdiff.typing import Array


class Block(nn.Module):
    """Residual block of EDM2: `mp_sum(x, conv(dropout(mp_silu((1 + gain W emb) conv(mp_silu(x))))))`.

    On the way down x is first halved, brought to the channels of the output and pixel-normalised; on the way up it is
    doubled, and brought to those channels only for the sum.

    Attributes:
      channels: of the output.
      way: down, or up.
      resample: at the beginning.
      balance: t of the sum.

    Source: Karras et al. 2023 (arXiv 2312.02696), appendix B, config G.
    """

    channels: int
    way: Literal["down", "up"]
    resample: bool = False
    dropout: float = 0.0
    balance: float = 0.3
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, emb: Array, key: Array | None = None) -> Array:
        conv = partial(Conv, self.channels, dtype=self.dtype)
        if self.resample:
            x = downsample(x) if self.way == "down" else upsample(x)
        h, same = x, x.shape[-1] == self.channels
        x = x if same else conv(name="skip")(x)
        if self.way == "down":
            h = x = pixel_norm(x)

        gain = self.param("gain", nn.initializers.zeros_init(), (), jnp.float32)
        scale = 1 + gain.astype(self.dtype) * conv(name="emb")(emb)
        h = conv(width=3, name="conv1")(mp_silu(h)) * scale.reshape(scale.shape[0], *(1,) * (x.ndim - 2), -1)
        h = conv(width=3, name="conv2")(Dropout(self.dropout)(mp_silu(h), key))
        return mp_sum(x, h, t=self.balance)


class EDM2UNet(Network):
    """EDM2's U-Net `(x [B, ..., C], c_noise [B], cond) -> [B, ..., out_channels]`, float32 out (float64 of that dtype).

    Every layer keeps magnitudes (`models.magnitude`), so that there is no normalisation but of the residual blocks'
    inputs on the way down, and there are no biases: a channel of ones beside x takes their place. It asks for x of unit
    variance and c_noise = log(sigma) / 4, both as `preconditioning.edm` gives them, and for training by
    `jaxdiff.train.normalized`.

    x is a batch of sequences, images or videos, whose sizes must be divisible by 2^(levels - 1). The uncertainty
    u(sigma) that the paper learns beside it is not part of the network: it is a weight of the loss.

    Attributes, beside those of `Network`:
      channels: of the first level: 128 (XS), 192 (S), 256 (M), 320 (L), 384 (XL), 448 (XXL).
      multipliers: channels of each level, in units of `channels`.
      blocks: residual blocks per level on the way down; one more on the way up.
      attention_resolutions: feature maps whose smallest side is one of these get attention; the middle has it always.
      head_channels: of a head; must divide the channels of those maps.
      residual_balance: t of the sums that end residual blocks and attention: the share of the branch.
      concat_balance: t of the concatenations on the way up: the share of the way down.
      label_balance: t of the sum of the two embeddings: the share of the label.

    Raises:
      InputError: a size that cannot be halved, missing or unexpected conditions, channels that make no heads.

    Source: Karras et al. 2023 (arXiv 2312.02696), config G of table 1, appendix B.
    """

    channels: int = 192
    multipliers: Sequence[int] = (1, 2, 3, 4)
    blocks: int = 3
    attention_resolutions: Sequence[int] = (16, 8)
    head_channels: int = 64
    residual_balance: float = 0.3
    concat_balance: float = 0.5
    label_balance: float = 0.5

    @nn.compact
    def __call__(
        self, x: Array, c_noise: Array, cond: Mapping[str, Array] | None = None, *, key: Array | None = None
    ) -> Array:
        """Apply the network, as `UNet.__call__`; c_noise is log(sigma) / 4."""
        *size, in_channels = x.shape[1:]
        levels = len(self.multipliers)
        check_size(size, levels=levels, network="EDM2UNet")
        x, labels = self.conditions(x, c_noise, cond)

        dtype, width = self.dtype, 4 * self.channels
        emb = Conv(width, dtype=dtype, name="noise")(mp_fourier(c_noise, channels=self.channels))
        if labels is not None:
            rows = (self.num_classes or 0) + self.null_label
            emb = mp_sum(emb, Embed(rows, width, dtype=dtype, name="label")(labels), t=self.label_balance)
        emb = mp_silu(emb)

        def block(h: Array, level: int, name: str, *, resample: bool = False) -> Array:
            make = rematerialised(Block, self.remat)
            made = make(
                self.multipliers[level] * self.channels, way="down" if name.startswith("down") else "up",
                resample=resample, dropout=self.dropout, balance=self.residual_balance, dtype=dtype, name=name,
            )  # fmt: skip
            return jnp.asarray(made(h, emb, key))

        def attention(h: Array, name: str) -> Array:
            heads = heads_of(h.shape[-1], self.head_channels, network="EDM2UNet", name=name)
            return jnp.asarray(CosineAttention(heads, self.residual_balance, dtype, name=name)(h))

        def step(h: Array, level: int, name: str) -> Array:
            h = block(h, level, name)
            return attention(h, f"{name}_attention") if min(h.shape[1:-1]) in self.attention_resolutions else h

        resampled, last = partial(block, resample=True), levels - 1
        x = jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1)
        h = Conv(self.channels, width=3, dtype=dtype, name="conv_in")(x)
        skips = descend(h, levels=levels, blocks=self.blocks, block=step, halve=resampled)
        h = attention(block(skips[-1], last, "middle_0"), "middle_attention")
        h = ascend(
            block(h, last, "middle_1"), skips, levels=levels, blocks=self.blocks, block=step, double=resampled,
            join=partial(mp_cat, t=self.concat_balance),
        )  # fmt: skip
        h = Conv(self.out_channels or in_channels, width=3, dtype=wide(dtype), name="conv_out")(h)
        return h * self.param("gain", nn.initializers.zeros_init(), (), jnp.float32).astype(h.dtype)
