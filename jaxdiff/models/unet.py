"""The U-Net of DDPM and ADM (guided diffusion), by arguments."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.models.embed import conditions, sinusoidal
from jaxdiff.models.layers import Attention, GroupNorm, ResBlock, conv, init_default, wide
from jaxdiff.models.resampling import downsample, upsample
from jaxdiff.typing import Array, InputError


class UNet(nn.Module):
    """A U-Net `(x [B, ..., C], c_noise [B], cond) -> [B, ..., out_channels]`, float32 out (float64 of that `dtype`).

    x is a batch of sequences `[B, L, C]`, images `[B, H, W, C]` or videos `[B, T, H, W, C]`, whose sizes must be
    divisible by 2^(levels - 1); nothing else is asked of them. The defaults are ADM's and, where that is said, DDPM's;
    networks of diffusers (`UNet2DModel`) and guided-diffusion are this one with other arguments.

    Attributes:
      channels: of the first level.
      multipliers: channels of each level, in units of `channels`; one level is half as high and wide as the one before.
      blocks: residual blocks per level on the way down; one more on the way up.
      attention_resolutions: feature maps whose smallest side is one of these get attention. One that no level has is
        ignored, so that a configuration serves images of several sizes.
      heads: attention heads; or, where `head_channels` is given, as many as make heads of that size.
      scale_shift: embeddings scale and shift (ADM) instead of being added (DDPM).
      resample_in_block: up- and down-sampling inside residual blocks (ADM) instead of by a strided convolution
        and by a convolution after nearest neighbour (DDPM).
      dropout: rate, on where a `key` is given.
      groups: of the normalisations.
      num_classes: None, or the number of labels.
      out_channels: None for those of x; twice as many for a learned variance.
      dtype: of the computation; parameters, normalisation statistics and the output are float32 whatever it is (but for
        float64, which is for comparisons: then all but the parameters is).
      remat: recompute the activations of residual blocks in the backward pass: less memory, about a third more time.
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
      null_label: label `num_classes` is the null label of unconditional prediction; else there is none.

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
    dropout: float = 0.0
    groups: int = 32
    num_classes: int | None = None
    out_channels: int | None = None
    dtype: Any = jnp.float32
    remat: bool = False
    attention_levels: Sequence[int] | None = None
    middle_attention: bool = True
    resample_conv: bool = True
    downsample_padding: tuple[int, int] = (0, 1)
    least_group: int = 2
    norm_eps: float = 1e-5
    embedding_channels: int | None = None
    freq_shift: float = 1.0
    cos_first: bool = False
    null_label: bool = True

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
        check_size(size, levels=len(self.multipliers))
        x, labels = conditions(x, cond, num_classes=self.num_classes, network="UNet")

        norm = partial(GroupNorm, self.groups, eps=self.norm_eps, least=self.least_group)
        block = partial(
            nn.remat(ResBlock) if self.remat else ResBlock,
            scale_shift=self.scale_shift, dropout=self.dropout, norm=norm, dtype=self.dtype,
        )  # fmt: skip
        width = self.embedding_channels or self.channels
        dense = partial(nn.Dense, 4 * width, dtype=self.dtype, kernel_init=init_default)

        def attend(h: Array, name: str) -> Array:
            heads, channels, size = self.heads, h.shape[-1], self.head_channels
            if size is not None:
                if size < 1 or channels % size:
                    raise InputError(f"UNet: {channels} channels of {name} make no heads of head_channels = {size}")
                heads = channels // size
            return Attention(heads, norm=norm, dtype=self.dtype, name=name)(h)

        def attends(h: Array, level: int) -> bool:
            if self.attention_levels is not None:
                return level in self.attention_levels
            return min(h.shape[1:-1]) in self.attention_resolutions

        emb = sinusoidal(c_noise, channels=width, freq_shift=self.freq_shift, cos_first=self.cos_first)
        emb = dense(name="time_2")(nn.silu(dense(name="time_1")(emb)))
        if labels is not None:
            rows = (self.num_classes or 0) + self.null_label
            emb = emb + nn.Embed(rows, 4 * width, dtype=self.dtype, name="label")(labels)

        h = conv(x.astype(self.dtype), self.channels, dtype=self.dtype, name="conv_in")
        skips = [h]
        last = len(self.multipliers) - 1
        for level, multiplier in enumerate(self.multipliers):
            channels = multiplier * self.channels
            for i in range(self.blocks):
                h = block(channels, name=f"down_{level}_{i}")(h, emb, key)
                h = attend(h, f"down_{level}_{i}_attention") if attends(h, level) else h
                skips.append(h)
            if level < last:
                if self.resample_in_block:
                    h = block(channels, resample=downsample, name=f"down_{level}")(h, emb, key)
                elif self.resample_conv:
                    padding = [self.downsample_padding] * len(size)
                    h = conv(h, channels, stride=2, padding=padding, dtype=self.dtype, name=f"down_{level}")
                else:
                    h = downsample(h)
                skips.append(h)

        h = block(h.shape[-1], name="middle_0")(h, emb, key)
        h = attend(h, "middle_attention") if self.middle_attention else h
        h = block(h.shape[-1], name="middle_1")(h, emb, key)

        for level, multiplier in reversed(list(enumerate(self.multipliers))):
            channels = multiplier * self.channels
            for i in range(self.blocks + 1):
                h = block(channels, name=f"up_{level}_{i}")(jnp.concatenate([h, skips.pop()], axis=-1), emb, key)
                h = attend(h, f"up_{level}_{i}_attention") if attends(h, level) else h
            if level > 0:
                if self.resample_in_block:
                    h = block(channels, resample=upsample, name=f"up_{level}")(h, emb, key)
                else:
                    h = upsample(h)
                    h = conv(h, channels, dtype=self.dtype, name=f"up_{level}") if self.resample_conv else h

        h = nn.silu(norm(name="norm_out")(h.astype(wide(self.dtype))))
        return conv(h, self.out_channels or in_channels, dtype=h.dtype, zero=True, name="conv_out")


def check_size(size: Sequence[int], *, levels: int, network: str = "UNet", patch: int = 1) -> None:
    """Raise `InputError` where an image, or other data of this size, does not make patches, or these cannot be halved
    `levels - 1` times.

    >>> check_size((8, 12), levels=3)
    >>> check_size((28, 28), levels=4)
    Traceback (most recent call last):
    ...
    jaxdiff.typing.InputError: UNet: 4 levels halve the image 3 times, so its size must be divisible by 8; got 28x28. \
Use fewer multipliers, or pad or resize the images.
    """
    factor = patch * 2 ** (levels - 1)
    if patch < 1 or any(n % factor for n in size):
        patches = f", in patches of {patch}," if patch != 1 else ""
        raise InputError(
            f"{network}: {levels} levels halve the image{patches} {levels - 1} times, so its size must be divisible by "
            f"{factor}; got {'x'.join(map(str, size))}. Use fewer multipliers, or pad or resize the images."
        )
