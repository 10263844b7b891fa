"""What the four scripts of two moons share that is no diffusion: data, command line, picture and distance.

python examples/two_moons.py [--steps 3000] [--out two_moons.png]    runs all four, and draws them side by side.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import make_moons

from jaxdiff.testing import sliced_wasserstein, sliced_wasserstein_null

SCRIPTS = {"linen": "Flax linen", "nnx": "Flax NNX", "equinox": "Equinox", "jax": "JAX alone"}


def moons(n, *, seed):
    """Points of two half circles of radius 1, noise of standard deviation 0.08 on them; float32 [n, 2], centred."""
    points, _ = make_moons(n, noise=0.08, random_state=seed)
    return jnp.asarray(points - [0.5, 0.25], jnp.float32)


def options(script):
    """The command line of a script."""
    parser = argparse.ArgumentParser(description=f"{Path(script).stem}: train on two moons, sample, draw both.")
    parser.add_argument("--steps", type=int, default=3000, help="updates")
    parser.add_argument("--out", type=Path, default=Path(f"{Path(script).stem}.png"), help="the picture, a .png")
    given = parser.parse_args()
    if given.steps < 1:
        parser.error(f"--steps {given.steps}: expected 1 or more")
    if given.out.suffix != ".png" or not given.out.parent.is_dir():
        parser.error(f"--out {given.out}: expected a name that ends in .png, in a folder that there is")
    return given


def distance(samples):
    """The sliced Wasserstein distance of samples [n, 2] to as many points of the data, the mean over 20 draws of them;
    and that of such points to others, 100 pairs of them, [100]."""
    fresh = moons(100_000, seed=1)  # make_moons spaces its points evenly; drawn from many, they are independent

    def points(key, n):
        return jax.random.choice(key, fresh, (n,))

    def once(key):
        lines, key = jax.random.split(key)
        return sliced_wasserstein(lines, samples, points(key, n), projections=16)

    keys, n = jax.random.split(jax.random.key(2), 20), len(samples)
    null = sliced_wasserstein_null(jax.random.key(3), points, n=n, repeats=100, projections=16)
    return jax.lax.map(once, keys).mean(), null


def draw(path, panels):
    """A scatter plot of each of `{name: points [n, 2]}`, side by side."""
    figure, axes = plt.subplots(1, len(panels), figsize=(2.6 * len(panels), 1.9), layout="constrained")
    for ax, (name, points) in zip(axes, panels.items()):
        ax.scatter(*np.asarray(points[:2000]).T, s=1, linewidths=0, color="C0" if name == "data" else "C1")
        ax.set(title=name, xlim=(-2, 2), ylim=(-1.3, 1.3), xticks=[], yticks=[], aspect="equal")
    figure.savefig(path, dpi=100)


def finish(samples, given):
    """Say how far the samples are from the data, draw both, and leave the samples beside the picture."""
    found, null = distance(samples)
    middle, high = np.quantile(null, [0.5, 0.99])
    print(f"distance to the data {found:.3f}; of data to data {middle:.3f}, and {high:.3f} at most in 99 of 100 draws")
    draw(given.out, {"data": moons(2000, seed=0), "samples": samples})
    np.savez(given.out.with_suffix(".npz"), samples=samples)


def main():
    """Run the four scripts, with their pictures beside the one of all."""
    given = options(__file__)
    panels = {"data": moons(2000, seed=0)}
    for name, title in SCRIPTS.items():
        script = Path(__file__).with_name(f"two_moons_{name}.py")
        out = given.out.with_name(f"{script.stem}.png")
        start = time.perf_counter()
        command = [sys.executable, script, "--steps", str(given.steps), "--out", out]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
        print(f"{script.name}: {time.perf_counter() - start:.0f} s, {said}", flush=True)
        panels[title] = np.load(out.with_suffix(".npz"))["samples"]
    draw(given.out, panels)


if __name__ == "__main__":
    main()
