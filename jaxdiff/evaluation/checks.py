"""What is refused before any work, and what is to be known of the numbers: how many images a metric needs."""

from collections.abc import Mapping

from jaxdiff.evaluation.measure import Metric, Options, Space
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
            if name == "diversity" and count is not None and count < 2:
                raise InputError(f"diversity: needs 2 {what} at least, there is {count}")
    few = min((count for count in (samples, reference) if count is not None), default=None)
    if "manifold" in rows and few is not None and options.neighbours >= few:
        raise InputError(
            f"--neighbours {options.neighbours}: expected fewer than the {few:,} images of the smaller set"
        )
    if "inception_score" in rows and samples is not None and samples < options.splits:
        raise InputError(f"inception_score: needs {options.splits} samples at least, there are {samples}")


def check_bootstrap(features: Space, samples: int) -> None:
    """Raise `InputError` where resamplings, which have some 63 % of the samples, would have singular covariances.

    Args:
      features: the space, of which the number of dimensions is read.
      samples: how many.
    """
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


def warnings(rows: Mapping[str, Metric], features: Space, samples: int | None, reference: int | None) -> list[str]:
    """What is to be known of the numbers of so many images: where these are few, and what the bias is.

    Args:
      rows: the metrics by name.
      features: the space.
      samples: how many; None if there are none.
      reference: how many real images; None if there are none.

    Returns:
      a sentence for each.
    """
    said = []
    for name, metric in rows.items():
        sizes = [features.dimensions[output] for output in metric.moments]
        enough = min(50_000, 10 * max(sizes, default=0))
        if features.name == "inception" and name != "frechet_infinity":
            enough = 50_000  # which papers compare
        for what, count in (("samples", samples), ("images of the reference", reference)):
            few = sizes and count is not None and count < enough
            if name == "frechet_infinity" and few and what == "samples":
                said.append(
                    f"{name}: {count:,} samples are few for {max(sizes):,} features; the line through parts of them is "
                    "no line there: take ten times as many as features"
                )
            elif few:
                enough_parts = samples is not None and samples // 2 > max(sizes)
                more = "frechet_infinity extrapolates, " if enough_parts and what == "samples" else ""
                said.append(
                    f"{name}: {count:,} {what} are few for {max(sizes):,} features; the distance is too large by about "
                    f"a constant over their number. Compare it only with others of as many; {more}kernel is unbiased"
                )
        smallest = subset_size(samples, reference)
        if name == "kernel" and smallest < Options.subset_size:
            said.append(f"kernel: of subsets of {smallest:,}, for there are few images; the usual ones are of 1,000")
        fewest = min(count for count in (samples, reference, 10**9) if count is not None)
        if name == "manifold" and fewest < 1000:
            said.append(
                f"manifold: with {fewest:,} images precision and recall depend on their number; take 1,000 or more"
            )
        if name == "inception_score" and samples is not None and samples < 50_000:
            said.append(f"inception_score: of {samples:,} samples; the usual 50,000 give a larger one")
    return said
