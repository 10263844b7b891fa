"""Attention in linear time, and with learned keys and values, against loops in numpy, in float64; whose kernels it uses."""

import re
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import InputError
from jaxdiff.flops import multiply_adds
from jaxdiff.models import DiT
from jaxdiff.models.attention import AttentionBlock, attend, cudnn_takes, linear_attend
from jaxdiff.models.layers import RMSNorm

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


# Of cuDNN's attention: a device, a dtype, the channels of a head, and whether it takes them.
CUDNN = [
    ("NVIDIA H200", "9.0", jnp.bfloat16, 64, True),
    ("NVIDIA A100-SXM4-40GB", "8.0", jnp.float16, 128, True),
    ("NVIDIA H200", "9.0", jnp.float32, 64, False),
    ("NVIDIA H200", "9.0", jnp.bfloat16, 12, False),
    ("NVIDIA H200", "9.0", jnp.bfloat16, 256, False),
    ("Tesla V100-SXM2-16GB", "7.0", jnp.bfloat16, 64, False),
    ("NVIDIA TITAN V", "7.0", jnp.bfloat16, 64, False),
    ("AMD Instinct MI250X", "gfx90a", jnp.bfloat16, 64, False),
]


def on_gpu(monkeypatch, kind="NVIDIA H200", capability="9.0"):
    device = SimpleNamespace(device_kind=kind, compute_capability=capability)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [device])


@pytest.mark.parametrize(("kind", "capability", "dtype", "channels", "takes"), CUDNN)
def test_where_attention_is_cudnn_s(monkeypatch, kind, capability, dtype, channels, takes):
    q = jnp.ones((1, 4, 1, channels), dtype)
    assert not cudnn_takes(q)  # here
    on_gpu(monkeypatch, kind, capability)
    assert cudnn_takes(q) == takes
    monkeypatch.setenv("JAXDIFF_ATTENTION", "xla")
    assert not cudnn_takes(q)
    monkeypatch.setenv("JAXDIFF_ATTENTION", "flash")
    with pytest.raises(InputError, match="JAXDIFF_ATTENTION flash: expected cudnn .* or xla"):
        cudnn_takes(q)


@pytest.mark.parametrize("options", [{}, {"scan": True}, {"remat": "blocks"}, {"scan": True, "remat": "products"}])
def test_a_training_step_of_bfloat16_is_lowered_to_cudnn_s_kernels(monkeypatch, options):
    """For CUDA, without a GPU: the program has cuDNN's forward and backward kernels; in float32 it has none."""
    cudnn = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    on_gpu(monkeypatch)
    found = {}
    for dtype in (jnp.bfloat16, jnp.float32):
        net = DiT(patch=2, width=32, depth=2, heads=2, dtype=dtype, **options)
        args = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32), jax.ShapeDtypeStruct((2,), jnp.float32)
        params = jax.eval_shape(net.init, jax.random.key(0), *args)
        step = jax.jit(jax.grad(lambda params, *args, net=net: net.apply(params, *args).sum()))
        text = step.trace(params, *args).lower(lowering_platforms=("cuda",)).as_text()
        found[dtype] = set(re.findall(r"cudnn\$\w+", text))
        if dtype == jnp.bfloat16:
            with pytest.raises(InputError, match="which hides its sums"):
                multiply_adds(net.apply, params, *args)
    assert found == {jnp.bfloat16: {"cudnn$fmhaSoftmax", "cudnn$fmhaSoftmaxBackward"}, jnp.float32: set()}


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="cuDNN's kernels run on an NVIDIA GPU alone; there is none")
def test_cudnn_s_attention_agrees_with_xla_s(monkeypatch):
    """Outputs and gradients; bfloat16 has 8 bits."""
    q, k, v = (jnp.asarray(rng.standard_normal((2, n, 3, 64)), jnp.bfloat16) for n in (16, 20, 20))
    assert cudnn_takes(q)

    def both(*args):
        y, pull = jax.vjp(attend, *args)
        return (y, *pull(jnp.ones_like(y)))

    found = both(q, k, v)
    monkeypatch.setenv("JAXDIFF_ATTENTION", "xla")
    for a, b in zip(found, both(*(y.astype(jnp.float32) for y in (q, k, v)))):
        np.testing.assert_allclose(a.astype(jnp.float32), b, atol=0.02 * float(jnp.abs(b).max()))


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
    module = AttentionBlock(
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
    module = AttentionBlock(2, norm=partial(RMSNorm, eps=1e-24), norm_out=partial(RMSNorm, eps=1e-24))
    x = jnp.asarray(rng.standard_normal((1, 4, 6)), jnp.float32)
    params = module.init(jax.random.key(0), x)
    gradients = jax.grad(lambda p: jnp.sum(module.apply(p, x) ** 3))(params)
    assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(gradients)) < 1e3
