"""Image sets as ArrayRecord shards, which `jaxdiff data prepare` writes: decoded and resized once, then only read.

A folder has `index.json` and its shards. A record is a label, int32 little-endian (-1: none), then the raw pixels,
uint8 `[H, W, C]`. Raw and not PNG: on one core 182,000 records of 32x32x3 are read per second against 14,000
(128x128x3: 36,000 against 2,100), for 1.2 (2.3) times the bytes; zstd saves 6 % (13 %) of them and takes a quarter
(a half) of the speed (benchmarks/data.py --records).
"""

import json
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python import array_record_module

from jaxdiff.data.sources import Examples, first_line
from jaxdiff.typing import InputError

INDEX = "index.json"
FORMAT = "jaxdiff records 1"
WRITER = "group_size:1,uncompressed"  # one image a group: random access reads no neighbours
READER = "readahead_buffer_size:0,max_parallelism:0"
AGAIN = "Run the jaxdiff data prepare that made it once more: it mends what is damaged"


class RecordSource:
    """Prepared images, read when asked for; `record_folder` makes it.

    Attributes:
      folder: of the shards.
      index: what `index.json` says.
    """

    def __init__(self, folder: Path, index: dict[str, Any]) -> None:
        self.folder, self.index = folder, index
        height, width, channels = index["image_shape"]
        self.image_shape: tuple[int, int, int] = (height, width, channels)
        self.num_classes: int | None = index["num_classes"]
        self.class_names = None if index["class_names"] is None else tuple(index["class_names"])
        counts = [shard["count"] for shard in index["shards"]]
        self._ends = np.cumsum(counts)
        self._readers: dict[int, Any] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def gather(self, index: np.ndarray) -> Examples:
        index = np.asarray(index)
        index = np.where(index < 0, index + len(self), index)
        shards = np.searchsorted(self._ends, index, side="right")
        label_bytes, size = 4, int(np.prod(self.image_shape))
        raw = np.empty((len(index), label_bytes + size), np.uint8)
        for shard in np.unique(shards):
            here = np.flatnonzero(shards == shard)
            begin = self._ends[shard - 1] if shard else 0
            for place, record in zip(here, self._read(int(shard), (index[here] - begin).tolist()), strict=True):
                raw[place] = np.frombuffer(record, np.uint8)
        examples = {"image": np.ascontiguousarray(raw[:, label_bytes:]).reshape(-1, *self.image_shape)}
        if self.num_classes is not None:
            examples["label"] = np.ascontiguousarray(raw[:, :label_bytes]).view("<i4")[:, 0].astype(np.int32)
        return examples

    def _read(self, shard: int, places: list[int]) -> list[bytes]:
        path = self.folder / self.index["shards"][shard]["name"]
        try:
            with self._lock:
                if shard not in self._readers:
                    os.stat(path)  # array_record says nothing of a file that is not there
                    self._readers[shard] = array_record_module.ArrayRecordReader(str(path), READER)
                reader = self._readers[shard]
            records: list[bytes] = reader.read(places)
            expected = 4 + int(np.prod(self.image_shape))
            if len(records) != len(places) or any(len(record) != expected for record in records):
                raise ValueError(f"expected records of {expected} bytes")
            return records
        except Exception as error:  # array_record raises RuntimeError, ValueError and IndexError
            raise InputError(f"{path}: damaged or gone ({first_line(error)}). {AGAIN}") from error

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "index": self.index}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def is_record_folder(folder: str | Path) -> bool:
    """Whether a folder was made by `jaxdiff data prepare`, or is being made."""
    return (Path(folder) / INDEX).is_file() or (Path(folder) / ".prepare").is_dir()


def record_folder(folder: str | Path) -> RecordSource:
    """The images that `jaxdiff data prepare --out FOLDER` wrote.

    Raises:
      InputError: not such a folder, not finished, or a shard that is gone or has another length.
    """
    folder = Path(folder)
    index = read_index(folder)
    if index is None:
        begun = (folder / ".prepare").is_dir()
        raise InputError(
            f"{folder}: jaxdiff data prepare was not finished; run the same command again, it continues"
            if begun
            else f"{folder}: no {INDEX} in it. Expected a folder that jaxdiff data prepare wrote"
        )
    for shard in index["shards"]:
        path = folder / shard["name"]
        size = path.stat().st_size if path.is_file() else None
        if size != shard["bytes"]:
            found = "it is not there" if size is None else f"it has {size} bytes, not {shard['bytes']}"
            raise InputError(f"{path}: damaged or gone ({found}). {AGAIN}")
    return RecordSource(folder, index)


def read_index(folder: Path) -> dict[str, Any] | None:
    """What `index.json` says; None where there is none."""
    path = folder / INDEX
    try:
        index: dict[str, Any] = json.loads(path.read_text())
        missing = {"image_shape", "num_classes", "class_names", "shards"} - set(index)
        if index.get("format") != FORMAT or missing or not index["shards"]:
            raise ValueError(f"its format is {index.get('format')!r}, expected {FORMAT!r}")
        return index
    except FileNotFoundError:
        return None
    except (AttributeError, OSError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not an index that jaxdiff data prepare wrote ({first_line(error)})") from error


def write_records(path: Path, images: Iterable[tuple[np.ndarray, int]]) -> int:
    """Write uint8 images `[H, W, C]` and their labels (-1: none) as one shard; how many there were."""
    with open(path, "wb"):  # array_record's own errors are RuntimeErrors
        pass
    writer = array_record_module.ArrayRecordWriter(str(path), WRITER)
    count = 0
    for image, label in images:
        record = np.int32(label).astype("<i4").tobytes() + image.tobytes()
        _as_os_error(writer.write, record)
        count += 1
    _as_os_error(writer.close)
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
    return count


def _as_os_error(call: Callable[..., object], *arguments: bytes) -> None:
    try:
        call(*arguments)
    except RuntimeError as error:
        raise OSError(first_line(error)) from error
