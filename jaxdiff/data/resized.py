"""A source whose images have another size or number of channels."""

import dataclasses

import numpy as np
from PIL import Image

from jaxdiff.data.fit import fit
from jaxdiff.data.sources import Examples, Source, Wrapped


@dataclasses.dataclass(frozen=True, eq=False)
class Resized(Wrapped):
    """The middle square of each image, resized to `size`, with `channels` channels; None keeps either.

    >>> from jaxdiff.data import digits
    >>> Resized(digits(), size=4, channels=3).gather(np.arange(2))["image"].shape
    (2, 4, 4, 3)
    """

    source: Source
    size: int | None = None
    channels: int | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        height, width, channels = self.source.image_shape
        return self.size or height, self.size or width, self.channels or channels

    def gather(self, index: np.ndarray) -> Examples:
        examples = self.source.gather(index)
        if self.image_shape == self.source.image_shape:
            return examples
        channels = self.image_shape[2]
        pictures = (Image.fromarray(image[..., 0] if image.shape[2] == 1 else image) for image in examples["image"])
        return examples | {"image": np.stack([fit(p, size=self.size, channels=channels) for p in pictures])}
