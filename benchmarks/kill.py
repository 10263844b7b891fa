"""Kill train.py with -9 at random moments, start it again until it ends: is the run bitwise that of an unbroken one?

    python benchmarks/kill.py [--kills 30] [--steps 200] [--config FILE] [--several 3] [--jobs 2] [--seed 0]

Each kill has a run of its own, at a moment drawn evenly from the seconds that a whole one takes, from its first
instruction to its last: imports, compilation, steps, saves, the last pictures. They are the processor's seconds, where
/proc tells them: those of the clock pass with whatever else the machine does. Every fifth run is killed `--several`
times. After each kill every checkpoint that is listed must be undamaged and restore; at the end everything in the last
one (parameters, averages, optimiser state, key, place in the data) and every logged loss must be bitwise those of the
run that was never killed, and metrics.jsonl must have each step once. Exits 1 on any difference.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxdiff.train.checkpoint import Checkpoints

ROOT = Path(__file__).parents[1]
CONFIG = """
from jaxdiff.config import Config, Log, Optim, Sample, Train, UNet

config = Config(
    model=UNet(channels=8, multipliers=(1,), blocks=1, attention_resolutions=(), groups=4, dropout=0.1),
    optim=Optim(learning_rate=1e-3, warmup=2),
    train=Train(batch_size=16, ema_decay=0.9),
    sample=Sample(steps=3, guidance=1.5),
    log=Log(every=1, samples=10, samples_every=100, checkpoint_every=8, keep=2),
)
"""
START: dict[int, float] = {}
LOOKING = threading.Lock()  # orbax restores in one thread at a time
TIMES = ("seconds", "data_seconds", "images_per_second", "data_wait")  # the only metrics that may differ


def begin(command: Sequence[str], run: Path) -> "subprocess.Popen[bytes]":
    """train.py as a process of its own; what it says goes to a file beside the run."""
    with open(run.with_suffix(".log"), "ab") as log:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *command, "--run", str(run)],
            cwd=run.parent, stdout=log, stderr=log, start_new_session=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip


def finish(command: Sequence[str], run: Path) -> float:
    """Run to the end; the seconds it took."""
    process, last = begin(command, run), 0.0
    while process.poll() is None:
        last = _seconds(process) or last
        time.sleep(0.01)
    if process.returncode:
        raise SystemExit(f"{run} failed:\n{run.with_suffix('.log').read_text(errors='replace')[-3000:]}")
    return last


def _seconds(process: "subprocess.Popen[bytes]") -> float:
    """How long it has lived."""
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return time.monotonic() - START.setdefault(process.pid, time.monotonic())
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # in user and in system mode


def kill_once(command: Sequence[str], run: Path, after: float) -> str | None:
    """Kill it after that many seconds; where it was then, or None if it had ended before."""
    process = begin(command, run)
    while process.poll() is None:
        if _seconds(process) >= after:
            process.send_signal(signal.SIGKILL)
            if process.wait() == -signal.SIGKILL:
                return _where(run)
            break
        time.sleep(0.005)
    if process.returncode:
        raise SystemExit(f"{run} failed:\n{run.with_suffix('.log').read_text(errors='replace')[-3000:]}")
    return None


def _where(run: Path) -> str:
    saving = any((run / "checkpoints").glob("*.orbax-checkpoint-tmp*"))
    lines = _lines(run)
    if not (run / "run.json").exists():
        return "start-up"
    if saving:
        return "save"
    if any((run / "checkpoints" / ".deleted").glob("*")):
        return "deletion"
    if not lines and not listed(run):
        return "compilation"
    if (run / "loss.png").exists():
        return "exit"
    return "steps"


def _lines(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def listed(run: Path) -> list[int]:
    """The steps of a run's checkpoints."""
    if not (run / "checkpoints").is_dir():
        return []
    with Checkpoints(run / "checkpoints", read_only=True) as checkpoints:
        return checkpoints.steps()


def everything(run: Path, step: int) -> dict[str, np.ndarray]:
    """All that a checkpoint holds but its metrics, by name."""
    items = sorted(path.name for path in (run / "checkpoints" / str(step)).iterdir() if path.is_dir())
    of_json = {"data", "description"}
    with ocp.CheckpointManager((run / "checkpoints").absolute()) as manager:
        how = {n: ocp.args.JsonRestore() if n in of_json else ocp.args.StandardRestore() for n in items}
        how.pop("metrics", None)
        restored = dict(manager.restore(step, args=ocp.args.Composite(**how)).items())
    leaves = jax.tree_util.tree_flatten_with_path(restored)[0]
    found = {jax.tree_util.keystr(path): _array(leaf) for path, leaf in leaves}
    return {name: leaf for name, leaf in found.items() if not any(f"'{time}'" in name for time in TIMES)}


def _array(leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)


def unsound(run: Path) -> list[str]:
    """What is wrong with the checkpoints that a killed run lists: each must be undamaged, and restore."""
    wrong = []
    for step in listed(run):
        with Checkpoints(run / "checkpoints", read_only=True) as checkpoints:
            found = checkpoints.damage(step)
            if not (checkpoints.folder / str(step) / "checksums.json").exists():
                found.append("it has no sums")
        wrong += [f"{run.name}: checkpoint {step}: {what}" for what in found]
        try:
            everything(run, step)
        except Exception as error:  # whatever orbax raises
            wrong.append(f"{run.name}: checkpoint {step} does not restore: {error!r:.300}")
    return wrong


def differences(run: Path, whole: Path, steps: int) -> list[str]:
    """In what a run that was killed and run to its end is not the run that never was; nothing if it is, bitwise."""
    wrong = []
    a, b = everything(run, steps), everything(whole, steps)
    if a.keys() != b.keys():
        wrong.append(f"{run.name}: other leaves: {sorted(a.keys() ^ b.keys())[:4]}")
    for name in a.keys() & b.keys():
        if a[name].dtype != b[name].dtype or a[name].tobytes() != b[name].tobytes():
            wrong.append(f"{run.name}: {name} differs")
    logged = _lines(run)
    if [line["step"] for line in logged] != list(range(1, steps + 1)):
        wrong.append(f"{run.name}: metrics.jsonl has the steps {[line['step'] for line in logged]}")

    def numbers(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{name: line[name] for name in line if name not in TIMES and "gib" not in name} for line in lines]

    if numbers(logged) != numbers(_lines(whole)):
        wrong.append(f"{run.name}: the logged metrics differ")
    return wrong


def trial(
    command: Sequence[str], run: Path, whole: Path, *, steps: int, lasts: float, kills: int, seed: str
) -> tuple[list[str], list[str]]:
    """Kill a run that many times, run it to the end: where it was killed, and what is wrong."""
    rng, killed, wrong, begun = random.Random(seed), [], [], 0
    while len(killed) < kills:
        where = kill_once(command, run, rng.uniform(0, lasts))
        if where is None:  # it was faster than the first one, or had little left to do: again, from the beginning
            if killed:
                break
            begun += 1
            run = run.with_name(f"{run.name.split('_')[0]}_{begun}")
            continue
        killed.append(where)
        with LOOKING:
            wrong += unsound(run)
    finish(command, run)
    with LOOKING:
        return killed, wrong + unsound(run) + differences(run, whole, steps)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30, help="runs that are killed")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--several", type=int, default=3, help="kills of every fifth run")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--config", type=Path, help="default: a U-Net of one level on the digits")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(args.jobs) as pool:
        folder = Path(name)
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "cache"))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        config = (args.config or folder / "config.py").absolute()
        if args.config is None:
            config.write_text(CONFIG)
        command = ("--config", str(config), "--train.steps", str(args.steps), "--log.every", "1")
        finish(command, folder / "first")  # compiles, for all
        lasts = finish(command, folder / "whole")
        wrong = differences(folder / "first", folder / "whole", args.steps)
        print(f"an unbroken run of {args.steps} steps takes {lasts:.1f} s; {args.kills} runs to kill", flush=True)

        def one(i: int) -> tuple[list[str], list[str]]:
            return trial(
                command, folder / f"killed{i}", folder / "whole", steps=args.steps, lasts=lasts,
                kills=args.several if i % 5 == 4 else 1, seed=f"{args.seed} {i}",
            )  # fmt: skip

        places: Counter[str] = Counter()
        survived: Counter[str] = Counter()
        for i, (killed, found) in enumerate(pool.map(one, range(args.kills))):
            places.update(killed)
            survived.update([] if found else killed)
            wrong += found
            passed = time.monotonic() - begun
            print(
                f"{i + 1:4} killed in: {', '.join(killed):24} {'; '.join(found) or 'same'} ({passed:.0f} s)", flush=True
            )
    print("\n| killed in | kills | survived |\n|---|---|---|")
    for where in ("start-up", "compilation", "steps", "save", "deletion", "exit"):
        print(f"| {where} | {places[where]} | {survived[where]} |")
    print(f"| all | {places.total()} | {survived.total()} |\n\n{time.monotonic() - begun:.0f} s")
    for line in wrong:
        print(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
