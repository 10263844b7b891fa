"""Does a classifier of few images gain by pictures of a diffusion model that was trained on those few? Digits.

    python benchmarks/augmentation.py --out runs/augmentation

n images of each class are drawn from scikit-learn's digits; a class-conditional network is trained on them alone, and
makes 1, 4 and 16 times as many (`jaxdiff augment`). Classifiers (logistic regression, and a support vector machine with
an RBF kernel) are fitted on the images, with and without, and on the images moved by a pixel each way, or with noise
upon them, and are scored on 500 that neither they nor any network has seen. Seeds draw other images and train another
network. What is done already is kept, so that it can be stopped and run again.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from jaxdiff import runs
from jaxdiff.data import digits

ROOT = Path(__file__).parents[1]
TIMES = (1, 4, 16)
CLASSIFIERS: dict[str, Callable[[], Any]] = {
    "logistic regression": lambda: LogisticRegression(max_iter=5000),
    "RBF SVM": lambda: SVC(C=10, gamma="scale"),
}


def split(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of n training images of each class, and of the 500 test images, which are the same for all seeds."""
    order = np.random.default_rng(0).permutation(len(digits()))
    rest = np.random.default_rng([seed, 1]).permutation(order[500:])
    labels = digits().labels[rest]
    return np.concatenate([rest[labels == c][:n] for c in range(10)]), order[:500]


def made(folder: Path, index: np.ndarray, steps: int, seed: int) -> np.ndarray:
    """16 times as many pictures as there are images, `[16 n, 10, 8, 8]`: the first n rows are the first 1x."""
    n, out, run = len(index) // 10, folder / "made.npz", folder / "run"
    env = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    if runs.last_step(run) < steps:
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(folder / "train.npz", images=digits().images[index], labels=digits().labels[index])
        flags = f"--seed {seed} --train.steps {steps} --log.checkpoint-every {steps} --log.samples 0 --log.every 100"
        config = ["--config", str(ROOT / "configs" / "digits.py"), "--data.name", str(folder / "train.npz")]
        subprocess.run(
            [sys.executable, str(ROOT / "train.py"), *config, "--run", str(run), *flags.split()], check=True, env=env
        )
    if not out.exists():
        flags = f"--per-class {TIMES[-1] * n} --seed {seed} --steps 20 --guidance 1"
        command = ["augment", "--run", str(run), "--out", str(out), *flags.split()]
        subprocess.run([sys.executable, "-m", "jaxdiff", *command], check=True, env=env)
    with np.load(out) as arrays:
        return arrays["images"][arrays["made"]].reshape(10, TIMES[-1] * n, 8, 8).swapaxes(0, 1)


def moved(images: np.ndarray) -> np.ndarray:
    """By one pixel each way, `[4 N, 8, 8]`."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    return np.concatenate([padded[:, y : y + 8, x : x + 8] for y, x in ((0, 1), (2, 1), (1, 0), (1, 2))])


def sets(images: np.ndarray, labels: np.ndarray, pictures: np.ndarray, seed: int) -> dict[str, tuple[Any, Any]]:
    """What classifiers are fitted on, by name."""
    n = len(images) // 10
    noise = np.random.default_rng(seed).normal(0, 25, (4, *images.shape))
    noisy = np.clip(images + noise, 0, 255).reshape(-1, 8, 8)
    some = {f"{k}x made": pictures[: k * n].reshape(-1, 8, 8) for k in TIMES}
    shown = {f"{k}x made": np.tile(np.arange(10), k * n) for k in TIMES}
    four = np.tile(labels, 4)
    found = {"the images": (images, labels)}
    found |= {f"+ {name}": (np.concatenate([images, x]), np.append(labels, shown[name])) for name, x in some.items()}
    found["+ 4x noisy"] = np.concatenate([images, noisy]), np.append(labels, four)
    found["+ 4x moved"] = np.concatenate([images, moved(images)]), np.append(labels, four)
    both, which = np.concatenate([images, some["4x made"]]), np.append(labels, shown["4x made"])
    found["+ 4x made, all of it moved"] = np.concatenate([both, moved(both)]), np.tile(which, 5)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[5, 10, 20, 50], help="images of each class")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300, help="of each network")
    parser.add_argument("--out", type=Path, required=True, help="a folder: runs, pictures, results")
    args = parser.parse_args()

    test = split(1, 0)[1]
    x_test, y_test = digits().images[test].reshape(500, 64) / 255, digits().labels[test]
    found: dict[str, dict[int, list[float]]] = {}
    for n in args.n:
        for seed in range(args.seeds):
            index, _ = split(n, seed)
            pictures = made(args.out / f"{n}_{seed}_{args.steps}", index, args.steps, seed)
            some = sets(digits().images[index, ..., 0], digits().labels[index], pictures, seed)
            for classifier, make in CLASSIFIERS.items():
                for name, (x, y) in some.items():
                    right = make().fit(x.reshape(len(x), 64) / 255, y).score(x_test, y_test)
                    found.setdefault(f"{classifier}, {name}", {}).setdefault(n, []).append(100 * right)
        (args.out / "accuracy.json").write_text(json.dumps(found, indent=1))
    print("| fitted on | " + " | ".join(f"n = {n}" for n in args.n) + " |\n|---|" + "---|" * len(args.n))
    for name, by_n in found.items():
        plain = found[f"{name.split(', ')[0]}, the images"]
        cells = []
        for n in args.n:
            mean, more = np.mean(by_n[n]), np.array(by_n[n]) - np.array(plain[n])
            gain = f" ({more.mean():+.1f} ± {more.std(ddof=1) / np.sqrt(args.seeds):.1f})" if more.any() else ""
            cells.append(f"{mean:.1f}{gain}")
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
