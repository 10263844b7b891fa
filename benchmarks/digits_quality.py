"""How good are the default run's digits? Class accuracy and Frechet distance, against the real ones.

    python train.py --config configs/digits.py
    python benchmarks/digits_quality.py --run runs/digits

Accuracy: 1,000 samples, 100 a class; an RBF support vector classifier fitted on four fifths of the real digits says
which class each shows. Distance: Frechet distance of Gaussians fitted to raw pixels (levels 0..16), 1,797 samples
with the data's labels against the data, over the same between random halves of the data (mean of 20 splits; two
halves of 898 differ by chance alone, so a ratio below 1 is possible).
"""

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

from jaxdiff import metrics, runs, sampling
from jaxdiff.config import Config


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Of rows `[N, D]`."""
    return metrics.frechet_distance(metrics.moments(a), metrics.moments(b))


def with_dtype(config: Config, dtype: str) -> Config:
    """The same, computing in `dtype`."""
    return dataclasses.replace(config, model=dataclasses.replace(config.model, dtype=dtype))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/digits"))
    parser.add_argument("--guidance", type=float, help="default: the run's")
    parser.add_argument("--steps", type=int, help="default: the run's")
    parser.add_argument("--sampler", help="default: the run's")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="of the computation; default: the run's")
    parser.add_argument("--against-float32", action="store_true", help="say also how far its pictures are from these")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    data = load_digits()
    real, target = data.images.reshape(-1, 64), data.target
    config, spec = runs.load_run(args.run)
    given = {name: value for name in ("guidance", "steps", "sampler") if (value := getattr(args, name)) is not None}
    config = dataclasses.replace(config, sample=dataclasses.replace(config.sample, **given))
    config = with_dtype(config, args.dtype or config.model.dtype)
    step, params = runs.load_weights(args.run, config, spec)
    program = sampling.pmapped(sampling.generator(config, spec))

    def digits(labels: np.ndarray, stream: int, program: Any = program) -> np.ndarray:
        key = jax.random.fold_in(jax.random.key(args.seed), stream)
        parts = sampling.in_batches(program, config, params, key, labels.astype(np.int32), num=len(labels), batch=256)
        return np.rint(np.concatenate(list(parts)).reshape(-1, 64) * (16 / 255))

    started = time.perf_counter()
    labels = np.repeat(np.arange(10), 100)
    samples, like_data = digits(labels, 0), digits(target, 1)
    seconds = time.perf_counter() - started

    x, x_held, y, y_held = train_test_split(real, target, test_size=0.2, random_state=0, stratify=target)
    classifier = SVC(kernel="rbf", gamma=0.001, C=10).fit(x, y)
    print(
        f"run {args.run}, step {step}, {config.sample.sampler} {config.sample.steps} steps, "
        f"{config.model.dtype}, seed {args.seed}"
    )
    print(f"guidance scale                          {config.sample.guidance}")
    print(f"classifier on held-out real digits      {100 * classifier.score(x_held, y_held):.2f} %")
    print(f"samples of the class asked for          {100 * classifier.score(samples, labels):.2f} %")

    rng = np.random.default_rng(0)
    halves = [frechet_distance(real[p[:898]], real[p[898:]]) for p in (rng.permutation(len(real)) for _ in range(20))]
    distance = frechet_distance(like_data, real)
    print(f"Frechet distance in pixels, halves       {np.mean(halves):.2f} (20 splits, {np.std(halves):.2f} apart)")
    print(f"Frechet distance in pixels, samples     {distance:.2f}")
    print(f"ratio                                   {distance / np.mean(halves):.2f}")
    if args.against_float32:
        other = sampling.pmapped(sampling.generator(with_dtype(config, "float32"), spec))
        levels = np.abs(samples - digits(labels, 0, other))
        far = 100 * (levels > 1).mean()
        print(f"levels (0..16) from float32's         mean {levels.mean():.3f}, {far:.2f} % by more than one")
    print(f"{len(samples) + len(like_data)} samples in {seconds:.0f} s on {jax.devices()[0].device_kind}")


if __name__ == "__main__":
    main()
