"""Images at the border: grids, and pictures in files."""

import io
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxdiff.files import write_atomically
from jaxdiff.typing import InputError


def grid(images: np.ndarray, *, columns: int | None = None, min_tile: int = 32) -> np.ndarray:
    """uint8 `[N, H, W, C]` as one picture `[H', W', C]`, row by row, with a one-pixel gap.

    Tiles smaller than `min_tile` are enlarged by a whole factor, so that 8x8 digits can be seen.

    >>> grid(np.zeros((6, 32, 32, 3), np.uint8), columns=3).shape
    (67, 100, 3)
    """
    n, height, width, channels = images.shape
    columns = columns or int(np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    scale = max(1, -(-min_tile // min(height, width)))
    images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    height, width = scale * height, scale * width
    picture = np.full((rows * (height + 1) + 1, columns * (width + 1) + 1, channels), 128, np.uint8)
    for i, image in enumerate(images):
        y, x = 1 + i // columns * (height + 1), 1 + i % columns * (width + 1)
        picture[y : y + height, x : x + width] = image
    return picture


def read_grey(path: Path) -> np.ndarray:
    """A picture's brightness, uint8 `[H, W]`.

    Raises:
      InputError: no such file, or no picture.
    """
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("L"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read as a picture ({error})") from None


def write_png(path: Path, image: np.ndarray) -> None:
    """uint8 `[H, W, C]`, C = 1 to 4, as PNG."""
    write_picture(path, image, kind="png")


def write_picture(path: Path, image: np.ndarray, *, kind: str, quality: int | None = None) -> None:
    """uint8 `[H, W, C]` as a file: `png` of 1 to 4 channels; `jpeg` of 1 or 3, `webp` of 1, 3 or 4, of a quality from 1
    to 100, default 95."""
    options = {} if kind == "png" else {"quality": QUALITY if quality is None else quality}
    write_atomically(path, lambda file: _pillow(image).save(file, format=kind, **options))


def encode_png(image: np.ndarray) -> bytes:
    """uint8 `[H, W, C]`, C = 1 to 4, as the bytes of a PNG file."""
    file = io.BytesIO()
    _pillow(image).save(file, format="png")
    return file.getvalue()


def _pillow(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


SUFFIX = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
"""Of the files of a folder of samples, by their format."""
QUALITY = 95
"""Of JPEG and WebP."""
MOVING = (".gif", ".apng")
"""Suffixes of animations."""


def write_animation(path: Path, frames: np.ndarray, *, milliseconds: int = 100, hold: int = 1500) -> None:
    """uint8 `[n, H, W, C]`, C = 1 or 3, as GIF, or as APNG if the name ends in .png or .apng; it goes on for ever.

    Args:
      path: where.
      frames: at least one.
      milliseconds: how long each is shown.
      hold: the same of the first and the last.
    """
    if not len(frames):
        raise InputError(f"{path}: an animation of no frames; give at least one")
    pictures = [_pillow(frame) for frame in frames]
    durations = [hold if i in (0, len(frames) - 1) else milliseconds for i in range(len(frames))]
    kind, options = ("GIF", {"optimize": False}) if path.suffix.lower() == ".gif" else ("PNG", {"default_image": False})

    def save(file: Any) -> None:
        pictures[0].save(file, kind, save_all=True, append_images=pictures[1:], duration=durations, loop=0, **options)

    write_atomically(path, save)


def check_out(out: Path) -> None:
    """Raise `InputError` unless samples can be written to `out`: `.png`, `.npz`, or a folder."""
    if out.suffix.lower() not in (".png", ".npz", ""):
        raise InputError(f"--out {out}: expected a name that ends in .png (a grid) or .npz, or a folder")
    if (out.is_dir()) != (out.suffix == "") and out.exists():
        raise InputError(f"--out {out}: there is a {'folder' if out.is_dir() else 'file'} of that name")
    check_folder(out)
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"--out {out}: the folder is not empty; old and new pictures would mix. Give another")


def check_folder(out: Path) -> None:
    """Raise `InputError` where a file or folder of that name could not be made."""
    # A file is replaced, never written into: what counts is the folder, even if the file is there.
    folder = out if out.is_dir() else next(p for p in out.absolute().parents if p.exists())
    if not folder.is_dir():
        raise InputError(f"--out {out}: {folder} is not a folder")
    if not os.access(folder, os.W_OK):
        raise InputError(f"--out {out}: no permission to write in {folder}")
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(65536))  # an empty one is made on a full disk, too
    except OSError as error:  # a disk that is full, or no place for files
        raise InputError(f"--out {out}: no file can be made in {folder} ({error.strerror})") from None


def write_samples(
    out: Path,
    images: np.ndarray,
    labels: np.ndarray | None,
    *,
    columns: int | None = None,
    kind: str = "png",
    quality: int | None = None,
) -> None:
    """uint8 `[N, H, W, C]` to `out`: `.png` a grid; `.npz` arrays `images` and `labels` (-1 where there are none);
    a folder one file each, a `kind` of `write_picture`, `000000.png` or with labels `000000_3.png`. Float latents:
    `.npz`, as `latents`."""
    if out.suffix.lower() == ".png":
        write_png(out, grid(images, columns=columns))
    elif out.suffix.lower() == ".npz":
        label = np.full(len(images), -1, np.int32) if labels is None else np.asarray(labels, np.int32)
        arrays: dict[str, Any] = {"images" if images.dtype == np.uint8 else "latents": images, "labels": label}
        write_atomically(out, lambda file: np.savez_compressed(file, **arrays))
    else:
        for i, image in enumerate(images):
            name = f"{i:06d}" if labels is None else f"{i:06d}_{labels[i]}"
            write_picture(out / (name + SUFFIX[kind]), image, kind=kind, quality=quality)


def labels_in_names(names: Sequence[str]) -> np.ndarray | None:
    """The labels, int32 `[N]`, in names as `write_samples` gives them; None unless every name has one. Nine digits are
    more than any set has classes: a longer number, a time's, say, is none.

    >>> labels_in_names(["000000_3.png", "000001_12.jpg"]).tolist()
    [3, 12]
    >>> labels_in_names(["000000_3.png", "000001.png"]), labels_in_names(["000001_1700000000000.png"])
    (None, None)
    """
    found = [re.fullmatch(r"\d{6,}_(\d{1,9})\.(?:png|jpg|webp)", name) for name in names]
    if not all(found):
        return None
    return np.array([int(match[1]) for match in found if match], np.int32)
