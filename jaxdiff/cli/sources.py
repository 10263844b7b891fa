"""The images that an option names. What is wrong with them is told by the command's own options, not by train.py's."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

from jaxdiff import build
from jaxdiff.config import Config, Data, check
from jaxdiff.data import Source
from jaxdiff.evaluation import size_of
from jaxdiff.typing import InputError


def named_source(data: Data, flag: str, *, split: str | None = None, num: int | None = None) -> Source:
    """The images of a set.

    Args:
      data: which; its split is that of a set that has some, unless `split` says another.
      flag: the option that names it; those of the size and the channels are --size and --channels.
      split: the one asked for, if any.
      num: what --num says, where that is not to be more than there are.

    Raises:
      InputError: no such set, one that cannot be read, a split of a set that has none, or fewer images.
    """
    if split is not None:
        if not data.name.startswith(("tfds:", "hf:")):
            raise InputError(f"{flag} {data.name}: has no splits, of which {split} would be one; leave it out")
        data = dataclasses.replace(data, split=split)
    try:
        check(Config(data=data))
        source = build.source(data)
    except InputError as error:
        said = str(error).replace("--data.name", flag)
        said = said.replace("--data.size", "--size").replace("--data.channels", "--channels")
        raise InputError(_own(said)) from None
    if num is not None and num > len(source):
        raise InputError(f"--num {num}: there are {len(source):,} images in {data.name}")
    return source


def check_shape(
    source: Source, expected: tuple[int, ...], flag: str, name: str, *, whole: tuple[int, ...] | None = None
) -> None:
    """Raise `InputError` for images of another shape than the network takes, with the options that mend it.

    Args:
      source: the images.
      expected: `(H, W, C)`.
      flag: the option that names them.
      name: what it says.
      whole: the shape of those that --degrade makes such ones of, if the command has that.
    """
    there = source.image_shape
    if there == expected:
        return
    height, width, channels = expected
    options = [f"--size {height}"] if there[:2] != expected[:2] and height == width else []
    options += [f"--channels {channels}"] if there[2] != channels else []
    mend = f"; give {' '.join(options)}" if options else ""
    if there == whole:
        mend = "; if they are whole images, give --degrade"
    raise InputError(f"{flag} {name}: {size_of(there)}; expected {size_of(expected)}, for the network{mend}")


def _own(said: str) -> str:
    """A message without the sentences of advice that are of train.py."""
    return ". ".join(part for part in said.split(". ") if "--data." not in part)


@contextmanager
def reading(flag: str, name: str, *, sized: bool = False) -> Iterator[None]:
    """Within it an image that is of no use is told of without the options of train.py; `sized`: by --size and
    --channels, which the command has."""
    try:
        yield
    except InputError as error:
        said = str(error)
        for option in ("size", "channels") if sized else ():
            said = said.replace(f" (jaxdiff data: --{option})", "").replace(f"--data.{option}", f"--{option}")
        if "--data." not in said:
            raise InputError(said) from None
        said = _own(said)
        raise InputError(f"{flag} {name}: {said}; expected readable images of one size. Mend or remove it") from None
