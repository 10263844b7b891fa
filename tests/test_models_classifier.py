"""The classifier: the papers' sizes, each pool against its formula, the U-Net's own first half, refusals."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from network_table import ADM, BATCH, DDPM, KEYS, inputs, jit, normal, random_params, shapes

from jaxdiff import InputError
from jaxdiff.models import UNet
from jaxdiff.models.classifier import POOLS, AttentionPool, Classifier

UNET = ADM.clone(num_classes=None)
NETS = {pool: Classifier(UNET, 5, pool=pool, pool_head_channels=8) for pool in POOLS}
X, K, _ = inputs(UNET)

every = pytest.mark.parametrize("pool", POOLS)


@functools.cache
def made(pool):
    """Random parameters, and the compiled network."""
    return random_params(NETS[pool], X, K), jit(NETS[pool].apply)


# Millions of parameters of the classifiers in the ADM paper's table of hyperparameters.
PUBLISHED = [(64, 4, (1, 2, 3, 4), 65), (128, 2, (1, 1, 2, 3, 4), 43), (256, 2, (1, 1, 2, 2, 4, 4), 54)]


@pytest.mark.parametrize(("size", "depth", "multipliers", "millions"), PUBLISHED)
def test_published_networks_have_their_number_of_parameters(size, depth, multipliers, millions):
    net = Classifier(UNet(128, multipliers, depth, (32, 16, 8), head_channels=64), 1000)
    params = shapes(net, jnp.zeros((1, size, size, 3)), jnp.zeros(1))
    assert abs(sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) / 1e6 - millions) < 0.5


@every
def test_logits_of_each_example_alone(pool):
    params, apply = made(pool)
    logits = apply(params, X, K)
    assert (logits.shape, logits.dtype) == ((BATCH, 5), np.float32)
    for other in ((-X, K), (X, K + 5)):
        assert (np.abs(apply(params, *other) - logits).max(1) > 1e-3).all()
    order = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(apply(params, X[order], K[order]), logits[order], rtol=1e-4, atol=1e-5)
    dropped = jit(NETS[pool].apply)(params, X, K, key=KEYS)
    assert (np.abs(dropped - logits).max(1) > 1e-3).all()


@every
def test_every_parameter_learns(pool):
    weights = normal(BATCH, 5, seed=2)
    gradients = jit(jax.grad(lambda p: jnp.sum(weights * NETS[pool].apply(p, X, K))))(made(pool)[0])
    chex.assert_tree_all_finite(gradients)
    assert min(float(jnp.abs(g).max()) for g in jax.tree.leaves(gradients)) > 1e-4


@every
def test_dtypes(pool):
    """bfloat16 is of the computation only; float64 is float64 throughout."""
    params, apply = made(pool)
    logits = np.asarray(apply(params, X, K))
    half = NETS[pool].clone(unet=UNET.clone(dtype=jnp.bfloat16))
    rough = jit(half.apply)(params, X, K)
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes(half, X, K), params)
    assert rough.dtype == np.float32
    assert 1e-4 < np.std(rough - logits) / np.std(logits) < 0.05
    exact = NETS[pool].clone(unet=UNET.clone(dtype=jnp.float64))
    with jax.enable_x64(True):
        args = jax.tree.map(lambda a: np.asarray(a, np.float64), (params, X, K))
        assert "f32[" not in str(jax.make_jaxpr(exact.apply)(*args))
        np.testing.assert_allclose(logits, jit(exact.apply)(*args), atol=1e-4 * np.abs(logits).max())


@pytest.mark.parametrize("unet", [UNET, DDPM], ids=["adm", "ddpm"])
def test_its_first_half_is_the_unet_s(unet):
    """The same names and shapes; and with the same parameters the middle is the same, to the bit."""
    x, k, _ = inputs(unet)
    params = random_params(unet, x, k)["params"]
    net = Classifier(unet, 5, pool="adaptive")
    rest = ("up_", "conv_out", "norm_out")
    expected = {name: value for name, value in params.items() if not name.startswith(rest)}
    own = {name: value for name, value in random_params(net, x, k)["params"].items() if name not in expected}
    assert own.keys() == {"norm_out", "out"}
    _, whole = unet.apply({"params": params}, x, k, capture_intermediates=True)
    _, half = net.apply({"params": expected | own}, x, k, capture_intermediates=True)
    for name in ("down_1_0", "middle_1"):
        np.testing.assert_array_equal(
            half["intermediates"][name]["__call__"][0], whole["intermediates"][name]["__call__"][0]
        )


def test_attention_pool_against_its_formula():
    """In numpy, in float64, of one token that asks all."""
    x = normal(3, 2, 4, 8)
    layer = AttentionPool(5, 2)
    params = random_params(layer, x)
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params["params"])
    z = x.reshape(3, 8, 8).astype(np.float64)
    z = np.concatenate([z.mean(1, keepdims=True), z], axis=1) + p["positional_embedding"]
    qkv = (z @ p["qkv"]["kernel"] + p["qkv"]["bias"]).reshape(3, 9, 3, 2, 4)
    q, k, v = np.moveaxis(qkv, 2, 0)
    logits = np.einsum("bhd,bkhd->bhk", q[:, 0], k) / 2
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = np.einsum("bhk,bkhd->bhd", weights, v).reshape(3, 8) @ p["out"]["kernel"] + p["out"]["bias"]
    np.testing.assert_allclose(layer.apply(params, x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pool", ["spatial", "spatial_v2"])
def test_spatial_pools_see_every_feature_map(pool):
    """Of ADM's two levels with one block: the first layer's, block, halved, block, middle: 8 + 8 + 8 + 16 + 16."""
    params, _ = made(pool)
    assert params["params"]["hidden"]["kernel"].shape == (56, 2048)
    assert ("norm_out" in params["params"]) == (pool == "spatial_v2")


def test_what_does_not_fit_is_refused():
    net = NETS["attention"]
    params, _ = made("attention")
    with pytest.raises(InputError, match="made for 16 positions, got 64"):
        net.apply(params, normal(BATCH, 16, 16, 3), K)
    for bad, message in [
        (net.clone(pool="max"), "unknown pool 'max'; there are attention, adaptive, spatial, spatial_v2"),
        (net.clone(unet=ADM), "a U-Net that takes labels"),
        (net.clone(pool_head_channels=12), "Classifier: 16 channels of pool_attention make no heads of"),
    ]:
        with pytest.raises(InputError, match=message):
            shapes(bad, X, K)
    with pytest.raises(InputError, match="Classifier: 2 levels .* divisible by 2; got 7x8"):
        shapes(net, normal(BATCH, 7, 8, 3), K)
