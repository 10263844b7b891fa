"""Solvers against the exact probability-flow ODE: measured order, exactness on points, finiteness at both ends."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampler_table import MAKE

from jaxdiff import prior, sample, samplers, schedules, testing, timesteps
from jaxdiff.samplers import draws_noise
from jaxdiff.typing import InputError

KEY = jax.random.key(3)
X = np.random.default_rng(0).standard_normal((2, 3))
# Another Gaussian in each coordinate: their errors do not cross zero together.
GAUSSIANS = {"mean": np.array([[0.7, -0.4, 0.2]]), "std": np.array([[0.2, 0.35, 0.6]])}

MORE = {
    "dpm_solver++, order 1": (partial(samplers.DPMSolverMultistep, order=1), 1),
    "unipc, order 1": (partial(samplers.UniPC, order=1), 2),  # the corrector adds one
    "unipc, bh1": (partial(samplers.UniPC, variant="bh1"), 3),
    "unipc, eps": (partial(samplers.UniPC, predict="eps"), 3),
    "lms, order 2": (partial(samplers.LMS, order=2), 2),
    "lms, order 3": (partial(samplers.LMS, order=3), 3),
    "euler_maruyama, eta 0": (partial(samplers.EulerMaruyama, eta=0.0), 1),
    "churn 0": (lambda schedule: samplers.Churn(samplers.Heun(schedule)), 2),
    "ancestral 0": (lambda schedule: samplers.Ancestral(samplers.DPM2(schedule), 0.0), 2),
    "multistep chain": (lambda schedule: samplers.Chain((samplers.DPMSolverMultistep(schedule),)), 2),
}
ORDERS = MORE | {
    name: (samplers.SAMPLERS[name], order)
    for name, order in {
        "ddim": 1,
        "euler": 1,
        "heun": 2,
        "dpm2": 2,
        "dpm_solver": 2,
        "dpm_solver_3": 3,
        "dpm_solver++": 2,
        "dpm_solver++_3": 3,
        "dpm_solver_single": 2,
        "dpm_solver_single_3": 3,
        "dpm_solver++_single": 2,
        "dpm_solver++_single_3": 3,
        "unipc": 3,
        "unipc_3": 3,
        "lms": 3,  # 4 with exact starting values; Adams-Bashforth starts at order 1
        "pndm": 2,  # its weights suppose equal steps of the clock, which only makes it second order
    }.items()
}
FROM_TO = {  # a schedule, and a stretch inside which the ODE is smooth in log-SNR
    "vp": (schedules.VP(), 1.0, 0.05),
    "ve": (schedules.VE(), 1.0, 0.1),
    "flow": (schedules.Flow(), 0.9999, 0.05),
}


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def grid(schedule, start, end, n):
    """Equal steps in log-SNR, in float64."""
    ends = schedules.log_snr(jnp.array([start, end], jnp.float64), schedule=schedule)
    inner = schedules.time_at_log_snr(jnp.linspace(*ends, n + 1)[1:-1], schedule=schedule)
    return jnp.concatenate([jnp.array([start]), inner, jnp.array([end])])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("path", FROM_TO)
@pytest.mark.parametrize("name", ORDERS)
def test_measured_order(name, path):
    """Order 1 within 0.15 and order 2 within 0.2; order 3 at least 2.7."""
    (make, order), (schedule, start, end) = ORDERS[name], FROM_TO[path]
    x = jnp.asarray(X * float(schedule.sigma(start)))
    exact = testing.gaussian_flow(x, jnp.float64(start), jnp.float64(end), **GAUSSIANS, schedule=schedule)
    denoise = testing.gaussian_denoiser(**GAUSSIANS, schedule=schedule)

    @jax.jit
    def error(times):
        made = sample(KEY, denoise, make(schedule), times, x)
        return jnp.sqrt(jnp.mean(jnp.square(made - exact)))

    ns = [120, 360]
    errors = [float(error(grid(schedule, start, end, n))) for n in ns]
    measured = testing.convergence_order(errors, ns)
    if order == 3:
        assert measured >= 2.7
    else:
        assert abs(measured - order) <= (0.15 if order == 1 else 0.2)
    assert errors[-1] < {1: 5e-3, 2: 1e-4, 3: 1e-5}[order]


def test_the_table_of_orders_is_complete():
    """Every deterministic row of `SAMPLERS` has its order tested; ODE's error is its tolerance (test_ode.py)."""
    deterministic = {n for n, make in MAKE.items() if n in samplers.SAMPLERS and not draws_noise(make(schedules.VP()))}
    assert deterministic - {"ode"} <= set(ORDERS)


ENDS = {
    "linear": schedules.linear(),
    "cosine": schedules.cosine(),
    "vp": schedules.VP(),
    "sub_vp": schedules.SubVP(),
    "ve": schedules.VE(),
    "edm": schedules.EDM(),
    "flow": schedules.Flow(),
    "zero terminal SNR": schedules.zero_terminal_snr(schedules.linear()),
    "cosine in log-SNR": schedules.CosineLogSNR(),
}


GRADIENTS = ("zero terminal SNR",)  # the one with both ends; of Flow: test_samplers.py
# and one that ends with noise, and the largest sigma; of the cosine: test_samplers.py
HALF_PRECISION = (*GRADIENTS, "ve", "edm")
# Not those that are others with another number.
SAMPLERS_OF_THEIR_OWN = [
    name for name in MAKE if name not in ("euler", "euler_ancestral", "unipc, order 1", "lms, order 2")
]


@pytest.mark.slow
@pytest.mark.parametrize("path", ENDS)
@pytest.mark.parametrize("name", SAMPLERS_OF_THEIR_OWN)
def test_the_whole_grid_from_noise_to_data(name, path):
    """In float32, from t = 1 to 0: point data is hit exactly (on schedules that reach sigma = 0), and Gaussian data gives
    finite samples, at the hardest ends also in bfloat16, and with both ends finite gradients in x and in every time."""
    schedule = ENDS[path]
    sampler, times = MAKE[name](schedule), jnp.asarray(timesteps.uniform(10), jnp.float32)
    x = prior(KEY, (2, 3), schedule=schedule)

    def total(x, times, std):
        denoise = testing.gaussian_denoiser(mean=0.25, std=std, schedule=schedule)
        y = sample(KEY, denoise, sampler, times, x)
        return jnp.sum(jnp.square(y)), y

    program = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True) if path in GRADIENTS else total)
    found = program(x, times, 0.5)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(found))
    point = jax.tree.leaves(program(x, times, 0.0))[1]
    assert point.shape == x.shape
    assert bool(jnp.isfinite(point).all())
    if float(schedule.sigma(0.0)) == 0:
        np.testing.assert_allclose(point, 0.25, rtol=1e-6)
    if path in HALF_PRECISION:
        value, y = jax.jit(total)(x.astype(jnp.bfloat16), times, 0.5)
        assert y.dtype == jnp.bfloat16
        assert bool(jnp.isfinite(value))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("path", ["linear", "cosine", "vp", "ve", "edm", "flow", "zero terminal SNR"])
def test_inversion_then_generation_returns_the_input(path):
    """The error falls with order 1 in the number of steps (at 1,000 it is 9e-4 on flow, up to 2.3e-3 on others); with one
    correction with order 2, and far below 1e-3 at 1,000."""
    schedule = ENDS[path]
    mixture = {"means": np.array([[-1.0, 0.5], [0.8, -0.6]]), "std": 0.2, "weights": np.array([0.4, 0.6])}
    denoise = testing.mixture_denoiser(**mixture, schedule=schedule)
    x = testing.mixture_samples(KEY, 20, **mixture).astype(jnp.float64)

    @partial(jax.jit, static_argnums=1)
    def round_trip(times, corrections):
        latent = samplers.invert(denoise, times, x, schedule=schedule, corrections=corrections)
        back = sample(KEY, denoise, samplers.DDIM(schedule), times, latent)
        return jnp.sqrt(jnp.mean(jnp.square(back - x))), latent / schedule.sigma(times[0])

    ns = [250, 1000]
    grids = {n: timesteps.log_snr_uniform(n, schedule=schedule) if path == "edm" else timesteps.uniform(n) for n in ns}
    plain, corrected = ([round_trip(jnp.asarray(grids[n]), c) for n in ns] for c in (0, 1))
    errors = [float(error) for error, _ in plain]
    assert abs(testing.convergence_order(errors, ns) - 1) < 0.15
    assert errors[-1] <= (1e-3 if path == "flow" else 2.5e-3)
    errors = [float(error) for error, _ in corrected]
    assert abs(testing.convergence_order(errors, ns) - 2) < 0.2
    assert errors[-1] <= 1e-4
    if path == "vp":  # two: order 3, where alpha stays above 0
        errors = [float(round_trip(jnp.asarray(grids[n]), 2)[0]) for n in ns]
        assert testing.convergence_order(errors, ns) >= 2.7
    for _, latent in (plain[-1], corrected[-1]):  # it looks like noise
        assert abs(float(latent.mean())) < 5 / np.sqrt(latent.size)
        assert abs(float(latent.std()) - 1) < 5 / np.sqrt(2 * latent.size)


@pytest.mark.usefixtures("x64")
def test_inversion_of_a_gaussian_is_the_exact_map():
    """The latent tends to the solution of the ODE from the data to the noise."""
    schedule, x = schedules.Flow(), jnp.asarray(X)
    denoise = testing.gaussian_denoiser(**GAUSSIANS, schedule=schedule)
    exact = testing.gaussian_flow(x, jnp.float64(0.0), jnp.float64(0.9), **GAUSSIANS, schedule=schedule)
    latent = samplers.invert(denoise, timesteps.uniform(2000, start=0.9), x, schedule=schedule)
    np.testing.assert_allclose(latent, exact, atol=5e-3)


@pytest.mark.parametrize("path", ["vp", "cosine", "flow"])
def test_inversion_of_half_precision_keeps_float32_between_the_steps(path):
    schedule, times = ENDS[path], timesteps.uniform(200)
    denoise = testing.gaussian_denoiser(mean=0.25, std=0.5, schedule=schedule)
    x = jnp.asarray(X, jnp.bfloat16)
    low = samplers.invert(denoise, times, x, schedule=schedule)
    assert low.dtype == jnp.bfloat16
    full = samplers.invert(denoise, times, x.astype(jnp.float32), schedule=schedule)
    np.testing.assert_allclose(low.astype(jnp.float32), full, rtol=2**-8)


@pytest.mark.parametrize("corrections", [-1, 0.5, True])
def test_corrections_of_inversion_are_whole_numbers(corrections):
    denoise = testing.gaussian_denoiser(mean=0.0, std=0.5, schedule=schedules.Flow())
    with pytest.raises(InputError, match="corrections"):
        samplers.invert(
            denoise, timesteps.uniform(2), jnp.zeros((1, 1)), schedule=schedules.Flow(), corrections=corrections
        )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("schedule", [schedules.VP(), schedules.EDM()], ids=["vp", "edm"])
def test_what_churn_and_ancestral_are_made_of(schedule):
    """Of the exact point denoiser one step's mean and variance are known: x_s = alpha_s m + sigma_s N(0, 1)."""
    times = jnp.array([0.6, 0.4])
    denoise = testing.gaussian_denoiser(mean=0.5, std=0.0, schedule=schedule)
    eps = jax.random.normal(KEY, (200, 500))
    x = schedule.alpha(times[0]) * 0.5 + schedule.sigma(times[0]) * eps
    for make in (
        lambda s: samplers.Churn(samplers.Heun(s), 0.3),
        lambda s: samplers.Ancestral(samplers.DPM2(s), 0.8),
        lambda s: samplers.DPMSolverMultistep(s, eta=1.0),
        lambda s: samplers.DPMSolverMultistep(s, eta=0.3),
    ):
        y = sample(jax.random.key(9), denoise, make(schedule), times, x)
        alpha, sigma = float(schedule.alpha(times[1])), float(schedule.sigma(times[1]))
        assert abs(float(y.mean()) - alpha * 0.5) < 5 * sigma / np.sqrt(y.size)
        assert abs(float(y.std()) - sigma) < 5 * sigma / np.sqrt(2 * y.size)
        assert float(jnp.corrcoef(x.ravel(), y.ravel())[0, 1]) < 0.999  # and some of the noise is new


WEAK_ORDERS = {
    "ddpm": 1,
    "euler_ancestral": 1,
    "euler_maruyama": 1,
    "dpm_solver++_sde": 2,
    "dpm2_ancestral": 2,
    "edm": 2,
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("path", FROM_TO)
@pytest.mark.parametrize("name", WEAK_ORDERS)
def test_weak_order(name, path):
    """Of Gaussian data the variance of what a stochastic sampler makes is known without drawing: x is linear in the start
    and in the noises, so a batch in which each example has one of them, and no other, has all coefficients."""
    (schedule, start, end), std = FROM_TO[path], 0.25  # of wide data, Euler-Maruyama's error on VE crosses zero
    denoise = testing.gaussian_denoiser(mean=0.0, std=std, schedule=schedule)

    def variance(t):
        return jnp.square(schedule.alpha(t) * std) + jnp.square(schedule.sigma(t))

    def error(n):
        make = partial(samplers.EDM, steps=n, S_churn=5.0, S_noise=1.0) if name == "edm" else samplers.SAMPLERS[name]
        sampler, times = make(schedule), grid(schedule, start, end, n)

        def body(state, i):
            one = jax.nn.one_hot(i, n + 1, dtype=jnp.float64)[:, None]
            sampler_i = dataclasses.replace(sampler, noise=lambda key, shape: one)
            return sampler_i.step(KEY, state, times[i], times[i + 1], denoise), None

        x = jnp.zeros((n + 1, 1)).at[n].set(jnp.sqrt(variance(times[0])))
        state, _ = jax.jit(lambda x: jax.lax.scan(body, sampler.init(x), jnp.arange(n)))(x)
        return abs(float(jnp.sum(jnp.square(state.x)) - variance(times[-1])))

    ns = [400, 1200]
    errors = [error(n) for n in ns]
    assert abs(testing.convergence_order(errors, ns) - WEAK_ORDERS[name]) < 0.2
