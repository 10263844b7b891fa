"""The same U-Net with the same weights here and in diffusers (PyTorch), interleaved A B A B on one machine.

pip install torch diffusers && pip install -e '.[pretrained]'
python benchmarks/versus.py --network small      # 8.95M parameters, for CPUs; ddpm_cifar (35.7M) and adm_64 for GPUs

A training step is the loss, its gradient, Adam and the moving average of the parameters; sampling is 50 steps of DDIM.
Each round times both in turn; what is printed is the median, and of the ratio also the smallest and the largest of the
rounds. On a GPU diffusers has bf16 autocast, channels_last, fused Adam and torch.compile, and we have --dtype bfloat16.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from diffusers import DDIMScheduler, UNet2DModel

from jaxdiff import DDIM, losses, pretrained, sample, timesteps, white_noise
from jaxdiff.denoise import denoiser
from jaxdiff.noise import fold_in
from jaxdiff.time_sampling import uniform_steps
from jaxdiff.train import init_state, train_step

DDPM = {
    "sample_size": 32, "norm_eps": 1e-6, "attention_head_dim": None, "flip_sin_to_cos": False, "freq_shift": 1,
    "downsample_padding": 0, "layers_per_block": 2,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}  # fmt: skip
ADM = {
    "sample_size": 64, "layers_per_block": 3, "block_out_channels": [192, 384, 576, 768], "attention_head_dim": 64,
    "num_class_embeds": 1000, "out_channels": 6, "resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 32,
    "flip_sin_to_cos": True, "freq_shift": 0, "downsample_type": "resnet", "upsample_type": "resnet",
    "down_block_types": ["ResnetDownsampleBlock2D"] + ["AttnDownBlock2D"] * 3,
    "up_block_types": ["AttnUpBlock2D"] * 3 + ["ResnetUpsampleBlock2D"],
}  # fmt: skip
NETWORKS = {
    "small": DDPM | {"block_out_channels": [64, 128, 128, 128]},
    "ddpm_cifar": DDPM | {"block_out_channels": [128, 256, 256, 256]},
    "adm_64": ADM,
}
STEPS = 50
Call = Callable[[], None]


def torch_calls(net: UNet2DModel, batch: int, device: str) -> tuple[Call, Call]:
    """A training step and a run of sampling in PyTorch, as its users write them."""
    on_gpu = device != "cpu"
    net = net.to(device)
    if on_gpu:
        net = net.to(memory_format=torch.channels_last)
    run = torch.compile(net) if on_gpu else net
    average = [p.detach().clone() for p in net.parameters()]
    adam = torch.optim.Adam(net.parameters(), lr=1e-4, fused=on_gpu)
    channels, size = net.config.in_channels, net.config.sample_size
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0).to(device)
    x0 = torch.randn(batch, channels, size, size, device=device)
    labels = None if net.config.num_class_embeds is None else torch.zeros(batch, dtype=torch.long, device=device)
    precision = partial(torch.autocast, device, torch.bfloat16, enabled=on_gpu)

    def train() -> None:
        t, eps = torch.randint(1000, (batch,), device=device), torch.randn_like(x0)
        a = alpha_bar[t, None, None, None]
        with precision():
            y = run(a.sqrt() * x0 + (1 - a).sqrt() * eps, t, labels).sample
        loss = torch.nn.functional.mse_loss(y[:, :channels].float(), eps)
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, list(net.parameters()), 1e-3)
        loss.item()

    def generate() -> None:
        scheduler = DDIMScheduler(timestep_spacing="trailing")
        scheduler.set_timesteps(STEPS)
        x = torch.randn_like(x0)
        with torch.inference_mode(), precision():
            for t in scheduler.timesteps:
                y = run(x, t.to(device), labels).sample[:, :channels].float()
                x = scheduler.step(y, t, x).prev_sample
        x.sum().item()

    return train, generate


def jax_calls(loaded: pretrained.Pretrained, batch: int, dtype: str) -> tuple[Call, Call, dict[str, float]]:
    """The same with our train step and sampler, and the seconds that each took to compile."""
    schedule, spec, network = loaded.schedule, loaded.spec, loaded.network.clone(dtype=jnp.dtype(dtype))
    channels = spec.image_shape[-1]
    cond = {} if spec.num_classes is None else {"label": jnp.zeros(batch, jnp.int32)}

    def model(params: Any, x: jax.Array, t: jax.Array) -> jax.Array:
        k = jnp.broadcast_to(t * schedule.T - 1, x.shape[:1])
        return network.apply(params, x, k, cond)[..., :channels]

    def loss(params: Any, batch: Any, keys: jax.Array) -> dict[str, jax.Array]:
        t = uniform_steps(fold_in(keys, 0), T=schedule.T)
        eps = white_noise(fold_in(keys, 1), batch["image"].shape)
        return losses.simple(batch["image"], t, eps, model=partial(model, params), schedule=schedule, kind="eps")

    tx = optax.adam(1e-4)
    state = init_state(jax.tree.map(jnp.asarray, loaded.params), tx)
    images = {"image": jax.random.normal(jax.random.key(0), (batch, *spec.image_shape))}
    key, seconds = jax.random.key(1), {}
    step = jax.jit(partial(train_step, loss_fn=loss, tx=tx, ema_decay=0.999), donate_argnums=0)
    started = time.perf_counter()
    step = step.lower(state, images, key).compile()
    seconds["train"] = time.perf_counter() - started

    def train() -> None:
        nonlocal state
        state, metrics = step(state, images, key)
        float(metrics["loss"])

    def run(params: Any, key: jax.Array, x: jax.Array) -> jax.Array:
        predict = denoiser(partial(model, params), schedule=schedule, kind="eps")
        return sample(key, predict, DDIM(schedule), timesteps.trailing(STEPS, T=schedule.T), x)

    params, x = jax.tree.map(jnp.copy, state.params), images["image"]
    started = time.perf_counter()
    made = jax.jit(run).lower(params, key, x).compile()
    seconds["sample"] = time.perf_counter() - started
    return train, lambda: made(params, key, x).block_until_ready(), seconds


def agree(net: UNet2DModel, loaded: pretrained.Pretrained) -> float:
    """The largest difference of one call, relative to the largest output: they must be the same network."""
    x = np.random.default_rng(0).standard_normal((2, *loaded.spec.image_shape)).astype(np.float32)
    labels = None if loaded.spec.num_classes is None else np.array([0, 1])
    with torch.no_grad():
        at = torch.tensor(np.moveaxis(x, -1, 1))
        y = net(at, torch.tensor([3, 500]), None if labels is None else torch.tensor(labels)).sample
    theirs = np.moveaxis(y.numpy(), 1, -1)
    cond = {} if labels is None else {"label": labels}
    ours = loaded.network.apply(loaded.params, x, np.array([3.0, 500.0], np.float32), cond)
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def timed(call: Call, repeats: int) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - started) / repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, default="small")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=4, help="training steps in a round")
    args = parser.parse_args()

    torch.manual_seed(0)
    net = UNet2DModel(**NETWORKS[args.network])
    with tempfile.TemporaryDirectory() as folder:
        net.save_pretrained(folder)
        loaded = pretrained.load(folder)
    size = sum(p.numel() for p in net.parameters()) / 1e6
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(
        f"{args.network}: {size:.2f}M parameters, batch {args.batch}, outputs agree to {agree(net, loaded):.1e}\n"
        f"torch {torch.__version__} on {device} ({torch.get_num_threads()} threads); jax {jax.__version__} on "
        f"{jax.devices()[0].device_kind}, {args.dtype}; load {os.getloadavg()[0]:.1f}"
    )
    train, generate, seconds = jax_calls(loaded, args.batch, args.dtype)
    print(f"compiled: train step {seconds['train']:.1f} s, sampler {seconds['sample']:.1f} s")
    pairs = {"training step": (torch_calls(net, args.batch, device)[0], train, args.repeats)}
    pairs[f"{STEPS} steps of DDIM"] = (torch_calls(net, args.batch, device)[1], generate, 1)
    for name, (theirs, ours, repeats) in pairs.items():
        theirs(), ours()
        rounds = [(timed(theirs, repeats), timed(ours, repeats)) for _ in range(args.rounds)]
        a, b = (statistics.median(column) for column in zip(*rounds))
        ratios = [a / b for a, b in rounds]
        print(
            f"{name}: diffusers {1e3 * a:.0f} ms, {args.batch / a:.2f} img/s; jaxdiff {1e3 * b:.0f} ms, "
            f"{args.batch / b:.2f} img/s; jaxdiff is {statistics.median(ratios):.2f} x as fast ({min(ratios):.2f} to "
            f"{max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
