"""One training by many processes, on one host or many, through JAX's distributed runtime."""

import atexit
import importlib.util
import os
import subprocess
import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxdiff.typing import InputError

HEARTBEAT = 30  # seconds of silence after which a process counts as dead, and the others are ended
VISIBLE = 20  # seconds for a file to be seen on the other hosts; those that wait for the answer do so for 30
STARTED_MANY = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")  # how many processes a launcher has started

LAST_WORDS = """
import sys
if not sys.stdin.read():  # the end without a word
    sys.stderr.write(sys.argv[1])
"""


def join(args: Sequence[str], environment: Mapping[str, str] = os.environ) -> None:
    """Become one of the processes of a run, if it has many; to be called before JAX starts its devices.

    By --coordinator, --num-processes and --process-id, or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
    JAX_PROCESS_ID; by itself on TPU pods, under SLURM's srun and Open MPI's mpirun.

    Raises:
      InputError: some of the three are missing or make no sense, or the coordinator cannot be reached.
    """
    names = {
        "--coordinator": "JAX_COORDINATOR_ADDRESS",
        "--num-processes": "JAX_NUM_PROCESSES",
        "--process-id": "JAX_PROCESS_ID",
    }
    given = {flag: _flag(args, flag) or environment.get(name) for flag, name in names.items()}
    if any(value is not None for value in given.values()):
        missing = [f"{flag} (or {names[flag]})" for flag, value in given.items() if value is None]
        if missing:
            raise InputError(f"a run of many processes needs {', '.join(missing)} too, in every process")
        address, number, process = given.values()
        try:
            count, mine = int(number or ""), int(process or "")
        except ValueError:
            raise InputError(f"--num-processes {number} --process-id {process}: expected whole numbers") from None
        host, _, port = (address or "").rpartition(":")
        if not 0 <= mine < count or not host or not port.isdecimal():
            raise InputError(
                f"--coordinator {address} --num-processes {count} --process-id {mine}: expected HOST:PORT of "
                "process 0, and process ids from 0 up to one less than their number"
            )
        if count > 1:
            _initialize(address, count, mine)
    elif _started_many(environment):
        _initialize()
    elif _on_tpu(environment):
        _initialize(or_alone=True)  # one machine with a TPU, or with its library alone, is no cluster


def _flag(args: Sequence[str], flag: str) -> str | None:
    for i, arg in enumerate(args):
        name, _, value = arg.partition("=")
        if name.replace("_", "-") == flag:
            return value or (args[i + 1] if i + 1 < len(args) else "")
    return None


def _started_many(environment: Mapping[str, str]) -> bool:
    return any(environment.get(name, "1") not in ("", "0", "1") for name in STARTED_MANY)


def _on_tpu(environment: Mapping[str, str]) -> bool:
    return importlib.util.find_spec("libtpu") is not None and environment.get("JAX_PLATFORMS", "tpu") != "cpu"


def _initialize(
    address: str | None = None, count: int | None = None, mine: int | None = None, *, or_alone: bool = False
) -> None:
    # It would take SIGTERM for itself, which until training begins would then end nothing.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(address, count, mine, heartbeat_timeout_seconds=HEARTBEAT)
    except (RuntimeError, ValueError) as error:
        if or_alone and isinstance(error, ValueError):  # nothing says who the others are
            return
        raise InputError(f"the processes of this run could not find each other: {error}") from error
    if jax.process_count() > 1:
        _leave_last_words()


def _leave_last_words() -> None:
    """Where another process has died, JAX's runtime ends this one at once, with a stack of C++ and no word from
    Python. So a child waits for the end, and says what it means unless it was told that all is well."""
    message = (
        f"error: process {jax.process_index()} of {jax.process_count()} was ended: another process of this run has "
        "died, or cannot be reached, or this one was killed. See what the others said last. The same command, in all "
        "processes, goes on from the last checkpoint.\n"
    )
    child = subprocess.Popen([sys.executable, "-c", LAST_WORDS, message], stdin=subprocess.PIPE, start_new_session=True)
    _told.append(child)
    atexit.register(all_is_well)


_told: list[subprocess.Popen[bytes]] = []


def all_is_well() -> None:
    """This process ends by itself."""
    while _told:
        child = _told.pop()
        if child.stdin is not None and child.poll() is None:
            child.stdin.write(b"all is well")
            child.stdin.close()
        child.wait()


def many() -> bool:
    """Whether this process is one of many; asks no device."""
    return bool(_told)


def first() -> bool:
    """Whether this is the process that writes logs and pictures."""
    return jax.process_index() == 0


def meet(where: str) -> None:
    """Wait until all processes are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(where)


def as_first(answer: bool) -> bool:
    """What process 0 says to a question whose answer may differ, such as whether a file is there."""
    return answer if jax.process_count() == 1 else bool(multihost_utils.broadcast_one_to_all(np.bool_(answer)))


def sees(path: Path) -> bool:
    """Whether a file is there that process 0 has just written; network file systems may take their time."""
    until = time.monotonic() + (0 if first() else VISIBLE)
    while not path.is_file() and time.monotonic() < until:
        time.sleep(0.5)
    return path.is_file()


def agree(facts: Mapping[str, Any]) -> None:
    """Raise `InputError`, in all processes, unless each has the same of all of them, by `repr`."""
    if jax.process_count() == 1:
        return
    sums = np.array([zlib.crc32(repr(fact).encode()) for fact in facts.values()], np.uint32)
    everyones = multihost_utils.process_allgather(sums)
    different = [name for name, theirs in zip(facts, everyones.T) if len(set(theirs.tolist())) > 1]
    if different:
        here = "".join(f"\n  {name}: {str(facts[name])[:400]}, in process {jax.process_index()}" for name in different)
        raise InputError(
            f"the processes of this run were not started alike:{here}\n"
            "Give all the same command, with files and a --run that all hosts share."
        )


def leave(code: int) -> None:
    """End this process with an error at once: at a normal exit, JAX would wait for the others."""
    all_is_well()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
