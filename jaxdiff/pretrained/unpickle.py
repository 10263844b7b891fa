"""What a pickle of tensors says, without running it.

A pickle is a program for a small machine whose instructions can call any function there is. The interpreter here knows
the instructions that make containers, and of functions those that make a dictionary or a tensor, by name; it imports
nothing, and refuses all else.
"""

import math
import pickletools
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax.numpy as jnp
import numpy as np

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
_DICT = "collections OrderedDict"
_TENSORS = ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor")  # the second before 0.4
_PARAMETER = "torch._utils _rebuild_parameter"
LARGEST_PICKLE = 4 * 2**20
"""Bytes; names and shapes of the largest networks take a tenth of it."""


class _Name(NamedTuple):
    """A class or function that a pickle names."""

    full: str


class Storage(NamedTuple):
    """Raw numbers in the archive."""

    dtype: Any
    key: str
    numel: int


class Unpickler:
    """The interpreter, for the pickles of one file; where its tensors' numbers are, a subclass knows.

    Attributes:
      path: of the file.
      viewed: bytes of all tensors made so far.
    """

    def __init__(self, path: Path):
        self.path = path
        self.viewed = 0

    def refuse(self, why: str) -> InputError:
        """An error that names the file."""
        return InputError(f"{self.path}: {why}")

    def numbers(self, storage: Storage) -> np.ndarray:
        """All numbers of a storage."""
        raise NotImplementedError

    def run(self, program: bytes | BinaryIO) -> Any:
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
                case "BINUNICODE" | "SHORT_BINUNICODE" | "BINSTRING" | "SHORT_BINSTRING":  # two of them are Python 2's
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
        if full not in (*_STORAGES, *_TENSORS, _DICT, _PARAMETER):
            raise self.refuse(
                f"refused, nothing was run: it calls for {full.replace(' ', '.')}, but weights are made of tensors and "
                "containers alone. If you trust it, load it with torch, and save its state_dict() by itself"
            )
        return _Name(full)

    def storage(self, place: Any) -> Storage:
        kind, name, key, _, numel, *view = place
        if view not in ([], [None]):
            raise self.refuse("its storages are parts of others, as torch's before 0.4 may be: not supported")
        if kind != "storage" or not isinstance(key, str) or not isinstance(numel, int):
            raise TypeError("no place of a storage")
        return Storage(np.dtype(_STORAGES[name.full]), key, numel)

    def call(self, function: _Name, args: Any) -> Any:
        if function.full == _DICT and args == ():
            return {}
        if function.full == _DICT:  # of Python 2, which gives its items at once
            return {_key(name): value for name, value in _list(*args)}
        if function.full == _PARAMETER:
            return args[0]
        if function.full not in _TENSORS:
            raise ValueError(f"{function.full} is not called like this")
        return self.tensor(*args[:4])

    def tensor(self, storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> Any:
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
