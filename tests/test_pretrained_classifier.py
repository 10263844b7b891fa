"""Classifiers of guided-diffusion without torch: what a file says, what is refused, and that they guide."""

import dataclasses
import functools
import shlex

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_file
from network_table import jit, normal, random_params
from test_cli_train import fails
from test_pretrained import SMALL, SPEC, ours

from jaxdiff import InputError, Prediction, build, config, guidance, models, pretrained, sampling, schedules
from jaxdiff.cli import sample_main
from jaxdiff.cli.pictures import Pictures, _classifier
from jaxdiff.models.classifier import POOLS, Classifier
from jaxdiff.pretrained import load_guided_classifier
from jaxdiff.pretrained.guided_classifier import _levels
from jaxdiff.pretrained.guided_diffusion import places_of
from jaxdiff.pretrained.matching import Place, to_theirs

ENCODER = config.UNet(
    channels=8, embedding_channels=8, multipliers=(1, 2), blocks=1, attention_levels=(1,), head_channels=8,
    downsample_padding=(1, 1), least_group=1, freq_shift=0.0, cos_first=True, null_label=False,
)  # fmt: skip
HEADS = {
    "attention": {
        "pool_attention": Place(("out.2",)),
        "pool_attention/qkv": Place(("out.2.qkv_proj",), ones=1),
        "pool_attention/out": Place(("out.2.c_proj",), ones=1),
    },
    "adaptive": {"out": Place(("out.3",), ones=2)},
    "spatial": {"hidden": Place(("out.0",)), "out": Place(("out.2",))},
    "spatial_v2": {"hidden": Place(("out.0",)), "norm_out": Place(("out.1",)), "out": Place(("out.3",))},
}
# Of guided-diffusion's own files, for these two levels and one block in each.
NAMES = (
    "time_embed.0.weight", "time_embed.2.bias", "input_blocks.0.0.weight", "input_blocks.1.0.in_layers.2.weight",
    "input_blocks.2.0.emb_layers.1.bias", "input_blocks.3.0.skip_connection.weight", "input_blocks.3.1.norm.weight",
    "input_blocks.3.1.qkv.weight", "middle_block.1.proj_out.weight", "middle_block.2.out_layers.3.weight",
)  # fmt: skip
OUT = {
    "attention": {"out.0.weight": (16,), "out.2.positional_embedding": (16, 17), "out.2.qkv_proj.weight": (48, 16, 1), "out.2.c_proj.weight": (5, 16, 1)},
    "adaptive": {"out.0.weight": (16,), "out.3.weight": (5, 16, 1, 1)},
    "spatial": {"out.0.weight": (2048, 56), "out.2.weight": (5, 2048)},
    "spatial_v2": {"out.0.weight": (2048, 56), "out.1.weight": (2048,), "out.3.weight": (5, 2048)},
}  # fmt: skip


def module(encoder, pool="attention"):
    settings = {n: v for n, v in vars(encoder).items() if n not in ("network", "lora_rank", "dtype")}
    return Classifier(models.UNet(**settings), 5, pool, 8)


def state_dict(encoder, pool="attention", size=8):
    """One of guided-diffusion with random numbers, and the network and parameters in it."""
    net = module(encoder, pool)
    params = random_params(net, normal(1, size, size, 3), np.zeros(1, np.float32))
    tensors = to_theirs(params, places_of(encoder, new_order=False) | HEADS[pool])
    name = "out.2.positional_embedding"
    return net, params, {n: np.ascontiguousarray(v.T) if n == name else v for n, v in tensors.items()}


@pytest.fixture
def file(tmp_path):
    torch_file.save(tmp_path / "c.pt", state_dict(ENCODER)[2])
    return tmp_path / "c.pt"


@pytest.mark.parametrize(
    ("pool", "changes"),
    [(pool, {}) for pool in POOLS]
    + [
        ("attention", {"multipliers": (1, 1, 2), "blocks": 2, "attention_levels": (1, 2)}),
        ("attention", {"multipliers": (1, 1), "blocks": 3, "attention_levels": (0,), "scale_shift": False}),
        ("adaptive", {"resample_in_block": False, "multipliers": (1, 1, 1), "attention_levels": ()}),
    ],
)
def test_a_file_says_what_it_is(tmp_path, pool, changes):
    encoder = dataclasses.replace(ENCODER, **changes)
    net, params, tensors = state_dict(encoder, pool)
    if not changes:
        assert {*NAMES} <= {*tensors}
        assert {n: tensors[n].shape for n in OUT[pool]} == OUT[pool]
    torch_file.save(tmp_path / "c.pt", tensors)
    back = load_guided_classifier(tmp_path / "c.pt", num_head_channels=8)
    assert (back.network, back.num_classes, back.T) == (net, 5, 1000)
    assert back.image_size == (8 if pool == "attention" else None)
    chex.assert_trees_all_equal(back.params, params)
    assert "conv_in" not in repr(back)


def test_blocks_per_level():
    """By arithmetic: of inputs = levels * (blocks + 1) some are ruled out by attention and widths."""
    found = {}
    for levels, blocks, attention in [(4, 4, (1, 2, 3)), (5, 2, (2, 3, 4)), (6, 2, (3, 4, 5)), (3, 1, (2,))]:
        shapes = {"input_blocks.0.0.weight": (8, 3, 3, 3)}
        for level in range(levels):
            for i in range(blocks + (level < levels - 1)):
                name = f"input_blocks.{1 + level * (blocks + 1) + i}"
                shapes[f"{name}.0.in_layers.2.weight"] = (8 * (level + 1), 8, 3, 3)
                if level in attention and i < blocks:
                    shapes[f"{name}.1.qkv.weight"] = (24, 8, 1)
        tensors = {n: np.broadcast_to(np.float32(0), shape) for n, shape in shapes.items()}
        found[levels, blocks] = _levels(tensors, "c.pt", None)
    assert found == {(levels, blocks): (levels, blocks, False) for levels, blocks in found}


def test_what_a_file_leaves_open_must_be_said(tmp_path):
    """Three blocks of equal width without attention are one level of three, or two of one and the step between."""
    encoder = dataclasses.replace(ENCODER, multipliers=(1, 1), attention_levels=())
    net, params, tensors = state_dict(encoder, "adaptive")
    torch_file.save(tmp_path / "c.pt", tensors)
    with pytest.raises(InputError, match="may have 1, 3 residual blocks per level: give classifier_depth"):
        load_guided_classifier(tmp_path / "c.pt", num_head_channels=8)
    back = load_guided_classifier(tmp_path / "c.pt", num_head_channels=8, classifier_depth=1)
    assert back.network == net
    chex.assert_trees_all_equal(back.params, params)
    with pytest.raises(InputError, match="4 input blocks, which are no levels of classifier_depth 2 residual blocks"):
        load_guided_classifier(tmp_path / "c.pt", num_head_channels=8, classifier_depth=2)
    torch_file.save(tmp_path / "c.pt", state_dict(dataclasses.replace(encoder, resample_in_block=False), "adaptive")[2])
    with pytest.raises(InputError, match="levels of 1 residual blocks, not of classifier_depth 3"):
        load_guided_classifier(tmp_path / "c.pt", num_head_channels=8, classifier_depth=3)


def test_what_is_no_classifier_is_refused(tmp_path, file):
    _, _, tensors = state_dict(ENCODER)
    unet = to_theirs(ours().params, places_of(ours().config.model, new_order=False))
    position = "out.2.positional_embedding"
    for bad, message in [
        ({}, "no input_blocks.0.0.weight"),
        (unet, "makes images, not a classifier"),
        (tensors | {"extra": np.zeros(3)}, "left over extra"),
        ({n: v for n, v in tensors.items() if n != "time_embed.2.bias"}, "missing time_embed.2.bias"),
        (tensors | {position: np.zeros((16, 12))}, "attention pool of 11 positions, which are no square"),
        (tensors | {position: np.zeros((16, 1))}, "attention pool of 0 positions"),
        (tensors | {position: np.zeros((8, 17))}, r"positional_embedding is \(17, 8\), expected \(17, 16\)"),
        (tensors | {position: np.full((16, 17), np.nan)}, "values that are not finite"),
        (tensors | {"out.2.c_proj.weight": np.zeros((5, 16))}, "c_proj.weight is .*, expected 3 dimensions"),
        (tensors | {"input_blocks.0.0.weight": np.zeros(8)}, "input_blocks.0.0.weight is .*, expected 4 dimensions"),
        ({n: v for n, v in tensors.items() if n[:4] != "out."}, "no out.2.weight"),
    ]:
        torch_file.save(tmp_path / "bad.pt", bad)
        with pytest.raises(InputError, match=f"bad.pt: .*(?s:.*){message}"):
            load_guided_classifier(tmp_path / "bad.pt", num_head_channels=8)
    for options, message in [
        ({}, "16 channels of .* make no heads of head_channels = 64"),
        ({"num_head_channels": 0}, "num_head_channels: expected a whole number, at least 1"),
        ({"diffusion_steps": "many"}, "diffusion_steps: expected a whole number"),
        ({"use_new_attention_order": 1}, "use_new_attention_order: expected true or false, got 1"),
    ]:
        with pytest.raises(InputError, match=message):
            load_guided_classifier(file, **options)
    with pytest.raises(InputError, match="a classifier of guided-diffusion, which makes no images"):
        pretrained.load(file, image_size=8)


def test_log_probabilities_at_the_step_of_its_table(file):
    """log-softmax of the logits, told k = t T - 1; over all labels the probabilities are 1."""
    classifier = load_guided_classifier(file, num_head_channels=8)
    x = normal(5, 8, 8, 3)
    t = jnp.array([0.001, 0.3, 0.301, 0.999, 1.0])
    k = np.array([0, 299, 300, 998, 999], np.float32)
    logits = np.asarray(classifier.network.apply(classifier.params, x, k), np.float64)
    expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    log_prob = jit(lambda labels: classifier.log_prob(labels)(x, t))
    for label in range(5):
        found = log_prob(jnp.full(5, label))
        np.testing.assert_allclose(found, expected[:, label], rtol=1e-4, atol=1e-4)
    assert np.abs(expected).max() > 0.1


def test_it_computes_in_another_dtype(file):
    """bfloat16 has 8 bits: the logits differ from float32's by some 2^-8 of them, and do differ."""
    classifier = load_guided_classifier(file, num_head_channels=8)
    x, k = normal(5, 8, 8, 3), np.array([0, 299, 300, 998, 999], np.float32)
    wide, narrow = (
        np.asarray(jit(net.network.apply)(net.params, x, k))
        for net in (classifier, classifier.computing_in(jnp.bfloat16))
    )
    assert narrow.dtype == np.float32
    assert 1e-5 < np.abs(wide - narrow).max() / np.abs(wide).max() < 0.05


def test_it_guides_a_denoiser(file):
    """eps moves by -scale sigma grad log p, a gradient that finite differences confirm in float64."""
    classifier = load_guided_classifier(file, num_head_channels=8)
    network = classifier.network.clone(unet=classifier.network.unet.clone(dtype=jnp.float64))
    schedule = schedules.linear(1000)
    with jax.enable_x64(True):
        params = jax.tree.map(lambda p: p.astype(np.float64), classifier.params)
        log_prob = dataclasses.replace(classifier, network=network).log_prob(jnp.array([1, 4]), params)
        x, v = (normal(2, 8, 8, 3, seed=seed).astype(np.float64) for seed in (0, 1))
        t = jnp.array([0.2, 0.7])
        h = 1e-5
        up, down = (np.asarray(jax.jit(log_prob)(x + s * h * v, t)) for s in (1, -1))
        guided = guidance.classifier(lambda x, t: Prediction(x, x), log_prob, scale=3.0, schedule=schedule)
        eps = jax.jit(guided)(x, t).eps
        along = np.asarray(((eps - x) * v).sum((1, 2, 3)))
        np.testing.assert_allclose(along, -3 * np.asarray(schedule.sigma(t)) * (up - down) / (2 * h), rtol=1e-5)
    assert np.abs(along).min() > 1e-3


def test_whom_it_cannot_guide(file):
    classifier = load_guided_classifier(file, num_head_channels=8)
    table = schedules.linear(1000)
    with pytest.raises(InputError, match=r"told the step's number times 0.25 \(rescale_timesteps\)"):
        classifier.check(SPEC, table, step_scale=0.25)
    classifier.check(SPEC, table)
    classifier.check(build.Spec((8, 8, 3), 5), table)
    anywhere = dataclasses.replace(classifier, image_size=None)
    anywhere.check(build.Spec((6, 4, 3), None), table)
    for one, spec, schedule, message in [
        (
            classifier,
            build.Spec((16, 16, 3), None),
            table,
            "is for images 8x8 with 3 channels; the network's are 16x16",
        ),
        (classifier, build.Spec((8, 8, 1), None), table, "are 8x8 with 1"),
        (anywhere, build.Spec((6, 5, 3), None), table, "images of multiples of 2 with 3 channels"),
        (classifier, build.Spec((8, 8, 3), 7), table, "knows 5 classes, the network 7"),
        (classifier, SPEC, schedules.linear(100), "table of 1000, and the network's schedule has 100 steps"),
        (classifier, SPEC, schedules.Flow(), "the network's schedule has no steps"),
    ]:
        with pytest.raises(InputError, match=message):
            one.check(spec, schedule)


def test_pictures_are_guided_by_it(file):
    """One program for every scale: 0 is the network alone, more is another picture for each label."""
    classifier = load_guided_classifier(file, num_head_channels=8)
    there = ours(SMALL, SPEC)
    sampler, times = build.sampler(there.config, there.schedule), jnp.array([1.0, 0.7, 0.3, 0.0])
    args = (jax.random.key(0), jnp.arange(2)), (sampler, times, None, jnp.float32(1.0))

    def generate(labels, guide, classify=None):
        generate = sampling.generator(there.config, SPEC, classify=classify)
        return generate(there.params, *args[0], labels, *args[1], guide=guide)

    guided = jit(functools.partial(generate, classify=classifier.log_prob))
    plain = jit(generate)(None, None)
    none, some, others = (
        guided(jnp.array(labels), (classifier.params, jnp.float32(scale)))
        for scale, labels in ((0, (1, 4)), (30, (1, 4)), (30, (2, 4)))
    )
    for labels, guide, classify in [
        (None, (classifier.params, jnp.float32(1)), classifier.log_prob),
        (jnp.array([1, 4]), None, classifier.log_prob),
        (jnp.array([1, 4]), (classifier.params, jnp.float32(1)), None),
    ]:
        with pytest.raises(InputError, match="a classifier guides by its params and scale"):
            generate(labels, guide, classify)
    np.testing.assert_allclose(none, plain, atol=1e-4)
    assert (np.abs(some - plain).max((1, 2, 3)) > 0.05).all()
    np.testing.assert_allclose(some[1], others[1], atol=1e-4)
    assert np.abs(some[0] - others[0]).max() > 0.05


@pytest.mark.usefixtures("standard_promotion")
def test_sample_py_takes_it(tmp_path, file, capsys):
    pretrained.save_diffusers(tmp_path / "net", ours(SMALL, SPEC))
    guide = f"--classifier {file} --classifier-options num_head_channels 8"
    command = f"--pretrained {tmp_path / 'net'} --steps 2 --out {tmp_path / 'x.npz'}"
    sample_main(shlex.split(f"{command} --num 3 {guide} --classifier-scale 2 --labels 1 4"))
    with np.load(tmp_path / "x.npz") as found:
        assert (found["images"].shape, found["labels"].tolist()) == ((3, 8, 8, 3), [1, 4, 1])

    options = (("num_head_channels", "8"),)
    given = Pictures(classifier=file, classifier_options=options)
    run = config.Config(model=config.UNet(dtype="bfloat16"))
    guiding = _classifier(given, run, SPEC, build.schedule(run.diffusion))
    assert guiding.network.unet.dtype == jnp.bfloat16  # the classifier computes in what --dtype says, too

    def refused(options):
        return fails(capsys, sample_main, f"{command} --num 1 {options}")

    assert "without --classifier" in refused("--classifier-scale 2")
    assert "--classifier-scale nan: expected a number" in refused(f"{guide} --classifier-scale nan")
    assert "the option num_head_channels is given twice" in refused(f"{guide} num_head_channels 8")
    assert "--labels 5: expected labels from 0 to 4" in refused(f"{guide} --labels 5")
    assert "leave --labels out, or give a --classifier" in refused("--labels 1")
    assert "leave --guidance out" in refused(f"{guide} --guidance 1")
    assert "has no option 'image_size'; it has num_head_channels" in refused(
        f"--classifier {file} --classifier-options image_size 8"
    )
    assert "no such file" in refused(f"--classifier {tmp_path / 'none.pt'}")
    assert "a table of 50" in refused(f"{guide} diffusion_steps 50")
