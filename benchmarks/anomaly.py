"""How well do the scores of `jaxdiff anomaly` tell a class that a network was not trained on? AUROC, class by class.

    python benchmarks/anomaly.py --data digits --out runs/anomaly
    python benchmarks/anomaly.py --data fashion --fashion FOLDER --out runs/anomaly     # of the IDX files
    python benchmarks/anomaly.py --data digits --protocol one_normal --out runs/anomaly

Ten networks are trained, each without one class (one_anomalous), or each on one alone (one_normal), and score test
images of all ten, which none of them has seen. What is done already is kept, so that it can be stopped and run again.

z: standardised by training images, `metrics.Normal.z`. Baselines, in pixels: the distance to the nearest training
image, and the error of PCA with the components that have 90 % of the variance. Nothing was chosen by the test images
but what is said so in the documentation.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.decomposition import PCA

from jaxdiff import build, runs
from jaxdiff.build import Spec
from jaxdiff.cli.flags import use_recommended_flags
from jaxdiff.config import Config, Data
from jaxdiff.data import ArraySource, digits, in_order
from jaxdiff.metrics import Normal, auroc, nearest
from jaxdiff.train.evaluate import Program, every_term, pmapped

ROOT = Path(__file__).parents[1]
PROTOCOLS = ("one_anomalous", "one_normal")


@dataclasses.dataclass(frozen=True)
class Set:
    """What is trained on.

    Attributes:
      config: in configs/.
      flags: of train.py besides.
      steps: of each network, by protocol.
      normal: so many training images say what is usual.
      draws: of the noise, at each of eight levels; a quarter of it where five steps are made of each.
    """

    config: str
    flags: str
    steps: dict[str, int]
    normal: int = 500
    draws: int = 8


SETS = {
    "digits": Set("digits", "--sample.guidance 1", {"one_anomalous": 400, "one_normal": 200}),
    "fashion": Set("fashion_mnist_small", "--model.multipliers 1 2", {"one_anomalous": 600, "one_normal": 300}, 300, 4),
}


def images(data: str, folder: Path | None) -> tuple[ArraySource, ArraySource]:
    """For training, and for the test: of the digits 500, of Fashion-MNIST 1,000 of its test images, at 14x14."""
    if data == "digits":
        order, every = np.random.default_rng(0).permutation(len(digits())), digits()
        return some(every, np.sort(order[500:])), some(every, np.sort(order[:500]))
    if folder is None:
        raise SystemExit("--fashion: which folder has the IDX files?")
    sets = [build.source(Data(name=str(next(folder.glob(f"{part}-images*"))), size=14)) for part in ("train", "t10k")]
    return some(sets[0], np.arange(len(sets[0]))), some(sets[1], np.arange(1000))


def some(source: Any, index: np.ndarray) -> ArraySource:
    found = source.gather(index)
    return ArraySource(found["image"], found["label"])


def trained(folder: Path, own: np.ndarray, chosen: Set, steps: int) -> Path:
    """The run of a network of these images, which is made or gone on with."""
    run = folder / f"run{steps}"
    if runs.last_step(run) < steps:
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(folder / "train.npz", images=own)
        flags = f"--train.steps {steps} --log.checkpoint-every {steps} --log.samples 0 --log.every 100 {chosen.flags}"
        command = [
            sys.executable, str(ROOT / "train.py"), "--config", str(ROOT / "configs" / f"{chosen.config}.py"),
            "--data.name", str(folder / "train.npz"), "--run", str(run), *flags.split(),
        ]  # fmt: skip
        path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": path})
    return run


def programs(config: Config, spec: Spec, draws: int) -> dict[str, Program]:
    """The errors of images, by what they are of: compiled once for all networks."""

    def steps(num: int) -> Config:
        return dataclasses.replace(config, sample=dataclasses.replace(config.sample, steps=num))

    levels = build.anomaly.noise_levels(config)
    return {
        "profile": pmapped(build.anomaly.profile(config, spec, levels, draws=draws)),
        "reconstruction, 1 step": pmapped(build.anomaly.reconstruction(steps(1), spec, levels, draws=draws)),
        "reconstruction, 5 steps": pmapped(build.anomaly.reconstruction(steps(5), spec, levels, draws=draws // 4)),
        "bits/dim": pmapped(build.anomaly.bits(config, spec, steps=100)),
    }


def scores(known: dict[str, Program], params: Any, normal: np.ndarray, test: np.ndarray) -> dict[str, np.ndarray]:
    """All scores of the test images, by name."""
    found = {}
    for name, program in known.items():
        inputs = (params, jnp.full(8, 1 / 8)) if name.startswith("rec") else params

        def curve(x: np.ndarray, seed: int, program: Program = program, inputs: Any = inputs) -> np.ndarray:
            batches = in_order(ArraySource(x), batch_size=250)
            return every_term(inputs, batches, jax.random.key(seed), program)["curve"]

        mine = curve(test, 0)
        if name == "bits/dim":
            found[name] = mine[:, 0]
            continue
        usual, logs = Normal.of(np.log(curve(normal, 1))), np.log(mine)
        found[f"{name}: mean error"] = mine.mean(1)
        found[f"{name}: z"] = usual.z(logs)
        found[f"{name}: Mahalanobis"] = usual.mahalanobis(logs)
    return found


def baselines(own: np.ndarray, test: np.ndarray) -> dict[str, np.ndarray]:
    x, y = (images.reshape(len(images), -1) / 127.5 - 1 for images in (own, test))
    model = PCA(0.9, svd_solver="full").fit(x)
    lost = np.square(y - model.inverse_transform(model.transform(y))).sum(1)
    return {"nearest neighbour in pixels": nearest(y, x)[0][:, 0], "PCA": lost}


def markdown(areas: dict[str, dict[str, float]]) -> str:
    """A row for each score, a column for each class."""
    classes = sorted(areas)
    lines = ["| score | " + " | ".join(classes) + " | mean |", "|---|" + "---|" * (len(classes) + 1)]
    for name in areas[classes[0]]:
        values = [areas[c][name] for c in classes]
        lines.append(f"| {name} | " + " | ".join(f"{v:.2f}" for v in values) + f" | **{np.mean(values):.3f}** |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=SETS, default="digits")
    parser.add_argument("--fashion", type=Path, help="the folder of Fashion-MNIST's four IDX files")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="one_anomalous")
    parser.add_argument("--steps", type=int, help="of each network; default a minute or two of two CPU cores")
    parser.add_argument("--classes", type=int, nargs="+", default=range(10))
    parser.add_argument("--out", type=Path, required=True, help="a folder: data, runs, results")
    args = parser.parse_args()

    chosen, started = SETS[args.data], time.perf_counter()
    steps = args.steps or chosen.steps[args.protocol]
    train, test = images(args.data, args.fashion)
    compiled: dict[str, Program] = {}
    areas: dict[str, dict[str, float]] = {}
    for c in args.classes:
        folder = args.out / args.data / args.protocol / str(c)
        own = train.images[(train.labels == c) == (args.protocol == "one_normal")]
        run = trained(folder, own, chosen, steps)
        result = folder / f"auroc{steps}.json"
        if not result.exists():
            config, spec = runs.load_run(run)
            compiled = compiled or programs(config, spec, chosen.draws)
            _, params = runs.load_weights(run, config, spec)
            normal = own[np.random.default_rng(0).permutation(len(own))[: chosen.normal]]
            found = scores(compiled, params, normal, test.images) | baselines(own, test.images)
            anomalous = (test.labels == c) == (args.protocol == "one_anomalous")
            result.write_text(json.dumps({name: auroc(score, anomalous) for name, score in found.items()}, indent=1))
        areas[str(c)] = json.loads(result.read_text())
        print(f"class {c}: {areas[str(c)]}", flush=True)
    print(
        f"\n{args.data}, {args.protocol}, {steps} steps, {len(test)} test images; {time.perf_counter() - started:.0f} s"
    )
    print(markdown(areas))


if __name__ == "__main__":
    use_recommended_flags()
    main()
