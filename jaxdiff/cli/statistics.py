"""`jaxdiff statistics`: what is to be known of a set of real images, once."""

from pathlib import Path
from typing import Annotated

import tyro

from jaxdiff import evaluation
from jaxdiff.cli.compared import Real, gather_real, source_of
from jaxdiff.cli.features import check_features, features_name, features_of
from jaxdiff.cli.out import check_file, check_numbers
from jaxdiff.typing import InputError


def statistics(
    real: Annotated[Real, tyro.conf.arg(name="")], *, out: Path, keep: bool = False, batch: int = 256
) -> None:
    """Write what `jaxdiff evaluate` needs to know of a set of real images, so that it need not be read again.

    Args:
        real: Which images.
        out: A .npz file, that pytorch-fid reads too.
        keep: Also all their features, which kernel, manifold, diversity and sliced_wasserstein compare with: 4 bytes
            each.
            With them the images may be fewer than a Frechet distance needs, which is then refused.
        batch: At a time.
    """
    if real.reference is None:
        raise InputError("--reference: which images? A folder, a .npz file, digits, tfds:NAME, ...")
    check_file(out, ".npz")
    check_numbers(batch=batch)
    check_features(real)
    source, index = source_of(real.section(), real)
    asked = features_name(real, source.image_shape, source)
    plan = evaluation.planned(asked, source.image_shape, source.num_classes)
    # Without features of each, moments are all that is there: of too few images they are no use.
    evaluation.check(evaluation.chosen(["kernel" if keep else "frechet"], plan), plan, None, len(index))
    space = features_of(real, asked, source.image_shape, source, real.reference)
    outputs: list[str] = [name for name in ("pool", "spatial") if name in space.dimensions]
    found = gather_real(
        space, source, index, real.reference, moments_of=outputs, keep=outputs[:1] if keep else [], batch=batch,
        labels=evaluation.labels_of(source, index),
    )  # fmt: skip
    evaluation.write_statistics(out, found, space)
    print(f"{out}: {found.count:,} images of {real.reference} in the features {space.name}")
