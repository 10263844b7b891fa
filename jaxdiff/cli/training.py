"""Training as train.py does it: the loop with its checkpoints, pictures and logs, on one host or many."""

import dataclasses
import logging
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdiff import build, runs, sampling
from jaxdiff import config as configs
from jaxdiff.cli import hosts
from jaxdiff.config import Config
from jaxdiff.data import Source, batches
from jaxdiff.data.images import grid, write_png
from jaxdiff.report import Report, plot_loss
from jaxdiff.train import DataError, NonFiniteLossError, TrainState, fit
from jaxdiff.train.checkpoint import Checkpoints
from jaxdiff.train.feed import Feed
from jaxdiff.train.loop import Every
from jaxdiff.train.parallel import Parallel, bytes_per_device
from jaxdiff.typing import Array, InputError


@dataclasses.dataclass(frozen=True)
class Job:
    """A training that can begin: all of it was checked.

    Attributes:
      config: its settings.
      folder: where all is written.
      source: the images.
      spec: what the network knows of them.
      description: for run.json.
      saved: the step of the last checkpoint, 0 if there is none.
      parallel: the train step on the devices.
      initial: key -> the state of a new run.
      like: its shapes.
    """

    config: Config
    folder: Path
    source: Source
    spec: build.Spec
    description: dict[str, Any]
    saved: int
    parallel: Parallel
    initial: Callable[[Array], TrainState]
    like: TrainState


def run(job: Job, *, command: str) -> None:
    """Train, or go on; `command` is what goes on once more."""
    config, folder, parallel = job.config, job.folder, job.parallel
    logging.getLogger("absl").setLevel(
        logging.CRITICAL
    )  # orbax: pages about a failed save, which `say` tells in a line
    init_key, train_key, sample_key = jax.random.split(jax.random.key(config.seed), 3)
    hosts.agree(job.description | {"--parallel and --shards": parallel.mesh})  # and all have checked all
    if hosts.first():
        runs.make_folder(folder)
        if not job.saved:  # before anything else: by it the folder is known as a run's
            runs.write_description(folder, job.description)
    hosts.meet("the folder is made")
    hosts.agree({"run.json in --run": "seen" if (folder / "run.json").is_file() else "missing"})
    share = jax.process_index(), jax.process_count()
    iterator = batches(
        job.source, batch_size=config.train.batch_size, seed=config.seed, flip=config.data.flip, share=share
    )
    with Checkpoints(
        folder / "checkpoints", keep=config.log.keep, best=config.log.best, keep_best=config.log.keep_best, say=_say
    ) as checkpoints:
        if job.saved:
            whole, whole_key, place = checkpoints.restore(job.like, train_key, shardings=parallel.shardings)
            state, train_key = parallel.from_global((whole, whole_key))
            iterator.set_state(place)
            if hosts.first():
                runs.write_description(folder, job.description)
        else:
            state, train_key = parallel.place((job.initial(init_key), train_key))
        start = int(state.step)
        per_call = build.steps_per_call(config, done=start)
        _tell(
            f"{config.data.name}: {len(job.source):,} images {'x'.join(map(str, job.spec.image_shape))}, "
            f"{job.spec.num_classes or 'no'} classes; parameters: {_parameters(job)}; "
            f"{_devices()}\n"
            f"{folder}: from step {start} to {config.train.steps}; the first step compiles\n"
            f"XLA_FLAGS: {os.environ.get('XLA_FLAGS') or 'none'}"
        )
        with (
            _stop_signal() as stopped,
            Report(folder, start=start, steps=config.train.steps, every=config.log.every,
                   batch_size=config.train.batch_size, write=hosts.first()) as report,
            Feed(iterator, parallel.feed, steps_per_call=per_call) as feed,
        ):  # fmt: skip
            pictures = _pictures(job)
            if hosts.many():  # then the first of their exchanges, for which gloo waits 30 seconds, come together
                parallel.run.lower(state, parallel.feed(_zeros(job)), train_key).compile()
                hosts.meet("the step is compiled")

            def save(state: TrainState, step: int) -> None:
                whole, key = parallel.to_global((state, train_key))
                checkpoints.save(whole, key, data=feed.place(), description=job.description)

            def show(state: TrainState, step: int) -> None:
                try:
                    image = pictures(state.ema, sample_key)
                except InputError as error:  # what the pictures are like must not end the training
                    _say(f"no pictures at step {step}: {error}")
                    return
                if hosts.first():
                    write_png(_picture(folder, step), image)
                    report.picture("samples", image, step)

            def end_early(state: TrainState) -> int:
                save(state, int(state.step))
                checkpoints.wait()
                return int(state.step)

            try:
                state = fit(
                    state, feed, parallel.run, train_key,
                    steps=config.train.steps, steps_per_call=per_call, on_metrics=report.metrics,
                    callbacks=[Every(config.log.checkpoint_every, save), Every(config.log.samples_every, show)],
                    stop=stopped.is_set, skip_limit=config.train.skip_limit, say=_say,
                )  # fmt: skip
            except NonFiniteLossError as error:
                kept = checkpoints.steps()
                last = f"The checkpoint of step {kept[-1]} is kept" if kept else "There is no checkpoint yet"
                raise NonFiniteLossError(
                    f"{error}. {last} in {folder}; nothing after it was saved. Try, in another --run, a lower "
                    "--optim.learning-rate, a longer --optim.warmup, --optim.clip 1, or --model.dtype float32."
                ) from None
            except DataError as error:
                # Of many hosts only this one knows, and a checkpoint is made by all.
                kept_at = (
                    "" if hosts.many() else f" All until there is saved: step {end_early(error.state)} in {folder}."
                )
                raise InputError(
                    f"{error}: {error.__cause__}.{kept_at} The same command goes on:\n  {command}"
                ) from error
            if int(state.step) < config.train.steps:
                step = end_early(state)
                _tell(f"\n{folder}: stopped and saved at step {step}; the same command continues:\n  {command}")
                return
            checkpoints.wait()
            # Killed between its last checkpoint and last picture? All must say the same: it is made by all.
            if hosts.as_first(not _picture(folder, int(state.step)).exists()):
                show(state, int(state.step))
    if hosts.first():
        curve = plot_loss(folder)
        _tell(
            f"{folder}: done. Checkpoints, {folder / 'samples'}, {curve}, "
            f"tensorboard --logdir {folder / 'tensorboard'}\n"
            f"Sample it: {sample_hint(folder, job.spec)}"
        )


def has_pictures(config: Config, folder: Path, saved: int) -> bool:
    """Whether a run that has all its steps also has all that is made after them."""
    return _picture(folder, max(saved, config.train.steps)).exists() and (folder / "loss.png").exists()


def _picture(folder: Path, step: int) -> Path:
    return folder / "samples" / f"step_{step:06d}.png"


def _tell(message: str) -> None:
    if hosts.first():
        print(message, flush=True)


def _say(message: str) -> None:
    where = f" (process {jax.process_index()})" if hosts.many() else ""
    print(f"\nwarning{where}: {message}", file=sys.stderr, flush=True)


def _devices() -> str:
    processes = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return f"{jax.device_count()} x {jax.devices()[0].device_kind}{processes}"


@contextmanager
def _stop_signal() -> Iterator[threading.Event]:
    """Set by Ctrl-C or SIGTERM, so that a step is never cut in two; a second signal ends the process at once."""
    stopped = threading.Event()

    def handle(number: int, frame: object) -> None:
        if stopped.is_set():
            os._exit(128 + number)
        stopped.set()
        print("\nstopping after this step (once more: at once)", file=sys.stderr)

    if threading.current_thread() is not threading.main_thread():  # only there signals can be handled
        yield stopped
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def sample_hint(folder: Path, spec: build.Spec) -> str:
    """The command that samples a run."""
    labels = [] if spec.num_classes is None else ["--labels", str(min(3, spec.num_classes - 1))]
    return shlex.join(["python", "sample.py", "--run", str(folder), "--num", "64", *labels, "--out", "samples.png"])


def _pictures(job: Job) -> Callable[[Any, Array], np.ndarray]:
    """`(params, key) -> a grid of pictures`, made by all hosts together."""
    config, num, classes = job.config, job.config.log.samples, job.spec.num_classes
    generate, mesh = sampling.generator(config, job.spec), job.parallel.mesh
    program = sampling.pmapped(generate) if mesh is None else sampling.sharded(generate, mesh)
    labels = None if classes is None else sampling.cycle(range(classes), num)
    columns = classes if classes and classes <= num and classes <= 16 else None

    def make(params: Any, key: Array) -> np.ndarray:
        images = np.concatenate(list(sampling.in_batches(program, config, params, key, labels, num=num, batch=num)))
        return grid(images, columns=columns)

    return make


def _parameters(job: Job) -> str:
    """How many there are, and of these are trained."""
    leaves, moved = jax.tree.leaves(job.like.params), build.trained(job.config)
    some = jax.tree.leaves(moved(job.like.params)) if moved else [True] * len(leaves)
    trained = sum(leaf.size for leaf, yes in zip(leaves, some) if yes)
    return f"{sum(leaf.size for leaf in leaves):,}, of which {trained:,} are trained"


def _zeros(job: Job) -> list[dict[str, np.ndarray]]:
    """The host batches of a call, without what is in them."""
    size = job.config.train.batch_size // jax.process_count()
    batch = {"image": np.zeros((size, *job.spec.image_shape), np.uint8)}
    if job.spec.num_classes is not None:
        batch["label"] = np.zeros(size, np.int32)
    return [batch] * build.steps_per_call(job.config, done=job.saved)


def print_plan(job: Job) -> None:
    """What would be run, and the memory it needs."""
    config, spec, parallel = job.config, job.spec, job.parallel
    per_call, devices = build.steps_per_call(config, done=job.saved), jax.device_count()
    places = parallel.shardings(job.like)
    state = jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), job.like, places)
    key = parallel.place(jax.random.key(0))
    memory = None
    if not hosts.many() or parallel.mesh is not None:  # pmap over many hosts wants the arrays themselves
        memory = parallel.run.lower(state, parallel.feed(_zeros(job)), key).compile().memory_analysis()
    for name, value in configs.flatten(configs.to_dict(config)).items():
        print(f"{name:30} {value}")
    print(f"{'run directory':30} {job.folder}")
    print(f"{'images':30} {'x'.join(map(str, spec.image_shape))}, {spec.num_classes or 'no'} classes")
    print(f"{'parameters':30} {_parameters(job)}")
    print(f"{'modules':30} {' '.join(sorted(job.like.params['params']))}")
    share = config.train.batch_size // devices
    print(f"{'devices':30} {_devices()}, batch {share} each, {per_call} steps per call")
    print(f"{'state per device':30} {bytes_per_device(job.like, places) / 2**20:,.1f} MiB")
    if memory is not None:
        needed = memory.argument_size_in_bytes + memory.temp_size_in_bytes
        print(f"{'compiled memory per device':30} {needed / 2**20:,.0f} MiB")
