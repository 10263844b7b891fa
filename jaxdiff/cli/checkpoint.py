"""The commands `jaxdiff checkpoint list`, `verify`, `export` and `config`."""

import math
import time
from functools import partial
from pathlib import Path

from tyro.extras import SubcommandApp

from jaxdiff import config as configs
from jaxdiff import runs
from jaxdiff.cli.callbacks import best_name
from jaxdiff.cli.common import read_run
from jaxdiff.train import integrity
from jaxdiff.train.best import worth
from jaxdiff.train.checkpoint import Checkpoints
from jaxdiff.typing import InputError
from jaxdiff.weights import check_name, write_weights

checkpoint = SubcommandApp()


@checkpoint.command(name="list")
def list_(run: str) -> None:
    """The checkpoints of a run: step, time, size, weights, and the metrics they were saved with.

    Args:
      run: The folder or URL that train.py wrote to.
    """
    run_folder = read_run(run)
    config, spec = runs.load_run(run_folder)
    with Checkpoints(run_folder / "checkpoints", read_only=True) as checkpoints:
        known = {step: checkpoints.metrics(step) for step in checkpoints.steps()}
        rank = partial(worth, name=best_name(config, spec))
        best = sorted((rank(found) for found in known.values()), reverse=True)[: config.log.keep_best]
        print(f"{'step':>9}  {'saved':16}  {'MiB':>9}  weights, metrics")
        for step, found in known.items():
            folder = checkpoints.folder / str(step)
            try:
                size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
                saved = time.strftime("%Y-%m-%d %H:%M", time.localtime(folder.stat().st_mtime))
            except FileNotFoundError:  # a training has just deleted it
                continue
            metrics = "".join(f", {key} {value:.5g}" for key, value in found.items() if "@" not in key)
            mine = rank(found)
            if mine in best and math.isfinite(mine):
                metrics += ", the best" if mine == best[0] else f", number {best.index(mine) + 1} of the best"
            print(f"{step:9}  {saved}  {size / 2**20:9,.1f}  {' '.join(checkpoints.weights(step))}{metrics}")


@checkpoint.command
def verify(run: str, step: int | None = None) -> None:
    """Read every file of the checkpoints, compare it with its sum, and restore every array. Exit code 2 for damage.

    Args:
      run: The folder or URL that train.py wrote to.
      step: Of one checkpoint; default all.
    """
    with _opened(run) as checkpoints:
        damaged = 0
        for one in checkpoints.steps() if step is None else [checkpoints.choose(step)]:
            wrong = checkpoints.damage(one) or checkpoints.unreadable(one)
            damaged += bool(wrong)
            summed = (checkpoints.folder / str(one) / integrity.NAME).is_file()
            whole = "whole" if summed else "can be read; there are no sums to compare its bytes with"
            print(f"step {one}: {'; '.join(wrong) or whole}")
    if damaged:
        raise InputError(f"{run}: {damaged} damaged. train.py puts a damaged one aside and goes on from the one before")


@checkpoint.command
def export(run: str, out: Path, weights: str = "ema", step: int | None = None) -> None:
    """Write weights of a checkpoint as float32 to a file that sample.py --weights and other libraries read.

    Args:
      run: The folder or URL that train.py wrote to.
      out: NAME.safetensors.
      weights: ema, params, or another average, such as ema_0.05.
      step: Of the checkpoint; default the last.
    """
    check_name(out)
    folder = read_run(run)
    config, spec = runs.load_run(folder)
    step, params = runs.load_weights(folder, config, spec, item=weights, step=step)
    write_weights(out, params, runs.weights_metadata(config, spec, step=step, weights=weights))
    print(f"{weights} of step {step}: {out}")


@checkpoint.command
def config(run: str, step: int | None = None) -> None:
    """The config that a checkpoint was trained with, field by field.

    Args:
      run: The folder or URL that train.py wrote to.
      step: Of the checkpoint; default the last.
    """
    with _opened(run) as checkpoints:
        description = checkpoints.description(checkpoints.choose(step))
    for name, value in configs.flatten(description["config"]).items():
        print(f"{name:30} {value}")


def _opened(run: str) -> Checkpoints:
    folder = read_run(run)
    runs.load_run(folder)  # says so if there is none
    return Checkpoints(folder / "checkpoints", read_only=True)
