"""Pictures of any kind, one at a time, as uint8 of one size and number of channels.

* EXIF's orientation is honoured.
* The largest square in the middle is resized to `size` by Lanczos' filter (a = 3), as wide as the reduction asks for,
  so that nothing aliases (arXiv 2104.11222 shows what resizing without that does); of Pillow's filters it keeps most
  detail, and unlike repeated halving by a box it treats all sizes alike. JPEGs of six times the size and more are
  halved while they are decoded, down to no less than three times.
* 16 bits become 8 by v / 257, rounded. Pillow opens 16-bit colour PNGs with their high bytes alone.
* Transparency is put on white, what most such pictures are drawn for, unless four channels are asked for.
* CMYK is converted without a colour profile; profiles are not applied. Of an animation the first frame counts.
"""

import dataclasses
from collections.abc import Iterable
from os import PathLike
from typing import BinaryIO

import numpy as np
from PIL import Image

from jaxdiff.typing import InputError

ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What mends each of EXIF's orientations."""
GREY_MODES = ("1", "L", "LA")
ALPHA_MODES = ("LA", "PA", "RGBA")
DRAFT = 3  # a JPEG is decoded at no less than that times the size asked for


class UnreadableError(InputError):
    """One image of a set that cannot be used: `name` says which, `reason` why."""

    def __init__(self, name: str, reason: str) -> None:
        self.name, self.reason = name, reason
        super().__init__(
            f"{name}: not a usable image ({reason}). Mend or remove it, or leave such images out: "
            "--data.skip-corrupt True of train.py, --skip-corrupt of jaxdiff data"
        )

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.name, self.reason)


def fit(picture: Image.Image, *, size: int | None, channels: int) -> np.ndarray:
    """A picture as uint8 `[H, W, C]`: the middle square resized to `size`, or all of it as it is.

    Args:
      picture: as Pillow opens it, or `Image.fromarray`.
      size: of the side; None keeps the picture's.
      channels: 1 grey (ITU-R 601 luma), 2 grey and alpha, 3 RGB, 4 RGBA.

    Raises:
      ValueError, OSError: Pillow's, for a damaged file; or floating-point pixels, or more than 16 bits.

    >>> fit(Image.new("RGB", (40, 30), "red"), size=8, channels=3)[0, 0].tolist()
    [255, 0, 0]
    """
    picture = _converted(_eight_bits(_upright(picture)), channels)
    if size is not None:
        width, height = picture.size
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        box = (left, top, left + side, top + side)
        if side == size:
            picture = picture.crop(box)
        else:
            picture = picture.resize((size, size), Image.Resampling.LANCZOS, box=box)
    return np.asarray(picture).reshape(picture.height, picture.width, channels)


def _upright(picture: Image.Image) -> Image.Image:
    picture.load()  # Pillow turns TIFFs by itself, here
    try:
        turn = TURNS.get(picture.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged EXIF, of which Pillow raises many kinds, spoils no pixel
        turn = None
    return picture if turn is None else picture.transpose(turn)


def _eight_bits(picture: Image.Image) -> Image.Image:
    if picture.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range; save it with 8 or 16 bits")
    if not picture.mode.startswith("I"):
        return picture
    levels = np.asarray(picture).astype(np.int64)
    if levels.min() < 0 or levels.max() > 65535:
        raise ValueError(f"more than 16 bits: levels {levels.min()} to {levels.max()}; save it with 8 or 16 bits")
    return Image.fromarray(((levels + 128) // 257).astype(np.uint8))


def _converted(picture: Image.Image, channels: int) -> Image.Image:
    if channels in (2, 4):
        return picture.convert("LA" if channels == 2 else "RGBA")
    if picture.mode in ALPHA_MODES or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        picture = Image.new("RGB", rgba.size, "white")
        picture.paste(rgba, mask=rgba.getchannel("A"))
    if channels == 1:
        return picture.convert("L") if picture.mode in GREY_MODES else picture.convert("RGB").convert("L")
    return picture.convert("RGB")


def has_colour(picture: Image.Image) -> bool:
    """Whether a picture may have colour, by its mode and palette, not by its pixels.

    >>> has_colour(Image.new("L", (2, 2))), has_colour(Image.new("RGB", (2, 2)))
    (False, True)
    """
    if picture.mode == "P":
        palette = np.array(picture.getpalette("RGB") or [0, 0, 0]).reshape(-1, 3)
        return bool((palette != palette[:, :1]).any())
    return not (picture.mode in GREY_MODES or picture.mode.startswith("I") or picture.mode == "F")


@dataclasses.dataclass(frozen=True)
class Fit:
    """How the pictures of a set are brought to one shape; `fit_like` makes it.

    Attributes:
      shape: `(H, W, C)` of each.
      size: to which they are resized, or None: each must have the shape.
      as_found: C was not asked for, but is that of the first picture.
    """

    shape: tuple[int, int, int]
    size: int | None
    as_found: bool

    def open(self, file: str | PathLike[str] | BinaryIO) -> Image.Image:
        """Open a picture; a JPEG far larger than needed will be decoded at a half, a quarter or an eighth."""
        picture = Image.open(file)
        if self.size is not None:
            picture.draft(None, (DRAFT * self.size, DRAFT * self.size))
        return picture

    def __call__(self, picture: Image.Image, name: str) -> np.ndarray:
        """The picture in that shape.

        Raises:
          InputError: it has colour and the first was grey, or another size and none was asked for.
        """
        channels = self.shape[2]
        image = fit(picture, size=self.size, channels=channels)
        if channels == 1 and self.as_found and has_colour(picture):
            raise InputError(
                f"{name}: has colours, but the first image is grey. Give --data.channels 1 or 3 "
                "(jaxdiff data: --channels)"
            )
        if image.shape != self.shape:
            there, here = (f"{shape[1]}x{shape[0]}" for shape in (self.shape, image.shape))
            raise InputError(
                f"{name}: is {here} pixels, the first image is {there}. Give --data.size N (jaxdiff data: --size): the "
                "middle square of every image is then resized to N x N"
            )
        return image


def fit_like(pictures: Iterable[Image.Image], *, size: int | None, channels: int | None) -> Fit:
    """How to bring a set to one shape: the size and channels asked for, else those of the first of `pictures`.

    Transparency is no reason for a fourth channel unless it is asked for.

    >>> fit_like([Image.new("L", (5, 6))], size=None, channels=None).shape
    (6, 5, 1)
    """
    if size is not None and channels is not None:
        return Fit((size, size, channels), size, as_found=False)
    picture = next(iter(pictures))
    found = channels if channels is not None else 3 if has_colour(picture) else 1
    height, width, _ = fit(picture, size=size, channels=found).shape
    return Fit((height, width, found), size, as_found=channels is None)
