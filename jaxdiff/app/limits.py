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
    """Of one request, from the end of its first step, which may compile."""
    max_pixels: int = 16_000_000
    """Of an image that is sent, whatever its file's size."""
    max_upload: int = 10
    """MiB of a request."""
    max_arrival: float = 60.0
    """Seconds in which a request must have come in whole."""
    at_once: int = 1
    """Requests that are worked on at the same time, each in a thread, at most 32; they share the device."""
    max_waiting: int = 32
    """Requests that wait; further ones are told to come again."""
    max_connections: int = 512
    """Open connections, of all clients."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not value >= 1 and not (field.name == "max_waiting" and value == 0):
                raise InputError(f"--{field.name.replace('_', '-')} {value}: expected at least 1")
        if self.at_once > 32:
            raise InputError(f"--at-once {self.at_once}: expected at most 32")


class BusyError(Exception):
    """Too many requests wait already."""


class TooLargeError(InputError):
    """An image of more pixels, or a request of more bytes, than are taken."""
