"""Samples against a reference: gathering in any batches, statistics in files, names, refusals, the trained classifier."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from jaxdiff import InputError, evaluation, metrics
from jaxdiff.data import ArraySource, Subset, array_file, digits
from jaxdiff.evaluation import Training, trained_classifier
from jaxdiff.features import Features, classifier, pixels

pytestmark = pytest.mark.usefixtures("standard_promotion")
SPACE = pixels((8, 8, 1))


def gathered(images, *, batch=256, keep=("pool",), labels=None, space=SPACE, name="set"):
    extract = evaluation.extractor(space, ["pool"], batch=batch)
    parts = [images[i : i + batch] for i in range(0, len(images), batch)]
    return evaluation.gather(parts, extract, name=name, moments_of=["pool"], keep=keep, labels=labels)


@pytest.fixture(scope="module")
def real():
    return digits().images


def test_moments_of_pixels_are_numpys_own_whatever_the_batch(real):
    x = real.reshape(len(real), -1) / 127.5 - 1
    for batch in (1797, 256, 7):
        found = gathered(real, batch=batch).moments["pool"]
        assert found.count == 1797
        np.testing.assert_allclose(found.mean, x.mean(0), atol=1e-6)
        np.testing.assert_allclose(found.covariance, np.cov(x, rowvar=False), atol=1e-6)


def test_batches_of_several_sizes_are_the_same_set(real):
    extract = evaluation.extractor(SPACE, ["pool"], batch=100)
    odd = evaluation.gather(
        [real[:3], real[3:500], real[500:]], extract, name="odd", moments_of=["pool"], keep=["pool"]
    )
    even = gathered(real)
    np.testing.assert_array_equal(odd.arrays["pool"], even.arrays["pool"])
    assert odd.sha256 == even.sha256 != gathered(real[::-1]).sha256
    assert odd.image_shape == (8, 8, 1)


def test_only_what_is_wanted_is_computed():
    def apply(params, x):
        flat = x.reshape(len(x), -1).astype("float32")
        return {"pool": flat, "spatial": jnp.linalg.inv(jnp.full((3, 3), jnp.nan))}  # of the wrong shape

    space = dataclasses.replace(SPACE, apply=apply)
    assert set(evaluation.extractor(space, ["pool"], batch=2)(np.zeros((3, 8, 8, 1), np.uint8))) == {"pool"}


def test_the_data_against_itself_halves_of_it_and_noise(real):
    """0 within rounding; a little; a lot."""
    rows = evaluation.chosen(["frechet", "kernel", "manifold", "sliced_wasserstein"], SPACE)
    whole = gathered(real)
    options = evaluation.Options(subset_size=500, projections=50)

    def compare(samples, reference=whole):
        return evaluation.measure(rows, SPACE, samples, reference, options)

    same = compare(whole)
    assert abs(same["frechet_pixels"]) < 1e-6 * np.trace(whole.moments["pool"].covariance)
    assert same["precision_pixels"] == same["recall_pixels"] == same["coverage_pixels"] == 1
    assert same["sliced_wasserstein_pixels"] == 0
    order = np.random.default_rng(0).permutation(len(real))
    halves = compare(gathered(real[order[:898]]), gathered(real[order[898:]]))
    noise = compare(gathered(np.random.default_rng(1).integers(0, 256, real.shape, np.uint8)))
    assert 0 < halves["frechet_pixels"] < 0.02 * noise["frechet_pixels"]
    assert abs(halves["kernel_pixels"]) < 0.01 * noise["kernel_pixels"]
    assert noise["precision_pixels"] < 0.01 < 0.8 < halves["precision_pixels"]


def test_values_carry_the_name_of_their_features():
    rows = evaluation.chosen(["frechet", "kernel"], SPACE)
    assert evaluation.name_of("frechet", rows["frechet"], SPACE) == "frechet_pixels"
    inception = dataclasses.replace(SPACE, name="inception")
    fid = evaluation.chosen(["fid", "kid"], inception)
    assert list(fid) == ["frechet", "kernel"]
    assert evaluation.name_of("frechet", fid["frechet"], inception) == "fid"
    assert evaluation.name_of("kernel_std", fid["kernel"], inception) == "kid_std"
    with pytest.raises(InputError, match="means Inception's features; of pixels it is frechet"):
        evaluation.chosen(["fid"], SPACE)
    with pytest.raises(InputError, match="no such metric; there are frechet, "):
        evaluation.chosen(["fdi"], SPACE)
    with pytest.raises(InputError, match="frechet_spatial: is of --features inception:FILE"):
        evaluation.chosen(["frechet_spatial"], SPACE)
    with pytest.raises(InputError, match="is of --features inception:FILE, not of pixels"):
        evaluation.chosen(["inception_score"], SPACE)


def test_too_few_images_for_the_covariance_are_refused_and_few_are_told_of(real):
    rows = evaluation.chosen(["frechet"], SPACE)
    with pytest.raises(InputError, match=r"64 samples are too few for the covariance of 64 features.*kernel"):
        evaluation.check(rows, SPACE, 64, 1000)
    with pytest.raises(InputError, match="10 images of the reference are too few"):
        evaluation.check(rows, SPACE, 65, 10)
    evaluation.check(rows, SPACE, 65, None)
    evaluation.check(evaluation.chosen(["kernel"], SPACE), SPACE, 10, 10)
    with pytest.raises(InputError, match="kernel: needs 10 samples at least, there are 9"):
        evaluation.check(evaluation.chosen(["kernel"], SPACE), SPACE, 9, 10)
    with pytest.raises(InputError, match="diversity: needs 2 samples at least, there is 1"):
        evaluation.check(evaluation.chosen(["diversity"], SPACE), SPACE, 1, 10)
    infinity = evaluation.chosen(["frechet_infinity"], SPACE)  # whose smallest subset has half of the samples
    with pytest.raises(InputError, match="129 samples are too few.*frechet_infinity needs 130 at least"):
        evaluation.check(infinity, SPACE, 129, 1000)
    evaluation.check(infinity, SPACE, 130, 65)
    with pytest.raises(InputError, match="127 samples are too few for 64 features of pixels; it needs 128"):
        evaluation.check_bootstrap(SPACE, 127)
    evaluation.check_bootstrap(SPACE, 128)
    manifold, ten = evaluation.chosen(["manifold"], SPACE), evaluation.Options(neighbours=10)
    with pytest.raises(InputError, match="neighbours 10: expected fewer than the 10 images of the smaller set"):
        evaluation.check(manifold, SPACE, 20, 10, ten)
    evaluation.check(manifold, SPACE, 11, None, ten)
    assert ["100 samples are few" in said for said in evaluation.warnings(rows, SPACE, 100, 1797)] == [True]
    assert evaluation.warnings(rows, SPACE, 1797, 1797) == []
    assert "no line there" in evaluation.warnings(infinity, SPACE, 100, 1797)[0]
    inception = dataclasses.replace(SPACE, name="inception")  # FID is one of 50,000
    assert ["49,999 samples are few" in said for said in evaluation.warnings(rows, inception, 49_999, None)] == [True]
    assert evaluation.warnings(rows, inception, 50_000, 50_000) == []
    assert evaluation.warnings(infinity, inception, 640, 50_000) == []


def test_sets_that_cannot_be_compared_are_refused(real):
    rows = evaluation.chosen(["kernel"], SPACE)
    whole = gathered(real)
    with pytest.raises(InputError, match="images 8x8x1, other 6x8x1: make them alike"):
        evaluation.measure(rows, SPACE, whole, dataclasses.replace(whole, name="other", image_shape=(6, 8, 1)))
    with pytest.raises(InputError, match="has no features .pool. of each image.*--keep"):
        evaluation.measure(rows, SPACE, whole, gathered(real, keep=()))
    with pytest.raises(InputError, match="there is no image"):
        gathered(real[:0])
    extract = evaluation.extractor(SPACE, ["pool"], batch=4)
    with pytest.raises(InputError, match="images of several sizes"):
        evaluation.gather([real[:2], real[:2, :6]], extract, name="s", moments_of=["pool"], keep=[])
    broken = dataclasses.replace(SPACE, apply=lambda params, x: {"pool": x.reshape(len(x), -1) * jnp.nan})
    with pytest.raises(InputError, match=r"NaN|finite"):
        gathered(real, space=broken)


def test_an_interval_by_bootstrap_shrinks_with_the_samples(real):
    whole = gathered(real)
    low, high = evaluation.frechet_interval(gathered(real[:200]), whole, num=40, seed=0)
    other_low, other_high = evaluation.frechet_interval(gathered(real[:1600]), whole, num=40, seed=0)
    assert 0 < other_high - other_low < (high - low) / 2


def test_nineteen_of_twenty_intervals_hold_the_distance_of_gaussians():
    """Whose means are m apart and whose covariances are D and 1: |m|^2 + |sqrt(D) - 1|^2, though a plain distance of so
    few samples is above it."""
    variances, mean, rng = np.linspace(1, 2, 16), np.full(16, 1 / 8), np.random.default_rng(0)
    distance = (mean**2).sum() + ((np.sqrt(variances) - 1) ** 2).sum()
    real = evaluation.Gathered("real", None, {"pool": metrics.Moments(2, np.zeros(16), np.eye(16))})
    held, above = [], []
    for seed in range(200):
        x = mean + rng.standard_normal((400, 16)) * np.sqrt(variances)
        samples = evaluation.Gathered("samples", 400, {"pool": metrics.moments(x)}, {"pool": x})
        low, high = evaluation.frechet_interval(samples, real, num=60, seed=seed)
        held.append(low <= distance <= high)
        above.append(metrics.frechet_distance(samples.moments["pool"], real.moments["pool"]) > distance)
    assert np.mean(above) > 0.9
    assert 0.9 <= np.mean(held) <= 0.99  # two and a half standard errors of 200 and more


def test_statistics_in_a_file_are_what_they_were(real, tmp_path):
    path = tmp_path / "stats" / "digits.npz"
    whole = gathered(real, labels=digits().labels, name="digits")
    evaluation.write_statistics(path, whole, SPACE)
    found = evaluation.read_statistics(path, SPACE)
    rows = evaluation.chosen(["frechet", "kernel"], SPACE)
    some = gathered(real[:300])
    options = evaluation.Options(subset_size=300)
    direct, stored = (evaluation.measure(rows, SPACE, some, reference, options) for reference in (whole, found))
    assert stored == pytest.approx(direct)
    assert (found.name.endswith("digits.npz"), found.count, found.image_shape, found.sha256) == (
        True,
        1797,
        (8, 8, 1),
        whole.sha256,
    )
    np.testing.assert_array_equal(found.labels, digits().labels)
    assert evaluation.is_statistics(path)
    np.savez(tmp_path / "images.npz", images=real)
    assert not evaluation.is_statistics(tmp_path / "images.npz")
    with np.load(path) as file:  # as pytorch-fid reads them
        np.testing.assert_allclose(file["sigma"], np.cov(whole.arrays["pool"].astype(float), rowvar=False), atol=1e-9)


def test_statistics_of_other_programs_are_taken_for_inceptions(real, tmp_path):
    whole = gathered(real)
    mu, sigma = whole.moments["pool"].mean, whole.moments["pool"].covariance
    np.savez(tmp_path / "pytorch_fid.npz", mu=mu, sigma=sigma)
    np.savez(tmp_path / "guided.npz", mu=mu, sigma=sigma, mu_s=mu, sigma_s=sigma, arr_0=np.zeros(3))
    inception = dataclasses.replace(SPACE, name="inception", dimensions={"pool": 64, "spatial": 64})
    rows = evaluation.chosen(["fid"], inception)
    found = evaluation.read_statistics(tmp_path / "pytorch_fid.npz", inception)
    assert found.count is None
    assert abs(evaluation.measure(rows, inception, whole, found)["fid"]) < 1e-6 * np.trace(sigma)
    assert set(evaluation.read_statistics(tmp_path / "guided.npz", inception).moments) == {"pool", "spatial"}
    with pytest.raises(InputError, match="does not say in which features"):
        evaluation.read_statistics(tmp_path / "pytorch_fid.npz", SPACE)


def test_statistics_that_are_no_use_are_refused(real, tmp_path):
    path = tmp_path / "s.npz"
    evaluation.write_statistics(path, gathered(real), SPACE)
    other = Features("pixels", {**SPACE.description, "scaling": "none"}, SPACE.dimensions, {}, SPACE.apply)
    with pytest.raises(InputError, match="other features.*'none'"):
        evaluation.read_statistics(path, other)
    with pytest.raises(InputError, match=r"ends in \.npz"):
        evaluation.write_statistics(tmp_path / "s.txt", gathered(real), SPACE)
    (tmp_path / "cut.npz").write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match="not readable as statistics"):
        evaluation.read_statistics(tmp_path / "cut.npz", SPACE)
    inception = dataclasses.replace(SPACE, name="inception")
    np.savez(tmp_path / "nan.npz", mu=np.full(64, np.nan), sigma=np.eye(64))
    with pytest.raises(InputError, match="has numbers that are not finite"):
        evaluation.read_statistics(tmp_path / "nan.npz", inception)
    np.savez(tmp_path / "shape.npz", mu=np.zeros(3), sigma=np.eye(3))
    with pytest.raises(InputError, match=r"expected numbers \(64,\) and \(64, 64\)"):
        evaluation.read_statistics(tmp_path / "shape.npz", inception)


def test_names_of_features_that_there_are_not():
    for name, words in [
        ("fid", "there are pixels, classifier"),
        ("inception", "give its weights, inception:FILE"),
        ("inception:/nowhere.pth", "no such file"),
        ("pixels:x", "no such features"),
    ]:
        with pytest.raises(InputError, match=words):
            evaluation.check_name(name)
    with pytest.raises(InputError, match="--resize clean: is of Inception's features"):
        evaluation.check_name("pixels", resize="clean")
    with pytest.raises(InputError, match="trained on real images with labels"):
        evaluation.features("classifier", (8, 8, 1))


@pytest.mark.slow
def test_a_classifier_is_trained_once_and_knows_the_digits(tmp_path):
    """300 updates of a small network: a nearest-mean classifier of the same digits knows nine tenths of them."""
    training, steps = Training(steps=300), []

    def progress(loop):
        steps.append(len(loop))
        return loop

    space = trained_classifier(digits(), training=training, folder=tmp_path, progress=progress)
    again = trained_classifier(digits(), training=training, folder=tmp_path, progress=progress)
    assert steps == [300]
    assert space.description == again.description
    assert space.description["accuracy"] > 0.9
    assert space.dimensions == {"pool": 128, "logits": 10}
    data = load_digits()
    images = np.rint(data.images * (255 / 16)).astype(np.uint8)[..., None]
    outputs = evaluation.extractor(space, ["pool", "logits"], batch=512)(images)
    assert metrics.accuracy(outputs["logits"], data.target) > 0.9
    assert outputs["pool"].shape == (1797, 128)
    assert outputs["pool"].min() >= 0
    (file,) = tmp_path.glob("*.safetensors")
    assert classifier(file).description == space.description
    with pytest.raises(InputError, match="a classifier of images"):
        evaluation.extractor(space, ["pool"], batch=2)(np.zeros((2, 9, 9, 1), np.uint8))


def test_other_images_or_settings_have_another_classifier(tmp_path):
    few = Training(steps=1, batch_size=8)
    for source in (Subset(digits(), np.arange(50)), Subset(digits(), np.arange(50)[::-1])):
        trained_classifier(source, training=few, folder=tmp_path)
        trained_classifier(source, training=dataclasses.replace(few, seed=1), folder=tmp_path)
    first, *rest = sorted(tmp_path.glob("*.safetensors"))
    assert len(rest) == 3
    with pytest.raises(InputError, match="labels of two classes"):
        trained_classifier(ArraySource(digits().images))
    (tmp_path / "other.safetensors").write_bytes(first.read_bytes()[:100])
    with pytest.raises(InputError, match="not readable as a file of weights"):
        classifier(tmp_path / "other.safetensors")


def test_the_same_images_under_another_name_have_the_same_classifier_to_the_byte(tmp_path):
    few, some = Training(steps=2, batch_size=8), digits().gather(np.arange(100))
    np.savez(tmp_path / "some.npz", images=some["image"], labels=some["label"])
    for name, source in (("one", Subset(digits(), np.arange(100))), ("two", array_file(tmp_path / "some.npz"))):
        trained_classifier(source, training=few, folder=tmp_path / name)
    one, two = (next((tmp_path / name).glob("*.safetensors")).read_bytes() for name in ("one", "two"))
    assert one == two


def test_an_inception_score_does_not_depend_on_the_order_of_classes():
    """Perfect predictions of ten classes as often, in order: 10, and not 1 in each of ten parts."""
    logits = 50 * np.eye(10, dtype=np.float32)[np.repeat(np.arange(10), 500)]
    space = dataclasses.replace(SPACE, name="inception", dimensions={"logits_unbiased": 10})
    rows = evaluation.chosen(["inception_score"], space)
    found = evaluation.Gathered("samples", 5000, {}, {"logits_unbiased": logits})
    score = evaluation.measure(rows, space, found, evaluation.Gathered("reference", None, {}))["inception_score"]
    assert 9.5 < score <= 10  # a part has not each class exactly as often


def test_labels_of_a_part_are_those_of_the_whole():
    part = Subset(Subset(digits(), np.arange(100, 200)), np.arange(10, 30))
    index = np.array([3, 0, 7])
    np.testing.assert_array_equal(evaluation.labels_of(part, index), part.gather(index)["label"])
    assert evaluation.labels_of(ArraySource(digits().images), index) is None


def test_labels_as_often_as_in_the_data():
    labels = np.repeat([0, 1, 2], [10, 30, 60])
    assert np.bincount(evaluation.as_often(labels, 200)).tolist() == [20, 60, 120]
    assert np.bincount(evaluation.as_often(labels, 10)).tolist() == [1, 3, 6]
