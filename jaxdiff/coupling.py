"""Which noise goes with which data. Each example's own is the rule; this is about the batch, and says so."""

import jax
import jax.numpy as jnp

from jaxdiff.typing import Array, InputError


def assign(x0: Array, eps: Array) -> Array:
    """The noise of a batch in another order: the one that minimises `sum_i |x0_i - eps_i|^2`.

    Two methods are this function. It is the minibatch optimal-transport coupling of flow matching, whose paths become
    straighter, and the noise assignment of immiscible diffusion. Data and noise keep their own distributions, and
    labels stay with their data; only who meets whom changes, which depends on the batch (each device's own, if the
    batch is spread). It is for training: an example's noise is no longer a function of its key.

    Args:
      x0: data `[B, ...]`.
      eps: noise, the shape of `x0`.

    Returns:
      the rows of `eps`, permuted; no gradient flows through the choice.

    Raises:
      InputError: different shapes, or optax is not installed.

    >>> assign(jnp.array([[1.0], [-1.0], [0.0]]), jnp.array([[-2.0], [0.1], [3.0]])).tolist()
    [[3.0], [-2.0], [0.10000000149011612]]

    Source: Tong et al. 2023 (arXiv 2302.00482), minibatch OT-CFM; Li et al. 2024 (arXiv 2406.12303). The solver is the
    Hungarian algorithm of optax, of cost B^3: 0.3 s for B = 1024 on a CPU.
    """
    if x0.shape != eps.shape:
        raise InputError(f"assign: expected data and noise of one shape, got {x0.shape} and {eps.shape}")
    try:
        from optax import assignment
    except ImportError as error:
        raise InputError("assign: the assignment solver needs optax; pip install 'optax>=0.2.5'") from error
    rows, columns = (jax.lax.stop_gradient(x).reshape(x.shape[0], -1).astype(jnp.float32) for x in (x0, eps))
    # |x0 - eps|^2 up to what does not depend on the pairing.
    i, j = assignment.hungarian_algorithm(-jnp.matmul(rows, columns.T, precision="highest"))
    return eps[jnp.zeros_like(j).at[i].set(j)]
