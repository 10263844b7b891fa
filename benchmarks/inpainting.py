"""How good is inpainting? PSNR, SSIM and a perceptual distance to the images, against fills that know no images.

    pip install -e '.[features]'
    python train.py --config configs/fashion_mnist_small.py --data.name TRAIN --run runs/fashion_v
    python benchmarks/inpainting.py --run runs/fashion_v --images TEST --out FOLDER

TRAIN and TEST are Fashion-MNIST's IDX files. `jaxdiff inpaint` paints the first test images, under each mask by each
method; the steps are the run's. Printed are means over the images with their standard errors, for one draw and for the
mean of the draws; every picture is rounded to 256 levels first. What is painted already is kept, so take another folder
for another run.

The perceptual distance has the form of LPIPS (Zhang et al. 2018, arXiv 1801.03924, eq. 1) with all weights 1, what they
call a network's features uncalibrated, on EfficientNet-Lite0, which comes by pip: over the five resolutions l

    d(x, y) = sum_l mean_hw sum_c (u_lc(x) - u_lc(y))^2

with each position's vector of channels divided by its length. It is not LPIPS, so compare it within this table alone;
the last row, each image beside the next one, says what is far.
"""

import argparse
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import build, metrics
from jaxdiff.cli import main as jaxdiff
from jaxdiff.cli.inpaint import known_of
from jaxdiff.config import Data
from jaxdiff.features import clean_bicubic
from jaxdiff.features.base import rgb
from jaxdiff.models.efficientnet import STAGES
from jaxdiff.pixels import from_uint8, to_uint8
from jaxdiff.pretrained import load_efficientnet_lite0
from jaxdiff.typing import Array, PyTree

METHODS = {
    "replacement": ["--method", "replacement"],
    "RePaint, j = 10, r = 10": ["--method", "repaint"],
    "moments, 5 iterations": ["--method", "moments"],
}
Measure = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Of uint8 images `[B, H, W, C]` and as many others, `[B]`."""


def perceptual() -> Measure:
    """The distance above."""
    network, params = load_efficientnet_lite0()
    strides = [first for _, _, first, _, _ in STAGES[1:]] + [2]  # of the stage behind each
    lasts = accumulate(blocks for blocks, *_ in STAGES)
    ends = [f"block_{last - 1}" for last, stride in zip(lasts, strides, strict=True) if stride == 2]

    def layers(params: PyTree, images: Array) -> list[Array]:
        x = (clean_bicubic(rgb(images), 224) - 127) / 128
        _, kept = network.apply(params, x, capture_intermediates=lambda module, _: module.name in ends)
        found = [kept["intermediates"][name]["__call__"][0] for name in ends]
        return [h / (jnp.linalg.norm(h, axis=-1, keepdims=True) + 1e-10) for h in found]

    @jax.jit
    def distance(params: PyTree, x: Array, y: Array) -> Array:
        pairs = zip(layers(params, x), layers(params, y), strict=True)
        return jnp.asarray(sum(jnp.square(u - v).sum(-1).mean((1, 2)) for u, v in pairs))

    def measure(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        pieces = range(0, len(x), 20)
        return np.concatenate([np.asarray(distance(params, x[i : i + 20], y[i : i + 20])) for i in pieces])

    return measure


def painted(args: argparse.Namespace, mask: str, name: str) -> np.ndarray:
    """What the command makes, uint8 `[N, draws, H, W, C]`."""
    out = args.out / f"{mask}_{name.split(',')[0]}_{args.num}x{args.draws}.npz".replace(":", "_")
    if not out.exists():
        given = ["--run", args.run, "--images", args.images, "--num", str(args.num), "--draws", str(args.draws)]
        jaxdiff(["inpaint", *given, "--mask", mask, *METHODS[name], "--out", str(out)])
    with np.load(out) as arrays:
        images: np.ndarray = arrays["images"]
    return images.reshape(args.num, args.draws, *images.shape[1:])


def harmonic(images: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Holes as smooth as they can be: each pixel the mean of its four neighbours (Laplace's equation, by Jacobi)."""
    x: np.ndarray = images * known
    for _ in range(2000):
        wide = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
        around = wide[:, 2:, 1:-1] + wide[:, :-2, 1:-1] + wide[:, 1:-1, 2:] + wide[:, 1:-1, :-2]
        x = np.where(known > 0, images, around / 4)
    return x


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="of a network of these images, with or without labels")
    parser.add_argument("--images", required=True, help="images that it was not trained on")
    parser.add_argument("--num", type=int, default=100, help="the first so many, default %(default)s")
    parser.add_argument("--draws", type=int, default=2, help="of each, default %(default)s")
    parser.add_argument("--masks", nargs="+", default=["center:12", "random:0.5"], help="of jaxdiff inpaint")
    parser.add_argument("--out", type=Path, required=True, help="a folder, for the pictures")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    real = build.source(Data(name=args.images)).gather(np.arange(args.num))["image"]
    measures: dict[str, Measure] = {
        "PSNR, dB": lambda x, y: np.asarray(metrics.psnr(from_uint8(x), from_uint8(y))),
        "SSIM": lambda x, y: np.asarray(metrics.ssim(from_uint8(x), from_uint8(y))),
        "perceptual distance": perceptual(),
    }
    lines = [f"| mask | painted by | {' | '.join(measures)} |", "|---|---|" + "---|" * len(measures)]

    def row(mask: str, name: str, pictures: np.ndarray) -> None:
        found = [measure(pictures, real) for measure in measures.values()]
        cells = [
            f"{x.mean():.{d}f} ± {x.std(ddof=1) / len(x) ** 0.5:.{d}f}" for x, d in zip(found, (2, 3, 3), strict=True)
        ]
        lines.append(f"| {mask} | {name} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)

    for mask in args.masks:
        known, images = known_of(mask, real.shape[1:], seed=0), from_uint8(real)
        mean = (images * known).sum((1, 2), keepdims=True) / known.sum()
        row(mask, "the mean of what is known", to_uint8(np.where(known > 0, images, mean)))
        row(mask, "Laplace's equation", to_uint8(harmonic(images, known)))
        for name in METHODS:
            drawn = painted(args, mask, name)
            row(mask, f"{name}: one draw", drawn[:, 0])
            if args.draws > 1:
                row(mask, f"{name}: the mean of {args.draws}", to_uint8(from_uint8(drawn).mean(1)))
    row("", "another image", np.roll(real, -1, axis=0))
    print("\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
