"""Moments and the Frechet distance against closed forms of Gaussians."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import InputError
from jaxdiff.metrics import Moments, frechet_distance, frechet_infinity, merged, moments


def exact(mean, covariance, n=1001):
    """Moments with exactly that mean and covariance."""
    return Moments(n, np.asarray(mean, np.float64), np.asarray(covariance, np.float64) * (n - 1))


def rotation(d, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((d, d)))[0]


def correlated(n, d, seed):
    """Not Gaussian, with eigenvalues over three decades, as features after a ReLU."""
    rng = np.random.default_rng(seed)
    return np.maximum(rng.standard_normal((n, d)) * np.exp(-3 * np.arange(d) / d) @ rotation(d) + 0.2, 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int32, jnp.bfloat16])
def test_moments_are_numpys_in_float64(dtype):
    x = (100 + 10 * np.random.default_rng(0).standard_normal((50, 7))).astype(dtype)
    m, wide = moments(x), x.astype(np.float64)
    assert m.count == 50
    assert m.mean.dtype == m.scatter.dtype == np.float64
    np.testing.assert_allclose(m.mean, wide.mean(0), rtol=1e-14)
    np.testing.assert_allclose(m.covariance, np.cov(wide, rowvar=False), rtol=1e-11)


def test_moments_take_jax_arrays():
    np.testing.assert_array_equal(moments(jnp.array([[1.0], [3.0]])).mean, [2.0])


@pytest.mark.parametrize("cuts", [[1], [4999], [1, 2, 3], [10, 2500, 4000], list(range(100, 5000, 100))])
def test_moments_are_the_same_for_any_split(cuts):
    """Far from 0, where sums of squares would cancel; 5000 rows are two blocks themselves."""
    x = 1e3 + np.random.default_rng(0).standard_normal((5000, 5)).astype(np.float32)
    whole, parts = moments(x), [moments(part) for part in np.split(x, cuts)]
    for order in (parts, parts[::-1]):
        together = order[0]
        for part in order[1:]:
            together = merged(together, part)
        assert together.count == whole.count
        np.testing.assert_allclose(together.mean, whole.mean, rtol=1e-12)
        scale = whole.scatter.diagonal().max()
        np.testing.assert_allclose(together.scatter, whole.scatter, rtol=1e-12, atol=1e-12 * scale)


def test_the_distance_of_one_dimensional_gaussians():
    assert frechet_distance(exact([1.0], [[4.0]]), exact([4.0], [[9.0]])) == pytest.approx(3**2 + (2 - 3) ** 2)


def test_the_distance_of_diagonal_gaussians():
    rng = np.random.default_rng(0)
    m1, m2, s1, s2 = *rng.standard_normal((2, 20)), *rng.uniform(0.1, 3, (2, 20))
    expected = np.sum((m1 - m2) ** 2 + (s1 - s2) ** 2)
    assert frechet_distance(exact(m1, np.diag(s1**2)), exact(m2, np.diag(s2**2))) == pytest.approx(expected, rel=1e-12)


def test_the_distance_of_commuting_covariances_and_its_invariance_to_rotation():
    rng, q = np.random.default_rng(1), rotation(20)
    s1, s2, m = *rng.uniform(0, 3, (2, 20)), rng.standard_normal(20)
    turned = [exact(q @ mean, (q * s**2) @ q.T) for mean, s in ((0 * m, s1), (m, s2))]
    expected = np.sum(m**2) + np.sum((s1 - s2) ** 2)
    assert frechet_distance(*turned) == pytest.approx(expected, rel=1e-12)


def test_the_distance_of_covariances_that_do_not_commute():
    """In two dimensions tr M^(1/2) = sqrt(tr M + 2 sqrt(det M)), here of M = C_1 C_2, whose eigenvalues are positive."""
    c1, c2 = np.array([[2.0, 0.7], [0.7, 1.0]]), np.array([[0.5, -0.3], [-0.3, 3.0]])
    root = np.sqrt(np.trace(c1 @ c2) + 2 * np.sqrt(np.linalg.det(c1) * np.linalg.det(c2)))
    expected = np.trace(c1 + c2) - 2 * root
    assert frechet_distance(exact([0, 0], c1), exact([0, 0], c2)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("n", "d"), [(2000, 32), (100, 256)])
def test_a_set_has_no_distance_from_itself_and_a_shifted_one_that_of_the_shift(n, d):
    x = correlated(n, d, seed=0)
    shift = np.random.default_rng(1).standard_normal(d)
    a, b = moments(x), moments(x + shift)
    assert frechet_distance(a, a) <= 1e-12 * np.trace(a.covariance)
    assert frechet_distance(a, b) == pytest.approx(shift @ shift, rel=1e-10)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-10)


@pytest.mark.parametrize(("n1", "n2"), [(50, 60), (50, 1000), (1000, 50)])
def test_covariances_without_full_rank(n1, n2):
    """The last trace from the centred rows alone: sum of the singular values of X Y^T / sqrt((n_1 - 1) (n_2 - 1))."""
    x, y = correlated(n1, 200, seed=0), correlated(n2, 200, seed=1)
    a, b = ((z - z.mean(0)) / np.sqrt(len(z) - 1) for z in (x, y))
    cross = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    expected = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.sum(a**2) + np.sum(b**2) - 2 * cross
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(expected, rel=1e-9)


def test_constant_features():
    assert frechet_distance(moments(np.ones((3, 4))), moments(np.zeros((5, 4)))) == pytest.approx(4)


def test_frechet_infinity_takes_the_bias_off():
    """N(0, I) in D dimensions against n of its own draws: the distance is 0, and measured as about c / n.

    To first order in 1 / n the mean brings D / n and the covariances |C - I|_F^2 / 4 = D (D + 1) / (4 n). Over 20 sets
    of 2000 the mean of the intercepts must be 0 within four of its standard errors, and within a tenth of that bias.
    """
    d, n, rng = 20, 2000, np.random.default_rng(0)
    bias = (d + d * (d + 1) / 4) / n
    found = [frechet_infinity(rng.standard_normal((n, d)), exact(np.zeros(d), np.eye(d)), seed=i) for i in range(20)]
    values, plain = np.array([f.value for f in found]), np.array([f.distances[-1] for f in found])
    assert plain.mean() == pytest.approx(bias, rel=0.1)
    assert abs(values.mean()) < min(4 * values.std(ddof=1) / np.sqrt(20), 0.1 * bias)
    assert np.mean([f.slope for f in found]) == pytest.approx(bias * n, rel=0.15)


def test_frechet_infinity_with_a_distance():
    d, n, rng = 10, 5000, np.random.default_rng(0)
    found = frechet_infinity(2 * rng.standard_normal((n, d)) + 1, exact(np.zeros(d), np.eye(d)), points=8, smallest=300)
    assert found.counts.tolist() == np.linspace(300, n, 8).round().tolist()
    assert found.value == pytest.approx(2 * d, abs=4 * np.sqrt(d * (4 * 4 + 2) / n))  # sd of |m|^2 and of (s - 1)^2


def test_frechet_infinity_repeats_itself():
    x, reference = correlated(200, 8, 0), moments(correlated(300, 8, 1))
    first, again, other = (frechet_infinity(x, reference, seed=seed) for seed in (0, 0, 1))
    assert first.value == again.value != other.value
    assert first.counts[0] == 20  # N / 10, more than 2 D
    assert first.distances[-1] == pytest.approx(frechet_distance(moments(x), reference), rel=1e-9)


def test_refusals():
    x = np.ones((10, 3))
    x[4, 1], x[7, 0] = np.nan, np.inf
    with pytest.raises(InputError, match=r"2 of 10 rows hold NaN or infinity, the first is row 4"):
        moments(x)
    for wrong in (np.ones(3), np.ones((2, 3, 4)), np.ones((0, 3)), np.ones((3, 0)), np.ones((2, 2), complex)):
        with pytest.raises(InputError, match=r"^x: "):
            moments(wrong)
    two, three = moments(np.eye(2)), moments(np.eye(3))
    with pytest.raises(InputError, match="2 and of 3 features"):
        merged(two, three)
    with pytest.raises(InputError, match="one network"):
        frechet_distance(two, three)
    with pytest.raises(InputError, match="one network"):
        frechet_infinity(np.eye(8), two)
    with pytest.raises(InputError, match="2 rows"):
        frechet_distance(moments(np.ones((1, 2))), two)
    with pytest.raises(InputError, match="scatter"):
        Moments(3, np.zeros(2), np.zeros((3, 3)))
    with pytest.raises(InputError, match="count"):
        Moments(0, np.zeros(2), np.zeros((2, 2)))
    for wrong in ({"points": 1}, {"points": 2.5}, {"smallest": 1}, {"smallest": 8}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            frechet_infinity(np.eye(8), moments(np.eye(8)), **wrong)
