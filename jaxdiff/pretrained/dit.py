"""State dicts of DiT, `.pt` files without a description; and what they share with diffusers' folders of it."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdiff import build
from jaxdiff.config import Config, Diffusion, DiT, Sample
from jaxdiff.models import DIT_SIZES
from jaxdiff.models.embed import grid_positions
from jaxdiff.pretrained.base import Pretrained, parameter_shapes
from jaxdiff.pretrained.matching import Place, from_theirs, shape_of
from jaxdiff.pretrained.read import read_weights
from jaxdiff.schedules import check_whole, require
from jaxdiff.typing import InputError


def load_dit(path: Path | str, *, num_classes: int = 1000, num_heads: int | None = None) -> Pretrained:
    """The network of a state dict of facebookresearch/DiT, such as DiT-XL-2-256x256.pt.

    It predicts eps and, where it has twice as many channels out as in, the variance, on the linear table of 1,000
    steps. Networks of the same names that predict something else (SiT's) cannot be told from it.

    Args:
      path: the file.
      num_classes: of its training. A table of labels with one row more has the null label.
      num_heads: of attention; None: those of the published size of that width.

    Raises:
      InputError: a broken file, one with more in it than tensors, positions that are not the fixed ones, or the weights
        of another network.

    Source: Peebles & Xie 2022 (arXiv 2212.09748).
    """
    path = Path(path)
    check_whole("num_classes", num_classes)
    tensors = read_weights(path)
    model, spec, learned = _network(tensors, path, num_classes=num_classes, num_heads=num_heads)
    latents = spec.image_shape[-1] not in PICTURES
    config = Config(
        model=model,
        diffusion=Diffusion(
            schedule="linear",
            schedule_options={"beta_start": 1e-4, "beta_end": 0.02},
            steps=1000,
            kind="eps",
            learned_variance=learned,
        ),
        sample=Sample(variance="learned_range" if learned else "fixed_large", clip=not latents),
    )
    like = parameter_shapes(path, config, spec)
    _check_positions(tensors["pos_embed"], model, path)
    rest = {str(name): tensor for name, tensor in tensors.items() if name != "pos_embed"}
    rest["x_embedder.proj.weight"] = as_dense(rest["x_embedder.proj.weight"])
    params = from_theirs(path, rest, like, places(model.depth, _OUTSIDE, "blocks", _BLOCK))
    return Pretrained(config, spec, params, latents=latents)


PICTURES = (1, 3)
"""Channels of pictures; what has others are an autoencoder's latents."""

_OUTSIDE = {
    "patch": "x_embedder.proj",
    "time_1": "t_embedder.mlp.0",
    "time_2": "t_embedder.mlp.2",
    "label": "y_embedder.embedding_table",
    "modulation_out": "final_layer.adaLN_modulation.1",
    "out": "final_layer.linear",
}
_BLOCK = {
    "modulation": ("adaLN_modulation.1",),
    "attention/qkv": ("attn.qkv",),
    "attention/out": ("attn.proj",),
    "mlp_in": ("mlp.fc1",),
    "mlp_out": ("mlp.fc2",),
}


def places(
    depth: int, outside: Mapping[str, str], blocks: str, block: Mapping[str, tuple[str, ...]]
) -> dict[str, Place]:
    """Where each module's parameters are, from the names there of what is outside of blocks, of the blocks and in one.

    >>> places(1, {"out": "last"}, "layers", {"attention/qkv": ("q", "k", "v")})["block_0/attention/qkv"].names
    ('layers.0.q', 'layers.0.k', 'layers.0.v')
    """
    found = {ours: Place((theirs,)) for ours, theirs in outside.items()}
    for i in range(depth):
        for ours, theirs in block.items():
            found[f"block_{i}/{ours}"] = Place(tuple(f"{blocks}.{i}.{name}" for name in theirs))
    return found


def as_dense(kernel: Any) -> Any:
    """The kernel of a convolution over patches `[out, in, p, p]` as that of a dense layer, `[out, p p in]`."""
    if not isinstance(kernel, np.ndarray) or kernel.ndim != 4:
        return kernel
    return kernel.transpose(0, 2, 3, 1).reshape(len(kernel), -1)


def _network(
    tensors: Mapping[Any, Any], path: Path, *, num_classes: int, num_heads: int | None
) -> tuple[DiT, build.Spec, bool]:
    """The network, its images, and whether it learned the variance."""

    def shape(name: str, ndim: int) -> tuple[int, ...]:
        return shape_of(tensors, name, path, ndim=ndim, expected="the state dict of a DiT")

    width, channels, patch, other = shape("x_embedder.proj.weight", 4)
    _, points, positioned = shape("pos_embed", 3)
    outputs = shape("final_layer.linear.weight", 2)[0]
    rows = shape("y_embedder.embedding_table.weight", 2)[0]
    hidden = shape("blocks.0.mlp.fc1.weight", 2)[0]
    learned = outputs == 2 * patch * patch * channels
    if patch != other or patch < 1 or positioned != width or outputs != (1 + learned) * patch * patch * channels:
        raise InputError(
            f"{path}: not a DiT that makes what it is given: patches of {patch}x{other}x{channels} in, {outputs} "
            f"values out, positions of {positioned} channels and patches of {width}"
        )
    side = math.isqrt(points)
    require(side * side == points, f"{path}: pos_embed has {points} positions, expected those of a square")
    require(
        rows - num_classes in (0, 1),
        f"{path}: its table of labels has {rows} rows; give the option num_classes: {rows - 1}, if the last of them is "
        f"the null label, or {rows}",
    )
    if num_heads is None:
        published = [size["heads"] for size in DIT_SIZES.values() if size["width"] == width]
        require(bool(published), f"{path}: a width of {width} is not a published one: give the option num_heads")
        num_heads = published[0]
    check_whole("num_heads", num_heads)
    depth = sum(re.fullmatch(r"blocks\.\d+\.mlp\.fc1\.weight", str(name)) is not None for name in tensors)
    model = DiT(
        width=width, depth=depth, heads=num_heads, patch=patch, mlp_ratio=hidden / width, null_label=rows > num_classes
    )
    return model, build.Spec((side * patch, side * patch, channels), num_classes), learned


def _check_positions(found: np.ndarray, model: DiT, path: Path) -> None:
    """They are fixed, and computed here."""
    side = math.isqrt(found.shape[1])
    exact = grid_positions((side, side), channels=model.width)
    numbers = jnp.issubdtype(found.dtype, jnp.floating)
    # To the accuracy of the numbers, each at most 1; NaN is not close to anything.
    if not numbers or not np.abs(found[0].astype(np.float64) - exact).max() < 4 * float(jnp.finfo(found.dtype).eps):
        raise InputError(f"{path}: pos_embed is not the fixed sines and cosines of a {side}x{side} grid")
