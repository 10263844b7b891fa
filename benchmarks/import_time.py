"""`import jaxdiff` against `import jax`: fresh processes in turn, median of 11 each, and the ratio.

python benchmarks/import_time.py
"""

import statistics
import subprocess
import sys
import time


def seconds(module: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
    return time.perf_counter() - started


def main() -> None:
    pairs = [(seconds("jax"), seconds("jaxdiff")) for _ in range(12)][1:]  # the first fills the disk cache
    jax, jaxdiff = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    print(f"import jax {jax:.2f} s, import jaxdiff {jaxdiff:.2f} s, ratio {ratio:.2f} (median of pairs)")


if __name__ == "__main__":
    main()
