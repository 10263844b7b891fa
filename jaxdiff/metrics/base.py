"""What every metric asks of its input."""

from typing import Any

import numpy as np

from jaxdiff.typing import Array, InputError


def require(condition: bool, message: str) -> None:
    """Raise `InputError(message)` unless the condition holds."""
    if not condition:
        raise InputError(message)


def check_whole(name: str, value: Any, least: int = 1) -> None:
    """Raise `InputError` for what is not a whole number of at least `least`."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    require(whole and value >= least, f"{name}: expected a whole number of at least {least}, got {value!r}")


def features(x: Array | np.ndarray, name: str = "x", least: int = 1) -> np.ndarray:
    """Rows of finite numbers `[N, D]` as numpy, float32 or float64 as they are, anything else raised to one of them.

    Raises:
      InputError: another rank, fewer than `least` rows, no columns, no real numbers, NaN or infinity.
    """
    x = np.asarray(x)
    require(x.ndim == 2, f"{name}: expected one row of numbers per example, [N, D], got the shape {x.shape}")
    require(len(x) >= least, f"{name}: expected at least {least} rows, got {len(x)}")
    require(x.shape[1] > 0, f"{name}: its rows are empty, {x.shape}")
    require(x.dtype.kind in "iufbV", f"{name}: expected real numbers, got {x.dtype}")
    if x.dtype not in (np.float32, np.float64):
        x = x.astype(np.float32 if x.dtype.itemsize <= 2 else np.float64)  # kind V is bfloat16
    bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
    require(
        bad.size == 0,
        f"{name}: {bad.size} of {len(x)} rows hold NaN or infinity, the first is row {bad[0] if bad.size else 0}; "
        "mend what made them, a metric of the others would hide it",
    )
    return x


def paired_features(x: Array | np.ndarray, y: Array | np.ndarray, names: tuple[str, str]) -> tuple[np.ndarray, ...]:
    """Both sets as of `features`, of one dimension."""
    a, b = features(x, names[0]), features(y, names[1])
    require(
        a.shape[1] == b.shape[1],
        f"{names[0]} has {a.shape[1]} features per row and {names[1]} {b.shape[1]}; take both from one network",
    )
    return a, b
