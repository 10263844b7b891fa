"""Results of `jaxdiff evaluate` as lines of a plot."""

import json
import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxdiff.typing import InputError

AGAINST = {
    "network_evaluations": "network evaluations per sample",
    "guidance": "guidance scale",
    "ema": "EMA length (sigma_rel)",
    "steps": "steps of the sampler",
    "temperature": "temperature of the injected noise",
    "truncation": "truncation of the starting noise (standard deviations)",
    "start_scale": "scale of the starting noise",
}
"""What a metric may be drawn against, and what the axis says."""
SINCE = {"truncation": None, "start_scale": 1.0}
"""Settings that older results do not have, and what they were made with."""
OPTIONS = {
    "kernel": ("subsets", "subset_size"), "inception_score": ("splits",), "sliced_wasserstein": ("projections",),
    **dict.fromkeys(("precision", "recall", "density", "coverage"), ("neighbours", "manifold_size")),
    "diversity": ("manifold_size",),
}  # fmt: skip
"""What metrics are defined with; Inception's kid is a kernel."""
OF_BOUND = ("clip", "variance", "steps", "spacing")
"""What a bound of bits/dim is of, besides the network."""

Key = tuple[tuple[str, Any], ...]
Interval = tuple[float, float]


class Line(NamedTuple):
    """A line of a plot.

    Attributes:
      label: what is the same along it, and differs between lines.
      points: of each, x, y, and the 95 % interval of y or None; x rises.
    """

    label: str
    points: list[tuple[float, float, Interval | None]]


class Drawn(NamedTuple):
    """What is drawn: the metric's full name, what was compared with what, what the intervals are, and the lines."""

    metric: str
    title: str
    intervals: str
    lines: list[Line]


def read_result(path: Path) -> dict[str, Any]:
    """A file that `jaxdiff evaluate --out` wrote; `InputError` for any other."""
    try:
        found = json.loads(path.read_text())
        if not isinstance(found["metrics"], dict):
            raise TypeError("metrics is no object")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError):  # whose messages may have all of the file in them
        raise InputError(f"{path}: not a result of jaxdiff evaluate --out FILE.json") from None
    return dict(found)


def lines_of(results: Mapping[str, dict[str, Any]], *, metric: str, against: str) -> Drawn:
    """One line for each sampler, run and whatever else differs; along it only what belongs to `against` does.

    Args:
      results: of `read_result`, by file name.
      metric: a key of their `metrics`, or without the name of the features: "frechet" for "frechet_pixels".
      against: a key of `AGAINST`.

    Raises:
      InputError: a result without that metric or that number; results that do not compare, as their features, numbers
        of samples, real images or the metric's `OPTIONS` differ; fewer than two points.

    >>> def result(steps, value):
    ...     about = {"name": "run", "count": 9, "sample": {"sampler": "ddim", "steps": steps}}
    ...     return {"metrics": {"kernel_pixels": value}, "features": {"name": "pixels"}, "samples": about,
    ...             "reference": {"name": "digits", "count": 9}}
    >>> lines_of({"a": result(9, 0.5), "b": result(3, 0.7)}, metric="kernel", against="steps").lines
    [Line(label='ddim', points=[(3.0, 0.7, None), (9.0, 0.5, None)])]
    """
    if against not in AGAINST:
        raise InputError(f"--against {against}: expected one of {', '.join(AGAINST)}")
    found: defaultdict[Key, list[tuple[float, float, Interval | None]]] = defaultdict(list)
    name = comparable(results, metric)
    for file, result in results.items():
        y, interval = value_of(file, result, name)
        about = made_of(result, name)
        found[settings_of(about, against)].append((number_of(file, about, against), y, interval))
    if sum(map(len, found.values())) < 2:
        raise InputError(f"a plot against {against} needs at least two results, got {len(results)}")
    lines = [Line(label, sorted(found[key], key=lambda p: p[:2])) for key, label in labels_of(list(found))]
    result = next(iter(results.values()))
    # The bootstrap's is of the distance without the bias that resampling adds: a point may lie above its own.
    plain = name in result.get("likelihood", {})
    intervals = "95 % intervals" if plain else "95 % intervals,\nwithout the bias of few samples"
    return Drawn(name, title_of(result, name), intervals, sorted(lines))


def comparable(results: Mapping[str, dict[str, Any]], metric: str) -> str:
    """The metric's full name; `InputError` unless all results have it and compare."""
    same: dict[str, tuple[str, Any]] = {}
    for file, result in results.items():
        name = _full_name(file, result, metric)
        for what, value in {"metric": name, **_compared(result, name)}.items():
            first, other = same.setdefault(what, (file, value))
            if other != value:
                raise InputError(f"{first} and {file} do not compare: {what} {_short(other)} and {_short(value)}")
    return name


def _full_name(file: str, result: dict[str, Any], metric: str) -> str:
    space = result.get("features", {}).get("name")
    for name in (metric, f"{metric}_{space}"):
        if name in result["metrics"]:
            return name
    raise InputError(f"{file}: has no metric {metric}; there are {', '.join(result['metrics'])}")


def made_of(result: dict[str, Any], name: str) -> dict[str, Any]:
    """How the samples were, or what the bits per dimension are of."""
    return dict(result.get("likelihood", {}).get(name) or result.get("samples") or {})


def _compared(result: dict[str, Any], name: str) -> dict[str, Any]:
    """What must be the same in all results."""
    if name in result.get("likelihood", {}):
        about = result["likelihood"][name]
        return {"the real images": [about.get("sha256") or about.get("of"), about.get("images")]}
    real = result.get("reference", {})
    own = next((own for key, own in OPTIONS.items() if name.replace("kid", "kernel").startswith(key)), ())
    return {
        "the features": result.get("features"),
        "the options": {key: result.get("options", {}).get(key) for key in own},
        "the number of samples": result.get("samples", {}).get("count"),
        "the real images": [real.get("sha256") or real.get("file_sha256") or real.get("name"), real.get("count")],
    }


def title_of(result: dict[str, Any], name: str) -> str:
    """What was compared with what."""
    if name in result.get("likelihood", {}):
        about = result["likelihood"][name]
        return f"{about['images']:,} images of {about['of']}"
    real, count = result.get("reference", {}), result.get("samples", {}).get("count", 0)
    many = f"{real['count']:,} of " if real.get("count") else ""
    return f"{count:,} samples against {many}{Path(str(real.get('name'))).name}"


def value_of(file: str, result: dict[str, Any], name: str) -> tuple[float, Interval | None]:
    """A metric by its full name, and its 95 % interval or None; `InputError` unless it is finite."""
    y = result["metrics"][name]
    if y is None or not math.isfinite(y):
        raise InputError(f"{file}: {name} is not a finite number there")
    interval = result.get("intervals", {}).get(name)
    error = result["metrics"].get(f"{name}_error")
    if interval is None and error is not None:
        interval = y - 1.96 * error, y + 1.96 * error
    return float(y), None if interval is None else (float(interval[0]), float(interval[1]))


def _average(about: dict[str, Any]) -> str:
    """The name of the weights: that of an average in a file, too."""
    return str(about.get("average") or about.get("item") or "")


def number_of(file: str, about: dict[str, Any], against: str) -> float:
    """Where on the x axis a result is."""
    if against == "ema":
        length = _average(about).removeprefix("ema_")
        try:
            return float(length)
        except ValueError:
            raise InputError(
                f"{file}: its weights, {length or 'not known'}, are no average of a known length; evaluate a run with "
                "--weights ema_LENGTH, one of --train.ema-lengths, or a file of jaxdiff ema"
            ) from None
    value = about.get(against) if against == "network_evaluations" else sample_of(about).get(against)
    if against == "truncation" and value is None and about.get("sample"):
        raise InputError(f"{file}: its starting noise is not truncated: it has no place on that axis; leave it out")
    if value is None:
        raise InputError(f"{file}: does not say its {against}; results of samples of a --run do")
    return float(value)


def sample_of(about: dict[str, Any]) -> dict[str, Any]:
    """How pictures were made."""
    return SINCE | dict(about.get("sample", {}))


def settings_of(about: dict[str, Any], against: str) -> Key:
    """All that tells results apart, but what goes with `against`."""
    sample = sample_of(about)
    weights, step = _average(about), about.get("step", str(about.get("weights", "")).removeprefix("step "))
    found = {
        "sampler": sample.pop("sampler", None), "run": str(about.get("name", "")), "weights": weights,
        "step": str(step), **sample, "seed": about.get("seed"), "dtype": about.get("model", {}).get("dtype"),
        "classifier": (about.get("classifier") or {}).get("scale"), "classes": _classes(about),
        "labels": about.get("labels"),
        **{f"bound's {key}": about[key] for key in OF_BOUND if key in about},
        **{f"condition's {key}": value for key, value in about.get("condition", {}).items()},
    }  # fmt: skip
    for name in {"network_evaluations": ["steps"], "ema": ["weights"]}.get(against, [against]):
        found.pop(name, None)
    return tuple(found.items())


def _classes(about: dict[str, Any]) -> str:
    """Of the samples, where they are not all of the network's.

    >>> _classes({"of_each_class": [0, 5, 0, 4]}), _classes({"of_each_class": [2, 1]})
    ('1 3', '')
    """
    counts = about.get("of_each_class") or []
    return " ".join(str(i) for i, count in enumerate(counts) if count) if 0 in counts else ""


def labels_of(keys: list[Key]) -> list[tuple[Key, str]]:
    """Each with its sampler, and what differs between them."""
    differ = {
        name for key in keys for name, value in key if any(dict(other).get(name, value) != value for other in keys)
    }
    short = {dict(key)["run"]: Path(dict(key)["run"]).name for key in keys}
    alike = len(set(short.values())) < len(short)

    def label(key: Key) -> str:
        key = tuple((name, short[value] if name == "run" and not alike else value) for name, value in key)
        said = [] if dict(key)["sampler"] is None else [str(dict(key)["sampler"])]
        rest = [(name, value) for name, value in key if name in differ - {"sampler"} and value not in (None, "")]
        plain = ("run", "weights")
        return ", ".join(said + [str(value) if name in plain else f"{name} {value}" for name, value in rest])

    return [(key, label(key)) for key in keys]


def _short(value: Any) -> str:
    """
    >>> _short({"name": "pixels", "sha256": None})
    'pixels'
    >>> _short(["0123456789abcdef" * 4, 5])
    '0123456789ab, 5'
    """
    if isinstance(value, dict) and "name" in value:
        return ", ".join(_short(part) for name, part in value.items() if name in ("name", "sha256") and part)
    if isinstance(value, dict):
        return ", ".join(f"{name} {part}" for name, part in value.items())
    if isinstance(value, list):
        return ", ".join(_short(part) for part in value if part is not None)
    return str(value)[:12] if len(str(value)) == 64 else str(value)
