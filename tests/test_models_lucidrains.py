"""lucidrains' U-Net: its size, where its attentions are, sequences and videos, its time."""

import math

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from network_table import LUCIDRAINS, apply, inputs, jit, normal, random_params, shapes

from jaxdiff import InputError
from jaxdiff.models import LucidrainsUNet


def flat(net, *args):
    return flax.traverse_util.flatten_dict(shapes(net, *args)["params"], sep="/")


def test_the_network_of_its_readme_has_its_number_of_parameters():
    """Unet(dim = 64, dim_mults = (1, 2, 4, 8)) of denoising-diffusion-pytorch 2.3.4; tests/parity counts it too."""
    leaves = flat(LucidrainsUNet(), jnp.zeros((1, 32, 32, 3)), jnp.zeros(1)).values()
    assert sum(math.prod(leaf.shape) for leaf in leaves) == 35_711_491


@pytest.mark.parametrize(("full", "expected"), [(None, {2}), ((), set()), ((0, 1), {0, 1})])
def test_linear_attention_is_where_full_attention_is_not_asked_for(full, expected):
    """Linear attention alone has a norm after it."""
    names = flat(LUCIDRAINS.clone(multipliers=(1, 2, 2), full_attention_levels=full), *inputs(LUCIDRAINS))
    attentions = {name.split("/")[0] for name in names if "attention" in name}
    levels = {f"{way}_{level}_attention" for way in ("down", "up") for level in range(3)}
    assert attentions == levels | {"middle_attention"}
    linear = {name.split("/")[0] for name in names if "norm_out" in name}
    assert linear == {name for name in levels if int(name.split("_")[1]) not in expected}


@pytest.mark.parametrize("size", [(8,), (4, 4, 8)])
def test_sequences_and_videos(size):
    net = LUCIDRAINS
    x, c_noise, _ = inputs(net, size=size)
    params = random_params(net, x, c_noise)
    y = apply(net)(params, x, c_noise)
    assert y.shape == x.shape
    moved = x.copy()
    moved[:, -1] += 1.0  # of the first dimension of space the last point, to be seen at all points
    assert (np.abs(apply(net)(params, moved, c_noise) - y).max(-1) > 1e-4).all()


def test_a_size_that_cannot_be_halved_is_refused():
    with pytest.raises(InputError, match="divisible by 2; got 8x9"):
        shapes(LUCIDRAINS, jnp.zeros((1, 8, 9, 3)), jnp.zeros(1))


@pytest.mark.parametrize("frequencies", ["learned", "random"])
def test_random_frequencies_stay_as_they_were_drawn(frequencies):
    net = LUCIDRAINS.clone(frequencies=frequencies)
    x, c_noise, _ = inputs(net)
    params = random_params(net, x, c_noise)
    product = lambda p: jnp.sum(normal(*x.shape, seed=1) * net.apply(p, x, c_noise / 1000))
    gradient = jit(jax.grad(product))(params)["params"]["time_0"]["weights"]
    assert gradient.shape == (8,)
    assert (np.abs(gradient) > 1e-3).all() if frequencies == "learned" else (gradient == 0).all()


def test_unknown_frequencies_are_refused():
    with pytest.raises(InputError, match="unknown frequencies 'gaussian'; expected fixed, learned or random"):
        shapes(LUCIDRAINS.clone(frequencies="gaussian"), *inputs(LUCIDRAINS))


def test_training_can_start():
    """No gradient is infinite, or huge, at the start, although each convolution is followed by x / |x|."""
    x, c_noise, _ = inputs(LUCIDRAINS)
    params = jit(LUCIDRAINS.init)(jax.random.key(0), x, c_noise)
    params["params"]["conv_out"]["kernel"] = normal(8, 3)

    def loss(params):
        return jnp.mean((LUCIDRAINS.apply(params, x, c_noise) - x) ** 2)

    sizes = [np.abs(g).max() for g in jax.tree.leaves(jit(jax.grad(loss))(params))]
    assert max(sizes) < 100
