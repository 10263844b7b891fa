"""A network with its sampler as one program in a file, which `jaxdiff.serving` runs without either.

`jaxdiff export` is its command line.
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import ShapeDtypeStruct as Shape
from jax import export as jax_export

from jaxdiff import build, sampling
from jaxdiff.config import Config, to_dict
from jaxdiff.files import write_atomically
from jaxdiff.samplers import draws_noise
from jaxdiff.serving import FORMAT, MANIFEST, PROGRAM, VERSION, WEIGHTS, check_calls
from jaxdiff.typing import Array, InputError, PyTree
from jaxdiff.weights import SUFFIX, encode_weights, named

Program = Callable[[dict[str, Array], dict[str, Array]], Array]

Platform = Literal["cpu", "cuda", "rocm", "tpu"]

PLATFORMS: tuple[Platform, ...] = ("cpu", "cuda", "tpu")
"""Of which none need be there: a program is lowered for them, not compiled."""


class Guide(NamedTuple):
    """A classifier that guides: a function of labels and params, these, the number of labels, and how strongly."""

    classify: sampling.Classify
    params: PyTree
    num_classes: int
    scale: float


class Artefact(NamedTuple):
    """All of a file, before it is written: what `serving` has to say of it, the program, and its weights."""

    manifest: dict[str, Any]
    program: bytes
    weights: bytes


def artefact(
    config: Config,
    spec: build.Spec,
    params: PyTree,
    *,
    guide: Guide | None = None,
    platforms: Sequence[Platform] = PLATFORMS,
    seed: int = 0,
    labels: Sequence[int] = (),
    batch: int = 256,
    latents: bool = False,
    made_from: Mapping[str, Any] | None = None,
) -> Artefact:
    """A program that makes the pictures of `config.sample`, for any batch, and its weights.

    Sampler, times and their number, eta, clipping and what the starting noise is cut off at are in the program; the
    scale of guidance, temperature, seed, numbers and labels of the pictures are its inputs, with those given here as
    defaults. With guidance 1 the network is called once a time, and the program has no such input. Of attention it has
    JAX's own form: cuDNN's is not among the calls that JAX promises to keep. The bytes are the same every time, in one
    version of all libraries.

    Args:
      config: of which `model`, `diffusion` and `sample` are read.
      spec: of the pictures.
      params: the network's.
      guide: a classifier that guides it.
      platforms: of cpu, cuda, rocm and tpu, those that it will run on.
      seed: the default.
      labels: of the pictures in turn, the default; none for every class in turn.
      batch: the most pictures at a time, by default.
      latents: what is made are an autoencoder's latents.
      made_from: what else the manifest says of where the weights come from.

    Raises:
      InputError: JAX cannot export it, as with an adaptive sampler.

    Source: jax.export; `serving` says how long its programs last.
    """
    inputs, name = _inputs(config, spec, guide, seed, labels), config.sample.sampler
    tensors = {name: Shape(leaf.shape, jnp.float32) for name, leaf in named(_tree(params, guide)).items()}
    shapes = {name: shape for name, (shape, _) in inputs.items()}
    try:
        with _exporting():
            program = jax.jit(_program(config, spec, params, guide))
            exported = jax_export.export(program, platforms=platforms)(tensors, shapes)
        check_calls(exported)
        content = bytes(exported.serialize())
    except InputError:
        raise
    except ImportError as error:
        raise InputError(f"jax.export writes programs by flatbuffers: pip install flatbuffers ({error})") from error
    except Exception as error:  # of tracing or of lowering, wherever that ends
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(
            f"--sampler {name}: JAX cannot export this program, for any batch on {', '.join(platforms)} ({said}). "
            "Adaptive samplers, such as ode, call back to Python; take another, such as dpm_solver++"
        ) from error
    sections = {name: to_dict(config)[name] for name in ("sample", "diffusion", "model")}
    weights = encode_weights(_tree(params, guide), {"config": {k: sections[k] for k in ("diffusion", "model")}})
    manifest = {
        "format": FORMAT,
        "format_version": VERSION,
        "versions": {
            "jaxdiff": version("jaxdiff"),
            "jax": jax.__version__,
            "jaxlib": version("jaxlib"),
            "calling_convention": exported.calling_convention_version,
        },
        "platforms": list(exported.platforms),
        "made_from": dict(made_from or {}),
        "makes": "latents" if latents else "pictures",
        "image_shape": list(spec.image_shape),
        "num_classes": spec.num_classes,
        "sampler": name,
        "steps": config.sample.steps,
        "network_evaluations": sampling.network_evaluations(config, spec),
        "batch": batch,
        "random": {
            "implementation": str(jax.random.key_impl(jax.random.key(0))),
            "partitionable": bool(jax.config.jax_threefry_partitionable),  # type: ignore[attr-defined]
        },
        "inputs": {name: _said(shape) | about for name, (shape, about) in inputs.items()},
        "output": _said(exported.out_avals[0]) | {"range": None if latents else [-1, 1]},
        "program": _sum(PROGRAM, content),
        "weights": _sum(WEIGHTS, weights),
        "config": sections,
    }
    return Artefact(manifest, content, weights)


def write(out: Path, made: Artefact, *, weights_beside: bool = False) -> None:
    """One file, or two: both whole or not there.

    Args:
      out: its folder is made, a file there is replaced.
      made: what it holds.
      weights_beside: put the weights into a second file, NAME.safetensors beside NAME.jaxdiff, which other libraries,
        and sample.py --weights, read too.

    Raises:
      OSError: it cannot be written.
    """
    manifest, beside = made.manifest, weights_file(out) if weights_beside else None
    if beside is not None:
        manifest = manifest | {"weights": manifest["weights"] | {"file": beside.name}}
    members = {MANIFEST: (json.dumps(manifest, indent=1) + "\n").encode(), PROGRAM: made.program}
    members |= {} if weights_beside else {WEIGHTS: made.weights}

    def zipped(file: BinaryIO) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, content in members.items():
                info = zipfile.ZipInfo(name)  # of 1980: the same bytes whenever it is made
                info.external_attr = 0o644 << 16
                archive.writestr(info, content)
        if beside is not None:  # the last moment at which nothing is there yet under either name
            write_atomically(beside, made.weights)

    write_atomically(out, zipped)


def weights_file(out: Path) -> Path:
    """Where the weights beside such a file are."""
    return out.with_suffix(SUFFIX)


def _inputs(
    config: Config, spec: build.Spec, guide: Guide | None, seed: int, labels: Sequence[int]
) -> dict[str, tuple[Shape, dict[str, Any]]]:
    """Those of the program: their shapes, and what the manifest says of them."""
    sampler, _, scale, temperature, _ = sampling.settings(config)
    (batch,) = jax_export.symbolic_shape("batch")
    number = Shape((), jnp.float32)
    found: dict[str, tuple[Shape, dict[str, Any]]] = {
        "seed": (Shape((), jnp.uint32), {"range": [0, 2**32 - 1], "default": seed}),
        "index": (Shape((batch,), jnp.int32), {"range": [0, 2**31 - 1]}),
    }
    classes = spec.num_classes if guide is None else guide.num_classes
    if classes is not None:
        found["label"] = (Shape((batch,), jnp.int32), {"range": [0, classes - 1], "default": list(labels) or None})
    if spec.num_classes is not None and scale is not None:
        found["guidance"] = (number, {"range": [None, None], "default": float(scale)})
    if draws_noise(sampler):
        found["temperature"] = (number, {"range": [0, None], "default": float(temperature)})
    if guide is not None:
        found["classifier_scale"] = (number, {"range": [None, None], "default": guide.scale})
    return found


def _program(config: Config, spec: build.Spec, params: PyTree, guide: Guide | None) -> Program:
    """`({name: weight}, inputs) -> float32 [B, H, W, C]`."""
    sampler, times, _, temperature, noise = sampling.settings(config)
    generate = sampling.generator(config, spec, classify=None if guide is None else guide.classify)
    tree = _tree(params, guide)
    names, structure = list(named(tree)), jax.tree.structure(tree)

    def program(weights: dict[str, Array], inputs: dict[str, Array]) -> Array:
        own = jax.tree.unflatten(structure, [weights[name] for name in names])
        guided = None if guide is None else (own.pop("classifier"), inputs["classifier_scale"])
        pictures: Array = generate(
            own, jax.random.key(inputs["seed"]), inputs["index"], inputs.get("label"), sampler, times,
            inputs.get("guidance"), inputs.get("temperature", temperature), noise, guided,
        )  # fmt: skip
        return pictures

    return program


def _tree(params: PyTree, guide: Guide | None) -> dict[str, PyTree]:
    return {**params, **({} if guide is None else {"classifier": guide.params})}


@contextmanager
def _exporting() -> Iterator[None]:
    """Within it programs are traced as they are to be kept: with no cuDNN, and no paths of this machine in them."""
    frames = jax.config.jax_traceback_in_locations_limit  # type: ignore[attr-defined]
    attention = os.environ.get("JAXDIFF_ATTENTION")
    jax.config.update("jax_traceback_in_locations_limit", 0)
    os.environ["JAXDIFF_ATTENTION"] = "xla"
    try:
        yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", frames)
        del os.environ["JAXDIFF_ATTENTION"]
        if attention is not None:
            os.environ["JAXDIFF_ATTENTION"] = attention


def _said(array: Any) -> dict[str, Any]:
    """Of a shape; a size that is a symbol by its name."""
    return {"dtype": array.dtype.name, "shape": [n if isinstance(n, int) else str(n) for n in array.shape]}


def _sum(name: str, content: bytes) -> dict[str, Any]:
    return {"file": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
