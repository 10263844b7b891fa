"""U-ViT: against its pieces put together in numpy, where it drops, its patches, sequences and videos, its refusals."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from network_table import BATCH, KEYS, UVIT, apply, inputs, normal, random_params, shapes
from test_models_dit import block_in_numpy
from test_models_layers import RESAMPLE, conv, downsample, numpy_group_norm, residual_block, silu, upsample

from jaxdiff import InputError, config
from jaxdiff.flops import multiply_adds
from jaxdiff.models import UViT
from jaxdiff.models.embed import grid_positions


def blocks_of(x, size):
    """Each block of an image as one point, its rows one after the other."""
    rows = [[x[:, i : i + size, j : j + size].reshape(len(x), -1) for j in range(0, x.shape[2], size)]
            for i in range(0, x.shape[1], size)]  # fmt: skip
    return np.stack([np.stack(row, axis=1) for row in rows], axis=1)


def in_numpy(net, p, x, c_noise, label):
    """Three levels, of which the last is the transformer."""

    def dense(name, h):
        return h @ p[name]["kernel"] + p[name]["bias"]

    def residual(name, h):
        return residual_block(p[name], h, emb, scale_shift=True, resample=RESAMPLE[None])

    half = net.channels // 2
    angles = c_noise[:, None] * 10_000.0 ** (-np.arange(half) / (half - 1))
    emb = dense("time_2", silu(dense("time_1", np.concatenate([np.sin(angles), np.cos(angles)], axis=1))))
    emb = emb + p["label"]["embedding"][label]

    h = conv(blocks_of(x, net.patch), p["conv_in"])
    a = residual("down_0_1", first := residual("down_0_0", h))
    h = dense("down_0", RESAMPLE[downsample](a))
    b = residual("down_1_1", second := residual("down_1_0", h))
    h = dense("down_1", RESAMPLE[downsample](b))

    grid = h.shape[1:3]
    h = h.reshape(len(h), -1, h.shape[-1])
    h = h + grid_positions(grid, channels=h.shape[-1])
    for i in range(net.depth):
        h = block_in_numpy(
            p[f"block_{i}"], h, emb, heads=net.heads, mlp="gelu", norm="layer", qk_norm=False, angles=None
        )
    h = h.reshape(len(h), *grid, -1)

    h = RESAMPLE[upsample](dense("up_1", h))
    h = residual("up_1_1", np.concatenate([residual("up_1_0", np.concatenate([h, b], -1)), second], -1))
    h = RESAMPLE[upsample](dense("up_0", h))
    h = residual("up_0_1", np.concatenate([residual("up_0_0", np.concatenate([h, a], -1)), first], -1))
    h = conv(silu(numpy_group_norm(p["norm_out"], h, 4)), p["conv_out"])
    out = np.zeros_like(x)
    for i in range(h.shape[1]):
        for j in range(h.shape[2]):
            block = h[:, i, j].reshape(len(h), net.patch, net.patch, -1)
            out[:, net.patch * i :, net.patch * j :][:, : net.patch, : net.patch] = block
    return out


@pytest.mark.parametrize("patch", [1, 2])
def test_it_is_what_its_pieces_make(patch):
    net = UVIT.clone(multipliers=(1, 2, 3), blocks=2, patch=patch)
    x, c_noise, cond = inputs(net, size=(8, 16))
    params = random_params(net, x, c_noise, cond)
    with jax.enable_x64(True):
        exact, x, c_noise = jax.tree.map(lambda a: np.asarray(a, np.float64), (params, x, c_noise))
        y = jax.jit(net.clone(dtype=jnp.float64).apply)(exact, x, c_noise, cond)
    expected = in_numpy(net, exact["params"], x, c_noise, cond["label"])
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-11 * np.abs(expected).max())


@pytest.mark.parametrize(("resolution", "sides"), [(0, set()), (2, {2}), (7, {2, 4}), (8, {2, 4, 8})])
def test_dropout_is_at_low_resolutions_only(resolution, sides):
    """Of feature maps of 8, 4 and, in the transformer, 2 points: the sizes of the masks that are drawn."""
    net = UVIT.clone(multipliers=(1, 2, 3), patch=1, dropout_resolution=resolution)
    args = inputs(net)
    program = str(jax.make_jaxpr(lambda *args: net.apply(*args, key=KEYS))(shapes(net, *args), *args))
    drawn = {
        tuple(map(int, s.split(","))) for s in re.findall(r"random_bits\[.*?shape=\(([\d, ]+)\)", program, re.DOTALL)
    }
    assert {round((shape[0] if len(shape) == 2 else shape[0] * shape[1]) ** 0.5) for shape in drawn} == sides


def test_with_patches_no_feature_map_is_as_large_as_the_image():
    """So twice the side with patches of 2 costs the same, but for the first and the last convolution."""
    costs = []
    for patch, side in ((1, 16), (2, 32)):
        net = UVIT.clone(channels=32, patch=patch)
        args = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((1, side, side, 3), (1,))]
        args.append({"label": jax.ShapeDtypeStruct((1,), jnp.int32)})
        first_and_last = 2 * 16**2 * 9 * (3 * patch**2) * 32
        costs.append(multiply_adds(net.apply, shapes(net, *args), *args) - first_and_last)
    assert costs[0] == costs[1]


def test_the_last_level_has_most_of_the_parameters():
    """As the paper has it: what is scaled is the transformer. By default twelve blocks of twelve times the width squared,
    and six times that times the width of the embedding."""
    net = UViT(scan=True)
    params = shapes(net, jnp.zeros((1, 64, 64, 3)), jnp.zeros(1))["params"]
    count = {name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in params.items()}
    width = 4 * 128
    assert count["blocks"] == pytest.approx(12 * (12 * width**2 + 6 * width * 512), rel=0.01)
    assert count["blocks"] > 0.8 * sum(count.values())


@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("space", [(16,), (8, 4, 12)], ids=["sequences", "videos"])
def test_sequences_and_videos(space, rotary):
    net = UVIT.clone(rotary=rotary)
    _, c_noise, cond = inputs(net)
    x = normal(BATCH, *space, 3)
    params = random_params(net, x, c_noise, cond)
    y = apply(net)(params, x, c_noise, cond)
    assert y.shape == x.shape
    other = apply(net)(params, np.roll(x, 4, axis=1), c_noise, cond)
    assert (np.abs(np.roll(other, -4, axis=1) - y).reshape(BATCH, -1).max(1) > 1e-3).all()


def test_a_transformer_alone():
    """Of one level, and of a first level that is wider than `channels`."""
    for multipliers in ((2,), (2, 2)):
        net = UVIT.clone(multipliers=multipliers)
        args = inputs(net)
        y = apply(net)(random_params(net, *args), *args)
        assert y.shape == (BATCH, 8, 8, 3)
        assert np.isfinite(y).all()


@pytest.mark.parametrize(
    ("changes", "size", "message"),
    [
        ({}, (8, 6), "UViT: 2 levels halve the image, in patches of 2, 1 times, so its size must be divisible by 4; got 8x6"),
        ({"patch": 1, "multipliers": (1, 1, 1)}, (6, 8), "UViT: 3 levels halve the image 2 times, .* by 4; got 6x8"),
        ({"patch": 0}, (8, 8), "patches of 0"),
        ({"heads": 3}, (8, 8), "16 channels cannot be split into 3 heads"),
        ({"rotary": True, "heads": 8}, (8, 8), "heads of 2 channels cannot be turned along 2 axes"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(changes, size, message):
    with pytest.raises(InputError, match=message):
        shapes(UVIT.clone(**changes), *inputs(UVIT, size=size))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": 7}, "--model.heads 7: expected a divisor of the transformer's width, 512"),
        ({"heads": 0}, "--model.heads 0"),
        ({"channels": 5, "heads": 4}, "--model.channels 5: expected an even number, at least 4"),
        ({"multipliers": ()}, r"--model.multipliers \(\): expected one or more positive numbers"),
        ({"multipliers": (1, 0)}, r"--model.multipliers \(1, 0\)"),
        ({"blocks": 0}, "--model.blocks 0"),
        ({"depth": 0}, "--model.depth 0"),
        ({"patch": 0}, "--model.patch 0"),
        ({"groups": 0}, "--model.groups 0"),
        ({"dropout_resolution": -1}, "--model.dropout_resolution -1"),
        ({"rotary": True, "heads": 512}, "--model.rotary True"),
    ],
)
def test_settings_that_no_network_can_have(settings, message):
    with pytest.raises(InputError, match=message):
        config.check(config.Config(model=config.UViT(**settings)))
