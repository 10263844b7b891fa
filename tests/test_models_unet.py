"""The U-Net: the papers' sizes, its promises about shapes, dtypes and independence of examples, its refusals."""

import functools
import math

import chex
import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import InputError
from jaxdiff.models import UNet
from jaxdiff.noise import example_keys

# Two levels, 8x8 and 4x4, with attention at the lower one.
DDPM = UNet(
    channels=8, multipliers=(1, 2), blocks=1, attention_resolutions=(4,), groups=4, dropout=0.5,
    scale_shift=False, resample_in_block=False,
)  # fmt: skip
ADM = DDPM.clone(scale_shift=True, resample_in_block=True, head_channels=8, num_classes=3)
NETS = {"ddpm": DDPM, "adm": ADM}
BATCH = 4
jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)  # compiles in a third of the time
KEYS = example_keys(jax.random.key(0), jnp.arange(BATCH))

both = pytest.mark.parametrize("name", NETS)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def inputs(net, *, size=(8, 8)):
    cond = {} if net.num_classes is None else {"label": np.arange(BATCH) % (net.num_classes + 1)}
    return normal(BATCH, *size, 3), np.array([0, 10, 300, 999], np.float32), cond


def shapes(net, *args):
    return jax.eval_shape(net.init, jax.random.key(0), *args)


def random_params(net, *args):
    """Parameters of the network's shapes, none of them zero, none of them special."""
    rng = np.random.default_rng(0)

    def draw(leaf):
        size = 1.0 if leaf.ndim == 1 else 1 / math.sqrt(math.prod(leaf.shape[:-1]))
        return (size * rng.standard_normal(leaf.shape)).astype(leaf.dtype)

    return jax.tree.map(draw, shapes(net, *args))


@functools.cache
def apply(net):
    """The compiled network, once per network."""
    return jit(net.apply)


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
def test_the_output_starts_at_zero(name):
    """Whatever the other parameters are; initialising the last convolution alone is quicker to compile."""
    net = NETS[name]
    args = inputs(net)
    params = random_params(net, *args)
    assert np.abs(apply(net)(params, *args)).max() > 0.1
    params["params"]["conv_out"] = jit(lambda key: net.init(key, *args)["params"]["conv_out"])(jax.random.key(0))
    np.testing.assert_array_equal(apply(net)(params, *args), np.zeros((BATCH, 8, 8, 3)))


@functools.cache
def learning(net):
    """The parameters, the program and the results of a gradient; with dropout, an image and a learned variance."""
    net = net.clone(out_channels=6)
    x, c_noise, cond = inputs(net)
    cond["image"] = normal(BATCH, 8, 8, 1, seed=1)
    weights = normal(BATCH, 8, 8, 6, seed=2)

    def loss(params):
        return jnp.sum(weights * net.apply(params, x, c_noise, cond, key=KEYS))

    params = random_params(net, x, c_noise, cond)
    program = jit(jax.value_and_grad(loss)).trace(params)
    return params, str(program.jaxpr), program.lower().compile()(params)


@both
def test_every_parameter_learns(name):
    """A parameter without a gradient is not connected."""
    _, _, (_, gradients) = learning(NETS[name])
    chex.assert_tree_all_finite(gradients)
    norms = flax.traverse_util.flatten_dict(jax.tree.map(lambda g: float(jnp.abs(g).max()), gradients), sep="/")
    # Rounding alone gives gradients up to 1e-6 where the true one is zero.
    assert {name: norm for name, norm in norms.items() if norm < 1e-4} == {}


def test_remat_changes_memory_only():
    params, program, plain = learning(ADM)
    remat_params, remat_program, remat = learning(ADM.clone(remat=True))
    chex.assert_trees_all_equal_shapes_and_dtypes(remat_params, params)
    chex.assert_trees_all_close(remat, plain, rtol=1e-4, atol=1e-4)
    blocks = sum("conv2" in module for module in params["params"].values())
    assert program.count("remat2[") == 0
    assert remat_program.count("remat2[") == blocks


@both
@pytest.mark.parametrize("groups", [4, 32])
def test_the_output_depends_on_every_input(name, groups):
    """Also in a narrow network with the usual 32 groups."""
    net = NETS[name].clone(groups=groups)
    x, c_noise, cond = inputs(net)
    params = random_params(net, x, c_noise, cond)
    y = apply(net)(params, x, c_noise, cond)
    others = [(-x, c_noise, cond), (x, c_noise + 5, cond)]
    if cond:
        others.append((x, c_noise, {"label": (cond["label"] + 1) % 4}))
    for other in others:
        difference = np.abs(apply(net)(params, *other) - y).max((1, 2, 3))
        assert (difference > 1e-3).all()


@both
def test_bfloat16_is_for_the_computation_only(name):
    net = NETS[name]
    half = net.clone(dtype=jnp.bfloat16)
    args = inputs(net)
    params = random_params(net, *args)
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes(half, *args), params)

    y, y_half = apply(net)(params, *args), apply(half)(params, *args)
    assert y.dtype == y_half.dtype == jnp.float32
    error = np.std(y_half - y) / np.std(y)
    assert 1e-4 < error < 0.05  # of 8 bits, through a dozen layers


@pytest.mark.parametrize("key", [None, KEYS], ids=["plain", "dropout"])
def test_an_example_does_not_depend_on_its_batch(key):
    args = inputs(ADM)
    params = random_params(ADM, *args)
    together = apply(ADM)(params, *args, key=key)

    def some(index):
        return apply(ADM)(params, *jax.tree.map(lambda a: a[index], args), key=None if key is None else key[index])

    np.testing.assert_allclose(
        np.concatenate([some(np.array([i])) for i in range(BATCH)]), together, rtol=1e-5, atol=1e-5
    )
    order = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(some(order), together[order], rtol=1e-5, atol=1e-5)


def test_dropout_is_in_every_block_where_there_is_a_key():
    args = inputs(DDPM)
    params = random_params(DDPM, *args)
    blocks = sum("conv2" in module for module in params["params"].values())
    program = str(jax.make_jaxpr(functools.partial(DDPM.apply, key=KEYS))(params, *args))
    assert program.count("random_fold_in") == blocks

    y = apply(DDPM)(params, *args)
    dropped = apply(DDPM)(params, *args, key=KEYS)
    assert (np.abs(dropped - y).max((1, 2, 3)) > 1e-2).all()
    np.testing.assert_array_equal(apply(DDPM.clone(dropout=0.0))(params, *args, key=KEYS), y)


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


LABEL = {"label": jnp.zeros(BATCH, jnp.int32)}


@pytest.mark.parametrize(
    ("name", "cond", "message"),
    [
        ("adm", None, "takes labels; cond has nothing"),
        ("adm", {"image": jnp.zeros((BATCH, 8, 8, 1))}, r"takes labels; cond has \['image'\]"),
        ("ddpm", LABEL, r"takes no labels \(num_classes is None\); cond has \['label'\]"),
        ("ddpm", {"labels": LABEL["label"]}, r"cond may have 'label' and 'image'; got \['labels'\]"),
    ],
)
def test_missing_and_unexpected_conditions_are_refused(name, cond, message):
    with pytest.raises(InputError, match=message):
        shapes(NETS[name], jnp.zeros((BATCH, 8, 8, 3)), jnp.zeros(BATCH), cond)


def test_the_null_label_is_a_label_of_its_own():
    """`num_classes` is in range, so it is neither clamped to the last class nor anything but itself."""
    x, c_noise, _ = inputs(ADM)
    x = np.repeat(x[:1], BATCH, axis=0)
    c_noise = np.repeat(c_noise[:1], BATCH)
    cond = {"label": np.arange(ADM.num_classes + 1)}
    y = apply(ADM)(random_params(ADM, x, c_noise, cond), x, c_noise, cond)
    for i in range(BATCH - 1):
        assert np.abs(y[i] - y[-1]).max() > 1e-2


def test_a_conditioning_image_is_seen():
    x, c_noise, _ = inputs(DDPM)
    image = normal(BATCH, 8, 8, 2, seed=1)
    params = random_params(DDPM, x, c_noise, {"image": image})
    y, other = (apply(DDPM)(params, x, c_noise, {"image": i}) for i in (image, -image))
    assert y.shape == x.shape
    assert (np.abs(y - other).max((1, 2, 3)) > 1e-2).all()


@pytest.mark.parametrize(("out_channels", "expected"), [(None, 3), (6, 6)])
def test_out_channels(out_channels, expected):
    net = DDPM.clone(out_channels=out_channels)
    y, _ = jax.eval_shape(net.init_with_output, jax.random.key(0), *inputs(net))
    assert y.shape == (BATCH, 8, 8, expected)


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


@both
def test_float64_is_float64_throughout(name):
    """Against float32 it differs by float32's rounding; a layer in float32 inside would show in the second digit."""
    net = NETS[name].clone(dtype=jnp.float64)
    args = inputs(net)
    params = random_params(NETS[name], *args)
    y = apply(NETS[name])(params, *args)
    with jax.enable_x64(True):
        precise = jax.tree.map(lambda a: np.asarray(a, np.float64), (params, args))
        program = jax.make_jaxpr(lambda p, x, c: net.apply(p, x, c, args[2]))(precise[0], *precise[1][:2])
        assert "f32[" not in str(program)
        exact = net.apply(precise[0], *precise[1][:2], args[2])
    assert exact.dtype == np.float64
    np.testing.assert_allclose(y, exact, atol=1e-4 * np.abs(exact).max())


def test_an_embedding_of_another_width():
    net = ADM.clone(embedding_channels=12)
    args = inputs(net)
    found = shapes(net, *args)["params"]
    assert (found["time_1"]["kernel"].shape, found["label"]["embedding"].shape) == ((12, 48), (4, 48))


def test_without_a_null_label_there_is_one_label_less():
    net = ADM.clone(null_label=False)
    assert shapes(net, *inputs(net))["params"]["label"]["embedding"].shape == (3, 32)
