"""Metrics against torch-fidelity, pytorch-fid, prdc, scikit-image and pytorch-msssim, on the same features and images.

torchvision, which the first two load for their networks, is not needed: an empty module stands for it while they load.
"""

import sys
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.metrics import (
    frechet_distance,
    inception_score,
    kernel_distance,
    manifold,
    moments,
    ms_ssim,
    nearest,
    psnr,
    ssim,
)

WHY = "needs other libraries of metrics: pip install -e '.[parity]'"
torch = pytest.importorskip("torch", reason=WHY)
pytest.importorskip("sklearn.metrics")  # whole, before anything is put in torchvision's place
with pytest.MonkeyPatch.context() as patch:
    for absent in ("", ".datasets", ".models", ".models.inception", ".transforms", ".transforms.functional"):
        patch.setitem(sys.modules, f"torchvision{absent}", mock.MagicMock())
    torch_fidelity = pytest.importorskip("torch_fidelity", reason=WHY)
    for part in ("metric_fid", "metric_isc", "metric_kid", "metric_prc"):
        pytest.importorskip(f"torch_fidelity.{part}", reason=WHY)
    fid_score = pytest.importorskip("pytorch_fid.fid_score", reason=WHY)
prdc = pytest.importorskip("prdc", reason=WHY)
pytorch_msssim = pytest.importorskip("pytorch_msssim", reason=WHY)
skimage_metrics = pytest.importorskip("skimage.metrics", reason=WHY)

torch.set_num_threads(1)

SIZES = {"n > d": (2000, 1500, 128), "n about d": (300, 280, 256), "n < d": (200, 300, 512), "narrow": (900, 800, 64)}


def features(n, d, seed, shift=0.0):
    """As pool3's: not negative, many small, correlated, of heavy tail; the same law but for `shift`."""
    rng, law = np.random.default_rng(seed), np.random.default_rng(99)
    mixing = law.standard_normal((d, d)) * np.exp(-4 * np.arange(d) / d)[:, None] / 4
    x = np.maximum(rng.standard_normal((n, d)) @ mixing + 0.3 * law.standard_normal(d) + shift, 0)
    return (x * rng.gamma(4, 0.25, size=(n, 1))).astype(np.float32)


def both(size):
    n, m, d = SIZES[size]
    return features(n, d, 0), features(m, d, 1, shift=0.15)


def images(shape, seed):
    """Smooth pictures in [-1, 1] with noise: a low-resolution one, blown up."""
    rng = np.random.default_rng(seed)
    n, h, w, c = shape
    coarse = np.random.default_rng(5).uniform(-1.2, 1.2, (n, -(-h // 16), -(-w // 16), c))
    smooth = coarse.repeat(16, axis=1).repeat(16, axis=2)[:, :h, :w]
    return np.clip(smooth + rng.uniform(0.02, 0.4, (n, 1, 1, 1)) * rng.standard_normal(shape), -1, 1)


@pytest.mark.parametrize("size", SIZES)
def test_fid(size):
    x, y = both(size)
    ours = frechet_distance(moments(x), moments(y))
    wide = [torch_fidelity.metric_fid.fid_features_to_statistics(torch.tensor(z, dtype=torch.float64)) for z in (x, y)]
    theirs = torch_fidelity.metric_fid.fid_statistics_to_metric(*wide, False)["frechet_inception_distance"]
    assert ours == pytest.approx(theirs, rel=1e-6)


@pytest.mark.filterwarnings("ignore:The `disp` argument:DeprecationWarning")  # of its call of scipy.linalg.sqrtm
@pytest.mark.parametrize("size", SIZES)
def test_fid_of_pytorch_fid(size):
    x, y = both(size)
    ours = frechet_distance(moments(x), moments(y))
    a, b = ({"mu": z.mean(0), "sigma": np.cov(z, rowvar=False)} for z in (x.astype(np.float64), y.astype(np.float64)))
    theirs = fid_score.calculate_frechet_distance(a["mu"], a["sigma"], b["mu"], b["sigma"])
    assert ours == pytest.approx(theirs, rel=1e-6 if size in ("n > d", "narrow") else 1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_kid(size):
    x, y = both(size)
    n = min(len(x), len(y))
    x, y = x[:n], y[:n]  # one subset of all, so that both have the same
    theirs = torch_fidelity.metric_kid.kid_features_to_metric(
        *(torch.tensor(z, dtype=torch.float64) for z in (x, y)), kid_subsets=1, kid_subset_size=n, verbose=False
    )
    ours = kernel_distance(x, y, subsets=1, subset_size=n)
    assert ours.mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-8)


@pytest.mark.parametrize("splits", [1, 7, 10])
def test_inception_score(splits):
    logits = 3 * features(1000, 100, 0)
    theirs = torch_fidelity.metric_isc.isc_features_to_metric(torch.tensor(logits), splits, shuffle=False)
    ours = inception_score(logits, splits=splits)
    assert ours.mean == pytest.approx(theirs["inception_score_mean"], rel=1e-10)
    assert ours.std == pytest.approx(theirs["inception_score_std"], rel=1e-8, abs=1e-10)


@pytest.mark.parametrize("k", [3, 5])
@pytest.mark.parametrize("size", SIZES)
def test_precision_recall_density_coverage(size, k):
    real, fake = both(size)
    ours = manifold(real, fake, k=k)
    theirs = prdc.compute_prdc(real, fake, nearest_k=k)
    assert ours.density > 0.05
    for name, value in theirs.items():
        assert getattr(ours, name) == pytest.approx(value, rel=1e-4), name
    theirs = torch_fidelity.metric_prc.prc_features_to_metric(  # the generated first
        torch.tensor(fake),
        torch.tensor(real),
        prc_neighborhood=k,
        prc_batch_size=500,
        save_cpu_ram=False,
        verbose=False,
    )
    assert ours.precision == pytest.approx(theirs["precision"], rel=1e-4)
    assert ours.recall == pytest.approx(theirs["recall"], rel=1e-4)


def test_nearest():
    x, among = both("n < d")
    theirs = torch.cdist(torch.tensor(x).double(), torch.tensor(among).double()).topk(3, largest=False)
    distances, rows = nearest(x, among, k=3)
    np.testing.assert_allclose(distances, theirs.values, rtol=1e-6)
    np.testing.assert_array_equal(rows, theirs.indices)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(3, 64, 48, 3), (2, 33, 57, 1)])
def test_psnr_and_ssim(shape, dtype):
    a, b = (images(shape, seed) for seed in (0, 1))
    ours = [np.asarray(jax.jit(metric)(jnp.asarray(a, dtype), jnp.asarray(b, dtype))) for metric in (psnr, ssim)]
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": -1}
    for i in range(len(a)):
        ratio = skimage_metrics.peak_signal_noise_ratio(a[i], b[i], data_range=2.0)
        similarity = skimage_metrics.structural_similarity(a[i] + 1, b[i] + 1, data_range=2.0, **options)
        assert ours[0][i] == pytest.approx(ratio, rel=1e-5 if dtype == np.float32 else 1e-10)
        assert ours[1][i] == pytest.approx(similarity, rel=1e-5 if dtype == np.float32 else 1e-10)


@pytest.mark.parametrize("level", [0.0, 0.95])
def test_ssim_of_flat_images(level):
    """Where variances are near float32's rounding of squares: the worst case of one that squares brightnesses."""
    rng = np.random.default_rng(0)
    a, b = level + 0.03 * rng.standard_normal((2, 1, 64, 64, 3))
    theirs = skimage_metrics.structural_similarity(
        a[0] + 1,
        b[0] + 1,
        data_range=2.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        channel_axis=-1,
    )
    assert float(ssim(a.astype(np.float32), b.astype(np.float32))[0]) == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("shape", [(2, 176, 192, 3), (1, 256, 256, 1)])
def test_ms_ssim(shape):
    """Sides that divide by 16: of a last odd row theirs takes the mean with zeros."""
    a, b = (images(shape, seed) for seed in (0, 1))
    first, second = (torch.tensor(z + 1).permute(0, 3, 1, 2) for z in (a, b))
    theirs = pytorch_msssim.ms_ssim(first, second, data_range=2.0, size_average=False)
    for dtype, tolerance in ((np.float32, 1e-5), (np.float64, 1e-6)):  # their window is float32
        ours = jax.jit(ms_ssim)(jnp.asarray(a, dtype), jnp.asarray(b, dtype))
        np.testing.assert_allclose(ours, theirs, rtol=tolerance)
