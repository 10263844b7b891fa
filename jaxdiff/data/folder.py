"""A folder of images, of any nesting; the class of an image is the directory at the top that it is in."""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from jaxdiff.data.fit import Fit, UnreadableError, fit_like
from jaxdiff.data.sources import Examples, first_line
from jaxdiff.typing import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


@dataclasses.dataclass(frozen=True, eq=False)
class FolderSource:
    """Image files, opened and decoded when asked for; `image_folder` makes it.

    Attributes:
      root: the folder.
      names: of the files, below it.
      labels: int32 `[N]`, or None.
      class_names: the directories at the top, or None.
      fitted: how each image is brought to one shape.
    """

    root: Path
    names: tuple[str, ...]
    labels: np.ndarray | None
    class_names: tuple[str, ...] | None
    fitted: Fit

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.fitted.shape

    @property
    def num_classes(self) -> int | None:
        return None if self.class_names is None else len(self.class_names)

    def __len__(self) -> int:
        return len(self.names)

    def gather(self, index: np.ndarray) -> Examples:
        examples = {"image": np.stack([self._image(self.root / self.names[i]) for i in index])}
        if self.labels is not None:
            examples["label"] = self.labels[index]
        return examples

    def _image(self, path: Path) -> np.ndarray:
        try:
            with self.fitted.open(path) as picture:
                return self.fitted(picture, str(path))
        except InputError:
            raise
        except FileNotFoundError:
            raise UnreadableError(str(path), "the file has vanished since the folder was listed") from None
        except Exception as error:  # Pillow raises many kinds
            raise UnreadableError(str(path), reason(error)) from error


def image_folder(
    folder: str | Path, *, size: int | None = None, channels: int | None = None, labels: bool = True
) -> FolderSource:
    """The PNG, JPEG, WebP, BMP and TIFF files in a folder and all below it, in the order of their names.

    The directories at the top that have images in them, sorted by name, are the classes 0, 1, ...; where there are
    none, the images have no labels. Hidden files and directories are left out, links are followed. How images are
    brought to one shape is told in `jaxdiff.data.fit`.

    Args:
      folder: the folder.
      size: the middle square of each image is resized to that side; None: all must have the size of the first.
      channels: 1, 3 or 4; None: 1 if the first image is grey, else 3.
      labels: False does without classes, wherever the images are.

    Raises:
      InputError: no such folder, no image in it, images both in class directories and beside them, none readable.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("cats", "dogs"):
    ...         (Path(folder) / name).mkdir()
    ...         Image.new("RGB", (40, 30)).save(Path(folder) / name / "1.png")
    ...     source = image_folder(folder, size=16)
    ...     source.class_names, source.gather(np.array([1]))["image"].shape
    (('cats', 'dogs'), (1, 16, 16, 3))
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder. Expected a folder of images ({' '.join(SUFFIXES)})")
    try:
        names = sorted(_listed(root, ""), key=lambda name: name.split("/"))
    except OSError as error:
        raise InputError(f"{root}: cannot be listed ({error}). Make it readable, or give another folder") from error
    if not names:
        raise InputError(f"{root}: no image in it. Expected files that end in {' '.join(SUFFIXES)}, at any depth")
    tops = [name.partition("/")[0] if "/" in name else None for name in names]
    loose = tops.count(None)
    numbers, class_names = None, None
    if labels and loose < len(names):
        if loose:
            beside = names[tops.index(None)]
            raise InputError(
                f"{root}: {len(names) - loose} images are in directories, which are taken for classes, and {loose} "
                f"beside them, such as {beside}. Move these into a directory, or give --data.labels False"
            )
        class_names = tuple(sorted({top for top in tops if top is not None}))
        number = {name: i for i, name in enumerate(class_names)}
        numbers = np.array([number[top] for top in tops if top is not None], np.int32)

    def readable() -> Iterator[Image.Image]:
        told = None
        for name in names:
            try:
                with Image.open(root / name) as picture:
                    picture.load()
                    yield picture
            except Exception as error:  # whoever asks for this image will be told
                told = told or UnreadableError(str(root / name), reason(error))
        raise InputError(f"{root}: none of its {len(names)} images can be read. The first: {told}")

    return FolderSource(root, tuple(names), numbers, class_names, fit_like(readable(), size=size, channels=channels))


def _listed(root: Path, below: str, *, within: tuple[tuple[int, int], ...] = ()) -> Iterator[str]:
    """Names of images, with / between directories. No file is opened or asked for its state."""
    status = os.stat(root / below)
    here = (status.st_dev, status.st_ino)
    if here in within:  # a link to a directory that it is in
        return
    with os.scandir(root / below) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.name.lower().endswith(SUFFIXES) and not entry.is_dir():
                yield below + entry.name
            elif entry.is_dir():
                yield from _listed(root, f"{below}{entry.name}/", within=(*within, here))


def reason(error: Exception) -> str:
    """The gist of what Pillow says, without the address of an object in memory."""
    text = first_line(error)
    return "it is of no format that Pillow knows" if text.startswith("cannot identify image file") else text
