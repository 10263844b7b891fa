"""Tasks on many images: one pure function, and a driver that runs it in batches on all devices."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdiff import build, sampling
from jaxdiff.config import Config
from jaxdiff.noise import example_keys, fold_in
from jaxdiff.pixels import from_uint8
from jaxdiff.typing import Array, Denoiser, PyTree, Schedule


class Network(NamedTuple):
    """Config and spec of a network; its parameters travel apart, as arguments of the program."""

    config: Config
    spec: build.Spec


class Given(NamedTuple):
    """What a task is given, of B images.

    Attributes:
      keys: `[B]`, each image's own.
      images: float32 `[B, h, w, c]` in [-1, 1].
      predict: of each network, labels `[B]` or None -> its denoiser as `sampling.guided` makes it.
      labels: tuples of labels `[B]`, as many as the task asks for; None without classes.
      sampler: by the settings of the first network's config, as the others.
      times: `[n + 1]`.
      temperature: scales the injected noise.
      schedule: gives alpha and sigma.
    """

    keys: Array
    images: Array
    predict: tuple[Callable[[Array | None], Denoiser], ...]
    labels: tuple[Array | None, ...]
    sampler: Any
    times: Array
    temperature: Array
    schedule: Schedule


Task = Callable[[Given], Array]
"""Images to pictures, float32 `[B, H, W, C]`; `tasks` has what it may compose."""


def program(task: Task, networks: Sequence[Network]) -> Any:
    """The task over all devices, compiled once by `sampling.pmapped`, with the params of each network, and in place of
    the labels `(labels, images)`."""
    schedule = build.schedule(networks[0].config.diffusion)

    def run(
        params: tuple[PyTree, ...],
        key: Array,
        index: Array,
        shown: tuple[tuple[Array | None, ...], Array],
        *how: Any,
    ) -> Array:
        labels, images = shown
        sampler, times, scale, temperature, *_ = how

        def predict(network: Network, own: PyTree) -> Callable[[Array | None], Denoiser]:
            return lambda labels: sampling.guided(*network, own, labels, scale)

        makers = tuple(map(predict, networks, params))
        keys = fold_in(example_keys(key, index), 0)
        return task(Given(keys, images, makers, labels, sampler, times, temperature, schedule))

    return sampling.pmapped(run)


def in_batches(
    compiled: Any,
    config: Config,
    params: tuple[PyTree, ...],
    key: Array,
    labels: tuple[np.ndarray | None, ...],
    images: np.ndarray,
    *,
    batch: int,
    numbers: np.ndarray,
    times: np.ndarray | None = None,
) -> Iterator[np.ndarray]:
    """What the task makes of uint8 images `[N, ...]`, as float32 batches; image i's is the same in any batch.

    Args:
      compiled: of `program`.
      config: of which `sample` and `diffusion` are read.
      params: of each network.
      key: of this draw.
      labels: each `[N]` or None.
      images: uint8 `[N, h, w, c]`, or float32 in [-1, 1].
      batch: at a time, rounded up to a multiple of the devices.
      numbers: by which each image draws its noise, int32 `[N]`.
      times: in place of those of `config.sample`.

    Raises:
      InputError: a picture is NaN or infinite.
    """
    sampler, grid, *rest = sampling.settings(config)
    grid = grid if times is None else np.asarray(times, np.float32)
    num = len(images)
    wide = from_uint8(images)

    def call(index: np.ndarray) -> Any:
        there = np.minimum(index, num - 1)
        own = tuple(None if some is None else some[there] for some in labels)
        return compiled(params, key, numbers[there], (own, wide[there]), sampler, grid, *rest, None)

    return sampling.finite_batches(call, num=num, batch=batch)
