"""How fast a config trains and samples on this machine, as train.py and sample.py run it, on random images.

python benchmarks/throughput.py --config configs/cifar10_ddpm.py --size 32 --batch 512 --dtype bfloat16
python benchmarks/throughput.py --config configs/digits.py --size 8 --channels 1 --classes 10     # a CPU is enough

Says images a second, milliseconds, the share of the peak that a large matrix product reaches here in the same type,
memory and seconds of compiling. A multiply-add is two FLOP; training is three forward passes.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import build, sampling
from jaxdiff import config as configs
from jaxdiff.cli.flags import use_recommended_flags
from jaxdiff.flops import multiply_adds
from jaxdiff.models.layers import REMAT
from jaxdiff.train import init_state, pmapped, train_step
from jaxdiff.train.parallel import replicate, shard
from jaxdiff.typing import InputError

Call = Callable[[], None]


def seconds(call: Call, rounds: int) -> list[float]:
    """Of each round, after one that does not count."""
    call()
    found = []
    for _ in range(rounds):
        started = time.perf_counter()
        call()
        found.append(time.perf_counter() - started)
    return found


def peak_flops(dtype: str) -> float:
    """FLOP a second of a square matrix product, large enough for the device: what a network could reach at best."""
    n = 1024 if jax.default_backend() == "cpu" else 8192
    a = jnp.ones((n, n), dtype)
    times = 4 if jax.default_backend() == "cpu" else 20
    product = jax.jit(lambda a, b: jax.lax.fori_loop(0, times, lambda _, c: c @ b, a))
    return times * 2 * n**3 / min(seconds(lambda: product(a, a).block_until_ready(), 5))


def compiled(program: Any, *args: Any) -> tuple[Any, float, float]:
    """The program, seconds it took, and bytes that it needs on a device."""
    started = time.perf_counter()
    done = program.lower(*args).compile()
    took = time.perf_counter() - started
    memory = done.memory_analysis()
    needed = 0 if memory is None else memory.argument_size_in_bytes + memory.temp_size_in_bytes
    return done, took, needed


def training(config: configs.Config, spec: build.Spec, rounds: int) -> tuple[list[float], float, float]:
    """Seconds a step, of each round; of compiling; and bytes."""
    batch, per_call, devices = config.train.batch_size, build.steps_per_call(config), jax.local_device_count()
    tx = build.optimizer(config)
    step = partial(train_step, loss_fn=build.loss_fn(config, spec), tx=tx, averages=build.averages(config))
    images = {"image": np.random.default_rng(0).integers(0, 256, (batch, *spec.image_shape), np.uint8)}
    if spec.num_classes is not None:
        images["label"] = np.arange(batch, dtype=np.int32) % spec.num_classes
    state, key = replicate(
        (init_state(build.init_params(config, spec, jax.random.key(0)), tx, build.averages(config)), jax.random.key(1))
    )
    batches = shard([images] * per_call, devices=devices)
    program, took, needed = compiled(pmapped(step).run, state, batches, key)

    def call() -> None:
        nonlocal state
        state, metrics = program(state, batches, key)
        float(metrics["loss"][-1])

    return [s / per_call for s in seconds(call, rounds)], took, needed


def making(config: configs.Config, spec: build.Spec, batch: int, rounds: int) -> tuple[list[float], float, float]:
    """Seconds for a batch of pictures, of each round; of compiling; and bytes."""
    schedule, devices = build.schedule(config.diffusion), jax.local_device_count()
    params = replicate(build.init_params(config, spec, jax.random.key(0)))
    index = np.arange(batch, dtype=np.int32).reshape(devices, -1)
    labels = None if spec.num_classes is None else index % spec.num_classes
    times = jnp.asarray(build.times(config.sample, schedule), jnp.float32)
    scale = None if config.sample.guidance == 1 or labels is None else jnp.float32(config.sample.guidance)
    sampler = build.sampler(config, schedule)
    args = (params, jax.random.key(0), index, labels, sampler, times, scale, jnp.float32(1.0), None, None)
    program, took, needed = compiled(sampling.pmapped(sampling.generator(config, spec)), *args)
    return seconds(lambda: program(*args).block_until_ready(), rounds), took, needed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--size", type=count, required=True, help="height and width of the images")
    parser.add_argument("--channels", type=count, default=3, help="of the images, default %(default)s")
    parser.add_argument("--classes", type=count, default=None, help="of the labels, default none")
    parser.add_argument("--batch", type=count, default=None, help="of training; default the config's")
    parser.add_argument("--sample-batch", type=count, default=None, help="default half of it")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default=None, help="default the config's")
    parser.add_argument("--remat", choices=REMAT, default=None, help="default the config's")
    parser.add_argument("--sampler", choices=["ddim", "ddpm"], default="ddim", help="of one call of the network a step")
    parser.add_argument("--steps", type=count, default=50)
    parser.add_argument("--rounds", type=count, default=7)
    parser.add_argument("--row", action="store_true", help="print a row of the table in RESULTS.md too")
    args = parser.parse_args()
    try:
        measure(args)
    except InputError as error:
        parser.error(str(error))


def count(word: str) -> int:
    """Of the command line: a whole number, at least 1."""
    if not word.isdigit() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number, at least 1; got {word}")
    return int(word)


def measure(args: argparse.Namespace) -> None:
    """Both programs, and what they took."""
    use_recommended_flags()
    config = configs.load(args.config)
    batch, dtype = args.batch or config.train.batch_size, args.dtype or config.model.dtype
    config = replace(
        config,
        model=replace(config.model, dtype=dtype, remat=args.remat or config.model.remat),
        train=replace(config.train, batch_size=batch),
        sample=replace(config.sample, sampler=args.sampler, steps=args.steps, variance=None),
    )
    spec = build.Spec((args.size, args.size, args.channels), args.classes)
    cond = {} if spec.num_classes is None else {"label": jax.ShapeDtypeStruct((1,), jnp.int32)}
    params = jax.eval_shape(partial(build.init_params, config, spec), jax.random.key(0))
    image = jax.ShapeDtypeStruct((1, *spec.image_shape), jnp.float32)
    call = partial(build.network(config, spec).apply, cond=cond)
    # As papers count: a CPU saves some by a better formula, and what is in cuDNN's attention cannot be counted.
    with mock.patch("jax.default_backend", return_value="gpu"), mock.patch.dict(os.environ, JAXDIFF_ATTENTION="xla"):
        flop = 2 * multiply_adds(call, params, image, jax.ShapeDtypeStruct((1,), jnp.float32))
    millions = sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6
    peak = peak_flops(dtype)
    print(
        f"{args.config.stem}: {millions:.1f}M parameters, {flop / 1e9:.2f} GFLOP forward an image of "
        f"{'x'.join(map(str, spec.image_shape))}, {spec.num_classes or 'no'} classes, {dtype}\n"
        f"{jax.local_device_count()} x {jax.devices()[0].device_kind}, jax {jax.__version__}, load "
        f"{os.getloadavg()[0]:.1f}, XLA_FLAGS {os.environ.get('XLA_FLAGS') or 'none'}, "
        f"JAXDIFF_ATTENTION {os.environ.get('JAXDIFF_ATTENTION') or 'not set'}\n"
        f"peak of a matrix product in {dtype}: {peak / 1e12:.2f} TFLOP/s"
    )
    devices = jax.local_device_count()
    picture_batch = -(-(args.sample_batch or batch // 2) // devices) * devices
    calls = args.steps * (1 if config.sample.guidance == 1 or spec.num_classes is None else 2)
    done = {
        f"training, batch {batch}": (batch, 3 * flop, training(config, spec, args.rounds)),
        f"{args.steps} steps of {args.sampler}, batch {picture_batch}": (
            picture_batch, calls * flop, making(config, spec, picture_batch, args.rounds),
        ),
    }  # fmt: skip
    cells = []
    for name, (images, each, (took, compiling, needed)) in done.items():
        middle = statistics.median(took)
        rate = images / middle
        share = rate * each / peak / jax.local_device_count()
        print(
            f"{name}: {rate:,.1f} img/s ({images / max(took):,.1f} to {images / min(took):,.1f}), "
            f"{1e3 * middle:,.1f} ms, {rate * each / 1e12:.2f} TFLOP/s, {100 * share:.0f} % of the peak\n"
            f"    {needed / 2**20:,.0f} MiB; compiled in {compiling:.1f} s"
        )
        cells += [f"{rate:,.0f}", f"{100 * share:.0f} %", f"{needed / 2**30:.1f}", f"{compiling:.0f}"]
    if args.row:
        print(f"| {args.config.stem} | {dtype} | {batch} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
