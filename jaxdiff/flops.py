"""What a program computes, counted before it is compiled."""

import math
from collections.abc import Callable
from typing import Any

import jax

from jaxdiff.typing import InputError


def multiply_adds(function: Callable[..., Any], *args: Any) -> int:
    """The multiply-adds of the matrix products and convolutions in `function(*args)`, from its jaxpr.

    Each is two FLOP. Zeros at the edges of a convolution count, as papers have it; nothing elementwise does.

    Args:
      function: any that can be traced; loops of known length (`scan`) count each time, of branches the largest.
      args: arrays, or `jax.ShapeDtypeStruct`s: nothing is computed.

    Raises:
      InputError: a `while` loop, whose length the program does not say; or attention by cuDNN, which hides its own.

    >>> a, b = jax.ShapeDtypeStruct((2, 3), "float32"), jax.ShapeDtypeStruct((3, 5), "float32")
    >>> multiply_adds(jax.numpy.matmul, a, b)
    30
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += equation.outvars[0].aval.size * math.prod(shape[i] for i in contracted)
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval
            outputs = kernel.shape[params["dimension_numbers"].rhs_spec[0]]
            total += equation.outvars[0].aval.size * kernel.size // outputs
        elif name.startswith("dot_product_attention"):
            raise InputError("multiply_adds: attention by cuDNN, which hides its sums; set JAXDIFF_ATTENTION=xla")
        elif name == "while":
            raise InputError("multiply_adds: a while loop, whose length the program does not say; use a scan")
        elif name == "cond":
            total += max(map(_count, _inner(params["branches"])))
        else:
            times = params["length"] if name == "scan" else 1
            total += times * sum(map(_count, _inner(list(params.values()))))
    return total


def _inner(value: Any) -> list[Any]:
    """The jaxprs in an equation's parameters."""
    if isinstance(value, list | tuple):
        return [jaxpr for item in value for jaxpr in _inner(item)]
    value = getattr(value, "jaxpr", value)  # of a closed one
    return [value] if hasattr(value, "eqns") else []
