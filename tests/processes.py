"""The real scripts as processes, one or the many of a run, and what is in the checkpoints that they leave."""

import atexit
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxdiff.report import read_metrics

ROOT = Path(__file__).parents[1]
QUICK = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # compiles in half of the time; what is compared is compiled alike


def start(folder, *args, script="train.py", devices=1, environment=None, **options):
    """A script as a process, on that many forced CPU devices; options are those of Popen."""
    return _start(folder, [str(ROOT / script), *args], devices, environment, **options)


def start_python(folder, code, *, devices=1):
    """A line of Python as a process, which may import from tests/."""
    return _start(folder, ["-c", code], devices)


def _start(folder, args, devices, environment=None, **options):
    environment = (
        QUICK
        | os.environ
        | (environment or {})
        | {
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "NPROC": "8",
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))),
        }
    )
    process = subprocess.Popen(
        [sys.executable, *args], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        **options,
    )  # fmt: skip
    atexit.register(process.kill)  # of a test that failed
    return process


def finish(process, *, timeout=600):
    """Its output; it must succeed."""
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == 0, err[-3000:]
    return out


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start_many(folder, *args, processes=2, devices=1, own=None):
    """A run of many processes, each on that many devices; `own[i]` are arguments of process i alone."""
    flags = ("--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", str(processes))
    return [
        start(folder, *args, *flags, "--process-id", str(i), *(own[i] if own else ()), devices=devices)
        for i in range(processes)
    ]


def wait_for(run, step, started):
    """Until that step is in the logs; every process must be running."""
    path = run / "metrics.jsonl"
    while all(process.poll() is None for process in started):
        if any(line["step"] >= step for line in read_metrics(path)):
            return
        time.sleep(0.05)
    raise AssertionError([process.communicate()[1][-3000:] for process in started if process.poll() is not None])


def final_state(run, items=("params", "ema", "rest")):
    """All that is in the last checkpoint, from whatever devices, as numpy by name."""
    step = max(int(path.name) for path in (run / "checkpoints").iterdir() if path.name.isdigit())
    leaves = {}
    with ocp.PyTreeCheckpointer() as checkpointer:
        for item in items:
            folder = (run / "checkpoints" / str(step) / item).absolute()
            tree = checkpointer.metadata(folder).item_metadata.tree
            whole = jax.sharding.SingleDeviceSharding(jax.devices()[0])
            how = jax.tree.map(lambda _, whole=whole: ocp.ArrayRestoreArgs(sharding=whole), tree)
            found = checkpointer.restore(folder, restore_args=how)
            leaves |= {item + jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_leaves_with_path(found)}
    is_key = jax.dtypes.prng_key
    return {
        n: np.asarray(jax.random.key_data(x) if jax.numpy.issubdtype(x.dtype, is_key) else x) for n, x in leaves.items()
    }
