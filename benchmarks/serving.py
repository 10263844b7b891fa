"""An exported run against the program of sample.py, in turn A B A B in one process: size, loading, first call, speed.

python benchmarks/serving.py --run runs/digits --batch 64
python benchmarks/serving.py --run runs/digits --batch 64 --sampler dpm_solver++ --steps 20

Both make the same pictures, which is checked; all compile in this process, without a cache. A first call compiles; that
of sample.py's program also traces the network, which was done for the other when it was exported.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from jaxdiff import serving
from jaxdiff.cli.flags import use_recommended_flags
from jaxdiff.cli.pictures import Pictures, prepare
from jaxdiff.export import artefact, write
from jaxdiff.sampling import generator, in_batches, pmapped


def seconds(call: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    started = time.perf_counter()
    found = call()
    return time.perf_counter() - started, found


def measure(args: argparse.Namespace) -> None:
    made = prepare(Pictures(run=args.run, sampler=args.sampler, steps=args.steps, batch=args.batch), args.batch)
    name, params = made.load()
    program = pmapped(generator(made.config, made.spec))

    def sampled() -> np.ndarray:
        key, batch = jax.random.key(0), args.batch
        return next(in_batches(program, made.config, params, key, made.labels, num=batch, batch=batch))

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run.jaxdiff"
        started = time.perf_counter()
        done = artefact(made.config, made.spec, params, batch=args.batch, platforms=args.platforms)
        write(out, done)
        exporting, size = time.perf_counter() - started, out.stat().st_size
        started = time.perf_counter()
        served = serving.load(out)
        loading = time.perf_counter() - started
    first_served, theirs = seconds(lambda: served(args.batch))
    first_sampled, ours = seconds(sampled)
    levels = np.abs(theirs.astype(int) - ours).max()
    rounds = [(seconds(lambda: served(args.batch))[0], seconds(sampled)[0]) for _ in range(args.rounds)]
    a, b = (statistics.median(column) for column in zip(*rounds, strict=True))
    ratios = [own / other for other, own in rounds]
    manifest = done.manifest
    print(
        f"{args.run}, {name}, {manifest['sampler']} of {manifest['steps']} steps "
        f"({manifest['network_evaluations']} calls), for {', '.join(manifest['platforms'])}\n"
        f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, jax {jax.__version__}, load {os.getloadavg()[0]:.1f}"
        f", XLA_FLAGS {os.environ.get('XLA_FLAGS') or 'none'}\n"
        f"file {size / 2**20:.2f} MiB: weights {len(done.weights) / 2**20:.2f}, "
        f"program {len(done.program) / 2**20:.2f}\n"
        f"export {exporting:.1f} s, load {loading:.2f} s\n"
        f"first call of {args.batch}: exported {first_served:.1f} s, sample.py's {first_sampled:.1f} s, ratio "
        f"{first_sampled / first_served:.2f}\n"
        f"later: exported {args.batch / a:.1f} img/s, sample.py's {args.batch / b:.1f} img/s, ratio "
        f"{statistics.median(ratios):.2f} (of {args.rounds} rounds, {min(ratios):.2f} to {max(ratios):.2f})\n"
        f"the pictures differ by at most {levels} of 255"
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="a folder of train.py")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--sampler", default=None, help="default the run's")
    parser.add_argument("--steps", type=int, default=None, help="default the run's")
    parser.add_argument("--platforms", nargs="+", default=["cpu", "cuda", "tpu"])
    parser.add_argument("--rounds", type=int, default=7)
    use_recommended_flags()
    measure(parser.parse_args(argv))


if __name__ == "__main__":
    main()
