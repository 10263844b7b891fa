"""Import of DiT without torch: what a file or folder says of itself, what is refused, and latents as what they are."""

import dataclasses
import json
import shlex

import chex
import jax
import numpy as np
import pytest
import torch_file
from safetensors.numpy import load_file, save_file
from test_cli_train import fails
from test_pretrained import ours

from jaxdiff import InputError, build, pretrained, schedules
from jaxdiff.cli import sample_main, train_main
from jaxdiff.config import DiT
from jaxdiff.models import DIT_SIZES
from jaxdiff.models.embed import grid_positions
from jaxdiff.pretrained import diffusers_dit, dit
from jaxdiff.pretrained.matching import to_theirs

SMALL = DiT(width=24, depth=2, heads=2)
SPEC = build.Spec((8, 8, 4), 3)


def kernel(tensor, model, spec):
    """Of patches, as that of a convolution."""
    return tensor.reshape(len(tensor), model.patch, model.patch, spec.image_shape[-1]).transpose(0, 3, 1, 2)


def state_dict(there):
    """Of the paper's code."""
    model, spec = there.config.model, there.spec
    tensors = to_theirs(there.params, dit.places(model.depth, dit._OUTSIDE, "blocks", dit._BLOCK))
    tensors["x_embedder.proj.weight"] = kernel(tensors["x_embedder.proj.weight"], model, spec)
    side = spec.image_shape[0] // model.patch
    tensors["pos_embed"] = grid_positions((side, side), channels=model.width).astype(np.float32)[None]
    return {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}


# A file of the original has these and, of the other block, the same.
NAMES = {
    "pos_embed", "x_embedder.proj.weight", "x_embedder.proj.bias", "t_embedder.mlp.0.weight", "t_embedder.mlp.0.bias",
    "t_embedder.mlp.2.weight", "t_embedder.mlp.2.bias", "y_embedder.embedding_table.weight", "final_layer.linear.weight",
    "final_layer.linear.bias", "final_layer.adaLN_modulation.1.weight", "final_layer.adaLN_modulation.1.bias",
    *(f"blocks.{i}.{part}.{kind}" for i in range(2) for kind in ("weight", "bias")
      for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "adaLN_modulation.1")),
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "spec", "learned"),
    [
        ({}, SPEC, True),
        ({"depth": 3, "mlp_ratio": 2.0, "null_label": False}, SPEC, False),
        ({"patch": 4, "heads": 1}, build.Spec((12, 12, 3), 7), True),
    ],
)
def test_a_state_dict_says_what_it_is(tmp_path, changes, spec, learned):
    there = ours(dataclasses.replace(SMALL, **changes), spec, learned_variance=learned)
    tensors = state_dict(there)
    assert changes.get("depth") or set(tensors) == NAMES
    torch_file.save(tmp_path / "m.pt", tensors)
    back = pretrained.load(tmp_path / "m.pt", num_classes=spec.num_classes, num_heads=there.config.model.heads)
    assert (back.config.model, back.spec) == (there.config.model, spec)
    chex.assert_trees_all_equal(back.params, there.params)
    assert (back.kind, back.schedule) == ("eps", schedules.linear(1000))
    sample, latents = back.config.sample, spec.image_shape[-1] == 4
    assert (back.config.diffusion.learned_variance, sample.variance) == (
        learned,
        "learned_range" if learned else "fixed_large",
    )
    assert (back.latents, sample.clip) == (latents, not latents)


@pytest.mark.parametrize("size", DIT_SIZES.values())
def test_the_heads_of_published_widths_are_known(tmp_path, size):
    """Of an empty file but for the shapes that say so: what it refuses next are the missing parameters."""
    width = size["width"]
    tensors = {
        "pos_embed": grid_positions((2, 2), channels=width).astype(np.float32)[None],
        "x_embedder.proj.weight": np.zeros((width, 4, 2, 2), np.float32),
        "final_layer.linear.weight": np.zeros((32, width), np.float32),
        "y_embedder.embedding_table.weight": np.zeros((1001, width), np.float32),
        "blocks.0.mlp.fc1.weight": np.zeros((4 * width, width), np.float32),
    }
    model, spec, learned = dit._network(tensors, tmp_path, num_classes=1000, num_heads=None)
    assert model == DiT(width=width, depth=1, heads=size["heads"])
    assert (spec, learned) == (((4, 4, 4), 1000), True)


def test_what_is_no_dit_is_refused(tmp_path):
    tensors = state_dict(ours(SMALL, SPEC, learned_variance=True))
    options = {"num_classes": 3, "num_heads": 2}

    def refused(message, changes=None, **other):
        torch_file.save(tmp_path / "m.pt", tensors | (changes or {}))
        with pytest.raises(InputError, match=message):
            pretrained.load(tmp_path / "m.pt", **{name: v for name, v in (options | other).items() if v != "unset"})

    refused(
        "table of labels has 4 rows; give the option num_classes: 3, if the last of .* is the null label, or 4",
        num_classes="unset",
    )
    refused("a width of 24 is not a published one: give the option num_heads", num_heads="unset")
    refused("num_heads: expected a whole number, at least 1, got 0", num_heads=0)
    refused("--model.heads 5: expected a divisor of the transformer", num_heads=5)
    refused("num_classes: expected a whole number", num_classes="many")
    refused("has no option 'image_size'; it has num_classes, num_heads", image_size=8)
    refused("left over blocks.0.attn.rope", {"blocks.0.attn.rope": np.zeros(1)})
    refused("missing blocks.2.attn.proj.bias", {"blocks.2.mlp.fc1.weight": np.zeros((96, 24), np.float32)})
    refused("left over blocks.999.attn.qkv.bias", {"blocks.999.attn.qkv.bias": np.zeros(72, np.float32)})
    refused(r"blocks.1.attn.proj.weight is \(24, 23\)", {"blocks.1.attn.proj.weight": np.zeros((24, 23))})
    refused("blocks.1.mlp.fc1.bias has values that are not finite", {"blocks.1.mlp.fc1.bias": np.full(96, np.nan)})
    refused(
        r"x_embedder.proj.weight is \(24, 16\), expected 4 dimensions", {"x_embedder.proj.weight": np.zeros((24, 16))}
    )
    refused(
        "not a DiT that makes what it is given: .* 36 values out", {"final_layer.linear.weight": np.zeros((36, 24))}
    )
    refused("pos_embed has 15 positions, expected those of a square", {"pos_embed": tensors["pos_embed"][:, :15]})
    for wrong in (tensors["pos_embed"] + np.float32(1e-5), np.nan * tensors["pos_embed"], np.zeros((1, 16, 24), np.int64),
                  grid_positions((4, 4), channels=24)[None, :, np.r_[12:24, :12]].astype(np.float32)):  # fmt: skip
        refused("pos_embed is not the fixed sines and cosines of a 4x4 grid", {"pos_embed": wrong})
    del tensors["pos_embed"]
    refused("no pos_embed in it")


def folder(path, model=SMALL, spec=SPEC):
    """As diffusers writes one, with the embeddings in each block."""
    model = dataclasses.replace(model, mlp_norm_eps=1e-5, freq_shift=1.0)
    there = ours(model, spec, learned_variance=True)
    tensors = to_theirs(there.params, diffusers_dit.its_places(model))
    tensors["pos_embed.proj.weight"] = kernel(tensors["pos_embed.proj.weight"], model, spec)
    for name in [name for name in tensors if ".norm1.emb." in name]:
        tensors[name.replace("blocks.0", "blocks.1")] = tensors[name]
    path.mkdir()
    save_file({n: np.ascontiguousarray(t) for n, t in tensors.items()}, path / "diffusion_pytorch_model.safetensors")
    height, _, channels = spec.image_shape
    described = {
        "_class_name": "DiTTransformer2DModel", "_diffusers_version": "0.42.0", "num_attention_heads": model.heads,
        "attention_head_dim": model.width // model.heads, "num_layers": model.depth, "in_channels": channels,
        "out_channels": 2 * channels, "sample_size": height, "num_embeds_ada_norm": spec.num_classes,
    }  # fmt: skip
    (path / "config.json").write_text(json.dumps(described))
    return there


def test_a_folder_of_diffusers_says_what_it_is(tmp_path):
    there = folder(tmp_path / "transformer")
    for path in (tmp_path / "transformer", tmp_path):
        back = pretrained.load(path)
        assert (back.config.model, back.spec, back.latents) == (there.config.model, SPEC, True)
        chex.assert_trees_all_equal(back.params, there.params)
    assert pretrained.load(tmp_path, null_label=True).spec == SPEC
    with pytest.raises(InputError, match="null_label false: this network has one"):
        pretrained.load(tmp_path, null_label=False)
    with pytest.raises(InputError, match="a network of the kind dit: only a unet can be exported"):
        pretrained.save_diffusers(tmp_path / "out", back)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"norm_type": "ada_norm_single"}, "norm_type 'ada_norm_single'"),
        ({"activation_fn": "geglu", "attention_bias": False}, "attention_bias False, activation_fn 'geglu'"),
        ({"caption_channels": 4096}, "caption_channels 4096"),
        ({"out_channels": 5}, "out_channels 5"),
        ({"sample_size": 9}, "sample_size 9"),
        ({"sample_size": [8, 8]}, "no arguments of a DiTTransformer2DModel"),
        ({"patch_size": 0}, "sample_size 8"),
        ({"num_layers": 10**9}, "num_layers 1000000000"),
        ({"num_attention_heads": "two"}, "describes no network"),
        ({"num_embeds_ada_norm": None}, "left over transformer_blocks.0.norm1.emb.class_embedder"),
        ({"norm_eps": "small"}, "describes no network"),
        ({"qk_norm": True}, "qk_norm: no argument that is known here"),
        ({"num_layers": 3}, "missing transformer_blocks.2.attn1.to_out.0.bias"),
        ({"num_layers": 1}, "left over transformer_blocks.1"),
        ({"_class_name": "PixArtTransformer2DModel"}, "describes PixArtTransformer2DModel, expected a UNet2DModel or a DiT"),
    ],
)  # fmt: skip
def test_arguments_without_a_counterpart_are_refused(tmp_path, values, message):
    folder(tmp_path / "net")
    file = tmp_path / "net" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    with pytest.raises(InputError, match=message):
        pretrained.load(tmp_path / "net")


def test_blocks_with_embeddings_of_their_own_are_refused(tmp_path):
    folder(tmp_path / "net")
    file = tmp_path / "net" / "diffusion_pytorch_model.safetensors"
    tensors, name = load_file(file), "transformer_blocks.1.norm1.emb.class_embedder.embedding_table.weight"
    for wrong in (tensors[name] + 1, tensors[name][:2]):
        save_file(tensors | {name: wrong}, file)
        with pytest.raises(InputError, match=f"{name} differs from that of the first block"):
            pretrained.load(tmp_path / "net")


@pytest.mark.usefixtures("standard_promotion")
def test_latents_are_written_as_they_are_and_to_arrays_only(tmp_path, capsys):
    folder(tmp_path / "net")
    (tmp_path / "net" / "scheduler_config.json").write_text(
        json.dumps({"_class_name": "DDIMScheduler"})
    )  # it would clip
    command = f"--pretrained {tmp_path / 'net'} --num 5 --steps 2 --guidance 2 --batch 3 --out "
    for out in ("grid.png", "pictures"):
        message = fails(capsys, sample_main, shlex.join([*shlex.split(command), str(tmp_path / out)]))
        assert "makes no pictures but latents, 8x8x4" in message
        assert not (tmp_path / out).exists()
    message = fails(capsys, sample_main, shlex.join([*shlex.split(command), str(tmp_path / "l.npz"), "--crop", "4"]))
    assert "--crop: is of pictures, and this network makes latents" in message
    sample_main([*shlex.split(command), str(tmp_path / "l.npz")])
    assert "5 latents: " in capsys.readouterr().out
    with np.load(tmp_path / "l.npz") as file:
        assert set(file) == {"latents", "labels"}
        latents, labels = file["latents"], file["labels"]
    assert (latents.shape, latents.dtype, labels.tolist()) == ((5, 8, 8, 4), np.float32, [0, 1, 2, 0, 1])
    assert np.abs(latents).max() > 1.5  # neither clipped nor rounded
    assert np.abs(latents * 127.5 - np.rint(latents * 127.5)).max() > 0.1

    (tmp_path / "c.py").write_text("from jaxdiff.config import Config\nconfig = Config()")
    message = fails(
        capsys, train_main, f"--config {tmp_path / 'c.py'} --init {tmp_path / 'net'} --run {tmp_path / 'run'}"
    )
    assert "makes an autoencoder's latents; train.py trains on pictures alone" in message
    assert not (tmp_path / "run").exists()


def test_a_dit_of_pictures_makes_pictures(tmp_path):
    spec = build.Spec((8, 8, 3), 3)
    folder(tmp_path / "net", spec=spec)
    loaded = pretrained.load(tmp_path / "net")
    assert not loaded.latents
    assert loaded.config.sample.clip
    y = jax.jit(loaded.model(np.arange(2)))(np.ones((2, 8, 8, 3), np.float32), np.float32(0.5))
    assert y.shape == (2, 8, 8, 6)
