"""Running the pure step on devices. One device is a case of n."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdiff.train.state import TrainState
from jaxdiff.train.step import Metrics
from jaxdiff.typing import Array, Batch, InputError, PyTree

AXIS = "devices"


def pmapped(step: Callable[..., tuple[TrainState, Metrics]]) -> Any:
    """Several train steps as one program over all local devices, data parallel.

    The state and the key are replicated (`replicate`) but not stacked, and the state is donated: use what is returned.

    Args:
      step: `(state, batch, key, *, axis_name) -> (state, metrics)`, as `train_step` with its functions bound.

    Returns:
      `(state, batches, key) -> (state, metrics [K])` with batches `[K, devices, B / devices, ...]` from `shard`:
      K steps run in one call, under `lax.scan` where K > 1.
    """

    def steps(state: TrainState, batches: Batch, key: Array) -> tuple[TrainState, Metrics]:
        def one(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
            return step(state, batch, key, axis_name=AXIS)

        if next(iter(batches.values())).shape[0] > 1:
            return jax.lax.scan(one, state, batches)
        # XLA on CPU runs gradients of convolutions 30-50 times slower inside a loop, even in a loop of one.
        state, metrics = one(state, {name: array[0] for name, array in batches.items()})
        return state, jax.tree.map(lambda m: m[None], metrics)

    return jax.pmap(steps, axis_name=AXIS, in_axes=(None, 1, None), out_axes=None, donate_argnums=0)


def replicated() -> NamedSharding:
    """The same array on every local device, placed as `pmapped` returns its state."""
    return NamedSharding(Mesh(np.array(jax.local_devices()), (AXIS,)), PartitionSpec())


def replicate(tree: PyTree) -> PyTree:
    """The tree on every local device. Without it the first call of `pmapped` sees another placement than the second,
    and the step is compiled twice."""
    return jax.device_put(tree, replicated())


def per_device(batch_size: int, *, devices: int) -> int:
    """A device's share of a batch.

    Raises:
      InputError: it does not divide evenly.

    >>> per_device(128, devices=8)
    16
    """
    if batch_size % devices:
        down, up = batch_size // devices * devices, -(-batch_size // devices) * devices
        raise InputError(
            f"batch size {batch_size} cannot be shared evenly by {devices} devices; use "
            f"{f'{down} or ' if down else ''}{up} (--train.batch-size), or show JAX fewer devices"
        )
    return batch_size // devices


def shard(batches: list[Batch], *, devices: int) -> dict[str, np.ndarray]:
    """K host batches `[B, ...]` as arrays `[K, devices, B / devices, ...]`.

    >>> shard([{"image": np.zeros((8, 4, 4, 1))}] * 3, devices=2)["image"].shape
    (3, 2, 4, 4, 4, 1)
    """
    stacked = {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
    return {
        name: array.reshape(len(batches), devices, per_device(array.shape[1], devices=devices), *array.shape[2:])
        for name, array in stacked.items()
    }
