"""Running the pure step on devices: `pmapped` or `sharded`, on one host or many. One device is a case of n.

Every process feeds its share of the global batch, and calls the same programs in the same order.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.tree_util import Partial

from jaxdiff.train.state import TrainState
from jaxdiff.train.step import Metrics
from jaxdiff.typing import Array, Batch, InputError, PyTree

AXIS = "devices"
SMALL = 1024  # numbers: a parameter with no more is not worth spreading
Step = Callable[..., tuple[TrainState, Metrics]]
HostBatch = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Parallel:
    """A step on devices.

    Attributes:
      run: `(state, batches, key) -> (state, metrics [K])`, K steps in one call, under `lax.scan` where K > 1. The state
        is donated: use what is returned. State and key are as `place` or `from_global` made them, batches as `feed`.
      feed: K host batches, this process's share `[B / processes, ...]` of each -> arrays on the devices.
      place: a tree that every process has -> on the devices, as `run` takes it.
      make: `(initial, key) -> place(initial(key))`, which where the state is spread is never whole on a device, nor are
        arrays that `initial` holds as a `jax.tree_util.Partial`.
      shardings: a tree of shapes -> how the whole of each leaf lies over all hosts' devices.
      to_global: a tree as `run` returns it -> arrays that know all hosts' devices, as a checkpoint wants them.
      from_global: the other way.
      mesh: over which the state is spread; None where every device has all of it.
    """

    run: Any
    feed: Callable[[Sequence[HostBatch]], Batch]
    place: Callable[[PyTree], PyTree]
    make: Callable[[Callable[[Array], PyTree], Array], PyTree]
    shardings: Callable[[PyTree], PyTree]
    to_global: Callable[[PyTree], PyTree]
    from_global: Callable[[PyTree], PyTree]
    mesh: Mesh | None = None


def pmapped(step: Step) -> Parallel:
    """Data parallel under `pmap`: every device of every process has all of the state, and its part of the batch.

    Args:
      step: `(state, batch, key, *, axis_name) -> (state, metrics)`, as `train_step` with its functions bound.
    """
    steps = partial(_in_one_call, partial(step, axis_name=AXIS))
    run = jax.pmap(steps, axis_name=AXIS, in_axes=(None, 1, None), out_axes=None, devices=_devices(), donate_argnums=0)
    here, everywhere = (Mesh(np.array(devices), (AXIS,)) for devices in (jax.local_devices(), _devices()))
    on_each, split = NamedSharding(here, PartitionSpec()), NamedSharding(here, PartitionSpec(None, AXIS))
    whole = NamedSharding(everywhere, PartitionSpec())

    def feed(batches: Sequence[HostBatch]) -> Batch:
        put: Batch = jax.device_put(shard(batches, devices=jax.local_device_count()), split)
        return put

    def known_as(sharding: NamedSharding, tree: PyTree) -> PyTree:  # the same buffers
        def one(x: Array) -> Array:
            return jax.make_array_from_single_device_arrays(x.shape, sharding, [s.data for s in x.addressable_shards])

        return tree if jax.process_count() == 1 else jax.tree.map(one, tree)

    def make(initial: Callable[[Array], PyTree], key: Array) -> PyTree:
        return jax.device_put(initial(key), on_each)

    return Parallel(
        run=run,
        feed=feed,
        place=partial(jax.device_put, device=on_each),
        make=make,
        shardings=lambda tree: jax.tree.map(lambda _: whole, tree),
        to_global=partial(known_as, whole),
        from_global=partial(known_as, on_each),
    )


def sharded(step: Step, *, shards: int | None = None) -> Parallel:
    """Fully sharded data parallel under `jit`: parameters, averages and optimiser state are spread over devices.

    The devices of all processes are a mesh "data" x "fsdp". The batch is shared by all of them; the state is spread
    over "fsdp", leaf by leaf (`spread`), and the same in each row of "data".

    Args:
      step: as in `pmapped`.
      shards: over how many devices the state is spread, the size of "fsdp"; default all.

    Raises:
      InputError: `shards` does not divide the number of devices.
    """
    devices = np.array(_devices())
    shards = shards or len(devices)
    if len(devices) % shards:
        raise InputError(f"--shards {shards}: must divide the number of devices, {len(devices)}")
    mesh = Mesh(devices.reshape(-1, shards), ("data", "fsdp"))
    split = NamedSharding(mesh, PartitionSpec(None, ("data", "fsdp")))

    def shardings(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda x: NamedSharding(mesh, spread(x.shape, shards)), tree)

    def steps(state: TrainState, batches: Batch, key: Array) -> tuple[TrainState, Metrics]:
        state, metrics = _in_one_call(partial(step, axis_name=None), state, batches, key)
        # As they came: otherwise the compiler may choose other places, and the next call is compiled again.
        state = jax.lax.with_sharding_constraint(state, shardings(state))
        return state, jax.lax.with_sharding_constraint(metrics, NamedSharding(mesh, PartitionSpec()))

    def feed(batches: Sequence[HostBatch]) -> Batch:
        stacked = {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
        return {name: jax.make_array_from_process_local_data(split, array) for name, array in stacked.items()}

    def place(tree: PyTree) -> PyTree:
        return jax.tree.map(_put, tree, shardings(tree))

    def make(initial: Callable[[Array], PyTree], key: Array) -> PyTree:
        placed = shardings(jax.eval_shape(initial, key))
        called: Any = jax.jit(lambda initial, key: initial(key), out_shardings=placed)
        return called(place(Partial(initial)), place(key))

    def same(tree: PyTree) -> PyTree:
        return tree

    run = jax.jit(steps, donate_argnums=0)
    return Parallel(run, feed, place, make, shardings, to_global=same, from_global=same, mesh=mesh)


def _put(x: Array, sharding: NamedSharding) -> Array:
    """An array that every process has, of which each puts its devices' parts; device_put wants all devices its own."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        key: Array = jax.random.wrap_key_data(_put(jax.random.key_data(x), sharding), impl=jax.random.key_impl(x))
        return key
    array = np.asarray(x)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def spread(shape: tuple[int, ...], shards: int) -> PartitionSpec:
    """How an array is spread: along its largest dimension that the shards divide, the last of equals.

    One with none, or with few numbers, is whole on every device.

    >>> [tuple(spread(shape, 8)) for shape in ((3, 3, 128, 256), (3, 3, 256, 250), (256,))]
    [(None, None, None, 'fsdp'), (None, None, 'fsdp', None), ()]
    """
    fit = [size if size % shards == 0 else 0 for size in shape]
    if shards == 1 or int(np.prod(shape)) <= SMALL or not any(fit):
        return PartitionSpec()
    along = max(range(len(shape)), key=lambda i: (fit[i], i))
    return PartitionSpec(*("fsdp" if i == along else None for i in range(len(shape))))


def bytes_per_device(tree: PyTree, shardings: PyTree) -> int:
    """What a device holds of a tree of shapes that lies so.

    >>> mesh = Mesh(np.array(jax.devices()[:1]), ("fsdp",))
    >>> bytes_per_device(jax.ShapeDtypeStruct((8, 4), np.float32), NamedSharding(mesh, PartitionSpec("fsdp")))
    128
    """
    sizes = jax.tree.map(lambda x, s: int(np.prod(s.shard_shape(x.shape))) * x.dtype.itemsize, tree, shardings)
    return sum(jax.tree.leaves(sizes))


def _devices() -> list[Any]:
    """Of all processes, a process's own side by side: so its share of the batch is one piece."""
    return sorted(jax.devices(), key=lambda device: (device.process_index, device.id))


def _in_one_call(step: Step, state: TrainState, batches: Batch, key: Array) -> tuple[TrainState, Metrics]:
    def one(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        return step(state, batch, key)

    if next(iter(batches.values())).shape[0] > 1:
        return jax.lax.scan(one, state, batches)
    # XLA on CPU runs gradients of convolutions 30-50 times slower inside a loop, even in a loop of one.
    state, metrics = one(state, {name: array[0] for name, array in batches.items()})
    return state, jax.tree.map(lambda m: m[None], metrics)


def anyone(here: bool) -> Any:
    """Whether it is true in any process: a bool to be fetched later, so that no host waits for it now.

    Processes that ask in the same order get the same answers: so they agree, for example, on the step to stop at.
    """
    if jax.process_count() == 1:
        return np.bool_(here)
    return _any()(np.full(jax.local_device_count(), here, np.int32))


@cache
def _any() -> Any:
    return jax.pmap(lambda flag: jax.lax.pmax(flag, AXIS), AXIS, out_axes=None, devices=_devices())


def _local_mesh() -> Mesh:
    return Mesh(np.array(jax.local_devices()), (AXIS,))


def replicated() -> NamedSharding:
    """The same array on every local device, placed as `pmapped` returns its state."""
    return NamedSharding(_local_mesh(), PartitionSpec())


def replicate(tree: PyTree) -> PyTree:
    """The tree on every local device, as `pmapped` returns its state."""
    return jax.device_put(tree, replicated())


def per_device(batch_size: int, *, devices: int, parts: int = 1) -> int:
    """A device's share of a batch, of which it computes `parts` one after the other.

    Raises:
      InputError: it does not divide evenly.

    >>> per_device(128, devices=8)
    16
    """
    least = devices * parts
    if batch_size % least:
        down, up = batch_size // least * least, -(-batch_size // least) * least
        how = f" in {parts} parts" if parts > 1 else ""
        raise InputError(
            f"batch size {batch_size} cannot be shared evenly by {devices} devices{how}; use "
            f"{f'{down} or ' if down else ''}{up} (--train.batch-size), or show JAX fewer devices"
        )
    return batch_size // devices


def shard(batches: Sequence[HostBatch], *, devices: int) -> dict[str, np.ndarray]:
    """K host batches `[B, ...]` as arrays `[K, devices, B / devices, ...]`.

    Raises:
      InputError: the devices do not divide B.

    >>> shard([{"image": np.zeros((8, 4, 4, 1))}] * 3, devices=2)["image"].shape
    (3, 2, 4, 4, 4, 1)
    """
    stacked = {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
    return {
        name: array.reshape(len(batches), devices, per_device(array.shape[1], devices=devices), *array.shape[2:])
        for name, array in stacked.items()
    }
