"""Names in tables, and options by name."""

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from jaxdiff.typing import InputError

Row = TypeVar("Row")


def named(table: Mapping[str, Row], name: str, what: str) -> Row:
    """The row of a table, or an `InputError` that names the nearest and all others.

    Args:
      table: name -> row.
      name: of the row.
      what: the rows are, in the message.

    >>> named({"ddim": 1, "ddpm": 2}, "ddim", "sampler")
    1
    """
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, table, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise InputError(f"unknown {what} {name!r}.{hint} There are: {', '.join(table)}")


def check_options(what: str, make: Callable[..., Any], given: Mapping[str, Any], *, besides: tuple[str, ...]) -> None:
    """Raise `InputError` for an option that a function does not have.

    Args:
      what: the function's name in the message.
      make: the function.
      given: option -> value.
      besides: arguments of it that are no options.

    >>> check_options("schedule linear", lambda T, beta_end: None, {"beta_end": 0.02}, besides=("T",))
    """
    options = [name for name in inspect.signature(make).parameters if name not in besides]
    for name in given:
        if name not in options:
            expected = f"it has {', '.join(options)}" if options else "it has none"
            raise InputError(f"{what} has no option {name!r}; {expected}")
