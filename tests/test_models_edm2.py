"""The U-Net of EDM2: the paper's sizes, where it has attention, and magnitudes from the input to the output."""

import math

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from network_table import BATCH, EDM2, apply, inputs, jit, normal, random_params, shapes
from test_models_unet import attentions

from jaxdiff import InputError
from jaxdiff.flops import multiply_adds
from jaxdiff.models import EDM2UNet
from jaxdiff.models.edm2 import Block

# Millions of parameters in the paper's table of ImageNet-512: latents 64x64x4, 1,000 classes, none of them null.
PUBLISHED = {128: 125, 192: 280, 256: 498, 320: 777, 384: 1119, 448: 1523}


@pytest.mark.parametrize("channels", PUBLISHED)
def test_published_networks_have_their_number_of_parameters(channels):
    net = EDM2UNet(channels, num_classes=1000, null_label=False)
    params = shapes(net, jnp.zeros((1, 64, 64, 4)), jnp.zeros(1), {"label": jnp.zeros(1, jnp.int32)})
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    assert abs(count / 1e6 - PUBLISHED[channels]) < 0.5


@pytest.mark.parametrize(("channels", "giga"), [(192, 102), (448, 552)])
def test_published_networks_need_what_the_paper_says(channels, giga):
    """Multiply-adds of one 64x64x4 latent; the paper's figures are a little more than the convolutions' and products'."""
    net = EDM2UNet(channels, num_classes=1000, null_label=False)
    args = jnp.zeros((1, 64, 64, 4)), jnp.zeros(1), {"label": jnp.zeros(1, jnp.int32)}
    assert multiply_adds(net.apply, shapes(net, *args), *args) / 1e9 == pytest.approx(giga, rel=0.02)


@pytest.mark.parametrize(("size", "resolutions", "levels"), [(32, (16,), [1]), (16, (16, 4), [0, 2]), (8, (), [])])
def test_attention_is_where_it_was_asked_for_and_in_the_middle(size, resolutions, levels):
    net = EDM2.clone(multipliers=(1, 2, 2), blocks=2, attention_resolutions=resolutions)
    expected = ["middle_attention"]
    for level in levels:
        expected += [f"down_{level}_{i}_attention" for i in range(2)] + [f"up_{level}_{i}_attention" for i in range(3)]
    assert attentions(net, *inputs(net, size=(size, size))) == sorted(expected)


def test_there_are_kernels_and_gains_alone():
    """No biases, no norms' scales; the gains are of the blocks and of the output, and start at 0."""
    args = inputs(EDM2)
    params = flax.traverse_util.flatten_dict(jit(EDM2.init)(jax.random.key(0), *args)["params"], sep="/")
    assert {name.rpartition("/")[2] for name in params} == {"kernel", "gain"}
    gains = {name: float(value) for name, value in params.items() if name.endswith("gain")}
    blocks = {name.split("/")[0] for name in params if name.endswith("conv1/kernel")}
    assert gains == dict.fromkeys(["gain", *(f"{block}/gain" for block in blocks)], 0.0)
    assert len(blocks) == 2 + 1 + 2 + 4 + 1  # down, between, middle, up, between


def test_magnitudes_from_the_input_to_the_output():
    """Fresh weights, white noise of unit variance: what each part makes is of magnitude 1 to a fifth.

    Less is lost where it may be: convolutions see zeros beyond the border (of 16x16 4 %), and attention takes means.
    """
    net = EDM2UNet(channels=32, multipliers=(1, 2), blocks=2, attention_resolutions=(), head_channels=32, num_classes=3)
    x, c_noise, cond = inputs(net, size=(32, 32))
    params = jit(net.init)(jax.random.key(0), x, c_noise, cond)
    params["params"]["gain"] = jnp.float32(1.0)

    @jit
    def run(params, x, c_noise):
        return net.apply(params, x, c_noise, cond, capture_intermediates=True)

    def sizes(x):
        y, state = run(params, x, c_noise)
        found = flax.traverse_util.flatten_dict(state["intermediates"], sep="/")
        outputs = {name.split("/")[0]: values[0] for name, values in found.items() if name.count("/") == 1}
        return {name: float(np.sqrt(np.square(h).mean())) for name, h in {**outputs, "output": y}.items()}

    found = sizes(x)
    assert len(found) > 15
    assert {name: size for name, size in found.items() if not 0.8 < size < 1.1} == {}
    # An input that is too large is normalised by the first block.
    large = sizes(10 * x)
    assert large["conv_in"] > 7
    assert 0.8 < large["down_0_0"] < 1.1


def test_scaled_weights_are_the_same_network():
    args = inputs(EDM2)
    params = random_params(EDM2, *args)
    gains = np.random.default_rng(1).choice([0.25, 0.5, 2.0, 4.0], 1000).astype(np.float32)

    def scaled(path, leaf):
        return leaf * gains[: leaf.shape[-1]].reshape((1,) * (leaf.ndim - 1) + (-1,)) if leaf.ndim else leaf

    y = apply(EDM2)(params, *args)
    np.testing.assert_array_equal(apply(EDM2)(jax.tree_util.tree_map_with_path(scaled, params), *args), y)


def test_the_channel_of_ones_stands_for_biases():
    """Of an input of zeros the first layer still makes something, and of a channel more it has one more."""
    args = inputs(EDM2)
    params = random_params(EDM2, *args)
    assert params["params"]["conv_in"]["kernel"].shape == (3, 3, 4, 8)
    zero = apply(EDM2)(params, np.zeros_like(args[0]), *args[1:])
    assert np.abs(zero).max() > 0.1


@pytest.mark.parametrize("way", ["down", "up"])
def test_a_block_against_its_formula(way):
    """In numpy, of dense blocks: on images of one pixel a convolution is the middle of its kernel."""
    x, emb = normal(3, 1, 1, 4), normal(3, 5, seed=1)
    block = Block(6, way=way, balance=0.4)
    params = block.init(jax.random.key(0), x, emb)["params"]
    params["gain"] = jnp.float32(0.7)
    w = {}
    for name in ("skip", "emb", "conv1", "conv2"):
        kernel = np.asarray(params[name]["kernel"], np.float64)
        kernel = kernel / np.sqrt(np.square(kernel).sum(tuple(range(kernel.ndim - 1))))
        w[name] = kernel[1, 1] if kernel.ndim == 4 else kernel

    def silu(h):
        return h / (1 + np.exp(-h)) / 0.596

    x = x.reshape(3, 4).astype(np.float64)
    short = x @ w["skip"]
    if way == "down":
        x = short = short / (1e-4 + np.sqrt(np.square(short).mean(-1, keepdims=True)))
        w["conv1"] = w["conv1"][:6]
    h = silu(x) @ w["conv1"] * (1 + 0.7 * emb @ w["emb"])
    expected = (0.6 * short + 0.4 * silu(h) @ w["conv2"]) / math.hypot(0.6, 0.4)
    y = block.apply({"params": params}, normal(3, 1, 1, 4), emb)
    np.testing.assert_allclose(np.asarray(y).reshape(3, 6), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("space", [(8,), (4, 2, 6)], ids=["sequences", "videos"])
def test_sequences_and_videos_go_through_all_levels(space):
    _, c_noise, cond = inputs(EDM2)
    x = normal(BATCH, *space, 3)
    params = random_params(EDM2, x, c_noise, cond)
    y = apply(EDM2)(params, x, c_noise, cond)
    assert y.shape == x.shape
    other = apply(EDM2)(params, np.roll(x, 1, axis=1), c_noise, cond)
    assert (np.abs(other - y).reshape(BATCH, -1).max(1) > 1e-3).all()


def test_a_network_without_classes_takes_none():
    net = EDM2.clone(num_classes=None)
    args = inputs(net)
    assert "label" not in shapes(net, *args)["params"]
    with pytest.raises(InputError, match=r"EDM2UNet: this network takes no labels"):
        shapes(net, *args[:2], {"label": jnp.zeros(BATCH, jnp.int32)})


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="EDM2UNet: 2 levels .* divisible by 2; got 7x8"):
        shapes(EDM2, *inputs(EDM2, size=(7, 8)))
    heads = EDM2.clone(head_channels=12)
    with pytest.raises(InputError, match="EDM2UNet: 16 channels of .* no heads of head_channels = 12"):
        shapes(heads, *inputs(heads))
