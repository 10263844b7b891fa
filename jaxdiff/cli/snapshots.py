"""The snapshots of a run under way."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from jaxdiff.cli import hosts
from jaxdiff.cli.common import tell
from jaxdiff.config import Config
from jaxdiff.train import TrainState
from jaxdiff.train.checkpoint import gist, saved_steps
from jaxdiff.train.ema import name_of
from jaxdiff.train.loop import Every
from jaxdiff.train.snapshots import Snapshots
from jaxdiff.typing import PyTree


class Keeping(NamedTuple):
    """What the loop calls to save snapshots, and what waits until those are on disk."""

    callbacks: list[Every]
    wait: Callable[[], None]


@contextmanager
def snapshots_of(
    folder: Path, config: Config, to_global: Callable[[PyTree], PyTree], *, done: int
) -> Iterator[Keeping]:
    """The averages of `train.ema_lengths` every `log.snapshot_every` steps; nothing without these.

    `to_global` is that of the run's `Parallel`. Snapshots behind `done`, the step the training begins or goes on from,
    are deleted: they will be made again, and may be of another trajectory, such as one with another number of steps.

    A snapshot that cannot be saved, on a full disk say, is a warning: the others, and the training, are worth more.
    """
    every, lengths = config.log.snapshot_every, config.train.ema_lengths
    if every is None:
        if lengths:
            tell(
                "note: train.ema_lengths without log.snapshot_every: of this run no average of another length can be "
                "made afterwards (jaxdiff ema)",
                error=True,
            )
        yield Keeping([], lambda: None)
        return
    if hosts.first():
        for step in saved_steps(folder / "snapshots"):
            if step > done:
                half = (folder / "snapshots" / str(step)).rename(folder / "snapshots" / f"{step}.orbax-checkpoint-tmp")
                shutil.rmtree(half, ignore_errors=True)
    hosts.meet("the snapshots are those of the steps that are done")
    snapshots = Snapshots(folder / "snapshots")

    def trying(call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # orbax and tensorstore raise many kinds
            tell(f"\nwarning: a snapshot was not saved: {gist(error)}", error=True)

    def save(state: TrainState, step: int) -> None:
        averages = {name_of(length): state.ema[name_of(length)] for length in lengths}
        trying(snapshots.wait)  # by itself: one that failed does not take the next with it
        trying(lambda: snapshots.save(to_global(averages), step))

    try:
        yield Keeping([Every(every, save)], lambda: trying(snapshots.wait))
    finally:
        trying(snapshots.close)
