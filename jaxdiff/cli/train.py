"""The command line of train.py."""

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import jax
import tyro
from jax.tree_util import Partial

from jaxdiff import build, remote, runs
from jaxdiff import config as configs
from jaxdiff.cli import callbacks, hosts, plan, training
from jaxdiff.cli.common import Words, load_pretrained, say_errors, warn_of_signal
from jaxdiff.cli.init import check_init, with_network
from jaxdiff.config import Config
from jaxdiff.pretrained import Pretrained
from jaxdiff.report import check_wandb
from jaxdiff.train import TrainState, init_state, pmapped, sharded, train_step
from jaxdiff.train.frozen import check_frozen
from jaxdiff.train.parallel import per_device
from jaxdiff.typing import Array, InputError, PyTree


@dataclasses.dataclass(frozen=True)
class TrainCommand:
    """Train a diffusion model. The same command resumes a run that was stopped."""

    config: Path
    """A Python file that sets `config = jaxdiff.config.Config(...)`, such as configs/digits.py."""
    settings: Annotated[Config, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff]
    run: str | None = None
    """Where everything is written: a folder, default runs/<the config file's name>; or gs://BUCKET/RUN, s3://BUCKET/RUN:
    then it is sent there after every checkpoint, from a copy in the user's cache directory."""
    init: Path | None = None
    """Start from a network of another library, as sample.py --pretrained does. What it is comes from there, in place of
    the config's model and diffusion sections; how it is trained (dropout, dtype, remat, lora_rank, times, weight) from
    the config."""
    init_options: Words = ()
    """What a .pt file does not say, as NAME VALUE pairs: image_size 64 num_head_channels 64, ..."""
    resume: Literal["auto", "must", "never"] = "auto"
    """auto: continue from the last checkpoint, if any. must: refuse to start afresh. never: refuse to continue."""
    parallel: Literal["pmap", "fsdp"] = "pmap"
    """pmap: every device holds the whole state. fsdp: parameters, averages and optimiser state are spread over them."""
    shards: int | None = None
    """With fsdp, over how many devices; default all. With fewer, each such group holds the whole."""
    coordinator: str | None = None
    """Of a run of many processes, HOST:PORT of the first; each process is given this and the next two (or
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID). Not needed on TPU pods, nor under srun and mpirun."""
    num_processes: int | None = None
    """How many."""
    process_id: int | None = None
    """Which this one is, from 0."""
    profile: bool = False
    """Trace a few steps, after the first ones, into profile/ of the run."""
    dry_run: bool = False
    """Print the resolved config, parameters, batch per device and memory, and stop. Writes nothing of a run."""


def train_main(argv: Sequence[str] | None = None) -> None:
    """The command line of train.py."""
    args = sys.argv[1:] if argv is None else list(argv)

    def command() -> None:
        hosts.join(args)  # before JAX starts its devices
        _train(*_parse(args), args)

    say_errors(command, stopped="stopped; the same command starts or continues it")


def _parse(args: list[str]) -> tuple[TrainCommand, Pretrained | None]:
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--config", type=Path, nargs="?")
    first.add_argument("--run", nargs="?")
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
    folder = None
    if given.config is not None and not {"-h", "--help"} & set(args):
        where = _place(given.run, given.config)
        _pull(where)
        folder = where.folder
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


def _place(run: str | None, config: Path) -> remote.Place:
    return remote.place(run or str(Path("runs") / config.stem))


def _pull(where: remote.Place) -> None:
    if isinstance(where, remote.Remote):
        if hosts.many():
            raise InputError(f"--run {where.name}: of a run of many processes, expected a folder that all hosts share")
        where.check()
        runs.make_folder(where.folder)
        with runs.alone(where.folder):
            where.pull()


def _train(command: TrainCommand, loaded: Pretrained | None, args: list[str]) -> None:
    """Everything that can be wrong is found here, before anything is compiled, or a file is written."""
    config = command.settings
    where = _place(command.run, command.config)
    folder = where.folder
    configs.check(config)
    check_wandb(config.log.wandb)
    devices = jax.device_count()
    per_device(config.train.batch_size, devices=devices, parts=config.train.accumulate)
    schedule = build.schedule(config.diffusion)
    for check in (build.measured, build.times_seen, build.preconditioning):
        check(config.diffusion, schedule)
    build.sampler(config, schedule)
    given = [name for name in ("eta", "variance") if getattr(config.sample, name) is not None]
    build.check_unused(config.sample, given)
    build.times(config.sample, schedule)
    if hosts.first():
        warn_of_signal(schedule)
    saved = runs.check_run(folder, config, command.resume)
    hosts.agree({"the last checkpoint in --run": saved, "--train.steps": config.train.steps})
    build.steps_per_call(config, done=saved)
    finished = saved >= config.train.steps and hosts.as_first(training.has_pictures(config, folder, saved))
    if finished and not command.dry_run:
        where.push()  # what could not be sent at its end
        if hosts.first():
            print(
                f"{where.name}: finished, {saved} of {config.train.steps} steps are done.\n"
                f"  more steps:  {_with_steps(args, 2 * saved)}\n"
                f"  samples:     {training.sample_hint(where, *runs.load_run(folder))}"
            )
        return

    source, held_out = build.sources(config)
    spec = build.Spec(source.image_shape, source.num_classes)
    callbacks.check_comparison(config, spec, len(source))
    init = runs.started_from(folder) if loaded is None and saved else None
    description = runs.describe(config, source, init=init if loaded is None else runs.checksum(loaded.params))
    if saved:
        runs.check_data(folder, description)
        _tell_of_decay(folder, config)
    build.network(config, spec)
    if command.shards is not None and command.parallel != "fsdp":
        raise InputError(f"--shards {command.shards}: belongs to --parallel fsdp")
    tx = build.optimizer(config)
    averages = build.averages(config)
    step = partial(
        train_step,
        loss_fn=build.loss_fn(config, spec),
        tx=tx,
        averages=averages,
        accumulate=config.train.accumulate,
    )
    parallel = pmapped(step) if command.parallel == "pmap" else sharded(step, shards=command.shards)

    def initial(key: Array) -> TrainState:
        return init_state(build.init_params(config, spec, key), tx, averages)

    def initial_of(params: PyTree, key: Array) -> TrainState:
        return init_state(build.with_lora(config, params, key), tx, averages)

    if loaded is not None:
        initial = Partial(initial_of, loaded.params)
    like = jax.eval_shape(initial, jax.random.key(0))  # finds what is wrong with the network
    check_frozen(config.optim.frozen, like.params)
    if loaded is not None:
        check_init(loaded, config, spec)
    elif config.model.lora_rank and not saved:
        raise InputError(
            f"--model.lora-rank {config.model.lora_rank}: adapts a network that was trained; give --init PATH"
        )
    job = plan.Job(config, where, source, held_out, spec, description, saved, parallel, initial, like, command.profile)
    if command.dry_run:
        if hosts.first():
            plan.print_plan(job)
    else:
        training.run(job, command=shlex.join(["python", "train.py", *args]))


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
