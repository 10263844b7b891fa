"""Many metrics of samples against a reference, from one pass over each."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import metrics
from jaxdiff.evaluation.gather import Gathered
from jaxdiff.features import Features
from jaxdiff.testing import sliced_wasserstein
from jaxdiff.typing import InputError

Values = dict[str, float]


class Space(Protocol):
    """Features, or what is known of them before they are loaded."""

    @property
    def name(self) -> str:
        """Of the features."""

    @property
    def dimensions(self) -> dict[str, int]:
        """Of their outputs."""


@dataclasses.dataclass(frozen=True)
class Metric:
    """A row of `METRICS`.

    Attributes:
      measure: `(samples, reference, options) -> values by name`.
      moments: the outputs of the features whose moments it needs.
      arrays: those of the samples that it needs whole.
      against: those of the reference.
      inception: what its values are called where the features are Inception's, by its own names for them.
    """

    measure: Callable[[Gathered, Gathered, "Options"], Values]
    moments: tuple[str, ...] = ()
    arrays: tuple[str, ...] = ()
    against: tuple[str, ...] = ()
    inception: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Options:
    """Numbers that the metrics are defined with, and what is random in them.

    Attributes:
      seed: of subsets and projections.
      subsets: of the kernel distance.
      subset_size: of each.
      neighbours: k of precision, recall, density and coverage.
      manifold_size: of how many images of each set these and diversity are, at most: the time goes with the square.
      splits: of the score.
      projections: of the sliced Wasserstein distance.
    """

    seed: int = 0
    subsets: int = 100
    subset_size: int = 1000
    neighbours: int = 5
    manifold_size: int = 10_000
    splits: int = 10
    projections: int = 1000


def some_of(rows: np.ndarray, num: int, rng: np.random.Generator) -> np.ndarray:
    """So many rows at random, in their order, or all of them.

    Args:
      rows: of anything.
      num: how many.
      rng: draws which.

    >>> some_of(np.arange(3), 5, np.random.default_rng(0)).tolist()
    [0, 1, 2]
    """
    return rows if len(rows) <= num else rows[np.sort(rng.permutation(len(rows))[:num])]


def _frechet(output: str, name: str) -> Callable[[Gathered, Gathered, Options], Values]:
    def measure(samples: Gathered, reference: Gathered, options: Options) -> Values:
        return {name: metrics.frechet_distance(samples.moments[output], reference.moments[output])}

    return measure


def _frechet_infinity(samples: Gathered, reference: Gathered, options: Options) -> Values:
    found = metrics.frechet_infinity(samples.arrays["pool"], reference.moments["pool"], seed=options.seed)
    return {"frechet_infinity": found.value}


def _kernel(samples: Gathered, reference: Gathered, options: Options) -> Values:
    x, y, size = samples.arrays["pool"], reference.arrays["pool"], options.subset_size
    found = metrics.kernel_distance(x, y, subsets=options.subsets, subset_size=size, seed=options.seed)
    return {"kernel": found.mean, "kernel_std": found.std}


def _score(samples: Gathered, reference: Gathered, options: Options) -> Values:
    logits = samples.arrays["logits_unbiased"]
    # In another order: samples often come class by class, and a part of one class has the score 1.
    shuffled = logits[np.random.default_rng(options.seed).permutation(len(logits))]
    found = metrics.inception_score(shuffled, splits=options.splits)
    return {"inception_score": found.mean, "inception_score_std": found.std}


def _manifold(samples: Gathered, reference: Gathered, options: Options) -> Values:
    rng = np.random.default_rng(options.seed)
    x, y = (some_of(z, options.manifold_size, rng) for z in (reference.arrays["pool"], samples.arrays["pool"]))
    found = metrics.manifold(x, y, k=options.neighbours)
    return {name: float(value) for name, value in found._asdict().items()}


def _diversity(samples: Gathered, reference: Gathered, options: Options) -> Values:
    """Of all, and of each class, where labels are known: of all it is mostly how far apart the classes are."""
    found: Values = {}
    for ending, one, other in (("", samples, reference), ("_real", reference, samples)):
        rows = some_of(np.arange(len(one.arrays["pool"])), options.manifold_size, np.random.default_rng(options.seed))
        found[f"diversity{ending}"] = metrics.diversity(one.arrays["pool"][rows])
        if one.labels is not None and other.labels is not None:
            both = rows[np.isin(one.labels[rows], other.labels)]
            if len(both) > len(np.unique(one.labels[both])):  # else there are no two of one class
                found[f"diversity_in_class{ending}"] = metrics.diversity(one.arrays["pool"][both], one.labels[both])
    return found


def _accuracy(samples: Gathered, reference: Gathered, options: Options) -> Values:
    if samples.labels is None:
        raise InputError(f"accuracy: {samples.name} has no labels that its images should show")
    return {"accuracy": metrics.accuracy(samples.arrays["logits"], samples.labels)}


def _sliced_wasserstein(samples: Gathered, reference: Gathered, options: Options) -> Values:
    x, y = samples.arrays["pool"], reference.arrays["pool"]
    num, rng = min(len(x), len(y)), np.random.default_rng(options.seed)
    some = [jnp.asarray(some_of(z, num, rng)) for z in (x, y)]
    distance = sliced_wasserstein(jax.random.key(options.seed), *some, projections=options.projections)
    return {"sliced_wasserstein": float(distance)}


METRICS: dict[str, Metric] = {
    "frechet": Metric(_frechet("pool", "frechet"), moments=("pool",), inception={"frechet": "fid"}),
    "frechet_infinity": Metric(
        _frechet_infinity, moments=("pool",), arrays=("pool",), inception={"frechet_infinity": "fid_infinity"}
    ),
    "frechet_spatial": Metric(
        _frechet("spatial", "frechet_spatial"), moments=("spatial",), inception={"frechet_spatial": "sfid"}
    ),
    "kernel": Metric(
        _kernel, arrays=("pool",), against=("pool",), inception={"kernel": "kid", "kernel_std": "kid_std"}
    ),
    "inception_score": Metric(
        _score,
        arrays=("logits_unbiased",),
        inception={name: name for name in ("inception_score", "inception_score_std")},
    ),
    "manifold": Metric(_manifold, arrays=("pool",), against=("pool",)),
    "diversity": Metric(_diversity, arrays=("pool",), against=("pool",)),
    "accuracy": Metric(_accuracy, arrays=("logits",)),
    "sliced_wasserstein": Metric(_sliced_wasserstein, arrays=("pool",), against=("pool",)),
}
"""By the name that `jaxdiff evaluate --metrics` gives them; those of Inception's features also by what they are then
called."""


OTHERS = ("psnr", "ssim", "ms_ssim", "lpips", "bits_per_dim_vlb", "bits_per_dim_ode")
"""What `jaxdiff evaluate` has beside these, without features."""


def row_of(asked: str) -> str:
    """The key of `METRICS` for a name: its own, or what it is called with Inception's features.

    Raises:
      InputError: there is none.

    >>> row_of("kid")
    'kernel'
    """
    renamed = [(metric.inception.get(name), name) for name, metric in METRICS.items()]
    known = {theirs: ours for theirs, ours in renamed if theirs not in (None, ours)}
    name = known.get(asked, asked)
    if name not in METRICS:
        raise InputError(f"--metrics {asked}: no such metric; there are {', '.join([*METRICS, *known, *OTHERS])}")
    return name


def chosen(names: Collection[str], features: Space) -> dict[str, Metric]:
    """The rows of these names.

    Raises:
      InputError: no such metric, one whose name means Inception's features, or one that these features cannot have.
    """
    found: dict[str, Metric] = {}
    for asked in names:
        name = row_of(asked)
        if asked != name and features.name != "inception":
            raise InputError(
                f"--metrics {asked}: that name means Inception's features; of {features.name} it is {name}"
            )
        missing = [o for o in (*METRICS[name].moments, *METRICS[name].arrays) if o not in features.dimensions]
        if name == "accuracy" and features.name != "classifier":
            raise InputError("--metrics accuracy: is of --features classifier, whose classes the labels are")
        if missing and name in ("inception_score", "frechet_spatial"):
            raise InputError(f"--metrics {asked}: is of --features inception:FILE, not of {features.name}")
        if missing:
            raise InputError(f"--metrics {asked}: the features {features.name} have no {', '.join(missing)}")
        found[name] = METRICS[name]
    return found


def name_of(value: str, metric: Metric, features: Space) -> str:
    """What a value is called: always with its features, FID and the like with Inception's only.

    >>> from jaxdiff.features import pixels
    >>> name_of("frechet", METRICS["frechet"], pixels((8, 8, 1)))
    'frechet_pixels'
    """
    if features.name == "inception" and value in metric.inception:
        return metric.inception[value]
    return f"{value}_{features.name}"


def check_reference(rows: Mapping[str, Metric], reference: Gathered) -> None:
    """Raise `InputError` where a reference, of a file of statistics, lacks what a metric compares with.

    Args:
      rows: the metrics by name.
      reference: what was gathered of the real images.
    """
    for name, metric in rows.items():
        lacking = [output for output in metric.moments if output not in reference.moments]
        lacking += [f"features ({output}) of each image" for output in metric.against if output not in reference.arrays]
        if lacking:
            raise InputError(
                f"--metrics {name}: {reference.name} has no {', '.join(lacking)}; make it by jaxdiff statistics "
                "(--keep keeps those of each image), give the images, or other --metrics"
            )


def measure(
    rows: Mapping[str, Metric],
    features: Features,
    samples: Gathered,
    reference: Gathered,
    options: Options | None = None,
    progress: Callable[[int], object] = lambda done: None,
) -> Values:
    """All values, by their names.

    Args:
      rows: see `chosen`.
      features: that both were gathered in.
      samples: see `gather`.
      reference: likewise.
      options: what the metrics are defined with.
      progress: is told 1 for each metric that is done.

    Raises:
      InputError: images of two sizes, a reference that is only moments for a metric that compares images with images.
    """
    shapes = samples.image_shape, reference.image_shape
    if None not in shapes and shapes[0] != shapes[1]:
        raise InputError(
            f"{samples.name} has images {size_of(shapes[0])}, {reference.name} {size_of(shapes[1])}: make them alike, "
            "by --size and --channels of the reference, say"
        )
    check_reference(rows, reference)
    values: Values = {}
    for metric in rows.values():
        found = metric.measure(samples, reference, options or Options())
        values |= {name_of(value, metric, features): float(number) for value, number in found.items()}
        progress(1)
    return values


def frechet_interval(
    samples: Gathered,
    reference: Gathered,
    *,
    num: int,
    seed: int,
    progress: Callable[[int], object] = lambda done: None,
) -> tuple[float, float]:
    """The basic bootstrap's 95 % interval of the Frechet distance, from `num` resamplings of the samples, which must
    hold `pool` whole."""
    distance = metrics.frechet_to(reference.moments["pool"])

    def told(x: np.ndarray) -> float:
        progress(1)
        return distance(metrics.moments(x))

    found = metrics.bootstrap(told, samples.arrays["pool"], num=num, level=0.95, seed=seed)
    return found.low, found.high


def size_of(shape: tuple[int, ...] | None) -> str:
    """In words.

    >>> size_of((8, 8, 1))
    '8x8x1'
    """
    return "x".join(map(str, shape or ()))
