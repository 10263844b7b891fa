"""The U-Net: the papers' sizes, where it has attention, sequences and videos, its refusals."""

import math

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from network_table import ADM, BATCH, DDPM, apply, inputs, normal, random_params, shapes

from jaxdiff import InputError
from jaxdiff.models import UNet

NETS = {"ddpm": DDPM, "adm": ADM}
both = pytest.mark.parametrize("name", NETS)


def attentions(net, *args):
    names = {name for (_, name, *_) in flax.traverse_util.flatten_dict(shapes(net, *args))}
    return sorted(name for name in names if "attention" in name)


# Parameters of google/ddpm-cifar10-32, and of guided-diffusion's 64x64 and 256x256 (unconditional) networks.
PUBLISHED = [
    (UNet(128, (1, 2, 2, 2), 2, (16,), scale_shift=False, resample_in_block=False), 32, 35_746_307),
    (UNet(192, (1, 2, 3, 4), 3, (32, 16, 8), head_channels=64, num_classes=1000, out_channels=6), 64, 295_904_454),
    (UNet(256, (1, 1, 2, 2, 4, 4), 2, (32, 16, 8), head_channels=64, out_channels=6), 256, 552_814_086),
]


@pytest.mark.parametrize(("net", "size", "count"), PUBLISHED, ids=["ddpm-cifar10", "adm-64", "adm-256"])
def test_published_networks_have_their_number_of_parameters(net, size, count):
    cond = {} if net.num_classes is None else {"label": jnp.zeros(1, jnp.int32)}
    params = shapes(net, jnp.zeros((1, size, size, 3)), jnp.zeros(1), cond)
    if net.num_classes is not None:
        count += 4 * net.channels  # the null label
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == count


@both
@pytest.mark.parametrize("size", [(8, 12), (2, 2), (6, 10)])
def test_sizes_need_not_be_square_or_powers_of_two(name, size):
    net = NETS[name]
    args = inputs(net, size=size)
    y = apply(net)(random_params(net, *args), *args)
    assert y.shape == (BATCH, *size, 3)
    assert np.isfinite(y).all()


@pytest.mark.parametrize(
    ("size", "levels", "divisor"), [((28, 28), 4, 8), ((9, 8), 2, 2), ((8, 9), 2, 2), ((4, 12), 4, 8)]
)
def test_a_size_that_cannot_be_halved_is_refused(size, levels, divisor):
    net = DDPM.clone(multipliers=(1,) * levels)
    with pytest.raises(InputError, match=rf"divisible by {divisor}; got {size[0]}x{size[1]}"):
        shapes(net, jnp.zeros((1, *size, 3)), jnp.zeros(1))


def test_no_levels_are_no_network():
    with pytest.raises(InputError, match="UNet: 0 levels, .* expected at least one level"):
        shapes(DDPM.clone(multipliers=()), *inputs(DDPM))


def test_head_channels_give_the_number_of_heads():
    """All attention is at 16 channels: heads of 8 channels are 2 heads."""
    args = inputs(DDPM)
    params = random_params(DDPM, *args)
    two = apply(DDPM.clone(heads=2))(params, *args)
    np.testing.assert_array_equal(apply(DDPM.clone(head_channels=8))(params, *args), two)
    assert np.abs(apply(DDPM)(params, *args) - two).max() > 1e-3


@pytest.mark.parametrize("head_channels", [6, 32, 0, -1])
def test_head_channels_that_make_no_heads_are_refused(head_channels):
    with pytest.raises(InputError, match=f"16 channels of .* no heads of head_channels = {head_channels}"):
        shapes(DDPM.clone(head_channels=head_channels), *inputs(DDPM))


@pytest.mark.parametrize("heads", [3, 0])
def test_heads_that_do_not_divide_the_channels_are_refused(heads):
    with pytest.raises(InputError, match=f"16 channels cannot be split into {heads} heads"):
        shapes(DDPM.clone(heads=heads), *inputs(DDPM))


@both
@pytest.mark.parametrize(
    ("size", "resolutions", "levels"),
    [((32, 32), (16,), [1]), ((32, 32), (32, 8), [0, 2]), ((32, 48), (16,), [1]), ((32, 16), (32,), [])],
)
def test_attention_is_where_it_was_asked_for_and_in_the_middle(name, size, resolutions, levels):
    """At the smaller side of a level's feature map; a resolution that no level has is ignored."""
    net = NETS[name].clone(multipliers=(1, 2, 2), blocks=2, attention_resolutions=resolutions)
    expected = ["middle_attention"]
    for level in levels:
        expected += [f"down_{level}_{i}_attention" for i in range(2)]
        expected += [f"up_{level}_{i}_attention" for i in range(3)]
    assert attentions(net, *inputs(net, size=size)) == sorted(expected)


def test_levels_of_attention_whatever_the_size():
    net = DDPM.clone(multipliers=(1, 2, 2), attention_levels=(0, 2), attention_resolutions=(4,))
    for size in ((8, 8), (16, 24)):
        found = attentions(net, *inputs(net, size=size))
        assert found == sorted(
            [
                "middle_attention",
                *(f"{n}_attention" for n in ("down_0_0", "down_2_0", "up_0_0", "up_0_1", "up_2_0", "up_2_1")),
            ]
        )
    without = net.clone(attention_levels=(), middle_attention=False)
    assert attentions(without, *inputs(without)) == []


@pytest.mark.parametrize(("space", "axis"), [((6,), 1), ((4, 6), 0)], ids=["sequence", "video of one frame"])
@both
def test_a_dimension_of_size_one_is_no_dimension(name, space, axis):
    """A sequence is an image of width 1, an image a video of one frame: of the kernels only the middle is used."""
    fewer = NETS[name].clone(multipliers=(1,), attention_levels=(0,))
    _, c_noise, cond = inputs(fewer)
    x = normal(BATCH, *space, 3)
    more = np.expand_dims(x, 1 + axis)
    params = random_params(fewer, more, c_noise, cond)

    def middle(kernel):
        return np.take(kernel, 1, axis=axis) if kernel.ndim == len(space) + 3 else kernel

    y = apply(fewer)(params, more, c_noise, cond)
    np.testing.assert_allclose(
        apply(fewer)(jax.tree.map(middle, params), x, c_noise, cond), y.reshape(x.shape), rtol=1e-4, atol=1e-4
    )


@both
@pytest.mark.parametrize("space", [(8,), (4, 2, 6)], ids=["sequences", "videos"])
def test_sequences_and_videos_go_through_all_levels(name, space):
    net = NETS[name].clone(attention_levels=(1,))
    _, c_noise, cond = inputs(net)
    x = normal(BATCH, *space, 3)
    params = random_params(net, x, c_noise, cond)
    y = apply(net)(params, x, c_noise, cond)
    assert y.shape == x.shape
    other = apply(net)(params, np.roll(x, 1, axis=1), c_noise, cond)
    assert (np.abs(other - y).reshape(BATCH, -1).max(1) > 1e-3).all()


@pytest.mark.parametrize("padding", [(0, 1), (1, 1)])
def test_resampling_without_convolutions_is_that_of_these_kernels(padding):
    """A mean over 2x2 as a strided convolution, whose window starts where the padding ends, and an identity."""
    with_conv = DDPM.clone(downsample_padding=padding)
    args = inputs(with_conv)
    params = random_params(with_conv, *args)["params"]
    identity, centre = np.eye(8, dtype=np.float32), np.zeros((3, 3, 1, 1), np.float32)
    centre[1, 1] = 1
    mean = np.zeros((3, 3, 1, 1), np.float32)
    mean[padding[0] : padding[0] + 2, padding[0] : padding[0] + 2] = 0.25
    params["down_0"] = {"kernel": mean * identity, "bias": np.zeros(8, np.float32)}
    params["up_1"] = {"kernel": centre * np.eye(16, dtype=np.float32), "bias": np.zeros(16, np.float32)}
    y = apply(with_conv)({"params": params}, *args)
    without = {name: value for name, value in params.items() if name not in ("down_0", "up_1")}
    plain = DDPM.clone(resample_conv=False)
    assert shapes(plain, *args)["params"].keys() == without.keys()
    np.testing.assert_allclose(apply(plain)({"params": without}, *args), y, rtol=1e-4, atol=1e-4)


def test_an_embedding_of_another_width():
    net = ADM.clone(embedding_channels=12)
    args = inputs(net)
    found = shapes(net, *args)["params"]
    assert (found["time_1"]["kernel"].shape, found["label"]["embedding"].shape) == ((12, 48), (4, 48))
