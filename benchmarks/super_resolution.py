"""How good is super-resolution? PSNR of draws, and of their means, against interpolation; and a cascade's pictures.

    python benchmarks/super_resolution.py --data FOLDER --out FOLDER

with Fashion-MNIST's four IDX files in the folder (or t10k-images alone, for runs that are trained). It trains
configs/fashion_mnist_super_resolution.py and configs/fashion_mnist_14.py into --runs unless they are there, by
train.py's own main; takes the first test images, makes them smaller as in training, and enlarges them: by nearest,
bilinear and bicubic interpolation, by one draw of the network, and by the mean of several, which estimates the
posterior mean, the best guess in squared error. PSNR is the mean over images, black to white being 2, with its error;
every picture is rounded to 256 levels first. Written are psnr.json, enlarged.png (rows: small, bicubic, one draw, the
mean, the image) and cascade.png (64 pictures of 14x14, and what the second stage makes of them).
"""

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import build, cascades, condition, metrics, runs, sampling
from jaxdiff.cli import train_main
from jaxdiff.cli.super_resolution import lowered, shown_small
from jaxdiff.config import Data
from jaxdiff.data.images import grid, to_uint8, write_png

ROOT = Path(__file__).parents[1]
TRAIN, TEST = "train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz"


def trained(name: str, args: argparse.Namespace) -> Path:
    """The run of a config, which is trained now, or further, if need be."""
    run: Path = args.runs / name
    if (args.data / TRAIN).is_file():
        config = str(ROOT / "configs" / f"{name}.py")
        train_main(["--config", config, "--run", str(run), "--data.name", str(args.data / TRAIN)])
    return run


def scores(found: dict[str, np.ndarray], real: np.ndarray) -> dict[str, dict[str, float]]:
    """PSNR and SSIM of uint8 images, means with standard errors."""
    result = {}
    for name, images in found.items():
        a, b = (jnp.asarray(x.astype(np.float32) / 127.5 - 1) for x in (images, real))
        psnr, ssim = np.asarray(metrics.psnr(a, b)), np.asarray(metrics.ssim(a, b))
        error = {f"{of}_error": float(x.std(ddof=1) / len(x) ** 0.5) for of, x in (("psnr", psnr), ("ssim", ssim))}
        result[name] = {"psnr": float(psnr.mean()), "ssim": float(ssim.mean()), **error}
        print(f"{name:28} {psnr.mean():6.2f} dB +- {error['psnr_error']:.2f}   SSIM {ssim.mean():.4f}")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the IDX files")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="default %(default)s")
    parser.add_argument("--out", type=Path, required=True, help="folder")
    parser.add_argument("--num", type=int, default=500, help="test images, default %(default)s")
    parser.add_argument("--draws", type=int, default=8, help="of each, default %(default)s")
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--steps", type=int, help="of the sampler; default the run's")
    parser.add_argument("--level", type=float, default=0.1, help="of the cascade's second stage, default %(default)s")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    run = trained("fashion_mnist_super_resolution", args)
    config, spec = runs.load_run(run)
    sample = dataclasses.replace(config.sample, steps=args.steps or config.sample.steps)
    config = dataclasses.replace(config, sample=sample)
    step, params = runs.load_weights(run, config, spec)
    source, index = build.source(Data(name=str(args.data / TEST), labels=False)), np.arange(args.num)
    real = source.gather(index)["image"]
    low = lowered(config, real)
    started = time.perf_counter()
    program = sampling.pmapped(cascades.super_resolver(config, spec))
    drawn = np.concatenate(list(cascades.enlargements(
        program, config, params, jax.random.key(0), None, low.__getitem__, num=args.num, batch=args.batch, level=0.0,
        draws=args.draws,
    )))  # fmt: skip
    seconds = time.perf_counter() - started
    factor = config.condition.factor or 1
    found = {
        name: to_uint8(np.asarray(condition.enlarged(jnp.asarray(low), factor=factor, enlargement=name)))
        for name in ("nearest", "bilinear", "bicubic")
    }
    found["one draw"] = to_uint8(drawn[:, 0])
    found[f"the mean of {args.draws} draws"] = to_uint8(drawn.mean(1))
    print(f"{run}, step {step}, {args.num} test images, {sample.sampler} {sample.steps} steps, {seconds:.0f} s")
    result = {"step": step, "images": args.num, "steps": sample.steps, "scores": scores(found, real)}
    (args.out / "psnr.json").write_text(json.dumps(result, indent=1) + "\n")
    rows = [shown_small(config, to_uint8(low)), *list(found.values())[2:], real]
    shown = np.stack([row[:12] for row in rows])
    write_png(args.out / "enlarged.png", grid(shown.reshape(-1, *real.shape[1:]), columns=12, min_tile=56))

    base = trained("fashion_mnist_14", args)
    if not (base / "run.json").is_file():
        print(f"{base}: no run, and no {TRAIN} to train it: no cascade", file=sys.stderr)
        return
    small, small_spec = runs.load_run(base)
    both, key = (runs.load_weights(base, small, small_spec)[1], params), jax.random.key(1)
    generate = sampling.generator(small, small_spec)
    first = np.concatenate(list(
        sampling.in_batches(sampling.pmapped(generate), small, both[0], key, None, num=64, batch=64)
    ))  # fmt: skip
    program = sampling.pmapped(cascades.cascaded(generate, [(config, spec)]))
    made = np.concatenate(list(
        cascades.in_batches(program, [small, config], both, key, None, num=64, batch=64, levels=[args.level])
    ))  # fmt: skip
    pair = [grid(shown_small(config, first), columns=8, min_tile=28), grid(made, columns=8, min_tile=28)]
    write_png(args.out / "cascade.png", np.concatenate(pair, axis=1))


if __name__ == "__main__":
    main()
