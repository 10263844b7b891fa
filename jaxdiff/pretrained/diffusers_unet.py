"""`UNet2DModel` of diffusers as a `UNet` of ours, and back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict

from jaxdiff import build
from jaxdiff.config import Diffusion, UNet
from jaxdiff.models.layers import group_count
from jaxdiff.pretrained.matching import Place, block_places
from jaxdiff.schedules import require
from jaxdiff.typing import InputError, PyTree

ARGUMENTS: dict[str, Any] = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [224, 448, 672, 896],
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "dropout": 0.0,
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
    "num_train_timesteps": None,
}
"""Of UNet2DModel, with their defaults, which the files of old versions leave out."""


def network(a: Mapping[str, Any], path: Path) -> tuple[UNet, build.Spec, bool]:
    """Our arguments from theirs."""
    widths, down, up = a["block_out_channels"], a["down_block_types"], a["up_block_types"]
    levels = range(len(down))
    attention = [i for i in levels if down[i] == "AttnDownBlock2D"]
    resample = {
        *(_RESAMPLE[kind](a["downsample_type"]) for kind in down[:-1] if kind in _RESAMPLE),
        *(_RESAMPLE[kind](a["upsample_type"]) for kind in up[:-1] if kind in _RESAMPLE),
    }
    size = a["sample_size"]
    checks = {
        "sample_size": size is not None,
        "layers_per_block": 1 <= a["layers_per_block"] <= 64,
        "block_out_channels": len(widths) == len(down) <= 16 and all(width % widths[0] == 0 for width in widths),
        "down_block_types": all(kind in _RESAMPLE and kind not in _UP for kind in down),
        "up_block_types": len(up) == len(down)
        and all(_UP.get(kind) == (i in attention) for i, kind in zip(levels, reversed(up))),
        "downsample_type": len(resample) <= 1 and resample <= {"conv", "resnet"},
        "center_input_sample": not a["center_input_sample"],
        "time_embedding_type": a["time_embedding_type"] == "positional",
        "time_embedding_dim": a["time_embedding_dim"] in (None, 4 * widths[0]),
        "mid_block_type": a["mid_block_type"] == "UNetMidBlock2D",
        "mid_block_scale_factor": a["mid_block_scale_factor"] == 1,
        "downsample_padding": a["downsample_padding"] in (0, 1),
        "norm_num_groups": all(width % a["norm_num_groups"] == 0 for width in widths),
        "act_fn": a["act_fn"] in ("silu", "swish"),
        "resnet_time_scale_shift": a["resnet_time_scale_shift"] in ("default", "scale_shift"),
        "class_embed_type": a["class_embed_type"] is None,
        "out_channels": a["out_channels"] in (a["in_channels"], 2 * a["in_channels"]),
        "attn_norm_num_groups": a["attn_norm_num_groups"] == a["norm_num_groups"]
        or (a["attn_norm_num_groups"] is None and a["resnet_time_scale_shift"] == "default"),
    }
    faults = [f"{name} {a[name]!r}" for name, fine in checks.items() if not fine]
    if faults:
        raise InputError(f"{path}: a UNet2DModel that has no counterpart here: {', '.join(faults)}")
    model = UNet(
        channels=widths[0],
        multipliers=tuple(width // widths[0] for width in widths),
        blocks=a["layers_per_block"],
        attention_levels=tuple(attention),
        middle_attention=a["add_attention"],
        head_channels=a["attention_head_dim"],
        scale_shift=a["resnet_time_scale_shift"] == "scale_shift",
        resample_in_block=resample == {"resnet"},
        downsample_padding=(a["downsample_padding"], 1),
        dropout=a["dropout"],
        groups=a["norm_num_groups"],
        least_group=1,
        norm_eps=a["norm_eps"],
        freq_shift=float(a["freq_shift"]),
        cos_first=a["flip_sin_to_cos"],
        null_label=False,
    )
    height, width = size if isinstance(size, list | tuple) else (size, size)
    spec = build.Spec((height, width, a["in_channels"]), a["num_class_embeds"])
    return model, spec, a["out_channels"] == 2 * a["in_channels"]


_RESAMPLE = {
    "DownBlock2D": lambda kind: "conv",
    "UpBlock2D": lambda kind: "conv",
    "ResnetDownsampleBlock2D": lambda kind: "resnet",
    "ResnetUpsampleBlock2D": lambda kind: "resnet",
    "AttnDownBlock2D": lambda kind: kind,
    "AttnUpBlock2D": lambda kind: kind,
}
"""How a block resamples, of the network's own type of resampling."""
_UP = {"UpBlock2D": False, "ResnetUpsampleBlock2D": False, "AttnUpBlock2D": True}
"""Blocks on the way up, and whether they have attention."""
_BLOCK = {
    "norm1": "norm1",
    "conv1": "conv1",
    "emb": "time_emb_proj",
    "norm2": "norm2",
    "conv2": "conv2",
    "skip": "conv_shortcut",
}


def its_places(model: UNet) -> dict[str, Place]:
    """Where each module's parameters are."""
    last = len(model.multipliers) - 1
    names = {
        "time_1": "time_embedding.linear_1",
        "time_2": "time_embedding.linear_2",
        "label": "class_embedding",
        "conv_in": "conv_in",
        "norm_out": "conv_norm_out",
        "conv_out": "conv_out",
    }
    blocks = {"middle_0": "mid_block.resnets.0", "middle_1": "mid_block.resnets.1"}
    attentions = {"middle_attention": "mid_block.attentions.0"}
    for level in range(last + 1):
        ways = {"down": (f"down_blocks.{level}", "down"), "up": (f"up_blocks.{last - level}", "up")}
        for way, (theirs, resampler) in ways.items():
            for i in range(model.blocks + (way == "up")):
                blocks[f"{way}_{level}_{i}"] = f"{theirs}.resnets.{i}"
                attentions[f"{way}_{level}_{i}_attention"] = f"{theirs}.attentions.{i}"
            if model.resample_in_block:
                blocks[f"{way}_{level}"] = f"{theirs}.{resampler}samplers.0"
            else:
                names[f"{way}_{level}"] = f"{theirs}.{resampler}samplers.0.conv"
    places = {ours: Place((theirs,)) for ours, theirs in names.items()}
    places |= block_places(blocks, _BLOCK)
    for ours, theirs in attentions.items():
        places[f"{ours}/norm"] = Place((f"{theirs}.group_norm",))
        places[f"{ours}/qkv"] = Place(tuple(f"{theirs}.to_{part}" for part in "qkv"))
        places[f"{ours}/out"] = Place((f"{theirs}.to_out.0",))
    return places


def tensors(found: Mapping[Any, Any], path: Path) -> dict[str, Any]:
    """Their arrays, all by their new names."""
    renamed = {_new_name(str(name)): tensor for name, tensor in found.items()}
    require(len(renamed) == len(found), f"{path}: has some arrays twice, under an old and a new name")
    return renamed


def _new_name(name: str) -> str:
    """Names of attention before diffusers 0.13.

    >>> _new_name("mid_block.attentions.0.proj_attn.bias")
    'mid_block.attentions.0.to_out.0.bias'
    """
    if ".attentions." not in name:
        return name
    for old, new in {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}.items():
        name = name.replace(f".{old}.", f".{new}.")
    return name


def arguments_of(m: UNet, diffusion: Diffusion, spec: build.Spec, params: PyTree) -> dict[str, Any]:
    """Their arguments from ours."""
    height, width, channels = spec.image_shape
    levels = range(len(m.multipliers))
    attention = m.attention_levels
    if attention is None:
        attention = tuple(i for i in levels if min(height, width) // 2**i in m.attention_resolutions)
    norms = [leaf.size for path, leaf in flatten_dict(params["params"]).items() if path[-1] == "scale"]
    groups = {group_count(size, groups=m.groups, least=m.least_group) for size in norms}
    checks = {
        "groups": len(groups) == 1,
        "heads": m.heads == 1 or m.head_channels is not None,
        "resample_conv": m.resample_in_block or m.resample_conv,
        "embedding_channels": m.embedding_channels in (None, m.channels),
        "multipliers": m.multipliers[0] == 1,
        "downsample_padding": m.downsample_padding in ((0, 1), (1, 1)),
    }
    faults = [f"model.{name} {getattr(m, name)}" for name, fine in checks.items() if not fine]
    if faults:
        raise InputError(f"a network that diffusers' UNet2DModel cannot be: {', '.join(faults)}")
    [found] = groups
    kind = "Resnet{}sampleBlock2D" if m.resample_in_block else "{}Block2D"
    down = ["AttnDownBlock2D" if i in attention else kind.format("Down") for i in levels]
    up = ["AttnUpBlock2D" if i in attention else kind.format("Up") for i in reversed(levels)]
    return {
        "_class_name": "UNet2DModel",
        **ARGUMENTS,
        "sample_size": height if height == width else [height, width],
        "in_channels": channels,
        "out_channels": (1 + diffusion.learned_variance) * channels,
        "freq_shift": m.freq_shift,
        "flip_sin_to_cos": m.cos_first,
        "down_block_types": down,
        "up_block_types": up,
        "block_out_channels": [m.channels * multiplier for multiplier in m.multipliers],
        "layers_per_block": m.blocks,
        "downsample_padding": m.downsample_padding[0],
        "downsample_type": "resnet" if m.resample_in_block else "conv",
        "upsample_type": "resnet" if m.resample_in_block else "conv",
        "dropout": m.dropout,
        "attention_head_dim": m.head_channels,
        "norm_num_groups": found,
        "attn_norm_num_groups": found if m.scale_shift else None,
        "norm_eps": m.norm_eps,
        "resnet_time_scale_shift": "scale_shift" if m.scale_shift else "default",
        "add_attention": m.middle_attention,
        "num_class_embeds": None if spec.num_classes is None else spec.num_classes + m.null_label,
    }
