"""One pass over a set of images: the moments of their features and, where a metric wants them, the features."""

import dataclasses
import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxdiff.data import Source, Subset
from jaxdiff.features import Features
from jaxdiff.metrics import Moments, merged, moments
from jaxdiff.train.parallel import replicate
from jaxdiff.typing import Array, InputError, PyTree


@dataclasses.dataclass(frozen=True, eq=False)
class Gathered:
    """What is known of a set of images.

    Attributes:
      name: what the set is called in messages.
      count: how many there are; None where a file does not say.
      moments: of outputs of the features, by name.
      arrays: outputs whole, float32 `[N, D]`, by name.
      labels: int32 `[N]`, or None.
      image_shape: of each, or None where a file does not say.
      sha256: of the images, in their order; None where there were none.
    """

    name: str
    count: int | None
    moments: dict[str, Moments]
    arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    labels: np.ndarray | None = None
    image_shape: tuple[int, int, int] | None = None
    sha256: str | None = None


AT_ONCE = 64
"""Images of which a device computes features at a time, at most: a network of 224x224 or more takes its memory."""

Extract = Callable[[np.ndarray], dict[str, np.ndarray]]
"""uint8 images `[B, H, W, C]` -> outputs of the features, float32 `[B, D]`."""


def extractor(features: Features, outputs: Collection[str], *, batch: int) -> Extract:
    """`features.apply` on all local devices, compiled once: parts of a batch that is smaller are filled up and cut.

    Args:
      features: the network.
      outputs: which of its outputs are wanted; the others are not computed.
      batch: images at a time, rounded up to a multiple of the devices; at most `AT_ONCE` on each.
    """
    share = share_of(batch)
    wanted = sorted(outputs)  # in one order, or the compiled program would not be found again

    def chosen(params: PyTree, x: Array) -> dict[str, Array]:
        found = features.apply(params, x)
        return {name: found[name] for name in wanted}

    run, params = jax.pmap(chosen, in_axes=(None, 0)), replicate(features.params)

    return lambda images: in_parts(partial(run, params), share, images)


def share_of(batch: int) -> int:
    """How many images of a batch each local device takes at a time, at most `AT_ONCE`."""
    return min(-(-batch // jax.local_device_count()), AT_ONCE)


def in_parts(run: Callable[..., dict[str, Array]], share: int, *arrays: np.ndarray) -> dict[str, np.ndarray]:
    """A function of `jax.pmap` on all local devices, `share` rows on each at a time; one program is compiled, as a part
    that is smaller is filled up and cut.

    Args:
      run: `(arrays [devices, share, ...]) -> outputs [devices, share, ...] by name`.
      share: see `share_of`.
      arrays: `[N, ...]` each.

    Returns: the outputs, `[N, D]` each.
    """
    devices, parts = jax.local_device_count(), []
    size = share * devices

    def full(some: np.ndarray) -> np.ndarray:
        filled = np.concatenate([some, np.repeat(some[-1:], size - len(some), axis=0)])
        return filled.reshape(devices, share, *filled.shape[1:])

    for first in range(0, len(arrays[0]), size):
        some = [array[first : first + size] for array in arrays]
        found = run(*map(full, some))
        parts.append({name: np.asarray(y).reshape(size, -1)[: len(some[0])] for name, y in found.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def gather(
    batches: Iterable[np.ndarray],
    extract: Extract,
    *,
    name: str,
    moments_of: Collection[str],
    keep: Collection[str],
    labels: np.ndarray | None = None,
    progress: Callable[[int], Any] = lambda num: None,
) -> Gathered:
    """One pass over uint8 images, `[<= B, H, W, C]` at a time.

    Args:
      batches: the images.
      extract: see `extractor`.
      name: of the set.
      moments_of: of which outputs the mean and covariance are wanted, in float64.
      keep: which outputs are wanted whole: 4 N D bytes each.
      labels: of the images.
      progress: told how many images each batch had.

    Raises:
      InputError: no image, images of several sizes, or features that are not finite.
    """
    found: dict[str, Moments] = {}
    kept: dict[str, list[np.ndarray]] = {output: [] for output in keep}
    digest, count, shape = hashlib.sha256(), 0, None
    for images in hashed(batches, digest):
        shape = shape or images.shape[1:]
        if images.shape[1:] != shape:
            raise InputError(f"{name}: images of several sizes, {shape} and {images.shape[1:]}; expected one")
        outputs = extract(images)
        for output in moments_of:
            new = moments(outputs[output])
            found[output] = merged(found[output], new) if output in found else new
        for output in keep:
            kept[output].append(outputs[output])
        count += len(images)
        progress(len(images))
    if not count:
        raise InputError(f"{name}: there is no image")
    arrays = {output: np.concatenate(kept.pop(output)) for output in keep}  # so that only one is there twice
    return Gathered(name, count, found, arrays, labels, shape, digest.hexdigest())


def hashed(batches: Iterable[np.ndarray], digest: Any) -> Iterator[np.ndarray]:
    """The batches, while a digest takes them in: by it a set is known, however it is cut in batches.

    Args:
      batches: of images.
      digest: of hashlib, such as `hashlib.sha256()`.
    """
    for i, images in enumerate(batches):
        if not i:
            digest.update(f"{images.dtype} {images.shape[1:]}".encode())
        digest.update(images.tobytes())
        yield images


def images_of(source: Source, index: np.ndarray, *, batch: int) -> Iterator[np.ndarray]:
    """The images numbered `index`, so many at a time.

    Args:
      source: of images.
      index: their numbers.
      batch: how many at a time; the last batch may be smaller.

    Returns:
      uint8 `[<= batch, H, W, C]`, one after the other.
    """
    for first in range(0, len(index), batch):
        yield source.gather(index[first : first + batch])["image"]


def labels_of(source: Source, index: np.ndarray) -> np.ndarray | None:
    """The labels of the images numbered `index`, or None where there are none.

    Images are read for them, unless the source, or that which it is of, holds its labels.

    Args:
      source: of images.
      index: their numbers.
    """
    if source.num_classes is None:
        return None
    if isinstance(source, Subset):
        return labels_of(source.source, source.index[index])
    held = getattr(source, "labels", None)
    if isinstance(held, np.ndarray):
        return np.asarray(held[index])
    some = [source.gather(index[first : first + 4096])["label"] for first in range(0, len(index), 4096)]
    return np.concatenate(some)


def as_often(labels: np.ndarray, num: int) -> np.ndarray:
    """`num` labels, each as often as in `labels` up to rounding, in order.

    >>> as_often(np.array([1, 0, 1, 1]), 8).tolist()
    [0, 0, 1, 1, 1, 1, 1, 1]
    """
    places: np.ndarray = np.linspace(0, len(labels), num, endpoint=False).astype(int)
    return np.asarray(np.sort(labels)[places])
