"""The pieces of the networks against flax's and against plain numpy, in float64."""

from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal

from jaxdiff import InputError
from jaxdiff.flops import multiply_adds
from jaxdiff.models.attention import AttentionBlock
from jaxdiff.models.layers import Dropout, GroupNorm, ResBlock, RMSNorm, convolve_double
from jaxdiff.models.resampling import downsample, fir_downsample, fir_upsample, unshuffle, upfirdn, upsample
from jaxdiff.noise import example_keys

rng = np.random.default_rng(0)


def normal(*shape):
    return rng.standard_normal(shape).astype(np.float32)


def random_params(module, *args):
    """Parameters of the module's shapes, none of them zero."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), *args)
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * normal(*leaf.shape)), shapes)


def double(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def flax_group_norm(params, x, groups):
    """flax's, with its accurate variance."""
    return nn.GroupNorm(groups, epsilon=1e-5, use_fast_variance=False).apply({"params": params}, x)


def numpy_group_norm(params, x, groups):
    h = double(x).reshape(len(x), -1, groups, x.shape[-1] // groups)
    h = (h - h.mean((1, 3), keepdims=True)) / np.sqrt(h.var((1, 3), keepdims=True) + 1e-5)
    return h.reshape(x.shape) * params["scale"] + params["bias"]


# Shape, groups asked for, groups used: the largest divisor of the channels with two channels or more in a group.
GROUPS = [
    ((3, 64), 4, 4),
    ((2, 8, 8, 64), 32, 32),
    ((3, 5, 7, 12), 4, 4),
    ((2, 4, 4, 12), 5, 4),
    ((2, 4, 4, 48), 32, 24),
    ((2, 4, 4, 8), 32, 4),
    ((2, 4, 4, 7), 32, 1),
    ((2, 6, 16), 4, 4),
    ((2, 2, 3, 4, 8), 2, 2),
]


@pytest.mark.parametrize("mean", [0, 30])
@pytest.mark.parametrize(("shape", "asked", "used"), GROUPS)
def test_group_norm_is_flax_s(shape, asked, used, mean):
    """Channels of different means and sizes, so that another grouping gives another result. Also the gradients."""
    channels = shape[-1]
    x = mean + normal(*shape) * rng.uniform(0.5, 2, channels).astype(np.float32) + normal(channels)
    params = {"scale": normal(channels), "bias": normal(channels)}
    weights = normal(*shape) / np.sqrt(x.size, dtype=np.float32)

    def ours(params, x, weights):
        y = GroupNorm(asked).apply({"params": params}, x)
        return jnp.sum(weights * y), y

    def flax_s(params, x, weights):
        y = flax_group_norm(params, x, used)
        return jnp.sum(weights * y), y

    actual = jax.jit(jax.grad(ours, argnums=(0, 1), has_aux=True))(params, x, weights)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):  # flax itself mixes dtypes
        expected = jax.jit(jax.grad(flax_s, argnums=(0, 1), has_aux=True))(*double((params, x, weights)))
    chex.assert_trees_all_close(actual, jax.tree.map(np.asarray, expected), rtol=1e-5, atol=1e-5)


def test_group_norm_starts_as_the_normalisation_alone():
    x = normal(2, 4, 4, 8)
    y, params = GroupNorm(4).init_with_output(jax.random.key(0), x)
    np.testing.assert_allclose(
        y, numpy_group_norm({"scale": np.ones(8), "bias": np.zeros(8)}, x, 4), rtol=1e-5, atol=1e-5
    )
    chex.assert_trees_all_equal_dtypes(params, jax.tree.map(jnp.float32, params))


def test_group_norm_of_half_precision_has_float32_statistics():
    """bfloat16 has 8 bits: statistics in it, of values round 30, would be wrong in the first digit."""
    x = jnp.asarray(30 + normal(2, 16, 16, 8), jnp.bfloat16)
    params = {"scale": normal(8), "bias": normal(8)}
    y = GroupNorm(2).apply({"params": params}, x)
    assert y.dtype == jnp.bfloat16
    expected = numpy_group_norm(params, x, 2)
    np.testing.assert_allclose(y.astype(jnp.float32), expected, rtol=2**-8, atol=1e-5)


def test_rms_norm_divides_by_the_root_mean_square():
    x = normal(2, 3, 5, 8)
    params = random_params(RMSNorm(), x)
    scale = np.asarray(params["params"]["scale"])
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale
    np.testing.assert_allclose(RMSNorm().apply(params, x), expected, rtol=1e-5, atol=1e-5)
    half = RMSNorm().apply(params, x.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("space", [(5,), (4, 6), (2, 3, 4), (1, 1)])
def test_a_convolution_of_a_doubled_image_is_the_same_on_every_backend(space, monkeypatch):
    """With its gradients, to the rounding of float64; on the CPU with fewer multiply-adds."""
    x, kernel = rng.standard_normal((2, *space, 3)), rng.standard_normal((*(3,) * len(space), 3, 4))
    seen = rng.standard_normal((2, *(2 * n for n in space), 4))
    found, cost = [], []
    with jax.enable_x64(True):
        for backend in ("cpu", "gpu"):
            monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)

            def loss(x, kernel):
                return jnp.sum(jnp.asarray(seen) * convolve_double(x, kernel))

            args = jnp.asarray(x), jnp.asarray(kernel)
            found.append(
                jax.jit(lambda *args, loss=loss: (convolve_double(*args), jax.grad(loss, (0, 1))(*args)))(*args)
            )
            cost.append(
                multiply_adds(lambda x, kernel: convolve_double(x, kernel), *args)
            )  # a new one: traces are kept
    chex.assert_trees_all_close(*found, rtol=1e-12, atol=1e-12)
    assert cost[0] == pytest.approx(cost[1] * (2 / 3) ** len(space), rel=1e-9)


def softmax_attention(params, x, heads):
    """`x + W softmax(q k^T / sqrt(d)) v`, one head after the other, in float64."""
    batch, channels = x.shape[0], x.shape[-1]
    h = numpy_group_norm(params["norm"], x, 4).reshape(batch, -1, channels)
    q, k, v = np.split(h @ params["qkv"]["kernel"] + params["qkv"]["bias"], 3, axis=-1)
    size = channels // heads
    out = np.zeros_like(q)
    for i in range(heads):
        part = np.s_[..., i * size : (i + 1) * size]
        logits = q[part] @ k[part].swapaxes(1, 2) / np.sqrt(size)
        weights = np.exp(logits)
        out[part] = weights / weights.sum(-1, keepdims=True) @ v[part]
    return x + (out @ params["out"]["kernel"] + params["out"]["bias"]).reshape(x.shape)


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("shape", [(2, 3, 5, 16), (2, 7, 16)])
def test_attention_is_softmax_attention(shape, heads):
    x = normal(*shape)
    module = AttentionBlock(heads, norm=partial(GroupNorm, 4))
    params = random_params(module, x)
    expected = softmax_attention(double(params["params"]), double(x), heads)
    np.testing.assert_allclose(jax.jit(module.apply)(params, x), expected, rtol=1e-5, atol=1e-5)


def test_attention_starts_as_the_identity():
    x = normal(2, 3, 5, 16)
    np.testing.assert_array_equal(AttentionBlock(2).init_with_output(jax.random.key(0), x)[0], x)


def test_attention_refuses_heads_that_do_not_divide_the_channels():
    with pytest.raises(InputError, match="16 channels cannot be split into 3 heads"):
        AttentionBlock(3).init(jax.random.key(0), jnp.zeros((1, 2, 2, 16)))


def dropout(rate, x, keys):
    return Dropout(rate).apply({}, x, keys)


KEYS = example_keys(jax.random.key(0), jnp.arange(4))


def test_dropout_is_off_without_a_key_or_a_rate():
    x = normal(4, 8, 8, 3)
    np.testing.assert_array_equal(dropout(0.5, x, None), x)
    np.testing.assert_array_equal(dropout(0.0, x, KEYS), x)
    assert (dropout(0.5, x, KEYS) != x).any()


def test_a_dropout_mask_belongs_to_its_example_s_key():
    x = normal(4, 8, 8, 3)
    together = dropout(0.5, x, KEYS)
    alone = jnp.concatenate([dropout(0.5, x[i : i + 1], KEYS[i : i + 1]) for i in range(4)])
    order = np.array([2, 0, 3, 1])
    np.testing.assert_array_equal(alone, together)
    np.testing.assert_array_equal(dropout(0.5, x[order], KEYS[order]), together[order])
    np.testing.assert_array_equal(dropout(0.5, x, jax.random.key(0)), together)  # one key stands for four
    masks = np.unique(np.asarray(together == 0).reshape(4, -1), axis=0)
    assert len(masks) == 4


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_drops_at_its_rate_and_keeps_the_mean(rate):
    n = 4 * 64 * 64 * 3
    y = np.asarray(dropout(rate, jnp.ones((4, 64, 64, 3)), KEYS))
    dropped = (y == 0).mean()
    assert abs(dropped - rate) < 5 * np.sqrt(rate * (1 - rate) / n)
    np.testing.assert_allclose(y[y != 0], 1 / (1 - rate), rtol=1e-6)  # and so the mean is 1


def test_two_places_in_a_network_drop_different_things():
    class Two(nn.Module):
        @nn.compact
        def __call__(self, x, key):
            return Dropout(0.5)(x, key), Dropout(0.5)(x, key)

    first, second = Two().apply({}, jnp.ones((4, 8, 8, 3)), KEYS)
    equal = np.mean(np.asarray(first == second))
    assert abs(equal - 0.5) < 5 * np.sqrt(0.25 / first.size)  # as independent masks are


@pytest.mark.parametrize("count", [1, 3])
def test_dropout_refuses_another_number_of_keys_than_examples(count):
    """One key for the whole batch in an array of one would give all examples the same mask."""
    with pytest.raises(InputError, match="expected one key or 4 keys"):
        dropout(0.5, jnp.ones((4, 2)), KEYS[:count])


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5])
def test_dropout_refuses_a_rate_that_is_none(rate):
    with pytest.raises(InputError, match=rf"dropout rate.*\[0, 1\).*{rate}"):
        dropout(rate, jnp.ones((4, 2)), KEYS)


def test_downsample_is_the_mean_of_blocks():
    x = normal(2, 4, 6, 3)
    blocks = [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
    np.testing.assert_allclose(downsample(jnp.asarray(x)), np.mean(blocks, axis=0), rtol=1e-5, atol=1e-6)


def test_unshuffle_moves_blocks_into_channels():
    """Channel `(c, i, j)` of a point is channel c of the pixel (i, j) of its block: nothing is lost."""
    x = normal(2, 4, 6, 3)
    y = np.asarray(unshuffle(x)).reshape(2, 2, 3, 3, 2, 2)
    for i in range(2):
        for j in range(2):
            np.testing.assert_array_equal(y[..., i, j], x[:, i::2, j::2])


def test_upsample_repeats_pixels_and_downsample_undoes_it():
    x = normal(2, 3, 5, 4)
    up = upsample(jnp.asarray(x))
    np.testing.assert_array_equal(up, x.repeat(2, axis=1).repeat(2, axis=2))
    np.testing.assert_allclose(downsample(up), x, rtol=1e-6)


@pytest.mark.parametrize("length", [2, 3, 4, 6])
@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2), (2, 3), (3, 2)])
def test_upfirdn_is_scipy_s(length, up, down):
    """In both dimensions, with zeros at both ends so that all of the filter's output is there; and the gradient."""
    x, kernel = normal(2, 7, 5, 3), normal(length)
    ends = (length - 1, length - up)  # without those that would come after the last point
    expected = x.astype(np.float64)
    for axis in (1, 2):
        expected = signal.upfirdn(kernel.astype(np.float64), expected, up=up, down=down, axis=axis)

    def filtered(x):
        return upfirdn(x, kernel.tolist(), up=up, down=down, padding=ends)

    y, pull = jax.vjp(jax.jit(filtered), jnp.asarray(x))
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    cotangent = normal(*y.shape)
    np.testing.assert_allclose(jnp.vdot(pull(jnp.asarray(cotangent))[0], x), np.vdot(cotangent, expected), rtol=1e-3)


@pytest.mark.parametrize("space", [(6,), (4, 6), (2, 4, 6)])
def test_fir_resampling_has_stylegan2_s_gain_and_place(space):
    """Down (1 3 3 1) / 8 round the middle of two points, up (1 3) / 4 and (3 1) / 4; zeros outside."""
    x = normal(2, *space, 3).astype(np.float64)

    def along(axis, f, y):
        y = np.pad(np.moveaxis(y, axis, -1), [(0, 0)] * (y.ndim - 1) + [(1, 1)])
        return np.moveaxis(f(y), -1, axis)

    def halved(y):
        n = y.shape[-1] - 2
        return sum(k / 8 * y[..., i : i + n : 2] for i, k in enumerate((1, 3, 3, 1)))

    def doubled(y):
        pairs = [(y[..., :-2] + 3 * y[..., 1:-1]) / 4, (3 * y[..., 1:-1] + y[..., 2:]) / 4]
        return np.stack(pairs, axis=-1).reshape(*y.shape[:-1], -1)

    smaller = larger = x
    for axis in range(1, 1 + len(space)):
        smaller, larger = along(axis, halved, smaller), along(axis, doubled, larger)
    at = jnp.asarray(x, jnp.float32)
    np.testing.assert_allclose(fir_downsample(at), smaller, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(fir_upsample(at), larger, rtol=1e-5, atol=1e-6)
    within = (slice(None), *[slice(1, -1)] * len(space))
    np.testing.assert_allclose(fir_upsample(at, more=1)[within], larger, rtol=1e-5, atol=1e-6)


def silu(x):
    return x / (1 + np.exp(-x))


def conv(x, params):
    """3x3 convolution, zeros round the image."""
    _, height, width, _ = x.shape
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    taps = (x[:, i : i + height, j : j + width] @ params["kernel"][i, j] for i in range(3) for j in range(3))
    return sum(taps) + params["bias"]


def residual_block(params, x, emb, *, scale_shift, resample):
    """DDPM's and ADM's residual block, in float64."""
    h = conv(resample(silu(numpy_group_norm(params["norm1"], x, 4))), params["conv1"])
    emb = (silu(emb) @ params["emb"]["kernel"] + params["emb"]["bias"])[:, None, None]
    if scale_shift:
        scale, shift = np.split(emb, 2, axis=-1)
        h = numpy_group_norm(params["norm2"], h, 4) * (1 + scale) + shift
    else:
        h = numpy_group_norm(params["norm2"], h + emb, 4)
    x = resample(x)
    if "skip" in params:
        x = x @ params["skip"]["kernel"] + params["skip"]["bias"]
    return x + conv(silu(h), params["conv2"])


RESAMPLE = {
    None: lambda x: x,
    downsample: lambda x: np.mean([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], axis=0),
    upsample: lambda x: x.repeat(2, axis=1).repeat(2, axis=2),
}


@pytest.mark.parametrize("scale_shift", [False, True])
@pytest.mark.parametrize("channels", [8, 16])
@pytest.mark.parametrize("resample", RESAMPLE)
def test_res_block_is_that_of_the_papers(scale_shift, channels, resample):
    x, emb = normal(2, 4, 6, 8), normal(2, 16)
    module = ResBlock(channels, resample=resample, scale_shift=scale_shift, norm=partial(GroupNorm, 4))
    params = random_params(module, x, emb)
    expected = residual_block(
        double(params["params"]), double(x), double(emb), scale_shift=scale_shift, resample=RESAMPLE[resample]
    )
    np.testing.assert_allclose(jax.jit(module.apply)(params, x, emb), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("resample", RESAMPLE)
def test_res_block_of_biggan_has_a_dense_layer_wherever_it_resamples(resample):
    x, emb = normal(2, 4, 6, 8), normal(2, 16)
    module = ResBlock(8, resample=resample, scale_shift=False, norm=partial(GroupNorm, 4), resample_dense=True)
    params = random_params(module, x, emb)
    assert ("skip" in params["params"]) == (resample is not None)
    expected = residual_block(
        double(params["params"]), double(x), double(emb), scale_shift=False, resample=RESAMPLE[resample]
    )
    np.testing.assert_allclose(jax.jit(module.apply)(params, x, emb), expected, rtol=1e-4, atol=1e-4)


def test_a_factor_is_of_the_whole_sum():
    x, emb = normal(2, 4, 6, 8), normal(2, 16)
    for module, args in ((ResBlock(8, norm=partial(GroupNorm, 4)), (x, emb)), (AttentionBlock(2), (x,))):
        params = random_params(module, *args)
        y = module.apply(params, *args)
        np.testing.assert_allclose(module.clone(factor=0.3).apply(params, *args), 0.3 * y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale_shift", [False, True])
@pytest.mark.parametrize(("channels", "resample"), [(8, None), (8, upsample), (16, downsample)])
def test_res_block_starts_as_its_skip_path(scale_shift, channels, resample):
    x, emb = normal(2, 4, 6, 8), normal(2, 16)
    module = ResBlock(channels, resample=resample, scale_shift=scale_shift, norm=partial(GroupNorm, 4))
    y, params = module.init_with_output(jax.random.key(0), x, emb)
    skip = RESAMPLE[resample](double(x))
    if channels != 8:
        skip = skip @ double(params["params"]["skip"]["kernel"])
    np.testing.assert_allclose(y, skip, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale_shift", [False, True])
def test_a_narrow_res_block_sees_its_embedding(scale_shift):
    """With one channel in a group, the norm after the added embedding would take it out again."""
    x, emb = normal(2, 4, 4, 8), normal(2, 16)
    module = ResBlock(8, scale_shift=scale_shift, norm=partial(GroupNorm, 32))
    params = random_params(module, x, emb)
    apply = jax.jit(module.apply)
    assert np.abs(apply(params, x, emb) - apply(params, x, -emb)).max() > 0.1
