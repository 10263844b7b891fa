"""Settings of EDM2's magnitude-preserving U-Net."""

import dataclasses
from typing import ClassVar

from jaxdiff.config.networks.base import Model, Name, Rules


@dataclasses.dataclass(frozen=True)
class EDM2UNet(Model):
    """The magnitude-preserving U-Net of EDM2; see jaxdiff.models.EDM2UNet. Give it --diffusion.preconditioning edm."""

    forced_weight_norm: ClassVar[bool] = True

    network: Name = "edm2"
    """Which one it is; what follows are its own settings."""
    channels: int = 192
    """Channels of the first level: 128 (XS), 192 (S), 256 (M), 320 (L), 384 (XL), 448 (XXL)."""
    multipliers: tuple[int, ...] = (1, 2, 3, 4)
    """Channels of each level, in units of `channels`; each level halves the image."""
    blocks: int = 3
    """Residual blocks per level."""
    attention_resolutions: tuple[int, ...] = (16, 8)
    """Sizes of feature maps that get self-attention (the smallest has it in the middle)."""
    head_channels: int = 64
    """Channels per attention head."""
    residual_balance: float = 0.3
    """Share of the branch in the sums that end residual blocks and attention, from 0 to 1."""
    concat_balance: float = 0.5
    """Share of the way down in the concatenations on the way up."""
    label_balance: float = 0.5
    """Share of the label in the embedding."""

    @property
    def told_logarithms(self) -> bool:
        return True

    def rules(self) -> Rules:
        share = "a share from 0 to 1"
        return super().rules() | {
            "channels": (self.channels >= 1, "at least 1"),
            "multipliers": (min(self.multipliers, default=0) >= 1, "one or more positive numbers"),
            "blocks": (self.blocks >= 1, "at least 1"),
            "head_channels": (self.head_channels >= 1, "at least 1"),
            "residual_balance": (0 <= self.residual_balance <= 1, share),
            "concat_balance": (0 <= self.concat_balance <= 1, share),
            "label_balance": (0 <= self.label_balance <= 1, share),
        }
