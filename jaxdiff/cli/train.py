"""The command line of train.py."""

import argparse
import dataclasses
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import tyro

from jaxdiff import build, runs, sampling
from jaxdiff import config as configs
from jaxdiff.cli.common import Words, load_pretrained, say_errors, warn_of_signal
from jaxdiff.cli.init import check_init, with_network
from jaxdiff.config import Config
from jaxdiff.data import batches
from jaxdiff.data.images import grid, write_png
from jaxdiff.pretrained import Pretrained
from jaxdiff.report import Report, check_wandb, plot_loss
from jaxdiff.train import NonFiniteLossError, TrainState, fit, init_state, pmapped, train_step
from jaxdiff.train.checkpoint import Checkpoints
from jaxdiff.train.frozen import check_frozen
from jaxdiff.train.loop import Every
from jaxdiff.train.parallel import per_device, replicate
from jaxdiff.train.profile import profiled
from jaxdiff.typing import Array, InputError


@dataclasses.dataclass(frozen=True)
class TrainCommand:
    """Train a diffusion model. The same command resumes a run that was stopped."""

    config: Path
    """A Python file that sets `config = jaxdiff.config.Config(...)`, such as configs/digits.py."""
    settings: Annotated[Config, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff]
    run: Path | None = None
    """Where everything is written; default runs/<the config file's name>."""
    init: Path | None = None
    """Start from a network of another library, as sample.py --pretrained does. What it is comes from there, in place of
    the config's model and diffusion sections; how it is trained (dropout, dtype, remat, lora_rank, times, weight) from
    the config."""
    init_options: Words = ()
    """What a .pt file does not say, as NAME VALUE pairs: image_size 64 num_head_channels 64, ..."""
    resume: Literal["auto", "must", "never"] = "auto"
    """auto: continue from the last checkpoint, if any. must: refuse to start afresh. never: refuse to continue."""
    profile: bool = False
    """Trace a few steps, after the first ones, into profile/ of the run."""
    dry_run: bool = False
    """Print the resolved config, parameters, batch per device and memory, and stop. Writes nothing of a run."""


def train_main(argv: Sequence[str] | None = None) -> None:
    """The command line of train.py."""
    args = sys.argv[1:] if argv is None else list(argv)
    say_errors(lambda: _train(*_parse(args), args), stopped="stopped; the same command starts or continues it")


def _parse(args: list[str]) -> tuple[TrainCommand, Pretrained | None]:
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--config", type=Path, nargs="?")
    first.add_argument("--run", type=Path, nargs="?")
    first.add_argument("--init", type=Path, nargs="?")
    first.add_argument("--init-options", "--init_options", nargs="*", default=[])  # tyro takes both
    first.add_argument("--model.network", nargs="?", dest="network")
    given = first.parse_known_args(args)[0]
    # The file's config, with the imported network's, is the default that the command line overrides.
    settings = Config() if given.config is None else configs.load(given.config)
    if given.network is not None and given.network != settings.model.network:
        network = build.named(configs.NETWORKS, given.network, "network")
        shared = {f.name: getattr(settings.model, f.name) for f in dataclasses.fields(configs.Model)}
        settings = dataclasses.replace(settings, model=network(**shared | {"network": given.network}))
    if given.init is None and given.init_options:
        raise InputError("--init-options without --init")
    loaded, begun = None, False
    folder = None if given.config is None or {"-h", "--help"} & set(args) else _folder(given.run, given.config)
    if folder is not None and runs.started_from(folder) is not None:
        begun = runs.last_step(folder) > 0
        if not begun and given.init is None:
            raise InputError(f"{folder} was begun with --init and has no checkpoint yet: give --init, or another --run")
    if given.init is not None and (not begun or given.init.exists()):
        words = given.init_options
        loaded = load_pretrained(given.init, tuple(zip(words[::2], words[1::2])))
        if given.network not in (None, loaded.config.model.network):
            raise InputError(f"--model.network {given.network}: the network is that of --init; leave it out")
        settings = with_network(settings, loaded.config)
    elif folder is not None and begun:  # all that is needed of the imported network is in the run
        settings = with_network(settings, runs.load_run(folder)[0])
        if given.init is not None:
            print(f"note: no {given.init} any more; {folder} has its network", file=sys.stderr)
    default = TrainCommand(config=tyro.MISSING if given.config is None else given.config, settings=settings)
    # The network is chosen by now: its settings are flags, not a choice of subcommands.
    only = (tyro.conf.AvoidSubcommands,)
    return tyro.cli(TrainCommand, args=args, default=default, prog="train.py", config=only), loaded


def _folder(run: Path | None, config: Path) -> Path:
    return run or Path("runs") / config.stem


def _train(command: TrainCommand, loaded: Pretrained | None, args: list[str]) -> None:
    config = command.settings
    folder = _folder(command.run, command.config)

    # Everything that can be wrong is found before data is read, anything is compiled, or a file is written.
    configs.check(config)
    check_wandb(config.log.wandb)
    devices = jax.local_device_count()
    share = per_device(config.train.batch_size, devices=devices)
    schedule = build.schedule(config.diffusion)
    for check in (build.measured, build.times_seen, build.preconditioning):
        check(config.diffusion, schedule)
    build.sampler(config, schedule)
    given = [name for name in ("eta", "variance") if getattr(config.sample, name) is not None]
    build.check_unused(config.sample, given)
    build.times(config.sample, schedule)
    warn_of_signal(schedule)
    saved = runs.check_run(folder, config, command.resume)
    per_call = build.steps_per_call(config, done=saved)
    last_picture = folder / "samples" / f"step_{max(saved, config.train.steps):06d}.png"
    if saved >= config.train.steps and last_picture.exists() and (folder / "loss.png").exists() and not command.dry_run:
        print(
            f"{folder}: finished, {saved} of {config.train.steps} steps are done.\n"
            f"  more steps:  {_with_steps(args, 2 * saved)}\n"
            f"  samples:     {_sample_hint(folder, runs.load_run(folder)[1])}"
        )
        return

    source, held_out = build.sources(config)
    spec = build.Spec(source.image_shape, source.num_classes)
    init = runs.started_from(folder) if loaded is None and saved else None
    description = runs.describe(config, source, init=init if loaded is None else runs.checksum(loaded.params))
    if saved:
        runs.check_data(folder, description)
        _tell_of_decay(folder, config)
    build.network(config, spec)
    tx = build.optimizer(config)
    root = jax.random.key(config.seed)
    init_key, train_key, sample_key = jax.random.split(root, 3)
    step = partial(train_step, loss_fn=build.loss_fn(config, spec), tx=tx, ema_decay=config.train.ema_decay)
    run_steps = pmapped(step)

    def initial() -> TrainState:
        if loaded is None:
            return init_state(build.init_params(config, spec, init_key), tx)
        return init_state(build.with_lora(config, loaded.params, init_key), tx)

    like = jax.eval_shape(initial)  # finds what is wrong with the network
    check_frozen(config.optim.frozen, like.params)
    if loaded is not None:
        check_init(loaded, config, spec)
    elif config.model.lora_rank and not saved:
        raise InputError(
            f"--model.lora-rank {config.model.lora_rank}: adapts a network that was trained; give --init PATH"
        )
    if command.dry_run:
        _print_plan(config, spec, folder, run_steps, like, share=share, devices=devices, per_call=per_call)
        return

    iterator = batches(source, batch_size=config.train.batch_size, seed=config.seed, flip=config.data.flip)
    runs.make_folder(folder)
    if not saved:  # before anything else: by it the folder is known as a run's
        runs.write_description(folder, description)
    with Checkpoints(folder / "checkpoints", keep=config.log.keep) as checkpoints:
        if saved:
            state, train_key, place = checkpoints.restore(like, train_key)
            iterator.set_state(place)
            runs.write_description(folder, description)
        else:
            state, train_key = replicate((initial(), train_key))
        pictures = sampling.pmapped(sampling.generator(config, spec))

        print(
            f"{config.data.name}: {len(source):,} images {'x'.join(map(str, spec.image_shape))}, "
            f"{spec.num_classes or 'no'} classes; parameters: {_parameters(config, like)}; "
            f"{devices} x {jax.devices()[0].device_kind}\n"
            f"{folder}: from step {saved} to {config.train.steps}; the first step compiles\n"
            f"XLA_FLAGS: {os.environ.get('XLA_FLAGS') or 'none'}",
            flush=True,
        )
        with (
            _stop_signal() as stopped,
            Report(
                folder,
                start=saved,
                steps=config.train.steps,
                every=config.log.every,
                batch_size=config.train.batch_size,
                learning_rate=build.learning_rate(config),
                wandb=config.log.wandb,
                config=configs.to_dict(config),
            ) as report,
            profiled(run_steps, folder / "profile") if command.profile else nullcontext(run_steps) as run_steps,
        ):
            held_key = jax.random.fold_in(root, 3)  # 0 to 2: the keys of the split
            evaluating = build.evaluating(config, spec, held_out, held_key, report.scalars)

            def save(state: TrainState, step: int) -> None:
                checkpoints.save(state, train_key, data=iterator.get_state(), description=description)

            def show(state: TrainState, step: int) -> None:
                try:
                    image = _sample_grid(pictures, config, spec, state.ema, sample_key)
                except InputError as error:  # what the pictures are like must not end the training
                    print(f"\nwarning: no pictures at step {step}: {error}", file=sys.stderr)
                    return
                write_png(folder / "samples" / f"step_{step:06d}.png", image)
                report.picture("samples", image, step)

            try:
                state = fit(
                    state, iterator, run_steps, train_key,
                    steps=config.train.steps, steps_per_call=per_call, on_metrics=report.metrics,
                    callbacks=[
                        *evaluating, Every(config.log.checkpoint_every, save), Every(config.log.samples_every, show)
                    ],
                    stop=stopped.is_set,
                )  # fmt: skip
            except NonFiniteLossError as error:
                kept = checkpoints.steps()
                last = f"The checkpoint of step {kept[-1]} is kept" if kept else "There is no checkpoint yet"
                raise NonFiniteLossError(
                    f"{error}. {last} in {folder}; nothing after it was saved. Try, in another --run, a lower "
                    "--optim.learning-rate, a longer --optim.warmup, --optim.clip 1, or --model.dtype float32."
                ) from None
            if stopped.is_set() and int(state.step) < config.train.steps:
                save(state, int(state.step))
                checkpoints.wait()
                print(f"\n{folder}: stopped and saved at step {int(state.step)}; the same command continues")
                return
            if not last_picture.exists():  # a run that was killed between its last checkpoint and its last picture
                show(state, int(state.step))
    curve = plot_loss(folder)
    if command.profile:
        print(
            f"Trace: pip install xprof; xprof --logdir {folder / 'profile'}; or its *.trace.json.gz in ui.perfetto.dev"
        )
    print(
        f"{folder}: done. Checkpoints, {folder / 'samples'}, {curve}, tensorboard --logdir {folder / 'tensorboard'}\n"
        f"Sample it: {_sample_hint(folder, spec)}"
    )


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


def _tell_of_decay(folder: Path, config: Config) -> None:
    before = runs.load_run(folder)[0].train.steps
    if config.optim.decay == "cosine" and before != config.train.steps:
        print(
            f"note: the learning rate decays over train.steps: it now follows the cosine of {config.train.steps} "
            f"steps, until here that of {before}",
            file=sys.stderr,
        )


def _with_steps(args: list[str], steps: int) -> str:
    """The command that was given, for more steps.

    >>> _with_steps(["--config", "a.py", "--train.steps", "5", "--seed", "1"], 10)
    'python train.py --config a.py --seed 1 --train.steps 10'
    """
    kept, skip = [], False
    for arg in args:
        if not skip and not arg.startswith("--train.steps="):
            kept.append(arg)
        skip = arg == "--train.steps"
    if "--train.steps" in kept:
        kept.remove("--train.steps")
    return shlex.join(["python", "train.py", *kept, "--train.steps", str(steps)])


def _sample_hint(folder: Path, spec: build.Spec) -> str:
    labels = [] if spec.num_classes is None else ["--labels", str(min(3, spec.num_classes - 1))]
    return shlex.join(["python", "sample.py", "--run", str(folder), "--num", "64", *labels, "--out", "samples.png"])


def _sample_grid(pictures: Any, config: Config, spec: build.Spec, params: Any, key: Array) -> np.ndarray:
    num, classes = config.log.samples, spec.num_classes
    labels = None if classes is None else sampling.cycle(range(classes), num)
    images = np.concatenate(list(sampling.in_batches(pictures, config, params, key, labels, num=num, batch=num)))
    return grid(images, columns=classes if classes and classes <= num and classes <= 16 else None)


def _parameters(config: Config, state: TrainState) -> str:
    """How many there are, and of these are trained."""
    leaves, moved = jax.tree.leaves(state.params), build.trained(config)
    some = jax.tree.leaves(moved(state.params)) if moved else [True] * len(leaves)
    trained = sum(leaf.size for leaf, yes in zip(leaves, some) if yes)
    return f"{sum(leaf.size for leaf in leaves):,}, of which {trained:,} are trained"


def _print_plan(
    config: Config,
    spec: build.Spec,
    folder: Path,
    run_steps: Any,
    state: TrainState,
    *,
    share: int,
    devices: int,
    per_call: int,
) -> None:
    lead = (per_call, devices, share)
    batch = {"image": jax.ShapeDtypeStruct((*lead, *spec.image_shape), np.uint8)}
    if spec.num_classes is not None:
        batch["label"] = jax.ShapeDtypeStruct(lead, np.int32)
    memory = run_steps.lower(state, batch, jax.random.key(0)).compile().memory_analysis()
    for name, value in configs.flatten(configs.to_dict(config)).items():
        print(f"{name:30} {value}")
    print(f"{'run directory':30} {folder}")
    print(f"{'images':30} {'x'.join(map(str, spec.image_shape))}, {spec.num_classes or 'no'} classes")
    print(f"{'parameters':30} {_parameters(config, state)}")
    print(f"{'modules':30} {' '.join(sorted(state.params['params']))}")
    print(f"{'devices':30} {devices} ({jax.devices()[0].device_kind}), batch {share} each, {per_call} steps per call")
    if memory is not None:
        needed = memory.argument_size_in_bytes + memory.temp_size_in_bytes
        print(f"{'compiled memory per device':30} {needed / 2**20:,.0f} MiB")
