"""DDPM++ and NCSN++, the U-Nets of score-based models in continuous time, by arguments."""

import math
from collections.abc import Mapping, Sequence
from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.models.attention import AttentionBlock
from jaxdiff.models.embed import check_words, fourier, normal_frequencies, sinusoidal, time_mlp
from jaxdiff.models.layers import GroupNorm, ResBlock, conv, init_default, rematerialised, scaled, wide
from jaxdiff.models.levels import check_size
from jaxdiff.models.network import Network
from jaxdiff.models.resampling import FIR, downsample, fir_downsample, fir_upsample, upfirdn, upsample
from jaxdiff.typing import Array, InputError

CHOICES = {
    "embedding": ("sinusoidal", "fourier"),
    "block": ("biggan", "ddpm"),
    "progressive_input": ("none", "input_skip", "residual"),
    "progressive": ("none", "output_skip", "residual"),
}
"""What the arguments in words may be."""


class NCSNpp(Network):
    """A U-Net `(x [B, ..., C], c_noise [B], cond) -> [B, ..., out_channels]`, float32 out (float64 of that `dtype`).

    The defaults are DDPM++ of CIFAR-10. NCSN++ of CIFAR-10 has embedding "fourier", `fir` and progressive_input
    "residual"; of larger images progressive_input "input_skip" and progressive "output_skip".

    x is a batch of sequences, images or videos, as of `UNet`, from which it differs: sums are divided by sqrt(2);
    attention is in every block on the way down, but on the way up after the last block of a level alone; the image
    itself, made smaller, may come in at every level, and the output may be a sum over levels.

    Attributes, beside those of `Network`:
      channels: of the first level.
      multipliers: channels of each level, in units of `channels`; one level is half as high and wide as the one before.
      blocks: residual blocks per level on the way down; one more on the way up.
      attention_resolutions: feature maps whose smallest side is one of these get attention; the smallest has it anyway.
      embedding: of c_noise: "sinusoidal", of steps 0..999, or "fourier", of the logarithm of a noise level.
      fourier_scale: standard deviation of the Fourier embedding's frequencies.
      frequencies: these frequencies themselves, `channels` of them, for a network that has its own; None: drawn, the
        same ones always. They are constants: no parameters, so that nothing trains, decays or averages them.
      block: "biggan", whose skip has a dense layer wherever it resamples or changes channels, or "ddpm", with
        convolutions that resample between the blocks.
      fir: resample by the filter [1, 3, 3, 1] instead of by means and nearest neighbours.
      progressive_input: how the smaller image comes in: "none"; "input_skip", by a dense layer; "residual", by
        strided convolutions, each of the sum before.
      progressive: how the output is made: "none", at the first level; "output_skip", as the sum of an image from each
        level, made larger; "residual", by convolutions, each of the sum before.
      skip_rescale: divide sums of two branches by sqrt(2), so that their variance stays.

    Raises:
      InputError: an argument that is none of its words, another number of frequencies, a size that cannot be halved,
        missing or unexpected labels or other conditions.

    Source: Song et al. 2021 (arXiv 2011.13456), appendix H; labels as in Karras et al. 2022 (arXiv 2206.00364).
    """

    channels: int = 128
    multipliers: Sequence[int] = (1, 2, 2, 2)
    blocks: int = 4
    attention_resolutions: Sequence[int] = (16,)
    embedding: str = "sinusoidal"
    fourier_scale: float = 16.0
    frequencies: Sequence[float] | None = None
    block: str = "biggan"
    fir: bool = False
    progressive_input: str = "none"
    progressive: str = "none"
    skip_rescale: bool = True

    @nn.compact
    def __call__(
        self, x: Array, c_noise: Array, cond: Mapping[str, Array] | None = None, *, key: Array | None = None
    ) -> Array:
        """Apply the network, as `UNet.__call__`; what c_noise is, `embedding` says."""
        self._check()
        *size, in_channels = x.shape[1:]
        last = len(self.multipliers) - 1
        check_size(size, levels=last + 1, network="NCSNpp")
        x, labels = self.conditions(x, c_noise, cond)

        factor = 1 / math.sqrt(2) if self.skip_rescale else 1.0
        norm = partial(GroupNorm, 32, eps=1e-6, least=4)
        plain = partial(conv, dtype=self.dtype)
        block = partial(
            rematerialised(ResBlock, self.remat),
            scale_shift=False, dropout=self.dropout, norm=norm, dtype=self.dtype, resample_dense=True, factor=factor,
        )  # fmt: skip
        smaller, larger = (fir_downsample, fir_upsample) if self.fir else (downsample, upsample)

        def conv_smaller(h: Array, channels: int, name: str) -> Array:
            if self.fir:
                return plain(upfirdn(h, FIR, padding=(2, 2)), channels, stride=2, padding="VALID", name=name)
            return plain(h, channels, stride=2, padding=[(0, 1)] * len(size), name=name)

        def conv_larger(h: Array, channels: int, name: str) -> Array:
            if self.fir:
                return plain(fir_upsample(h, more=1), channels, padding="VALID", name=name)
            return plain(h, channels, double=True, name=name)

        def attend(h: Array, name: str) -> Array:
            return AttentionBlock(norm=norm, dtype=self.dtype, factor=factor, name=name)(h)

        def attend_here(h: Array, name: str) -> Array:
            return attend(h, name) if min(h.shape[1:-1]) in self.attention_resolutions else h

        def output(h: Array, end: str) -> Array:
            h = nn.silu(norm(name=f"norm_{end}")(h.astype(wide(self.dtype))))
            return conv(h, self.out_channels or in_channels, dtype=h.dtype, zero=True, name=f"conv_{end}")

        emb = self._embed(c_noise, labels)
        x = x.astype(self.dtype)
        h, image = plain(x, self.channels, name="conv_in"), x
        skips = [h]
        for level, multiplier in enumerate(self.multipliers):
            channels = multiplier * self.channels
            for i in range(self.blocks):
                h = block(channels, name=f"down_{level}_{i}")(h, emb, key)
                h = attend_here(h, f"down_{level}_{i}_attention")
                skips.append(h)
            if level < last:
                if self.block == "biggan":
                    h = block(channels, resample=smaller, name=f"down_{level}")(h, emb, key)
                else:
                    h = conv_smaller(h, channels, f"down_{level}")
                if self.progressive_input == "input_skip":
                    image = smaller(image)
                    h = h + nn.Dense(channels, dtype=self.dtype, kernel_init=init_default, name=f"input_{level}")(image)
                elif self.progressive_input == "residual":
                    h = image = scaled(h + conv_smaller(image, channels, f"input_{level}"), factor)
                skips.append(h)

        h = block(h.shape[-1], name="middle_0")(h, emb, key)
        h = attend(h, "middle_attention")
        h = block(h.shape[-1], name="middle_1")(h, emb, key)

        image = jnp.zeros((), h.dtype)  # what will come out, level by level
        for level, multiplier in reversed(list(enumerate(self.multipliers))):
            channels = multiplier * self.channels
            for i in range(self.blocks + 1):
                h = block(channels, name=f"up_{level}_{i}")(jnp.concatenate([h, skips.pop()], axis=-1), emb, key)
            h = attend_here(h, f"up_{level}_attention")
            if self.progressive == "output_skip":
                image = output(h, f"out_{level}") + (larger(image) if level < last else 0)
            elif self.progressive == "residual" and level == last:
                image = plain(nn.silu(norm(name=f"norm_output_{level}")(h)), channels, name=f"output_{level}")
            elif self.progressive == "residual":
                h = image = scaled(h + conv_larger(image, channels, f"output_{level}"), factor)
            if level > 0:
                if self.block == "biggan":
                    h = block(channels, resample=larger, name=f"up_{level}")(h, emb, key)
                else:
                    h = conv_larger(h, channels, f"up_{level}")
        return image if self.progressive == "output_skip" else output(h, "out")

    def _embed(self, c_noise: Array, labels: Array | None) -> Array:
        """What the blocks get of the noise level and the labels."""
        if self.embedding == "fourier":
            drawn = normal_frequencies(self.channels, scale=self.fourier_scale)
            emb = fourier(c_noise, drawn if self.frequencies is None else self.frequencies)
        else:
            emb = sinusoidal(c_noise, channels=self.channels)
        emb = self.with_label(emb, labels)
        return time_mlp(emb, width=4 * self.channels, dtype=self.dtype)

    def _check(self) -> None:
        check_words("NCSNpp", {name: getattr(self, name) for name in CHOICES}, CHOICES)
        if self.frequencies is not None and len(self.frequencies) != self.channels:
            raise InputError(
                f"NCSNpp: {len(self.frequencies)} frequencies; expected as many as channels, {self.channels}"
            )
