"""DiT and its pieces: against numpy in float64, the paper's sizes, what positions and norms promise, its refusals."""

import math

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from network_table import BATCH, DIT, KEYS, MODERN_DIT, apply, inputs, normal, random_params, shapes

from jaxdiff import InputError, config
from jaxdiff.models import DIT_SIZES, DiT, lora
from jaxdiff.models.attention import rotate
from jaxdiff.models.embed import grid_angles, grid_positions
from jaxdiff.models.layers import normalised
from jaxdiff.models.resampling import patches, unpatches
from jaxdiff.models.transformer import TransformerBlock, transformer

NETS = {"dit": DIT, "modern": MODERN_DIT}
both = pytest.mark.parametrize("name", NETS)


@pytest.mark.parametrize(("name", "millions"), [("S", 33), ("B", 130), ("L", 458), ("XL", 675)])
def test_published_sizes_have_their_number_of_parameters(name, millions):
    """arXiv 2212.09748, table 4, patches of 2; the fixed positions are no parameters."""
    net = DiT(**DIT_SIZES[name], num_classes=1000, out_channels=8, scan=True)
    label = {"label": jnp.zeros(1, jnp.int32)}
    leaves = jax.tree.leaves(shapes(net, jnp.zeros((1, 32, 32, 4)), jnp.zeros(1), label))
    assert round(sum(math.prod(leaf.shape) for leaf in leaves) / 1e6) == millions


def test_swiglu_has_as_many_parameters_as_gelu():
    def count(mlp):
        net = DiT(**DIT_SIZES["B"], mlp=mlp, scan=True)
        return sum(leaf.size for leaf in jax.tree.leaves(shapes(net, *inputs(net))))

    assert count("gelu") != count("swiglu") == pytest.approx(count("gelu"), rel=1e-3)


# A transformer block in numpy, one head and one example after the other.


def block_in_numpy(p, x, emb, *, heads, mlp, norm, qk_norm, angles):
    def dense(name, h):
        return h @ p[name]["kernel"] + p[name]["bias"]

    def silu(h):
        return h / (1 + np.exp(-h))

    def normed(h):
        h = h - h.mean(-1, keepdims=True) if norm == "layer" else h
        return h / np.sqrt((h**2).mean(-1, keepdims=True) + 1e-6)

    def turned(h):  # as complex numbers
        if angles is None:
            return h
        half = h.shape[-1] // 2
        z = (h[:, :half] + 1j * h[:, half:]) * np.exp(1j * angles)
        return np.concatenate([z.real, z.imag], axis=-1)

    def rms(name, h):
        return h / np.sqrt((h**2).mean(-1, keepdims=True) + 1e-6) * p["attention"][name]["scale"] if qk_norm else h

    def attention(h):
        q, k, v = np.split(h @ p["attention"]["qkv"]["kernel"] + p["attention"]["qkv"]["bias"], 3, axis=-1)
        outs = []
        for part in np.split(np.arange(h.shape[-1]), heads):
            a, b = turned(rms("q_norm", q[:, part])), turned(rms("k_norm", k[:, part]))
            weights = np.exp(a @ b.T / np.sqrt(len(part)))
            outs.append(weights / weights.sum(-1, keepdims=True) @ v[:, part])
        return np.concatenate(outs, axis=-1) @ p["attention"]["out"]["kernel"] + p["attention"]["out"]["bias"]

    def perceptron(h):
        if mlp == "swiglu":
            return dense("mlp_out", silu(dense("mlp_gate", h)) * dense("mlp_in", h))
        h = dense("mlp_in", h)
        return dense("mlp_out", h / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3))))

    results = []
    for y, e in zip(x, emb):
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = np.split(dense("modulation", silu(e)), 6)
        y = y + gate_1 * attention(normed(y) * (1 + scale_1) + shift_1)
        results.append(y + gate_2 * perceptron(normed(y) * (1 + scale_2) + shift_2))
    return np.stack(results)


@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"mlp": "gelu", "norm": "layer", "qk_norm": False},
        {"mlp": "swiglu", "norm": "layer", "qk_norm": True},
        {"mlp": "gelu", "norm": "rms", "qk_norm": True},
    ],
)
def test_a_block_is_that_of_the_papers(options, rotary):
    x, emb = 3 + normal(2, 6, 16), normal(2, 16, seed=1)
    angles = np.concatenate(grid_angles((2, 3), pairs=4), axis=-1) if rotary else None
    block = TransformerBlock(2, **options)
    params = random_params(block, x, emb)
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda a: np.asarray(a, np.float64), (params, x, emb))
        y = jax.jit(block.clone(dtype=jnp.float64).apply)(*exact, None, angles)
    expected = block_in_numpy(exact[0]["params"], *exact[1:], heads=2, angles=angles, **options)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_a_block_starts_as_the_identity():
    x, emb = normal(2, 6, 16), normal(2, 16, seed=1)
    y, params = TransformerBlock(2).init_with_output(jax.random.key(0), x, emb)
    np.testing.assert_array_equal(y, x)
    assert np.abs(params["params"]["attention"]["out"]["kernel"]).max() > 0  # the gates alone are zero


def test_the_first_parameters_are_drawn_as_the_paper_says():
    """Xavier's uniform bound for dense layers, a patch being one vector; 0.02 for what embeds time and labels."""
    net = DiT(width=96, depth=1, heads=2, patch=4, num_classes=999)
    params = net.init(jax.random.key(0), *inputs(net))["params"]
    block = params["block_0"]
    for name, kernel in {
        "patch": params["patch"]["kernel"],
        "qkv": block["attention"]["qkv"]["kernel"],
        "mlp_in": block["mlp_in"]["kernel"],
        "mlp_out": block["mlp_out"]["kernel"],
    }.items():
        assert np.abs(kernel).max() == pytest.approx(math.sqrt(6 / sum(kernel.shape)), rel=0.01), name
    for name, values in {
        "time_1": params["time_1"]["kernel"],
        "time_2": params["time_2"]["kernel"],
        "label": params["label"]["embedding"],
    }.items():
        assert np.std(values) == pytest.approx(0.02, rel=0.05), name
    for layer in (block["modulation"], params["modulation_out"], params["out"]):
        chex.assert_trees_all_equal(layer, jax.tree.map(np.zeros_like, layer))


def test_patches_are_blocks_row_by_row_with_the_channels_last():
    x = normal(2, 4, 6, 3)
    found = patches(jnp.asarray(x), 2)
    assert found.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(found[1, 1, 2], x[1, 2:4, 4:6].ravel())
    for shape, size in [((2, 6, 3), 3), ((1, 4, 2, 6, 5), 2), ((1, 3, 5, 2), 1)]:
        x = jnp.asarray(normal(*shape))
        np.testing.assert_array_equal(unpatches(patches(x, size), size), x)


def test_positions_are_the_published_ones():
    """Of a patch in row i, column j: sines and cosines of the column, then those of the row."""
    found = grid_positions((3, 5), channels=16)
    frequencies = 10_000.0 ** -(np.arange(4) / 4)
    for i in range(3):
        for j in range(5):
            waves = [wave(p * frequencies) for p in (j, i) for wave in (np.sin, np.cos)]
            np.testing.assert_allclose(found[5 * i + j], np.concatenate(waves), atol=1e-12)


@pytest.mark.parametrize(("size", "channels"), [((7,), 6), ((3, 4), 8), ((3, 4), 10), ((2, 3, 4), 12), ((2, 3, 4), 16)])
def test_no_two_points_have_the_same_position(size, channels):
    """Of any number of dimensions, and where the axes cannot have equal shares of the channels."""
    found = grid_positions(size, channels=channels)
    assert found.shape == (math.prod(size), channels)
    assert np.abs(found[:, None] - found).max(-1)[~np.eye(len(found), dtype=bool)].min() > 1e-3


def test_positions_of_an_odd_width_are_refused():
    with pytest.raises(InputError, match="an even number of channels, got 5"):
        grid_positions((2,), channels=5)


def test_rotary_scores_depend_on_relative_positions_only():
    """The same query and key at all points of a 4x5 grid: `q_m . k_n` is a function of the way from m to n."""
    size, channels = (4, 5), 12
    angles = np.concatenate(grid_angles(size, pairs=channels // 2), axis=-1)
    with jax.enable_x64(True):
        q, k = (np.tile(normal(1, 1, 1, channels, seed=i).astype(np.float64), (1, 20, 1, 1)) for i in (1, 2))
        q, k = (rotate(jnp.asarray(a), angles)[0, :, 0] for a in (q, k))
        scores = np.asarray(q @ k.T)
        lengths = np.linalg.norm(q, axis=-1)
    ways = np.indices(size).reshape(2, -1).T
    ways = (ways[None] - ways[:, None]).reshape(-1, 2)
    table = {tuple(way): score for way, score in zip(ways, scores.ravel())}
    np.testing.assert_allclose(scores.ravel(), [table[tuple(way)] for way in ways], rtol=0, atol=1e-12)
    assert np.min(np.diff(sorted(table.values()))) > 1e-6  # and of each way it is another
    np.testing.assert_allclose(lengths, lengths[0], rtol=1e-12)


@pytest.mark.parametrize("rotary", [False, True])
def test_it_knows_where_a_patch_is(rotary):
    """Without positions of either kind, an image of exchanged patches would give the exchanged output."""
    net = DIT.clone(rotary=rotary)
    x, c_noise, cond = inputs(net)
    params = random_params(net, x, c_noise, cond)
    y = apply(net)(params, x, c_noise, cond)
    order = np.array([2, 3, 0, 1, 4, 5, 6, 7])
    for axis in (1, 2):
        other = np.asarray(apply(net)(params, np.take(x, order, axis), c_noise, cond))
        assert (np.abs(np.take(other, order, axis) - y).max((1, 2, 3)) > 1e-2).all()


def test_normalised_queries_and_keys_have_no_scale():
    """Their kernels and biases times any number: the same network. Without the norm it is another."""

    def scaled(params):
        factor = np.repeat([50.0, 50.0, 1.0], net.width).astype(np.float32)  # queries, keys, values
        blocks = {name: dict(block) for name, block in params["params"].items() if name.startswith("block")}
        for block in blocks.values():
            qkv = block["attention"]["qkv"]
            block["attention"] = block["attention"] | {"qkv": jax.tree.map(lambda a: a * factor, qkv)}
        return {"params": params["params"] | blocks}

    for net, same in ((DIT.clone(qk_norm=True), True), (DIT, False)):
        args = inputs(net)
        params = random_params(net, *args)
        y, other = apply(net)(params, *args), apply(net)(scaled(params), *args)
        assert np.allclose(y, other, rtol=0, atol=1e-4 * np.abs(y).max()) == same


def test_the_rms_norm_does_not_centre():
    """A constant on all channels is taken out by one and not by the other."""
    x = normal(2, 3, 8)
    layer, rms = (normalised(jnp.asarray(x + 5), centre=centre) for centre in (True, False))
    np.testing.assert_allclose(layer, normalised(jnp.asarray(x), centre=True), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(np.mean(np.square(rms), axis=-1), 1, rtol=1e-5)
    assert np.min(np.mean(rms, axis=-1)) > 0.9


@both
def test_blocks_in_a_loop_are_the_same_blocks(name):
    plain, loop = (NETS[name].clone(scan=scan) for scan in (False, True))
    args = inputs(plain)
    params = random_params(plain, *args)["params"]
    blocks = [params.pop(f"block_{i}") for i in range(plain.depth)]
    y = apply(plain)({"params": params | {f"block_{i}": block for i, block in enumerate(blocks)}}, *args)
    stacked = {"params": params | {"blocks": jax.tree.map(lambda *leaves: np.stack(leaves), *blocks)}}
    chex.assert_trees_all_equal_shapes_and_dtypes(stacked, shapes(loop, *args))
    np.testing.assert_allclose(apply(loop)(stacked, *args), y, rtol=1e-5, atol=1e-5)

    fresh = loop.init(jax.random.key(0), *args)["params"]["blocks"]["mlp_in"]["kernel"]
    assert np.abs(fresh[0] - fresh[1]).max() > 0.1  # not one draw for all


class Stack(nn.Module):
    """The transformer alone."""

    scan: bool

    @nn.compact
    def __call__(self, x, emb, key):
        return transformer(x, emb, key, depth=3, heads=1, rotary=True, scan=self.scan, mlp_ratio=1, dropout=0.5)


@pytest.mark.parametrize("scan", [False, True])
def test_each_block_of_a_loop_drops_its_own(scan):
    """Blocks that add twice their mask, and nothing else: of three masks the sum has four values, of one it would have
    two."""
    width, ones = 32, np.ones((2, 64, 32), np.float32)
    stack = Stack(scan=scan)
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes(stack, ones, ones[:, 0], None))

    def fill(path, leaf):
        names = [key.key for key in path]
        if names[-2:] == ["modulation", "bias"]:
            leaf[..., 5 * width :] = 1  # the gate of the MLP
        if names[-2:] == ["mlp_in", "bias"]:
            leaf[...] = 1
        if names[-2:] == ["mlp_out", "kernel"]:
            leaf[...] = np.eye(width)

    jax.tree_util.tree_map_with_path(fill, params)
    added = stack.apply(params, ones, ones[:, 0], KEYS[:2]) - ones
    one = 2 * np.asarray(jax.nn.gelu(1.0))
    kept = np.asarray(added) / one
    np.testing.assert_allclose(kept, np.rint(kept), atol=1e-5)
    shares = [np.mean(np.rint(kept) == n) for n in range(4)]
    np.testing.assert_allclose(shares, [1 / 8, 3 / 8, 3 / 8, 1 / 8], atol=0.03)


@pytest.mark.parametrize("scan", [False, True])
def test_low_rank_adaptation_finds_the_attention(scan):
    net = DIT.clone(scan=scan)
    args = inputs(net)
    params = random_params(net, *args)
    adapted = lora.adapted(jax.random.key(0), params, rank=2)
    assert len(adapted["lora"]) == (2 if scan else 4)
    chex.assert_trees_all_equal(lora.merged(adapted), params)
    adapted["lora"] = jax.tree.map(lambda a: np.ones(a.shape, np.float32), adapted["lora"])
    chex.assert_trees_all_equal_shapes(lora.merged(adapted), params)
    assert np.abs(apply(net)(lora.merged(adapted), *args) - apply(net)(params, *args)).max() > 1e-2


@both
@pytest.mark.parametrize("space", [(8,), (4, 2, 6)], ids=["sequences", "videos"])
def test_sequences_and_videos(name, space):
    net = NETS[name].clone(scan=False)
    _, c_noise, cond = inputs(net)
    x = normal(BATCH, *space, 3)
    params = random_params(net, x, c_noise, cond)
    y = apply(net)(params, x, c_noise, cond)
    assert y.shape == x.shape
    other = apply(net)(params, np.roll(x, 2, axis=1), c_noise, cond)
    assert (np.abs(np.roll(other, -2, axis=1) - y).reshape(BATCH, -1).max(1) > 1e-3).all()


@pytest.mark.parametrize(
    ("changes", "size", "message"),
    [
        ({"patch": 3}, (8, 8), "patches of 3: the image's size must be divisible by it; got 8x8"),
        ({"patch": 4}, (8, 6), "got 8x6"),
        ({"patch": 0}, (8, 8), "patches of 0"),
        ({"heads": 5}, (8, 8), "24 channels cannot be split into 5 heads"),
        ({"rotary": True, "heads": 8}, (8, 8), "heads of 3 channels cannot be turned along 2 axes"),
        ({"rotary": True, "heads": 12}, (8, 8), "heads of 2 channels .* an even number of channels, at least 4"),
    ],
)
def test_what_cannot_be_is_refused(changes, size, message):
    with pytest.raises(InputError, match=message):
        shapes(DIT.clone(**changes), *inputs(DIT, size=size))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": 7}, "--model.heads 7: expected a divisor of the transformer's width, 384"),
        ({"heads": 0}, "--model.heads 0"),
        ({"width": 7, "heads": 7}, "--model.width 7: expected a positive even number"),
        ({"depth": 0}, "--model.depth 0"),
        ({"patch": 0}, "--model.patch 0"),
        ({"mlp_ratio": 0.0}, "--model.mlp_ratio 0.0"),
        ({"rotary": True, "width": 12, "heads": 6}, "--model.rotary True: expected false, or heads of an even size"),
        ({"norm_eps": 0.0}, "--model.norm_eps 0.0"),
        ({"mlp_norm_eps": -1.0}, "--model.mlp_norm_eps -1.0"),
        ({"freq_shift": 128.0}, "--model.freq_shift 128.0"),
        ({"dropout": 1.0}, "--model.dropout 1.0"),
    ],
)
def test_settings_that_no_network_can_have(settings, message):
    with pytest.raises(InputError, match=message):
        config.check(config.Config(model=config.DiT(**settings)))


@pytest.mark.parametrize("name", DIT_SIZES)
def test_the_sizes_are_settings_too(name):
    config.check(config.Config(model=config.DiT(**DIT_SIZES[name], rotary=True)))


@pytest.mark.parametrize(("field", "word"), [("mlp", "relu"), ("norm", "batch")])
def test_unknown_words_are_refused(field, word):
    net = DiT(width=24, depth=1, heads=2, **{field: word})
    with pytest.raises(InputError, match=f"{field} '{word}'; expected one of "):
        jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 4, 4, 3)), jnp.zeros(1))
