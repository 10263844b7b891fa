"""diffusers' `DiTTransformer2DModel` as our DiT: its arguments, its arrays and their places."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxdiff import build
from jaxdiff.config import DiT
from jaxdiff.pretrained.dit import as_dense, places
from jaxdiff.pretrained.matching import Place
from jaxdiff.schedules import require
from jaxdiff.typing import InputError

# Those that any value but this one would make another network of, as is so of all that Transformer2DModel, its name in
# older files, has besides.
_FIXED: dict[str, Any] = {
    "attention_bias": True,
    "activation_fn": "gelu-approximate",
    "norm_type": "ada_norm_zero",
    "norm_elementwise_affine": False,
    "attention_type": "default",
    "caption_channels": None,
    "cross_attention_dim": None,
    "double_self_attention": False,
    "interpolation_scale": None,
    "num_vector_embeds": None,
    "only_cross_attention": False,
    "use_additional_conditions": None,
    "use_linear_projection": False,
}
ARGUMENTS: dict[str, Any] = {
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "in_channels": 4,
    "out_channels": None,
    "num_layers": 28,
    "dropout": 0.0,
    "norm_num_groups": 32,  # of what it does not have
    "sample_size": 32,
    "patch_size": 2,
    "num_embeds_ada_norm": 1000,
    "upcast_attention": False,  # to float32, in which it is here
    "norm_eps": 1e-5,
    **_FIXED,
}
"""Of DiTTransformer2DModel, with their defaults, which files leave out."""


def network(a: Mapping[str, Any], path: Path) -> tuple[DiT, build.Spec, bool]:
    """Our arguments from theirs, the images, and whether it learned the variance."""
    channels, outputs, size = a["in_channels"], a["out_channels"] or a["in_channels"], a["sample_size"]
    checks = {name: a[name] == value for name, value in _FIXED.items()} | {
        "num_layers": 1 <= a["num_layers"] <= 256,
        "out_channels": outputs in (channels, 2 * channels),
        "sample_size": a["patch_size"] >= 1 and size % a["patch_size"] == 0,
    }
    faults = [f"{name} {a[name]!r}" for name, fine in checks.items() if not fine]
    if faults:
        raise InputError(f"{path}: a {CLASSES[0]} that has no counterpart here: {', '.join(faults)}")
    model = DiT(
        width=a["num_attention_heads"] * a["attention_head_dim"],
        depth=a["num_layers"],
        heads=a["num_attention_heads"],
        patch=a["patch_size"],
        dropout=a["dropout"],
        mlp_norm_eps=a["norm_eps"],
        freq_shift=1.0,  # whatever the original of its weights had
    )
    return model, build.Spec((size, size, channels), a["num_embeds_ada_norm"]), outputs == 2 * channels


def tensors(found: Mapping[Any, Any], path: Path) -> dict[str, Any]:
    """Their arrays, of the embeddings of time and label, which each block has its own copy of, one."""
    kept = {}
    for name, tensor in found.items():
        copy = re.fullmatch(r"transformer_blocks\.[1-9]\d*\.(norm1\.emb\..+)", str(name))
        if copy is None:
            kept[str(name)] = tensor
            continue
        require(
            np.array_equal(tensor, found.get(f"transformer_blocks.0.{copy[1]}", ())),
            f"{path}: {name} differs from that of the first block; a network whose blocks have embeddings of their own "
            "has no counterpart here",
        )
    kept["pos_embed.proj.weight"] = as_dense(kept.get("pos_embed.proj.weight"))
    return kept


def its_places(model: DiT) -> dict[str, Place]:
    """Where each module's parameters are."""
    return places(model.depth, _OUTSIDE, "transformer_blocks", _BLOCK)


CLASSES = ("DiTTransformer2DModel", "Transformer2DModel")
_EMBEDDINGS = "transformer_blocks.0.norm1.emb"
_OUTSIDE = {
    "patch": "pos_embed.proj",
    "time_1": f"{_EMBEDDINGS}.timestep_embedder.linear_1",
    "time_2": f"{_EMBEDDINGS}.timestep_embedder.linear_2",
    "label": f"{_EMBEDDINGS}.class_embedder.embedding_table",
    "modulation_out": "proj_out_1",
    "out": "proj_out_2",
}
_BLOCK = {
    "modulation": ("norm1.linear",),
    "attention/qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "attention/out": ("attn1.to_out.0",),
    "mlp_in": ("ff.net.0.proj",),
    "mlp_out": ("ff.net.2",),
}
