"""The adaptive ODE against the exact maps of Gaussians and of one-dimensional mixtures, and its own promises."""

import dataclasses
import inspect
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from jaxdiff import InputError, Prediction, Sampler, sample, schedules, testing
from jaxdiff.ode import solve, time_at_clock
from jaxdiff.samplers.ode import ODE

FOUR = {"vp": schedules.VP(), "ve": schedules.VE(), "flow": schedules.Flow(), "linear": schedules.linear()}
EACH = pytest.mark.parametrize("name", FOUR)
GAUSSIAN = {"mean": 0.7, "std": 0.3}
KEY = jax.random.key(2)
VP = FOUR["vp"]


def noise(shape=(5, 3, 2), schedule=VP):
    return schedule.sigma(jnp.float32(1.0)) * jax.random.normal(KEY, shape, jnp.float32)


def gaussian(schedule, **data):
    return testing.gaussian_denoiser(**(GAUSSIAN | data), schedule=schedule)


def exact(x, t, s, schedule, **data):
    return testing.gaussian_flow(x, jnp.asarray(t), jnp.asarray(s), **(GAUSSIAN | data), schedule=schedule)


def counted(denoise, seen):
    """The denoiser, which notes at which times it runs."""

    def noting(x, t):
        jax.debug.callback(lambda t: seen.append(float(np.min(t))), t)
        return denoise(x, t)

    return noting


def solver(schedule, denoise, **options):
    """One program for any x, times and tolerance."""
    return jax.jit(lambda x, t, s, tol: solve(x, t, s, denoise, schedule=schedule, rtol=tol, atol=tol, **options))


@EACH
def test_the_map_of_gaussians_is_exact(name):
    """In float64 to 1e-5 of the size of x, both ways; Discrete, whose coefficients have kinks, too."""
    with jax.enable_x64(True):
        schedule = FOUR[name]
        program = solver(schedule, gaussian(schedule), end=1e-7)
        for t, s in ((1.0, 0.0), (0.8, 0.1), (0.05, 0.95), (0.0, 1.0)):
            x = exact(noise(schedule=schedule).astype(jnp.float64), 1.0, t, schedule)
            found, expected = program(x, t, s, 1e-8).x, exact(x, t, s, schedule)
            assert found.dtype == jnp.float64
            assert float(jnp.abs(found - expected).max()) < 1e-5 * max(1, float(jnp.abs(expected).max()))


@EACH
def test_float32_and_the_defaults(name):
    schedule, x = FOUR[name], noise(schedule=FOUR[name])
    program = solver(schedule, gaussian(schedule))
    down = program(x, 1.0, 0.0, 1e-5).x
    np.testing.assert_allclose(down, exact(x, 1.0, 0.0, schedule), atol=5e-4)
    np.testing.assert_allclose(program(down, 0.0, 1.0, 1e-5).x, x, rtol=5e-3, atol=5e-3)


@EACH
def test_the_map_of_a_mixture_keeps_quantiles(name):
    """In one dimension the flow keeps the order, so P(x_s) = P(x_t): the quantile function written here, by scipy."""
    schedule, means, std, p = FOUR[name], np.array([-1.0, 0.2, 0.9]), 0.15, np.array([0.2, 0.5, 0.3])

    def quantile(level, t):
        alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
        cdf = lambda x: p @ norm.cdf(x, alpha * means, np.hypot(alpha * std, sigma)) - level
        return brentq(cdf, -400, 400, xtol=1e-12)

    with jax.enable_x64(True):
        denoise = testing.mixture_denoiser(means=means[:, None], std=std, weights=p, schedule=schedule)
        program = solver(schedule, denoise)
        for t, s in ((1.0, 1e-4), (0.2, 0.7)):
            x, expected = ([quantile(level, u) for level in (0.05, 0.3, 0.5, 0.8, 0.99)] for u in (t, s))
            np.testing.assert_allclose(program(jnp.array(x)[:, None], t, s, 1e-8).x[:, 0], expected, atol=1e-5)


@EACH
def test_data_at_a_point_is_hit_exactly_at_any_tolerance(name):
    """The slope dz/dtau is constant there; float64, as rounding grows by 1 / tau towards the data."""
    with jax.enable_x64(True):
        schedule = FOUR[name]
        x = noise(schedule=schedule).astype(jnp.float64)
        found = solve(x, 1.0, 0.0, gaussian(schedule, std=0.0), schedule=schedule, rtol=0.1, atol=0.1).x
        np.testing.assert_allclose(found, exact(x, 1.0, 0.0, schedule, std=0.0), rtol=1e-9)


def test_the_error_follows_the_tolerance():
    tolerances = (1e-3, 1e-5, 1e-7, 1e-9)
    with jax.enable_x64(True):
        x, program = noise().astype(jnp.float64), solver(VP, gaussian(VP))
        found = [program(x, 1.0, 0.01, tol) for tol in tolerances]
        errors = [float(jnp.abs(f.x - exact(x, 1.0, 0.01, VP)).max()) for f in found]
    assert all(e < 30 * tol for e, tol in zip(errors, tolerances))
    assert errors == sorted(errors, reverse=True)
    assert [int(f.nfe) for f in found] == sorted(int(f.nfe) for f in found)


def test_every_example_meets_the_tolerance_in_any_batch():
    """One hard example among 500 that do not move: a mean over the batch would forgive 500 times its squared error."""
    easy, hard = jnp.zeros((500, 4)), jnp.full((1, 4), 2.0)

    def denoise(x, t):  # x0 as of Gaussian data of standard deviation 0.05 for the hard one; the easy ones stay at 0
        return gaussian(VP, mean=0.0, std=0.05)(x, t)

    run = lambda x: solve(x, 1.0, 0.0, denoise, schedule=VP, rtol=1e-4, atol=1e-4)
    alone, among = run(hard), run(jnp.concatenate([easy, hard]))
    np.testing.assert_allclose(among.x[-1:], alone.x, rtol=1e-3)
    assert int(among.nfe) == int(alone.nfe)


def test_times_may_differ_by_example():
    t, s = jnp.array([1.0, 0.5, 0.1]), jnp.array([0.0, 0.2, 0.9])
    x = noise((3, 4))
    found = solve(x, t, s, gaussian(VP), schedule=VP, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.x, exact(x, t, s, VP), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", ["Tsit5", "Dopri5"])
def test_nfe_is_the_number_of_calls_and_none_is_before_the_end(name):
    seen = []
    program = solver(VP, counted(gaussian(VP, std=0.05), seen), end=1e-3, solver=name)
    for t, s in ((1.0, 0.0), (0.0, 1.0), (0.9, 0.1)):
        seen.clear()
        found = program(noise(), t, s, 1e-4)
        jax.effects_barrier()
        assert int(found.nfe) == len(seen)
        assert min(seen) > 1e-3 * (1 - 1e-5)


def test_gradients_are_those_of_the_exact_map():
    """In x, in the times, and in a parameter that the denoiser closes over."""
    with jax.enable_x64(True):
        x = noise((2, 3)).astype(jnp.float64)

        def ours(x, t, s, mean):
            return solve(x, t, s, gaussian(VP, mean=mean), schedule=VP, rtol=1e-8, atol=1e-8, max_steps=64).x.mean()

        def theirs(x, t, s, mean):
            return exact(x, t, s, VP, mean=mean).mean()

        slope = jax.jit(jax.grad(ours, argnums=(0, 1, 2, 3)))
        for t, s in ((0.9, 0.2), (0.3, 0.8)):
            arguments = (x, jnp.asarray(t), jnp.asarray(s), jnp.asarray(0.7))
            expected = jax.grad(theirs, argnums=(0, 1, 2, 3))(*arguments)
            chex.assert_trees_all_close(slope(*arguments), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["vp", "flow"])
def test_gradients_over_the_whole_interval_are_finite(name):
    """On data at a point too, where the estimate of the error is 0."""
    schedule = FOUR[name]

    def total(x, t, s, std):
        return solve(x, t, s, gaussian(schedule, std=std), schedule=schedule, max_steps=64).x.sum()

    slope = jax.jit(jax.grad(total, argnums=(0, 1, 2)))
    for std in (0.3, 0.0):
        slopes = slope(noise((2, 3)), 1.0, 0.0, std)
        assert bool(jnp.isfinite(slopes[0]).all())
        assert np.isfinite(slopes[1])
        assert np.isfinite(slopes[2])


def test_numbers_do_not_recompile_and_vmap_works():
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def program(sampler, x, times, mean):
        return sample(KEY, gaussian(VP, mean=mean), sampler, times, x)

    x = noise((2, 3))
    for tol in (1e-3, 1e-4):
        program(ODE(VP, rtol=tol, atol=tol, end=tol), x, jnp.array([1.0, tol]), jnp.float32(tol))
    means = jnp.array([0.1, 0.5])
    many = jax.vmap(lambda m: solve(x, 1.0, 0.1, gaussian(VP, mean=m), schedule=VP).x)(means)
    np.testing.assert_allclose(many, jnp.stack([exact(x, 1.0, 0.1, VP, mean=m) for m in means]), atol=5e-4)


def test_the_sampler():
    """The protocol of `Sampler`; on any grid the same map; the noise's key and temperature do nothing."""
    sampler = ODE(VP, rtol=1e-6, atol=1e-6)
    assert isinstance(sampler, Sampler)
    ours, theirs = (inspect.signature(c.step).parameters for c in (ODE, Sampler))
    assert [(p.name, p.kind, p.default) for p in ours.values()] == [
        (p.name, p.kind, p.default) for p in theirs.values()
    ]
    assert len(jax.tree.leaves(sampler)) == 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        sampler.rtol = 1.0

    x = noise()
    grids = [[1.0, 0.0], [1.0, 0.6, 0.3, 0.0]]
    one, two = (sample(KEY, gaussian(VP), sampler, np.array(grid), x) for grid in grids)
    np.testing.assert_allclose(one, exact(x, 1.0, 0.0, VP), atol=2e-4)
    np.testing.assert_allclose(two, one, atol=1e-4)
    hot = sample(jax.random.key(9), gaussian(VP), sampler, np.array(grids[0]), x, temperature=3.0)
    np.testing.assert_array_equal(hot, one)


def test_half_precision_in_and_out():
    """x is float32 within, so that a bfloat16 x meets the tolerance; a bfloat16 network allows only its own."""
    x = noise().astype(jnp.bfloat16)
    found = solve(x, 1.0, 0.0, gaussian(VP), schedule=VP).x
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), exact(x.astype(jnp.float32), 1.0, 0.0, VP), atol=2**-8)

    def half(x, t):
        return Prediction(*gaussian(VP)(x.astype(jnp.bfloat16), t)[:2])

    found = solve(x, 1.0, 0.0, half, schedule=VP, rtol=1e-2, atol=1e-2).x
    np.testing.assert_allclose(found.astype(jnp.float32), exact(x.astype(jnp.float32), 1.0, 0.0, VP), atol=0.05)


@EACH
def test_the_clock_is_inverted(name):
    schedule = FOUR[name]
    with jax.enable_x64(True):
        t = jnp.linspace(0.001, 1.0, 50)
        tau = schedule.sigma(t) / (schedule.alpha(t) + schedule.sigma(t))
        np.testing.assert_allclose(time_at_clock(tau, schedule=schedule), t, rtol=1e-6)


def test_failure_is_loud():
    for denoise, steps in ((gaussian(VP, std=0.01), 5), (lambda x, t: Prediction(x, x * jnp.nan), 50)):
        with pytest.raises(RuntimeError, match=f"the ODE was not solved in {steps} steps: raise max_steps"):
            solve(noise(), 1.0, 0.0, denoise, schedule=VP, max_steps=steps)


def test_misuse_is_refused(monkeypatch):
    run = lambda **options: solve(noise(), 1.0, 0.0, gaussian(VP), schedule=VP, **options)
    for name in ("rtol", "atol", "end"):
        with pytest.raises(InputError, match=f"{name}: expected a number > 0, got 0"):
            run(**{name: 0})
    with pytest.raises(InputError, match="unknown solver 'Euler'; expected one of Tsit5, Dopri5"):
        run(solver="Euler")
    monkeypatch.setitem(sys.modules, "diffrax", None)
    with pytest.raises(InputError, match=r"pip install 'jaxdiff\[ode\]'"):
        run()
