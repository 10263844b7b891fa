"""Checkpoints of score_sde without torch: what they say, and what is refused. Agreement is in tests/parity."""

import dataclasses

import chex
import jax
import numpy as np
import pytest
import torch_file
from network_table import jit

from jaxdiff import InputError, build, pretrained, schedules
from jaxdiff.cli import sample_main
from jaxdiff.config import Config, NCSNpp
from jaxdiff.pretrained.matching import to_theirs
from jaxdiff.pretrained.score_sde import _places

SMALL = NCSNpp(channels=8, multipliers=(1, 2), blocks=1, attention_resolutions=(4,), null_label=False)
SPEC = build.Spec((8, 8, 3), None)
FREQUENCIES = tuple(np.random.default_rng(3).standard_normal(8).astype(np.float32).tolist())
FOURIER = {"embedding": "fourier", "frequencies": FREQUENCIES}
SIGMAS = np.exp(np.linspace(np.log(348), np.log(0.01), 2000))

# Of a network of two levels with one block each, on the way down: the embedding's two layers, the first convolution, ...
NAMES = (
    "module.all_modules.0.weight", "module.all_modules.1.bias", "module.all_modules.2.weight",
    "module.all_modules.3.GroupNorm_0.weight", "module.all_modules.3.Conv_0.bias", "module.all_modules.3.Dense_0.weight",
    "module.all_modules.4.Conv_2.weight", "module.all_modules.5.GroupNorm_1.weight", "module.all_modules.6.NIN_0.W",
    "module.all_modules.6.NIN_3.b", "module.all_modules.8.GroupNorm_0.bias", "module.all_modules.10.Conv_2.bias",
    "module.all_modules.12.NIN_1.W", "module.all_modules.13.Conv_1.weight", "module.all_modules.16.weight",
    "module.all_modules.17.bias",
)  # fmt: skip


def checkpoint(tmp_path, **changes):
    """Our parameters, and a file that has them as its moving average; its parameters are others."""
    model = dataclasses.replace(SMALL, **changes)
    shapes = jax.eval_shape(lambda: build.init_params(Config(model=model), SPEC, jax.random.key(0)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: 0.3 * rng.standard_normal(leaf.shape).astype(np.float32), shapes)
    state = {}
    for name, value in to_theirs(params, _places(model, 8)).items():
        dense = ".NIN_" in name
        name = name.removesuffix("weight") + "W" if dense and name.endswith("weight") else name
        name = name.removesuffix("bias") + "b" if dense and name.endswith("bias") else name
        state[f"module.{name}"] = np.ascontiguousarray(value.T) if dense else value
    average = list(state.values())
    state = {"module.sigmas": SIGMAS, **{name: value + 1 for name, value in state.items()}}
    if model.embedding == "fourier":
        state["module.all_modules.0.W"] = np.array(model.frequencies, np.float32)
    whole = {
        "optimizer": {"state": {0: {"step": 3}}},
        "model": state,
        "ema": {"decay": 0.9999, "num_updates": 3, "shadow_params": average},
        "step": 3,
    }
    torch_file.save(tmp_path / "m.pth", whole)
    return model, params, whole


def test_a_checkpoint_has_the_names_of_its_owner(tmp_path):
    _, _, whole = checkpoint(tmp_path)
    assert {*NAMES} <= {*whole["model"]}


CASES = {
    "ddpm++": ({}, {"sde": "vp"}),
    "subvp": ({"blocks": 2}, {"sde": "subvp"}),
    "ncsn++": ({**FOURIER, "fir": True, "progressive_input": "residual"}, {"sde": "ve"}),
    "large": ({**FOURIER, "fir": True, "progressive_input": "input_skip", "progressive": "output_skip"}, {"sde": "ve"}),
    "means": ({"progressive_input": "input_skip"}, {"sde": "vp", "fir": False}),
    "fir alone": ({"fir": True}, {"sde": "vp", "fir": True}),
    "ddpm": ({"block": "ddpm", "skip_rescale": False}, {"sde": "vp", "skip_rescale": False}),
    "residual": ({"block": "ddpm", "progressive_input": "residual", "progressive": "residual"}, {"sde": "vp"}),
    "attention everywhere": ({"attention_resolutions": (8, 4), "multipliers": (1, 1)}, {"sde": "vp"}),
    "nowhere": ({"attention_resolutions": (), "multipliers": (3, 1)}, {"sde": "vp"}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_file_says_what_it_is(tmp_path, name):
    """All of the network, and the average, not the parameters; of VE with the other sign where the output is made."""
    changes, options = CASES[name]
    model, params, _ = checkpoint(tmp_path, **changes)
    back = pretrained.load(tmp_path / "m.pth", image_size=8, **options)
    assert (back.config.model, back.spec) == (model, SPEC)
    for name, module in params["params"].items():
        other = options["sde"] == "ve" and name.startswith("conv_out")
        expected = jax.tree.map(lambda leaf: -leaf, module) if other else module
        chex.assert_trees_all_equal(back.params["params"][name], expected)


@pytest.mark.parametrize("name", ["ddpm++", "subvp", "ncsn++", "discrete"])
def test_the_process_and_what_the_network_is_told(tmp_path, name):
    """999 t of VP and sub-VP, the step of a table, the logarithm of the noise in [0, 1] of VE, which is half of ours."""
    t = np.array([0.25, 0.5, 1.0], np.float32)
    changes, options, schedule, told = {
        "ddpm++": ({}, {"sde": "vp"}, schedules.VP(), 999 * t),
        "subvp": ({}, {"sde": "subvp"}, schedules.SubVP(), 999 * t),
        "discrete": ({}, {"sde": "vp", "continuous": False}, schedules.linear(1000), 1000 * t - 1),
        "ncsn++": (FOURIER, {"sde": "ve", "fir": False}, schedules.VE(0.02, 696.0), np.log(0.01 * 34800.0**t)),
    }[name]
    checkpoint(tmp_path, **changes)
    loaded = pretrained.load(tmp_path / "m.pth", image_size=8, **options)
    assert (loaded.schedule, loaded.kind) == (schedule, "eps")
    x = np.random.default_rng(1).standard_normal((3, 8, 8, 3)).astype(np.float32)
    apply = jit(loaded.network.apply)
    expected = apply(loaded.params, x, told.astype(np.float32))
    np.testing.assert_allclose(jit(loaded.model())(x, t), expected, rtol=0, atol=1e-3 * np.abs(expected).max())
    wrong = apply(loaded.params, x, (told * 1.001).astype(np.float32))  # as if it were 1000 t
    assert np.abs(wrong - expected).max() > 2e-3 * np.abs(expected).max()


def test_a_state_dict_alone_is_taken_as_it_is(tmp_path):
    model, params, whole = checkpoint(tmp_path)
    for state in (whole["model"], {name.removeprefix("module."): value for name, value in whole["model"].items()}):
        torch_file.save(tmp_path / "m.pth", state)
        back = pretrained.load(tmp_path / "m.pth", image_size=8, sde="vp")
        assert back.config.model == model
        chex.assert_trees_all_close(back.params, jax.tree.map(lambda leaf: leaf + 1, params), atol=1e-6)


def test_what_does_not_fit_is_refused(tmp_path):
    _, _, whole = checkpoint(tmp_path)

    def refused(message, value=whole, **options):
        torch_file.save(tmp_path / "m.pth", value)
        with pytest.raises(InputError, match=message):
            pretrained.load(tmp_path / "m.pth", **{"image_size": 8, "sde": "vp"} | options)

    refused("unknown sde 'edm'; expected one of vp, subvp, ve", sde="edm")
    refused("image_size: expected a whole number", image_size="large")
    refused("fir: expected true or false, got 'yes'", fir="yes")
    refused("continuous: of subvp only networks that were trained in continuous time", sde="subvp", continuous=False)
    refused("sde ve, but the network has a sinusoidal embedding", sde="ve")
    refused("describes no network", image_size=9)
    with pytest.raises(InputError, match="weights of score_sde do not say their sde: give the option sde"):
        pretrained.load(tmp_path / "m.pth", image_size=8)

    _, _, other = checkpoint(tmp_path, block="ddpm")
    refused("skip_rescale: .* give false for score_sde's ddpm", other)

    state, average = whole["model"], whole["ema"]["shadow_params"]
    weight = "module.all_modules.2.weight"
    refused("moving averages in it", whole | {"ema": {"shadow_params": average[1:]}})
    refused("moving averages in it", whole | {"ema": {"shadow_params": [*average[1:], average[0]]}})
    refused("moving averages in it", whole | {"ema": {"shadow_params": {}}})
    refused("moving averages in it", whole | {"ema": {"shadow_params": [a.tolist() for a in average]}})
    refused("generator: not of a checkpoint of score_sde", whole | {"generator": {}})
    refused("is no tensor", {**state, "epoch": 3})
    refused("left over extra", {**state, "module.extra": np.zeros(3)})
    refused("left over all_modules.99.weight", {**state, "module.all_modules.99.weight": np.zeros((2, 2))})
    refused("no network of score_sde", {name: value for name, value in state.items() if name != weight})
    refused("no network of score_sde", {**state, weight: np.zeros(3)})
    refused("no way up", {n: v for n, v in state.items() if int(n.split(".")[2] if "all" in n else 0) < 10})
    refused("has values that are not finite", {**state, weight: np.full((8, 3, 3, 3), np.nan)})
    refused("expected", {**state, "module.all_modules.6.NIN_0.W": np.zeros((16, 8))})
    checkpoint(tmp_path, block="ddpm")
    with pytest.raises(InputError, match="fir true: its convolutions that resample are named otherwise"):
        pretrained.load(tmp_path / "m.pth", image_size=8, sde="vp", fir=True)

    _, _, whole = checkpoint(tmp_path, **FOURIER)
    refused("sde subvp, but the network has a Fourier embedding", whole, sde="subvp")
    refused("no noise levels", {n: v for n, v in whole["model"].items() if n != "module.sigmas"}, sde="ve")
    refused("noise levels .* from nan to 0.1", {**whole["model"], "module.sigmas": np.array([np.nan, 0.1])}, sde="ve")
    few = {**whole["model"], "module.all_modules.0.W": np.zeros(4, np.float32)}
    refused("describes no network: --model.frequencies", few, sde="ve")


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("sde", ["vp", "ve"])
def test_sample_py_samples_it_at_once(tmp_path, sde):
    checkpoint(tmp_path, **(FOURIER if sde == "ve" else {}))
    options = ["--pretrained-options", "image_size", "8", "sde", sde]
    out = tmp_path / "p.npz"
    sample_main(["--pretrained", str(tmp_path / "m.pth"), *options, "--num", "2", "--steps", "2", "--out", str(out)])
    with np.load(out) as file:
        assert (file["images"].shape, file["images"].dtype) == ((2, 8, 8, 3), np.uint8)
