"""The loss of examples that are not trained on: the same ones, with the same noise, every time."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdiff.noise import example_keys
from jaxdiff.train.parallel import AXIS
from jaxdiff.train.step import LossFn
from jaxdiff.typing import Array, Batch, InputError, PyTree

Program = Callable[[PyTree, Batch, np.ndarray, Array], dict[str, np.ndarray]]
"""`(params, host batch of B, the examples' numbers [B], key) -> named per-example terms [B, ...]`, on the host."""


def example_terms(params: PyTree, batch: Batch, index: Array, key: Array, *, loss_fn: LossFn) -> dict[str, Array]:
    """The terms of each example, `[B]`, drawn with the key of its number: pure, to be compiled.

    >>> import jax.numpy as jnp
    >>> loss_fn = lambda params, batch, keys: {"loss": batch["image"] * params}
    >>> batch = {"image": jnp.array([1.0, 3.0])}
    >>> example_terms(jnp.array([2.0]), batch, jnp.arange(2), jax.random.key(0), loss_fn=loss_fn)["loss"].tolist()
    [2.0, 6.0]
    """
    return loss_fn(params, batch, example_keys(key, index))


def pmapped(loss_fn: LossFn) -> Program:
    """`example_terms` over all local devices. B is a multiple of them.

    Args:
      loss_fn: without dropout or hidden labels, such as `build.eval_loss_fn`.
    """
    run = jax.pmap(partial(example_terms, loss_fn=loss_fn), axis_name=AXIS, in_axes=(None, 0, 0, None))
    devices = jax.local_device_count()

    def program(params: PyTree, batch: Batch, index: np.ndarray, key: Array) -> dict[str, np.ndarray]:
        def shared(x: Any) -> Any:
            return x.reshape(devices, -1, *x.shape[1:])

        terms = run(params, jax.tree.map(shared, batch), shared(index), key)
        return {name: np.asarray(term).reshape(-1, *term.shape[2:]) for name, term in terms.items()}

    return program


def sharded(loss_fn: LossFn, mesh: Mesh) -> Program:
    """As `pmapped`, with parameters that are spread over the mesh of all devices (`parallel.sharded`)."""
    run = jax.jit(partial(example_terms, loss_fn=loss_fn))
    split = NamedSharding(mesh, PartitionSpec(mesh.axis_names))

    def program(params: PyTree, batch: Batch, index: np.ndarray, key: Array) -> dict[str, np.ndarray]:
        here, index = jax.tree.map(partial(jax.make_array_from_process_local_data, split), (batch, index))
        terms = multihost_utils.process_allgather(run(params, here, index, key), tiled=True)
        size = index.shape[0] // jax.process_count()
        first = jax.process_index() * size
        return {name: np.asarray(term)[first : first + size] for name, term in terms.items()}

    return program


def over_processes(sums: dict[str, float]) -> dict[str, float]:
    """The sums over all processes, by name, of each one's.

    >>> over_processes({"loss": 0.1})
    {'loss': 0.1}
    """
    here = np.array(list(sums.values()), np.float64).view(np.uint32)  # whose bits are not rounded to float32
    every = np.asarray(multihost_utils.process_allgather(here)).reshape(jax.process_count(), -1)
    return dict(zip(sums, np.ascontiguousarray(every).view(np.float64).sum(0).tolist()))


def evaluate(
    params: PyTree,
    batches: Iterable[tuple[np.ndarray, Any]],
    key: Array,
    program: Program,
    *,
    total: Callable[[dict[str, float]], dict[str, float]] = lambda sums: sums,
) -> dict[str, float]:
    """The mean of every term over some examples.

    Example n always has the key `fold_in(key, n)`: the mean is the same for the same weights, to the bit, and whatever
    the batch size and the number of devices up to the rounding of the network. It is summed in float64.

    Args:
      params: the network's, such as the moving average.
      batches: the examples' numbers, int `[B]`, and they, arrays `[B, ...]`, all of one size; a number of -1 is an
        example that fills up and does not count (`data.in_order` makes them).
      key: one typed key, always the same.
      program: the compiled terms, `pmapped(loss_fn)`.
      total: of many processes, each with its own batches: the sums over all of them, by name, of each one's.

    Raises:
      InputError: no example.

    >>> import jax.numpy as jnp
    >>> loss_fn = lambda params, batch, keys: {"loss": (batch["image"] - params) ** 2}
    >>> batches = [(np.array([0, 1]), {"image": np.array([1.0, 3.0], np.float32)}),
    ...            (np.array([2, -1]), {"image": np.array([5.0, 5.0], np.float32)})]
    >>> evaluate(jnp.zeros(1), batches, jax.random.key(0), pmapped(loss_fn))["loss"]  # (1 + 9 + 25) / 3
    11.666666666666666
    """
    sums: defaultdict[str, float] = defaultdict(float)
    for index, batch in batches:
        counts = index >= 0
        for name, term in program(params, batch, np.maximum(index, 0), key).items():
            sums[name] += float(np.sum(term[counts], dtype=np.float64))
        sums[COUNT] += int(counts.sum())
    sums = defaultdict(float, total(dict(sums)))
    count = sums.pop(COUNT, 0)
    if not count:
        raise InputError("evaluate: there is no example; give at least one (--data.holdout, --data.eval-split)")
    return {name: value / count for name, value in sums.items()}


def every_term(
    params: PyTree,
    batches: Iterable[tuple[np.ndarray, Any]],
    key: Array,
    program: Program,
    *,
    progress: Callable[[int], Any] = lambda num: None,
) -> dict[str, np.ndarray]:
    """The terms themselves of all examples, `[N, ...]`, such as a curve of each.

    Args:
      params: as of `evaluate`, like `batches`, `key` and `program`; the terms may be arrays, `[B, ...]`.
      progress: told how many examples each batch had.

    >>> import jax.numpy as jnp
    >>> loss_fn = lambda params, batch, keys: {"powers": batch["image"][:, None] ** params}
    >>> batches = [(np.array([0, -1]), {"image": np.array([3.0, 5.0], np.float32)})]
    >>> every_term(jnp.array([[1.0, 2.0]]), batches, jax.random.key(0), pmapped(loss_fn))["powers"].tolist()
    [[3.0, 9.0]]
    """
    parts: defaultdict[str, list[np.ndarray]] = defaultdict(list)
    for index, batch in batches:
        for name, term in program(params, batch, np.maximum(index, 0), key).items():
            parts[name].append(term[index >= 0])
        progress(int((index >= 0).sum()))
    return {name: np.concatenate(found) for name, found in parts.items()}


COUNT = "examples"
