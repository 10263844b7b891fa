"""The walk that all U-Nets share, down the levels of the feature map and up again. What is done on it, they say."""

from collections.abc import Callable, Sequence

from jaxdiff.typing import Array, InputError

Step = Callable[[Array, int, str], Array]
"""`(h, level, name) -> h`; the first level is 0."""

Join = Callable[[Array, Array], Array]
"""`(h, skip) -> h`, a feature map of the way up with the one of the way down."""


def descend(h: Array, *, levels: int, blocks: int, block: Step, halve: Step) -> list[Array]:
    """The feature maps of the way down: h, then those after each `down_{level}_{i}`, of which each level has `blocks`,
    and after each `down_{level}`, which every level but the last ends in.

    >>> descend(1, levels=2, blocks=1, block=lambda h, level, name: h + 1, halve=lambda h, level, name: 10 * h)
    [1, 2, 20, 21]
    """
    skips = [h]
    for level in range(levels):
        for i in range(blocks):
            h = block(h, level, f"down_{level}_{i}")
            skips.append(h)
        if level < levels - 1:
            h = halve(h, level, f"down_{level}")
            skips.append(h)
    return skips


def ascend(
    h: Array, skips: Sequence[Array], *, levels: int, blocks: int, join: Join, block: Step, double: Step
) -> Array:
    """h after each `up_{level}_{i}`, joined before it by the last of `skips` that is left, and after each `up_{level}`.

    Each level has one block more than on the way down, as `descend` yields one map more than it has blocks.

    >>> up = {"join": lambda h, skip: h + skip, "block": lambda h, level, name: h, "double": lambda h, level, name: -h}
    >>> ascend(0, [1, 2, 20, 21], levels=2, blocks=1, **up)
    -38
    """
    left = list(skips)
    for level in reversed(range(levels)):
        for i in range(blocks + 1):
            h = block(join(h, left.pop()), level, f"up_{level}_{i}")
        if level > 0:
            h = double(h, level, f"up_{level}")
    return h


def check_size(size: Sequence[int], *, levels: int, network: str, patch: int = 1) -> None:
    """Raise `InputError` where an image, or other data of this size, does not make patches, or these cannot be halved
    `levels - 1` times.

    >>> check_size((8, 12), levels=3, network="UNet")
    >>> check_size((28, 28), levels=4, network="UNet")
    Traceback (most recent call last):
    ...
    jaxdiff.typing.InputError: UNet: 4 levels halve the image 3 times, so its size must be divisible by 8; got 28x28. \
Use fewer multipliers, or pad or resize the images.
    """
    if levels < 1 or patch < 1:
        raise InputError(f"{network}: {levels} levels, patches of {patch}; expected at least one level, and 1 point")
    factor = patch * 2 ** (levels - 1)
    if any(n % factor for n in size):
        patches = f", in patches of {patch}," if patch != 1 else ""
        raise InputError(
            f"{network}: {levels} levels halve the image{patches} {levels - 1} times, so its size must be divisible by "
            f"{factor}; got {'x'.join(map(str, size))}. Use fewer multipliers, or pad or resize the images."
        )


def heads_of(channels: int, head_channels: int, *, network: str, name: str) -> int:
    """How many heads of this size the attention `name` has.

    >>> heads_of(128, 64, network="UNet", name="middle")
    2
    """
    if head_channels < 1 or channels % head_channels:
        raise InputError(f"{network}: {channels} channels of {name} make no heads of head_channels = {head_channels}")
    return channels // head_channels
