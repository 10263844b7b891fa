"""Weights from other libraries' files, as numpy arrays by their names there. Nothing in a file is ever run.

A `.pt` file of torch (also `.pth`, `.bin`) is a zip of raw numbers and of a pickle that says which of them make which
tensor. A pickle is a program for a small machine whose instructions can call any function there is. The interpreter
here knows the instructions that make containers, and of functions those that make a dictionary or a tensor, by name;
it imports nothing, and refuses all else.
"""

import math
import pickletools
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from safetensors import deserialize

from jaxdiff.typing import InputError

_STORAGES = {
    "torch DoubleStorage": np.float64,
    "torch FloatStorage": np.float32,
    "torch HalfStorage": np.float16,
    "torch BFloat16Storage": jnp.bfloat16,
    "torch LongStorage": np.int64,
    "torch IntStorage": np.int32,
    "torch ShortStorage": np.int16,
    "torch CharStorage": np.int8,
    "torch ByteStorage": np.uint8,
    "torch BoolStorage": np.bool_,
}
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
_DICT, _TENSOR, _PARAMETER = (
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
)
_LARGEST_PICKLE = 4 * 2**20  # bytes; names and shapes of the largest networks take a tenth of it


def read_weights(path: Path | str) -> dict[str, Any]:
    """What a `.safetensors` file, or a `.pt` file of torch, holds: arrays by name, or dictionaries of them by name.

    Torch need not be installed, and nothing of the file is executed. Numbers, words and lists beside the tensors, such
    as the step of a training state, stay as they are.

    Args:
      path: the file; which of the two it is, its first bytes say.

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
            start = file.read(9)
        if start.startswith(b"PK\x03\x04"):
            return _read_torch(path)
        if start[8:] == b"{":  # after the length of the header
            return _read_safetensors(path)
    except InputError:
        raise
    except Exception as error:  # whatever zipfile, the interpreter and safetensors make of a file that is not right
        raise InputError(f"{path}: broken, or cut short ({type(error).__name__}: {error})") from error
    hint = ""
    if start.startswith(b"\x80"):
        hint = "; it is a bare pickle, torch's before 1.6: load it with torch and save its state_dict() anew"
    raise InputError(f"{path}: neither a .safetensors file nor a zip that torch.save wrote{hint}")


def _read_safetensors(path: Path) -> dict[str, Any]:
    # Not by its numpy functions, which have no bfloat16.
    tensors = {}
    for name, described in deserialize(path.read_bytes()):
        if described["dtype"] not in _SAFE:
            raise InputError(f"{path}: {name} has numbers of the kind {described['dtype']}, which is not supported")
        numbers = np.frombuffer(described["data"], _SAFE[described["dtype"]])
        tensors[name] = numbers.reshape(described["shape"])
    return tensors


def _read_torch(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        return _Torch(archive, path).read()


class _Name(NamedTuple):
    """A class or function that a pickle names."""

    full: str


class _Storage(NamedTuple):
    """Raw numbers in the archive."""

    dtype: Any
    key: str
    numel: int


class _Torch:
    """One archive of torch."""

    def __init__(self, archive: zipfile.ZipFile, path: Path):
        self.archive, self.path = archive, path
        self.entries = {entry.filename: entry for entry in archive.infolist()}
        self.storages: dict[str, np.ndarray] = {}
        self.viewed = 0

    def refuse(self, why: str) -> InputError:
        return InputError(f"{self.path}: {why}")

    def read(self) -> dict[str, Any]:
        pickles = [name for name in self.entries if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise self.refuse("a zip, but not one that torch.save wrote (no data.pkl in it)")
        self.folder = pickles[0].removesuffix("data.pkl")
        # torch stores without compression, so whatever a header promises, there cannot be more than the file holds.
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in self.entries.values()):
            raise self.refuse("compressed, which torch.save does not do; refused")
        if sum(entry.file_size for entry in self.entries.values()) > self.path.stat().st_size:
            raise self.refuse("its parts are larger than the file; refused")
        if self.entries[pickles[0]].file_size > _LARGEST_PICKLE:
            raise self.refuse("its data.pkl is larger than 4 MiB; refused")
        order = self.folder + "byteorder"
        if order in self.entries and self.archive.read(order) != b"little":
            raise self.refuse("written on a big-endian machine; not supported")
        found = self.run(self.archive.read(pickles[0]))
        if not isinstance(found, dict):
            raise self.refuse(f"holds {type(found).__name__}, expected a dictionary of tensors by name (a state_dict)")
        return found

    def run(self, program: bytes) -> Any:
        """The value of a pickle."""
        stack: list[Any] = []
        marked: list[list[Any]] = []  # the stacks below each mark
        memo: dict[int, Any] = {}

        def above_mark() -> list[Any]:
            nonlocal stack
            items, stack = stack, marked.pop()
            return items

        for opcode, argument, _ in pickletools.genops(program):
            arg: Any = argument
            match opcode.name:
                case "PROTO" | "FRAME":
                    pass
                case "STOP":
                    return stack.pop()
                case "NONE":
                    stack.append(None)
                case "NEWTRUE" | "NEWFALSE":
                    stack.append(opcode.name == "NEWTRUE")
                case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                    stack.append(arg)
                case "BINUNICODE" | "SHORT_BINUNICODE":
                    stack.append(arg)
                case "EMPTY_TUPLE":
                    stack.append(())
                case "EMPTY_LIST":
                    stack.append([])
                case "EMPTY_DICT":
                    stack.append({})
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    n = int(opcode.name[-1])
                    stack[-n:] = [tuple(stack[-n:])]
                case "MARK":
                    marked.append(stack)
                    stack = []
                case "TUPLE":
                    items = above_mark()
                    stack.append(tuple(items))
                case "APPEND":
                    item = stack.pop()
                    _list(stack[-1]).append(item)
                case "APPENDS":
                    items = above_mark()
                    _list(stack[-1]).extend(items)
                case "SETITEM":
                    value, name = stack.pop(), stack.pop()
                    _dict(stack[-1])[_key(name)] = value
                case "SETITEMS":
                    items = above_mark()
                    _dict(stack[-1]).update(zip(map(_key, items[::2]), items[1::2], strict=True))
                case "BINPUT" | "LONG_BINPUT":
                    memo[arg] = stack[-1]
                case "MEMOIZE":
                    memo[len(memo)] = stack[-1]
                case "BINGET" | "LONG_BINGET":
                    stack.append(memo[arg])
                case "GLOBAL":
                    stack.append(self.named(arg))
                case "STACK_GLOBAL":
                    name, module = _word(stack.pop()), _word(stack.pop())
                    stack.append(self.named(f"{module} {name}"))
                case "BINPERSID":
                    stack.append(self.storage(stack.pop()))
                case "REDUCE":
                    args, function = stack.pop(), stack.pop()
                    stack.append(self.call(function, args))
                case "BUILD":  # attributes of a dictionary, such as the versions in a state_dict
                    stack.pop()
                    _dict(stack[-1])
                case other:
                    raise self.refuse(f"its data.pkl has the instruction {other}, which no tensors need; refused")
        raise ValueError("no end")

    def named(self, full: str) -> _Name:
        if full not in (*_STORAGES, _DICT, _TENSOR, _PARAMETER):
            raise self.refuse(
                f"refused, nothing was run: it calls for {full.replace(' ', '.')}, but weights are made of tensors and "
                "containers alone. If you trust it, load it with torch, and save its state_dict() by itself"
            )
        return _Name(full)

    def storage(self, place: Any) -> _Storage:
        kind, name, key, _, numel = place
        if kind != "storage" or not isinstance(key, str) or not isinstance(numel, int):
            raise TypeError("no place of a storage")
        return _Storage(np.dtype(_STORAGES[name.full]), key, numel)

    def call(self, function: _Name, args: Any) -> Any:
        if function.full == _DICT and args == ():
            return {}
        if function.full == _PARAMETER:
            return args[0]
        if function.full != _TENSOR:
            raise ValueError(f"{function.full} is not called like this")
        return self.tensor(*args[:4])

    def tensor(self, storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> np.ndarray:
        numbers = self.numbers(storage)
        sizes = (offset, *shape, *strides)
        if len(shape) != len(strides) or len(shape) > 32 or not all(type(n) is int and 0 <= n < 2**63 for n in sizes):
            raise ValueError("no shape, or no strides")
        # A stride of 0 would make terabytes of one number, a large offset would read beyond the end.
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides))
        if math.prod(shape) > numbers.size or (math.prod(shape) > 0 and last >= numbers.size):
            raise ValueError(f"a tensor of shape {shape} does not lie within its {numbers.size} numbers")
        # Views of the same numbers cost nothing here, but each of them becomes parameters of its own.
        step = numbers.itemsize
        self.viewed += math.prod(shape) * step
        if self.viewed > 4 * self.path.stat().st_size:
            raise ValueError("its tensors have far more numbers than the file")
        return np.lib.stride_tricks.as_strided(numbers[offset:], shape, [step * n for n in strides], writeable=False)

    def numbers(self, storage: _Storage) -> np.ndarray:
        if storage.key not in self.storages:
            raw = self.archive.read(f"{self.folder}data/{storage.key}")
            self.storages[storage.key] = np.frombuffer(raw, np.uint8)
        numbers = self.storages[storage.key]
        if numbers.size != storage.numel * storage.dtype.itemsize:
            raise ValueError(
                f"storage {storage.key} has {numbers.size} bytes, {storage.numel} {storage.dtype} announced"
            )
        return numbers.view(storage.dtype)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{type(value).__name__} is no list")
    return value


# Of a tuple of tuples of tuples, each twice the one before, the hash and the text would take for ever.


def _word(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} is no word")
    return value


def _key(value: Any) -> str | int:
    if not isinstance(value, str | int):
        raise TypeError(f"{type(value).__name__} is no name")
    return value


def _dict(value: Any) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{type(value).__name__} is no dictionary")
    return value
