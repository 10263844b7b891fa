"""The settings of each network, and what they may be. `Config.model` is one of these."""

import dataclasses
import math
from typing import Any, Literal

Rules = dict[str, tuple[bool, str]]
"""By field: whether its value will do, and what is expected."""


@dataclasses.dataclass(frozen=True)
class Model:
    """What every network has."""

    network: str = ""
    """Which one it is; what follows are its own settings."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the computation; parameters, normalisation and output are float32."""
    dropout: float = 0.0
    """Dropout rate in training."""
    remat: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    null_label: bool = True
    """A label more, of hidden ones; without it nothing can be guided, and --train.label-dropout must be 0."""
    lora_rank: int = 0
    """Train a low-rank adaptation of the attention alone, of this rank; 0: train everything (but optim.frozen)."""

    def rules(self) -> Rules:
        """What the fields of this network may be."""
        return {
            "dropout": (0 <= self.dropout < 1, "0 <= rate < 1"),
            "lora_rank": (self.lora_rank >= 0, "0 or more"),
        }


@dataclasses.dataclass(frozen=True)
class UNet(Model):
    """The U-Net of DDPM and ADM; see jaxdiff.models.UNet."""

    network: Literal["unet"] = "unet"
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

    network: Literal["dit"] = "dit"
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

    network: Literal["uvit"] = "uvit"
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


Network = UNet | DiT | UViT
"""Any of them. A config file chooses, or `--model.network NAME`; then the flags are its own."""

NETWORKS: dict[str, Any] = {"unet": UNet, "dit": DiT, "uvit": UViT}
