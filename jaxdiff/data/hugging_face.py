"""Data sets of Hugging Face's `datasets`: an object that you have (for that the library is not needed), or by name."""

import dataclasses
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxdiff.data.fit import Fit, UnreadableError, fit_like
from jaxdiff.data.sources import Examples, first_line
from jaxdiff.typing import InputError

IMAGES = ("image", "img", "images", "picture", "pixel_values")
LABELS = ("label", "labels", "fine_label", "class", "y")


@dataclasses.dataclass(frozen=True, eq=False)
class HuggingFaceSource:
    """A `datasets.Dataset`, decoded when asked for; `hugging_face` makes it."""

    dataset: Any
    image: str
    labels: np.ndarray | None
    num_classes: int | None
    class_names: tuple[str, ...] | None
    fitted: Fit
    name: str

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.fitted.shape

    def __len__(self) -> int:
        return len(self.dataset)

    def gather(self, index: np.ndarray) -> Examples:
        examples = {"image": np.stack([self._image(int(i)) for i in index])}
        if self.labels is not None:
            examples["label"] = self.labels[index]
        return examples

    def _image(self, i: int) -> np.ndarray:
        name = f"{self.name}, image {i}"
        try:
            return self.fitted(_picture(self.dataset[i][self.image]), name)
        except InputError:
            raise
        except Exception as error:  # Pillow, pyarrow and transforms raise many kinds
            raise UnreadableError(name, first_line(error)) from error


def hugging_face(
    dataset: Any,
    *,
    image: str | None = None,
    label: str | None = None,
    size: int | None = None,
    channels: int | None = None,
    labels: bool = True,
    name: str = "dataset",
) -> HuggingFaceSource:
    """A source of anything like a `datasets.Dataset`: a length, `column_names`, `dataset[i]` and `dataset[column]`.

    Args:
      dataset: one split, with random access (not streamed).
      image: the column of PIL images or uint8 arrays `[H, W]` or `[H, W, C]`; default the first of type Image, or
        named image, img, ...
      label: the column of integers from 0; default the first of type ClassLabel, or named label, labels, ...
      size: as of `jaxdiff.data.image_folder`.
      channels: as of `jaxdiff.data.image_folder`.
      labels: False leaves them out.
      name: for error messages.

    Raises:
      InputError: several splits, a stream, no such column, labels that are no integers from 0 up.
    """
    if isinstance(dataset, dict):
        raise InputError(f"{name}: has several splits ({', '.join(dataset)}); give one of them (--data.split)")
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "column_names"):
        raise InputError(
            f"{name}: expected a datasets.Dataset with random access, got {type(dataset).__name__}; load it with "
            "streaming=False"
        )
    if not len(dataset):
        raise InputError(f"{name}: there is no image in it")
    columns, features = list(dataset.column_names), getattr(dataset, "features", None) or {}
    image = _column(columns, features, image, "Image", IMAGES)
    if image is None:
        raise InputError(f"{name}: expected a column of images, such as 'image'; it has {', '.join(columns)}")
    label = _column(columns, features, label, "ClassLabel", LABELS) if labels else None
    numbers, classes, names = None, None, None
    if label is not None:
        numbers = np.asarray(dataset[label][:])
        if not np.issubdtype(numbers.dtype, np.integer) or numbers.ndim != 1 or numbers.min() < 0:
            hint = "Labels below 0 stand for hidden ones; use another split, or --data.labels False"
            raise InputError(
                f"{name}: expected integers from 0 up in the column {label!r}, got {numbers.dtype} of shape "
                f"{numbers.shape}. {hint}"
            )
        feature = features.get(label)
        classes = getattr(feature, "num_classes", None) or int(numbers.max()) + 1
        names = tuple(getattr(feature, "names", None) or ()) or None
        numbers = numbers.astype(np.int32)

    def readable() -> Iterator[Image.Image]:
        for i in range(len(dataset)):
            try:
                yield _picture(dataset[i][image])
            except Exception:  # whoever asks for this image will be told
                continue
        raise InputError(f"{name}: no image in its column {image!r} can be read")

    fitted = fit_like(readable(), size=size, channels=channels)
    return HuggingFaceSource(dataset, image, numbers, classes, names, fitted, name)


def _column(columns: list[str], features: Any, asked: str | None, kind: str, usual: tuple[str, ...]) -> str | None:
    if asked is not None:
        if asked not in columns:
            raise InputError(f"there is no column {asked!r}; expected one of {', '.join(columns)}")
        return asked
    typed = [name for name in columns if type(features.get(name)).__name__ == kind]
    return next((name for name in (*typed, *usual) if name in columns), None)


def _picture(image: Any) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    array = np.asarray(image)
    if array.dtype != np.uint8 and np.issubdtype(array.dtype, np.integer) and 0 <= array.min() <= array.max() <= 255:
        array = array.astype(np.uint8)  # lists of numbers are int64
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.shape[2:] not in ((), (1,), (3,), (4,)):
        raise ValueError(f"expected a picture or uint8 [H, W, C], got {array.dtype} of shape {array.shape}")
    return Image.fromarray(np.ascontiguousarray(array[..., 0] if array.shape[2:] == (1,) else array))


def hugging_face_by_name(
    name: str, *, split: str, size: int | None = None, channels: int | None = None, labels: bool = True
) -> HuggingFaceSource:
    """A data set of the hub, `NAME` or `NAME:CONFIG`, or a folder: of `save_to_disk`, or that `load_dataset` reads.

    Raises:
      InputError: `datasets` is not installed, no such set or split, no network.
    """
    if find_spec("datasets") is None:
        raise InputError(f"hf:{name} needs Hugging Face's datasets: pip install 'jaxdiff[hf]'")
    import datasets

    saved = Path(name)
    try:
        if (saved / "dataset_dict.json").is_file() or (saved / "state.json").is_file():
            found = datasets.load_from_disk(name)
            if isinstance(found, dict):
                found = found[split]
        else:
            path, _, configuration = name.partition(":")
            found = datasets.load_dataset(path, configuration or None, split=split)
    except Exception as error:  # the library, its downloader and the network raise many kinds
        raise InputError(
            f"hf:{name}: the split {split!r} could not be loaded ({type(error).__name__}: "
            f"{first_line(error)}). "
            "Expected a data set of the hub, as hf:NAME or hf:NAME:CONFIG, or a folder of one. Without a network: on a "
            "connected machine call datasets.load_dataset(...).save_to_disk(FOLDER), bring it, and give hf:FOLDER"
        ) from error
    return hugging_face(found, size=size, channels=channels, labels=labels, name=f"hf:{name}")
