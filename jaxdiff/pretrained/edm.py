"""State dicts of DDPM++ and NCSN++ with the names of EDM's implementation, whose modules are called by resolution."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxdiff import build
from jaxdiff.config import Config, Diffusion, NCSNpp, Sample
from jaxdiff.pretrained.base import Pretrained, parameter_shapes, reading
from jaxdiff.pretrained.matching import Place, block_places, from_theirs
from jaxdiff.pretrained.read import read_weights
from jaxdiff.pretrained.score_sde import negated
from jaxdiff.schedules import check_choice, require
from jaxdiff.typing import InputError

State = dict[str, np.ndarray]


def load_edm(path: Path | str, *, precond: Literal["edm", "vp", "ve"] = "edm") -> Pretrained:
    """The network of a state dict, saved by `torch.save(net.state_dict(), ...)`.

    The names are written from memory and unproven against a published file. EDM's own files (.pkl) are whole programs
    and cannot be read here. Its ADM networks are refused: they are others.

    Labels are added to the embedding of the noise level; a matrix for one-hot labels, times the root of their number,
    and a bias become the rows of ours. What it has for augmentation labels is left out: these are 0 of every picture
    that is not augmented.

    Args:
      path: the file.
      precond: how the network is fed and what it predicts, which the weights do not say: F of EDM's own design, or as
        in score_sde eps of VP, or -eps of VE, which comes in as eps, by the other sign of its last convolutions.

    Raises:
      InputError: a broken file, one with more in it than tensors, or the weights of another network.

    Source: Karras et al. 2022 (arXiv 2206.00364), table 1 and appendix F.
    """
    path = Path(path)
    check_choice("precond", precond, ("edm", "vp", "ve"))
    tensors = _state(read_weights(path), path)
    with reading(path, otherwise="no DDPM++ or NCSN++ of EDM"):
        model, spec = _network(tensors)
    diffusion, sample = {
        "edm": (
            Diffusion(schedule="edm", kind="F", preconditioning="edm"),
            Sample(sampler="heun", steps=18, spacing="karras"),  # equal steps of sigma would hardly be near the data
        ),
        "vp": (Diffusion(schedule="vp", preconditioning="vp"), Sample()),
        "ve": (
            Diffusion(schedule="ve", schedule_options={"sigma_min": 0.02, "sigma_max": 100.0}, preconditioning="ve"),
            Sample(),
        ),
    }[precond]
    config = Config(model=model, diffusion=diffusion, sample=sample)
    like = parameter_shapes(path, config, spec)
    params = from_theirs(path, tensors, like, _places(model, spec.image_shape[0]))
    return Pretrained(config, spec, negated(params) if precond == "ve" else params)


def _state(found: Mapping[str, Any], path: Path) -> State:
    """The state dict without the wrapper's name."""
    state = {str(name).removeprefix("model."): value for name, value in found.items()}
    for name, value in state.items():
        if not isinstance(value, np.ndarray):
            raise InputError(f"{path}: {name} is no tensor; expected a state dict of EDM")
    return state


def _rows(state: State) -> None:
    """An embedding in place of the matrix for one-hot labels, whose variance is made 1, and of its bias."""
    matrix = state["map_label.weight"]
    width, classes = matrix.shape
    bias = state.pop("map_label.bias", np.zeros(width))
    require(bias.shape == (width,), f"map_label.bias is {bias.shape}, expected {(width,)}")
    state["map_label.weight"] = matrix.T * classes**0.5 + bias


def _network(state: State) -> tuple[NCSNpp, build.Spec]:
    """The network, the pictures and the classes; takes out of the state dict what is no parameter."""
    first = [m for name in state if (m := re.fullmatch(r"enc\.(\d{1,4})x\1_conv\.weight", name))]
    require(len(first) == 1, "no first convolution, such as enc.32x32_conv.weight")
    size = int(first[0][1])
    ends = [name for name in state if re.fullmatch(r"dec\.\d+x\d+_aux_conv\.weight", name)]
    require(bool(ends), "no dec.*_aux_conv.weight: neither DDPM++ nor NCSN++ (EDM's ADM networks are not supported)")
    width, channels = state[first[0][0]].shape[:2]
    if "map_label.weight" in state:
        _rows(state)
    if "map_augment.weight" in state:
        inputs = state["map_layer0.weight"].shape[1]
        require(state.pop("map_augment.weight").shape[:-1] == (inputs,), f"map_augment.weight is not [{inputs}, ...]")
    down = [name for name in state if re.fullmatch(r"enc\.\d+x\d+_down\.conv0\.weight", name)]
    starts = [f"enc.{size >> level}x{size >> level}" for level in range(1 + len(down))]
    widths = [len(state[f"{start}_block0.conv1.weight"]) for start in starts]
    require(all(n % width == 0 for n in widths), f"its levels of {widths} channels are no multiples of {width}")
    filters = {state.pop(name).shape for name in list(state) if name.endswith(".resample_filter")}
    require(filters <= {(1, 1, 2, 2), (1, 1, 4, 4)} and len(filters) < 2, f"its filters are of the shapes {filters}")
    frequencies = state.pop("map_noise.freqs", None)
    progressive_input: Literal["none", "input_skip", "residual"] = "none"
    if any(name.endswith("_aux_residual.weight") for name in state):
        progressive_input = "residual"
    elif any(name.endswith("_aux_skip.weight") for name in state):
        progressive_input = "input_skip"
    classes = state.get("map_label.weight")
    model = NCSNpp(
        channels=width,
        multipliers=tuple(n // width for n in widths),
        blocks=sum(bool(re.fullmatch(re.escape(starts[0]) + r"_block\d+\.conv0\.weight", name)) for name in state),
        attention_resolutions=tuple(
            size >> level for level, start in enumerate(starts) if f"{start}_block0.qkv.weight" in state
        ),
        embedding="sinusoidal" if frequencies is None else "fourier",
        frequencies=None if frequencies is None else tuple(map(float, frequencies)),
        fir=(1, 1, 4, 4) in filters,
        progressive_input=progressive_input,
        progressive="output_skip" if len(ends) > 1 else "none",
        null_label=False,
    )
    return model, build.Spec((size, size, channels), None if classes is None else len(classes))


def _places(model: NCSNpp, size: int) -> dict[str, Place]:
    """Where each module's parameters are. A block has its attention within."""
    last = len(model.multipliers) - 1
    at = [f"{size >> level}x{size >> level}" for level in range(last + 1)]
    names = {
        "time_1": "map_layer0",
        "time_2": "map_layer1",
        "label": "map_label",
        "conv_in": f"enc.{at[0]}_conv",
        "norm_out": f"dec.{at[0]}_aux_norm",
        "conv_out": f"dec.{at[0]}_aux_conv",
    }
    blocks = {"middle_0": f"dec.{at[last]}_in0", "middle_1": f"dec.{at[last]}_in1"}
    attentions = {"middle_attention": (f"dec.{at[last]}_in0", model.multipliers[last])}
    for level, multiplier in enumerate(model.multipliers):
        for i in range(model.blocks):
            blocks[f"down_{level}_{i}"] = f"enc.{at[level]}_block{i}"
            attentions[f"down_{level}_{i}_attention"] = (f"enc.{at[level]}_block{i}", multiplier)
        for i in range(model.blocks + 1):
            blocks[f"up_{level}_{i}"] = f"dec.{at[level]}_block{i}"
        attentions[f"up_{level}_attention"] = (f"dec.{at[level]}_block{model.blocks}", multiplier)
        if level < last:  # what resamples is the next level's
            blocks[f"down_{level}"] = f"enc.{at[level + 1]}_down"
            blocks[f"up_{level + 1}"] = f"dec.{at[level]}_up"
            kind = "aux_skip" if model.progressive_input == "input_skip" else "aux_residual"
            names[f"input_{level}"] = f"enc.{at[level + 1]}_{kind}"
        names |= {f"{part}_out_{level}": f"dec.{at[level]}_aux_{part}" for part in ("norm", "conv")}
    places = {ours: Place((theirs,), ones=2 * ours.startswith("input")) for ours, theirs in names.items()}
    parts = {"norm1": "norm0", "conv1": "conv0", "emb": "affine", "norm2": "norm1", "conv2": "conv1", "skip": "skip"}
    places |= block_places(blocks, parts)
    for ours, (theirs, multiplier) in attentions.items():
        width = multiplier * model.channels
        lying = np.arange(3 * width).reshape(width, 3)  # each channel's query, key and value together
        places[f"{ours}/norm"] = Place((f"{theirs}.norm2",))
        places[f"{ours}/qkv"] = Place((f"{theirs}.qkv",), order=tuple(lying.T.ravel().tolist()), ones=2)
        places[f"{ours}/out"] = Place((f"{theirs}.proj",), ones=2)
    return places
