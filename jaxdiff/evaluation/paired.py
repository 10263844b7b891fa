"""Image by image: samples that are meant to be the reference's images, such as restored or compressed ones."""

from collections.abc import Callable, Collection, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import metrics
from jaxdiff.evaluation.gather import in_parts, share_of
from jaxdiff.pixels import from_uint8
from jaxdiff.typing import Array, InputError

Distance = Callable[[Array, Array], Array]
"""`(x, y [B, H, W, C] in [-1, 1]) -> [B]`."""

PAIRED: dict[str, Distance] = {"psnr": metrics.psnr, "ssim": metrics.ssim, "ms_ssim": metrics.ms_ssim}
"""By the name that `jaxdiff evaluate --metrics` gives them; beside these lpips, which needs weights."""


def check_pairs(names: Collection[str], shape: tuple[int, int, int], perceptual: Distance | None) -> None:
    """Raise `InputError` for images that a metric refuses, before any is read.

    Args:
      names: of metrics, keys of `PAIRED`.
      shape: of an image, `(H, W, C)`.
      perceptual: one more, such as LPIPS.
    """
    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    for row in (*(PAIRED[name] for name in names), *([] if perceptual is None else [perceptual])):
        jax.eval_shape(row, x, x)


def paired(
    names: Collection[str],
    pairs: Iterable[tuple[np.ndarray, np.ndarray]],
    *,
    perceptual: tuple[str, Distance] | None = None,
    progress: Callable[[int], object] = lambda num: None,
) -> dict[str, float]:
    """The means over all pairs, by name; computed on all local devices.

    Args:
      names: of `PAIRED`.
      pairs: uint8 images, `[B, H, W, C]` each, of one shape.
      perceptual: another distance and its name, such as `features.lpips`.
      progress: told how many pairs each batch had.

    Raises:
      InputError: shapes that differ, no pair, or images that a metric refuses.

    >>> x = np.zeros((2, 16, 16, 1), np.uint8)
    >>> round(paired(["psnr"], [(x, x + 1)])["psnr"], 3)  # 20 log10(255)
    48.131
    """
    rows = {name: PAIRED[name] for name in names} | dict([] if perceptual is None else [perceptual])
    sums, count, share = dict.fromkeys(rows, 0.0), 0, None

    def distances(x: Array, y: Array) -> dict[str, Array]:
        a, b = map(from_uint8, (x, y))
        return {name: row(a, b) for name, row in rows.items()}

    run = jax.pmap(distances)
    for x, y in pairs:
        if x.shape != y.shape:
            raise InputError(f"paired metrics: expected images of one shape, got {x.shape} and {y.shape}")
        share = share or share_of(len(x))
        for name, found in in_parts(run, share, x, y).items():
            sums[name] += float(found.sum(dtype=np.float64))
        count += len(x)
        progress(len(x))
    if not count:
        raise InputError("paired metrics: there is no pair of images")
    return {name: total / count for name, total in sums.items()}
