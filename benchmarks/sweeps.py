"""What guidance, temperature and truncation give in quality and cost in diversity, on the default run's digits.

    python train.py --config configs/digits.py
    python benchmarks/sweeps.py --run runs/digits --out runs/sweeps

Each setting is swept alone, from the network's own distribution (guidance 1, temperature 1, no truncation): 1,797
samples, with the data's labels, against the data, in the features of a classifier of them, by `jaxdiff evaluate`. The
start's scales are the standard deviations of the truncated noises. Results that are there are not made again. Draws
recall and precision (docs/tradeoff.png), and the distance of two samples of one class and precision, by `jaxdiff plot
tradeoff`.

Result, 2 CPU cores that others shared (40 minutes): see docs/tradeoff.png. At a recall near 0.6: precision 0.994 by
ddpm's temperature 0.8, 0.989 by truncation at 1.5, 0.985 by the start's scale 0.74, 0.978 by guidance 2, which lowers
it from there on. Truncation and the scale of its deviation are alike in every number.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

SWEEPS: dict[str, tuple[str, list[float]]] = {
    "guidance": ("ddim", [1, 1.5, 2, 3, 5]),
    "temperature": ("ddpm", [0.5, 0.7, 0.8, 0.9, 1, 1.1]),
    "truncation": ("ddim", [0.5, 1, 1.5, 2, 3]),
    "start_scale": ("ddim", [0.28, 0.54, 0.74, 0.88, 1.1]),
}
SHOWN = ["precision", "recall", "diversity", "diversity_in_class", "accuracy", "frechet"]
PLOTS = {"recall": "tradeoff.png", "diversity_in_class": "diversity.png"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/digits"))
    parser.add_argument("--out", type=Path, default=Path("runs/sweeps"), help="folder of results and plots")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--num", type=int, default=1797, help="samples")
    args = parser.parse_args()

    args.out.mkdir(parents=True, exist_ok=True)
    started, files = time.perf_counter(), []
    print(f"{'':24}" + "".join(f"{name:>20}" for name in SHOWN))
    for name, (sampler, values) in SWEEPS.items():
        for value in values:
            file = args.out / f"{name}_{value:g}.json"
            settings = {"guidance": 1, name: value}
            if not file.exists():
                flags = [word for key, x in settings.items() for word in (f"--{key.replace('_', '-')}", f"{x:g}")]
                made = ["--run", args.run, "--sampler", sampler, "--steps", args.steps, "--num", args.num, *flags]
                metrics = ["--metrics", "frechet", "manifold", "diversity", "accuracy"]
                jaxdiff("evaluate", *made, "--features", "classifier", *metrics, "--out", file)
            found = json.loads(file.read_text())["metrics"]
            print(f"{name:12} {value:<11g}" + "".join(f"{found[f'{x}_classifier']:20.4f}" for x in SHOWN), flush=True)
            files.append(file)
    real = [f"{found[f'{x}_real_classifier']:.4f}" if x.startswith("diversity") else "" for x in SHOWN]
    print(f"{'the data':24}" + "".join(f"{x:>20}" for x in real))
    for x, file in PLOTS.items():
        jaxdiff("plot", "tradeoff", *files, "--x", x, "--y", "precision", "--out", args.out / file)
    print(f"{time.perf_counter() - started:.0f} s")


def jaxdiff(*words: object) -> None:
    """In a process of its own, so that the result says its command."""
    done = subprocess.run([sys.executable, "-m", "jaxdiff", *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()
