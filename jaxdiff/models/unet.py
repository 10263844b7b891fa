"""The U-Net of DDPM and ADM (guided diffusion), by arguments."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.models.attention import AttentionBlock
from jaxdiff.models.embed import sinusoidal, time_mlp
from jaxdiff.models.layers import GroupNorm, ResBlock, conv, rematerialised, wide
from jaxdiff.models.levels import ascend, check_size, descend, heads_of
from jaxdiff.models.network import Network
from jaxdiff.models.resampling import downsample, upsample
from jaxdiff.typing import Array


class UNet(Network):
    """A U-Net `(x [B, ..., C], c_noise [B], cond) -> [B, ..., out_channels]`, float32 out (float64 of that `dtype`).

    x is a batch of sequences `[B, L, C]`, images `[B, H, W, C]` or videos `[B, T, H, W, C]`, whose sizes must be
    divisible by 2^(levels - 1); nothing else is asked of them. The defaults are ADM's and, where that is said, DDPM's;
    networks of diffusers (`UNet2DModel`) and guided-diffusion are this one with other arguments.

    Attributes, beside those of `Network`:
      channels: of the first level.
      multipliers: channels of each level, in units of `channels`; one level is half as high and wide as the one before.
      blocks: residual blocks per level on the way down; one more on the way up.
      attention_resolutions: feature maps whose smallest side is one of these get attention. One that no level has is
        ignored, so that a configuration serves images of several sizes.
      heads: attention heads; or, where `head_channels` is given, as many as make heads of that size.
      scale_shift: embeddings scale and shift (ADM) instead of being added (DDPM).
      resample_in_block: up- and down-sampling inside residual blocks (ADM) instead of by a strided convolution
        and by a convolution after nearest neighbour (DDPM).
      groups: of the normalisations.
      attention_levels: in place of `attention_resolutions`, the levels that have attention, whatever the size; the
        first is 0.
      middle_attention: attention between the two blocks in the middle.
      resample_conv: without `resample_in_block`: False has no convolutions there, but means and nearest neighbours.
      downsample_padding: of the strided convolution, before and after the image: (0, 1), DDPM's, or (1, 1).
      least_group: the fewest channels of a group; see `layers.GroupNorm`.
      norm_eps: of the normalisations.
      embedding_channels: of the sinusoidal embedding, even, and at least 4; None for `channels`. What the blocks get is
        4 times as wide.
      freq_shift: of the embedding; see `embed.sinusoidal`.
      cos_first: likewise.

    Raises:
      InputError: a size that cannot be halved, missing or unexpected labels or other conditions, channels that cannot
        be split into heads.

    Source: Ho et al. 2020 (arXiv 2006.11239), appendix B; Dhariwal & Nichol 2021 (arXiv 2105.05233), section 3.
    """

    channels: int = 128
    multipliers: Sequence[int] = (1, 2, 2, 2)
    blocks: int = 2
    attention_resolutions: Sequence[int] = (16,)
    heads: int = 1
    head_channels: int | None = None
    scale_shift: bool = True
    resample_in_block: bool = True
    groups: int = 32
    attention_levels: Sequence[int] | None = None
    middle_attention: bool = True
    resample_conv: bool = True
    downsample_padding: tuple[int, int] = (0, 1)
    least_group: int = 2
    norm_eps: float = 1e-5
    embedding_channels: int | None = None
    freq_shift: float = 1.0
    cos_first: bool = False

    @nn.compact
    def __call__(
        self, x: Array, c_noise: Array, cond: Mapping[str, Array] | None = None, *, key: Array | None = None
    ) -> Array:
        """Apply the network.

        Args:
          x: `[B, ..., C]`.
          c_noise: `[B]`, what says how noisy x is: a step number, or a scaled time.
          cond: `label` int32 `[B]` in 0..num_classes where the network has classes; `image` `[B, ..., C']` to be
            concatenated to x as further channels.
          key: keys `[B]`, one per example, or one that stands for them: dropout is on. None: off.
        """
        *size, in_channels = x.shape[1:]
        levels = len(self.multipliers)
        check_size(size, levels=levels, network="UNet")
        x, labels = self.conditions(x, c_noise, cond)
        emb = embed_time(self, c_noise)
        emb = self.with_label(emb, labels)
        h, skips = encode(self, x, emb, key)

        def double(h: Array, level: int, name: str) -> Array:
            channels = self.multipliers[level] * self.channels
            if self.resample_in_block:
                return residual(self, h, emb, key, channels=channels, resample=upsample, name=name)
            if self.resample_conv:
                return conv(h, channels, double=True, dtype=self.dtype, name=name)
            return upsample(h)

        h = ascend(
            h, skips, levels=levels, blocks=self.blocks, double=double,
            join=lambda h, skip: jnp.concatenate([h, skip], axis=-1),
            block=lambda h, level, name: block(self, h, emb, key, level=level, name=name),
        )  # fmt: skip
        h = nn.silu(norm(self)(name="norm_out")(h.astype(wide(self.dtype))))
        return conv(h, self.out_channels or in_channels, dtype=h.dtype, zero=True, name="conv_out")


# Parts of a U-Net, made in the module that calls them; what they are, `net` says.


def norm(net: UNet) -> Callable[..., nn.Module]:
    """What makes its normalisations."""
    return partial(GroupNorm, net.groups, eps=net.norm_eps, least=net.least_group)


def embed_time(net: UNet, c_noise: Array) -> Array:
    """`[B]` -> what the blocks get of it, `[B, 4 embedding_channels]`."""
    width = net.embedding_channels or net.channels
    features = sinusoidal(c_noise, channels=width, freq_shift=net.freq_shift, cos_first=net.cos_first)
    return time_mlp(features, width=4 * width, dtype=net.dtype)


def residual(
    net: UNet,
    h: Array,
    emb: Array,
    key: Array | None,
    *,
    channels: int,
    name: str,
    resample: Callable[[Array], Array] | None = None,
) -> Array:
    """A residual block."""
    make = rematerialised(ResBlock, net.remat)
    made = make(
        channels, resample=resample, scale_shift=net.scale_shift, dropout=net.dropout, norm=norm(net), dtype=net.dtype,
        name=name,
    )  # fmt: skip
    return jnp.asarray(made(h, emb, key))


def attention(net: UNet, h: Array, *, name: str) -> Array:
    """Attention, in heads of `head_channels` if that is given."""
    heads = net.heads
    if net.head_channels is not None:
        heads = heads_of(h.shape[-1], net.head_channels, network="UNet", name=name)
    return jnp.asarray(AttentionBlock(heads, norm=norm(net), dtype=net.dtype, name=name)(h))


def block(net: UNet, h: Array, emb: Array, key: Array | None, *, level: int, name: str) -> Array:
    """A residual block of the level, and attention where it is asked for."""
    h = residual(net, h, emb, key, channels=net.multipliers[level] * net.channels, name=name)
    if net.attention_levels is not None:
        attends = level in net.attention_levels
    else:
        attends = min(h.shape[1:-1]) in net.attention_resolutions
    return attention(net, h, name=f"{name}_attention") if attends else h


def encode(net: UNet, x: Array, emb: Array, key: Array | None) -> tuple[Array, list[Array]]:
    """The first half, down to the end of the middle, and the feature maps before it."""

    def halve(h: Array, level: int, name: str) -> Array:
        channels = net.multipliers[level] * net.channels
        if net.resample_in_block:
            return residual(net, h, emb, key, channels=channels, resample=downsample, name=name)
        if net.resample_conv:
            padding = [net.downsample_padding] * (h.ndim - 2)
            return conv(h, channels, stride=2, padding=padding, dtype=net.dtype, name=name)
        return downsample(h)

    h = conv(x.astype(net.dtype), net.channels, dtype=net.dtype, name="conv_in")
    skips = descend(
        h, levels=len(net.multipliers), blocks=net.blocks, halve=halve,
        block=lambda h, level, name: block(net, h, emb, key, level=level, name=name),
    )  # fmt: skip
    h = residual(net, skips[-1], emb, key, channels=skips[-1].shape[-1], name="middle_0")
    h = attention(net, h, name="middle_attention") if net.middle_attention else h
    return residual(net, h, emb, key, channels=h.shape[-1], name="middle_1"), skips
