"""Settings of the networks with a transformer."""

import dataclasses
import math
from typing import Literal

from jaxdiff.config.networks.base import Model, Name, Rules


@dataclasses.dataclass(frozen=True)
class Transformer(Model):
    """What the networks with a transformer have."""

    depth: int = 12
    """Blocks of the transformer."""
    heads: int = 6
    """Attention heads."""
    mlp_ratio: float = 4.0
    """Width of the MLPs, in units of the transformer's."""
    mlp: Literal["gelu", "swiglu"] = "gelu"
    """The MLPs; swiglu has as many parameters."""
    norm: Literal["layer", "rms"] = "layer"
    """The normalisations of the transformer: by mean and deviation, or by the root mean square."""
    qk_norm: bool = False
    """Normalise queries and keys, for stable training of large networks."""
    rotary: bool = False
    """Turn queries and keys by their positions, instead of adding positions to the patches."""
    scan: bool = False
    """Stack the blocks' parameters and run them in a loop: compiles once, whatever the depth."""

    def rules(self) -> Rules:
        return super().rules() | {
            "depth": (self.depth >= 1, "at least 1"),
            "heads": (self.heads >= 1, "at least 1"),
            "mlp_ratio": (0 < self.mlp_ratio < math.inf, "a positive number"),
        }


def _heads(width: int, heads: int) -> tuple[bool, str]:
    return heads >= 1 and width % heads == 0, f"a divisor of the transformer's width, {width}"


def _rotary(width: int, model: Transformer) -> tuple[bool, str]:
    size = width // max(model.heads, 1)
    return not model.rotary or (size >= 4 and size % 2 == 0), "false, or heads of an even size, at least 4"


@dataclasses.dataclass(frozen=True)
class DiT(Transformer):
    """The diffusion transformer; see jaxdiff.models.DiT. Its sizes are in jaxdiff.models.DIT_SIZES; this is S."""

    network: Name = "dit"
    """Which one it is; what follows are its own settings."""
    width: int = 384
    """Channels of a patch."""
    patch: int = 2
    """Pixels of a patch, in height and width."""
    norm_eps: float = 1e-6
    """Added to the variance in the normalisations."""
    mlp_norm_eps: float | None = None
    """Of those before the MLPs; default `norm_eps`."""
    freq_shift: float = 0.0
    """Of the embedding of time: 0, but 1 in diffusers."""

    def rules(self) -> Rules:
        return super().rules() | {
            "width": (self.width >= 2 and self.width % 2 == 0, "a positive even number"),
            "heads": _heads(self.width, self.heads),
            "rotary": _rotary(self.width, self),
            "patch": (self.patch >= 1, "at least 1"),
            "norm_eps": (0 < self.norm_eps < math.inf, "a positive number"),
            "mlp_norm_eps": (self.mlp_norm_eps is None or 0 < self.mlp_norm_eps < math.inf, "a positive number"),
            "freq_shift": (0 <= self.freq_shift < 128, "0 or more, below 128"),
        }


@dataclasses.dataclass(frozen=True)
class UViT(Transformer):
    """A U-Net with a transformer as its lowest level, for large images; see jaxdiff.models.UViT."""

    network: Name = "uvit"
    """Which one it is; what follows are its own settings."""
    channels: int = 128
    """Channels of the first level."""
    multipliers: tuple[int, ...] = (1, 2, 4)
    """Channels of each level, in units of `channels`; each level halves the image. The last is the transformer."""
    blocks: int = 2
    """Residual blocks per level, down and up."""
    heads: int = 8
    """Attention heads."""
    patch: int = 1
    """Pixels of a patch, in height and width; above 1, no feature map is as large as the image."""
    dropout_resolution: int = 16
    """Feature maps up to this size have dropout."""
    groups: int = 32
    """Groups of the residual blocks' normalisations."""

    def rules(self) -> Rules:
        multipliers = min(self.multipliers, default=0) >= 1
        width = self.channels * self.multipliers[-1] if multipliers else 0
        return super().rules() | {
            "channels": (self.channels >= 4 and self.channels % 2 == 0, "an even number, at least 4"),
            "multipliers": (multipliers, "one or more positive numbers"),
            "blocks": (self.blocks >= 1, "at least 1"),
            "heads": _heads(width, self.heads),
            "rotary": _rotary(width, self),
            "patch": (self.patch >= 1, "at least 1"),
            "dropout_resolution": (self.dropout_resolution >= 0, "0 or more"),
            "groups": (self.groups >= 1, "at least 1"),
        }
