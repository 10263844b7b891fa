"""Arrays that stay in their file: uncompressed members of a .npz, and what a mapped array is to another process."""

import mmap
import os
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

MAPPED_BYTES = 2**26
"""Smaller members of a .npz are loaded, which checks their checksum; larger ones are mapped as a .npy is."""
LOCAL_HEADER = 30  # of a member of a zip: then follow its name and an extra field, whose lengths are at 26 and 28


def npz_arrays(path: Path, file: BinaryIO, names: tuple[str, ...]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Those arrays of an open .npz that have one of these names, and the names of all.

    Uncompressed ones (`numpy.savez`) of `MAPPED_BYTES` or more are memory-mapped, all others loaded.
    """
    with np.load(file) as archive:
        arrays = {}
        for name in archive.files:
            if name in names:
                member = archive.zip.getinfo(name if name in archive.zip.namelist() else f"{name}.npy")
                array = _mapped(path, member) if member.file_size >= MAPPED_BYTES else None
                arrays[name] = archive[name] if array is None else array
        return arrays, list(archive.files)


def _mapped(path: Path, member: zipfile.ZipInfo) -> np.ndarray | None:
    if member.compress_type != zipfile.ZIP_STORED:
        return None
    with open(path, "rb") as file:
        file.seek(member.header_offset)
        header = file.read(LOCAL_HEADER)
        name, extra = (int.from_bytes(header[place : place + 2], "little") for place in (26, 28))
        file.seek(member.header_offset + LOCAL_HEADER + name + extra)
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            return None
        read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[version[0]]
        shape, fortran, dtype = read(file)
        if dtype.hasobject or 0 in shape:
            return None
        return np.memmap(path, dtype, mode="r", offset=file.tell(), shape=shape, order="F" if fortran else "C")


class _Mapping(NamedTuple):
    file: str
    dtype: str
    shape: tuple[int, ...]
    offset: int


def to_state(array: np.ndarray | None) -> Any:
    """What to pickle in place of an array: of a memory-mapped one where it is, else the array itself."""
    base = getattr(array, "_mmap", None)
    if not isinstance(array, np.memmap) or base is None or array.filename is None or not array.flags.c_contiguous:
        return array
    # By address: a view's own `offset` is that of the array it was taken from.
    begin = array.offset - array.offset % mmap.ALLOCATIONGRANULARITY
    place = begin + array.ctypes.data - np.frombuffer(base, np.uint8).ctypes.data
    return _Mapping(os.fspath(array.filename), array.dtype.str, array.shape, place)


def from_state(state: Any) -> Any:
    """The array that `to_state` was given, mapped again."""
    if not isinstance(state, _Mapping):
        return state
    return np.memmap(state.file, np.dtype(state.dtype), mode="r", offset=state.offset, shape=state.shape)
