"""Weights from other libraries' files, as numpy arrays by their names there. Nothing in a file is ever run.

A `.pt` file of torch (also `.pth`, `.bin`) is raw numbers and a pickle that says which of them make which tensor
(`unpickle`): in a zip, or, as torch before 1.6 wrote it and many a published file still is, one after the other.
"""

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import deserialize

from jaxdiff.pretrained.unpickle import LARGEST_PICKLE, Storage, Unpickler
from jaxdiff.typing import InputError

_SAFE = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # a pickle of the number that torch's old files begin with


def read_weights(path: Path | str) -> dict[str, Any]:
    """What a `.safetensors` file, or a `.pt` file of torch, holds: arrays by name, or dictionaries of them by name.

    Torch need not be installed, and nothing of the file is executed. Numbers, words and lists beside the tensors, such
    as the step of a training state, stay as they are.

    Args:
      path: the file; of which kind it is, its first bytes say.

    Returns:
      Arrays of numpy in the dtypes of the file, bfloat16 as that of ml_dtypes; read-only.

    Raises:
      InputError: no such file; neither of the two; broken or cut short; a pickle that calls for anything else than
        tensors and containers, which it names.

    >>> read_weights("/nowhere/model.pt")
    Traceback (most recent call last):
    ...
    jaxdiff.typing.InputError: /nowhere/model.pt: no such file
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: {'a folder; expected a file of weights' if path.is_dir() else 'no such file'}")
    try:
        with path.open("rb") as file:
            start = file.read(len(_LEGACY))
        if start.startswith(b"PK\x03\x04"):
            with zipfile.ZipFile(path) as archive:
                return _state_dict(_Zip(archive, path))
        if start == _LEGACY:
            return _state_dict(_Legacy(path.read_bytes(), path))
        if start[8:9] == b"{":  # after the length of the header
            return _read_safetensors(path)
    except InputError:
        raise
    except Exception as error:  # whatever zipfile, the interpreter and safetensors make of a file that is not right
        raise InputError(f"{path}: broken, or cut short ({type(error).__name__}: {error})") from error
    hint = "; it is a bare pickle" if start.startswith(b"\x80") else ""
    raise InputError(f"{path}: neither a .safetensors file nor one that torch.save wrote{hint}")


def _read_safetensors(path: Path) -> dict[str, Any]:
    # Not by its numpy functions, which have no bfloat16.
    tensors = {}
    for name, described in deserialize(path.read_bytes()):
        if described["dtype"] not in _SAFE:
            raise InputError(f"{path}: {name} has numbers of the kind {described['dtype']}, which is not supported")
        numbers = np.frombuffer(described["data"], _SAFE[described["dtype"]])
        tensors[name] = numbers.reshape(described["shape"])
    return tensors


def _state_dict(file: "_Zip | _Legacy") -> dict[str, Any]:
    found = file.read()
    if not isinstance(found, dict):
        raise file.refuse(f"holds {type(found).__name__}, expected a dictionary of tensors by name (a state_dict)")
    return found


class _Zip(Unpickler):
    """An archive of torch, since 1.6."""

    def __init__(self, archive: zipfile.ZipFile, path: Path):
        super().__init__(path)
        self.archive = archive
        self.entries = {entry.filename: entry for entry in archive.infolist()}
        self.storages: dict[str, np.ndarray] = {}

    def read(self) -> Any:
        pickles = [name for name in self.entries if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise self.refuse("a zip, but not one that torch.save wrote (no data.pkl in it)")
        self.folder = pickles[0].removesuffix("data.pkl")
        # torch stores without compression, so whatever a header promises, there cannot be more than the file holds.
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in self.entries.values()):
            raise self.refuse("compressed, which torch.save does not do; refused")
        if sum(entry.file_size for entry in self.entries.values()) > self.path.stat().st_size:
            raise self.refuse("its parts are larger than the file; refused")
        if self.entries[pickles[0]].file_size > LARGEST_PICKLE:
            raise self.refuse("its data.pkl is larger than 4 MiB; refused")
        order = self.folder + "byteorder"
        if order in self.entries and self.archive.read(order) != b"little":
            raise self.refuse("written on a big-endian machine; not supported")
        return self.run(self.archive.read(pickles[0]))

    def numbers(self, storage: Storage) -> np.ndarray:
        if storage.key not in self.storages:
            raw = self.archive.read(f"{self.folder}data/{storage.key}")
            self.storages[storage.key] = np.frombuffer(raw, np.uint8)
        return _view(self.storages[storage.key], storage)


class _Legacy(Unpickler):
    """A file of torch before 1.6: pickles of a magic number, the format's version, the machine, the tensors and the
    names of their storages; then each storage, after its length as int64."""

    def __init__(self, content: bytes, path: Path):
        super().__init__(path)
        self.content, self.at = content, 0
        self.complete = False  # whether the storages have been found
        self.dtypes: dict[str, Any] = {}
        self.storages: dict[str, np.ndarray] = {}

    def read(self) -> Any:
        _, version, machine = (self.value() for _ in range(3))
        if version != 1001 or machine["little_endian"] is not True:
            raise self.refuse("of another version of torch's files, or written on a big-endian machine; not supported")
        # The dtypes, and so the lengths, of the storages stand in the pickle before them, which is read once for these
        # and once for the tensors.
        begin = self.at
        self.value()
        for key in self.value():
            if not isinstance(key, str):  # before it is hashed, or said
                raise TypeError("no name of a storage")
            (numel,) = struct.unpack_from("<q", self.content, self.at)
            first, self.at = self.at + 8, self.at + 8 + numel * self.dtypes[key].itemsize
            if numel < 0 or self.at > len(self.content):
                raise ValueError(f"storage {key} of {numel} numbers is longer than the file")
            self.storages[key] = np.frombuffer(self.content, np.uint8)[first : self.at]
        if self.at != len(self.content):
            raise ValueError(f"{len(self.content) - self.at} bytes after the last storage")
        self.at, self.complete = begin, True
        return self.value()

    def value(self) -> Any:
        """Of the pickle that comes next."""
        program = io.BytesIO(self.content[self.at : self.at + LARGEST_PICKLE])
        value = self.run(program)
        self.at += program.tell()
        return value

    def storage(self, place: Any) -> Storage:
        storage = super().storage(place)
        self.dtypes[storage.key] = storage.dtype
        return storage

    def tensor(self, *args: Any) -> Any:
        return super().tensor(*args) if self.complete else None

    def numbers(self, storage: Storage) -> np.ndarray:
        return _view(self.storages[storage.key], storage)


def _view(raw: np.ndarray, storage: Storage) -> np.ndarray:
    if raw.size != storage.numel * storage.dtype.itemsize:
        raise ValueError(f"storage {storage.key} has {raw.size} bytes, {storage.numel} {storage.dtype} announced")
    return raw.view(storage.dtype)
