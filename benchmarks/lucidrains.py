"""The same wall-clock time for denoising-diffusion-pytorch and for us, on the same images and cores.

    pip install torch accelerate ema-pytorch torchvision && pip install --no-deps denoising-diffusion-pytorch==2.3.4
    python benchmarks/lucidrains.py --data train-images-idx3-ubyte.gz --test t10k-images-idx3-ubyte.gz --minutes 10

Each side is processes of its own, one after the other; its time counts from their start, imports and compilation
included, until training is told to stop; sampling comes after all of that, and is not timed. What is in --out already
is not done again. Theirs is their `Unet`, `GaussianDiffusion` and the loop of their `Trainer` (Adam, the moving average
by ema-pytorch) with its images in memory, where it otherwise decodes files; once with the Trainer's learning rate
(1e-4) and once with ours (1e-3): the better one counts. Ours is train.py with configs/fashion_mnist_small.py, made as
wide as theirs, stopped by SIGTERM. Alike: unconditional, 1,000 steps of the cosine table, v prediction, batch 64,
50 steps of DDIM, parameters within 5 %. Compared: the Frechet distance in the features of a classifier of the set
(`jaxdiff evaluate`, with its bootstrap's interval), and the mean squared error in v on held-out images, at the same
times and with the same noise. Both of the moving averages (0.995, which each side warms up in its own way: after a few
hundred steps theirs, updated every 10, is of older parameters) and of the parameters that training ended with.
"""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
NETWORK = shlex.split("--model.channels 24 --model.multipliers 1 2 3 --model.blocks 2")  # 2 % more than theirs
STEPS, BATCH, DDIM, DECAY, HELD_OUT = 1000, 64, 50, 0.995, 2000
LEAST = 256
ITEMS = {"average": "ema", "parameters": "params"}


def images_of(path: str) -> np.ndarray:
    from jaxdiff.data import idx_images

    return idx_images(path).images


def held_out(path: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images in [-1, 1], step numbers and noise: the same for both sides."""
    rng, x = np.random.default_rng(0), images_of(path)[:HELD_OUT].astype(np.float32) / 127.5 - 1
    return x, rng.integers(0, STEPS, len(x)), rng.standard_normal(x.shape, np.float32)


def theirs(args: argparse.Namespace) -> None:
    """Train for the time, or, once that is done, write samples."""
    started = time.perf_counter() - (time.time() - args.started)
    import torch

    # Where torchvision's operators were not built for this torch it cannot be imported without their names.
    boxes = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            boxes.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet
    from ema_pytorch import EMA

    torch.manual_seed(0)
    net = Unet(dim=24, dim_mults=(1, 2, 4), channels=1)
    settings: dict[str, Any] = {"timesteps": STEPS, "objective": "pred_v", "beta_schedule": "cosine"}
    diffusion = GaussianDiffusion(net, image_size=28, sampling_timesteps=DDIM, **settings)
    adam = torch.optim.Adam(diffusion.parameters(), lr=args.rate, betas=(0.9, 0.99))
    ema = EMA(diffusion, beta=DECAY, update_every=10)
    weights, models = args.out / f"{args.side}.pt", {"average": ema.ema_model, "parameters": diffusion}
    if weights.exists():
        ema.load_state_dict(torch.load(weights, weights_only=True))
        model = models[args.weights].eval()
        with torch.no_grad():
            made = [model.sample(batch_size=min(250, args.num - i)) for i in range(0, args.num, 250)]
        samples = (torch.cat(made).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
        np.savez_compressed(args.out / f"{args.side}, {args.weights}.npz", images=samples)
        return
    images = torch.from_numpy(images_of(args.data).copy()).permute(0, 3, 1, 2).contiguous()
    order, steps = torch.Generator().manual_seed(0), 0
    while time.perf_counter() - started < 60 * args.minutes:
        batch = images[torch.randint(len(images), (BATCH,), generator=order)].float() / 255
        loss = diffusion(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(diffusion.parameters(), 1.0)
        adam.step()
        adam.zero_grad()
        ema.update()
        steps += 1
    seconds = time.perf_counter() - started
    x, t, noise = (torch.from_numpy(a) for a in held_out(args.test))
    figures: dict[str, Any] = {"steps": steps, "seconds": seconds, "loss": {}}
    for name, model in models.items():
        model.eval()
        errors = []  # not by p_losses, which weighs them by alpha_bar
        with torch.no_grad():
            for i in range(0, len(x), 250):
                x0, eps = (a[i : i + 250].permute(0, 3, 1, 2) for a in (x, noise))
                v = model.model(model.q_sample(x0, t[i : i + 250], eps), t[i : i + 250])
                errors.append((v - model.predict_v(x0, t[i : i + 250], eps)).square().mean())
        figures["loss"][name] = float(torch.stack(errors).mean())
    figures["parameters"] = sum(p.numel() for p in net.parameters())
    torch.save(ema.state_dict(), weights)
    (args.out / f"{args.side}.json").write_text(json.dumps(figures))


def ours(args: argparse.Namespace) -> dict[str, Any]:
    """Train by train.py, stop it by SIGTERM; the figures."""
    run, started = args.out / "ours", time.perf_counter()
    if run.exists():
        raise SystemExit(f"{run}: of a comparison that was cut short; remove it")
    command = [sys.executable, "train.py", "--config", "configs/fashion_mnist_small.py", "--run", str(run), *NETWORK]
    command += ["--data.name", args.data, "--train.steps", "1000000", "--log.samples-every", "1000000"]
    command += ["--log.checkpoint-every", "1000000"]
    with tempfile.TemporaryDirectory() as cold:  # what was compiled before does not help
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"JAX_COMPILATION_CACHE_DIR": cold})
        time.sleep(max(0.0, 60 * args.minutes - (time.perf_counter() - started)))
        process.send_signal(signal.SIGTERM)
        if process.wait():
            raise SystemExit(f"train.py ended with {process.returncode}")
    seconds = time.perf_counter() - started  # the checkpoint included
    return figures_of_ours(run, args.test) | {"seconds": seconds}


def figures_of_ours(run: Path, test: str) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp

    from jaxdiff import build, losses, runs, schedules

    config, spec = runs.load_run(run)
    x, t, noise = held_out(test)
    schedule = schedules.cosine(STEPS)

    @jax.jit
    def error(params: Any, x0: jax.Array, t: jax.Array, eps: jax.Array) -> jax.Array:
        model = build.model(config, spec, params, None)
        return losses.simple(x0, t, eps, model=model, schedule=schedule, kind="v")["loss"]

    times = (t + 1).astype(np.float32) / STEPS
    figures: dict[str, Any] = {"loss": {}}
    for name, item in ITEMS.items():
        figures["steps"], params = runs.load_weights(run, config, spec, item=item)
        parts = [
            error(params, *(jnp.asarray(a[i : i + 250]) for a in (x, times, noise))) for i in range(0, len(x), 250)
        ]
        figures["loss"][name] = float(jnp.concatenate(parts).mean())
        figures["parameters"] = sum(leaf.size for leaf in jax.tree.leaves(params))
    return figures


def distance(samples: Path, args: argparse.Namespace) -> tuple[float, list[float]]:
    """In the features of a classifier of the set, and its interval."""
    out = samples.with_suffix(".json")
    command = ["-m", "jaxdiff", "evaluate", "--samples", str(samples), "--reference", args.data, "--metrics", "frechet"]
    command += ["--features", "classifier", "--bootstrap", "200", "--out", str(out)]
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
    found = json.loads(out.read_text())
    return float(found["metrics"]["frechet_classifier"]), found["intervals"]["frechet_classifier"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="the training images, an IDX file")
    parser.add_argument("--test", required=True, help="those held out")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--num", type=int, default=1000, help="samples of each")
    parser.add_argument("--out", type=Path, default=Path("runs/lucidrains"))
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--rate", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--weights", help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.data, args.test, args.out = (
        str(Path(args.data).resolve()),
        str(Path(args.test).resolve()),
        args.out.resolve(),
    )
    if args.num < LEAST:
        parser.error(f"--num {args.num}: the bootstrap of 128 features needs {LEAST} at least")
    args.out.mkdir(parents=True, exist_ok=True)
    if args.side:
        return theirs(args)
    rates, found = {"theirs, 1e-4": 1e-4, "theirs, 1e-3": 1e-3}, {}

    def as_process(side: str, weights: str = "average") -> None:
        own = ["--side", side, "--rate", str(rates[side]), "--weights", weights, "--started", str(time.time())]
        given = ["--data", args.data, "--test", args.test, "--minutes", str(args.minutes), "--num", str(args.num)]
        subprocess.run([sys.executable, __file__, *given, "--out", str(args.out), *own], check=True)

    for side in (*rates, "ours"):
        written = args.out / f"{side}.json"
        if not written.exists():
            as_process(side) if side in rates else written.write_text(json.dumps(ours(args)))
        found[side] = json.loads(written.read_text())
        if not 60 * args.minutes <= found[side]["seconds"] < 60 * args.minutes + 30:
            raise SystemExit(f"{written}: of another number of --minutes; give another --out")
        if not isinstance(found[side]["loss"], dict):
            raise SystemExit(f"{written}: of another version of this script; give another --out")
    load = os.getloadavg()[0]
    lines = [f"{'':26} parameters   steps  seconds  held-out v error  frechet_classifier, 95 %  (load {load:.1f})"]
    for weights, item in ITEMS.items():
        for side, figures in found.items():  # it is not timed: others may have the cores by now
            samples = args.out / f"{side}, {weights}.npz"
            if not samples.exists() and side in rates:
                as_process(side, weights)
            elif not samples.exists():
                made = ["--weights", item, "--num", str(args.num), "--batch", "250", "--out", str(samples)]
                made = ["sample.py", "--run", str(args.out / "ours"), *made]
                subprocess.run([sys.executable, *made], cwd=ROOT, check=True)
            far, (low, high) = distance(samples, args)
            numbers = f"{figures['parameters']:10,} {figures['steps']:7,} {figures['seconds']:8.0f}"
            numbers += f" {figures['loss'][weights]:17.4f} {far:19.2f}, {low:.2f} to {high:.2f}"
            lines.append(f"{f'{side}, {weights}':26} {numbers}")
    print("\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
