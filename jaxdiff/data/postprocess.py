"""Pictures that are made, changed before they are written: cropped, rotated, resized, by Pillow."""

import dataclasses
import math
from typing import Literal

import numpy as np
from PIL import Image

from jaxdiff.typing import InputError

CHANNELS = {"png": (1, 2, 3, 4), "jpeg": (1, 3), "webp": (1, 3, 4)}
"""What the formats hold; WebP makes three equal ones of grey."""
LARGEST = {"png": 65_500, "jpeg": 65_500, "webp": 16_383}
"""The side of a picture; libjpeg's bound is that of all resizing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PostProcess:
    """What is done to every picture, in this order."""

    crop: tuple[int, ...] = ()
    """Keep the middle of each picture: the side of a square, or height and width."""
    rotate: float | None = None
    """Turn it by so many degrees, counter-clockwise, about its middle: bicubic, but quarter turns of squares exact."""
    expand: bool = False
    """With --rotate: make it as large as what is turned; default: the size stays, and corners are cut."""
    fill: tuple[int, ...] = ()
    """With --rotate: what comes into view, 0 to 255, one number for all channels or one each. Default 0."""
    resize: tuple[int, ...] = ()
    """Resize it, by Lanczos: what its shorter side becomes, the other in proportion; or height and width."""
    format: Literal["png", "jpeg", "webp"] | None = None
    """Of the files of a folder; default png, which alone loses nothing. JPEG has no transparency, and WebP no grey: it
    makes three channels of one."""
    quality: int | None = None
    """Of jpeg and webp, 1 to 100; default 95."""


def postprocess(images: np.ndarray, options: PostProcess) -> np.ndarray:
    """Crop, then rotate, then resize each picture.

    Args:
      images: uint8 `[N, H, W, C]`, C = 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA); only cropped, any C.
      options: of which `format` and `quality` are for who writes files.

    Returns:
      uint8 `[N, H', W', C]`.

    Raises:
      InputError: see `check_postprocess`.

    >>> images = np.arange(12, dtype=np.uint8).reshape(1, 3, 4, 1)
    >>> postprocess(images, PostProcess(crop=(1, 2), rotate=90, expand=True))[0, ..., 0].tolist()
    [[6], [5]]
    """
    check_postprocess(options, images.shape[1:])
    if options.crop:
        height, width = _pair(options.crop)
        y, x = (images.shape[1] - height) // 2, (images.shape[2] - width) // 2
        images = images[:, y : y + height, x : x + width]
    if options.rotate is None and not options.resize:
        return images
    shape = _size(options, images.shape[1:])
    out = np.empty((len(images), *shape), np.uint8)
    for i, image in enumerate(images):
        picture = _rotated(image, options)
        if options.resize:
            picture = picture.resize((shape[1], shape[0]), Image.Resampling.LANCZOS)
        out[i] = np.asarray(picture).reshape(shape)
    return out


def check_postprocess(options: PostProcess, shape: tuple[int, ...]) -> None:
    """Raise `InputError` for options that fit no picture of the shape `[H, W, C]`, or not each other.

    >>> check_postprocess(PostProcess(crop=(40,)), (32, 32, 3))
    Traceback (most recent call last):
    ...
    jaxdiff.typing.InputError: --crop 40: the pictures are 32 by 32; expected a side, or height and width, of 1 to that
    """
    height, width, channels = shape
    for name in ("crop", "resize"):
        if len(getattr(options, name)) > 2:
            raise InputError(f"--{name} {_words(getattr(options, name))}: expected one side, or height and width")
    if options.crop and not all(1 <= side <= most for side, most in zip(_pair(options.crop), shape, strict=False)):
        raise InputError(
            f"--crop {_words(options.crop)}: the pictures are {height} by {width}; expected a side, or height and "
            "width, of 1 to that"
        )
    if options.rotate is not None and not math.isfinite(options.rotate):
        raise InputError(f"--rotate {options.rotate}: expected a number of degrees")
    if options.rotate is None and (options.expand or options.fill):
        raise InputError(f"--{'expand' if options.expand else 'fill'}: is of --rotate; give that too, or leave it out")
    if options.fill and (len(options.fill) not in (1, channels) or not all(0 <= x <= 255 for x in options.fill)):
        raise InputError(f"--fill {_words(options.fill)}: expected 0 to 255, one number, or one for each of {channels}")
    if (options.rotate is not None or options.resize) and channels not in CHANNELS["png"]:
        flag = "rotate" if options.rotate is not None else "resize"
        raise InputError(f"--{flag}: of pictures of 1 to 4 channels; these have {channels}")
    _check_format(options, channels)
    most = LARGEST[options.format or "png"]
    if options.resize and not all(
        1 <= side <= most for side in (*options.resize, *_size(options, _cropped(options, shape))[:2])
    ):
        raise InputError(
            f"--resize {_words(options.resize)}: expected sides of 1 to {most:,}, also of what comes of it"
        )


def _check_format(options: PostProcess, channels: int) -> None:
    kind = options.format
    if kind is not None and channels not in CHANNELS[kind]:
        fit = ", ".join(name for name, known in CHANNELS.items() if channels in known) or "none: give --out NAME.npz"
        raise InputError(f"--format {kind}: cannot hold {channels} channels; what can is {fit}")
    if options.quality is not None and kind in (None, "png"):
        raise InputError(f"--quality {options.quality}: is of --format jpeg or webp; PNG loses nothing")
    if options.quality is not None and not 1 <= options.quality <= 100:
        raise InputError(f"--quality {options.quality}: expected 1 to 100")


def _cropped(options: PostProcess, shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*_pair(options.crop), shape[-1]) if options.crop else shape


def _size(options: PostProcess, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """`[H, W, C]` of what is rotated and resized, of the shape before these."""
    width, height = _rotated(np.zeros(shape, np.uint8), options).size
    if len(options.resize) == 2:
        height, width = options.resize
    elif options.resize:
        side, shorter = options.resize[0], min(height, width)
        height, width = (round(x * side / shorter) for x in (height, width))
    return height, width, shape[-1]


def _rotated(image: np.ndarray, options: PostProcess) -> Image.Image:
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    if options.rotate is None:
        return picture
    fill = (options.fill or (0,)) * (1 if len(options.fill) == image.shape[-1] else image.shape[-1])
    colour = fill[0] if len(fill) == 1 else fill
    return picture.rotate(options.rotate, Image.Resampling.BICUBIC, expand=options.expand, fillcolor=colour)


def _pair(sides: tuple[int, ...]) -> tuple[int, int]:
    return sides[0], sides[-1]


def _words(numbers: tuple[int, ...]) -> str:
    return " ".join(map(str, numbers))
