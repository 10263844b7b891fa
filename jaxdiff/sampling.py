"""Pictures from a network: one pure function, and a driver that runs it in batches on all devices."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdiff import build, denoise, guidance, process, samplers, testing
from jaxdiff.config import Config
from jaxdiff.flops import multiply_adds
from jaxdiff.noise import TruncatedNoise, example_keys, fold_in, white_noise
from jaxdiff.pixels import to_uint8
from jaxdiff.schedules import require
from jaxdiff.typing import Array, Denoiser, InputError, Model, Noise, Prediction, PyTree

Generate = Callable[..., Any]

Classify = Callable[[Array, PyTree], Model]
"""`(labels [B], its params) -> ((x_t, t) -> log p(label | x_t) [B])`, a classifier of noisy pictures."""


def guided(
    config: Config,
    spec: build.Spec,
    params: PyTree,
    labels: Array | None,
    scale: Array | None,
    *,
    image: Array | None = None,
) -> Denoiser:
    """The network's denoiser as pictures are made with it: towards the labels, clipped if `config.sample.clip`.

    Args:
      config: of which `model`, `diffusion` and `sample` are read.
      spec: of the data.
      params: the network's.
      labels: int32 `[B]`; not read by a network without classes.
      scale: of classifier-free guidance, a number or `[B]`; None is the conditional network alone, at half the cost.
      image: what a network of super-resolution is given, `[B, H, W, C + 1]`, with hidden labels, too.

    Returns:
      `(x_t [B, H, W, C], t scalar or [B]) -> Prediction`, of that B alone if there are labels or an image.
    """
    schedule = build.schedule(config.diffusion)
    both = own = labels if spec.num_classes is not None else None
    if own is not None and scale is not None:
        both = jnp.concatenate([own, jnp.full_like(own, spec.num_classes or 0)])
        image = None if image is None else jnp.concatenate([image, image])
    predict = build.denoiser(config, spec, params, both, image=image)
    if own is not None and scale is not None:
        predict = guidance.classifier_free(predict, scale=scale)
    return denoise.clip_x0(predict, schedule=schedule) if config.sample.clip else predict


def generator(config: Config, spec: build.Spec, *, classify: Classify | None = None, path: bool = False) -> Generate:
    """A pure function that makes pictures:

        generate(params, key, index [B], labels [B] or None, sampler, times [n + 1], guidance, temperature, noise,
                 guide) -> float32 [B, H, W, C] in [-1, 1]

    Jit it once: no argument recompiles, but for the sizes B and n and the sampler's class. Picture `index_i` is a
    function of the key and that number, whatever batch it is in. Guidance None is the conditional network alone, at
    half the cost of any number. `noise` is what they start from, a pytree such as `TruncatedNoise`; None is white.
    `guide` is `(the classifier's params, its scale)`, or None without one.

    Args:
      config: of which `model`, `diffusion` and `sample` are read.
      spec: of the data.
      classify: guides after the clipping, as ADM does, towards the labels, which are then for it also, or alone, if
        the network has no classes.
      path: return the whole way in place of its end: `x_t` at each of the times, and what x_0 the network takes it for,
        as it guides the sampler, at the last time the picture itself; both float32 `[n + 1, B, H, W, C]`.

    The function raises `InputError` for a guide without a classifier, or the other way round, or without labels.
    """
    schedule = build.schedule(config.diffusion)

    def generate(
        params: PyTree,
        key: Array,
        index: Array,
        labels: Array | None,
        sampler: Any,
        times: Array,
        scale: Array | None,
        temperature: Array,
        noise: Noise | None = None,
        guide: tuple[PyTree, Array] | None = None,
    ) -> Any:
        given = classify is not None, guide is not None, labels is not None
        require(not any(given[:2]) or all(given), "a classifier guides by its params and scale (guide), towards labels")
        keys = example_keys(key, index)
        start, steps = (fold_in(keys, i) for i in range(2))
        shape = (index.shape[0], *spec.image_shape)
        x = process.prior(start, shape, schedule=schedule, t=times[0], noise=noise or white_noise)
        predict = guided(config, spec, params, labels, scale)
        if classify is not None and guide is not None and labels is not None:
            its, strength = guide
            predict = guidance.classifier(predict, classify(labels, its), scale=strength, schedule=schedule)
        if not path:
            return samplers.sample(steps, predict, sampler, times, x, temperature=temperature)
        end, states = samplers.sample(
            steps, predict, sampler, times, x, temperature=temperature, collect=lambda state: state.x
        )
        way = jnp.concatenate([x[None], states])
        guesses = jax.lax.map(lambda step: predict(*step).x0, (way[:-1], times[:-1]))
        return way, jnp.concatenate([guesses, end[None]])

    return generate


def network_evaluations(config: Config, spec: build.Spec) -> int | None:
    """How often the network is called for one picture with `config.sample`, a pair of guidance counting as two. None
    where that depends on the network (an adaptive solver). A classifier that guides is not counted.

    Counted while the sampler runs, with data of N(0, I) in the network's place: last steps may leave calls out.

    >>> config = Config()
    >>> network_evaluations(config, build.Spec((8, 8, 1), None))
    50
    """
    calls: list[None] = []
    exact = testing.gaussian_denoiser(mean=0.0, std=1.0, schedule=build.schedule(config.diffusion))

    def counted(x_t: Array, t: Array) -> Prediction:
        jax.debug.callback(calls.append, None)
        return exact(x_t, t)._replace(log_var=jnp.zeros_like(x_t) if config.diffusion.learned_variance else None)

    sampler, times, scale, *_ = settings(config)
    run = jax.jit(lambda x: samplers.sample(jax.random.key(0), counted, sampler, times, x))
    x = jnp.ones((1, *spec.image_shape))
    try:
        multiply_adds(run, x)
    except InputError:  # a loop of any length
        return None
    run(x).block_until_ready()
    jax.effects_barrier()
    return len(calls) * (1 if scale is None or spec.num_classes is None else 2)


def pmapped(generate: Generate) -> Any:
    """`generate` over all devices; `index` and `labels`, or what else there is of each picture in their place, are
    `[devices, B / devices]`.

    With several processes each gets all of the pictures, as numpy, of which its devices have made their part.
    """
    run = jax.pmap(generate, in_axes=(None, None, 0, 0, *[None] * 6))
    if jax.process_count() == 1:
        return run
    here = jax.local_device_count()
    rows = slice(jax.process_index() * here, (jax.process_index() + 1) * here)

    def call(params: PyTree, key: Array, index: np.ndarray, labels: PyTree, *rest: Any) -> np.ndarray:
        images = run(params, key, index[rows], jax.tree.map(lambda x: x[rows], labels), *rest)
        return np.asarray(multihost_utils.process_allgather(images, tiled=True))

    return call


def sharded(generate: Generate, mesh: Mesh) -> Any:
    """As `pmapped`, with parameters that are spread over the mesh of all devices (`train.parallel.sharded`).

    Args:
      generate: of `generator`.
      mesh: of all devices of all processes.
    """
    split = NamedSharding(mesh, PartitionSpec(mesh.axis_names))

    def pictures(params: PyTree, key: Array, index: Array, labels: PyTree, *rest: Any) -> Array:
        given = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (index, labels))
        given = jax.lax.with_sharding_constraint(given, split)
        images = jax.lax.with_sharding_constraint(generate(params, key, *given, *rest), split)
        return jnp.reshape(images, (*index.shape, *images.shape[1:]))

    run = jax.jit(pictures)

    def call(*args: Any) -> np.ndarray:
        return np.asarray(multihost_utils.process_allgather(run(*args), tiled=True))

    return call


def cycle(labels: Sequence[int], num: int) -> np.ndarray:
    """The label of each picture: the given ones in turn.

    >>> cycle([3, 5], 5).tolist()
    [3, 5, 3, 5, 3]
    """
    return np.resize(np.asarray(labels, np.int32), num)


def settings(config: Config) -> tuple[Any, np.ndarray, Array | None, Array, Noise | None]:
    """`config.sample` as `generate` takes it: the sampler, the times, the scale of guidance, the temperature, and the
    noise that pictures start from."""
    schedule, sample = build.schedule(config.diffusion), config.sample
    scale = None if sample.guidance == 1 else jnp.float32(sample.guidance)
    times = np.asarray(build.times(sample, schedule), np.float32)
    noise = None
    if sample.truncation is not None or sample.start_scale != 1:
        limit = math.inf if sample.truncation is None else sample.truncation
        noise = TruncatedNoise(jnp.float32(limit), jnp.float32(sample.start_scale))
    return build.sampler(config, schedule), times, scale, jnp.float32(sample.temperature), noise


def in_batches(
    program: Any,
    config: Config,
    params: PyTree,
    key: Array,
    labels: np.ndarray | None,
    *,
    num: int,
    batch: int,
    latents: bool = False,
    guide: tuple[PyTree, Array] | None = None,
) -> Iterator[np.ndarray]:
    """Pictures 0..num-1 as uint8 batches `[<= batch, H, W, C]`, made with `config.sample`; or float32 latents.

    Every batch has the same size on the devices (the last is filled up and cut), so there is one compilation.

    Args:
      program: `pmapped(generator(config, spec))`, or `sharded`.
      config: of which `sample` and `diffusion` are read.
      params: the network's.
      key: the run of pictures.
      labels: `[num]`, or None without classes.
      num: how many.
      batch: at a time, rounded up to a multiple of the devices.
      latents: they are none, but an autoencoder's latents: as the network makes them.
      guide: of a program with a classifier: its params and its scale.

    Raises:
      InputError: a picture is NaN or infinite.
    """
    how = settings(config)

    def call(index: np.ndarray) -> Any:
        some = None if labels is None else labels[np.minimum(index, num - 1)]
        return program(params, key, index, some, *how, guide)

    for images in finite_batches(call, num=num, batch=batch):
        yield images if latents else to_uint8(images)


def finite_batches(call: Callable[[np.ndarray], Any], *, num: int, batch: int) -> Iterator[np.ndarray]:
    """What `call` makes of the numbers 0..num-1, float32 `[<= batch, ...]` at a time.

    Args:
      call: int32 `[devices, B / devices]` -> `[devices, B / devices, ...]`. B is always the same: the last numbers may
        be beyond `num`, of what is left out.
      num: how many.
      batch: at a time, rounded up to a multiple of the devices.

    Raises:
      InputError: something is NaN or infinite.

    >>> [x.tolist() for x in finite_batches(lambda index: 2.0 * index, num=3, batch=2)]
    [[0.0, 2.0], [4.0]]
    """
    devices = jax.device_count()
    share = -(-min(batch, num) // devices)
    for first in range(0, num, share * devices):
        index = np.arange(first, first + share * devices, dtype=np.int32).reshape(devices, share)
        x = np.asarray(call(index))
        images = x.reshape(-1, *x.shape[2:])[: num - first]
        if not np.isfinite(images).all():
            raise InputError("the pictures are not finite: lower the guidance or the temperature, clip, or use float32")
        yield images


def paths(
    program: Any,
    config: Config,
    params: PyTree,
    key: Array,
    labels: np.ndarray | None,
    *,
    num: int,
    guide: tuple[PyTree, Array] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The way of pictures 0..num-1 of `in_batches`, all at once: `x_t` at each time of the grid, and the predicted x_0.

    Args:
      program: `pmapped(generator(config, spec, path=True))`.
      config: as of `in_batches`, like the others.

    Returns:
      both float32 `[n + 1, num, H, W, C]`.
    """
    devices = jax.local_device_count()
    index = np.arange(-(-num // devices) * devices, dtype=np.int32)
    some = None if labels is None else labels[np.minimum(index, num - 1)].reshape(devices, -1)
    found = program(params, key, index.reshape(devices, -1), some, *settings(config), guide)
    # [devices, n + 1, B, ...]
    way, guesses = (np.concatenate(list(np.asarray(x)), axis=1)[:, :num] for x in found)
    return way, guesses


def forward(x0: Array, times: np.ndarray, key: Array, *, config: Config) -> np.ndarray:
    """One path of the forward process, x_t ~ q(x_t | x_s) step by step.

    Args:
      x0: data `[B, ...]` at time 0, in [-1, 1].
      times: increasing from 0, `[n]`.
      key: typed.
      config: of which `diffusion` is read.

    Returns:
      `[n, B, ...]`, the data first.
    """
    schedule, found = build.schedule(config.diffusion), [x0]
    for i, (s, t) in enumerate(itertools.pairwise(times.astype(np.float32))):
        eps = white_noise(jax.random.fold_in(key, i), x0.shape)
        found.append(process.q_transition(found[-1], jnp.asarray(s), jnp.asarray(t), eps, schedule=schedule))
    return np.stack([np.asarray(x) for x in found])


def shown(x: np.ndarray, times: np.ndarray, *, config: Config) -> np.ndarray:
    """`x_t / sqrt(alpha_t^2 + sigma_t^2)` as uint8: pictures of every time on one scale, whatever the schedule's.

    Args:
      x: `[n, B, ...]`.
      times: `[n]`.
      config: of which `diffusion` is read.
    """
    schedule, t = build.schedule(config.diffusion), jnp.asarray(times, jnp.float32)
    scale = np.asarray(jnp.hypot(schedule.alpha(t), schedule.sigma(t)))
    return to_uint8(x / scale.reshape(-1, *[1] * (x.ndim - 1)))
