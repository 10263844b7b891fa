"""The folder of a run: `run.json` with its config and data, and `checkpoints/`. May it be started, resumed, sampled?"""

import dataclasses
import json
import os
import platform
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdiff import build, weights
from jaxdiff.config import Config, differences, from_dict, to_dict
from jaxdiff.data import Source
from jaxdiff.files import write_atomically
from jaxdiff.train import ema
from jaxdiff.train.checkpoint import Checkpoints, saved_steps
from jaxdiff.train.parallel import replicate
from jaxdiff.train.snapshots import Snapshots
from jaxdiff.typing import InputError, PyTree


def load_run(folder: Path) -> tuple[Config, build.Spec]:
    """The config of a run that train.py wrote, and what its network knows of the data.

    Raises:
      InputError: no run there, or its description is not readable.
    """
    with _reading(folder) as description:
        height, width, channels = description["image_shape"]
        spec = build.Spec((height, width, channels), description["num_classes"])
        return from_dict(description["config"]), spec


@contextmanager
def _reading(folder: Path) -> Iterator[dict[str, Any]]:
    """What run.json says; what is wrong with it, or with what is made of it, as `InputError`."""
    path = folder / "run.json"
    try:
        yield json.loads(path.read_text())
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{folder}: no run here (no run.json). Train first, or give another --run") from None
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not readable as the description of a run ({error!r})") from error


def load_weights(
    folder: Path, config: Config, spec: build.Spec, *, item: str = "ema", step: int | None = None
) -> tuple[int, PyTree]:
    """The step of a run's checkpoint (default: the latest), and its weights on every local device.

    Args:
      folder: the run.
      config: as `load_run` gives it.
      spec: as `load_run` gives it.
      item: `ema`, the moving average, another of `build.averages`, or `params`, as the optimiser left them.
      step: of the checkpoint.

    Raises:
      InputError: no such weights, no checkpoint, or none of that step.
    """
    _check_item(folder, config, item)
    with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
        return checkpoints.restore_weights(_shapes(config, spec), item=item, step=step)


def check_weights(folder: Path, config: Config, *, item: str = "ema", step: int | None = None) -> None:
    """Raise what `load_weights` does for weights that there are not, without reading any.

    Args:
      folder: of the run.
      config: its config.
      item: as of `load_weights`.
      step: as of `load_weights`.
    """
    _check_item(folder, config, item)
    with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
        checkpoints.choose(step)


def _check_item(folder: Path, config: Config, item: str) -> None:
    there = [*build.averages(config), "params"]
    if item not in there:
        raise InputError(f"{folder}: no weights {item} in this run; there are {', '.join(there)}")


def _shapes(config: Config, spec: build.Spec) -> PyTree:
    return jax.eval_shape(partial(build.init_params, config, spec), jax.random.key(0))


def reconstruct(
    folder: Path, config: Config, spec: build.Spec, *, length: float, step: int | None = None
) -> tuple[int, PyTree, float]:
    """The average of any length, from a run's snapshots: its step, the parameters, and the residual of `ema.fit`.

    Args:
      folder: the run.
      config: as `load_run` gives it.
      spec: as `load_run` gives it.
      length: the standard deviation of its profile, as a share of training.
      step: of the snapshot at which it ends; default the last.

    Raises:
      InputError: no snapshots, none of that step, one that cannot be read, or a length that no average has.
    """
    like = _shapes(config, spec)
    with Snapshots(folder / "snapshots", read_only=True) as snapshots:
        steps = snapshots.steps()
        if not steps:
            raise InputError(f"{folder}: no snapshots in this run yet")
        step = steps[-1] if step is None else step
        stored = [(own, t) for t in steps for own in config.train.ema_lengths]
        found = ema.fit(stored, sigma_rel=length, step=step)
        terms = (
            (weight, snapshots.restore(like, name=ema.name_of(own), step=t))
            for weight, (own, t) in zip(found.weights, stored)
            if weight
        )
        return step, ema.weighted_sum(terms), found.residual


def weights_metadata(config: Config, spec: build.Spec, *, step: int, weights: str) -> dict[str, Any]:
    """What a file of a run's weights says of them, the metadata of `weights.write_weights`.

    Args:
      config: of the run.
      spec: of its data.
      step: after which the weights are.
      weights: which they are, such as "ema".
    """
    shape = {"image_shape": list(spec.image_shape), "num_classes": spec.num_classes}
    return {"config": to_dict(config), **shape, "step": step, "weights": weights}


def read_weights(path: Path, config: Config, spec: build.Spec) -> PyTree:
    """The weights of a file, for the network of a run, on every local device.

    Raises:
      InputError: it cannot be read, or is of another network or diffusion.
    """
    params = weights.read_weights(path, _shapes(config, spec))
    check_weights_file(path, config)
    return replicate(params)


def check_weights_file(path: Path, config: Config) -> None:
    """Raise what `read_weights` does for a file that cannot be read or says that it is of another network.

    Args:
      path: the file.
      config: of the run that it shall be of.
    """
    there = weights.read_metadata(path).get("config")
    if there is not None:  # of the same shapes, and yet another network: what it predicts, say
        own = dataclasses.replace(from_dict(there), data=config.data, optim=config.optim, train=config.train)
        other = differences(dataclasses.replace(own, seed=config.seed), config)
        if other:
            lines = ", ".join(f"{name} {old!r}, not {new!r}" for name, (old, new) in other.items())
            raise InputError(f"{path}: weights of another run, with {lines}; give --run that run")


def last_step(folder: Path) -> int:
    """Of the checkpoints in a run; 0 if there are none."""
    return max(saved_steps(folder / "checkpoints"), default=0)


def started_from(folder: Path) -> int | None:
    """By what the weights of the --init are known that a run here started from; None for fresh ones, or no run."""
    if not (folder / "run.json").is_file():
        return None
    with _reading(folder) as description:
        init: int | None = description.get("init")
        return init


def check_run(folder: Path, config: Config, resume: str) -> int:
    """The step to resume from, 0 for none.

    Args:
      folder: of the run.
      config: that it is to be run with.
      resume: "auto", "must" or "never".

    Raises:
      InputError: the run may not be started or resumed: the folder cannot be written, is something else, or has, or has
        not, what `resume` says; a setting has changed that a run keeps.
    """
    for path in (folder, *folder.absolute().parents):
        if path.exists():
            if not path.is_dir() or not os.access(path, os.W_OK):
                raise InputError(f"run directory {folder}: cannot be written, {path} is not a folder or not writable")
            break
    for name in ("config.json", "model_index.json"):
        if (folder / name).is_file():  # with a run in it, it would no longer be taken for what it is
            raise InputError(f"run directory {folder}: has a network of diffusers in it ({name}); give another --run")
    there = load_run(folder)[0] if (folder / "run.json").exists() else None
    saved = last_step(folder)
    if saved:
        different = differences(there or load_run(folder)[0], config)
        if different:
            lines = "".join(f"\n  {name}: {old!r} there, {new!r} now" for name, (old, new) in different.items())
            raise InputError(
                f"run directory {folder} belongs to a run of another config:{lines}\n"
                f"Give these as they were to resume it, or another --run for a new one."
            )
    if resume == "must" and not saved:
        raise InputError(f"--resume must: no checkpoint in {folder}")
    if resume == "never" and saved:
        raise InputError(f"--resume never: {folder} has checkpoints; give another --run, or delete it yourself")
    return saved


def check_data(folder: Path, description: dict[str, Any]) -> None:
    """Other data under the same name would resume at a place that means something else.

    Raises:
      InputError: the data, or the weights that the run was started from, are not those of `run.json`.
    """
    with _reading(folder) as before:
        if before.get("init") != description["init"]:
            raise InputError(f"run directory {folder}: --init has other weights than those it was started from")
        for name in ("image_shape", "num_classes", "images", "checksum"):
            if before.get(name) != description[name]:
                raise InputError(
                    f"run directory {folder}: the data has changed, {name} was {before.get(name)} and is "
                    f"{description[name]}. Give the data it was started with, or another --run."
                )


def make_folder(folder: Path) -> None:
    """Make it and see that it can be written; `InputError` if not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(f"run directory {folder}: cannot be written ({error})") from error


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other trainings out of a folder; the lock ends with the process, however that ends.

    On network file systems it holds between hosts as far as these pass flock on: NFS does unless it is mounted with
    `nolock` or `local_lock=flock`. Where there are no locks, nothing is kept out.

    Raises:
      InputError: another process has it, or it is another user's.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    lock = folder / ".lock"
    if lock.exists() and not os.access(lock, os.W_OK):
        raise InputError(f"run directory {folder}: {lock} cannot be written, it is another user's; give another --run")
    with open(lock, "a+") as file:  # never removed: a third process could lock it before it is gone
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise InputError(
                f"run directory {folder}: another training is writing to it ({file.read().strip() or 'unknown'}). "
                "Wait until it ends, stop it, or give another --run"
            ) from None
        except OSError:  # a file system without locks
            pass
        with suppress(OSError):  # a full disk: it only says who has it
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}")
            file.flush()
        yield


def checksum(params: PyTree) -> int:
    """By what weights are known again."""
    found = 0
    for leaf in jax.tree.leaves(params):
        found = zlib.crc32(np.asarray(leaf).tobytes(), found)
    return found


def describe(config: Config, source: Source, *, init: int | None = None) -> dict[str, Any]:
    """What `run.json` and every checkpoint say of a run: the resolved config, and by what its data, and the weights it
    started from (`init`), are known again."""
    some = source.gather(np.linspace(0, len(source) - 1, 64).astype(int))
    return {
        "config": to_dict(config),
        "image_shape": list(source.image_shape),
        "num_classes": source.num_classes,
        "images": len(source),
        "init": init,
        "checksum": zlib.crc32(b"".join(some[name].tobytes() for name in sorted(some))),
    }


def write_description(folder: Path, description: dict[str, Any]) -> None:
    """Write `run.json`, whole or not at all.

    Args:
      folder: of the run.
      description: of `describe`.
    """
    text = json.dumps(description, indent=1)
    write_atomically(folder / "run.json", text.encode())
