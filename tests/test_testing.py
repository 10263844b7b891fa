"""The exact solutions against integrals, derivatives and other solvers; the statistics against closed forms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad, solve_ivp
from scipy.stats import chisquare, kstest, norm

from jaxdiff import InputError, schedules, testing
from jaxdiff.build import SCHEDULES
from jaxdiff.denoise import denoiser
from jaxdiff.parameterization import KINDS

KEY = jax.random.key(3)
FOUR = {"vp": schedules.VP(), "ve": schedules.VE(), "flow": schedules.Flow(), "cosine": schedules.cosine(100)}
EACH = pytest.mark.parametrize("name", FOUR)
MEANS, WEIGHTS = np.array([[-1.0], [0.2], [0.9]]), np.array([1.0, 3.0, 2.0])
MIXTURE = {"means": MEANS, "std": 0.25, "weights": WEIGHTS}


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("std", [0.0, 0.3])
def test_finite_at_both_ends_in_values_and_gradients(name, std):
    schedule, ends = SCHEDULES[name](), jnp.array([0.0, 1.0])

    def exact(x, mean, std, t):
        means = mean + jnp.asarray(MEANS, mean.dtype)
        one = testing.gaussian_denoiser(mean=mean, std=std, schedule=schedule)(x, t)
        several = testing.mixture_denoiser(means=means, std=std, weights=WEIGHTS, schedule=schedule)(x, t)
        log_p = testing.gaussian_log_density(x, t, mean=mean, std=std, schedule=schedule)
        log_m = testing.mixture_log_density(x, t, means=means, std=std, weights=WEIGHTS, schedule=schedule)
        there = testing.gaussian_flow(x, t, 1 - t, mean=mean, std=std, schedule=schedule)
        return (one.x0, one.eps, several.x0, several.eps, there), (log_p, log_m)

    for dtype in (jnp.float32, jnp.bfloat16, jnp.float64):
        with jax.enable_x64(dtype == jnp.float64):
            x, t = jnp.array([[0.7], [-0.3]], dtype), ends.astype(jnp.float32)
            wide = jnp.float64 if dtype == jnp.float64 else jnp.float32
            arguments = x, jnp.asarray(0.5, wide), jnp.asarray(std, wide)
            fields, densities = exact(*arguments, t)
            assert {a.dtype for a in fields} == {x.dtype}
            assert {a.dtype for a in densities} == {jnp.dtype(wide)}

            def total(*arguments, t=t):
                return sum(jnp.sum(a.astype(jnp.float32)) for a in jax.tree.leaves(exact(*arguments, t)))

            slopes = jax.grad(total, argnums=(0, 1, 2))(*arguments)
            for a in jax.tree.leaves((fields, densities, slopes)):
                assert bool(jnp.isfinite(a).all())


def test_limits_at_the_data():
    """At sigma = 0 the best prediction of x_0 is x_0 itself, the nearest point of data at points; eps is unknown."""
    x, t, schedule = jnp.array([[0.4], [-0.7]]), jnp.float32(0.0), schedules.Flow()
    for std, expected in ((0.25, x), (0.0, jnp.array([[0.2], [-1.0]]))):
        p = testing.mixture_denoiser(means=MEANS, std=std, weights=WEIGHTS, schedule=schedule)(x, t)
        np.testing.assert_allclose(p.x0, expected, rtol=1e-6)
        np.testing.assert_array_equal(p.eps, 0)


@pytest.mark.usefixtures("x64")
@EACH
@pytest.mark.parametrize("t", [0.001, 0.4, 1.0])
def test_log_densities_integrate_to_one(name, t):
    schedule = FOUR[name]
    width = 8 * float(jnp.hypot(schedule.alpha(t), schedule.sigma(t)))

    def total(log_density):
        p = lambda x: np.exp(float(log_density(jnp.full((1, 1), x), jnp.asarray(t))[0]))
        return quad(p, -width, width, points=[-1.0, 0.2, 0.9], limit=200, epsabs=1e-7)[0]

    one = partial(testing.gaussian_log_density, mean=0.2, std=0.25, schedule=schedule)
    several = partial(testing.mixture_log_density, **MIXTURE, schedule=schedule)
    for log_density in (one, several):
        assert abs(total(jax.jit(log_density)) - 1) < 1e-5


@pytest.mark.usefixtures("x64")
@EACH
def test_the_score_is_the_gradient_of_the_log_density(name):
    """grad log p_t(x) = -E[eps | x_t] / sigma, and Tweedie's E[x_0 | x_t] = (x + sigma^2 grad log p_t) / alpha."""
    schedule, t = FOUR[name], jnp.array([0.05, 0.3, 0.6, 0.9])
    x = jax.random.normal(KEY, (4, 3, 2))
    means = jax.random.normal(jax.random.key(1), (5, 3, 2))
    data = {"means": means, "std": 0.3, "weights": jnp.arange(1.0, 6.0), "schedule": schedule}
    score = jax.grad(lambda x: testing.mixture_log_density(x, t, **data).sum())(x)
    p = testing.mixture_denoiser(**data)(x, t)
    alpha, sigma = (c.reshape(4, 1, 1) for c in (schedule.alpha(t), schedule.sigma(t)))
    np.testing.assert_allclose(p.eps, -sigma * score, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(p.x0, (x + sigma**2 * score) / alpha, rtol=1e-6, atol=1e-8)

    # One component of the mixture is the Gaussian.
    one = testing.mixture_log_density(x, t, **(data | {"means": means[:1], "weights": jnp.ones(1)}))
    np.testing.assert_allclose(
        one, testing.gaussian_log_density(x, t, mean=means[:1], std=0.3, schedule=schedule), rtol=1e-10
    )


@pytest.mark.usefixtures("x64")
@EACH
@pytest.mark.parametrize(("t", "s"), [(1.0, 0.02), (0.02, 0.9)])
def test_the_gaussian_flow_solves_the_ode(name, t, s):
    """scipy's RK45 on dx/dt = alpha' x0 + sigma' eps with the posterior means written here; and back again."""
    schedule, m, c, x = FOUR[name], 0.4, 0.3, np.array([-1.0, 0.1, 2.0])
    both = jax.jit(lambda t: jax.jvp(lambda t: (schedule.alpha(t), schedule.sigma(t)), (t,), (jnp.ones_like(t),)))

    def velocity(t, x):
        (alpha, sigma), (d_alpha, d_sigma) = (np.asarray(a) for a in both(jnp.asarray(t)))
        residual = (x - alpha * m) / (alpha**2 * c**2 + sigma**2)
        return d_alpha * (m + alpha * c**2 * residual) + d_sigma * sigma * residual

    expected = solve_ivp(velocity, (t, s), x, rtol=1e-8, atol=1e-10, max_step=0.05).y[:, -1]
    flow = partial(testing.gaussian_flow, mean=m, std=c, schedule=schedule)
    there = flow(jnp.asarray(x)[:, None], jnp.asarray(t), jnp.asarray(s))
    np.testing.assert_allclose(there[:, 0], expected, rtol=1e-4, atol=1e-6)  # the table has kinks
    np.testing.assert_allclose(flow(there, jnp.asarray(s), jnp.asarray(t))[:, 0], x, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@EACH
def test_a_chain_from_the_exact_model_is_the_exact_denoiser(name, kind):
    schedule, x = FOUR[name], jax.random.normal(KEY, (3, 2))
    exact = testing.mixture_denoiser(
        means=jnp.array([[0.0, 1.0], [1.0, -1.0]]), std=0.2, weights=jnp.ones(2), schedule=schedule
    )
    model = testing.exact_model(exact, kind=kind, schedule=schedule)
    t = jnp.array([0.2, 0.5, 0.8])
    np.testing.assert_allclose(
        jnp.stack(denoiser(model, schedule=schedule, kind=kind)(x, t)[:2]),
        jnp.stack(exact(x, t)[:2]),
        rtol=1e-3,
        atol=1e-3,
    )
    for end in (0.0, 1.0):
        for dtype in (jnp.float32, jnp.bfloat16):
            y = model(x.astype(dtype), jnp.float32(end))
            assert y.dtype == dtype
            assert bool(jnp.isfinite(y).all())


def test_samples_have_the_distribution_of_the_mixture():
    n, p = 4000, WEIGHTS / WEIGHTS.sum()
    x = np.asarray(testing.mixture_samples(KEY, n, **MIXTURE))
    cdf = lambda x: (p * norm.cdf(np.asarray(x)[..., None], MEANS[:, 0], 0.25)).sum(-1)
    assert kstest(x[:, 0], cdf).pvalue > 0.01
    points = np.asarray(testing.mixture_samples(KEY, n, means=MEANS, std=0.0, weights=WEIGHTS))
    counts = [(points == np.float32(m)).sum() for m in MEANS[:, 0]]
    assert chisquare(counts, n * p).pvalue > 0.01
    # A sample belongs to its key.
    np.testing.assert_array_equal(testing.mixture_samples(KEY, 7, **MIXTURE), x[:7])


def test_convergence_order():
    n = np.array([10, 20, 40, 80])
    assert abs(testing.convergence_order(0.3 * n**-1.5, n) - 1.5) < 1e-9
    for errors in ([1.0], [1.0, 0.0, 0.1, 0.1], [1.0, np.nan, 0.1, 0.1]):
        with pytest.raises(InputError, match="expected"):
            testing.convergence_order(errors, n)


def test_sliced_wasserstein_of_gaussians_is_the_closed_form():
    """W_2^2 of N(0, 1) and N(m, c^2) in one dimension is m^2 + (1 - c)^2, here on exact quantiles as samples."""
    q = jnp.asarray(norm.ppf((np.arange(20_000) + 0.5) / 20_000), jnp.float32)[:, None]
    for m, c in ((0.0, 2.0), (1.5, 1.0), (-0.7, 0.4)):
        y = jax.random.permutation(KEY, m + c * q)
        np.testing.assert_allclose(testing.sliced_wasserstein(KEY, q, y), np.hypot(m, 1 - c), rtol=2e-3)
    # In d dimensions a shift by m is seen on each line as (m u): on the average |m|^2 / d.
    x = jax.random.normal(KEY, (500, 2, 3))
    d = testing.sliced_wasserstein(jax.random.key(1), x, x + 0.5, projections=20_000)
    np.testing.assert_allclose(d, 0.5, rtol=0.02)
    with pytest.raises(InputError, match="samples of one shape"):
        testing.sliced_wasserstein(KEY, x, x[:3])


def test_exact_against_exact_exceeds_a_quantile_as_often_as_it_says():
    """Of 1,000 fresh pairs 10 exceed the 99 % quantile and 100 the 90 %; a shift of a tenth always does."""
    means = np.array([[-1.0, 0.0], [1.0, 0.5]])
    draw = partial(testing.mixture_samples, means=means, std=0.3, weights=np.ones(2))
    null = jax.jit(
        lambda key: testing.sliced_wasserstein_null(key, lambda k, n: draw(k, n), n=200, repeats=1000, projections=16)
    )
    old, new = null(jax.random.key(0)), null(jax.random.key(1))
    for level, low, high in ((0.99, 2, 25), (0.9, 60, 140)):  # five standard errors, of the quantile's error too
        assert low <= int((new > jnp.quantile(old, level)).sum()) <= high
    x, y = draw(KEY, 4000), draw(jax.random.key(5), 4000)
    assert testing.sliced_wasserstein(KEY, x, y + 0.1) > jnp.quantile(old, 0.99) * np.sqrt(200 / 4000)
