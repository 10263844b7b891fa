"""Between floats and the grey levels of files: by itself, for programs that serve pictures and write none."""

from typing import TypeVar

import jax
import numpy as np

Images = TypeVar("Images", np.ndarray, jax.Array)


def to_uint8(images: np.ndarray) -> np.ndarray:
    """[-1, 1] -> 0..255, rounded; values outside are clipped.

    >>> to_uint8(np.array([-1.0, 0.0, 1.0, 7.0])).tolist()
    [0, 128, 255, 255]
    """
    levels = np.rint((np.clip(np.asarray(images, np.float32), -1, 1) + 1) * 127.5)
    return np.asarray(levels, np.uint8)


def from_uint8(images: Images) -> Images:
    """0..255 -> float32 in [-1, 1], of numpy or of JAX, also while it traces; what is float32 stays as it is.

    >>> from_uint8(np.array([0, 255], np.uint8)).tolist()
    [-1.0, 1.0]
    """
    return images if images.dtype == np.float32 else images.astype(np.float32) / np.float32(127.5) - np.float32(1)
