"""Images that come in, from anybody."""

import io

import numpy as np
from PIL import Image

from jaxdiff.app.limits import TooLargeError
from jaxdiff.data.fit import fit
from jaxdiff.typing import InputError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


def opened(content: bytes, what: str, *, max_pixels: int) -> Image.Image:
    """An image whose header was read, and no pixel yet.

    Args:
      content: a file's.
      what: it is, for messages.
      max_pixels: it may have.

    Raises:
      InputError: no image of `FORMATS`.
      TooLargeError: more pixels.
    """
    try:
        picture = Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError:
        raise TooLargeError(f"{what}: too many pixels; expected {max_pixels:,} at most") from None
    except Exception:  # of damaged headers Pillow raises many kinds
        raise InputError(f"{what}: is no image; expected a file of {', '.join(FORMATS)}") from None
    width, height = picture.size
    if width * height > max_pixels:
        raise TooLargeError(f"{what}: {width}x{height} pixels; expected {max_pixels:,} at most")
    return picture


def as_pixels(picture: Image.Image, what: str, shape: tuple[int, int, int]) -> np.ndarray:
    """An image as uint8 `[H, W, C]`: of another size the middle square, resized, as `data.fit.fit` does it.

    Raises:
      InputError: a damaged image, or one that cannot be resized to pictures that are no squares.
    """
    height, width, channels = shape
    if picture.size != (width, height) and height != width:
        raise InputError(f"{what}: {picture.width}x{picture.height} pixels; expected {width}x{height}")
    try:
        return fit(picture, size=height if height == width else None, channels=channels)
    except Exception as error:  # of damaged files Pillow raises many kinds
        raise InputError(f"{what}: cannot be read to its end ({error})") from None


def mask_of(picture: Image.Image, image_size: tuple[int, int], shape: tuple[int, int, int]) -> np.ndarray:
    """1 where pixels are known, 0 where they are to be painted, which is white in the mask: float32 `[H, W, 1]`.

    Args:
      picture: the mask, of the network's size, or as large as the image that it belongs to.
      image_size: of that, width and height.
      shape: of the network's pictures.

    Raises:
      InputError: of another size; nothing to be painted.
    """
    height, width, _ = shape
    if picture.size not in ((width, height), image_size):
        raise InputError(
            f"mask: {picture.width}x{picture.height} pixels; expected {width}x{height}, or as many as the image has"
        )
    known = (as_pixels(picture, "mask", (height, width, 1)) < 128).astype(np.float32)
    if known.all():
        raise InputError("mask: nothing is to be painted; white is what is painted anew")
    return known
