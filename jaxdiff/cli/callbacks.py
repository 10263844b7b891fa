"""What is done between the steps of a training: pictures, the loss of held-out images, samples against the data."""

import hashlib
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from jaxdiff import build, cascades, evaluation, sampling
from jaxdiff.cli import hosts
from jaxdiff.cli.plan import Job
from jaxdiff.cli.super_resolution import lowered, shown_small
from jaxdiff.config import Config
from jaxdiff.data.images import grid
from jaxdiff.pixels import to_uint8
from jaxdiff.train import TrainState, evaluate
from jaxdiff.train.loop import Every
from jaxdiff.typing import Array, InputError

Tell = Callable[[int, dict[str, float]], None]
Say = Callable[[str], None]


def _program(job: Job, make: Callable[..., sampling.Generate] = sampling.generator) -> Any:
    generate, mesh = make(job.config, job.spec), job.parallel.mesh
    return sampling.pmapped(generate) if mesh is None else sampling.sharded(generate, mesh)


def pictures(job: Job) -> Callable[[Any, Array], np.ndarray]:
    """`(params, key) -> a grid of pictures`, made by all hosts together."""
    if job.config.condition.factor is not None:
        return _enlarged(job)
    config, num, classes = job.config, job.config.log.samples, job.spec.num_classes
    program = _program(job)
    labels = None if classes is None else sampling.cycle(range(classes), num)
    columns = classes if classes and classes <= num and classes <= 16 else None

    def make(params: Any, key: Array) -> np.ndarray:
        images = np.concatenate(list(sampling.in_batches(program, config, params, key, labels, num=num, batch=num)))
        return grid(images, columns=columns)

    return make


def _enlarged(job: Job) -> Callable[[Any, Array], np.ndarray]:
    """Of super-resolution, in threes: a real image made smaller, what the network makes of that, and the image. It is
    one of those held out, if there are any; always the same ones."""
    config, source, num = job.config, job.held_out or job.source, job.config.log.samples
    index = evaluation.some_of(np.arange(len(source)), min(num, len(source)), np.random.default_rng(0))
    columns, program = 3 * max(1, round((len(index) / 3) ** 0.5)), _program(job, cascades.super_resolver)

    def make(params: Any, key: Array) -> np.ndarray:
        real = source.gather(index)["image"]
        low = lowered(config, real)
        drawn = cascades.enlargements(
            program, config, params, key, evaluation.labels_of(source, index), low.__getitem__, num=len(index),
            batch=len(index), level=config.condition.level,
        )  # fmt: skip
        made = to_uint8(np.concatenate(list(drawn))[:, 0])
        threes = np.stack([shown_small(config, to_uint8(low)), made, real], axis=1)
        return grid(threes.reshape(-1, *made.shape[1:]), columns=columns)

    return make


def evaluating(job: Job, tell: Tell, say: Say) -> list[Every]:
    """The loss of held-out images. Every host evaluates its share."""
    mesh = job.parallel.mesh
    found = build.evaluating(
        job.config,
        job.spec,
        job.held_out,
        job.keys().evaluation,
        tell,
        make=evaluate.pmapped if mesh is None else partial(evaluate.sharded, mesh=mesh),
        process=jax.process_index(),
        processes=jax.process_count(),
        total=evaluate.over_processes,
    )
    return [_trying(each, "evaluation", say) for each in found]


SEED = 0
"""Of the samples that are compared: that of `jaxdiff evaluate`, which so finds the same numbers."""


def frechet_name(config: Config, spec: build.Spec) -> str:
    """What the distance of samples to the data is called in a run."""
    plan = evaluation.planned(_features_name(config, spec), spec.image_shape, spec.num_classes)
    return evaluation.name_of("frechet", evaluation.METRICS["frechet"], plan)


def best_name(config: Config, spec: build.Spec) -> str:
    """What the best checkpoints are known by: "eval_loss", or the distance with a mark of what it was measured with.

    Distances of other numbers of samples, made otherwise, are not compared; a run may go on with other ones.
    """
    if config.log.best_by == "eval_loss":
        return "eval_loss"
    how = {name: value for name, value in vars(config.evaluate).items() if name not in ("every", "batch")}
    digest = hashlib.sha256(json.dumps([how, vars(config.sample), SEED], sort_keys=True).encode()).hexdigest()
    return f"{frechet_name(config, spec)}@{digest[:8]}"


def check_comparison(config: Config, spec: build.Spec, images: int) -> None:
    """Raise `InputError` where `comparing` would, but for weights that cannot be read."""
    settings = config.evaluate
    if settings.every is None:
        return
    name = _features_name(config, spec)
    try:
        evaluation.check_name(name)
        plan = evaluation.planned(name, spec.image_shape, spec.num_classes)
        evaluation.check(evaluation.chosen(["frechet"], plan), plan, settings.samples, settings.reference or images)
    except InputError as error:
        raise InputError(f"--evaluate: {error}".replace("--features", "--evaluate.features")) from None


def comparing(job: Job, tell: Tell, say: Say) -> list[Every]:
    """The Frechet distance of the moving average's samples to the images trained on, every `evaluate.every` steps.

    All hosts make the samples together, and each has all of them and all of the data: so all say the same.
    """
    settings, config = job.config.evaluate, job.config
    if settings.every is None:
        return []
    space = evaluation.features(
        _features_name(config, job.spec), job.spec.image_shape, source=job.source,
        progress=partial(tqdm, desc="classifier", unit="step", disable=not hosts.first()),
    )  # fmt: skip
    rows = evaluation.chosen(["frechet"], space)
    index = np.arange(len(job.source))
    if settings.reference is not None:
        index = evaluation.some_of(index, settings.reference, np.random.default_rng(0))
    extract = evaluation.extractor(space, ["pool"], batch=settings.batch)
    gather = partial(evaluation.gather, extract=extract, moments_of=["pool"], keep=[])
    with tqdm(total=len(index), unit="img", desc="real images", disable=not hosts.first()) as bar:
        real = gather(
            evaluation.images_of(job.source, index, batch=settings.batch), name=config.data.name, progress=bar.update
        )
    for warning in evaluation.warnings(rows, space, settings.samples, real.count):
        say(f"--evaluate: {warning}")
    theirs = evaluation.labels_of(job.source, index)
    labels = None if theirs is None else evaluation.as_often(theirs, settings.samples)
    program, key = _program(job), jax.random.key(SEED)

    def compare(state: TrainState, step: int) -> None:
        made = sampling.in_batches(
            program, config, state.ema["ema"], key, labels, num=settings.samples, batch=settings.batch
        )
        samples = gather(made, name=f"step {step}")
        tell(step, evaluation.measure(rows, space, samples, real))

    return [_trying(Every(settings.every, compare), "comparison with the data", say)]


def _features_name(config: Config, spec: build.Spec) -> str:
    return config.evaluate.features or evaluation.default_features(spec.image_shape, spec.num_classes)


def _trying(each: Every, what: str, say: Say) -> Every:
    """An image that cannot be read, or pictures that are not finite, end nothing where all can go on alike."""

    def call(state: TrainState, step: int) -> None:
        try:
            each.call(state, step)
        except (InputError, OSError) as error:
            if hosts.many():
                raise
            say(f"no {what} at step {step}: {error}")

    return Every(each.every, call)
