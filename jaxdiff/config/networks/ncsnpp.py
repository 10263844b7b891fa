"""Settings of DDPM++ and NCSN++."""

import dataclasses
import math
from typing import Literal

from jaxdiff.config.networks.base import Model, Name, Rules


@dataclasses.dataclass(frozen=True)
class NCSNpp(Model):
    """DDPM++ and NCSN++ of score_sde; see jaxdiff.models.NCSNpp."""

    network: Name = "ncsnpp"
    """Which one it is; what follows are its own settings."""
    channels: int = 128
    """Channels of the first level."""
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    """Channels of each level, in units of `channels`; each level halves the image."""
    blocks: int = 4
    """Residual blocks per level."""
    attention_resolutions: tuple[int, ...] = (16,)
    """Sizes of feature maps that get self-attention; the smallest has it anyway."""
    embedding: Literal["sinusoidal", "fourier"] = "sinusoidal"
    """Of what the network is told of the time: of steps 0 to 999, or of the logarithm of a noise level."""
    fourier_scale: float = 16.0
    """Standard deviation of the Fourier embedding's frequencies, which are drawn once and for all."""
    frequencies: tuple[float, ...] | None = None
    """In place of those, these frequencies, `channels` of them; an imported network has its own."""
    block: Literal["biggan", "ddpm"] = "biggan"
    """Resample inside residual blocks (biggan) or by separate convolutions (ddpm)."""
    fir: bool = False
    """Resample by the filter [1, 3, 3, 1] instead of by means and nearest neighbours."""
    progressive_input: Literal["none", "input_skip", "residual"] = "none"
    """The image, made smaller, comes in at every level: by a dense layer, or by strided convolutions."""
    progressive: Literal["none", "output_skip", "residual"] = "none"
    """The output is the sum of an image from each level, or made by convolutions from level to level."""
    skip_rescale: bool = True
    """Divide sums of two branches by sqrt(2)."""

    @property
    def told_logarithms(self) -> bool:
        return self.embedding == "fourier"

    def rules(self) -> Rules:
        own = self.frequencies
        return super().rules() | {
            "channels": (self.channels >= 4 and self.channels % 4 == 0, "a positive multiple of 4"),
            "multipliers": (min(self.multipliers, default=0) >= 1, "one or more positive numbers"),
            "blocks": (self.blocks >= 1, "at least 1"),
            "fourier_scale": (0 < self.fourier_scale < math.inf, "a positive number"),
            "frequencies": (
                own is None
                or (self.embedding == "fourier" and len(own) == self.channels and all(map(math.isfinite, own))),
                "of the fourier embedding, as many numbers as channels",
            ),
        }
