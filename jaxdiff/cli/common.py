"""What both commands say."""

import errno
import json
import os
import re
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import tyro

from jaxdiff import pretrained, remote
from jaxdiff.build import check_options
from jaxdiff.cli import hosts, quiet
from jaxdiff.cli.flags import use_recommended_flags
from jaxdiff.files import cache_folder
from jaxdiff.train import NonFiniteLossError
from jaxdiff.train.checkpoint import SaveError
from jaxdiff.typing import InputError, Schedule

Words = Annotated[tuple[tuple[str, str], ...], tyro.conf.arg(metavar="[NAME VALUE ...]")]
"""Options by name, in words: "64" is a number, "true" a bool."""

OWN_FAULTS = ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED")  # of JAX's runtime: not another process's
UNSOLVED = re.compile("the ODE was not solved.*")
LOST = ("by peer", "Gloo", "NCCL", "oordination service")  # in what is raised, whoever wraps it, when another one dies


def tell(text: str, *, error: bool = False) -> None:
    """Print, if there is still somebody to read: a pipe that is closed, or a log on a full disk, ends no training."""
    with suppress(OSError, ValueError):
        print(text, file=sys.stderr if error else sys.stdout, flush=True)


def use_compilation_cache() -> None:
    """Keep compiled programs in the user's cache directory, or where JAX_COMPILATION_CACHE_DIR says: another run of the
    same command need not compile them again. JAX_ENABLE_COMPILATION_CACHE=false turns it off."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))


def read_run(run: str) -> Path:
    """The folder of a run that is only read; of one at a URL, a copy that is brought up to date."""
    where = remote.place(run, reading=True)
    where.pull()
    return where.folder


def load_pretrained(path: Path, options: Words) -> pretrained.Pretrained:
    """The network of another library, with options in words."""
    loaded = pretrained.load(path, **_values(options))
    if path.is_dir() and pretrained.scheduler_file(path) is None:
        print(
            f"note: no scheduler_config.json in {path}: taken for DDPM's linear table of 1,000 steps and eps",
            file=sys.stderr,
        )
    return loaded


def load_classifier(path: Path, options: Words) -> pretrained.GuidedClassifier:
    """The classifier of a file, with options in words."""
    values = _values(options)
    check_options(str(path), pretrained.load_guided_classifier, values, besides=("path",))
    return pretrained.load_guided_classifier(path, **values)


def _values(options: Words) -> dict[str, Any]:
    names = [name for name, _ in options]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"the option {name} is given twice; give it once")

    def value(word: str) -> Any:
        try:
            return json.loads(word.lower())
        except ValueError:
            return word

    return {name: value(word) for name, word in options}


def warn_of_signal(schedule: Schedule) -> None:
    """Sampling starts from noise; a schedule that ends with signal left never showed the model such an x_1."""
    snr = float(schedule.alpha(jnp.float32(1.0)) / schedule.sigma(jnp.float32(1.0)))
    if snr > 0.1:
        print(
            f"warning: this schedule ends at t = 1 with alpha / sigma = {snr:.2f}, not with pure noise, which pictures "
            "start from: expect them to be off (too grey, too alike)",
            file=sys.stderr,
        )


def say_errors(command: Callable[[], None], *, stopped: str) -> None:
    """Run a command: a user's error is one message and exit code 2; Ctrl-C is `stopped` and 130."""
    use_recommended_flags()
    use_compilation_cache()
    quiet.failed_saves()
    try:
        command()
    except (InputError, NonFiniteLossError, SaveError) as error:
        _end(f"error: {error}", 2)
    except KeyboardInterrupt:
        _end(f"\n{stopped}", 130)
    except SystemExit as end:  # of the parser of flags
        if not (hosts.many() and end.code):
            raise
        hosts.leave(2)
    except Exception as error:
        if unsolved := UNSOLVED.search(str(error)):  # raised in a compiled program, with pages of its own
            _end(f"error: {unsolved[0]}", 2)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            _end(f"error: {error}. Make room, or give another --run; the same command goes on", 2)
        if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.ENAMETOOLONG):
            _end(f"error: {error}. Give a path that can be used", 2)
        if not hosts.many():
            raise
        told = "".join(traceback.format_exception(error))
        own = not isinstance(error, jax.errors.JaxRuntimeError) or str(error).startswith(OWN_FAULTS)
        if own and not any(words in told for words in LOST):
            print(told, file=sys.stderr)
            _end("error: this process of the run has failed, see above; the others will be ended", 1)
        _end(
            "error: the processes of this run have lost each other; one of them has died, or cannot be reached. "
            "See what that one said last. The same command, in all processes, goes on from the last checkpoint. "
            f"({next(iter(str(error).splitlines()), '')})",
            1,
        )


def _end(message: str, code: int) -> None:
    tell(message, error=True)
    if hosts.many():
        hosts.leave(code)
    sys.exit(code)
