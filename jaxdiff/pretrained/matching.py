"""Parameters of our networks from another library's state dict, and back, module by module. Strict in both directions.

What belongs where is a dictionary from the names of our modules to `Place`s in the state dict. How the arrays differ
follows from what a parameter is:

    kernel of a convolution   ours [*space, in, out]   theirs [out, in, *space]
    kernel of a dense layer   ours [in, out]           theirs [out, in], or [out, in, 1, ...] of a 1x1 convolution
    fixed statistics          ours mean, var           theirs running_mean, running_var, of a batch normalisation
    all others                the same; what is no norm's or embedding's weight also by the same name
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxdiff.typing import InputError, PyTree

_THEIRS = {
    "kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias", "mean": "running_mean",
    "var": "running_var",
}  # fmt: skip
_SHOWN = 8  # names in a message


class Place(NamedTuple):
    """Where the parameters of a module are in a state dict.

    Attributes:
      names: of modules there: one, or several whose outputs one after the other are ours (queries, keys and values).
      order: output `i` of ours is output `order[i]` of theirs; None: the same order.
      ones: of a dense layer that is a convolution there, its dimensions of space.
    """

    names: tuple[str, ...]
    order: tuple[int, ...] | None = None
    ones: int = 0


def block_places(blocks: Mapping[str, str], parts: Mapping[str, str]) -> dict[str, Place]:
    """Of residual blocks, from the names of ours to those of theirs, and from the names of a block's parts to those of
    theirs. The skip is a convolution 1 wide there.

    >>> block_places({"middle_0": "mid.0"}, {"conv1": "conv"})
    {'middle_0/conv1': Place(names=('mid.0.conv',), order=None, ones=0)}
    """
    return {
        f"{ours}/{part}": Place((f"{theirs}.{name}",), ones=2 * (part == "skip"))
        for ours, theirs in blocks.items()
        for part, name in parts.items()
    }


def shape_of(tensors: Mapping[Any, Any], name: str, path: Path, *, ndim: int, expected: str) -> tuple[int, ...]:
    """The shape of a tensor; `InputError`, which says what was `expected`, if there is none of so many dimensions."""
    found = tensors.get(name)
    if not isinstance(found, np.ndarray):
        raise InputError(f"{path}: no {name} in it; expected {expected}")
    if found.ndim != ndim or 0 in found.shape:
        dimensions = f"{ndim} dimensions, none of them 0"
        raise InputError(f"{path}: {name} is {found.shape}, expected {dimensions}, as of {expected}")
    return tuple(found.shape)


def from_theirs(path: Path, tensors: Mapping[str, Any], like: PyTree, places: Mapping[str, Place]) -> PyTree:
    """Our parameters, float32, from a state dict.

    Args:
      path: of the file, for messages.
      tensors: the state dict.
      like: our parameters' shapes, `{"params": ...}`.
      places: for each of our modules with parameters ("down_0_0/conv1") its place.

    Raises:
      InputError: names that are missing or left over, other shapes, values that are not finite, all of them at once.
    """
    flat = flatten_dict(like["params"], sep="/")
    found, used, faults = {}, set(), []
    for name, leaf in flat.items():
        module, _, kind = name.rpartition("/")
        place = places[module]
        names = [f"{theirs}.{_THEIRS.get(kind, kind)}" for theirs in place.names]
        used.update(names)
        missing = [theirs for theirs in names if not isinstance(tensors.get(theirs), np.ndarray)]
        if missing:
            faults += [f"missing {theirs}" for theirs in missing]
            continue
        shapes = [tensors[theirs].shape for theirs in names]
        expected = _their_shape(leaf.shape, kind, len(names), place.ones)
        if any(shape not in (expected, _their_shape(leaf.shape, kind, len(names), 0)) for shape in shapes):
            faults += [f"{theirs} is {shape}, expected {expected}" for theirs, shape in zip(names, shapes)]
            continue
        y = np.concatenate([_ours(tensors[theirs], kind, leaf.ndim) for theirs in names], axis=-1)
        found[name] = np.ascontiguousarray((y if place.order is None else y[..., place.order]).astype(np.float32))
        if not np.isfinite(found[name]).all():
            faults.append(f"{names[0]} has values that are not finite")
    faults += [f"left over {theirs}" for theirs in sorted(map(str, set(tensors) - used))]
    if faults:
        more = f"\n  ... and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        lines = "".join(f"\n  {fault}" for fault in faults[:_SHOWN])
        raise InputError(f"{path}: these weights are not those of the network that its description makes:{lines}{more}")
    result: PyTree = {"params": unflatten_dict(found, sep="/")}
    return result


def to_theirs(params: PyTree, places: Mapping[str, Place]) -> dict[str, np.ndarray]:
    """The state dict of our parameters: the inverse of `from_theirs`, to the last bit."""
    tensors = {}
    for name, leaf in flatten_dict(params["params"], sep="/").items():
        module, _, kind = name.rpartition("/")
        place, y = places[module], np.asarray(leaf)
        y = y if place.order is None else y[..., np.argsort(place.order)]
        for theirs, part in zip(place.names, np.split(y, len(place.names), axis=-1), strict=True):
            shape = _their_shape(part.shape, kind, 1, place.ones)
            part = np.moveaxis(part, (-1, -2), (0, 1)) if kind == "kernel" else part
            tensors[f"{theirs}.{_THEIRS.get(kind, kind)}"] = np.ascontiguousarray(part).reshape(shape)
    return tensors


def _their_shape(shape: tuple[int, ...], kind: str, parts: int, ones: int) -> tuple[int, ...]:
    *rest, outputs = shape
    if kind != "kernel":
        return (*rest, outputs // parts)
    *space, inputs = rest
    return (outputs // parts, inputs, *space, *(1,) * (ones if not space else 0))


def _ours(y: np.ndarray, kind: str, ndim: int) -> np.ndarray:
    y = y.reshape(y.shape[:ndim])  # without the ones
    return np.moveaxis(y, (0, 1), (-1, -2)) if kind == "kernel" else y
