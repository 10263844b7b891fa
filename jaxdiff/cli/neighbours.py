"""`jaxdiff plot neighbours`: samples beside the real images that are nearest, the check of memorisation."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from jaxdiff import evaluation
from jaxdiff.cli.compared import (
    Real,
    bar,
    from_files,
    from_network,
    gather_real,
    reference_of,
)
from jaxdiff.cli.features import check_features, features_name, features_of
from jaxdiff.cli.out import check_file, check_numbers, save
from jaxdiff.cli.pictures import Pictures
from jaxdiff.evaluation import size_of
from jaxdiff.report import figures
from jaxdiff.typing import InputError

AMONG = 10_000
"""Real images whose own nearest neighbours say what is near."""


def neighbours(
    pictures: Annotated[Pictures, tyro.conf.arg(name="")],
    real: Annotated[Real, tyro.conf.arg(name="")],
    *,
    out: Path,
    samples: str | None = None,
    num: int | None = None,
    shown: int = 16,
    k: int = 5,
) -> None:
    """Draw samples beside the real images that are nearest to them in the features, and check whether they are copies.

    The reference are the images that were trained on, all of them. What is near is measured by themselves: 1 % of
    the real images have another one within a distance r. Of samples that are drawn as the real images were, about 1 %
    lie within r of one of them; of copies, all. Where real images lie dense the number sees little, so look, too:
    those nearest to a real image are drawn, nearest first.

    Args:
        pictures: Of a run: which, and how; as sample.py has them.
        real: The real images.
        out: A .png file.
        samples: In place of a --run: a folder of images, or a .npz, .npy or IDX file.
        num: How many samples are compared; default all of --samples, of a --run 1,000.
        shown: How many are drawn.
        k: How many real images beside each.
    """
    check_file(out, ".png")
    check_numbers(batch=pictures.batch, shown=shown, k=k, num=num)
    if samples is None and pictures.run is None and pictures.pretrained is None:
        raise InputError("give --run RUN or --pretrained PATH, whose samples are made now, or --samples FILE or FOLDER")
    check_features(real)
    ours = None if samples is None else from_files(samples, num, pictures)
    reference = reference_of(real, pictures, made=samples is None)
    source = reference.source
    if source is None:
        raise InputError(f"--reference {reference.name}: holds statistics; the images themselves are to be drawn")
    ours = from_network(pictures, reference, 1000 if num is None else num) if ours is None else ours
    if source.image_shape != ours.shape:
        raise InputError(
            f"{ours.name} has images {size_of(ours.shape)}, {reference.name} {size_of(source.image_shape)}: make the "
            "real ones alike by --size and --channels"
        )
    if len(reference.numbers) < max(k, 2):
        raise InputError(f"{reference.name}: {len(reference.numbers)} images; --k {k} needs {max(k, 2)} at least")
    asked = features_name(real, ours.shape, source)
    evaluation.planned(asked, ours.shape, source.num_classes)
    space = features_of(real, asked, ours.shape, source, reference.name)
    theirs = gather_real(
        space, source, reference.numbers, reference.name, moments_of=[], keep=["pool"], batch=pictures.batch,
        labels=None,
    ).arrays["pool"]  # fmt: skip
    kept: list[np.ndarray] = []

    def drawn() -> Iterator[np.ndarray]:
        for images in ours.draw():
            kept.append(images)
            yield images

    with bar(ours.num, "samples") as progress:
        extract = evaluation.extractor(space, ["pool"], batch=pictures.batch)
        found = evaluation.gather(
            drawn(), extract, name=ours.name, moments_of=[], keep=["pool"], progress=progress
        ).arrays["pool"]  # fmt: skip
    near = evaluation.copies(found, theirs, k=k, among=AMONG)
    nearest_first = np.argsort(near.distances[:, 0], kind="stable")[:shown]
    rows = reference.numbers[near.rows[nearest_first]]
    images = source.gather(rows.ravel())["image"].reshape(*rows.shape, *ours.shape)
    within = f"{round(near.share * ours.num):,} of {ours.num:,} within r = {near.radius:.3g}"
    title = f"samples of {Path(ours.name).name} beside real images of {Path(reference.name).name}"
    title += f"\ndistances in the features {space.name}, nearest first\n{within} (about 1 % expected)"
    save(
        figures.neighbours(np.concatenate(kept)[nearest_first], images, near.distances[nearest_first], title=title), out
    )
    print(f"{ours.name}, {ours.num:,} images, against {reference.name}, {len(theirs):,}, in the features {space.name}")
    print(f"distance to the nearest real image: median {np.median(near.distances[:, 0]):.6g}, of the real images to")
    print(f"another of them: median {near.median:.6g}, and r = {near.radius:.6g} for the nearest 1 %")
    print(f"{within} ({100 * near.share:.3g} %); {near.exact} at distance 0. Expected are about 1 %")
    print(f"the {len(rows)} nearest: {out}")
