"""DDPM++ and NCSN++: the papers' sizes, where they have attention, constants, sequences and videos, refusals."""

import dataclasses
import json
import math

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from network_table import BATCH, DDPMPP, NCSNPP, apply, inputs, jit, normal, random_params, shapes

from jaxdiff import InputError
from jaxdiff import config as configs
from jaxdiff.models import NCSNpp
from jaxdiff.models.embed import normal_frequencies

PUBLISHED_NCSNPP = NCSNpp(embedding="fourier", fir=True, progressive_input="residual")
# As published, in units of 0.1M parameters: DDPM++ and NCSN++ of CIFAR-10 (the latter's frequencies are constants, and
# not counted), both with twice the blocks ("deep", 107M), and DDPM++ with the multipliers of EDM's experiments, 55.7M,
# of which the 1,152 of its augmentation labels are not here.
PUBLISHED = {
    "ddpm++": (NCSNpp(), 618, 0.5),
    "ncsn++": (PUBLISHED_NCSNPP, 628, 0.5),
    "ddpm++ deep": (NCSNpp(blocks=8), 1070, 5),
    "ncsn++ deep": (PUBLISHED_NCSNPP.clone(blocks=8), 1070, 6),
    "ddpm++ of edm": (NCSNpp(multipliers=(2, 2, 2)), 557, 0.5),
}


def count(net):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes(net, jnp.zeros((1, 32, 32, 3)), jnp.zeros(1))))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_have_their_number_of_parameters(name):
    net, expected, rounding = PUBLISHED[name]
    assert abs(count(net) / 1e5 - expected) <= rounding


def by_hand(*, blocks, multipliers, nf=128, attention=1):
    """DDPM++ without a program: of each layer the kernel and the bias, of each norm two numbers a channel."""
    conv = lambda i, o, k: k * k * i * o + o
    attend = lambda c: 2 * c + 4 * conv(c, c, 1)

    def block(i, o, resample=False):
        skip = conv(i, o, 1) if resample or i != o else 0
        return 2 * i + conv(i, o, 3) + conv(4 * nf, o, 1) + 2 * o + conv(o, o, 3) + skip

    total, here, skips = conv(nf, 4 * nf, 1) + conv(4 * nf, 4 * nf, 1) + conv(3, nf, 3), nf, [nf]
    for level, multiplier in enumerate(multipliers):
        for _ in range(blocks):
            total += block(here, multiplier * nf) + (attend(multiplier * nf) if level == attention else 0)
            here = multiplier * nf
            skips.append(here)
        if level < len(multipliers) - 1:
            total += block(here, here, resample=True)
            skips.append(here)
    total += 2 * block(here, here) + attend(here)
    for level, multiplier in reversed(list(enumerate(multipliers))):
        for _ in range(blocks + 1):
            total += block(here + skips.pop(), multiplier * nf)
            here = multiplier * nf
        total += attend(here) if level == attention else 0
        total += block(here, here, resample=True) if level else 0
    return total + 2 * here + conv(here, 3, 3)


@pytest.mark.parametrize(("blocks", "multipliers"), [(4, (1, 2, 2, 2)), (4, (2, 2, 2)), (8, (1, 2, 2, 2))])
def test_their_parameters_one_by_one(blocks, multipliers):
    assert count(NCSNpp(blocks=blocks, multipliers=multipliers)) == by_hand(blocks=blocks, multipliers=multipliers)


def test_ncsnpp_has_more_by_its_embedding_and_its_input():
    """Twice as wide an embedding, and three convolutions from the image, 3 to 128 to 256 to 256 channels."""
    more = 128 * 512 + 9 * (3 * 128 + 128 * 256 + 256 * 256) + 128 + 256 + 256
    assert count(PUBLISHED_NCSNPP) - count(NCSNpp()) == more


@pytest.mark.parametrize(
    ("size", "resolutions", "levels"),
    [((32, 32), (16,), [1]), ((32, 32), (32, 8), [0, 2]), ((32, 48), (16,), [1]), ((32, 16), (32,), [])],
)
def test_attention_is_in_every_block_down_and_after_the_last_one_up(size, resolutions, levels):
    net = DDPMPP.clone(multipliers=(1, 2, 2), blocks=2, attention_resolutions=resolutions)
    names = {name for (_, name, *_) in flax.traverse_util.flatten_dict(shapes(net, *inputs(net, size=size)))}
    expected = {"middle_attention"}
    for level in levels:
        expected |= {f"down_{level}_0_attention", f"down_{level}_1_attention", f"up_{level}_attention"}
    assert {name for name in names if "attention" in name} == expected


def test_the_fourier_embedding_s_frequencies_are_constants():
    """No parameters: the same tree as without; and those that are drawn can be given, or others."""
    args = inputs(NCSNPP)
    params = random_params(NCSNPP, *args)
    assert not any("freq" in "/".join(path) for path in flax.traverse_util.flatten_dict(params))
    y = apply(NCSNPP)(params, *args)
    drawn = tuple(normal_frequencies(8, scale=0.01).tolist())
    np.testing.assert_array_equal(apply(NCSNPP.clone(frequencies=drawn))(params, *args), y)
    for other in ({"frequencies": drawn[::-1]}, {"fourier_scale": 0.02}):
        assert np.abs(apply(NCSNPP.clone(**other))(params, *args) - y).max() > 1e-3


VARIANTS = {
    "ddpm++": DDPMPP,
    "ncsn++": NCSNPP.clone(num_classes=None),
    "ddpm's blocks": DDPMPP.clone(block="ddpm", progressive_input="input_skip", progressive="residual"),
    "ddpm's blocks and fir": DDPMPP.clone(block="ddpm", fir=True, progressive="residual"),
}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("space", [(8,), (2, 4, 6)], ids=["sequences", "videos"])
def test_sequences_and_videos_go_through_all_levels(name, space):
    net = VARIANTS[name]
    _, c_noise, cond = inputs(net)
    x = normal(BATCH, *space, 3)
    params = random_params(net, x, c_noise, cond)
    y = apply(net)(params, x, c_noise, cond)
    assert y.shape == x.shape
    other = apply(net)(params, np.roll(x, 1, axis=1), c_noise, cond)
    assert (np.abs(other - y).reshape(BATCH, -1).max(1) > 1e-3).all()


@pytest.mark.parametrize(("space", "axis"), [((6,), 1), ((4, 6), 0)], ids=["sequence", "video of one frame"])
def test_a_dimension_of_size_one_is_no_dimension(space, axis):
    """A sequence is an image of width 1, an image a video of one frame: of the kernels only the middle is used."""
    fewer = DDPMPP.clone(multipliers=(1,), attention_resolutions=())
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


@pytest.mark.parametrize("name", ["ddpm's blocks", "ddpm's blocks and fir"])
def test_the_output_of_the_other_variants_starts_at_zero_too(name):
    net, args = VARIANTS[name], inputs(VARIANTS[name])
    fresh = jit(net.init)(jax.random.key(0), *args)
    np.testing.assert_array_equal(apply(net)(fresh, *args), np.zeros((BATCH, 8, 8, 3)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embedding": "positional"}, "embedding 'positional'; expected one of sinusoidal, fourier"),
        ({"block": "adm"}, "block 'adm'; expected one of biggan, ddpm"),
        ({"progressive": "input_skip"}, "progressive 'input_skip'; expected one of none, output_skip, residual"),
        ({"frequencies": (1.0, 2.0)}, "2 frequencies; expected as many as channels, 8"),
        ({"multipliers": (1, 1, 1, 1, 1)}, "NCSNpp: 5 levels halve .* divisible by 16; got 8x8"),
    ],
)
def test_what_makes_no_network_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        shapes(DDPMPP.clone(**changes), *inputs(DDPMPP))


def test_its_settings_survive_json_and_are_checked():
    model = configs.NCSNpp(channels=4, embedding="fourier", frequencies=(0.1, -1 / 3, 16.0, 2.5), fir=True)
    config = configs.Config(model=model, diffusion=configs.Diffusion(schedule="ve", preconditioning="ve"))
    configs.check(config)
    assert configs.from_dict(json.loads(json.dumps(configs.to_dict(config)))) == config
    for changes, message in [
        ({"frequencies": (0.1,)}, "model.frequencies .* as many numbers as channels"),
        ({"frequencies": (0.1, 0.2, 0.3, math.nan)}, "model.frequencies"),
        ({"embedding": "sinusoidal"}, "model.frequencies .* of the fourier embedding"),
        ({"channels": 6, "frequencies": None}, "a positive multiple of 4"),
        ({"fourier_scale": 0.0}, "model.fourier_scale"),
        ({"blocks": 0}, "at least 1"),
    ]:
        with pytest.raises(InputError, match=message):
            configs.check(dataclasses.replace(config, model=dataclasses.replace(model, **changes)))
