"""State dicts of OpenAI's improved-diffusion and guided-diffusion U-Nets, `.pt` files without a description.

The arrays' shapes and names say most of the network; what they leave open are arguments, with the names and defaults of
its scripts' flags.
"""

import dataclasses
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxdiff import build
from jaxdiff.config import Config, Diffusion, Sample, UNet
from jaxdiff.pretrained import matching
from jaxdiff.pretrained.base import Pretrained, parameter_shapes
from jaxdiff.pretrained.matching import Place, block_places, from_theirs
from jaxdiff.pretrained.read import read_weights
from jaxdiff.schedules import check_choice, check_flags, check_whole, require
from jaxdiff.typing import InputError


def load_guided_diffusion(
    path: Path | str,
    *,
    image_size: int,
    num_heads: int = 4,
    num_head_channels: int = -1,
    use_new_attention_order: bool = False,
    noise_schedule: Literal["linear", "cosine"] = "linear",
    diffusion_steps: int = 1000,
    predict_xstart: bool = False,
    sigma_small: bool = False,
    rescale_timesteps: bool | None = None,
) -> Pretrained:
    """The network of a state dict, such as 64x64_diffusion.pt or 256x256_diffusion_uncond.pt.

    Args:
      path: the file.
      image_size: height and width of its pictures.
      num_heads: of attention, where `num_head_channels` is -1.
      num_head_channels: the size of a head; 64 of the published ADM networks.
      use_new_attention_order: queries, keys and values lie one after the other for all heads, not for each.
      noise_schedule: the table.
      diffusion_steps: its length.
      predict_xstart: it predicts x0, not eps.
      sigma_small: without a learned variance, the smaller of the fixed ones.
      rescale_timesteps: the network is told k * 1000 / diffusion_steps, not k. To be given where that makes a
        difference: it is True in improved-diffusion and False in guided-diffusion, if its scripts are not told.

    Raises:
      InputError: a broken file, one with more in it than tensors, or the weights of another network (a classifier, or
        one for super-resolution, among them).

    Source: Nichol & Dhariwal 2021 (arXiv 2102.09672), Dhariwal & Nichol 2021 (arXiv 2105.05233).
    """
    path = Path(path)
    for name, value in {"image_size": image_size, "diffusion_steps": diffusion_steps, "num_heads": num_heads}.items():
        check_whole(name, value)
    check_whole("num_head_channels", num_head_channels, -1)
    check_choice("noise_schedule", noise_schedule, ("linear", "cosine"))
    check_flags(
        use_new_attention_order=use_new_attention_order,
        predict_xstart=predict_xstart,
        sigma_small=sigma_small,
        rescale_timesteps=rescale_timesteps or False,
    )
    require(
        diffusion_steps == 1000 or rescale_timesteps is not None,
        f"rescale_timesteps: with {diffusion_steps} diffusion_steps say whether the network was told the step's number "
        "(false: guided-diffusion, unless told) or that times 1000 / diffusion_steps (true: improved-diffusion)",
    )
    tensors = read_weights(path)
    model, num_classes, channels, learned = _network(tensors, path)
    if num_head_channels > 0:
        model = dataclasses.replace(model, head_channels=num_head_channels)
    else:
        model = dataclasses.replace(model, heads=num_heads)
    # The published linear table has the same total noise whatever its length.
    ends = {"beta_start": 0.1 / diffusion_steps, "beta_end": 20 / diffusion_steps} if noise_schedule == "linear" else {}
    config = Config(
        model=model,
        diffusion=Diffusion(
            schedule=noise_schedule,
            schedule_options=ends,
            steps=diffusion_steps,
            step_scale=1000 / diffusion_steps if rescale_timesteps else 1.0,
            kind="x0" if predict_xstart else "eps",
            learned_variance=learned,
        ),
        sample=Sample(variance="learned_range" if learned else "fixed_small" if sigma_small else "fixed_large"),
    )
    spec = build.Spec((image_size, image_size, channels), num_classes)
    like = parameter_shapes(path, config, spec)
    places = places_of(model, new_order=use_new_attention_order)
    return Pretrained(config, spec, from_theirs(path, tensors, like, places))


def _network(tensors: Mapping[str, Any], path: Path) -> tuple[UNet, int | None, int, bool]:
    """The network but for its heads, the number of classes and of channels, and whether it learned the variance."""
    _, channels, *_ = shape_of(tensors, "input_blocks.0.0.weight", path, ndim=4)
    names = [str(name) for name in tensors]
    if "out.0.weight" in tensors and not any(name.startswith("output_blocks.") for name in names):
        raise InputError(
            f"{path}: a classifier of guided-diffusion, which makes no images: give it beside a network that does, as "
            "sample.py --classifier does, or read it by load_guided_classifier"
        )
    outputs = shape_of(tensors, "out.2.weight", path, ndim=4)[0]
    inputs = count_inputs(tensors)

    # Each level but the last ends in a step down: a convolution, or a residual block, which on the way up is the second
    # of its output block, or nothing that has parameters, so that a number is left out.
    strided = [i for i in range(inputs) if f"input_blocks.{i}.0.op.weight" in tensors]
    ups = [name for name in names if re.fullmatch(r"output_blocks\.\d+\.[12]\.in_layers\.0\.weight", name)]
    gaps = [i for i in range(inputs) if not any(name.startswith(f"input_blocks.{i}.") for name in names)]
    levels = 1 + max(len(strided), len(ups), len(gaps))
    if outputs not in (channels, 2 * channels) or channels > 4 or inputs < 2 * levels:
        raise InputError(
            f"{path}: not a U-Net that makes images from noise alone: {channels} channels in, {outputs} out, {levels} "
            f"levels, {inputs} input blocks"
        )
    model = encoder(tensors, path, levels=levels, blocks=inputs // levels - 1)
    model = dataclasses.replace(model, resample_in_block=bool(ups), resample_conv=not gaps)
    classes = shape_of(tensors, "label_emb.weight", path, ndim=2)[0] if "label_emb.weight" in tensors else None
    return model, classes, channels, outputs == 2 * channels


shape_of = partial(
    matching.shape_of,
    expected="the state dict of a network of guided-diffusion (of a folder of diffusers give the folder)",
)


def count_inputs(tensors: Mapping[str, Any]) -> int:
    """How many input blocks there are, numbers that are left out among them."""
    found = (re.match(r"input_blocks\.(\d{1,3})\.", str(name)) for name in tensors)
    return 1 + max((int(number[1]) for number in found if number), default=0)


def encoder(tensors: Mapping[str, Any], path: Path, *, levels: int, blocks: int) -> UNet:
    """The network but for its heads and its way of resampling, from the first half of it."""
    first, *_ = shape_of(tensors, "input_blocks.0.0.weight", path, ndim=4)
    _, embedding = shape_of(tensors, "time_embed.0.weight", path, ndim=2)
    starts = [f"input_blocks.{1 + level * (blocks + 1)}" for level in range(levels)]
    widths = [shape_of(tensors, f"{start}.0.in_layers.2.weight", path, ndim=4)[0] for start in starts]
    if any(width % first for width in widths):
        raise InputError(f"{path}: levels of {widths} channels are no multiples of the first {first}; not supported")
    return UNet(
        channels=first,
        embedding_channels=embedding,
        multipliers=tuple(width // first for width in widths),
        blocks=blocks,
        attention_levels=tuple(i for i, start in enumerate(starts) if f"{start}.1.qkv.weight" in tensors),
        scale_shift=shape_of(tensors, f"{starts[0]}.0.emb_layers.1.weight", path, ndim=2)[0] == 2 * widths[0],
        downsample_padding=(1, 1),
        least_group=1,
        freq_shift=0.0,
        cos_first=True,
        null_label=False,
    )


_BLOCK = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "emb": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "skip": "skip_connection",
}


def places_of(model: UNet, *, new_order: bool) -> dict[str, Place]:
    """Where each module's parameters are."""
    last, blocks = len(model.multipliers) - 1, model.blocks
    names = {
        "time_1": "time_embed.0",
        "time_2": "time_embed.2",
        "label": "label_emb",
        "conv_in": "input_blocks.0.0",
        "norm_out": "out.0",
        "conv_out": "out.2",
    }
    residual = {"middle_0": "middle_block.0", "middle_1": "middle_block.2"}
    attentions = {"middle_attention": ("middle_block.1", model.multipliers[-1])}
    for level, multiplier in enumerate(model.multipliers):
        attends = level in (model.attention_levels or ())
        first = {"down": 1 + level * (blocks + 1), "up": (last - level) * (blocks + 1)}
        for way, theirs in (("down", "input_blocks"), ("up", "output_blocks")):
            for i in range(blocks + (way == "up")):
                residual[f"{way}_{level}_{i}"] = f"{theirs}.{first[way] + i}.0"
                attentions[f"{way}_{level}_{i}_attention"] = (f"{theirs}.{first[way] + i}.1", multiplier)
        ends = {
            "down": (f"input_blocks.{first['down'] + blocks}.0", "op"),
            "up": (f"output_blocks.{first['up'] + blocks}.{1 + attends}", "conv"),
        }
        for way, (theirs, conv) in ends.items():
            if model.resample_in_block:
                residual[f"{way}_{level}"] = theirs
            else:
                names[f"{way}_{level}"] = f"{theirs}.{conv}"
    places = {ours: Place((theirs,)) for ours, theirs in names.items()}
    places |= block_places(residual, _BLOCK)
    for ours, (theirs, multiplier) in attentions.items():
        width = multiplier * model.channels
        heads = width // model.head_channels if model.head_channels else model.heads
        places[f"{ours}/norm"] = Place((f"{theirs}.norm",))
        places[f"{ours}/qkv"] = Place((f"{theirs}.qkv",), order=None if new_order else _by_head(width, heads), ones=1)
        places[f"{ours}/out"] = Place((f"{theirs}.proj_out",), ones=1)
    return places


def _by_head(width: int, heads: int) -> tuple[int, ...]:
    """Where queries, keys and values of all heads are, if each head has its own three together.

    >>> _by_head(4, 2)
    (0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11)
    """
    lying = np.arange(3 * width).reshape(heads, 3, width // heads)  # there; ours is [3, heads, size]
    return tuple(lying.swapaxes(0, 1).ravel().tolist())
