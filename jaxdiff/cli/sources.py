"""The images that an option names. What is wrong with them is told by the command's own options, not by train.py's."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

from jaxdiff import build
from jaxdiff.config import Config, Data, check
from jaxdiff.data import Source
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
        raise InputError(said.replace("--data.size", "--size").replace("--data.channels", "--channels")) from None
    if num is not None and num > len(source):
        raise InputError(f"--num {num}: there are {len(source):,} images in {data.name}")
    return source


@contextmanager
def reading(flag: str, name: str) -> Iterator[None]:
    """Within it an image that is of no use is told of without the options of train.py."""
    try:
        yield
    except InputError as error:
        said, _, advice = str(error).partition(". ")
        if "--data." not in advice:
            raise
        raise InputError(f"{flag} {name}: {said}; expected readable images of one size. Mend or remove it") from None
