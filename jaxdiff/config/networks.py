"""The settings of each network, and what they may be. `Config.model` is one of these."""

import dataclasses
import math
from typing import Any, ClassVar, Literal

Rules = dict[str, tuple[bool, str]]
"""By field: whether its value will do, and what is expected."""


@dataclasses.dataclass(frozen=True)
class Model:
    """What every network has."""

    forced_weight_norm: ClassVar[bool] = False
    """Its kernels have no say in their norm, which training should keep; see jaxdiff.train.normalized."""

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
class LucidrainsUNet(Model):
    """The U-Net of lucidrains' denoising-diffusion-pytorch; see jaxdiff.models.LucidrainsUNet."""

    network: Literal["lucidrains"] = "lucidrains"
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


@dataclasses.dataclass(frozen=True)
class NCSNpp(Model):
    """DDPM++ and NCSN++ of score_sde; see jaxdiff.models.NCSNpp."""

    network: Literal["ncsnpp"] = "ncsnpp"
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


@dataclasses.dataclass(frozen=True)
class EDM2UNet(Model):
    """The magnitude-preserving U-Net of EDM2; see jaxdiff.models.EDM2UNet. Give it --diffusion.preconditioning edm."""

    forced_weight_norm: ClassVar[bool] = True

    network: Literal["edm2"] = "edm2"
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


Network = UNet | LucidrainsUNet | NCSNpp | EDM2UNet
"""Any of them. A config file chooses, or `--model.network NAME`; then the flags are its own."""

NETWORKS: dict[str, Any] = {"unet": UNet, "lucidrains": LucidrainsUNet, "ncsnpp": NCSNpp, "edm2": EDM2UNet}
