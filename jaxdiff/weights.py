"""Files of a network's weights: .safetensors, which other libraries read too."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save, save_file

from jaxdiff.files import write_atomically
from jaxdiff.typing import InputError, PyTree

SUFFIX = ".safetensors"


def write_weights(path: Path, params: PyTree, metadata: Mapping[str, Any]) -> None:
    """Write parameters as float32, by names such as params/conv_in/kernel; whole or not at all.

    Args:
      path: NAME.safetensors; its folder is made, a file there is replaced.
      params: nested dictionaries of arrays.
      metadata: what is to be known of them, by name; JSON values.

    Raises:
      InputError: another suffix, or the file cannot be written.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "w.safetensors"
    ...     write_weights(path, {"params": {"w": np.ones(2), "gain": np.ones(())}}, {"step": 7})
    ...     read_weights(path, {"params": {"w": np.zeros(2, np.float32), "gain": np.float32(0)}}), read_metadata(path)
    ({'params': {'gain': array(1., dtype=float32), 'w': array([1., 1.], dtype=float32)}}, {'step': 7})
    """
    check_name(path)
    tensors, words = _contents(params, metadata)
    try:
        write_atomically(path, lambda file: save_file(tensors, file.name, words))
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be written ({error})") from error


def encode_weights(params: PyTree, metadata: Mapping[str, Any]) -> bytes:
    """What `write_weights` writes. Only metadata of at most one name are in the same order every time.

    Args:
      params: as of `write_weights`.
      metadata: as of `write_weights`.
    """
    return bytes(save(*_contents(params, metadata)))


def _contents(params: PyTree, metadata: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    tensors = {name: np.asarray(leaf, np.float32, order="C") for name, leaf in named(params).items()}
    return tensors, {name: json.dumps(value) for name, value in metadata.items()}


def read_weights(path: Path, like: PyTree) -> PyTree:
    """The parameters of such a file: numpy arrays of the dtypes of `like`.

    Args:
      path: the file.
      like: arrays, or their shapes, that the file must have: all of them, and no others.

    Raises:
      InputError: no such file, it cannot be read, or other names or shapes; names them.
    """
    expected = named(like)
    with _opened(path) as file:
        there = set(file.keys())
        missing, extra = sorted(expected.keys() - there), sorted(there - expected.keys())
        if missing or extra:
            wrong = [f"{what} {_some(names)}" for what, names in (("no", missing), ("also", extra)) if names]
            raise InputError(f"{path}: weights of another network: it has {'; '.join(wrong)}")
        arrays = {}
        for name, leaf in expected.items():
            try:
                array = file.get_tensor(name)
            except (
                SafetensorError,
                TypeError,
                KeyError,
                AttributeError,
            ) as error:  # cut short, or numbers numpy has not
                raise InputError(f"{path}: {name} cannot be read ({error})") from error
            if array.shape != leaf.shape:
                raise InputError(
                    f"{path}: weights of another network: {name} is {array.shape} there, expected {leaf.shape}"
                )
            arrays[name] = array.astype(leaf.dtype)
    return jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in expected])


def read_metadata(path: Path) -> dict[str, Any]:
    """What `write_weights` was told of them; empty for a file that another library wrote.

    Raises:
      InputError: no such file, or it cannot be read.
    """
    with _opened(path) as file:
        words: dict[str, str] = file.metadata() or {}
    try:
        return {name: json.loads(word) for name, word in words.items()}
    except ValueError:
        return {}


def check_name(path: Path) -> None:
    """Raise `InputError` for a name that such a file cannot have."""
    if path.suffix != SUFFIX:
        raise InputError(f"{path}: expected a name that ends in {SUFFIX}")


def named(tree: PyTree) -> dict[str, Any]:
    """The leaves by their names, in the tree's order.

    >>> named({"params": {"conv": {"kernel": 1, "bias": 2}}})
    {'params/conv/bias': 2, 'params/conv/kernel': 1}
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _opened(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"{path}: no such file of weights")
    try:
        return safe_open(path, framework="numpy")
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: not readable as a file of weights ({error})") from error
