"""Import and export without torch: what goes out comes back to the bit, and nothing else comes in."""

import dataclasses
import json
import os
import shlex
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
import torch_file
from safetensors.numpy import load_file, save_file
from test_cli_train import fails

from jaxdiff import InputError, build, pretrained, schedules
from jaxdiff.cli import sample_main
from jaxdiff.config import Config, Diffusion, Sample, UNet
from jaxdiff.pretrained.guided_diffusion import places_of
from jaxdiff.pretrained.matching import to_theirs

REFERENCE = Path(__file__).parents[2] / "shared" / "reference" / "unets"
SMALL = UNet(
    channels=8, multipliers=(1, 2), blocks=1, groups=4, attention_levels=(1,), least_group=1, null_label=False,
    scale_shift=False, resample_in_block=False,
)  # fmt: skip
SPEC = build.Spec((8, 8, 3), None)


def ours(model=SMALL, spec=SPEC, **diffusion):
    """A network of ours with random weights."""
    config = Config(
        model=model, diffusion=Diffusion(schedule="linear", **diffusion), sample=Sample(variance="fixed_small")
    )
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: build.init_params(config, spec, jax.random.key(0)))
    params = jax.tree.map(lambda leaf: 0.3 * rng.standard_normal(leaf.shape).astype(np.float32), shapes)
    return pretrained.Pretrained(config, spec, params)


@pytest.fixture
def folder(tmp_path):
    """Of diffusers, with a network of ours."""
    pretrained.save_diffusers(tmp_path / "net", ours())
    return tmp_path / "net"


def edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("changes", "spec", "diffusion"),
    [
        ({}, SPEC, {}),
        (
            {"scale_shift": True, "resample_in_block": True, "head_channels": 8},
            build.Spec((8, 12, 1), 5),
            {"kind": "v"},
        ),
        ({"downsample_padding": (1, 1), "cos_first": True, "freq_shift": 0.0}, SPEC, {"learned_variance": True}),
        ({"attention_levels": (), "middle_attention": False, "norm_eps": 1e-6}, SPEC, {"steps": 100, "kind": "x0"}),
    ],
)
def test_export_then_import_is_the_same_network(tmp_path, changes, spec, diffusion):
    there = ours(dataclasses.replace(SMALL, **changes), spec, **diffusion)
    pretrained.save_diffusers(tmp_path, there)
    back = pretrained.load(tmp_path)
    chex.assert_trees_all_equal(back.params, there.params)
    assert back.spec == spec
    assert dataclasses.replace(back.config.model, freq_shift=0.0) == dataclasses.replace(
        there.config.model, freq_shift=0.0
    )
    assert back.config.model.freq_shift == there.config.model.freq_shift
    assert back.schedule == there.schedule
    assert back.kind == there.kind


def test_a_network_trained_here_can_be_exported(tmp_path):
    """Its resolutions become levels, its groups what they are, its null label a class."""
    model = dataclasses.replace(
        SMALL, attention_levels=None, attention_resolutions=(4,), least_group=2, null_label=True
    )
    there = ours(model, build.Spec((8, 8, 3), 3))
    pretrained.save_diffusers(tmp_path, there)
    back = pretrained.load(tmp_path, null_label=False)
    assert (back.spec.num_classes, back.config.model.attention_levels) == (4, (1,))
    x, k, label = np.ones((2, 8, 8, 3), np.float32), np.zeros(2, np.float32), {"label": np.array([0, 3])}
    y = back.network.apply(back.params, x, k, label)
    np.testing.assert_array_equal(y, there.network.apply(there.params, x, k, label))


def test_the_last_class_can_be_the_null_label(tmp_path):
    model, spec = dataclasses.replace(SMALL, null_label=True), build.Spec((8, 8, 3), 3)
    pretrained.save_diffusers(tmp_path, ours(model, spec))
    back = pretrained.load(tmp_path)
    assert (back.config.model, back.spec) == (model, spec)
    described = json.loads((tmp_path / "config.json").read_text())
    unmarked = {name: value for name, value in described.items() if name == "_class_name" or name[0] != "_"}
    assert unmarked != described
    (tmp_path / "config.json").write_text(json.dumps(unmarked))  # as diffusers itself writes it
    assert pretrained.load(tmp_path).spec.num_classes == 4
    assert pretrained.load(tmp_path, null_label=True).spec == spec
    pretrained.save_diffusers(tmp_path, ours())
    for wrong in (True, "maybe"):
        with pytest.raises(InputError, match=f"null_label: .* true of two or more classes; got {wrong!r} of None"):
            pretrained.load(tmp_path, null_label=wrong)


def test_what_is_written_can_be_read_by_others_than_its_owner(tmp_path):
    """As any new file, by the umask; and a file in the way is left alone."""
    before = os.umask(0o022)
    try:
        pretrained.save_diffusers(tmp_path / "net", ours())
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "net").iterdir()} == {0o644}
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "net"):
        with pytest.raises(InputError, match="file is a file; expected a folder"):
            pretrained.save_diffusers(folder, ours())
    assert (tmp_path / "file").read_text() == "mine"


def test_a_scheduler_is_found_next_door(tmp_path, capsys):
    pretrained.save_diffusers(tmp_path / "unet", ours(kind="v"))
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "unet" / "scheduler_config.json").rename(tmp_path / "scheduler" / "scheduler_config.json")
    assert pretrained.load(tmp_path / "unet").kind == pretrained.load(tmp_path).kind == "v"
    edit(tmp_path / "scheduler" / "scheduler_config.json", variance_type=None)  # DPMSolverMultistepScheduler's
    assert pretrained.load(tmp_path).config.sample.variance == "fixed_small"
    assert "conv_in" not in repr(pretrained.load(tmp_path))  # no thousands of lines of weights
    assert not pretrained.load(tmp_path).latents
    (tmp_path / "vqvae").mkdir()
    loaded = pretrained.load(tmp_path)
    assert (loaded.latents, loaded.config.sample.clip) == (True, False)


@pytest.mark.parametrize(
    ("model", "diffusion", "message"),
    [
        ({"heads": 2}, {}, "model.heads 2"),
        ({"resample_conv": False}, {}, "model.resample_conv False"),
        ({"groups": 3}, {}, "model.groups 3"),
        ({"embedding_channels": 12}, {}, "model.embedding_channels 12"),
        ({"multipliers": (2, 2)}, {}, r"model.multipliers \(2, 2\)"),
        ({}, {"step_scale": 0.25}, "told 0.25 of it"),
        ({}, {"schedule": "flow", "kind": "velocity"}, "no scheduler for the schedule flow"),
        ({}, {"schedule": "linear", "kind": "score"}, "prediction of score"),
        ({}, {"schedule": "linear", "preconditioning": "edm"}, "no preconditioning"),
    ],
)
def test_what_diffusers_has_no_words_for_is_not_written(tmp_path, model, diffusion, message):
    there = ours(dataclasses.replace(SMALL, **model))
    there = dataclasses.replace(
        there, config=dataclasses.replace(there.config, diffusion=Diffusion(**{"schedule": "linear"} | diffusion))
    )
    with pytest.raises(InputError, match=message):
        pretrained.save_diffusers(tmp_path / "net", there)
    assert not (tmp_path / "net").exists()


def test_weights_must_fit_one_and_all(folder):
    file = folder / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    bad = {
        "missing conv_in.bias": {n: v for n, v in weights.items() if n != "conv_in.bias"},
        "left over extra.weight": weights | {"extra.weight": np.zeros(3)},
        r"conv_in.weight is \(4, 3, 3, 3\), expected \(8, 3, 3, 3\)": weights
        | {"conv_in.weight": np.zeros((4, 3, 3, 3))},
        r"conv_out.weight is \(3, 3, 3, 8\), expected \(3, 8, 3, 3\)": weights
        | {"conv_out.weight": np.moveaxis(weights["conv_out.weight"], 1, -1)},
        "conv_in.weight has values that are not finite": weights | {"conv_in.weight": np.full((8, 3, 3, 3), np.nan)},
    }
    for message, tensors in bad.items():
        save_file({n: np.ascontiguousarray(v) for n, v in tensors.items()}, file)
        with pytest.raises(InputError, match=message):
            pretrained.load(folder)
    save_file({n: v for n, v in weights.items() if "norm" in n}, file)
    with pytest.raises(InputError, match=r"(?s)missing conv_in.bias.*\.\.\. and \d+ more"):
        pretrained.load(folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"_class_name": "UNet2DConditionModel"}, "describes UNet2DConditionModel, expected a UNet2DModel"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type 'fourier'"),
        ({"down_block_types": ["SkipDownBlock2D", "DownBlock2D"]}, "down_block_types"),
        ({"up_block_types": ["UpBlock2D", "AttnUpBlock2D"]}, "up_block_types"),
        ({"block_out_channels": [8, 12]}, r"block_out_channels \[8, 12\]"),
        ({"center_input_sample": True, "act_fn": "gelu"}, "center_input_sample True, act_fn 'gelu'"),
        ({"no_such_thing": 1}, "no_such_thing: no argument that is known here"),
        ({"layers_per_block": 10**9}, "layers_per_block 1000000000"),
        ({"layers_per_block": "two"}, "no arguments of a UNet2DModel"),
        ({"block_out_channels": 8}, "no arguments of a UNet2DModel"),
        ({"sample_size": None}, "sample_size None"),
        ({"sample_size": "8"}, "describes no network"),
        ({"sample_size": -8}, "describes no network"),
        ({"sample_size": [8]}, "no arguments of a UNet2DModel"),
        ({"freq_shift": 4}, "describes no network: --model.freq_shift 4.0"),
        ({"norm_eps": None}, "describes no network"),
        ({"add_attention": "no"}, "describes no network"),
        ({"num_class_embeds": "10"}, "describes no network"),
        ({"norm_num_groups": 5}, "norm_num_groups 5"),
    ],
)
def test_arguments_without_a_counterpart_are_refused(folder, values, message):
    edit(folder / "config.json", **values)
    with pytest.raises(InputError, match=message):
        pretrained.load(folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"beta_schedule": "sigmoid"}, "beta_schedule 'sigmoid'"),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas 'given'"),
        ({"thresholding": True}, "thresholding True"),
        ({"clip_sample_range": 2}, "clip_sample_range 2"),
        ({"_class_name": "CMStochasticIterativeScheduler"}, "_class_name 'CMStochasticIterativeScheduler'"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "_class_name 'FlowMatchEulerDiscreteScheduler'"),
        ({"variance_type": "learned_range"}, "variance_type 'learned_range'"),
        ({"prediction_type": "flow"}, "prediction_type 'flow'"),
        ({"num_train_timesteps": "many"}, "describes no network"),
    ],
)
def test_schedulers_without_a_counterpart_are_refused(folder, values, message):
    edit(folder / "scheduler_config.json", **values)
    with pytest.raises(InputError, match=message):
        pretrained.load(folder)


def test_without_a_scheduler_it_is_ddpm_s(folder):
    (folder / "scheduler_config.json").unlink()
    loaded = pretrained.load(folder)
    assert (loaded.schedule, loaded.kind) == (schedules.linear(1000), "eps")


# Of guided-diffusion's own files, for a network of two levels and one block in each.
GUIDED_NAMES = (
    "time_embed.0.weight", "time_embed.2.bias", "input_blocks.0.0.weight", "input_blocks.1.0.in_layers.0.weight",
    "input_blocks.1.0.in_layers.2.bias", "input_blocks.1.0.emb_layers.1.weight", "input_blocks.2.0.op.weight",
    "input_blocks.1.0.out_layers.0.bias", "input_blocks.1.0.out_layers.3.weight", "input_blocks.3.1.norm.weight",
    "input_blocks.3.1.qkv.weight", "input_blocks.3.1.proj_out.bias", "middle_block.0.in_layers.0.weight",
    "middle_block.1.qkv.bias", "middle_block.2.out_layers.3.weight", "output_blocks.0.0.skip_connection.weight",
    "output_blocks.0.1.proj_out.weight", "output_blocks.1.2.conv.weight", "output_blocks.3.0.in_layers.2.weight",
    "out.0.weight", "out.2.bias",
)  # fmt: skip


def guided(tmp_path, **changes):
    """A file of guided-diffusion, and the network in it."""
    model = dataclasses.replace(SMALL, groups=32, heads=4, downsample_padding=(1, 1), freq_shift=0.0, cos_first=True)
    there = ours(dataclasses.replace(model, embedding_channels=8, **changes))
    tensors = to_theirs(there.params, places_of(there.config.model, new_order=False))
    assert {*GUIDED_NAMES} <= {*tensors} or changes
    torch_file.save(tmp_path / "m.pt", tensors)
    return there, tensors


def test_a_file_of_guided_diffusion_says_what_it_is(tmp_path):
    for changes in ({}, {"scale_shift": True, "resample_in_block": True}, {"blocks": 2, "attention_levels": (0, 1)}):
        there, _ = guided(tmp_path, **changes)
        back = pretrained.load(tmp_path / "m.pt", image_size=8, noise_schedule="cosine", predict_xstart=True)
        assert back.config.model == there.config.model
        assert (back.kind, back.schedule, back.spec) == ("x0", schedules.cosine(), SPEC)
        chex.assert_trees_all_equal(back.params, there.params)


def test_what_is_no_unet_of_guided_diffusion_is_refused(tmp_path):
    _, tensors = guided(tmp_path)
    with pytest.raises(
        InputError, match=r"m.pt: weights of guided-diffusion do not say their image_size: give the option"
    ):
        pretrained.load(tmp_path / "m.pt")
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(InputError, match=r"text.pt: neither a .safetensors file nor"):
        pretrained.load(tmp_path / "text.pt")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").touch()
    with pytest.raises(InputError, match=r"a run of train.py: sample it with --run"):
        pretrained.load(tmp_path / "run")
    with pytest.raises(InputError, match=r"has no option 'heads'; it has image_size, num_heads, "):
        pretrained.load(tmp_path / "m.pt", heads=3)
    with pytest.raises(InputError, match="no such file or folder"):
        pretrained.load(tmp_path / "n.pt")
    for options, message in [
        ({"image_size": "large"}, "image_size: expected a whole number, at least 1, got 'large'"),
        ({"noise_schedule": "sqrt"}, "unknown noise_schedule 'sqrt'; expected one of linear, cosine"),
        ({"num_heads": 3}, "16 channels cannot be split into 3 heads"),
        ({"use_new_attention_order": "no"}, "use_new_attention_order: expected true or false, got 'no'"),
        ({"diffusion_steps": 4000}, "rescale_timesteps: with 4000 diffusion_steps say whether"),
    ]:
        with pytest.raises(InputError, match=message):
            pretrained.load(tmp_path / "m.pt", **{"image_size": 8} | options)
    for bad, message in [
        (
            {"w": np.zeros(3)},
            "whose weights these are is not known; expected .* guided-diffusion.* 1 tensors, such as w",
        ),
        ({"state_dict": tensors}, r"no input_blocks.0.0.weight"),
        ({n: v for n, v in tensors.items() if n[:3] != "out"}, "no out.2.weight"),
        (tensors | {"input_blocks.999999999.0.weight": np.zeros(1)}, "left over input_blocks.999999999.0.weight"),
        (tensors | {"out.2.weight": np.zeros((1, 8, 3, 3))}, "not a U-Net that makes images from noise alone"),
        (tensors | {"input_blocks.0.0.weight": np.zeros((0, 1, 3, 3))}, "expected 4 dimensions, none of them 0"),
        (  # super-resolution: the picture to enlarge comes in too
            tensors | {"input_blocks.0.0.weight": np.zeros((8, 6, 3, 3)), "out.2.weight": np.zeros((6, 8, 3, 3))},
            "not a U-Net that makes images from noise alone: 6 channels in, 6 out",
        ),
    ]:
        torch_file.save(tmp_path / "m.pt", bad)
        with pytest.raises(InputError, match=message):
            pretrained.load(tmp_path / "m.pt", image_size=8)


def test_networks_of_improved_diffusion_are_told_rescaled_steps(tmp_path):
    """4,000 steps, of which the last is 3999 / 4; whose network says what it is told."""
    guided(tmp_path)
    for rescale, expected in ((True, 999.75), (False, 3999.0)):
        loaded = pretrained.load(tmp_path / "m.pt", image_size=8, diffusion_steps=4000, rescale_timesteps=rescale)
        x, one = np.ones((1, 8, 8, 3), np.float32), np.float32(1)
        told = loaded.network.apply(loaded.params, x, np.array([expected], np.float32))
        np.testing.assert_allclose(loaded.model()(x, one), told, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("standard_promotion")
def test_sample_py_samples_it_at_once(folder, tmp_path):
    out = tmp_path / "p.npz"
    sample_main(["--pretrained", str(folder), "--num", "3", "--steps", "2", "--out", str(out)])
    with np.load(out) as file:
        images = file["images"]
    assert (images.shape, images.dtype) == ((3, 8, 8, 3), np.uint8)
    guided(tmp_path)
    sample_main(
        ["--pretrained", str(tmp_path / "m.pt"), "--pretrained-options", "image_size", "8", "noise_schedule", "cosine",
         "--num", "3", "--steps", "2", "--out", str(out)]
    )  # fmt: skip
    with np.load(out) as file:
        assert np.abs(file["images"].astype(int) - images).max() > 10


@pytest.mark.usefixtures("standard_promotion")
def test_errors_of_the_command_line(folder, tmp_path, capsys):
    def refused(*args):
        out = tmp_path / "out.png"
        message = fails(capsys, sample_main, shlex.join(["--num", "1", "--out", str(out), *args]))
        assert not out.exists()
        return message

    assert "give either --run FOLDER" in refused()
    assert "give either --run FOLDER" in refused("--run", "a", "--pretrained", "b")
    assert "no such file or folder" in refused("--pretrained", str(tmp_path / "none"))
    assert "--pretrained-options without --pretrained" in refused("--run", "a", "--pretrained-options", "a", "1")
    assert "choose a checkpoint" in refused("--pretrained", str(folder), "--step", "3")
    assert "has no option 'image_size'" in refused(
        "--pretrained", str(folder), "--pretrained-options", "image_size", "8"
    )
    assert "guidance 2.0 needs a null label" in refused("--pretrained", str(folder), "--guidance", "2")


# The originals' own numbers, where there are any at hand.

ORIGINALS = {
    "diffusers_ddpm_cifar10_like": {},
    "guided_plain_2attn/state_dict.pt": {"image_size": 8, "use_new_attention_order": True},
    "lucidrains_unet/state_dict.pt": {"image_size": 8},
}


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="no folder of reference networks beside the repository")
@pytest.mark.parametrize("name", ORIGINALS)
def test_outputs_and_gradients_of_the_originals(name):
    loaded = pretrained.load(REFERENCE / name, **ORIGINALS[name])
    with np.load(REFERENCE / name.split("/")[0] / "io.npz") as file:
        io = dict(file)
    x, cotangent, *expected = (np.moveaxis(io[n], 1, -1) for n in ("x", "cotangent", "out_f64", "grad_x_f64"))

    def compare(dtype, tolerance):
        network, params = loaded.network.clone(dtype=dtype), jax.tree.map(lambda p: p.astype(dtype), loaded.params)

        def product(x):
            y = network.apply(params, x, io["t"].astype(dtype))
            return (y * cotangent.astype(dtype)).sum(), y

        gradient, y = jax.jit(jax.grad(product, has_aux=True))(x.astype(dtype))
        for a, b in zip((y, gradient), expected):
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())

    compare(np.float32, 1e-5)
    with jax.enable_x64(True):
        compare(np.float64, 1e-10)


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="no folder of reference networks beside the repository")
def test_the_config_that_google_published_is_read_too(tmp_path):
    name = "diffusers_ddpm_cifar10_like"
    (tmp_path / "config.json").write_bytes((REFERENCE / name / "config_published_style.json").read_bytes())
    weights = "diffusion_pytorch_model.safetensors"
    (tmp_path / weights).write_bytes((REFERENCE / name / weights).read_bytes())
    found, expected = pretrained.load(tmp_path), pretrained.load(REFERENCE / name)
    assert found.config == expected.config
    chex.assert_trees_all_equal(found.params, expected.params)
