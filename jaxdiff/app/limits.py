"""What one request may ask for, and how many may ask."""

import dataclasses

from jaxdiff.typing import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of the app; what is beyond is refused with a message, before it costs anything.

    Raises:
      InputError: one below 1.

    >>> Limits(max_steps=0)
    Traceback (most recent call last):
    ...
    jaxdiff.typing.InputError: --max-steps 0: expected at least 1
    """

    max_pictures: int = 16
    """Of one request."""
    max_steps: int = 1000
    """Of one request; those that RePaint goes again count."""
    max_seconds: float = 120.0
    """Of one request, its waiting aside."""
    max_pixels: int = 16_000_000
    """Of an image that is sent, whatever its file's size."""
    max_upload: int = 10
    """MiB of a request."""
    at_once: int = 1
    """Requests that are worked on at the same time, step by step in turn."""
    max_waiting: int = 32
    """Requests that wait; further ones are told to come again."""
    max_connections: int = 512
    """Open connections, of all clients."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not value >= 1 and not (field.name == "max_waiting" and value == 0):
                raise InputError(f"--{field.name.replace('_', '-')} {value}: expected at least 1")


class BusyError(Exception):
    """Too many requests wait already."""


class TooLargeError(InputError):
    """An image of more pixels, or a request of more bytes, than are taken."""
