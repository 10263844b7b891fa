"""IDX files, as MNIST and its relatives come: `train-images-idx3-ubyte`, with the labels beside it; plain or .gz."""

import gzip
import math
import re
from pathlib import Path

import numpy as np

from jaxdiff.data.sources import ArraySource, first_line
from jaxdiff.typing import InputError

UBYTE = 8  # the code of unsigned bytes, the only type that image sets use
IMAGES = re.compile(r"(?P<stem>.*)images(?P<dot>[-.])idx[34]-ubyte(\.gz)?$")


def is_idx(name: str) -> bool:
    """Whether a name is one of IDX images.

    >>> is_idx("mnist/train-images-idx3-ubyte.gz"), is_idx("images.npz")
    (True, False)
    """
    return IMAGES.search(name) is not None


def idx_images(path: str | Path) -> ArraySource:
    """The images of an IDX file, memory-mapped unless it ends in .gz, with the labels beside it if there are any.

    The labels of `train-images-idx3-ubyte` are in `train-labels-idx1-ubyte`, of `t10k-images.idx3-ubyte.gz` in
    `t10k-labels.idx1-ubyte`, with .gz or without.

    Raises:
      InputError: no such file, not in this format, cut short, or labels of another number.
    """
    path = Path(path)
    images = read_idx(path)
    if images.ndim not in (3, 4):
        raise InputError(f"{path}: expected images [N, H, W], got an array of shape {images.shape}")
    match = IMAGES.search(path.name)
    if match is None:
        return ArraySource(images, None, str(path))
    stem = f"{match['stem']}labels{match['dot']}idx1-ubyte"
    beside = [path.with_name(stem + suffix) for suffix in ("", ".gz")]
    labels = next((read_idx(p).astype(np.int32) for p in beside if p.is_file()), None)
    return ArraySource(images, labels, str(path))


def read_idx(path: Path) -> np.ndarray:
    """An array of unsigned bytes from an IDX file.

    Raises:
      InputError: as `idx_images`.

    Source: Y. LeCun, C. Cortes, C. Burges, The MNIST database of handwritten digits, "File formats": two zero
    bytes, the type, the number of dimensions, each of them as a big-endian 32-bit number, the data.
    """
    expected = "Expected an IDX file of unsigned bytes, such as train-images-idx3-ubyte or train-images-idx3-ubyte.gz"
    if not path.is_file():
        raise InputError(f"{path}: no such file. {expected}")
    packed = path.suffix == ".gz"
    try:
        with gzip.open(path) if packed else open(path, "rb") as file:
            start = file.read(4)
            if len(start) < 4 or start[:3] != bytes([0, 0, UBYTE]):
                raise ValueError("the file is empty" if not start else f"it begins with {start!r}")
            lengths = file.read(4 * start[3])
            shape = tuple(np.frombuffer(lengths, ">u4").astype(int).tolist())
            if len(shape) != start[3]:
                raise ValueError("it ends within its header")
            offset, size = 4 + len(lengths), math.prod(shape)
            array: np.ndarray
            if packed or not size:
                array = np.frombuffer(file.read(), np.uint8)
            else:
                array = np.memmap(path, np.uint8, mode="r", offset=offset)
        if array.size != size:
            raise ValueError(f"its header promises {size} bytes of data, there are {array.size}")
    except Exception as error:  # gzip and zlib raise many kinds
        raise InputError(f"{path}: not a readable IDX file ({first_line(error)}). {expected}; get it again") from error
    return array.reshape(shape)
