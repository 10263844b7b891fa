"""Batches from a source, through grain: one global order by (seed, epoch), restartable at any position."""

from functools import partial
from typing import Any, NamedTuple

import grain
import numpy as np

from jaxdiff.data.sources import Examples, Source
from jaxdiff.typing import InputError


def batches(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    flip: bool = False,
    share: tuple[int, int] = (0, 1),
    threads: int = 4,
) -> Any:
    """An endless iterator of batches `{"image": uint8 [B, H, W, C], "label": int32 [B]}`.

    Every epoch has its own order, a function of (seed, epoch) alone; batches run across epoch ends, so that no image
    is left out. `get_state()` is a small dict, the same in every process, and `set_state(state)` continues exactly
    after that batch, with any number of processes.

    Args:
      source: where the images come from.
      batch_size: of the global batch, for all processes together.
      seed: of the order and of the flips.
      flip: mirror each image left to right with probability 1/2.
      share: (p, n), which part of each global batch is read here: of n equal pieces side by side, number p.
      threads: that read ahead; with `workers.InProcesses` at least as many as there are workers.

    Raises:
      InputError: a batch of no image, one that n does not divide, or a negative seed.

    >>> from jaxdiff.data import digits
    >>> next(batches(digits(), batch_size=4, seed=0))["image"].shape
    (4, 8, 8, 1)
    """
    process, processes = share
    if batch_size < 1 or batch_size % processes:
        divided = f", divisible by the {processes} processes" if processes > 1 else ""
        raise InputError(f"batch_size: expected at least 1{divided}, got {batch_size}")
    if seed < 0:
        raise InputError(f"seed: expected at least 0, got {seed}")
    # seed() before shuffle(): otherwise every epoch has the same order. There is no remainder to drop in an endless
    # set; but without drop_remainder grain rounds its length in floating point, which overflows for batches of one.
    index = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat().batch(batch_size, drop_remainder=True)
    # What is drawn is drawn for the whole batch, so that an image is the same in whichever process it is read.
    chosen = index.random_map(partial(_choose, flip=flip)).map(partial(_piece, process=process, processes=processes))
    dataset = chosen.map(partial(_read, source))  # whole batches of uint8: far cheaper than image by image
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(dataset.to_iter_dataset(options))


class _Chosen(NamedTuple):
    """Examples of a batch, and which of them are mirrored."""

    numbers: np.ndarray
    mirrored: np.ndarray


def _choose(index: np.ndarray, rng: np.random.Generator, *, flip: bool) -> _Chosen:
    return _Chosen(index, rng.random(len(index)) < 0.5 if flip else np.zeros(len(index), bool))


def _piece(chosen: _Chosen, *, process: int, processes: int) -> _Chosen:
    size = len(chosen.numbers) // processes
    return _Chosen(*(array[process * size : (process + 1) * size] for array in chosen))


def _read(source: Source, chosen: _Chosen) -> Examples:
    batch = source.gather(chosen.numbers)
    image = batch["image"]
    if chosen.mirrored.any():
        image = image.copy()  # it may be the source's own
        image[chosen.mirrored] = image[chosen.mirrored, :, ::-1]
    return batch | {"image": image}
