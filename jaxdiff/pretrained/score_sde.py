"""Checkpoints of score_sde_pytorch: DDPM++ and NCSN++ of the VP, sub-VP and VE SDEs.

Its networks are lists of modules, `all_modules.0`, `all_modules.1`, ..., in the order in which they are called, with
numbers also for those without parameters. Names and shapes say of what kind each one is, and so nearly all of the
network; what they leave open are arguments, with the names of its configs.
"""

import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxdiff import build
from jaxdiff.config import Config, Diffusion, NCSNpp
from jaxdiff.pretrained.base import Pretrained, parameter_shapes, reading
from jaxdiff.pretrained.matching import Place, from_theirs
from jaxdiff.pretrained.read import read_weights
from jaxdiff.schedules import check_choice, check_flags, check_whole, require
from jaxdiff.typing import InputError, PyTree

State = dict[str, np.ndarray]


def load_score_sde(
    path: Path | str,
    *,
    image_size: int,
    sde: Literal["vp", "subvp", "ve"],
    continuous: bool = True,
    fir: bool | None = None,
    skip_rescale: bool | None = None,
) -> Pretrained:
    """The network of a checkpoint, with the moving average of its parameters. A state dict alone is taken as it is.

    What else its configs say is taken for what the published ones have. A VP or sub-VP network sees images in [-1, 1]
    (`centered`) and predicts eps, with beta from 0.1 to 20. A VE network makes 2 x - 1 of images in [0, 1], and divides
    its output by the noise level (`scale_by_sigma`) to make it the score. In [-1, 1] noise is twice what it is in
    [0, 1]: so the schedule has twice their noise levels, and `preconditioning.ve` tells the network half of it. The
    output before the division is -eps; the convolutions that end it are imported with the other sign, so that ours is
    eps.

    Args:
      path: the file, such as checkpoint_8.pth.
      image_size: height and width of its pictures.
      sde: what it was trained on.
      continuous: False of a VP network that was trained at the 1,000 steps of DDPM's table.
      fir: whether it resamples by the filter [1, 3, 3, 1]. Default: as the names of its convolutions say; if it has
        none that resample, as the published networks, which do with a progressive input or output, and not without.
      skip_rescale: sums of two branches are divided by sqrt(2). Default: true of networks with resampling in their
        blocks, or with a progressive input or output; of others it must be given (false of those that it calls `ddpm`).

    Raises:
      InputError: a broken file, one with more in it than tensors, the weights of another network, or of a VE network
        that was trained at given levels: it is told their number, counted from the largest, which is not supported.

    Source: Song et al. 2021 (arXiv 2011.13456), appendices C and H.
    """
    path = Path(path)
    check_whole("image_size", image_size)
    check_choice("sde", sde, ("vp", "subvp", "ve"))
    check_flags(continuous=continuous, fir=fir or False, skip_rescale=skip_rescale or False)
    require(
        continuous or sde == "vp", f"continuous: of {sde} only networks that were trained in continuous time are known"
    )
    tensors = _state(read_weights(path), path)
    sigmas, frequencies = tensors.pop("sigmas", None), tensors.pop("all_modules.0.W", None)
    if (frequencies is None) == (sde == "ve"):
        found = "a sinusoidal" if frequencies is None else "a Fourier"
        raise InputError(
            f"{path}: sde {sde}, but the network has {found} embedding; of those that were trained in continuous time "
            "one of ve has a Fourier embedding, and one of vp or subvp a sinusoidal embedding"
        )
    with reading(path, otherwise="no network of score_sde that is known"):
        model, channels = _network(tensors, frequencies, image_size, fir=fir, skip_rescale=skip_rescale)
        diffusion = _diffusion(sde, sigmas, continuous=continuous)
    config = Config(model=model, diffusion=diffusion)
    spec = build.Spec((image_size, image_size, channels), None)
    like = parameter_shapes(path, config, spec)
    params = from_theirs(path, tensors, like, _places(model, image_size))
    return Pretrained(config, spec, negated(params) if sde == "ve" else params)


def _state(found: Mapping[str, Any], path: Path) -> State:
    """The state dict, averaged where there is an average, with dense layers as torch has them.

    The average is a list, in the order of the parameters that are trained.
    """
    whole = isinstance(found.get("model"), dict)
    if whole and (more := set(found) - {"optimizer", "model", "ema", "step"}):
        raise InputError(f"{path}: {', '.join(sorted(map(str, more)))}: not of a checkpoint of score_sde")
    state = {str(name).removeprefix("module."): value for name, value in (found["model"] if whole else found).items()}
    for name, value in state.items():
        if not isinstance(value, np.ndarray):
            raise InputError(f"{path}: {name} is no tensor; expected a checkpoint or a state dict of score_sde")
    if whole and "ema" in found:
        ema = found["ema"]
        averages = ema.get("shadow_params") if isinstance(ema, dict) else None
        trained = [name for name in state if name not in ("sigmas", "all_modules.0.W")]
        shapes = [getattr(average, "shape", None) for average in averages] if isinstance(averages, list) else []
        if shapes != [state[name].shape for name in trained]:
            raise InputError(f"{path}: the moving averages in it (ema, shadow_params) are not those of its parameters")
        state |= zip(trained, averages or [])
    for name in [name for name in state if re.search(r"\.NIN_\d\.[Wb]$", name)]:  # [in, out]
        value = state.pop(name)
        state[name[:-1] + ("weight" if name[-1] == "W" else "bias")] = value.T
    return state


_MARKS = {
    "NIN_3.weight": "attention",
    "GroupNorm_0.weight": "block",
    "Conv2d_0.weight": "fir_conv",
    "Conv_0.weight": "conv",
    "weight": "plain",
}


def _kinds(state: State) -> dict[int, str]:
    """Of each number that has parameters: attention, block, fir_conv, conv, dense, plain (a convolution too), time (a
    dense layer too) or norm."""
    modules: dict[int, State] = defaultdict(dict)
    for name, value in state.items():
        if found := re.fullmatch(r"all_modules\.(\d{1,4})\.(.+)", name):
            modules[int(found[1])][found[2]] = value
    kinds = {}
    for number, parts in modules.items():
        mark = next((mark for mark in _MARKS if mark in parts), "")
        kinds[number] = _MARKS[mark]
        if mark == "weight":
            kinds[number] = {1: "norm", 2: "time", 4: "plain"}[parts[mark].ndim]
        elif mark == "Conv_0.weight" and parts[mark].shape[2:] == (1, 1):
            kinds[number] = "dense"
    return kinds


def _network(
    state: State, frequencies: np.ndarray | None, image_size: int, *, fir: bool | None, skip_rescale: bool | None
) -> tuple[NCSNpp, int]:
    """The network and the channels of its pictures."""
    kinds = _kinds(state)
    first = 3 if frequencies is None else 4  # after the embedding, its two dense layers and the first convolution
    width, channels = state[f"all_modules.{first - 1}.weight"].shape[:2]
    biggan = any(name.endswith(".Conv_2.weight") for name in state)

    # Down: each block has as many channels as come out of the one before; the first one up has those of a skip too.
    way: list[tuple[str | None, int]] = []
    resamples: list[bool] = []
    here = width
    for number in itertools.count(first):
        start = f"all_modules.{number}"
        if kinds.get(number) == "block":
            out, into = state[f"{start}.Conv_0.weight"].shape[:2]
            if into != here:
                break
            here = out
        way.append((kinds.get(number), here))
        plain = kinds.get(number) in ("block", "attention")
        resamples.append(not plain or (f"{start}.Conv_2.weight" in state and out == into))
        require(number <= max(kinds), "the network has no way up")

    # A level is blocks and attention, and then, but for the last, what resamples.
    groups = itertools.groupby(range(len(way) - 3), resamples.__getitem__)  # without the three in the middle
    parts = [[way[i] for i in group] for _, group in groups]
    levels, ends = parts[::2], [[kind for kind, _ in end] for end in parts[1::2]]
    between = ends[0] if ends else []
    progressive_input: Literal["none", "input_skip", "residual"] = "none"
    if between[1:]:
        progressive_input = "input_skip" if "dense" in between else "residual"
    norms = sorted(number for number, kind in kinds.items() if kind == "norm")
    progressive: Literal["none", "output_skip", "residual"] = "none"
    if len(norms) > 1:
        ends_in_image = len(state[f"all_modules.{norms[0] + 1}.weight"]) == channels
        progressive = "output_skip" if ends_in_image else "residual"

    said = [kind for kind in ("conv", "fir_conv") if kind in kinds.values()]
    if said and fir not in (None, said == ["fir_conv"]):
        raise InputError(f"fir {str(fir).lower()}: its convolutions that resample are named otherwise")
    if fir is None:
        fir = said == ["fir_conv"] if said else (progressive_input, progressive) != ("none", "none")
    require(
        biggan or (progressive_input, progressive) != ("none", "none") or skip_rescale is not None,
        "skip_rescale: without resampling in its blocks the file does not show whether sums are divided by sqrt(2); "
        "give false for score_sde's ddpm, true for its ncsnpp",
    )
    widths = [level[-1][1] for level in levels]
    require(all(n % width == 0 for n in widths), f"its levels of {widths} channels are no multiples of {width}")
    model = NCSNpp(
        channels=width,
        multipliers=tuple(n // width for n in widths),
        blocks=sum(kind == "block" for kind, _ in levels[0]),
        attention_resolutions=tuple(
            image_size >> i for i, level in enumerate(levels) if any(kind == "attention" for kind, _ in level)
        ),
        embedding="sinusoidal" if frequencies is None else "fourier",
        frequencies=None if frequencies is None else tuple(map(float, frequencies)),
        block="biggan" if biggan else "ddpm",
        fir=fir,
        progressive_input=progressive_input,
        progressive=progressive,
        skip_rescale=skip_rescale is not False,
        null_label=False,
    )
    return model, channels


def _diffusion(sde: str, sigmas: np.ndarray | None, *, continuous: bool) -> Diffusion:
    if sde == "vp" and continuous:
        return Diffusion(schedule="vp", preconditioning="vp")  # told 999 t
    if sde == "vp":
        return Diffusion(schedule="linear", steps=1000)
    if sde == "subvp":
        return Diffusion(schedule="sub_vp", step_scale=0.999)  # told 999 t
    require(sigmas is not None and sigmas.ndim == 1 and len(sigmas) > 1, "no noise levels (sigmas) in it")
    assert sigmas is not None
    ends = {"sigma_min": float(sigmas[-1]), "sigma_max": float(sigmas[0])}
    require(
        0 < ends["sigma_min"] < ends["sigma_max"] < np.inf, f"noise levels (sigmas) from {sigmas[0]} to {sigmas[-1]}"
    )
    levels = {name: float(f"{2 * sigma:.6g}") for name, sigma in ends.items()}  # exp(log(50)) is not quite 50
    return Diffusion(schedule="ve", schedule_options=levels, preconditioning="ve")


def negated(params: PyTree) -> PyTree:
    """An `NCSNpp` whose output is that of these parameters times -1: with the other sign of what ends it."""

    def one(name: str, module: PyTree) -> PyTree:
        return {kind: -leaf for kind, leaf in module.items()} if name.startswith("conv_out") else module

    return {"params": {name: one(name, module) for name, module in params["params"].items()}}


def _order(model: NCSNpp, image_size: int) -> Iterator[tuple[str, str]]:
    """Our name and the kind of each of their modules; one without parameters has no name."""
    last, biggan = len(model.multipliers) - 1, model.block == "biggan"
    conv = "fir_conv" if model.fir else "conv"
    attends = [image_size >> level in model.attention_resolutions for level in range(last + 1)]
    if model.embedding == "fourier":
        yield "", "time"
    yield from (("time_1", "time"), ("time_2", "time"), ("conv_in", "plain"))
    for level in range(last + 1):
        for i in range(model.blocks):
            yield f"down_{level}_{i}", "block"
            if attends[level]:
                yield f"down_{level}_{i}_attention", "attention"
        if level < last:
            yield f"down_{level}", "block" if biggan else conv
            if model.progressive_input == "input_skip":
                yield "", conv
                yield f"input_{level}", "dense"
            elif model.progressive_input == "residual":
                yield f"input_{level}", conv
    yield from (("middle_0", "block"), ("middle_attention", "attention"), ("middle_1", "block"))
    for level in reversed(range(last + 1)):
        yield from ((f"up_{level}_{i}", "block") for i in range(model.blocks + 1))
        if attends[level]:
            yield f"up_{level}_attention", "attention"
        if model.progressive == "output_skip":
            if level < last:
                yield "", conv
            yield from ((f"norm_out_{level}", "norm"), (f"conv_out_{level}", "plain"))
        elif model.progressive == "residual" and level == last:
            yield from ((f"norm_output_{level}", "norm"), (f"output_{level}", "plain"))
        elif model.progressive == "residual":
            yield f"output_{level}", conv
        if level > 0:
            yield f"up_{level}", "block" if biggan else conv
    if model.progressive != "output_skip":
        yield from (("norm_out", "norm"), ("conv_out", "plain"))


_PARTS: dict[str, dict[str, Sequence[str]]] = {
    "time": {"": [""]},
    "norm": {"": [""]},
    "plain": {"": [""]},
    "conv": {"": [".Conv_0"]},
    "dense": {"": [".Conv_0"]},
    "fir_conv": {"": [".Conv2d_0"]},
    "attention": {"/norm": [".GroupNorm_0"], "/qkv": [".NIN_0", ".NIN_1", ".NIN_2"], "/out": [".NIN_3"]},
    "block": {
        "/norm1": [".GroupNorm_0"],
        "/conv1": [".Conv_0"],
        "/emb": [".Dense_0"],
        "/norm2": [".GroupNorm_1"],
        "/conv2": [".Conv_1"],
    },
}
"""By kind: parts of our modules, and what these are called in theirs."""


def _places(model: NCSNpp, image_size: int) -> dict[str, Place]:
    """Where each module's parameters are."""
    skip = {"/skip": [".Conv_2" if model.block == "biggan" else ".NIN_0"]}
    places = {}
    for number, (ours, kind) in enumerate(_order(model, image_size)):
        parts = _PARTS[kind] | (skip if kind == "block" else {})
        ones = 2 * (kind == "dense" or (kind == "block" and model.block == "biggan"))
        for part, theirs in parts.items():
            names = tuple(f"all_modules.{number}{name}" for name in theirs)
            places[ours + part] = Place(names, ones=ones if part in ("", "/skip") else 0)
    return places
