"""State dicts with EDM's names without torch: what they say, and what is refused. Agreement is in tests/parity."""

import dataclasses

import chex
import jax
import numpy as np
import pytest
import torch_file
from test_pretrained_score_sde import FOURIER, SMALL, SPEC

from jaxdiff import InputError, build, pretrained, schedules
from jaxdiff.cli import sample_main
from jaxdiff.config import Config
from jaxdiff.pretrained.edm import _places
from jaxdiff.pretrained.matching import to_theirs

# Of a network of two levels with one block each.
NAMES = (
    "map_layer0.weight", "map_layer1.bias", "enc.8x8_conv.weight", "enc.8x8_block0.norm0.weight",
    "enc.8x8_block0.conv0.bias", "enc.4x4_down.skip.weight", "enc.4x4_block0.affine.weight", "enc.4x4_block0.qkv.weight",
    "dec.4x4_in0.proj.bias", "dec.4x4_in1.conv1.weight", "dec.4x4_block1.norm2.weight", "dec.8x8_up.norm1.bias",
    "dec.8x8_block1.skip.bias", "dec.8x8_aux_norm.weight", "dec.8x8_aux_conv.bias",
)  # fmt: skip


def state_dict(tmp_path, *, filter_width=2, **changes):
    """Our network and parameters, and a file of them."""
    model = dataclasses.replace(SMALL, **changes)
    shapes = jax.eval_shape(lambda: build.init_params(Config(model=model), SPEC, jax.random.key(0)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: 0.3 * rng.standard_normal(leaf.shape).astype(np.float32), shapes)
    state = to_theirs(params, _places(model, 8))
    for name in ("enc.4x4_down.conv0", "enc.4x4_down.skip", "dec.8x8_up.conv0", "dec.8x8_up.skip"):
        state[f"{name}.resample_filter"] = np.full((1, 1, filter_width, filter_width), filter_width**-2, np.float32)
    if model.embedding == "fourier":
        state["map_noise.freqs"] = np.array(model.frequencies, np.float32)
    state = {f"model.{name}": value for name, value in state.items()}
    torch_file.save(tmp_path / "m.pt", state)
    return model, params, state


CASES = {
    "ddpm++": ({}, {}),
    "vp": ({"blocks": 2}, {"precond": "vp"}),
    "ncsn++": ({**FOURIER, "fir": True, "progressive_input": "residual"}, {"filter_width": 4, "precond": "edm"}),
    "ve": (
        {**FOURIER, "fir": True, "progressive_input": "input_skip", "progressive": "output_skip"},
        {"filter_width": 4, "precond": "ve"},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_file_says_what_it_is(tmp_path, name):
    changes, options = CASES[name]
    model, params, state = state_dict(tmp_path, **changes, filter_width=options.pop("filter_width", 2))
    assert {f"model.{n}" for n in NAMES} <= {*state} or model.blocks > 1
    back = pretrained.load(tmp_path / "m.pt", **options)
    assert (back.config.model, back.spec) == (model, SPEC)
    kind, schedule = {
        "edm": ("F", schedules.EDM()), "vp": ("eps", schedules.VP()), "ve": ("eps", schedules.VE(0.02, 100.0))
    }[options.get("precond", "edm")]  # fmt: skip
    assert (back.kind, back.schedule) == (kind, schedule)
    for part, module in params["params"].items():
        other = options.get("precond") == "ve" and part.startswith("conv_out")
        chex.assert_trees_all_equal(
            back.params["params"][part], jax.tree.map(lambda leaf: -leaf, module) if other else module
        )


def test_labels_are_rows_and_augmentation_is_none(tmp_path):
    _, params, state = state_dict(tmp_path)
    rng = np.random.default_rng(1)
    matrix, bias = rng.standard_normal((8, 5)).astype(np.float32), rng.standard_normal(8).astype(np.float32)
    more = {"model.map_label.weight": matrix, "model.map_label.bias": bias, "model.map_augment.weight": matrix}
    torch_file.save(tmp_path / "m.pt", state | more)
    back = pretrained.load(tmp_path / "m.pt")
    assert back.spec.num_classes == 5
    table = back.params["params"].pop("label")["embedding"]
    one_hot = np.eye(5) * 5**0.5  # of variance 1
    np.testing.assert_allclose(table, one_hot @ matrix.T + bias, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_equal(back.params, params)


def test_what_does_not_fit_is_refused(tmp_path):
    _, _, state = state_dict(tmp_path)

    def refused(message, changes, gone=(), **options):
        torch_file.save(tmp_path / "m.pt", {n: v for n, v in (state | changes).items() if n not in gone})
        with pytest.raises(InputError, match=message):
            pretrained.load(tmp_path / "m.pt", **options)

    refused("unknown precond 'iddpm'; expected one of edm, vp, ve", {}, precond="iddpm")
    refused("EDM's ADM networks are not supported", {}, gone=["model.dec.8x8_aux_conv.weight"])
    refused("no DDPM\\+\\+ or NCSN\\+\\+ of EDM", {}, gone=["model.enc.4x4_block0.conv1.weight"])
    refused("no first convolution", {"model.enc.16x16_conv.weight": np.zeros((8, 3, 3, 3))})
    refused("its filters are of the shapes", {"model.dec.8x8_up.skip.resample_filter": np.ones((1, 1, 4, 4))})
    refused("no multiples of 8", {"model.enc.8x8_block0.conv1.weight": np.zeros((12, 8, 3, 3))})
    refused("left over dec.8x8_block7.norm0.weight", {"model.dec.8x8_block7.norm0.weight": np.zeros(8)})
    label = "model.map_label.weight"
    refused("no DDPM", {label: np.zeros(8)})
    refused("map_label.bias is", {label: np.zeros((8, 5)), "model.map_label.bias": np.zeros(7)})
    refused("left over map_label.bias", {"model.map_label.bias": np.zeros(8)})
    refused("map_label.weight is .*expected", {label: np.zeros((7, 5))})
    refused("map_augment.weight is not", {"model.map_augment.weight": np.zeros((7, 9))})
    refused("net is no tensor", {"net": "SongUNet"})


@pytest.mark.usefixtures("standard_promotion")
def test_sample_py_samples_it_at_once(tmp_path):
    state_dict(tmp_path)
    out = tmp_path / "p.npz"
    sample_main(["--pretrained", str(tmp_path / "m.pt"), "--num", "2", "--steps", "2", "--out", str(out)])
    with np.load(out) as file:
        assert file["images"].shape == (2, 8, 8, 3)
