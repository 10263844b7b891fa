"""Attention in linear time, and with learned keys and values, against loops in numpy, in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.models.layers import Attention, RMSNorm, attend, linear_attend

rng = np.random.default_rng(0)


def softmax(y, axis):
    y = np.exp(y - y.max(axis, keepdims=True))
    return y / y.sum(axis, keepdims=True)


def full(q, k, v):
    """Of one head, `[positions, d]`."""
    return softmax(q @ k.T / q.shape[-1] ** 0.5, 1) @ v


def linear(q, k, v):
    """The matrix [queries, keys] that linear attention never makes, here made."""
    return softmax(q, 1) @ softmax(k, 0).T @ v / q.shape[-1] ** 0.5


BOTH = {attend: full, linear_attend: linear}


def by_head(one_head, q, k, v):
    found = np.empty(q.shape)
    for example in range(len(q)):
        for head in range(q.shape[2]):
            found[example, :, head] = one_head(*(y[example, :, head] for y in (q, k, v)))
    return found


@pytest.mark.parametrize("function", BOTH)
@pytest.mark.parametrize("size", [1.0, 30.0])  # of logits, of which exp alone overflows in float32
def test_the_formulas_of_full_and_linear_attention(function, size):
    q, k, v = (rng.standard_normal((2, n, 3, 5)) for n in (7, 11, 11))
    expected = by_head(BOTH[function], size * q, size * k, v)
    found = function(*(jnp.asarray(y, jnp.float32) for y in (size * q, size * k, v)))
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)
    with jax.enable_x64(True):
        np.testing.assert_allclose(function(size * q, size * k, v), expected, rtol=1e-12, atol=1e-13)


def test_a_softmax_of_linear_attention_is_in_float32_where_the_rest_is_in_half_precision():
    """Over 4,096 positions a sum of bfloat16 stops growing at 256."""
    q, k, v = (jnp.ones((1, n, 1, 2), jnp.bfloat16) for n in (1, 4096, 4096))
    found = linear_attend(q, k, v)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), 0.5**0.5, rtol=1e-2)


def rms(x, scale):
    return x / np.sqrt((x**2).mean(-1, keepdims=True)) * scale


@pytest.mark.parametrize("function", BOTH)
@pytest.mark.parametrize("shape", [(2, 3, 5, 6), (2, 7, 6)])
def test_attention_over_learned_keys_and_values_with_heads_of_their_own_size(function, shape):
    """Two heads of 5 channels in a network of 6: q, k and v without a bias, memories first, a norm before the sum."""
    module = Attention(
        2, norm=partial(RMSNorm, eps=1e-24), head_channels=5, bias=False, memories=4, attend=function, norm_out=RMSNorm
    )
    x = rng.standard_normal(shape).astype(np.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    params = jax.tree.map(lambda leaf: 0.5 * rng.standard_normal(leaf.shape).astype(np.float32), shapes)
    p = jax.tree.map(lambda leaf: leaf.astype(np.float64), params["params"])

    h = rms(x.astype(np.float64), p["norm"]["scale"]).reshape(2, -1, 6)
    q, k, v = np.split((h @ p["qkv"]["kernel"]).reshape(2, -1, 3, 2, 5), 3, axis=2)
    assert p["mem_kv"].shape == (2, 4, 2, 5)
    k, v = (np.concatenate([np.stack([m, m]), y[:, :, 0]], axis=1) for m, y in zip(p["mem_kv"], (k, v)))
    h = by_head(BOTH[function], q[:, :, 0], k, v).reshape(*shape[:-1], 10)
    expected = x + rms(h @ p["out"]["kernel"] + p["out"]["bias"], p["norm_out"]["scale"])
    np.testing.assert_allclose(jax.jit(module.apply)(params, x), expected, rtol=1e-5, atol=2e-5)


def test_a_norm_after_attention_does_not_start_at_zero():
    """The slope of x / |x| is infinite there."""
    module = Attention(2, norm=partial(RMSNorm, eps=1e-24), norm_out=partial(RMSNorm, eps=1e-24))
    x = jnp.asarray(rng.standard_normal((1, 4, 6)), jnp.float32)
    params = module.init(jax.random.key(0), x)
    gradients = jax.grad(lambda p: jnp.sum(module.apply(p, x) ** 3))(params)
    assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(gradients)) < 1e3
