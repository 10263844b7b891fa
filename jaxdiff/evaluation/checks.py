"""What is refused before any work, and what is to be known of the numbers: how many images a metric needs."""

from collections.abc import Mapping

from jaxdiff.evaluation.gather import Gathered
from jaxdiff.evaluation.measure import Metric, Options, Space
from jaxdiff.features import Features
from jaxdiff.typing import InputError

SMALLEST = 10
"""Images for metrics of neighbours and of subsets."""


def check(
    rows: Mapping[str, Metric],
    features: Space,
    samples: int | None,
    reference: int | None,
    options: Options | None = None,
) -> None:
    """Raise `InputError` where there are too few images for a metric, before any is looked at; None: nobody knows.

    With no more images than dimensions a covariance is singular, and a Frechet distance means nothing.
    """
    options = options or Options()
    for name, metric in rows.items():
        sizes = [features.dimensions[output] for output in metric.moments]
        for what, count, sides in (("samples", samples, 2), ("images of the reference", reference, 1)):
            parts = sides if name == "frechet_infinity" else 1  # its smallest subset has half of them
            if sizes and count is not None and count // parts <= max(sizes):
                raise InputError(
                    f"{count:,} {what} are too few for the covariance of {max(sizes):,} features of {features.name}: "
                    f"{name} needs {parts * (max(sizes) + 1):,} at least. Take more, features of fewer dimensions, or "
                    "the metric kernel, which is unbiased"
                )
            if name in ("kernel", "manifold") and count is not None and count < SMALLEST:
                raise InputError(f"{name}: needs {SMALLEST} {what} at least, there are {count}")
    few = min((count for count in (samples, reference) if count is not None), default=None)
    if "manifold" in rows and few is not None and options.neighbours >= few:
        raise InputError(
            f"--neighbours {options.neighbours}: expected fewer than the {few:,} images of the smaller set"
        )
    if "inception_score" in rows and samples is not None and samples < options.splits:
        raise InputError(f"inception_score: needs {options.splits} samples at least, there are {samples}")


def check_bootstrap(features: Space, samples: int) -> None:
    """Raise `InputError` where resamplings, which have some 63 % of the samples, would have singular covariances."""
    size = features.dimensions["pool"]
    if samples < 2 * size:
        raise InputError(
            f"--bootstrap: {samples:,} samples are too few for {size:,} features of {features.name}; it needs "
            f"{2 * size:,} at least, as a resampling leaves a third of them out"
        )


def subset_size(samples: int | None, reference: int | None) -> int:
    """Of the kernel distance: 1,000, or half of the smaller set, so that subsets differ.

    >>> subset_size(50_000, 600), subset_size(50_000, None)
    (300, 1000)
    """
    return min([Options.subset_size, *(count // 2 for count in (samples, reference) if count is not None)])


def warnings(rows: Mapping[str, Metric], features: Features, samples: Gathered, reference: Gathered) -> list[str]:
    """What is to be known of the numbers: where there are few images, and what the bias is."""
    said = []
    for name, metric in rows.items():
        sizes = [features.dimensions[output] for output in metric.moments]
        # FID is what papers report of 50,000.
        enough = 50_000 if features.name == "inception" else min(50_000, 10 * max(sizes, default=0))
        for what, count in (("samples", samples.count), ("images of the reference", reference.count)):
            few = sizes and count is not None and count < enough
            if name == "frechet_infinity" and few and what == "samples":
                said.append(
                    f"{name}: {count:,} samples are few for {max(sizes):,} features; the line through parts of them is "
                    "no line there: take ten times as many as features"
                )
            elif few:
                said.append(
                    f"{name}: {count:,} {what} are few for {max(sizes):,} features; the distance is too large by about "
                    "a constant over their number. Compare it only with others of as many; frechet_infinity "
                    "extrapolates, kernel is unbiased"
                )
        smallest = subset_size(samples.count, reference.count)
        if name == "kernel" and smallest < Options.subset_size:
            said.append(f"kernel: of subsets of {smallest:,}, for there are few images; the usual ones are of 1,000")
        fewest = min(count for count in (samples.count, reference.count, 10**9) if count is not None)
        if name == "manifold" and fewest < 1000:
            said.append(
                f"manifold: with {fewest:,} images precision and recall depend on their number; take 1,000 or more"
            )
        if name == "inception_score" and samples.count is not None and samples.count < 50_000:
            said.append(f"inception_score: of {samples.count:,} samples; the usual 50,000 give a larger one")
    return said
