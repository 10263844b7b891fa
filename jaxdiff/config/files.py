"""Configs from Python files, and as the JSON of a run: there, back, and what differs."""

import dataclasses
import difflib
import json
import re
import runpy
from functools import partial
from pathlib import Path
from typing import Any

import dacite

from jaxdiff.config.networks import NETWORKS
from jaxdiff.config.sections import Condition, Config, Data, Diffusion, Evaluate, Log, Optim, Sample, Train
from jaxdiff.typing import InputError

FREE_ON_RESUME = (
    "train.steps", "train.steps_per_call", "train.accumulate", "train.skip_limit", "data.dir", "data.workers",
    "data.skip_corrupt", "data.eval_split", "condition.level", "sample", "log", "evaluate",
)  # fmt: skip
"""What a resumed run may change: how long, and what is written. Everything else is the experiment."""


def load(path: Path) -> Config:
    """Run a config file and take its `config`.

    Raises:
      InputError: no such file, it does not run, or it does not set `config` to a `Config`.
    """
    if not path.is_file():
        near = difflib.get_close_matches(str(path), map(str, sorted(Path("configs").glob("*.py"))), n=1, cutoff=0.3)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise InputError(f"--config {path}: no such file.{hint}")
    try:
        names = runpy.run_path(str(path))
    except Exception as error:  # whatever the user's file raises
        gist = f"{type(error).__name__}: {error}"
        raise InputError(f"--config {path}: the file does not run: {gist}{_nearest_field(str(error))}") from error
    config = names.get("config")
    if not isinstance(config, Config):
        found = "sets no such name" if config is None else f"sets it to a {type(config).__name__}"
        raise InputError(f"--config {path}: expected the file to set `config = Config(...)`; it {found}")
    try:
        return _from_dict(dataclasses.asdict(config))  # a whole number for a float is one
    except dacite.DaciteError as error:
        raise InputError(f"--config {path}: {error}") from error


def _nearest_field(message: str) -> str:
    """A hint where a config file gives an argument that a section has not."""
    wrong = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", message)
    if wrong and wrong[1] == "Model":
        return f". Give a network: {', '.join(network.__name__ for network in NETWORKS.values())}"
    sections = {
        s.__name__: s
        for s in (Config, Data, Diffusion, *NETWORKS.values(), Condition, Optim, Train, Sample, Log, Evaluate)
    }
    if not wrong or wrong[1] not in sections:
        return ""
    own = [f.name for f in dataclasses.fields(sections[wrong[1]])]
    near = difflib.get_close_matches(wrong[2], own, n=1)
    return f". Did you mean {near[0]}?" if near else f". {wrong[1]} has {', '.join(own)}"


def to_dict(config: Config) -> dict[str, Any]:
    """As plain JSON values."""
    result: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return result


def from_dict(values: dict[str, Any]) -> Config:
    """The inverse of `to_dict`.

    >>> from_dict(to_dict(Config(seed=3))) == Config(seed=3)
    True
    """
    try:
        return _from_dict(values)
    except dacite.DaciteError as error:
        raise InputError(f"the run's config is of another version of jaxdiff: {error}") from error


def _from_dict(values: dict[str, Any]) -> Config:
    read = partial(dacite.from_dict, config=dacite.Config(cast=[tuple], type_hooks={float: _as_float}, strict=True))
    model = values.get("model", {})
    name = model.get("network", "unet") if isinstance(model, dict) else model  # runs of version 0.1 have no other
    if name not in NETWORKS:
        known = ", ".join(f"{network.__name__}(...)" for network in NETWORKS.values())
        raise InputError(f"config.model: expected one of {known}; got {name!r}")
    if isinstance(model, dict) and isinstance(model.get("remat"), bool):  # what it was before there were words for it
        model = {**model, "remat": "blocks" if model["remat"] else "none"}
    try:
        network = read(NETWORKS[name], model)
    except dacite.DaciteFieldError as error:
        error.update_path("model")
        raise
    return read(Config, {**values, "model": network})


def _as_float(value: Any) -> Any:
    return float(value) if type(value) is int else value


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with dotted names.

    >>> flatten({"a": {"b": 1}, "c": 2})
    {'a.b': 1, 'c': 2}
    """
    flat: dict[str, Any] = {}
    for name, value in values.items():
        nested = isinstance(value, dict) and not name.endswith("_options")
        flat |= flatten(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return flat


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """The fields in which a run cannot be resumed as it was started: `{name: (old, new)}`.

    >>> differences(Config(), Config(seed=1, train=Train(steps=7)))
    {'seed': (0, 1)}
    """
    if old.model.network != new.model.network:  # whose settings are others, and cannot be compared
        return {"model.network": (old.model.network, new.model.network)}
    a, b = flatten(to_dict(old)), flatten(to_dict(new))
    free = [name for name in a if any(name == f or name.startswith(f + ".") for f in FREE_ON_RESUME)]
    return {name: (a[name], b[name]) for name in a if a[name] != b[name] and name not in free}
