"""The pictures of docs/tasks.md: what each command makes of the same images, a row for each, what was given first.

    python train.py --config configs/fashion_mnist_small.py --data.name TRAIN --run runs/fashion_v
    python train.py --config configs/digits.py
    python benchmarks/gallery.py --fashion runs/fashion_v --images TEST --digits runs/digits

TRAIN and TEST are Fashion-MNIST's IDX files. Minutes on two CPU cores.
"""

import argparse
from pathlib import Path

from jaxdiff.cli import main as jaxdiff

FASHION = {
    "inpaint": ["inpaint", "--mask", "center:12", "--steps", "50", "--jump-length", "5", "--resamplings", "5"],
    "outpaint": ["inpaint", "--mask", "frame:7", "--method", "replacement"],
    "super_resolution": ["restore", "--operator", "downsample", "--degrade", "--method", "null_space"],
    "deblur": ["restore", "--operator", "blur", "--blur", "1", "--noise", "0.05", "--degrade"],
    "denoise": ["denoise", "--degrade", "0.4"],
    "variations": ["variations", "--strength", "0.5"],
}
DIGITS = {
    "transfer": ["transfer", "--labels", "3", "--guidance", "1", "--steps", "100"],
    "edit": ["edit", "--more", "8", "--less", "3", "--strength", "0.8", "--guidance", "1", "--steps", "100"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fashion", required=True, help="a run on Fashion-MNIST")
    parser.add_argument("--images", required=True, help="images that it was not trained on")
    parser.add_argument("--digits", required=True, help="a run on the digits")
    parser.add_argument("--out", type=Path, default=Path("docs/tasks"))
    args = parser.parse_args()
    for name, (command, *options) in FASHION.items():
        given = ["--run", args.fashion, "--images", args.images, "--num", "6", "--draws", "4"]
        jaxdiff([command, *given, *options, "--out", str(args.out / f"{name}.png")])
    between = ["--run", args.fashion, "--images", args.images, "--num", "8", "--shown", "5", "--steps", "100"]
    jaxdiff(["interpolate", *between, "--out", str(args.out / "interpolate.png")])
    for name, (command, *options) in DIGITS.items():
        given = ["--run", args.digits, "--images", "digits", "--num", "10"]
        jaxdiff([command, *given, *options, "--out", str(args.out / f"{name}.png")])


if __name__ == "__main__":
    main()
