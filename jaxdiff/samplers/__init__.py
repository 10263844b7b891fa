"""Samplers, one file per family. To add one: a file here, and a row in `SAMPLERS`."""

from collections.abc import Callable
from typing import Any

from jaxdiff.samplers.base import State, sample
from jaxdiff.samplers.ddim import DDIM
from jaxdiff.samplers.ddpm import DDPM

SAMPLERS: dict[str, Callable[..., Any]] = {
    "ddpm": DDPM,
    "ddim": DDIM,
}
"""Name -> class, called as `SAMPLERS[name](schedule, **options)`; the command line and the shared tests read it."""

__all__ = ["DDIM", "DDPM", "SAMPLERS", "State", "sample"]
