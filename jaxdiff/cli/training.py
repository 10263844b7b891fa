"""Training as train.py does it: the loop with its checkpoints, pictures and logs, on one host or many."""

import dataclasses
import os
import shlex
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxdiff import build, runs
from jaxdiff import config as configs
from jaxdiff.cli import callbacks, hosts, plan
from jaxdiff.cli.common import tell
from jaxdiff.cli.plan import Job
from jaxdiff.cli.snapshots import snapshots_of
from jaxdiff.config import Config
from jaxdiff.data import Source, batches
from jaxdiff.data.images import write_png
from jaxdiff.data.workers import InProcesses
from jaxdiff.remote import Place
from jaxdiff.report import Report, plot_loss
from jaxdiff.train import DataError, NonFiniteLossError, TrainState, fit
from jaxdiff.train.checkpoint import Checkpoints, SaveError
from jaxdiff.train.feed import Feed
from jaxdiff.train.loop import Every
from jaxdiff.train.profile import profiled
from jaxdiff.typing import Array, InputError


def run(job: Job, *, command: str) -> None:
    """Train, or go on; `command` is what goes on once more.

    Raises:
      InputError: processes that were not started alike, a folder that another training has, data that cannot be read.
      NonFiniteLossError: too many updates in a row were not finite.
      SaveError: the last checkpoint could not be written.
    """
    facts = {f"config.{name}": section for name, section in job.description["config"].items()}
    facts |= {name: value for name, value in job.description.items() if name != "config"}
    facts["--parallel and --shards"] = job.parallel.mesh
    hosts.agree(facts)  # and all have checked all
    if hosts.first():
        runs.make_folder(job.folder)
    with runs.alone(job.folder) if hosts.first() else nullcontext(), _pushed(job.place):
        if runs.last_step(job.folder) != job.saved:
            raise InputError(
                f"run directory {job.folder}: another training wrote to it while this one began; run the command again"
            )
        with _reading(job.source, job.config.data.workers) as source:
            _run(dataclasses.replace(job, source=source), command=command)


@contextmanager
def _pushed(place: Place) -> Iterator[None]:
    """Sent to its URL, if it has one, however the training ends."""
    try:
        yield
    except BaseException:
        _try_to_push(place)
        raise
    try:
        place.push()
    except InputError as error:
        raise InputError(f"{error}. All is in {place.folder}; the same command sends it") from error


def _try_to_push(place: Place) -> None:
    try:
        place.push()
    except InputError as error:
        _say(f"{error}. All is in {place.folder}; it is tried again after the next checkpoint")


@contextmanager
def _reading(source: Source, workers: int) -> Iterator[Source]:
    """The source, or worker processes that read it."""
    if not workers:
        yield source
        return
    with InProcesses(source, workers) as reader:
        yield reader


def _run(job: Job, *, command: str) -> None:
    config, folder, parallel = job.config, job.folder, job.parallel
    if hosts.first() and not job.saved:  # before anything else: by it the folder is known as a run's
        runs.write_description(folder, job.description)
        (folder / "wandb_id").unlink(missing_ok=True)  # of one that came to no checkpoint
    hosts.meet("the folder is made")
    hosts.agree({"run.json in --run": "seen" if hosts.sees(folder / "run.json") else "missing"})
    best = callbacks.best_name(config, job.spec)
    with Checkpoints(
        folder / "checkpoints",
        keep=config.log.keep,
        best=best,
        keep_best=config.log.keep_best,
        on_saved=lambda: _try_to_push(job.place),
        say=_say,
    ) as checkpoints:
        begun = _begin(job, checkpoints)
        per_call = build.steps_per_call(config, done=begun.step)
        _tell(
            f"{config.data.name}: {len(job.source):,} images {'x'.join(map(str, job.spec.image_shape))}, "
            f"{job.spec.num_classes or 'no'} classes; parameters: {plan.parameters(job)}; {plan.devices()}\n"
            f"{job.place.name}: from step {begun.step} to {config.train.steps}; the first step compiles\n"
            f"XLA_FLAGS: {os.environ.get('XLA_FLAGS') or 'none'}"
        )
        with (
            _stop_signal() as stopped,
            _report(job, begun) as report,
            Feed(begun.batches, parallel.feed, steps_per_call=per_call) as feed,
            snapshots_of(folder, config, parallel.to_global, done=begun.step) as snapshots,
            profiled(parallel.run, folder / "profile") if job.profile else nullcontext(parallel.run) as run_steps,
        ):
            if hosts.many():  # then the first of their exchanges, for which gloo waits 30 seconds, come together
                parallel.run.lower(begun.state, parallel.feed(plan.zeros(job, per_call)), begun.key).compile()
                hosts.meet("the step is compiled")
            pictures = callbacks.pictures(job)
            evaluated: dict[int, dict[str, float]] = {}

            def tell_evaluated(step: int, values: dict[str, float]) -> None:
                evaluated.setdefault(step, {}).update(values)
                report.scalars(step, values)

            def save(state: TrainState, step: int) -> None:
                snapshots.wait()  # a run that resumes from here does not make that snapshot again
                whole, key = parallel.to_global((state, begun.key))
                data = {"place": feed.place(), "report": report.get_state()}
                metrics = evaluated.get(step, {})
                measured = best.partition("@")[0]
                metrics = metrics | ({best: metrics[measured]} if measured in metrics else {})
                checkpoints.save(whole, key, data=data, description=job.description, metrics=metrics)

            def show(state: TrainState, step: int) -> None:
                try:
                    image = pictures(state.ema["ema"], job.keys().pictures)
                except InputError as error:  # what the pictures are like must not end the training
                    return _say(f"no pictures at step {step}: {error}")
                if hosts.first():
                    with _going_on(f"the picture of step {step}"):
                        write_png(_picture(folder, step), image)
                    report.picture("samples", image, step)

            def end_early(state: TrainState) -> str:
                step = int(state.step)
                if not step:  # there is nothing yet that would be worth going on from
                    return f"before the first step; the same command starts again:\n  {command}"
                save(state, step)
                checkpoints.wait()
                return f"and saved at step {step}; the same command continues:\n  {command}"

            between = [
                *snapshots.callbacks,
                *callbacks.evaluating(job, tell_evaluated, _say),
                *callbacks.comparing(job, tell_evaluated, _say),
                Every(config.log.checkpoint_every, save),
                *([Every(config.log.samples_every, show)] if config.log.samples else []),
            ]
            try:
                state = fit(
                    begun.state, feed, run_steps, begun.key, steps=config.train.steps, steps_per_call=per_call,
                    on_metrics=report.metrics, callbacks=between, stop=stopped.is_set,
                    skip_limit=config.train.skip_limit, say=_say,
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
                try:
                    kept_at = "" if hosts.many() else f" {folder}: stopped {end_early(error.state)}"
                except SaveError as full:
                    kept_at = f" And {full}"
                raise InputError(f"{error}: {error.__cause__}.{kept_at}") from error
            if int(state.step) < config.train.steps:
                _tell(f"\n{job.place.name}: stopped {end_early(state)}")
                return
            checkpoints.wait()
            # Killed between its last checkpoint and last picture? All must say the same: it is made by all.
            if hosts.as_first(not _has_picture(config, folder, int(state.step))):
                show(state, int(state.step))
    if hosts.first():
        with _going_on("loss.png"):
            plot_loss(folder)
        trace = f", xprof --logdir {folder / 'profile'}" if job.profile else ""
        pictures_too = f"{folder / 'samples'}, " if config.log.samples else ""
        _tell(
            f"{job.place.name}: done. Checkpoints, {pictures_too}{folder / 'loss.png'}, "
            f"tensorboard --logdir {folder / 'tensorboard'}{trace}\n"
            f"Sample it: {sample_hint(job.place, job.config, job.spec)}"
        )


class _Begun(NamedTuple):
    """Where training begins, or goes on.

    Attributes:
      step: the number of updates done.
      state: on the devices.
      key: of the whole run.
      batches: the iterator, at its place.
      window: of the report, see `Report.get_state`.
    """

    step: int
    state: TrainState
    key: Array
    batches: Any
    window: dict[str, list[float]]


def _begin(job: Job, checkpoints: Checkpoints) -> _Begun:
    config, parallel, key, window = job.config, job.parallel, job.keys().training, {}
    iterator = batches(
        job.source, batch_size=config.train.batch_size, seed=config.seed, flip=config.data.flip,
        share=(jax.process_index(), jax.process_count()), threads=max(4, config.data.workers),
    )  # fmt: skip
    if job.saved:
        whole, whole_key, saved = checkpoints.restore(job.like, key, shardings=parallel.shardings)
        state, key = parallel.from_global((whole, whole_key))
        iterator.set_state(saved["place"])
        window = saved["report"]
        if hosts.first():
            runs.write_description(job.folder, job.description)
    else:
        state, key = parallel.make(job.initial, job.keys().parameters), parallel.place(key)
    return _Begun(int(state.step), state, key, iterator, window)


def _report(job: Job, begun: _Begun) -> Report:
    config = job.config
    report = Report(
        job.folder,
        start=begun.step,
        steps=config.train.steps,
        every=config.log.every,
        batch_size=config.train.batch_size,
        learning_rate=build.learning_rate(config),
        wandb=config.log.wandb,
        config=configs.to_dict(config),
        write=hosts.first(),
    )
    report.set_state(begun.window)
    return report


def has_pictures(config: Config, folder: Path, saved: int) -> bool:
    """Whether a run that has all its steps also has all that is made after them."""
    return _has_picture(config, folder, max(saved, config.train.steps)) and (folder / "loss.png").exists()


def _has_picture(config: Config, folder: Path, step: int) -> bool:
    return not config.log.samples or _picture(folder, step).exists()


def _picture(folder: Path, step: int) -> Path:
    return folder / "samples" / f"step_{step:06d}.png"


def _tell(message: str) -> None:
    if hosts.first():
        tell(message)


def _say(message: str) -> None:
    where = f" (process {jax.process_index()})" if hosts.many() else ""
    tell(f"\nwarning{where}: {message}", error=True)


@contextmanager
def _going_on(what: str) -> Iterator[None]:
    """A picture that a full disk does not take must not end the training."""
    try:
        yield
    except OSError as error:
        _say(f"{what} could not be written ({error}); the same command makes it again")


@contextmanager
def _stop_signal() -> Iterator[threading.Event]:
    """Set by Ctrl-C or SIGTERM, so that a step is never cut in two; a second signal ends the process at once."""
    stopped = threading.Event()

    def handle(number: int, frame: object) -> None:
        if stopped.is_set():
            os._exit(128 + number)
        stopped.set()
        with suppress(OSError):  # not print: it may have been interrupted, and cannot be entered twice
            os.write(2, b"\nstopping after this step (once more: at once)\n")

    if threading.current_thread() is not threading.main_thread():  # only there signals can be handled
        yield stopped
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def sample_hint(place: Place, config: Config, spec: build.Spec) -> str:
    """The command that samples a run."""
    if config.condition.factor is not None:
        images = ["--images", config.data.name, "--degrade", "--num", "16"]
        return shlex.join(["jaxdiff", "super-resolution", "--run", place.name, *images, "--out", "enlarged.png"])
    labels = [] if spec.num_classes is None else ["--labels", str(min(3, spec.num_classes - 1))]
    return shlex.join(["python", "sample.py", "--run", place.name, "--num", "64", *labels, "--out", "samples.png"])
