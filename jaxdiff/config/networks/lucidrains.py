"""Settings of lucidrains' U-Net."""

import dataclasses
import math
from typing import Literal

from jaxdiff.config.networks.base import Model, Name, Rules


@dataclasses.dataclass(frozen=True)
class LucidrainsUNet(Model):
    """The U-Net of lucidrains' denoising-diffusion-pytorch; see jaxdiff.models.LucidrainsUNet."""

    network: Name = "lucidrains"
    """Which one it is; what follows are its own settings."""
    channels: int = 64
    """The unit of channels."""
    first_channels: int | None = None
    """Channels of the first convolution; default `channels`."""
    multipliers: tuple[int, ...] = (1, 2, 4, 8)
    """Channels that each level hands on, in units of `channels`; each level halves the image."""
    full_attention_levels: tuple[int, ...] | None = None
    """Levels with full attention, from 0, the others having linear attention; default the last alone."""
    heads: int = 4
    """Attention heads."""
    head_channels: int = 32
    """Channels per head."""
    memories: int = 4
    """Learned keys and values of each attention."""
    frequencies: Literal["fixed", "learned", "random"] = "fixed"
    """Of the embedding of time: sinusoidal, or Fourier features that are trained or stay as they were drawn."""
    fourier_channels: int = 16
    """Channels of the Fourier features."""
    max_period: float = 10_000.0
    """Of the sinusoidal embedding."""

    def rules(self) -> Rules:
        full, first = self.full_attention_levels, self.first_channels
        return super().rules() | {
            "channels": (self.channels >= 4 and self.channels % 2 == 0, "an even number, at least 4"),
            "first_channels": (first is None or first >= 1, "at least 1"),
            "multipliers": (min(self.multipliers, default=0) >= 1, "one or more positive numbers"),
            "full_attention_levels": (
                all(0 <= level < len(self.multipliers) for level in full or ()),
                "levels from 0, as many as multipliers",
            ),
            "heads": (self.heads >= 1, "at least 1"),
            "head_channels": (self.head_channels >= 1, "at least 1"),
            "memories": (self.memories >= 0, "0 or more"),
            "fourier_channels": (
                self.fourier_channels >= 2 and self.fourier_channels % 2 == 0,
                "an even number, at least 2",
            ),
            "max_period": (0 < self.max_period < math.inf, "a positive number"),
        }
