"""Results of `jaxdiff evaluate` as two metrics against each other, diversity and quality say, along what was swept."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxdiff.report.results import (
    AGAINST,
    Key,
    comparable,
    labels_of,
    made_of,
    number_of,
    sample_of,
    settings_of,
    title_of,
    value_of,
)
from jaxdiff.typing import InputError

SWEPT = ("guidance", "temperature", "truncation", "start_scale", "steps")
"""What they are drawn along by default, where it differs."""

Point = tuple[float, float, float]


class Sweep(NamedTuple):
    """Two metrics along a setting.

    Attributes:
      label: the setting, what is the same along it, and differs between sweeps.
      points: of each, x, y, and the setting's value, which rises: no truncation is infinity. Of a single point NaN.
    """

    label: str
    points: list[Point]


class Tradeoff(NamedTuple):
    """What is drawn: the metrics' full names, what was compared with what, the sweeps, single points too, and what the
    two metrics are of the real images, or None."""

    x: str
    y: str
    title: str
    sweeps: list[Sweep]
    real: tuple[float | None, float | None]


def tradeoff_of(results: Mapping[str, dict[str, Any]], *, x: str, y: str, along: Sequence[str] = ()) -> Tradeoff:
    """Two metrics of each result, joined along each setting that is swept; a result may be in several sweeps.

    Args:
      results: of `read_result`, by file name.
      x: a metric, as of `lines_of`.
      y: another.
      along: settings, keys of `AGAINST`; default those of `SWEPT` that differ.

    Raises:
      InputError: as `lines_of`, for both metrics; no setting that differs.

    >>> def result(scale, recall, precision):
    ...     about = {"name": "run", "count": 9, "sample": {"sampler": "ddim", "guidance": scale}}
    ...     return {"metrics": {"recall_pixels": recall, "precision_pixels": precision},
    ...             "features": {"name": "pixels"}, "samples": about, "reference": {"name": "digits", "count": 9}}
    >>> tradeoff_of({"a": result(2.0, 0.5, 0.9), "b": result(1.0, 0.7, 0.8)}, x="recall", y="precision").sweeps
    [Sweep(label='ddim: guidance', points=[(0.7, 0.8, 1.0), (0.5, 0.9, 2.0)])]
    """
    for name in along:
        if name not in AGAINST:
            raise InputError(f"--along {name}: expected of {', '.join(AGAINST)}")
    names = [comparable(results, metric) for metric in (x, y)]
    made = {file: made_of(result, names[0]) for file, result in results.items()}
    along = along or [name for name in SWEPT if len({sample_of(about).get(name) for about in made.values()}) > 1]
    if len(results) < 2 or not along:
        raise InputError("a tradeoff needs at least two results that differ in " + ", ".join(SWEPT))
    places = {
        file: (value_of(file, one, names[0])[0], value_of(file, one, names[1])[0]) for file, one in results.items()
    }
    found: dict[tuple[str, Key], list[Point]] = {}
    joined: set[str] = set()
    for name in along:
        lines: defaultdict[Key, dict[str, float]] = defaultdict(dict)
        for file, about in made.items():
            free = name == "truncation" and about.get("sample") and sample_of(about)[name] is None
            lines[settings_of(about, name)][file] = math.inf if free else number_of(file, about, name)
        for key, values in lines.items():
            if len(set(values.values())) > 1:
                points = [(*places[file], value) for file, value in values.items()]
                found[name, key] = sorted(points, key=lambda point: point[2])
                joined |= set(values)
    for file, about in made.items():
        if file not in joined:
            found["", settings_of(about, "")] = [(*places[file], math.nan)]
    labels = dict(labels_of([key for _, key in found]))
    sweeps = [
        Sweep(": ".join(filter(None, (labels[key], name.replace("_", " ")))), points)
        for (name, key), points in found.items()
    ]
    result = next(iter(results.values()))
    real = tuple(_real(results, name) for name in names)
    return Tradeoff(names[0], names[1], title_of(result, names[0]), sweeps, (real[0], real[1]))


def _real(results: Mapping[str, dict[str, Any]], name: str) -> float | None:
    """What the metric is of the real images, where results say one number."""
    space = "_" + str(next(iter(results.values())).get("features", {}).get("name"))
    known = {result["metrics"].get(f"{name.removesuffix(space)}_real{space}") for result in results.values()}
    return known.pop() if len(known) == 1 else None


def said(value: float) -> str:
    """The value of a point.

    >>> said(1.5), said(math.inf), said(math.nan)
    ('1.5', 'none', '')
    """
    return "" if math.isnan(value) else "none" if math.isinf(value) else f"{value:g}"
