"""The terms of the variational bound against integrals, scipy, and the KL divergence of two joint Gaussians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from jaxdiff import InputError, Prediction, q_sample, schedules, testing
from jaxdiff.likelihood_terms import (
    bits_per_dim,
    discretised_gaussian_log_prob,
    gaussian_kl,
    gaussian_log_prob,
    prior_term,
    vlb_term,
)
from jaxdiff.process import posterior_log_var

rng = np.random.default_rng(0)
LEVELS = np.linspace(-1, 1, 256)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize(("m1", "s1", "m2", "s2"), [(0.0, 1.0, 0.0, 1.0), (0.3, 0.2, -0.1, 0.5), (1.0, 2.0, 1.1, 0.7)])
def test_gaussian_kl_is_the_integral(m1, s1, m2, s2):
    def integrand(x):
        return norm.pdf(x, m1, s1) * (norm.logpdf(x, m1, s1) - norm.logpdf(x, m2, s2))

    expected, _ = quad(integrand, m1 - 12 * s1, m1 + 12 * s1, epsabs=1e-12)
    kl = gaussian_kl(m1, 2 * np.log(s1), m2, 2 * np.log(s2))
    np.testing.assert_allclose(kl, expected, rtol=1e-5, atol=1e-7)


def test_gaussian_kl_of_nearly_equal_variances_keeps_its_digits():
    """KL = (r - log(1 + r)) / 2 with r = -1e-3: r^2 / 4, six orders below the terms that cancel."""
    r = np.float64(np.float32(np.log1p(-1e-3)))
    np.testing.assert_allclose(gaussian_kl(0.0, jnp.float32(r), 0.0, 0.0), (np.expm1(r) - r) / 2, rtol=1e-3)


@pytest.mark.parametrize("bins", [2, 256])
@pytest.mark.parametrize("mean", [0.301, -1.2, 5.0])
@pytest.mark.parametrize("std", [1e-4, 0.1, 30.0])
def test_the_decoder_is_a_distribution_over_the_levels(bins, mean, std):
    x = jnp.linspace(-1, 1, bins)
    log_p = discretised_gaussian_log_prob(x, jnp.full(bins, mean), jnp.full(bins, np.log(std)), bins=bins)
    np.testing.assert_allclose(jnp.exp(log_p).sum(), 1, rtol=1e-5)
    assert np.isfinite(log_p).all()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("std", [0.005, 0.05, 0.5])
def test_the_decoder_is_equation_13(std):
    """Differences of the normal distribution function over bins of half-width 1/255, open at the edges."""
    mean = np.float64(0.2)
    upper = np.where(LEVELS > 0.999, np.inf, LEVELS + 1 / 255)
    lower = np.where(LEVELS < -0.999, -np.inf, LEVELS - 1 / 255)
    far = mean < LEVELS  # there the difference of survival functions keeps its digits
    p = np.where(
        far,
        norm.sf(lower, mean, std) - norm.sf(upper, mean, std),
        norm.cdf(upper, mean, std) - norm.cdf(lower, mean, std),
    )
    log_p = discretised_gaussian_log_prob(
        jnp.asarray(LEVELS), jnp.full(256, mean), jnp.full(256, np.log(std)), bins=256
    )
    near = p > 1e-300
    assert near.sum() > 40
    np.testing.assert_allclose(log_p[near], np.log(p[near]), rtol=1e-6)
    single = discretised_gaussian_log_prob(
        jnp.asarray(LEVELS, jnp.float32), jnp.full(256, mean, jnp.float32), jnp.full(256, np.log(std), jnp.float32)
    )
    np.testing.assert_allclose(single[near], np.log(p[near]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("std", [1e-4, 0.01, 0.3, 100.0])
def test_gradients_of_the_decoder_are_right_far_out(std):
    """In the tail log P falls as -(distance to the bin)^2 / (2 std^2): its slope is known. Finite everywhere."""

    def total(mean, log_std, x):
        return discretised_gaussian_log_prob(x, mean, log_std).sum()

    mean, log_std = jnp.full(256, 0.2), jnp.full(256, np.log(std))
    for x in (LEVELS, LEVELS[::-1]):
        slopes = jax.grad(total, (0, 1))(mean, log_std, jnp.asarray(x, jnp.float32))
        assert all(np.isfinite(s).all() for s in slopes)
    if std == 0.01:  # at x = -0.8, 100 standard deviations off: P(Z > z) ~ exp(-z^2/2) / z, so the slope is z + 1/z
        x = jnp.full((1,), LEVELS[25], jnp.float32)
        z = (0.2 - LEVELS[25] - 1 / 255) / std
        slope = jax.grad(total)(jnp.full((1,), 0.2), jnp.full((1,), np.log(std), jnp.float32), x)
        np.testing.assert_allclose(slope, -(z + 1 / z) / std, rtol=1e-3)


def test_bits_per_dim():
    """A uniform distribution over 256 levels needs 8 bits for each dimension."""
    nats = jnp.full((3,), 4 * 4 * 3 * np.log(256.0), jnp.float32)
    np.testing.assert_allclose(bits_per_dim(nats, (3, 4, 4, 3)), 8, rtol=1e-6)


def test_gaussian_log_prob():
    x, mean, std = rng.standard_normal((3, 5))
    actual = gaussian_log_prob(*(jnp.asarray(a, jnp.float32) for a in (x, mean, std)))
    np.testing.assert_allclose(actual, norm.logpdf(x, mean, np.exp(std)), rtol=1e-4)


# The whole bound of Gaussian data in closed form.

DATA = {"mean": 0.4, "std": 0.3}
CHAINS = {
    "table": (schedules.linear(12, beta_end=0.4), np.arange(13) / 12),
    "zero snr": (schedules.zero_terminal_snr(schedules.linear(6, beta_end=0.5)), np.arange(7) / 6),
    "vp": (schedules.VP(), np.array([0.0, 0.01, 0.1, 0.4, 1.0])),
    "flow": (schedules.Flow(), np.array([0.0, 0.02, 0.3, 0.6, 1.0])),
    "ve": (schedules.VE(0.05, 10.0), np.array([0.0, 0.2, 0.5, 0.8, 1.0])),
    "one step": (schedules.linear(1, beta_end=0.5), np.array([0.0, 1.0])),
}
V = {"fixed_small": None, "fixed_large": None, "learned": -2.5, "learned_range": 0.3}


def joint_of_reverse(schedule, times, variance):
    """Mean and covariance of (x_0, x_t1, ..., x_1) under p, from its own definition, and the terms' variances."""
    a, v = (np.array([float(f(t)) for t in times]) for f in (schedule.alpha, schedule.sigma))
    v = v**2
    n = len(times) - 1
    mean, cov = np.zeros(n + 1), np.zeros((n + 1, n + 1))
    cov[n, n] = v[n]
    c = DATA["std"] ** 2
    for i in range(n, 0, -1):  # from x_i to x_(i-1); index 0 is what stands for the data
        j = i - 1
        ratio = a[i] / a[j]
        large = v[i] - ratio**2 * v[j]
        small = v[j] * large / v[i]
        if small == 0:  # of a table the next step's, as improved DDPM does
            t, later = times[i], 2 * times[i] if isinstance(schedule, schedules.Discrete) else np.inf
            a1, v1, a2, v2 = (
                f(u) ** p for u in (t, min(later, 1)) for f, p in ((schedule.alpha, 1), (schedule.sigma, 2))
            )
            small = float(v1 * (v2 - (a2 / a1) ** 2 * v1) / v2) if later <= 1 else large
        var = {
            "fixed_small": small,
            "fixed_large": large,
            "learned": np.exp(V["learned"]),
            "learned_range": np.exp((1 + 0.3) / 2 * np.log(large) + (1 - 0.3) / 2 * np.log(small)),
        }[variance]
        gain = a[i] * c / (a[i] ** 2 * c + v[i])  # the exact denoiser: x0 = m + gain (x_t - alpha m)
        from_x, from_x0 = ratio * v[j] / v[i], a[j] * large / v[i]
        slope, shift = from_x + from_x0 * gain, from_x0 * DATA["mean"] * (1 - gain * a[i])
        mean[j] = slope * mean[i] + shift
        cov[j, i:] = cov[i:, j] = slope * cov[i, i:]
        cov[j, j] = slope**2 * cov[i, i] + var
    return mean, cov


def joint_of_forward(schedule, times):
    """Mean and covariance of (x_0, x_t1, ..., x_1) under q: data, then q(x_t | x_s) step by step."""
    a, v = (np.array([float(f(t)) for t in times]) for f in (schedule.alpha, schedule.sigma))
    v = v**2
    a[0], v[0] = 1, 0  # the data itself
    mean = a * DATA["mean"]
    var = a**2 * DATA["std"] ** 2 + v
    cov = np.diag(var)
    for i in range(len(times)):
        for j in range(i + 1, len(times)):
            cov[i, j] = cov[j, i] = a[j] / a[i] * var[i]
    return mean, cov


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("variance", V)
def test_all_terms_add_up_to_the_divergence_of_the_two_chains(chain, variance):
    """Mean bound = KL(q(x_0..x_1) || p(x_0..x_1)) + entropy of the data: two multivariate Gaussians, in numpy.

    The terms are quadratic in (x_0, eps), so three Gauss-Hermite nodes in each give their exact means.
    """
    schedule, times = CHAINS[chain]
    (mq, cq), (mp, cp) = joint_of_forward(schedule, times), joint_of_reverse(schedule, times, variance)
    inverse, d = np.linalg.inv(cp), mp - mq
    log_dets = np.linalg.slogdet(cp)[1] - np.linalg.slogdet(cq)[1]
    kl = 0.5 * (np.trace(inverse @ cq) - len(d) + d @ inverse @ d + log_dets)
    expected = (kl + norm.entropy(DATA["mean"], DATA["std"])) / np.log(2)

    nodes, w = np.polynomial.hermite_e.hermegauss(3)
    z, e = (a.reshape(-1, 1) for a in np.meshgrid(nodes, nodes))
    weights = np.outer(w, w).ravel() / (2 * np.pi)
    x0, eps = jnp.asarray(DATA["mean"] + DATA["std"] * z), jnp.asarray(e)
    exact = testing.gaussian_denoiser(**DATA, schedule=schedule)
    total = prior_term(x0, schedule=schedule)
    assert total.shape == (9,)
    for s, t in zip(times[:-1], times[1:], strict=True):
        x_t = q_sample(x0, t, eps, schedule=schedule)
        prediction = exact(x_t, jnp.asarray(t))
        if V[variance] is not None:
            prediction = prediction._replace(log_var=jnp.full_like(x_t, V[variance]))
        total += vlb_term(x0, x_t, s, t, prediction, schedule=schedule, variance=variance, bins=None)
    np.testing.assert_allclose(weights @ total, expected, rtol=1e-5)
    assert expected > norm.entropy(DATA["mean"], DATA["std"]) / np.log(2)  # it is a bound


@pytest.mark.usefixtures("x64")
def test_the_variance_of_the_first_step_is_the_next_ones():
    """Improved DDPM: log beta-tilde of step 0, which is log 0, is replaced by that of step 1."""
    table = schedules.linear(1000)
    betas = np.array(table.betas)
    bar = np.cumprod(1 - betas)
    small = betas[1:] * (1 - bar[:-1]) / (1 - bar[1:])
    k = np.array([0, 1, 2, 500, 999])
    expected = np.log(np.concatenate([small[:1], small])[k])
    actual = posterior_log_var(jnp.asarray(k / 1000), jnp.asarray((k + 1) / 1000), schedule=table)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("variance", V)
@pytest.mark.parametrize(
    ("dtype", "bins"), [(jnp.float32, 256), (jnp.bfloat16, 256), (jnp.float32, None)], ids=["float", "half", "density"]
)
def test_terms_and_gradients_are_finite_float32(chain, variance, dtype, bins):
    """At both ends, of a half-precision model too; times [B], a last step among them, are each example's own."""
    schedule, times = CHAINS[chain]
    steps = np.linspace(0, len(times) - 2, 4).astype(int)
    s, t = jnp.asarray(times[steps], jnp.float32), jnp.asarray(times[steps + 1], jnp.float32)
    x0 = jnp.asarray(LEVELS[rng.integers(0, 256, (4, 3))], jnp.float32)
    x_t = q_sample(x0, t, jnp.asarray(rng.standard_normal(x0.shape), jnp.float32), schedule=schedule)

    def terms(guess, v, s, t, x0=x0, x_t=x_t):
        prediction = Prediction(guess.astype(dtype), guess.astype(dtype), v.astype(dtype))
        return vlb_term(x0, x_t, s, t, prediction, schedule=schedule, variance=variance, bins=bins)

    # Not jitted: the single operations are compiled once for all of these cases.
    guess, v = x0 + 0.1, jnp.full_like(x0, -0.5)
    values = terms(guess, v, s, t)
    slopes = jax.grad(lambda *a: terms(*a).sum(), (0, 1, 2, 3))(guess, v, s, t)
    assert (values.shape, values.dtype) == ((4,), jnp.float32)
    assert np.isfinite(values).all()
    assert all(np.isfinite(slope).all() for slope in slopes)
    for i in (0, 3):
        alone = terms(guess[i : i + 1], v[i : i + 1], s[i], t[i], x0[i : i + 1], x_t[i : i + 1])
        np.testing.assert_allclose(alone[0], values[i], rtol=1e-4)


def test_the_prior_term_is_the_divergence_from_where_sampling_starts():
    schedule = schedules.VE(0.01, 3.0)
    x0 = rng.standard_normal((4, 5))
    expected = (x0**2).sum(1) / (2 * 9) / np.log(2) / 5
    np.testing.assert_allclose(prior_term(jnp.asarray(x0, jnp.float32), schedule=schedule), expected, rtol=1e-5)


def test_a_variance_that_is_not_there_is_refused():
    x = jnp.zeros((1, 2))
    with pytest.raises(InputError, match="needs a denoiser with log_var"):
        vlb_term(x, x, 0.1, 0.2, Prediction(x, x), schedule=schedules.VP(), variance="learned")
    with pytest.raises(InputError, match="unknown variance 'small'; expected one of fixed_small"):
        vlb_term(x, x, 0.1, 0.2, Prediction(x, x), schedule=schedules.VP(), variance="small")
