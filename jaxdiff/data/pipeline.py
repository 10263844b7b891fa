"""Batches from a source, through grain: one global order by (seed, epoch), restartable at any position."""

from typing import Any

import grain
import numpy as np

from jaxdiff.data.sources import Examples, Source
from jaxdiff.typing import InputError


def batches(source: Source, *, batch_size: int, seed: int, flip: bool = False, threads: int = 4) -> Any:
    """An endless iterator of batches `{"image": uint8 [B, H, W, C], "label": int32 [B]}`.

    Every epoch has its own order, a function of (seed, epoch) alone; batches run across epoch ends, so that no image
    is left out. `get_state()` is a small dict and `set_state(state)` continues exactly after that batch.

    Args:
      source: where the images come from.
      batch_size: B, for all devices together.
      seed: of the order and of the flips.
      flip: mirror each image left to right with probability 1/2.
      threads: that read ahead.

    Raises:
      InputError: a batch of no image, or a negative seed.

    >>> from jaxdiff.data import digits
    >>> next(batches(digits(), batch_size=4, seed=0))["image"].shape
    (4, 8, 8, 1)
    """
    if batch_size < 1:
        raise InputError(f"batch_size: expected at least 1, got {batch_size}")
    if seed < 0:
        raise InputError(f"seed: expected at least 0, got {seed}")
    # seed() before shuffle(): otherwise every epoch has the same order. There is no remainder to drop in an endless
    # set; but without drop_remainder grain rounds its length in floating point, which overflows for batches of one.
    index = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat().batch(batch_size, drop_remainder=True)
    dataset = index.map(source.gather)  # whole batches of uint8: far cheaper than image by image
    if flip:
        dataset = dataset.random_map(_flip)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(dataset.to_iter_dataset(options))


def _flip(batch: Examples, rng: np.random.Generator) -> Examples:
    image = batch["image"]
    mirrored = rng.random(len(image)) < 0.5
    return batch | {"image": np.where(mirrored[:, None, None, None], image[:, :, ::-1], image)}
