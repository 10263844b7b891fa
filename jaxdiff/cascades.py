"""Pictures from networks that are given smaller ones: super-resolution and cascades.

Pure functions of the form of `sampling.generator`, to be compiled by `sampling.pmapped` or `sharded`, and drivers.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import build, sampling
from jaxdiff.config import Config
from jaxdiff.noise import example_keys, white_noise
from jaxdiff.pixels import to_uint8
from jaxdiff.tasks.super_resolution import cascade, super_resolve
from jaxdiff.typing import Array, PyTree


def super_resolver(config: Config, spec: build.Spec) -> sampling.Generate:
    """A pure function that enlarges pictures:

        generate(params, key, index [B], given, sampler, times [n + 1], guidance, temperature, noise)
            -> float32 [B, H, W, C] in [-1, 1]

    with `given` = `(labels [B] or None, low [B, h, w, C] in [-1, 1], level [B])`. Draw `index_i` is a function of the
    key and that number.

    Args:
      config: of which `model`, `diffusion`, `condition` and `sample` are read.
      spec: of the large pictures.
    """

    def generate(
        params: PyTree, key: Array, index: Array, given: tuple[Array | None, Array, Array], *how: Any
    ) -> Array:
        labels, low, level = given
        return _enlarged(
            example_keys(key, index), low, labels=labels, level=level, params=params, how=how[:5], config=config,
            spec=spec,
        )  # fmt: skip

    return generate


def cascaded(base: sampling.Generate, stages: Sequence[tuple[Config, build.Spec]]) -> sampling.Generate:
    """A pure function that makes pictures and enlarges them, one program:

        generate(params, key, index [B], given, samplers, times, guidances, temperatures, noises, guide)
            -> float32 [B, H, W, C] in [-1, 1]

    Of `params` and the settings there is one for each, base first; `given` is `(labels [B] or None, levels)`, of which
    there is one, `[B]`, for each stage. Its small pictures are those that `base` makes of the same key and index.

    Args:
      base: `sampling.generator`.
      stages: of each the run's config, and the spec of its pictures.
    """

    def generate(
        params: tuple[PyTree, ...],
        key: Array,
        index: Array,
        given: tuple[Array | None, tuple[Array, ...]],
        *how: Any,
    ) -> Array:
        labels, levels = given
        *settings, guide = how
        first, *others = zip(*settings, strict=True)

        def small(keys: Array) -> Array:  # the keys are example_keys(key, index), which it makes itself
            made: Array = base(params[0], key, index, labels, *first, guide)
            return made

        enlarge = [
            partial(_enlarged, labels=labels, level=level, params=its, how=how, config=config, spec=spec)
            for (config, spec), its, level, how in zip(stages, params[1:], levels, others, strict=True)
        ]
        return cascade(example_keys(key, index), small, enlarge, num=index.shape[0])[-1]

    return generate


def _enlarged(
    keys: Array,
    low: Array,
    *,
    labels: Array | None,
    level: Array,
    params: PyTree,
    how: Sequence[Any],
    config: Config,
    spec: build.Spec,
) -> Array:
    sampler, times, scale, temperature, noise = how
    return super_resolve(
        keys, low, bind=lambda image: sampling.guided(config, spec, params, labels, scale, image=image),
        factor=config.condition.factor or 1, sampler=sampler, times=times, schedule=build.schedule(config.diffusion),
        level=level, enlargement=config.condition.enlargement, noise=noise or white_noise, temperature=temperature,
    )  # fmt: skip


def of_draw(key: Array, draw: int) -> Array:
    """The key of one of several draws of the same pictures: of the first, 0, it is `key` itself.

    >>> key = jax.random.key(0)
    >>> of_draw(key, 0) is key
    True
    """
    # No picture has such a number: none of them gets a key that is folded from it, too.
    return key if draw == 0 else jax.random.fold_in(key, jnp.uint32(2**32 - draw))


def enlargements(
    program: Any,
    config: Config,
    params: PyTree,
    key: Array,
    labels: np.ndarray | None,
    low: Callable[[np.ndarray], np.ndarray],
    *,
    num: int,
    batch: int,
    level: float,
    draws: int = 1,
) -> Iterator[np.ndarray]:
    """Pictures 0..num-1 enlarged, float32 batches `[<= batch, draws, H, W, C]`, with `config.sample`.

    Args:
      program: `sampling.pmapped(super_resolver(config, spec))`, or `sharded`.
      config: of which `sample` and `diffusion` are read.
      params: the network's.
      key: draw j of picture i is a function of the key, i and j.
      labels: `[num]`, or None without classes.
      low: numbers int `[B]` -> the small pictures, float32 `[B, h, w, C]` in [-1, 1].
      num: how many.
      batch: at a time, rounded up to a multiple of the devices.
      level: of the augmentation.
      draws: of each.

    Raises:
      InputError: a picture is NaN or infinite.
    """
    how = sampling.settings(config)

    def call(index: np.ndarray) -> np.ndarray:
        rows = np.minimum(index, num - 1)
        small = low(rows.ravel())
        given = (
            None if labels is None else labels[rows],
            small.reshape(*rows.shape, *small.shape[1:]),
            np.full(rows.shape, level, np.float32),
        )
        made = [program(params, of_draw(key, j), index, given, *how, None) for j in range(draws)]
        return np.stack([np.asarray(x) for x in made], axis=2)

    return sampling.finite_batches(call, num=num, batch=batch)


def in_batches(
    program: Any,
    settings: Sequence[Config],
    params: tuple[PyTree, ...],
    key: Array,
    labels: np.ndarray | None,
    *,
    num: int,
    batch: int,
    levels: Sequence[float],
    guide: tuple[PyTree, Array] | None = None,
) -> Iterator[np.ndarray]:
    """Pictures 0..num-1 of a cascade, as `sampling.in_batches` makes a network's: uint8 `[<= batch, H, W, C]`.

    Args:
      program: `sampling.pmapped(cascaded(base, stages))`.
      settings: the config of each, base first, of which `sample` and `diffusion` are read.
      params: each one's.
      key: the run of pictures.
      labels: `[num]`, or None without classes.
      num: how many.
      batch: at a time, rounded up to a multiple of the devices.
      levels: of each stage's augmentation.
      guide: of a base with a classifier: its params and its scale.

    Raises:
      InputError: a picture is NaN or infinite.
    """
    how = tuple(zip(*(sampling.settings(config) for config in settings), strict=True))

    def call(index: np.ndarray) -> Any:
        some = None if labels is None else labels[np.minimum(index, num - 1)]
        given = some, tuple(np.full(index.shape, level, np.float32) for level in levels)
        return program(params, key, index, given, *how, guide)

    return map(to_uint8, sampling.finite_batches(call, num=num, batch=batch))
