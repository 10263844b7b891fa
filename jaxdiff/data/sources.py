"""Image sets with random access: scikit-learn's digits and array files. The others are in files of their own.

A source knows its size and can gather any examples at once. Images are uint8 `[H, W, C]`, labels int32.
"""

import dataclasses
from collections.abc import Iterator
from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jaxdiff.data.mapped import from_state, npz_arrays, to_state
from jaxdiff.typing import InputError

Examples = dict[str, np.ndarray]


class Source(Protocol):
    """Random access to images.

    `num_classes` is None for images without labels; then `gather` returns no `label`.
    """

    @property
    def image_shape(self) -> tuple[int, int, int]: ...

    @property
    def num_classes(self) -> int | None: ...

    def __len__(self) -> int: ...

    def gather(self, index: np.ndarray) -> Examples:
        """`{"image": uint8 [B, H, W, C], "label": int32 [B]}` of the examples numbered `index` `[B]`."""


@dataclasses.dataclass(frozen=True, eq=False)
class ArraySource:
    """Images and labels in memory (or memory-mapped).

    Attributes:
      images: uint8 `[N, H, W, C]`, or `[N, H, W]` for grey ones.
      labels: integers `[N]` in 0..num_classes-1, or None.
      name: for error messages.

    Raises:
      InputError: no images, another dtype or rank, labels of another length or out of range.

    >>> source = ArraySource(np.zeros((5, 8, 8), np.uint8), np.array([0, 1, 2, 1, 0]))
    >>> source.image_shape, source.num_classes, source.gather(np.array([2]))["label"].tolist()
    ((8, 8, 1), 3, [2])
    """

    images: np.ndarray
    labels: np.ndarray | None = None
    name: str = "images"

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != np.uint8:
            raise InputError(
                f"{self.name}: expected uint8 images (0..255), got {images.dtype}. "
                "Convert floats in [0, 1] with (255 * x).round().astype('uint8'), in [-1, 1] with "
                "(127.5 * (x + 1)).round().astype('uint8'), integers with x.astype('uint8')."
            )
        if images.ndim == 3:
            images = images[..., None]
        if images.ndim != 4 or images.shape[-1] not in (1, 2, 3, 4):
            first = images.ndim == 4 and images.shape[1] in (1, 3)
            hint = ". Move the channels last: x.transpose(0, 2, 3, 1)" if first else ""
            raise InputError(
                f"{self.name}: expected images [N, H, W] or [N, H, W, C], got shape {self.images.shape}{hint}"
            )
        if images.size == 0:
            raise InputError(f"{self.name}: there is no image in it, its shape is {self.images.shape}")
        object.__setattr__(self, "images", images)
        if labels is None:
            return
        is_integer = np.issubdtype(labels.dtype, np.integer) and labels.size > 0
        low, high = (int(labels.min()), int(labels.max())) if is_integer else (0, 0)
        if not is_integer or labels.shape != images.shape[:1] or low < 0 or high >= 2**31:
            values = f", values {low} to {high}" if is_integer else ""
            raise InputError(
                f"{self.name}: expected one label per image, integers from 0 up, shape ({len(images)},); "
                f"got {labels.dtype} of shape {labels.shape}{values}"
            )
        object.__setattr__(self, "labels", labels.astype(np.int32))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    @property
    def num_classes(self) -> int | None:
        return None if self.labels is None else int(self.labels.max()) + 1

    def __len__(self) -> int:
        return len(self.images)

    def gather(self, index: np.ndarray) -> Examples:
        mapping = getattr(self.images, "_mmap", None)
        if mapping is not None and mapping.size() < len(mapping):  # reading on would end the process, by SIGBUS
            raise InputError(f"{self.name}: has been cut to {mapping.size():,} of {len(mapping):,} bytes. Restore it")
        examples = {"image": np.ascontiguousarray(self.images[index])}
        if self.labels is not None:
            examples["label"] = self.labels[index]
        return examples

    def __getstate__(self) -> dict[str, Any]:  # another process maps the file too, instead of being sent its bytes
        return self.__dict__ | {"images": to_state(self.images)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, images=from_state(state["images"]))


class Wrapped:
    """A source round another, whose images are of its shape, classes and number unless it says otherwise."""

    source: Source

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.source.image_shape

    @property
    def num_classes(self) -> int | None:
        return self.source.num_classes

    @property
    def names(self) -> tuple[str, ...] | None:
        """Of the files, where the source has some."""
        return getattr(self.source, "names", None)

    def __len__(self) -> int:
        return len(self.source)


@dataclasses.dataclass(frozen=True, eq=False)
class Unlabelled(Wrapped):
    """A source without its labels, for an unconditional model.

    >>> Unlabelled(digits()).num_classes is None
    True
    """

    source: Source
    num_classes: None = None

    def gather(self, index: np.ndarray) -> Examples:
        return {"image": self.source.gather(index)["image"]}


@dataclasses.dataclass(frozen=True, eq=False)
class Subset(Wrapped):
    """Some examples of a source, with all its classes.

    Attributes:
      source: all of them.
      index: int `[N]`, which ones.

    Raises:
      InputError: none, or numbers that the source does not have.

    >>> some = Subset(digits(), np.array([5, 7]))
    >>> len(some), some.num_classes, some.gather(np.array([1]))["label"].tolist()
    (2, 10, [7])
    """

    source: Source
    index: np.ndarray

    def __post_init__(self) -> None:
        if len(self.index) == 0 or self.index.min() < 0 or self.index.max() >= len(self.source):
            raise InputError(f"Subset: expected numbers from 0 to {len(self.source) - 1}, at least one")

    @property
    def names(self) -> tuple[str, ...] | None:
        every = super().names
        return None if every is None else tuple(every[i] for i in self.index)

    def __len__(self) -> int:
        return len(self.index)

    def gather(self, index: np.ndarray) -> Examples:
        return self.source.gather(self.index[index])


def hold_out(source: Source, num: int, *, seed: int) -> tuple[Subset, Subset]:
    """What is left to train on, and `num` examples, chosen at random by the seed.

    Raises:
      InputError: `num` is not within 1 and one less than there are.

    >>> train, held = hold_out(digits(), 100, seed=0)
    >>> len(train), len(held), len(set(train.index) & set(held.index))
    (1697, 100, 0)
    """
    if not 1 <= num < len(source):
        raise InputError(f"--data.holdout {num}: expected 1 to {len(source) - 1}, there are {len(source)} images")
    order = np.random.default_rng(seed).permutation(len(source))
    return Subset(source, np.sort(order[num:])), Subset(source, np.sort(order[:num]))


def in_order(
    source: Source, *, batch_size: int, process: int = 0, processes: int = 1
) -> Iterator[tuple[np.ndarray, Examples]]:
    """Every example once: their numbers int32 `[batch_size]` and they, in batches of one size.

    The last batches are filled up with examples whose number is -1. Each of several processes gets its own examples and
    as many batches as the others.

    >>> [index.tolist() for index, batch in in_order(Subset(digits(), np.arange(5)), batch_size=3)]
    [[0, 1, 2], [3, 4, -1]]
    """
    for first in range(
        process * batch_size,
        -(-len(source) // (processes * batch_size)) * processes * batch_size,
        processes * batch_size,
    ):
        index = np.arange(first, first + batch_size, dtype=np.int32)
        batch = source.gather(np.minimum(index, len(source) - 1))
        yield np.where(index < len(source), index, -1), batch


@cache
def digits() -> ArraySource:
    """scikit-learn's 1,797 real handwritten digits, 8x8 grey; the set's levels 0..16 become 0..255.

    >>> source = digits()
    >>> len(source), source.image_shape, source.num_classes
    (1797, (8, 8, 1), 10)

    Source: the UCI Optical Recognition of Handwritten Digits test set, inside scikit-learn's wheel.
    """
    # Its file alone: to import scikit-learn takes two seconds.
    file = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    table = np.loadtxt(str(file), int, delimiter=",")
    levels, labels = table[:, :-1].reshape(-1, 8, 8), table[:, -1]
    return ArraySource(np.rint(levels * (255 / 16)).astype(np.uint8), labels, "digits")


def array_file(path: str | Path) -> ArraySource:
    """Images from `.npy` (images alone; memory-mapped) or `.npz` (arrays `images`, `x` or `arr_0`, and
    `labels`, `y` or `arr_1`; mapped too if they are large and not compressed).

    Raises:
      InputError: no such file, not a numpy file, no array of those names, or images that `ArraySource` refuses.
    """
    path = Path(path)
    expected = "Expected a .npz or .npy file of uint8 images [N, H, W, C]"
    if not path.is_file():
        raise InputError(f"{path}: no such file. {expected}.")
    try:
        with open(path, "rb") as file:
            magic = file.read(6)
            file.seek(0)
            if magic == b"\x93NUMPY":
                arrays = {"images": np.load(path, mmap_mode="r")}
            elif magic.startswith(b"PK"):
                arrays, found = npz_arrays(path, file, ("images", "x", "arr_0", "labels", "y", "arr_1"))
                names = ", ".join(found) or "no array"
            else:
                raise ValueError("the file is empty" if not magic else f"it begins with {magic!r}")
    except Exception as error:  # numpy, zipfile and zlib raise many kinds
        raise InputError(
            f"{path}: not a readable numpy file ({first_line(error)}). It is cut short, damaged, of another format, "
            f"or holds Python objects such as images of several sizes. {expected}: write it again with "
            "numpy.savez(path, images=..., labels=...)."
        ) from error
    images = arrays.get("images", arrays.get("x", arrays.get("arr_0")))
    labels = arrays.get("labels", arrays.get("y", arrays.get("arr_1")))
    if images is None:
        raise InputError(f"{path}: expected an array named 'images' (or 'x'), found {names}")
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise InputError(f"{path}: its {name!r} is not an array. {expected}.")
    if labels is not None and labels.size and (labels == -1).all():  # as sample.py says that there are none
        labels = None
    return ArraySource(images, labels, str(path))


def class_names(source: Source) -> tuple[str, ...] | None:
    """What the classes are called, where a source or the one that it wraps knows.

    >>> class_names(digits()) is None
    True
    """
    inner: Any = source
    while inner is not None and inner.num_classes is not None:
        names = getattr(inner, "class_names", None)
        if names is not None:
            return tuple(names)
        inner = getattr(inner, "source", None)
    return None


def first_line(error: Exception) -> str:
    """The gist of somebody else's message: some list a whole catalogue after it, or advise to trust the file."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
