"""Folders of diffusers, config.json with safetensors or .bin: `UNet2DModel` (google/ddpm-*, ...), from and to; DiT."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from safetensors.numpy import save

from jaxdiff.config import Config, UNet
from jaxdiff.files import write_atomically
from jaxdiff.models.lora import merged
from jaxdiff.pretrained import diffusers_dit, diffusers_unet
from jaxdiff.pretrained.base import Pretrained, parameter_shapes
from jaxdiff.pretrained.diffusers_scheduler import diffusion_of, read_json, scheduler_of
from jaxdiff.pretrained.dit import PICTURES
from jaxdiff.pretrained.matching import from_theirs, to_theirs
from jaxdiff.pretrained.read import read_weights
from jaxdiff.schedules import require
from jaxdiff.typing import InputError

_WEIGHTS = "diffusion_pytorch_model"


def load_diffusers(folder: Path | str, *, null_label: bool | None = None) -> Pretrained:
    """The `UNet2DModel` or `DiTTransformer2DModel` of a folder that diffusers' `save_pretrained` wrote, or of a
    pipeline's, with its scheduler.

    Exactly that network, with the arguments that published models use. Of a U-Net: positional time embedding, SiLU,
    blocks with or without attention (the same on the way up as on the way down), convolutions or residual blocks that
    resample. Of a DiT: all; it is what diffusers computes, whose embedding of time has other frequencies than the
    original's, and the norm before the MLP another eps.

    Args:
      folder: with config.json and diffusion_pytorch_model.safetensors or .bin, or with these in `unet` or
        `transformer`. Its scheduler_config.json, there or in `scheduler`, says how it was trained; without one it is
        taken for DDPM's, a linear table of 1,000 steps and the prediction of eps.
      null_label: of a U-Net: the last of its classes stands for no label, so that it can be guided. None: it does so in
        what `save_diffusers` wrote of a class-conditional network that was trained here. A DiT has a null label anyway.

    Raises:
      InputError: files that are missing or broken; an argument that our networks have not; weights that do not fit.

    Source: the arguments are those of diffusers 0.42, and the older names of its attention.
    """
    folder = Path(folder)
    places = [folder / part for part in ("unet", "transformer") if (folder / part / "config.json").is_file()]
    place = places[0] if places else folder
    described = read_json(place / "config.json")
    name = str(described.get("_class_name"))
    if name not in _CLASSES:
        raise InputError(f"{place / 'config.json'}: describes {name}, expected a {' or a '.join([*_CLASSES][:2])}")
    theirs = _CLASSES[name]
    arguments = _complete(described, theirs.ARGUMENTS, place / "config.json")
    try:
        model, spec, learned = theirs.network(arguments, place / "config.json")
        diffusion, sample = diffusion_of(folder, learned=learned)
    except InputError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:  # of another type
        raise InputError(f"{folder}: no arguments of a {name} and a scheduler ({error})") from error
    latents = any((folder / part).is_dir() for part in ("vae", "vqvae")) or spec.image_shape[-1] not in PICTURES
    sample = dataclasses.replace(sample, clip=sample.clip and not latents)
    if null_label is None:
        null_label = described.get(_NULL_LABEL, model.null_label)
    require(
        null_label is False or (null_label is True and (model.null_label or (spec.num_classes or 0) > 1)),
        f"null_label: expected true or false, true of two or more classes; got {null_label!r} of {spec.num_classes}",
    )
    require(null_label is not False or not model.null_label, "null_label false: this network has one")
    if null_label and not model.null_label:
        model = dataclasses.replace(model, null_label=True)
        spec = spec._replace(num_classes=(spec.num_classes or 0) - 1)
    config = Config(model=model, diffusion=diffusion, sample=sample)
    like = parameter_shapes(place, config, spec)

    files = [place / f"{_WEIGHTS}{suffix}" for suffix in (".safetensors", ".bin")]
    weights = next((file for file in files if file.is_file()), None)
    if weights is None:
        raise InputError(f"{place}: no {files[0].name} and no {files[1].name} there")
    params = from_theirs(weights, theirs.tensors(read_weights(weights), weights), like, theirs.its_places(model))
    return Pretrained(config, spec, params, latents=latents)


def save_diffusers(folder: Path | str, pretrained: Pretrained) -> None:
    """Write a network and its parameters as diffusers' `save_pretrained` does: `UNet2DModel.from_pretrained` reads it.

    The inverse of `load_diffusers`: what that reads, this writes with the same bits.

    Args:
      folder: is made; config.json, diffusion_pytorch_model.safetensors and scheduler_config.json in it are replaced.
      pretrained: the network; also one that was trained here, as `Pretrained(config, spec, params)`. A low-rank
        adaptation becomes part of the kernels.

    Raises:
      InputError: a network, prediction or schedule that diffusers has no words for.
    """
    folder = Path(folder)
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    require(place.is_dir(), f"{folder}: {place} is a file; expected a folder, or a new name for one")
    config, spec = pretrained.config, pretrained.spec
    model = config.model
    if not isinstance(model, UNet):
        raise InputError(f"a network of the kind {model.network}: only a unet can be exported, as a UNet2DModel")
    require(config.condition.factor is None, "a network of super-resolution: diffusers has no pipeline that gives it")
    described = diffusers_unet.arguments_of(model, config.diffusion, spec, pretrained.params)
    if spec.num_classes is not None and model.null_label:
        described[_NULL_LABEL] = True
    scheduler = scheduler_of(config.diffusion, config.sample)
    tensors = to_theirs(merged(pretrained.params), diffusers_unet.its_places(model))
    contents = {
        f"{_WEIGHTS}.safetensors": save(tensors, metadata={"format": "pt"}),
        "scheduler_config.json": (json.dumps(scheduler, indent=2) + "\n").encode(),
        "config.json": (json.dumps(described, indent=2) + "\n").encode(),  # last: without it the folder is none
    }
    for name, content in contents.items():
        write_atomically(folder / name, content)


_NULL_LABEL = "_jaxdiff_null_label"
"""Ours in config.json: the last class stands for no label. diffusers reads over names that begin with an underscore."""


def _complete(described: Mapping[str, Any], defaults: Mapping[str, Any], path: Path) -> dict[str, Any]:
    given = {name: value for name, value in described.items() if not name.startswith("_")}
    unknown = sorted(set(given) - set(defaults))
    if unknown:
        raise InputError(f"{path}: {', '.join(unknown)}: no argument that is known here")
    return {**defaults, **given}


_CLASSES: dict[str, ModuleType] = {
    "UNet2DModel": diffusers_unet,
    **dict.fromkeys(diffusers_dit.CLASSES, diffusers_dit),
}
"""What reads a class of theirs: its `ARGUMENTS` with their defaults, `network`, `tensors` and `its_places`."""
