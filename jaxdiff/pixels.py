"""From floats to the grey levels of files: by itself, for programs that serve pictures and write none."""

import numpy as np


def to_uint8(images: np.ndarray) -> np.ndarray:
    """[-1, 1] -> 0..255, rounded; values outside are clipped.

    >>> to_uint8(np.array([-1.0, 0.0, 1.0, 7.0])).tolist()
    [0, 128, 255, 255]
    """
    levels = np.rint((np.clip(np.asarray(images, np.float32), -1, 1) + 1) * 127.5)
    return np.asarray(levels, np.uint8)
