"""Files as torch.save writes them, made without torch: a zip of raw numbers, and a pickle that refers to them."""

import io
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from unittest import mock

import numpy as np

STORAGES = {"float32": "FloatStorage", "float64": "DoubleStorage", "int64": "LongStorage", "float16": "HalfStorage"}


def _rebuild_tensor_v2(*args):
    raise NotImplementedError("a name for pickles: nothing may call it")


_rebuild_tensor_v2.__module__ = "torch._utils"


class Storage:
    def __init__(self, kind, key, numel):
        self.place = ("storage", kind, key, "cpu", numel)


class Tensor:
    """Pickled as torch pickles one."""

    def __init__(self, storage, offset, shape, strides):
        self.args = (storage, offset, shape, strides, False, OrderedDict())

    def __reduce__(self):
        return _rebuild_tensor_v2, self.args


class Writer(pickle.Pickler):
    def persistent_id(self, obj):
        return obj.place if isinstance(obj, Storage) else None


def _modules():
    """torch, as far as a pickle names it."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    utils._rebuild_tensor_v2, torch._utils = _rebuild_tensor_v2, utils
    for name in STORAGES.values():
        setattr(torch, name, type(name, (), {"__module__": "torch"}))
    return {"torch": torch, "torch._utils": utils}


MODULES = _modules()
FloatStorage = MODULES["torch"].FloatStorage


def save(path, value, *, protocol=2, compression=zipfile.ZIP_STORED, numel=None, strides=None, byteorder=b"little"):
    """Write `value` with its numpy arrays as tensors. The options make files that torch does not."""
    raw = []
    value = tensors_of(value, raw, numel=numel, strides=strides)
    save_tensors(path, value, raw, protocol=protocol, compression=compression, byteorder=byteorder)


def tensors_of(value, raw, *, numel=None, strides=None):
    """`value` with its numpy arrays as `Tensor`s, whose numbers are added to `raw`."""
    if isinstance(value, dict):
        return OrderedDict((name, tensors_of(v, raw, numel=numel, strides=strides)) for name, v in value.items())
    if isinstance(value, list):
        return [tensors_of(v, raw, numel=numel, strides=strides) for v in value]
    if not isinstance(value, np.ndarray):
        return value
    raw.append(value.tobytes())
    kind = getattr(MODULES["torch"], STORAGES[value.dtype.name])
    steps = tuple(n // value.itemsize for n in value.strides)
    storage = Storage(kind, str(len(raw) - 1), value.size if numel is None else numel)
    return Tensor(storage, 0, value.shape, steps if strides is None else strides)


MAGIC = 0x1950A86A20F9469CFC6C
MACHINE = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


def save_legacy(path, value, *, version=1001, machine=MACHINE, view=(None,)):
    """As torch before 1.6: pickles one after the other, then each storage after its number of elements."""
    raw, out, kinds = [], io.BytesIO(), {}
    value = tensors_of(value, raw)

    class Legacy(Writer):
        def persistent_id(self, obj):
            if not isinstance(obj, Storage):
                return None
            kinds[obj.place[2]] = obj.place[4]
            return (*obj.place, *view)

    with mock.patch.dict(sys.modules, MODULES):
        for part in (MAGIC, version, machine, value):
            Legacy(out, 2).dump(part)
    pickle.dump(list(kinds), out, 2)
    for key, numel in kinds.items():
        out.write(struct.pack("<q", numel) + raw[int(key)])
    path.write_bytes(out.getvalue())


def save_tensors(path, value, raw, *, protocol=2, **options):
    """Write a value with `Tensor`s, and the numbers of their storages."""
    program = io.BytesIO()
    with mock.patch.dict(sys.modules, MODULES):
        Writer(program, protocol).dump(value)
    write_zip(path, program.getvalue(), raw, **options)


def write_zip(path, program, raw=(), *, compression=zipfile.ZIP_STORED, byteorder=b"little"):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/byteorder", byteorder)
        for i, numbers in enumerate(raw):
            archive.writestr(f"archive/data/{i}", numbers)
        archive.writestr("archive/version", "3\n")
