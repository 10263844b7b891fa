"""Multiply-adds of a program, counted from its jaxpr: what its matrix products and convolutions need."""

import math

import jax


def multiply_adds(function, *args):
    """Of `function(*args)`; arguments may be `jax.ShapeDtypeStruct`s, so nothing is computed."""
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr):
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
        elif name == "while":
            raise NotImplementedError("a loop whose length the program does not say")
        elif name == "cond":
            total += max(map(_count, _inner(params["branches"])))
        else:
            times = params["length"] if name == "scan" else 1
            total += times * sum(map(_count, _inner(list(params.values()))))
    return total


def _inner(value):
    """The jaxprs in an equation's parameters."""
    if isinstance(value, list | tuple):
        return [jaxpr for item in value for jaxpr in _inner(item)]
    value = getattr(value, "jaxpr", value)  # of a closed one
    return [value] if hasattr(value, "eqns") else []
