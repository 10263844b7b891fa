"""Low-rank adaptation: of a kernel W, `W + A B` with few columns in A, of which only A and B are trained."""

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxdiff.typing import Array, InputError, PyTree


def adapted(key: Array, variables: PyTree, *, rank: int) -> PyTree:
    """A network's variables with a collection "lora": A and B for each dense kernel in its attentions.

    B starts at 0, so the network starts as it is: `merged` gives back the same kernels. A is normal with the variance
    1 / in.

    Args:
      key: one typed key.
      variables: `{"params": ...}`.
      rank: the columns of A `[in, rank]` and rows of B `[rank, out]`, at least 1.

    Returns:
      `{"params": ..., "lora": {"down_0_0_attention/qkv": {"a": A, "b": B}, ...}}`; of stacked kernels stacked A and B.

    Raises:
      InputError: there is no attention.

    >>> qkv = {"kernel": jnp.ones((8, 24)), "bias": jnp.ones(24)}
    >>> variables = adapted(jax.random.key(0), {"params": {"middle_attention": {"qkv": qkv}}}, rank=2)
    >>> variables["lora"]["middle_attention/qkv"]["a"].shape
    (8, 2)

    Source: Hu et al. 2021 (arXiv 2106.09685), section 4.1, with alpha = rank.
    """
    flat = flatten_dict(variables["params"], sep="/")
    names = [name.removesuffix("/kernel") for name in flat if "attention/" in name and name.endswith("/kernel")]
    if not names:
        raise InputError("low-rank adaptation is of the attention, and this network has none")
    lora = {}
    for i, name in enumerate(sorted(names)):
        *stack, inputs, outputs = flat[f"{name}/kernel"].shape
        a = jax.random.normal(jax.random.fold_in(key, i), (*stack, inputs, rank), jnp.float32) / inputs**0.5
        lora[name] = {"a": a, "b": jnp.zeros((*stack, rank, outputs), jnp.float32)}
    return {**variables, "lora": lora}


def merged(variables: PyTree) -> PyTree:
    """`{"params": ...}` with `W + A B` for W, where there is a collection "lora"; else the same.

    >>> params = {"attention": {"out": {"kernel": jnp.ones((1, 1))}}}
    >>> lora = {"attention/out": {"a": jnp.ones((1, 1)), "b": jnp.full((1, 1), 2.0)}}
    >>> merged({"params": params, "lora": lora})["params"]
    {'attention': {'out': {'kernel': Array([[3.]], dtype=float32)}}}
    """
    if "lora" not in variables:
        return variables
    flat = flatten_dict(variables["params"], sep="/")
    flat |= {f"{name}/kernel": flat[f"{name}/kernel"] + ab["a"] @ ab["b"] for name, ab in variables["lora"].items()}
    return {"params": unflatten_dict(flat, sep="/")}
