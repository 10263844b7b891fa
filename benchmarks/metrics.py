"""Seconds and memory of the metrics of 50,000 samples with 2048 features each, as FID's: random ones.

    python benchmarks/metrics.py                  # moments and the Frechet distance
    python benchmarks/metrics.py --all            # also KID, Inception Score, and neighbours of 10,000

The memory is the most that the process had, the features themselves (float32) and the libraries included.
"""

import argparse
import resource
import time
from collections.abc import Callable

import numpy as np

from jaxdiff import metrics


def timed(name: str, call: Callable[[], object]) -> object:
    started = time.perf_counter()
    found = call()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{name:28} {time.perf_counter() - started:6.1f} s    peak so far {peak:.2f} GiB", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=50_000)
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--all", action="store_true")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    x = timed("drawing them", lambda: rng.standard_normal((args.n, args.features), np.float32))
    a = timed("moments", lambda: metrics.moments(x))
    rows = rng.permutation(args.n)[: args.n // 2]
    b = timed("moments of half of them", lambda: metrics.moments(x[rows]))
    timed("frechet_distance", lambda: metrics.frechet_distance(a, b))
    if args.all:
        half = args.n // 2
        timed("kernel_distance", lambda: metrics.kernel_distance(x[:half], x[half:]))
        timed("inception_score", lambda: metrics.inception_score(x[:, :1000]))
        timed("manifold", lambda: metrics.manifold(x[:10_000], x[-10_000:]))


if __name__ == "__main__":
    main()
