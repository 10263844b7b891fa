"""The file of --out: what would be found too late is found before the work; what fails in writing is said in words."""

import platform
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from jaxdiff.data.images import check_folder
from jaxdiff.report import figures
from jaxdiff.typing import InputError


def check_numbers(*, least: int = 1, **numbers: int | None) -> None:
    """Raise `InputError` for a flag below `least`, or one that no 32 bits hold; None is of one not given.

    >>> check_numbers(batch=0)
    Traceback (most recent call last):
    ...
    jaxdiff.typing.InputError: --batch 0: expected at least 1, below 2^32
    """
    for name, value in numbers.items():
        if value is not None and not least <= value < 2**32:
            raise InputError(f"--{name.replace('_', '-')} {value}: expected at least {least}, below 2^32")


def check_file(out: Path, *suffixes: str) -> None:
    """Raise `InputError` unless a file of that name can be made, which must end in one of these."""
    if out.suffix.lower() not in suffixes or out.is_dir():
        raise InputError(f"--out {out}: expected a file whose name ends in {' or '.join(suffixes)}")
    check_folder(out)


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Within it an `OSError` is an `InputError` that names the file."""
    try:
        yield
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written ({error})") from error


def save(figure: Any, out: Path) -> None:
    """A figure of matplotlib's, as PNG."""
    with writing(out):
        figures.save(figure, out)


def made_by(seconds: float) -> dict[str, Any]:
    """For a file of results: with what they were made, in how many seconds."""
    return {
        "jaxdiff": version("jaxdiff"),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "devices": f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}",
        "seconds": round(seconds, 1),
        "command": shlex.join(["jaxdiff", *sys.argv[1:]]),
    }
