"""The same network with the same weights here and in diffusers (PyTorch), interleaved A B A B on one machine.

pip install torch diffusers && pip install -e .
python benchmarks/versus.py --network small      # 8.95M parameters, for CPUs; ddpm_cifar, adm_64, dit_b_2 for GPUs

A training step is the loss, its gradient, Adam and the moving average of the parameters; sampling is 50 steps of DDIM.
Each round times all in turn; what is printed is the median, and of the ratio also the smallest and the largest of the
rounds. diffusers runs eagerly and, with --compile, by torch.compile too; with --dtype bfloat16 under autocast; on a GPU
with channels_last and fused Adam.
"""

import argparse
import copy
import os
import resource
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
from diffusers import DDIMScheduler, DiTTransformer2DModel, UNet2DModel

from jaxdiff import DDIM, losses, pretrained, sample, timesteps, white_noise
from jaxdiff.build import Spec
from jaxdiff.cli.flags import use_recommended_flags
from jaxdiff.denoise import denoiser
from jaxdiff.noise import fold_in
from jaxdiff.time_sampling import uniform_steps
from jaxdiff.train import init_state, train_step
from jaxdiff.train.ema import exponential

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
DIT = {
    "sample_size": 32, "num_layers": 12, "num_attention_heads": 12, "attention_head_dim": 64, "in_channels": 4,
    "out_channels": 8, "patch_size": 2, "num_embeds_ada_norm": 1000,
}  # fmt: skip
NETWORKS: dict[str, Callable[[], Any]] = {
    "small": partial(UNet2DModel, **DDPM, block_out_channels=[64, 128, 128, 128]),
    "ddpm_cifar": partial(UNet2DModel, **DDPM, block_out_channels=[128, 256, 256, 256]),
    "adm_64": partial(UNet2DModel, **ADM),
    "dit_b_2": partial(DiTTransformer2DModel, **DIT),
}
STEPS = 50
Call = Callable[[], None]


def torch_calls(net: Any, spec: Spec, batch: int, device: str, *, dtype: str, compiled: bool) -> tuple[Call, Call]:
    """A training step and a run of sampling in PyTorch, as its users write them."""
    on_gpu = device != "cpu"
    net = copy.deepcopy(net).to(device)
    if on_gpu:
        net = net.to(memory_format=torch.channels_last)
    run = torch.compile(net) if compiled else net
    average = [p.detach().clone() for p in net.parameters()]
    adam = torch.optim.Adam(net.parameters(), lr=1e-4, fused=on_gpu)
    size, _, channels = spec.image_shape
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0).to(device)
    x0 = torch.randn(batch, channels, size, size, device=device)
    labels = None if spec.num_classes is None else torch.zeros(batch, dtype=torch.long, device=device)
    precision = partial(torch.autocast, device, torch.bfloat16, enabled=dtype == "bfloat16")

    def train() -> None:
        net.train()
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
        net.eval()
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
    step = jax.jit(partial(train_step, loss_fn=loss, tx=tx, averages={"ema": exponential(0.999)}), donate_argnums=0)
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


def agree(net: Any, loaded: pretrained.Pretrained) -> float:
    """The largest difference of one call, relative to the largest output: they must be the same network."""
    x = np.random.default_rng(0).standard_normal((2, *loaded.spec.image_shape)).astype(np.float32)
    labels = None if loaded.spec.num_classes is None else np.array([0, 1])
    net.eval()
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
    parser.add_argument("--compile", action="store_true", help="torch.compile too")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=4, help="training steps in a round")
    args = parser.parse_args()

    use_recommended_flags()
    torch.manual_seed(0)
    net = NETWORKS[args.network]()
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
    theirs = {
        name: torch_calls(net, loaded.spec, args.batch, device, dtype=args.dtype, compiled=compiled)
        for name, compiled in {"diffusers": False, "diffusers with torch.compile": True}.items()
        if args.compile or not compiled
    }
    for i, (what, ours, repeats) in enumerate(
        [("training step", train, args.repeats), (f"{STEPS} steps of DDIM", generate, 1)]
    ):
        calls = {name: both[i] for name, both in theirs.items()} | {"jaxdiff": ours}
        for call in calls.values():
            call()
        rounds = [{name: timed(call, repeats) for name, call in calls.items()} for _ in range(args.rounds)]
        for name in calls:
            middle = statistics.median(took[name] for took in rounds)
            print(f"{what}, {name}: {1e3 * middle:.0f} ms, {args.batch / middle:.2f} img/s")
        for name in theirs:
            ratios = [took[name] / took["jaxdiff"] for took in rounds]
            spread = f"({min(ratios):.2f} to {max(ratios):.2f})"
            print(f"{what}: jaxdiff is {statistics.median(ratios):.2f} x as fast as {name} {spread}")
    print(f"largest resident size of this process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")


if __name__ == "__main__":
    main()
