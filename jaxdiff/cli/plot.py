"""`jaxdiff plot`: what a person looks at besides numbers."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from tyro.extras import SubcommandApp

from jaxdiff import build, evaluation, runs, sampling
from jaxdiff.cli.common import read_run
from jaxdiff.cli.compared import bar
from jaxdiff.cli.neighbours import neighbours
from jaxdiff.cli.out import check_file, check_numbers, save, writing
from jaxdiff.cli.pictures import Pictures, Prepared, prepare
from jaxdiff.data import Source, Subset, in_order
from jaxdiff.data.images import MOVING, write_animation
from jaxdiff.evaluation import size_of
from jaxdiff.pixels import from_uint8, to_uint8
from jaxdiff.report import figures, results
from jaxdiff.report.figures import Block
from jaxdiff.report.tradeoff import said, tradeoff_of
from jaxdiff.train.evaluate import every_term, pmapped
from jaxdiff.typing import InputError

plot = SubcommandApp()
Against = Literal["network_evaluations", "guidance", "ema", "steps", "temperature", "truncation", "start_scale"]
AXES = {"time": "t (0 data, 1 noise)", "log_snr": "log-SNR (high: data, low: noise)"}
COLUMNS, FRAMES = 10, 40  # times shown by default: in a strip, and in an animation
MEMORY = 2 * 2**30  # bytes of pictures on their way, at most
plot.command(neighbours)


@plot.command
def metric(
    results_: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(name="results")],
    *,
    metric: str,
    against: Against,
    out: Path,
    floor: float | None = None,
) -> None:
    """Draw a metric of several results of `jaxdiff evaluate --out`, one line for each sampler, run and whatever else
    differs; one that is alone on its line is told of. Refused are results that do not compare: of other features,
    numbers of samples, real images, or numbers that the metric is defined with, as --neighbours.

    Args:
        results_: At least two files.
        metric: As in the file; the name of the features may be left out: frechet, kernel, precision, ...
        against: The x axis: network evaluations per sample (a pair of guidance counts as two), the guidance scale, the
            length of the average of the weights (--weights ema_0.05 or a file of jaxdiff ema), the sampler's steps, its
            temperature, or the truncation or the scale of the noise it starts from.
        out: A .png file.
        floor: What the metric says of real images against real images: a dashed line.
    """
    check_file(out, ".png")
    read = {str(path): results.read_result(path) for path in results_}
    drawn = results.lines_of(read, metric=metric, against=against)
    if floor is not None and not np.isfinite(floor):
        raise InputError(f"--floor {floor}: expected a number")
    save(
        figures.metric(drawn, against=results.AGAINST[against], log=against == "network_evaluations", floor=floor), out
    )
    for line in drawn.lines:
        print(f"{line.label or drawn.metric}: " + ", ".join(f"{y:.6g} at {x:g}" for x, y, _ in line.points))
    alone = [line.label or drawn.metric for line in drawn.lines if len(line.points) == 1]
    if alone:
        print(f"note: single points, of settings that no other result has: {'; '.join(alone)}", file=sys.stderr)
    print(f"{drawn.metric}: {out}")


@plot.command
def tradeoff(
    results_: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(name="results")],
    *,
    x: str,
    y: str,
    out: Path,
    along: tuple[Against, ...] = (),
) -> None:
    """Draw two metrics of each of several results of `jaxdiff evaluate --out` against each other, such as diversity and
    quality, joined along each setting that was swept, and labelled with its value. Refused is what `plot metric` does.

    Args:
        results_: At least two files.
        x: Of the x axis, as --metric of plot metric: recall, diversity, ...
        y: Of the y axis: precision, frechet, ...
        out: A .png file.
        along: What was swept; default what differs of guidance, temperature, truncation, start_scale and steps.
    """
    check_file(out, ".png")
    drawn = tradeoff_of({str(path): results.read_result(path) for path in results_}, x=x, y=y, along=along)
    save(figures.tradeoff(drawn), out)
    for sweep in drawn.sweeps:
        print(f"{sweep.label}: " + ", ".join(f"{a:.6g}, {b:.6g} at {said(v) or 'it'}" for a, b, v in sweep.points))
    print(f"{drawn.x}, {drawn.y}: {out}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Networks:
    """Whose networks, and on which images."""

    run: tuple[str, ...]
    """Folders or URLs that train.py wrote to, one line each. All see the images of the first."""
    weights: str = "ema"
    """As of sample.py."""
    step: int | None = None
    """The checkpoint; default the latest."""
    images: Literal["held_out", "train"] | None = None
    """Default those that the first run holds out, or, if it holds none, those that it trains on."""
    num: int = 256
    """How many, chosen at random, always the same ones; all if there are fewer."""
    batch: int = 64
    """At a time."""
    seed: int = 0
    """Of the noise."""


@plot.command
def loss(
    networks: Annotated[Networks, tyro.conf.arg(name="")],
    *,
    out: Path,
    against: Literal["time", "log_snr"] = "time",
    own: bool = False,
) -> None:
    """Draw how wrong networks are at each of 50 times: the mean squared error of the noise, unweighted, so that
    networks of all kinds compare; those of several schedules at the same log-SNR. 1 is what a guess of zero has. Bands
    are 95 % intervals over the images, with one draw of noise for each image and time.

    Args:
        networks: Of runs.
        out: A .png file.
        against: The x axis.
        own: Also the terms of each run's own loss, a panel each: those of other kinds or weights do not compare.
    """
    check_file(out, ".png")
    source, what, made = _networks(networks)
    terms: dict[str, dict[str, np.ndarray]] = {}
    x, curves = {}, []
    for name, one in made.items():
        times, log_snr = build.times_shown(one.config)
        curves.append((times.tolist(), log_snr.tolist()))
        x[name] = times if against == "time" else log_snr
        for term, values in _terms(
            one, source, build.errors_by_time(one.config, one.spec, times, own=own), networks, name
        ):
            words = "mean squared error of eps" if term == "eps" else term
            terms.setdefault(words, {})[name] = values
    same = all(curve == curves[0] for curve in curves)
    title = f"Error by time, {what}"
    second = np.array(curves[0][1]) if same and against == "time" else None
    save(figures.errors(terms, x, against=AXES[against], title=title, log_snr=second), out)
    for words, found in terms.items():
        for name, values in found.items():
            print(f"{words}, {name}: {values.mean():.6g}, mean over {values.shape[1]} times and {len(values)} images")
    print(f"{what}: {out}")


@plot.command
def bits(
    networks: Annotated[Networks, tyro.conf.arg(name="")],
    *,
    out: Path,
    against: Literal["time", "log_snr"] = "time",
    steps: int = 1000,
) -> None:
    """Draw the terms of the variational bound of images by time, in bits/dim, their total in the legend: that of
    `jaxdiff evaluate --metrics bits_per_dim_vlb`, with all steps of a table. A term of half as many steps is about
    twice as large.

    Args:
        networks: Of runs.
        out: A .png file.
        against: The x axis. A step that begins without any signal has no place on that of log_snr.
        steps: Of a continuous schedule, even in log-SNR.
    """
    check_file(out, ".png")
    check_numbers(steps=steps)
    source, what, made = _networks(networks)
    lines = {}
    for name, one in made.items():
        times, log_snr, program = build.bound_by_step(one.config, one.spec, steps=steps)
        found = dict(_terms(one, source, program, networks, name))
        total, prior, mean = found["total"].mean(), found["prior"].mean(), found["terms"].mean(0)
        said = f"{name}: {total:.3f} bits/dim in {len(times):,} steps (prior {prior:.2g}, decoder {mean[-1]:.2g})"
        lines[said] = times if against == "time" else log_snr, mean
        print(said)
    save(figures.bits(lines, against=AXES[against], title=f"Variational bound, {what}"), out)
    print(f"{what}: {out}")


@plot.command
def process(
    pictures: Annotated[Pictures, tyro.conf.arg(name="")],
    *,
    out: Path,
    num: int = 8,
    steps_shown: int | None = None,
    predicted: bool = False,
    milliseconds: int = 100,
) -> None:
    """Draw how real images become noise, and noise becomes pictures: as a strip with a picture in each row and a time
    in each column, or as an animation.

    Forward is one path of q(x_t | x_s) on training images of the run; reverse are the pictures that sample.py makes
    with the same options. x_t is divided by sqrt(alpha^2 + sigma^2), so that noise looks the same on every schedule.

    Args:
        pictures: Which, and how; as sample.py has them.
        out: A .png file for a strip; a .gif, or .apng for one of all colours, for an animation.
        num: Pictures.
        steps_shown: How many of the sampler's times, evenly, first and last among them; default 10, of an animation 40.
        predicted: Below or beside x_t also what x_0 the network takes it for.
        milliseconds: That a frame is shown; the first and the last are held.
    """
    check_file(out, ".png", *MOVING)
    check_numbers(milliseconds=milliseconds)
    moving = out.suffix.lower() in MOVING
    wanted = (FRAMES if moving else COLUMNS) if steps_shown is None else steps_shown
    if wanted < 2:
        raise InputError(f"--steps-shown {wanted}: expected at least 2, the first and the last")
    made = prepare(pictures, num)
    if made.latents:
        raise InputError("this network makes latents for an autoencoder, which are no pictures")
    times = build.times(made.config.sample, build.schedule(made.config.diffusion))
    needed = 8 * num * int(np.prod(made.spec.image_shape)) * len(times)
    if needed > MEMORY:
        raise InputError(
            f"--num {num} of {len(times) - 1} steps are {needed / 2**30:.1f} GiB on their way: give less --num or "
            "--steps"
        )
    real = None
    if pictures.run is not None:
        source, _ = build.sources(made.config)
        real = source.gather(
            evaluation.some_of(np.arange(len(source)), min(num, len(source)), np.random.default_rng(0))
        )
    name, params = made.load()
    print(f"{num} pictures of {name}, {made.config.sample.sampler}, {len(times) - 1} steps", flush=True)
    way, guesses = made.path(params)
    if not np.isfinite(way).all():
        raise InputError("the pictures are not finite: lower the guidance or the temperature, clip, or use float32")
    chosen = np.unique(np.rint(np.linspace(0, len(times) - 1, min(wanted, len(times)))).astype(int))
    blocks, at = [], times[chosen]
    if real is not None:
        up = np.concatenate([[0.0], at[::-1][1:]])  # the grid ends at 0, or near to it
        x0 = jnp.asarray(from_uint8(real["image"]))
        x = sampling.forward(x0, up, jax.random.key(pictures.seed), config=made.config)
        blocks.append(Block("forward: real images to noise", sampling.shown(x, up, config=made.config), up))
    blocks.append(Block("reverse: noise to pictures", sampling.shown(way[chosen], at, config=made.config), at))
    if predicted:
        blocks.append(Block("reverse: predicted x0", to_uint8(guesses[chosen]), at))
    if moving:
        with writing(out):
            write_animation(out, figures.frames(blocks), milliseconds=milliseconds)
    else:
        save(figures.strip(blocks), out)
    print(f"{len(at)} of {len(times)} times: {out}")


def _networks(given: Networks) -> tuple[Source, str, dict[str, Prepared]]:
    """The images, what they are, and the networks by the names of their runs; all of it is checked."""
    for name, value in (("num", given.num), ("batch", given.batch)):
        if value < 1:
            raise InputError(f"--{name} {value}: expected at least 1")
    if len(set(given.run)) < len(given.run):
        raise InputError("--run: one of them is given twice; give it once")
    short = [Path(run).name for run in given.run]
    names = short if len(set(short)) == len(short) else list(given.run)
    made = {
        name: prepare(Pictures(run=run, weights=given.weights, step=given.step, seed=given.seed), 1, of_images=True)
        for name, run in zip(names, given.run, strict=True)
    }
    config, spec = runs.load_run(read_run(given.run[0]))
    source, held_out = build.sources(config)
    if given.images == "held_out" and held_out is None:
        raise InputError(f"--images held_out: {given.run[0]} holds none out; leave it out")
    which = held_out if held_out is not None and given.images != "train" else source
    for name, one in made.items():
        if one.spec != spec:
            raise InputError(
                f"{name}: its network knows images {size_of(one.spec.image_shape)} of {one.spec.num_classes or 'no'} "
                f"classes, {names[0]} {size_of(spec.image_shape)} of {spec.num_classes or 'no'}: draw them apart"
            )
    num = min(given.num, len(which))
    index = evaluation.some_of(np.arange(len(which)), num, np.random.default_rng(0))
    kind = "held-out" if which is held_out else "training"
    return Subset(which, index), f"{num:,} {kind} images of {Path(config.data.name).name}", made


def _terms(made: Prepared, source: Source, loss: Any, given: Networks, name: str) -> list[tuple[str, np.ndarray]]:
    """The terms of every image."""
    devices = jax.local_device_count()
    size = -(-min(given.batch, len(source)) // devices) * devices
    _, params = made.load()
    with bar(len(source), name) as progress:
        some = in_order(source, batch_size=size)
        return list(every_term(params, some, jax.random.key(given.seed), pmapped(loss), progress=progress).items())
