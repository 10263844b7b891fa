"""The U-Net of DDPM and ADM (guided diffusion), by arguments."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.models.embed import sinusoidal
from jaxdiff.models.layers import Attention, GroupNorm, ResBlock, conv3x3, downsample, init_default, upsample
from jaxdiff.typing import Array, InputError


class UNet(nn.Module):
    """A U-Net `(x [B, H, W, C], c_noise [B], cond) -> [B, H, W, out_channels]`, float32 out.

    H and W must be divisible by 2^(levels - 1); nothing else is asked of them.

    Attributes:
      channels: of the first level; even, and at least 4. The embedding has 4 times as many.
      multipliers: channels of each level, in units of `channels`; one level is half as high and wide as the one before.
      blocks: residual blocks per level on the way down; one more on the way up.
      attention_resolutions: feature maps whose smaller side is one of these get attention, as does the middle. One
        that no level has is ignored, so that a configuration serves images of several sizes.
      heads: attention heads; or, where `head_channels` is given, as many as make heads of that size.
      scale_shift: embeddings scale and shift (ADM) instead of being added (DDPM).
      resample_in_block: up- and down-sampling inside residual blocks (ADM) instead of by a strided convolution
        and by a convolution after nearest neighbour (DDPM).
      dropout: rate, on where a `key` is given.
      groups: of the normalisations.
      num_classes: None, or the number of labels; label `num_classes` is the null label of unconditional prediction.
      out_channels: None for those of x; twice as many for a learned variance.
      dtype: of the computation; parameters, normalisation statistics and the output are float32 whatever it is.
      remat: recompute the activations of residual blocks in the backward pass: less memory, about a third more time.

    Raises:
      InputError: H or W that cannot be halved, missing or unexpected labels or other conditions, channels that cannot
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

    @nn.compact
    def __call__(
        self, x: Array, c_noise: Array, cond: Mapping[str, Array] | None = None, *, key: Array | None = None
    ) -> Array:
        """Apply the network.

        Args:
          x: `[B, H, W, C]`.
          c_noise: `[B]`, what says how noisy x is: a step number, or a scaled time.
          cond: `label` int32 `[B]` in 0..num_classes where the network has classes; `image` `[B, H, W, C']` to be
            concatenated to x as further channels.
          key: keys `[B]`, one per example, or one that stands for them: dropout is on. None: off.
        """
        cond = cond or {}
        height, width, in_channels = x.shape[1:]
        check_size(height, width, levels=len(self.multipliers))
        if (self.num_classes is not None) != ("label" in cond):
            expected = "labels" if self.num_classes is not None else "no labels (num_classes is None)"
            raise InputError(f"UNet: this network takes {expected}; cond has {sorted(cond) or 'nothing'}")
        if set(cond) - {"label", "image"}:
            raise InputError(f"UNet: cond may have 'label' and 'image'; got {sorted(cond)}")

        block = partial(
            nn.remat(ResBlock) if self.remat else ResBlock,
            scale_shift=self.scale_shift, dropout=self.dropout, groups=self.groups, dtype=self.dtype,
        )  # fmt: skip
        dense = partial(nn.Dense, 4 * self.channels, dtype=self.dtype, kernel_init=init_default)

        def attend(h: Array, name: str, always: bool = False) -> Array:
            if not always and min(h.shape[1:3]) not in self.attention_resolutions:
                return h
            heads, channels, size = self.heads, h.shape[-1], self.head_channels
            if size is not None:
                if size < 1 or channels % size:
                    raise InputError(f"UNet: {channels} channels of {name} make no heads of head_channels = {size}")
                heads = channels // size
            return Attention(heads, groups=self.groups, dtype=self.dtype, name=name)(h)

        emb = dense(name="time_1")(sinusoidal(c_noise, channels=self.channels))
        emb = dense(name="time_2")(nn.silu(emb))
        if self.num_classes is not None:
            embed = nn.Embed(self.num_classes + 1, 4 * self.channels, dtype=self.dtype, name="label")
            emb = emb + embed(cond["label"])

        if "image" in cond:
            x = jnp.concatenate([x, cond["image"].astype(x.dtype)], axis=-1)
        h = conv3x3(self.channels, dtype=self.dtype, name="conv_in")(x.astype(self.dtype))
        skips = [h]
        last = len(self.multipliers) - 1
        for level, multiplier in enumerate(self.multipliers):
            channels = multiplier * self.channels
            for i in range(self.blocks):
                h = block(channels, name=f"down_{level}_{i}")(h, emb, key)
                h = attend(h, f"down_{level}_{i}_attention")
                skips.append(h)
            if level < last:
                if self.resample_in_block:
                    h = block(channels, resample=downsample, name=f"down_{level}")(h, emb, key)
                else:
                    h = conv3x3(channels, stride=2, dtype=self.dtype, name=f"down_{level}")(h)
                skips.append(h)

        h = block(h.shape[-1], name="middle_0")(h, emb, key)
        h = attend(h, "middle_attention", always=True)
        h = block(h.shape[-1], name="middle_1")(h, emb, key)

        for level, multiplier in reversed(list(enumerate(self.multipliers))):
            channels = multiplier * self.channels
            for i in range(self.blocks + 1):
                h = block(channels, name=f"up_{level}_{i}")(jnp.concatenate([h, skips.pop()], axis=-1), emb, key)
                h = attend(h, f"up_{level}_{i}_attention")
            if level > 0:
                if self.resample_in_block:
                    h = block(channels, resample=upsample, name=f"up_{level}")(h, emb, key)
                else:
                    h = conv3x3(channels, dtype=self.dtype, name=f"up_{level}")(upsample(h))

        h = nn.silu(GroupNorm(self.groups, name="norm_out")(h.astype(jnp.float32)))
        out_channels = self.out_channels or in_channels
        return conv3x3(out_channels, dtype=jnp.float32, zero=True, name="conv_out")(h)


def check_size(height: int, width: int, *, levels: int) -> None:
    """Raise `InputError` where an image cannot be halved `levels - 1` times.

    >>> check_size(8, 12, levels=3)
    >>> check_size(28, 28, levels=4)
    Traceback (most recent call last):
    ...
    jaxdiff.typing.InputError: UNet: 4 levels halve the image 3 times, so height and width must be divisible by 8; \
got 28x28. Use fewer multipliers, or pad or resize the images.
    """
    factor = 2 ** (levels - 1)
    if height % factor or width % factor:
        raise InputError(
            f"UNet: {levels} levels halve the image {levels - 1} times, so height and width must be divisible by "
            f"{factor}; got {height}x{width}. Use fewer multipliers, or pad or resize the images."
        )
