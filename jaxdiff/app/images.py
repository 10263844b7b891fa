"""Images that come in, from anybody."""

import io

import numpy as np
from PIL import Image

from jaxdiff.app.limits import TooLargeError
from jaxdiff.data.fit import ORIENTATION, fit
from jaxdiff.typing import InputError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MAX_LAYERS = 4
"""Of a drawing; the page's has one."""
MAX_DRAWN = 4_000_000
"""Pixels of a layer, which is as large as the image it is drawn on."""
MAX_SCANS = 64
"""Of a JPEG: progressive ones have a dozen. Each is a pass over all pixels, and a small file can ask for thousands."""


def content_of(path: str) -> bytes:
    """Of a file that Gradio keeps of an upload."""
    with open(path, "rb") as file:
        return file.read()


def opened(content: bytes, what: str, *, max_pixels: int) -> Image.Image:
    """An image whose header was read, and no pixel yet.

    Args:
      content: a file's.
      what: it is, for messages.
      max_pixels: it may have.

    Raises:
      InputError: no image of `FORMATS`.
      TooLargeError: more pixels, or a JPEG of more scans than `MAX_SCANS`.
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
    if picture.format == "JPEG" and content.count(b"\xff\xda") > MAX_SCANS:
        raise TooLargeError(f"{what}: a JPEG of more than {MAX_SCANS} scans; save it anew")
    return picture


def upright_size(picture: Image.Image) -> tuple[int, int]:
    """Width and height as people see it, by EXIF's orientation."""
    try:
        turned = picture.getexif().get(ORIENTATION, 1) >= 5
    except Exception:  # damaged EXIF spoils no pixel
        turned = False
    width, height = picture.size
    return (height, width) if turned else (width, height)


def as_pixels(picture: Image.Image, what: str, shape: tuple[int, int, int]) -> np.ndarray:
    """An image as uint8 `[H, W, C]`: of another size the middle square, resized, as `data.fit.fit` does it.

    Raises:
      InputError: a damaged image, or one that cannot be resized to pictures that are no squares.
    """
    height, width, channels = shape
    size = upright_size(picture)
    if size != (width, height) and height != width:
        raise InputError(f"{what}: {size[0]}x{size[1]} pixels; expected {width}x{height}")
    try:
        return fit(picture, size=height if height == width else None, channels=channels)
    except Exception as error:  # of damaged files Pillow raises many kinds
        raise InputError(f"{what}: cannot be read to its end ({error})") from None


def drawing_of(layers: list[bytes]) -> np.ndarray | None:
    """What was drawn, on any layer of an editor: uint8 `[h, w]`, 255 where it is opaque; None if there is no layer.

    Raises:
      InputError: layers that are no images, too large, or of different sizes.
    """
    drawn = []
    for content in layers:
        layer = opened(content, "the drawing", max_pixels=MAX_DRAWN)
        drawn.append(as_pixels(layer, "the drawing", (layer.height, layer.width, 4))[..., 3])
    if len({layer.shape for layer in drawn}) > 1:
        raise InputError("the drawing: its layers differ in size")
    return np.max(drawn, axis=0) if drawn else None


def mask_of(picture: Image.Image, image_size: tuple[int, int], shape: tuple[int, int, int]) -> np.ndarray:
    """1 where pixels are known, 0 where they are to be painted, which is white in the mask: float32 `[H, W, 1]`.

    Args:
      picture: the mask, of the network's size, or as large as the image that it belongs to; what is transparent in it
        is not to be painted.
      image_size: of that, width and height.
      shape: of the network's pictures.

    Raises:
      InputError: of another size; a damaged image; nothing to be painted.
    """
    height, width, _ = shape
    own = upright_size(picture)
    if own not in ((width, height), image_size):
        raise InputError(f"mask: {own[0]}x{own[1]} pixels; expected {width}x{height}, or as many as the image has")
    levels = as_pixels(picture, "mask", (own[1], own[0], 4)).astype(np.float32)
    white = Image.fromarray((levels[..., :3].mean(-1) * levels[..., 3] / 255).astype(np.uint8))
    if height != width:  # of an image that was fitted to it, enlarged
        white = white.resize((width, height), Image.Resampling.BOX)
    known = (as_pixels(white, "mask", (height, width, 1)) < 128).astype(np.float32)
    if known.all():
        raise InputError("mask: nothing is to be painted; white is what is painted anew")
    return known
