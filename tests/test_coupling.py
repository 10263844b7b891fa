"""The assignment of noise to data against brute force, scipy's solver, and what a transport plan must keep."""

import itertools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from jaxdiff import InputError
from jaxdiff.coupling import assign

rng = np.random.default_rng(0)


def cost(x0, eps):
    return np.square(np.asarray(x0) - np.asarray(eps)).sum()


@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_no_permutation_is_better(n):
    x0, eps = rng.standard_normal((2, n, 3, 2)).astype(np.float32)
    best = min(cost(x0, eps[list(p)]) for p in itertools.permutations(range(n)))
    np.testing.assert_allclose(cost(x0, assign(jnp.asarray(x0), jnp.asarray(eps))), best, rtol=1e-5)


@pytest.mark.parametrize("n", [17, 64])
def test_it_is_scipys_assignment(n):
    """The same pairs, in the order of the data: the optimum of random numbers is unique."""
    x0, eps = rng.standard_normal((2, n, 10)).astype(np.float32)
    _, j = linear_sum_assignment(((x0[:, None] - eps[None]) ** 2).sum(-1))
    np.testing.assert_array_equal(assign(jnp.asarray(x0), jnp.asarray(eps)), eps[j])
    np.testing.assert_array_equal(jax.jit(assign)(jnp.asarray(x0), jnp.asarray(eps)), eps[j])


def test_noise_of_one_dimension_is_sorted_as_the_data():
    """The optimal transport of the line is monotone."""
    x0, eps = rng.standard_normal((2, 30, 1)).astype(np.float32)
    found = assign(jnp.asarray(x0), jnp.asarray(eps))
    np.testing.assert_array_equal(found[np.argsort(x0[:, 0])], np.sort(eps, axis=0))


def test_straighter_paths_from_the_same_noise():
    """Every row is there once; data at eps itself, shuffled, is brought home: straight lines of length 0."""
    eps = rng.standard_normal((20, 4, 4, 1)).astype(np.float32)
    x0 = eps[rng.permutation(20)]
    found = assign(jnp.asarray(x0), jnp.asarray(eps))
    np.testing.assert_array_equal(found, x0)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_dtype_is_kept_and_the_choice_has_no_gradient(dtype):
    x0, eps = (jnp.asarray(a, dtype) for a in rng.standard_normal((2, 5, 3)).astype(np.float32))
    assert assign(x0, eps).dtype == dtype
    of_x0, of_eps = jax.grad(lambda x0, eps: assign(x0, eps).astype(jnp.float32).sum(), (0, 1))(x0, eps)
    np.testing.assert_array_equal(of_x0, 0)
    np.testing.assert_array_equal(of_eps, 1)


def test_misuse_is_refused(monkeypatch):
    with pytest.raises(InputError, match=r"data and noise of one shape, got \(2, 3\) and \(3, 3\)"):
        assign(jnp.zeros((2, 3)), jnp.zeros((3, 3)))
    monkeypatch.setitem(sys.modules, "optax", None)
    with pytest.raises(InputError, match="needs optax; pip install"):
        assign(jnp.zeros((2, 3)), jnp.zeros((2, 3)))
