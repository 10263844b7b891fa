"""The commands `jaxdiff checkpoint list`, `verify`, `export` and `config`."""

import time
from pathlib import Path

from tyro.extras import SubcommandApp

from jaxdiff import config as configs
from jaxdiff import runs
from jaxdiff.train.checkpoint import Checkpoints
from jaxdiff.typing import InputError
from jaxdiff.weights import check_name, write_weights

checkpoint = SubcommandApp()


@checkpoint.command(name="list")
def list_(run: Path) -> None:
    """The checkpoints of a run: step, time, size, weights, and the metrics they were saved with.

    Args:
      run: The folder that train.py wrote.
    """
    with _opened(run) as checkpoints:
        print(f"{'step':>9}  {'saved':16}  {'MiB':>9}  weights, metrics")
        for step in checkpoints.steps():
            folder = checkpoints.folder / str(step)
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            saved = time.strftime("%Y-%m-%d %H:%M", time.localtime(folder.stat().st_mtime))
            metrics = "".join(f", {name} {value:.5g}" for name, value in checkpoints.metrics(step).items())
            print(f"{step:9}  {saved}  {size / 2**20:9,.1f}  {' '.join(checkpoints.weights(step))}{metrics}")


@checkpoint.command
def verify(run: Path, step: int | None = None) -> None:
    """Read every file of the checkpoints, compare it with its sum, and restore every array. Exit code 2 for damage.

    Args:
      run: The folder that train.py wrote.
      step: Of one checkpoint; default all.
    """
    with _opened(run) as checkpoints:
        damaged = 0
        for one in checkpoints.steps() if step is None else [checkpoints.choose(step)]:
            wrong = checkpoints.damage(one) or checkpoints.unreadable(one)
            damaged += bool(wrong)
            print(f"step {one}: {'; '.join(wrong) or 'whole'}")
    if damaged:
        raise InputError(f"{run}: {damaged} damaged. train.py puts a damaged one aside and goes on from the one before")


@checkpoint.command
def export(run: Path, out: Path, weights: str = "ema", step: int | None = None) -> None:
    """Write weights of a checkpoint as float32 to a file that sample.py --weights and other libraries read.

    Args:
      run: The folder that train.py wrote.
      out: NAME.safetensors.
      weights: ema, params, or another average, such as ema_0.05.
      step: Of the checkpoint; default the last.
    """
    check_name(out)
    config, spec = runs.load_run(run)
    step, params = runs.load_weights(run, config, spec, item=weights, step=step)
    write_weights(out, params, runs.weights_metadata(config, spec, step=step, weights=weights))
    print(f"{weights} of step {step}: {out}")


@checkpoint.command
def config(run: Path, step: int | None = None) -> None:
    """The config that a checkpoint was trained with, field by field.

    Args:
      run: The folder that train.py wrote.
      step: Of the checkpoint; default the last.
    """
    with _opened(run) as checkpoints:
        description = checkpoints.description(checkpoints.choose(step))
    for name, value in configs.flatten(description["config"]).items():
        print(f"{name:30} {value}")


def _opened(run: Path) -> Checkpoints:
    runs.load_run(run)  # says so if there is none
    return Checkpoints(run / "checkpoints", read_only=True)
