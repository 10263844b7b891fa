"""A training that can begin, and what it would be: `train.py --dry-run`."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdiff import build
from jaxdiff import config as configs
from jaxdiff.cli import hosts
from jaxdiff.config import Config
from jaxdiff.data import Source
from jaxdiff.remote import Place
from jaxdiff.train import TrainState
from jaxdiff.train.parallel import Parallel, bytes_per_device
from jaxdiff.typing import Array


class Keys(NamedTuple):
    """What is random in a run, each with a key of its own."""

    parameters: Array
    training: Array
    pictures: Array
    evaluation: Array


@dataclasses.dataclass(frozen=True)
class Job:
    """A training that can begin: all of it was checked.

    Attributes:
      config: its settings.
      place: where all is written.
      source: the images.
      held_out: those that are not trained on but evaluated, if any.
      spec: what the network knows of them.
      description: for run.json.
      saved: the step of the last checkpoint, 0 if there is none.
      parallel: the train step on the devices.
      initial: key -> the state of a new run.
      like: its shapes.
      profile: whether to trace a few steps.
    """

    config: Config
    place: Place
    source: Source
    held_out: Source | None
    spec: build.Spec
    description: dict[str, Any]
    saved: int
    parallel: Parallel
    initial: Callable[[Array], TrainState]
    like: TrainState
    profile: bool = False

    @property
    def folder(self) -> Path:
        """That all is in."""
        return self.place.folder

    def keys(self) -> Keys:
        """Of the seed."""
        root = jax.random.key(self.config.seed)
        parameters, training, pictures = jax.random.split(root, 3)
        return Keys(parameters, training, pictures, jax.random.fold_in(root, 3))  # 0 to 2: those of the split


def print_plan(job: Job) -> None:
    """What would be run, and the memory it needs."""
    config, spec, parallel = job.config, job.spec, job.parallel
    per_call = build.steps_per_call(config, done=job.saved)
    places = parallel.shardings(job.like)
    state = jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), job.like, places)
    key = parallel.place(jax.random.key(0))
    memory = None
    if not hosts.many() or parallel.mesh is not None:  # pmap over many hosts wants the arrays themselves
        memory = parallel.run.lower(state, parallel.feed(zeros(job, per_call)), key).compile().memory_analysis()
    for name, value in configs.flatten(configs.to_dict(config)).items():
        print(f"{name:30} {value}")
    print(f"{'run directory':30} {job.place.name}")
    print(f"{'images':30} {'x'.join(map(str, spec.image_shape))}, {spec.num_classes or 'no'} classes")
    print(f"{'parameters':30} {parameters(job)}")
    print(f"{'modules':30} {' '.join(sorted(job.like.params['params']))}")
    share = config.train.batch_size // jax.device_count()
    print(f"{'devices':30} {devices()}, batch {share} each, {per_call} steps per call")
    print(f"{'state per device':30} {bytes_per_device(job.like, places) / 2**20:,.1f} MiB")
    if memory is not None:
        needed = memory.argument_size_in_bytes + memory.temp_size_in_bytes
        print(f"{'compiled memory per device':30} {needed / 2**20:,.0f} MiB")


def devices() -> str:
    """All of them, in words."""
    processes = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return f"{jax.device_count()} x {jax.devices()[0].device_kind}{processes}"


def parameters(job: Job) -> str:
    """How many there are, and of these are trained."""
    leaves, moved = jax.tree.leaves(job.like.params), build.trained(job.config)
    some = jax.tree.leaves(moved(job.like.params)) if moved else [True] * len(leaves)
    trained = sum(leaf.size for leaf, yes in zip(leaves, some) if yes)
    return f"{sum(leaf.size for leaf in leaves):,}, of which {trained:,} are trained"


def zeros(job: Job, steps_per_call: int) -> list[dict[str, np.ndarray]]:
    """The host batches of a call, without what is in them."""
    size = job.config.train.batch_size // jax.process_count()
    batch = {"image": np.zeros((size, *job.spec.image_shape), np.uint8)}
    if job.spec.num_classes is not None:
        batch["label"] = np.zeros(size, np.int32)
    return [batch] * steps_per_call
