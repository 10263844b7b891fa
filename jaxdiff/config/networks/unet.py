"""Settings of the U-Net."""

import dataclasses
import math

from jaxdiff.config.networks.base import Model, Name, Rules


@dataclasses.dataclass(frozen=True)
class UNet(Model):
    """The U-Net of DDPM and ADM; see jaxdiff.models.UNet."""

    network: Name = "unet"
    """Which one it is; what follows are its own settings."""
    channels: int = 128
    """Channels of the first level."""
    embedding_channels: int | None = None
    """Channels of the embedding of time; default `channels`."""
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    """Channels of each level, in units of `channels`; each level halves the image."""
    blocks: int = 2
    """Residual blocks per level."""
    attention_resolutions: tuple[int, ...] = (16,)
    """Sizes of feature maps that get self-attention (the smallest has it by `middle_attention`)."""
    attention_levels: tuple[int, ...] | None = None
    """Levels that get self-attention, from 0, in place of `attention_resolutions`."""
    middle_attention: bool = True
    """Self-attention at the smallest feature map."""
    heads: int = 1
    """Attention heads."""
    head_channels: int | None = None
    """Channels per head, instead of the number of heads."""
    scale_shift: bool = True
    """Embeddings scale and shift the normalisation (ADM) instead of being added (DDPM)."""
    resample_in_block: bool = True
    """Resample inside residual blocks (ADM) instead of by separate convolutions (DDPM)."""
    resample_conv: bool = True
    """Without resample_in_block: False resamples by means and nearest neighbours alone."""
    downsample_padding: tuple[int, int] = (0, 1)
    """Of the strided convolution, before and after the image."""
    groups: int = 32
    """Groups of the normalisations."""
    least_group: int = 2
    """The fewest channels of a group."""
    norm_eps: float = 1e-5
    """Added to the variance in the normalisations."""
    freq_shift: float = 1.0
    """Of the sinusoidal embedding: 1 in DDPM, 0 in guided diffusion."""
    cos_first: bool = False
    """Cosines before sines in the embedding, as in guided diffusion."""

    def rules(self) -> Rules:
        embedding = self.embedding_channels
        return super().rules() | {
            "channels": (self.channels >= 4 and self.channels % 4 == 0, "a positive multiple of 4"),
            "multipliers": (min(self.multipliers, default=0) >= 1, "one or more positive numbers"),
            "blocks": (self.blocks >= 1, "at least 1"),
            "groups": (self.groups >= 1, "at least 1"),
            "heads": (self.heads >= 1, "at least 1"),
            "least_group": (self.least_group >= 1, "at least 1"),
            "norm_eps": (0 < self.norm_eps < math.inf, "a positive number"),
            "embedding_channels": (
                embedding is None or (embedding >= 4 and embedding % 2 == 0),
                "an even number, at least 4",
            ),
            "freq_shift": (
                0 <= self.freq_shift < (embedding or self.channels) // 2,
                "0 or more, and below half of the channels of the embedding",
            ),
            "downsample_padding": (self.downsample_padding in ((0, 1), (1, 1)), "0 1 or 1 1"),
            "attention_levels": (
                all(0 <= level < len(self.multipliers) for level in self.attention_levels or ()),
                "levels from 0, as many as multipliers",
            ),
        }
