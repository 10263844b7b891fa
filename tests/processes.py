"""The real scripts as processes."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def start(folder, *args, script="train.py", devices=1, environment=None, **options):
    """A script as a process, on that many forced CPU devices."""
    environment = (
        os.environ
        | (environment or {})
        | {
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "NPROC": "8",
            "PYTHONPATH": str(ROOT),
        }
    )
    return subprocess.Popen(
        [sys.executable, str(ROOT / script), *args],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err[-3000:]
    return out
