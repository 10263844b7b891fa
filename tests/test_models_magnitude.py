"""Each layer keeps magnitudes: exactly where it must, on the mean where its inputs are uncorrelated."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from network_table import normal

from jaxdiff import InputError
from jaxdiff.models.magnitude import (
    Conv,
    CosineAttention,
    Embed,
    mp_cat,
    mp_fourier,
    mp_silu,
    mp_sum,
    normalize,
    pixel_norm,
    unit_norm,
)


def magnitude(x):
    return float(np.sqrt(np.mean(np.square(np.asarray(x, np.float64)))))


def variables(layer, *args, seed=0):
    return layer.init(jax.random.key(seed), *args)


def test_silu():
    """By Gauss-Hermite quadrature of E[mp_silu(x)^2]; the paper's constant has three digits."""
    points, weights = np.polynomial.hermite_e.hermegauss(80)
    square = np.asarray(mp_silu(jnp.asarray(points, jnp.float32)), np.float64) ** 2
    assert math.sqrt((weights * square).sum() / math.sqrt(2 * math.pi)) == pytest.approx(1, abs=1e-3)
    assert float(mp_silu(jnp.float32(2.0))) == pytest.approx(2 / (1 + math.exp(-2)) / 0.596, rel=1e-6)


@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 1.0])
def test_sum_of_uncorrelated(t):
    """Of orthogonal vectors exactly; the shares are as (1 - t) to t."""
    a, b = np.eye(2, dtype=np.float32) * math.sqrt(2)
    y = np.asarray(mp_sum(a, b, t=t))
    assert magnitude(y) == pytest.approx(1, rel=1e-6)
    np.testing.assert_allclose(y[1] * (1 - t), y[0] * t, rtol=1e-6)


@pytest.mark.parametrize("t", [0.3, 0.5])
@pytest.mark.parametrize("channels", [(4, 4), (2, 30)])
def test_concatenation(t, channels):
    a, b = (np.ones((1, 3, n), np.float32) for n in channels)
    y = np.asarray(mp_cat(a, b, t=t))
    assert y.shape == (1, 3, sum(channels))
    assert magnitude(y) == pytest.approx(1, rel=1e-6)
    of_a, of_b = (np.linalg.norm(part) for part in np.split(y, [channels[0]], axis=-1))
    assert of_b / of_a == pytest.approx(t / (1 - t), rel=1e-5)  # whatever the channels


def test_fourier_features():
    """2,000 cosines of random phase: sin^2 and cos^2 are 1/2, to three deviations 3 sqrt(1/2) / sqrt(2000)."""
    c = np.array([-1.5, 0.0, 0.7, 1.1], np.float32)
    y = np.asarray(mp_fourier(jnp.asarray(c), channels=2000), np.float64)
    assert np.abs(np.square(y).mean(-1) - 1).max() < 0.05
    assert np.abs(y.mean(-1)).max() < 0.07
    # The correlation at a distance d is the characteristic function of the frequencies, exp(-(2 pi d)^2 / 2).
    near = np.asarray(mp_fourier(jnp.asarray(c + np.float32(0.1)), channels=2000), np.float64)
    np.testing.assert_allclose((y * near).mean(-1), math.exp(-((0.2 * math.pi) ** 2) / 2), atol=0.07)
    np.testing.assert_array_equal(y[:, :7], mp_fourier(jnp.asarray(c), channels=2000)[:, :7])


def test_pixel_norm():
    x = 7 * normal(2, 3, 5)
    y = np.asarray(pixel_norm(x))
    np.testing.assert_allclose(np.square(y).mean(-1), 1, rtol=1e-4)
    np.testing.assert_allclose(y / x, np.broadcast_to((y / x)[..., :1], x.shape), rtol=1e-5)  # the direction stays
    zero = jax.value_and_grad(lambda x: pixel_norm(x).sum())(jnp.zeros((2, 5)))
    assert all(np.isfinite(part).all() for part in zero)
    assert pixel_norm(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("width", "shape"), [(1, (2000, 64)), (1, (4, 9, 9, 64)), (3, (8, 16, 16, 32)), (3, (8, 64, 32))]
)
def test_convolution_of_uncorrelated(width, shape):
    """Within the padding; each output's magnitude to a few percent, of some thousand inputs."""
    x = normal(*shape)
    layer = Conv(24, width=width)
    y = np.asarray(layer.apply(variables(layer, x), x))
    inside = y if width == 1 else y[(slice(None), *(slice(1, -1),) * (x.ndim - 2))]
    assert magnitude(inside) == pytest.approx(1, abs=0.02)
    each = np.sqrt(np.square(inside.reshape(-1, 24)).mean(0))
    assert np.abs(each - 1).max() < 0.15


def test_convolution_is_that_of_its_weights():
    """Of a single point that is 1, the output is the kernel."""
    layer, x = Conv(4, width=3), np.zeros((1, 5, 5, 2), np.float32)
    x[0, 2, 2, 1] = 1
    params = variables(layer, x)
    kernel = np.asarray(unit_norm(params["params"]["kernel"]))
    np.testing.assert_allclose(np.linalg.norm(kernel.reshape(-1, 4), axis=0), 1, rtol=1e-6)
    y = np.asarray(layer.apply(params, x))
    np.testing.assert_allclose(y[0, 1:4, 1:4], kernel[::-1, ::-1, 1], atol=1e-7)
    wrong = np.linalg.norm(np.asarray(params["params"]["kernel"]).reshape(-1, 4), axis=0)
    np.testing.assert_allclose(wrong, math.sqrt(18), rtol=1e-6)  # unit mean square, where training keeps it


@pytest.mark.parametrize(("layer", "args"), [
    (Conv(6, width=3), (normal(2, 4, 4, 3),)),
    (Conv(6), (normal(2, 3),)),
    (Embed(5, 6), (np.arange(4),)),
    (CosineAttention(2), (normal(2, 4, 4, 8),)),
])  # fmt: skip
def test_a_kernel_s_norm_says_nothing(layer, args):
    """Scaled by powers of 2, per output, nothing changes to the bit; so the gradient is orthogonal to the weights."""
    params, apply = variables(layer, *args), jax.jit(layer.apply)
    y = apply(params, *args)

    def scaled(kernel):
        return kernel * np.float32(2.0) ** (np.arange(kernel.shape[-1]) % 7 - 3).reshape(
            (1,) * (kernel.ndim - 1) + (-1,)
        )

    np.testing.assert_array_equal(apply(jax.tree.map(scaled, params), *args), y)
    np.testing.assert_allclose(apply(jax.tree.map(lambda w: 1e-6 * w, params), *args), y, rtol=1e-5, atol=1e-6)
    weights = normal(*y.shape, seed=3)
    gradients = jax.jit(jax.grad(lambda p: jnp.sum(weights * layer.apply(p, *args))))(params)
    for w, g in zip(jax.tree.leaves(params), jax.tree.leaves(gradients)):
        w, g = (np.asarray(a, np.float64).reshape(-1, a.shape[-1]) for a in (w, g))
        sizes = np.linalg.norm(w, axis=0) * np.linalg.norm(g, axis=0)
        assert sizes.min() > 0
        assert (np.abs((w * g).sum(0)) < 1e-5 * sizes).all()


def test_a_kernel_of_zeros_has_no_nan():
    value, gradient = jax.value_and_grad(lambda w: normalize(w, [0], eps=0.0).sum())(jnp.zeros((3, 2)))
    assert (float(value), np.isfinite(gradient).all()) == (0, True)


def test_embedding():
    """Over all labels each channel's mean square is 1: exactly, as the paper's sqrt(N) one-hot vectors."""
    layer = Embed(5, 64)
    params = variables(layer, np.arange(5))
    y = np.asarray(layer.apply(params, np.arange(5)))
    np.testing.assert_allclose(np.square(y).mean(0), 1, rtol=1e-5)
    one_hot = math.sqrt(5) * np.eye(5, dtype=np.float32)
    np.testing.assert_allclose(Conv(64).apply(params, one_hot), y, rtol=1e-5, atol=1e-6)


def test_attention_against_its_formula():
    """Against numpy in float64."""
    x = normal(2, 3, 2, 8)
    layer = CosineAttention(2)
    params = variables(layer, x)
    qkv, out = (np.asarray(unit_norm(params["params"][n]["kernel"]), np.float64) for n in ("qkv", "out"))
    h = (x.reshape(2, 6, 8) @ qkv).reshape(2, 6, 3, 2, 4)  # batch, positions, q k v, heads, channels
    h = h / (1e-4 + np.sqrt(np.square(h).mean(-1, keepdims=True)))
    q, k, v = np.moveaxis(h, 2, 0)
    logits = np.einsum("bqhd,bkhd->bhqk", q, k) / 2
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    y = np.einsum("bhqk,bkhd->bqhd", weights, v).reshape(2, 3, 2, 8) @ out
    expected = (0.7 * x + 0.3 * y) / math.hypot(0.7, 0.3)
    np.testing.assert_allclose(layer.apply(params, x), expected, rtol=1e-4, atol=1e-5)


def test_attention_where_all_positions_are_the_same():
    """Then the mean of the values is each of them, and keeps its magnitude: of the branch alone, t = 1."""
    x = np.broadcast_to(normal(64, 1, 128), (64, 5, 128))
    layer = CosineAttention(2, balance=1.0)
    assert magnitude(layer.apply(variables(layer, x), x)) == pytest.approx(1, abs=0.03)
    different = normal(64, 5, 128)
    assert magnitude(layer.apply(variables(layer, different), different)) < 0.7  # else it does not


def test_heads_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(InputError, match="8 channels cannot be split into 3 heads"):
        variables(CosineAttention(3), normal(1, 4, 8))
