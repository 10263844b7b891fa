"""KID, Inception Score, neighbours, accuracy and bootstrap against theory, and small cases done by hand."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import pdist

from jaxdiff import InputError
from jaxdiff.metrics import accuracy, bootstrap, diversity, inception_score, kernel_distance, manifold, nearest


def test_kernel_distance_by_hand():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((5, 3)), rng.standard_normal((5, 3))

    def k(a, b):
        return (sum(p * q for p, q in zip(a, b)) / 3 + 1) ** 2

    within = sum(k(z[i], z[j]) for z in (x, y) for i in range(5) for j in range(5) if i != j) / 20
    expected = within - 2 * sum(k(a, b) for a in x for b in y) / 25
    found = kernel_distance(x, y, subsets=3, subset_size=5, degree=2)
    assert found.mean == pytest.approx(expected, rel=1e-12)  # each subset is all
    assert found.std == pytest.approx(0, abs=1e-12)


def test_kernel_distance_is_0_in_the_mean_over_draws_of_one_distribution():
    rng = np.random.default_rng(0)
    found = [kernel_distance(*rng.standard_normal((2, 20, 4)), subsets=1, subset_size=20).mean for _ in range(500)]
    assert min(found) < 0
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(500)


def test_kernel_distance_of_degree_1():
    """The kernel x . y / D + 1 compares means: |E x - E y|^2 / D."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 2000, 4)) + np.array([[[0.0]], [[1.0]]])
    found = kernel_distance(x, y, degree=1, subset_size=200, subsets=50)
    expected = np.sum((x.mean(0) - y.mean(0)) ** 2) / 4
    assert found.mean == pytest.approx(expected, abs=4 * found.std / np.sqrt(50))
    assert kernel_distance(x, y, degree=1, subset_size=200, subsets=50) == found
    assert kernel_distance(x, y, degree=1, subset_size=200, subsets=50, seed=1) != found


def test_inception_score_at_its_ends():
    assert inception_score(np.zeros((30, 7)), splits=3) == pytest.approx((1.0, 0.0), abs=1e-12)
    balanced = np.tile(1e4 * np.eye(7), (30, 1))
    assert inception_score(balanced, splits=10) == pytest.approx((7.0, 0.0))
    assert inception_score(balanced[:, :1]) == (1.0, 0.0)  # one class


def test_inception_score_does_not_depend_on_a_constant_in_the_logits():
    logits = np.random.default_rng(0).standard_normal((40, 5))
    shifted = logits + 1e3 * np.arange(40)[:, None]
    assert inception_score(shifted, splits=4) == pytest.approx(inception_score(logits, splits=4), rel=1e-9)


def test_inception_score_splits_in_the_order_given():
    """One class per split has no diversity within the splits: 1. In one split there are two classes: 2."""
    logits = 1e4 * np.repeat(np.eye(2), 10, axis=0)
    assert inception_score(logits, splits=2).mean == pytest.approx(1)
    assert inception_score(logits, splits=1).mean == pytest.approx(2)
    uneven = inception_score(logits[:15], splits=2)  # 7 of one class; 3 and 5 of two
    h = -(3 / 8 * np.log(3 / 8) + 5 / 8 * np.log(5 / 8))
    assert uneven.mean == pytest.approx((1 + np.exp(h)) / 2)
    assert uneven.std == pytest.approx((np.exp(h) - 1) / 2)


def test_inception_score_falls_with_fewer_rows_per_split():
    """The entropy of the mean of n rows is too small by (K - 1) / (2 n) for hard labels of K equally frequent classes."""
    rng, n, k = np.random.default_rng(0), 400, 10
    scores = [inception_score(1e4 * np.eye(k)[rng.integers(k, size=n)], splits=1).mean for _ in range(200)]
    assert np.log(scores).mean() == pytest.approx(np.log(k) - (k - 1) / (2 * n), abs=1e-3)


def test_manifold_of_points_on_a_line():
    real, fake = np.array([[0.0], [1.0], [3.0], [5.0]]), np.array([[0.5], [1.0], [10.5]])
    found = manifold(real, fake, k=2)  # radii 3, 2, 2, 4 and 10, 9.5, 10
    # 0.5: within 3 of 0, within 2 of 1, 2.5 from 3, 4.5 from 5; 1: of 0, 1, 3 and 5; 10.5: of none
    assert found.precision == pytest.approx(2 / 3)
    assert found.density == pytest.approx((2 + 4) / (2 * 3))
    assert found.coverage == 1.0
    assert found.recall == 1.0
    assert manifold(fake + 1e3, real, k=2) == (0.0, 0.0, 0.0, 0.0)


def test_manifold_tells_fidelity_from_diversity():
    rng = np.random.default_rng(0)
    real = rng.standard_normal((500, 2))
    collapsed = manifold(real, 0.1 * rng.standard_normal((500, 2)))
    assert collapsed.precision > 0.99
    assert collapsed.recall < 0.2
    assert collapsed.coverage < 0.5
    wide = manifold(real, 10 * rng.standard_normal((500, 2)))
    assert wide.precision < 0.3
    assert wide.recall > 0.9
    swapped = manifold(0.1 * real, real)
    assert swapped.precision == manifold(real, 0.1 * real).recall


@pytest.mark.parametrize("k", [1, 3, 5])
def test_density_and_coverage_of_one_distribution(k):
    """E density = 1; coverage = 1 - prod_(i < k) (N - 1 - i) / (2 N - 1 - i): no fake among the 2 N - 1 nearest's first k."""
    rng, n = np.random.default_rng(k), 200
    found = np.array([manifold(*rng.standard_normal((2, n, 8)), k=k) for _ in range(30)])
    i = np.arange(k)
    coverage = 1 - np.prod((n - 1 - i) / (2 * n - 1 - i))
    error = found.std(axis=0, ddof=1) / np.sqrt(30)
    assert abs(found[:, 2].mean() - 1) < 4 * error[2]
    assert abs(found[:, 3].mean() - coverage) < 4 * error[3]


def test_manifold_in_chunks_is_the_whole(monkeypatch):
    rng = np.random.default_rng(0)
    real, fake = rng.standard_normal((800, 16)).astype(np.float32), rng.standard_normal((600, 16)).astype(np.float32)
    whole = manifold(real, fake)
    monkeypatch.setattr("jaxdiff.metrics.neighbours._MEGABYTES", 1)  # 218 rows of reals at a time
    assert manifold(real, fake) == whole
    distances = np.linalg.norm(real[:, None].astype(np.float64) - fake[None], axis=-1)
    own = np.sort(np.linalg.norm(real[:, None].astype(np.float64) - real[None], axis=-1), axis=1)[:, 5]
    assert whole.precision == pytest.approx(np.mean((distances <= own[:, None]).any(axis=0)), abs=1e-3)
    assert whole.coverage == pytest.approx(np.mean(distances.min(axis=1) <= own), abs=1e-3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_diversity_is_scipys_mean_of_all_pairs_in_any_blocks(dtype, monkeypatch):
    """Also of copies, whose distance is 0, far from the origin, where float32 squares would cancel."""
    x = (1000 + np.random.default_rng(0).standard_normal((60, 7))).astype(dtype)
    x[20:30] = x[:10]
    expected = pdist(x.astype(np.float64)).mean()
    for megabytes in (256, 0.001):  # two rows at a time
        monkeypatch.setattr("jaxdiff.metrics.neighbours._MEGABYTES", megabytes)
        assert diversity(x) == pytest.approx(expected, rel=1e-6)
        labels = np.arange(60) // 25 * 3  # of 25, 25 and 10
        parts = [pdist(x[labels == label].astype(np.float64)) for label in (0, 3, 6)]
        assert diversity(x, labels) == pytest.approx(np.concatenate(parts).mean(), rel=1e-6)


def test_diversity_of_gaussians():
    """The difference of two is N(0, 2): the mean length of it in 3 dimensions is 4 / sqrt(pi), for any number of rows."""
    rng = np.random.default_rng(0)
    for n, sets in ((2, 4000), (300, 30)):
        found = [diversity(rng.standard_normal((n, 3))) for _ in range(sets)]
        assert np.mean(found) == pytest.approx(4 / np.sqrt(np.pi), abs=4 * np.std(found) / np.sqrt(sets))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nearest_finds_copies(dtype):
    rng = np.random.default_rng(0)
    train = 100 + rng.standard_normal((3000, 64)).astype(dtype)
    rows = rng.permutation(3000)[:50]
    distances, found = nearest(train[rows], train, k=2)
    assert found[:, 0].tolist() == rows.tolist()
    np.testing.assert_array_equal(distances[:, 0], 0)
    second = np.linalg.norm(train[rows].astype(np.float64) - train[found[:, 1]], axis=1)
    np.testing.assert_allclose(distances[:, 1], second, rtol=1e-5)


def test_accuracy():
    logits = jnp.array([[0.1, 0.9, 0.0], [5.0, 5.0, 1.0], [0.0, 0.0, 0.1], [1.0, 2.0, 3.0]])
    assert accuracy(logits, jnp.array([1, 0, 2, 0])) == 0.75


def test_bootstrap_intervals_cover():
    """Of 200 intervals of the mean of 50 draws at 90 %: binomial, within four standard deviations and the small-n lack.

    With n = 50 the interval is that of known variance (n - 1) / n s^2: covers 2 P(T_49 < 1.645 sqrt(49 / 50)) - 1.
    """
    rng = np.random.default_rng(0)
    covered = 0
    for i in range(200):
        low, high = bootstrap(np.mean, rng.standard_normal(50), level=0.9, seed=i)
        covered += low <= 0 <= high
    expected = 2 * stats.t.cdf(stats.norm.ppf(0.95) * np.sqrt(49 / 50), 49) - 1
    assert abs(covered / 200 - expected) < 4 * np.sqrt(0.09 / 200)


def test_bootstrap_basic_is_the_reflection_of_percentile():
    x = np.random.default_rng(0).exponential(size=(40, 2))
    statistic = lambda rows: rows.var()
    basic, percentile = (bootstrap(statistic, x, method=method) for method in ("basic", "percentile"))
    assert basic == pytest.approx((2 * x.var() - percentile.high, 2 * x.var() - percentile.low))
    assert bootstrap(statistic, x) == basic != bootstrap(statistic, x, seed=1)


def test_what_duplicates_do_to_a_frechet_distance():
    """|mean - 0|^2 of n draws of N(0, I_D), the Frechet distance's first term: D / n for x, 2 D / n for draws from it.

    Percentiles miss the truth, 0, and lie above the estimate; the reflected interval holds the truth.
    """
    d, n = 200, 400
    x = np.random.default_rng(0).standard_normal((n, d))
    statistic = lambda rows: float(np.sum(rows.mean(axis=0) ** 2))
    percentile, basic = (bootstrap(statistic, x, method=method) for method in ("percentile", "basic"))
    assert percentile.low > statistic(x)
    assert sum(percentile) / 2 == pytest.approx(2 * d / n, rel=0.2)
    assert basic.low < 0 < basic.high


def test_refusals():
    x, nan = np.random.default_rng(0).standard_normal((6, 3)), np.full((6, 3), np.nan)
    for call in (
        lambda: kernel_distance(nan, x, subset_size=2),
        lambda: kernel_distance(x, nan, subset_size=2),
        lambda: inception_score(nan),
        lambda: manifold(x, nan),
        lambda: nearest(nan, x),
        lambda: diversity(nan),
        lambda: accuracy(nan, np.zeros(6, int)),
    ):
        with pytest.raises(InputError, match="6 of 6 rows hold NaN"):
            call()
    for call in (lambda: kernel_distance(x, x[:, :2]), lambda: manifold(x, x[:, :2]), lambda: nearest(x, x[:, :2])):
        with pytest.raises(InputError, match="one network"):
            call()
    with pytest.raises(InputError, match="subset_size: 1000 rows cannot be drawn from 6"):
        kernel_distance(x, x)
    for wrong in ({"subset_size": 1}, {"subsets": 0}, {"degree": 0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            kernel_distance(x, x, **{"subset_size": 4, **wrong})
    with pytest.raises(InputError, match="6 rows cannot be split in 10"):
        inception_score(x)
    with pytest.raises(InputError, match="6 rows have no 6-th neighbour"):
        manifold(x, x, k=6)
    with pytest.raises(InputError, match="at least 2 rows, got 1"):
        diversity(x[:1])
    with pytest.raises(InputError, match="no two rows have the same one"):
        diversity(x, np.arange(6))
    with pytest.raises(InputError, match="labels: expected one per row, .6,., got"):
        diversity(x, np.arange(5))
    with pytest.raises(InputError, match="6 rows have no 7 nearest"):
        nearest(x, x, k=7)
    for labels in (np.zeros(5, int), np.zeros(6), np.full(6, 3), np.full(6, -1)):
        with pytest.raises(InputError, match="^labels"):
            accuracy(x, labels)
    for wrong in ({"level": 1.0}, {"num": 1}, {"method": "BCa"}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            bootstrap(np.mean, x, **wrong)
    with pytest.raises(InputError, match="2 rows"):
        bootstrap(np.mean, x[:1])
    with pytest.raises(InputError, match="statistic"):
        bootstrap(lambda rows: np.nan, x)
