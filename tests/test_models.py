"""What holds for every network: promises about shapes, dtypes, independence of examples, and refusals."""

import dataclasses
import functools
import re
from typing import get_args

import chex
import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from network_table import BATCH, KEYS, NETS, apply, inputs, jit, normal, random_params, shapes

from jaxdiff import InputError
from jaxdiff import config as configs
from jaxdiff.config.networks.base import Name
from jaxdiff.models import NETWORKS

LABELLED = [name for name, net in NETS.items() if net.num_classes is not None]
PLAIN = [name for name, net in NETS.items() if net.num_classes is None]

every = pytest.mark.parametrize("name", NETS)


def test_the_table_has_them_all():
    assert {type(net) for net in NETS.values()} == set(NETWORKS.values())
    assert list(NETWORKS) == list(configs.NETWORKS) == list(get_args(Name))


@pytest.mark.parametrize("name", NETWORKS)
def test_its_settings_are_the_network_s_own_with_the_same_defaults(name):
    """A setting that the network does not have, or has otherwise, would be another experiment than the one asked for."""
    settings = {f.name: f for f in dataclasses.fields(configs.NETWORKS[name])}
    attributes = {f.name: f for f in dataclasses.fields(NETWORKS[name]) if f.name not in ("parent", "name")}
    assert settings.pop("network").default == name
    for field in ("lora_rank", "dtype"):
        settings.pop(field)
    for field in ("num_classes", "out_channels", "dtype"):  # these say build and the data
        attributes.pop(field)
    assert settings.keys() == attributes.keys()
    assert {n: f.default for n, f in settings.items()} == {n: f.default for n, f in attributes.items()}


@every
def test_the_output_starts_at_zero(name):
    net = NETS[name]
    args = inputs(net)
    params = random_params(net, *args)
    assert np.abs(apply(net)(params, *args)).max() > 0.1
    fresh = jit(net.init)(jax.random.key(0), *args)
    np.testing.assert_array_equal(apply(net)(fresh, *args), np.zeros((BATCH, 8, 8, 3)))


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


@every
def test_every_parameter_learns(name):
    """A parameter without a gradient is not connected."""
    _, _, (_, gradients) = learning(NETS[name])
    chex.assert_tree_all_finite(gradients)
    norms = flax.traverse_util.flatten_dict(jax.tree.map(lambda g: float(jnp.abs(g).max()), gradients), sep="/")
    # Rounding alone gives gradients up to 1e-6 where the true one is zero.
    assert {name: norm for name, norm in norms.items() if norm < 1e-4} == {}


@pytest.mark.parametrize(("name", "remat"), [*((n, "blocks") for n in NETS), ("ddpm", "products"), ("dit", "products")])
def test_remat_changes_memory_only(name, remat):
    params, program, plain = learning(NETS[name])
    remat_params, remat_program, remat = learning(NETS[name].clone(remat=remat))
    chex.assert_trees_all_equal_shapes_and_dtypes(remat_params, params)
    chex.assert_trees_all_close(remat, plain, rtol=1e-4, atol=1e-4)
    assert program.count("remat2[") == 0
    assert remat_program.count("remat2[") > 0  # one, where the blocks are a loop


@pytest.mark.parametrize("name", ["ddpm", "uvit"])
def test_what_the_backward_pass_computes_again(name):
    """Whole blocks, with their convolutions and dense layers; or of these none, only what lies between them."""

    def products(remat):
        net = NETS[name].clone(remat=remat)
        args = inputs(net)
        gradient = jax.grad(lambda params: jnp.sum(net.apply(params, *args, key=KEYS)))
        program = re.sub(r"\s+", " ", str(jax.make_jaxpr(gradient)(shapes(net, *args))))
        no_batch = r"dot_general\[ ?dimension_numbers=\(\(\[\d+\], \[\d+\]\), \(\[\], \[\]\)\)"
        return len(re.findall(rf"conv_general_dilated\[|{no_batch}", program)), program.count("remat2[")

    (kept, no_remat), (again, _), (also_kept, remat) = map(products, ("none", "blocks", "products"))
    assert kept == also_kept < again
    assert no_remat == 0 < remat
    with pytest.raises(InputError, match="remat True: expected one of none, blocks, products"):
        products(True)


@every
def test_the_output_depends_on_every_input(name):
    net = NETS[name]
    x, c_noise, cond = inputs(net)
    params = random_params(net, x, c_noise, cond)
    y = apply(net)(params, x, c_noise, cond)
    others = [(-x, c_noise, cond), (x, c_noise + 5, cond)]
    if cond:
        others.append((x, c_noise, {"label": (cond["label"] + 1) % 4}))
    for other in others:
        difference = np.abs(apply(net)(params, *other) - y).max((1, 2, 3))
        assert (difference > 1e-3).all()


@every
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


@every
@pytest.mark.parametrize("key", [None, KEYS], ids=["plain", "dropout"])
def test_an_example_does_not_depend_on_its_batch(name, key):
    net = NETS[name]
    args = inputs(net)
    params = random_params(net, *args)
    together = apply(net)(params, *args, key=key)

    def some(index):
        return apply(net)(params, *jax.tree.map(lambda a: a[index], args), key=None if key is None else key[index])

    np.testing.assert_allclose(
        np.concatenate([some(np.array([i])) for i in range(BATCH)]), together, rtol=1e-5, atol=1e-5
    )
    order = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(some(order), together[order], rtol=1e-5, atol=1e-5)


@every
def test_dropout_is_on_where_there_is_a_key(name):
    net = NETS[name]
    args = inputs(net)
    params = random_params(net, *args)
    program = str(jax.make_jaxpr(functools.partial(net.apply, key=KEYS))(params, *args))
    assert program.count("random_fold_in") > 1  # each place draws its own

    y = apply(net)(params, *args)
    dropped = apply(net)(params, *args, key=KEYS)
    assert (np.abs(dropped - y).max((1, 2, 3)) > 1e-2).all()
    np.testing.assert_array_equal(apply(net.clone(dropout=0.0))(params, *args, key=KEYS), y)


@every
@pytest.mark.parametrize("size", [(8, 12), (4, 4)])
def test_sizes_need_not_be_square_or_powers_of_two(name, size):
    net = NETS[name]
    args = inputs(net, size=size)
    y = apply(net)(random_params(net, *args), *args)
    assert y.shape == (BATCH, *size, 3)
    assert np.isfinite(y).all()


LABEL = {"label": jnp.zeros(BATCH, jnp.int32)}


@pytest.mark.parametrize(
    ("names", "cond", "message"),
    [
        (LABELLED, None, "takes labels; cond has nothing"),
        (LABELLED, {"image": jnp.zeros((BATCH, 8, 8, 1))}, r"takes labels; cond has \['image'\]"),
        (PLAIN, LABEL, r"takes no labels \(num_classes is None\); cond has \['label'\]"),
        (PLAIN, {"labels": LABEL["label"]}, r"cond is a dictionary of 'label' and 'image'; got \['labels'\]"),
        (LABELLED, LABEL["label"], "cond is a dictionary of 'label' and 'image'; got "),
        (LABELLED, {"label": LABEL["label"][:1]}, rf"one for each of {BATCH} examples; got int32 \(1,\)"),
        (LABELLED, {"label": jnp.zeros(BATCH)}, rf"labels are integers \[B\].*; got float32 \({BATCH},\)"),
        (LABELLED, LABEL | {"image": jnp.zeros((BATCH, 4, 4, 1))}, r"cond\['image'\] .* is not of the size of x"),
    ],
)
def test_missing_and_unexpected_conditions_are_refused(names, cond, message):
    for name in names:
        with pytest.raises(InputError, match=message):
            shapes(NETS[name], jnp.zeros((BATCH, 8, 8, 3)), jnp.zeros(BATCH), cond)


@every
def test_other_shapes_are_refused(name):
    net = NETS[name]
    x, c_noise, cond = inputs(net)
    for shape in ((), (BATCH + 1,), (BATCH, 1)):
        with pytest.raises(InputError, match=re.escape(f"c_noise is [B], one for each of x {x.shape}; got {shape}")):
            shapes(net, x, jnp.zeros(shape), cond)
    with pytest.raises(InputError, match=r"x is \[B, ..., C\], a batch of sequences, images or videos; got \(8, 3\)"):
        shapes(net, x[0, 0], c_noise, cond)


def test_labels_may_be_bound_outside_of_a_compiled_program():
    """As `Pretrained.denoiser(labels)` does: they are constants of the program, and still looked at."""
    net = NETS["modern dit"]
    x, c_noise, _ = inputs(net)
    params = random_params(net, x, c_noise, LABEL)

    def program(label):
        return jax.jit(
            lambda x: jax.lax.scan(lambda x, _: (net.apply(params, x, c_noise, {"label": label}), None), x, length=2)
        )(x)

    label = jnp.arange(BATCH) % net.num_classes
    y, _ = program(label)
    for same in (np.asarray(label), label.tolist()):
        np.testing.assert_array_equal(program(same)[0], y)
    with pytest.raises(InputError, match="labels are integers"):
        program(label + net.num_classes)


@pytest.mark.parametrize("name", LABELLED)
def test_labels_that_there_are_not_are_refused(name):
    """Those of a compiled program cannot be looked at: they make NaN, as any embedding of Flax does."""
    net = NETS[name]
    x, c_noise, _ = inputs(net)
    params = shapes(net, x, c_noise, LABEL)
    wrong = {"label": jnp.full(BATCH, net.num_classes + 1)}
    with pytest.raises(InputError, match=rf"from 0 to {net.num_classes}; got \[{net.num_classes + 1}, "):
        net.apply(jax.tree.map(lambda p: np.zeros(p.shape, p.dtype), params), x, c_noise, wrong)


@pytest.mark.parametrize("name", LABELLED)
def test_the_null_label_is_a_label_of_its_own(name):
    """`num_classes` is in range, so it is neither clamped to the last class nor anything but itself."""
    net = NETS[name]
    x, c_noise, _ = inputs(net)
    x = np.repeat(x[:1], BATCH, axis=0)
    c_noise = np.repeat(c_noise[:1], BATCH)
    cond = {"label": np.arange(net.num_classes + 1)}
    y = apply(net)(random_params(net, x, c_noise, cond), x, c_noise, cond)
    for i in range(BATCH - 1):
        assert np.abs(y[i] - y[-1]).max() > 1e-2


@pytest.mark.parametrize("name", LABELLED)
def test_without_a_null_label_there_is_one_label_less(name):
    def count(net):
        return sum(leaf.size for leaf in jax.tree.leaves(shapes(net, *inputs(net))))

    net = NETS[name]
    rows = {leaf.shape for leaf in jax.tree.leaves(shapes(net, *inputs(net))) if leaf.ndim == 2 and leaf.shape[0] == 4}
    assert count(net) - count(net.clone(null_label=False)) in {width for _, width in rows}


@pytest.mark.parametrize("name", PLAIN)
def test_a_conditioning_image_is_seen(name):
    net = NETS[name]
    x, c_noise, _ = inputs(net)
    image = normal(BATCH, 8, 8, 2, seed=1)
    params = random_params(net, x, c_noise, {"image": image})
    y, other = (apply(net)(params, x, c_noise, {"image": i}) for i in (image, -image))
    assert y.shape == x.shape
    assert (np.abs(y - other).max((1, 2, 3)) > 1e-2).all()


@every
@pytest.mark.parametrize(("out_channels", "expected"), [(None, 3), (6, 6)])
def test_out_channels(name, out_channels, expected):
    net = NETS[name].clone(out_channels=out_channels)
    y, _ = jax.eval_shape(net.init_with_output, jax.random.key(0), *inputs(net))
    assert y.shape == (BATCH, 8, 8, expected)


@every
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
        exact = jit(lambda p, x, c: net.apply(p, x, c, args[2]))(precise[0], *precise[1][:2])
    assert exact.dtype == np.float64
    np.testing.assert_allclose(y, exact, atol=1e-4 * np.abs(exact).max())
