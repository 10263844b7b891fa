"""What is known of a set of images, in a file: a .npz with `mu` and `sigma`, as pytorch-fid reads and writes them.

Ours has more: `count`, the moments of the other outputs (`mu_spatial`, ...), whole features if they were kept
(`array_pool`), labels, and `about`, JSON that says in which features. guided-diffusion's
files are read too, whose spatial statistics have names of their own.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from jaxdiff.evaluation.gather import Gathered
from jaxdiff.features import Features
from jaxdiff.files import write_atomically
from jaxdiff.metrics import Moments
from jaxdiff.typing import InputError

_SPATIAL = {"_spatial": "_s"}  # guided-diffusion's name


def write_statistics(path: Path, gathered: Gathered, features: Features) -> None:
    """Write it; whole or not at all.

    Raises:
      InputError: another suffix, or it cannot be written.
    """
    if path.suffix.lower() != ".npz":
        raise InputError(f"{path}: expected a name that ends in .npz")
    arrays: dict[str, Any] = {}
    for name, found in gathered.moments.items():
        arrays |= {f"mu{_suffix(name)}": found.mean, f"sigma{_suffix(name)}": found.covariance}
    arrays |= {f"array_{name}": array for name, array in gathered.arrays.items()}
    if gathered.labels is not None:
        arrays["labels"] = gathered.labels
    about = {
        "name": gathered.name, "count": gathered.count, "image_shape": gathered.image_shape, "sha256": gathered.sha256,
        "features": {"name": features.name, **features.description},
    }  # fmt: skip
    try:
        write_atomically(path, lambda file: np.savez(file, about=np.array(json.dumps(about)), **arrays))
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error})") from error


def is_statistics(path: Path) -> bool:
    """Whether a file is one, and no set of images."""
    if path.suffix.lower() != ".npz" or not path.is_file():
        return False
    try:
        with open(path, "rb") as opened, np.load(opened) as file:
            return "mu" in file.files
    except Exception:  # numpy and zipfile raise many kinds; whoever reads it as images will say what it is
        return False


def read_statistics(path: Path, features: Features) -> Gathered:
    """What is known of a set.

    Raises:
      InputError: it cannot be read, is of other features, or has no moments.
    """
    try:
        with open(path, "rb") as opened, np.load(opened) as file:
            arrays = {name: file[name] for name in file.files if name != "arr_0"}
    except Exception as error:  # numpy and zipfile raise many kinds
        raise InputError(
            f"{path}: not readable as statistics ({error}); make it again by jaxdiff statistics"
        ) from error
    about = _about(arrays.pop("about", None))
    made = about.get("features")
    own = json.loads(json.dumps({"name": features.name, **features.description}))
    if made is not None and made != own:
        other = ", ".join(
            f"{key} {made.get(key)!r}, not {own.get(key)!r}" for key in own if made.get(key) != own.get(key)
        )
        raise InputError(
            f"{path}: statistics in other features: {other or 'more of them'}; make it again, or use those"
        )
    if made is None and features.name != "inception":
        raise InputError(
            f"{path}: does not say in which features it is; such files are taken for those of Inception only"
        )
    count = about.get("count")
    found = {}
    for name, size in features.dimensions.items():
        mu, sigma = (_array(arrays, f"{stem}{_suffix(name)}") for stem in ("mu", "sigma"))
        if mu is None or sigma is None:
            continue
        shapes = mu.shape == (size,) and sigma.shape == (size, size) and mu.dtype.kind == sigma.dtype.kind == "f"
        if shapes and not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
            raise InputError(f"{path}: mu or sigma of {name} has numbers that are not finite; make it again")
        if not shapes:
            raise InputError(
                f"{path}: mu and sigma of {name} are {mu.shape} and {sigma.shape}; expected numbers "
                f"({size},) and ({size}, {size})"
            )
        n = count or 2
        found[name] = Moments(n, mu.astype(np.float64), sigma.astype(np.float64) * (n - 1))
    if not found:
        raise InputError(f"{path}: no mu and sigma of {', '.join(features.dimensions)} in it")
    kept = {name: arrays[f"array_{name}"] for name in features.dimensions if f"array_{name}" in arrays}
    shape = about.get("image_shape")
    return Gathered(
        str(path), count, found, kept, arrays.get("labels"), None if shape is None else tuple(shape),
        about.get("sha256"),
    )  # fmt: skip


def read_about(path: Path) -> dict[str, Any]:
    """What a file of statistics says of the set: `name`, `count`, `image_shape`, `features`, `labels`, and the names of
    its `arrays`; of other programs' files none of it."""
    with open(path, "rb") as opened, np.load(opened) as file:
        found = _about(file["about"] if "about" in file.files else None)
        labels = {"labels": file["labels"]} if "labels" in file.files else {}
        return found | labels | {"arrays": [name for name in file.files if name.startswith("array_")]}


def _about(text: np.ndarray | None) -> dict[str, Any]:
    try:
        found = json.loads(str(text)) if text is not None else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _suffix(output: str) -> str:
    return "" if output == "pool" else f"_{output}"


def _array(arrays: dict[str, np.ndarray], name: str) -> np.ndarray | None:
    for ours, theirs in _SPATIAL.items():
        if name.endswith(ours) and name not in arrays:
            name = name.removesuffix(ours) + theirs
    return arrays.get(name)
