"""Samplers against the papers' steps in numpy, exact solutions, and the contracts that all of them keep."""

import dataclasses
import inspect
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import DDIM, DDPM, InputError, Prediction, Sampler, prior, sample, schedules, testing, timesteps
from jaxdiff.noise import white_noise
from jaxdiff.samplers import SAMPLERS, State

rng = np.random.default_rng(0)
X, EPS, LOG_VAR = rng.standard_normal((3, 5, 4))
KEY = jax.random.key(7)
GAUSSIAN = {"mean": 0.7, "std": 0.3}


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def fixed_denoiser(alpha_bar, log_var=None):
    """A denoiser that predicts EPS; its x0 follows from alpha_bar."""
    x0 = (X - np.sqrt(1 - alpha_bar) * EPS) / np.sqrt(alpha_bar)
    prediction = Prediction(jnp.asarray(x0), jnp.asarray(EPS), None if log_var is None else jnp.asarray(log_var))
    return lambda x, t: prediction


def one_step(sampler, k, j, denoise, temperature=1.0):
    """From step k of a table of 1000 to step j < k (-1: the data)."""
    t, s = jnp.asarray((k + 1) / 1000), jnp.asarray((j + 1) / 1000)
    return sampler.step(KEY, sampler.init(jnp.asarray(X)), t, s, denoise, temperature=temperature).x


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("table", [schedules.linear(), schedules.cosine()], ids=["linear", "cosine"])
@pytest.mark.parametrize("k", [1, 400, 998])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_ddpm_step_is_algorithm_2(table, k, variance, temperature):
    """x = (x_t - beta / sqrt(1 - alpha_bar) eps) / sqrt(alpha) + sigma z, with sigma^2 beta or beta-tilde."""
    betas = np.array(table.betas)
    bar = np.cumprod(1 - betas)
    std = {"fixed_large": betas[k], "fixed_small": betas[k] * (1 - bar[k - 1]) / (1 - bar[k])}[variance] ** 0.5
    z = np.asarray(white_noise(KEY, X.shape))
    expected = (X - betas[k] / np.sqrt(1 - bar[k]) * EPS) / np.sqrt(1 - betas[k]) + temperature * std * z
    actual = one_step(DDPM(table, variance), k, k - 1, fixed_denoiser(bar[k]), temperature)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("k", "j"), [(999, 979), (500, 499), (20, 0)])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_step_is_equation_12(k, j, eta):
    table = schedules.linear()
    bar = np.cumprod(1 - np.array(table.betas))
    std = eta * np.sqrt((1 - bar[j]) / (1 - bar[k])) * np.sqrt(1 - bar[k] / bar[j])
    x0 = (X - np.sqrt(1 - bar[k]) * EPS) / np.sqrt(bar[k])
    z = np.asarray(white_noise(KEY, X.shape))
    expected = np.sqrt(bar[j]) * x0 + np.sqrt(1 - bar[j] - std**2) * EPS + 0.7 * std * z
    actual = one_step(DDIM(table, eta=eta), k, j, fixed_denoiser(bar[k]), temperature=0.7)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("k", "j"), [(999, 899), (300, 299), (3, -1)])
def test_ddim_with_eta_1_is_ddpm_with_the_small_variance(k, j):
    table = schedules.cosine()
    denoise = fixed_denoiser(table.alpha_bar[k])
    np.testing.assert_allclose(
        one_step(DDIM(table, eta=1.0), k, j, denoise), one_step(DDPM(table, "fixed_small"), k, j, denoise), rtol=1e-6
    )


@pytest.mark.usefixtures("x64")
def test_learned_variances():
    """learned: exp(log_var); learned_range: the geometric mean of beta and beta-tilde weighted by (v + 1) / 2."""
    table, k = schedules.linear(), 300
    betas = np.array(table.betas)
    bar = np.cumprod(1 - betas)
    large, small = betas[k], betas[k] * (1 - bar[k - 1]) / (1 - bar[k])
    z = np.asarray(white_noise(KEY, X.shape))
    mean = (X - betas[k] / np.sqrt(1 - bar[k]) * EPS) / np.sqrt(1 - betas[k])

    denoise = fixed_denoiser(bar[k], LOG_VAR)
    actual = one_step(DDPM(table, "learned"), k, k - 1, denoise)
    np.testing.assert_allclose(actual, mean + np.exp(LOG_VAR / 2) * z, rtol=1e-6)
    share = (LOG_VAR + 1) / 2
    actual = one_step(DDPM(table, "learned_range"), k, k - 1, denoise)
    np.testing.assert_allclose(actual, mean + np.sqrt(large**share * small ** (1 - share)) * z, rtol=1e-6)
    with pytest.raises(InputError, match="needs a denoiser with log_var"):
        one_step(DDPM(table, "learned"), k, k - 1, fixed_denoiser(bar[k]))


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned", "learned_range"])
def test_ddpm_adds_no_noise_in_the_last_step(variance):
    with jax.enable_x64(True):
        denoise = fixed_denoiser(schedules.linear().alpha_bar[0], np.ones_like(X))
        last = one_step(DDPM(schedules.linear(), variance), 0, -1, denoise)
        np.testing.assert_allclose(last, denoise(None, None).x0, rtol=1e-6)


def flow_map(x, schedule, start, mean, std):
    """The probability-flow ODE of Gaussian data, solved: quantiles keep their place."""
    alpha, sigma = float(schedule.alpha(start)), float(schedule.sigma(start))
    return mean + std * (np.asarray(x) - alpha * mean) / np.sqrt((alpha * std) ** 2 + sigma**2)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("schedule", [schedules.VP(), schedules.Flow()], ids=["vp", "flow"])
def test_ddim_converges_to_the_exact_ode_with_order_one(schedule):
    x = jnp.asarray(X)
    exact = flow_map(x, schedule, 1.0, **GAUSSIAN)
    denoise = testing.gaussian_denoiser(**GAUSSIAN, schedule=schedule)
    n = np.array([50, 100, 200, 400])
    errors = [
        np.abs(np.asarray(sample(KEY, denoise, DDIM(schedule), timesteps.uniform(i), x)) - exact).max() for i in n
    ]
    order = -np.polyfit(np.log(n), np.log(errors), 1)[0]
    assert 0.9 < order < 1.15
    assert errors[-1] < 0.01


def moments(sampler, schedule, grid, mean, std):
    """Exact mean and variance of what a sampler makes of Gaussian data, by its affine recursion, in numpy."""
    m, v = 0.0, float(schedule.sigma(1.0)) ** 2
    for t, s in zip(grid[:-1], grid[1:], strict=True):
        (a_t, v_t), (a_s, v_s) = ((float(schedule.alpha(u)), float(schedule.sigma(u)) ** 2) for u in (t, s))
        a, var = a_t / a_s, v_t - (a_t / a_s) ** 2 * v_s
        gain = a_t * std**2 / (a_t**2 * std**2 + v_t)  # x0 = mean + gain (x - a_t mean)
        small = v_s * var / v_t
        if isinstance(sampler, DDPM):
            from_x, from_x0 = a * v_s / v_t, a_s * var / v_t
            noise = (small if sampler.variance == "fixed_small" else var) if s > 0 else 0
        else:
            noise = sampler.eta**2 * small
            from_x = np.sqrt((v_s - noise) / v_t)
            from_x0 = a_s - from_x * a_t
        m = from_x * m + from_x0 * (mean + gain * (m - a_t * mean))
        v = (from_x + from_x0 * gain) ** 2 * v + noise
    return m, v


@pytest.mark.parametrize("spacing", [timesteps.trailing(1000, T=1000), timesteps.trailing(20, T=1000)], ids=len)
@pytest.mark.parametrize(
    "make", [partial(DDPM, variance="fixed_small"), partial(DDPM, variance="fixed_large"), DDIM, partial(DDIM, eta=0.6)]
)
def test_moments_of_samples_are_those_of_the_recursion(make, spacing):
    """20,000 draws: mean and standard deviation within five standard errors of the closed form."""
    schedule = schedules.linear()
    sampler = make(schedule)
    mean, var = moments(sampler, schedule, spacing, **GAUSSIAN)
    n = 20_000
    x = sample(
        KEY,
        testing.gaussian_denoiser(**GAUSSIAN, schedule=schedule),
        sampler,
        spacing,
        prior(jax.random.key(1), (100, n // 100), schedule=schedule),
    )
    assert abs(float(x.mean()) - mean) < 5 * np.sqrt(var / n)
    assert abs(float(x.std()) - np.sqrt(var)) < 5 * np.sqrt(var / (2 * n))


def test_a_thousand_ancestral_steps_make_the_data_distribution():
    """The recursion's fixed point: with 1,000 steps the moments are the data's to a few per cent."""
    mean, var = moments(
        DDPM(schedules.linear(), "fixed_small"), schedules.linear(), timesteps.uniform(1000), **GAUSSIAN
    )
    np.testing.assert_allclose([mean, np.sqrt(var)], [0.7, 0.3], rtol=0.02)


def test_temperature_zero_is_the_mean_path_and_scales_the_noise():
    schedule = schedules.VE(0.01, 10.0)
    denoise = testing.gaussian_denoiser(mean=0.0, std=0.0, schedule=schedule)
    x, grid = jnp.zeros((50, 40)), timesteps.uniform(10, end=0.5)
    cold = sample(KEY, denoise, DDPM(schedule), grid, x, temperature=0.0)
    assert float(jnp.abs(cold).max()) == 0
    warm, hot = (sample(KEY, denoise, DDPM(schedule), grid, x, temperature=c) for c in (1.0, 3.0))
    np.testing.assert_allclose(hot, 3 * warm, rtol=1e-4, atol=1e-5)


# What every row of the table of samplers keeps.

MAKE = {**SAMPLERS, "ddim eta": partial(DDIM, eta=0.5), "ddpm small": partial(DDPM, variance="fixed_small")}
CONTRACT = pytest.mark.parametrize("name", MAKE)
SCHEDULE = schedules.cosine()


def run(sampler, key=KEY, batch=6, grid=None, temperature=1.0, dtype=jnp.float32, **data):
    keys = key if key.ndim else jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch))
    x = prior(keys, (keys.shape[0], 3, 3, 1), schedule=SCHEDULE).astype(dtype)
    denoise = testing.gaussian_denoiser(**(GAUSSIAN | data), schedule=SCHEDULE)
    grid = timesteps.trailing(10, T=1000) if grid is None else grid
    return sample(keys, denoise, sampler, grid, x, temperature=temperature)


@CONTRACT
def test_protocol(name):
    """The signatures of `Sampler`, argument by argument; a frozen dataclass with the schedule as static data."""
    sampler = MAKE[name](SCHEDULE)
    assert isinstance(sampler, Sampler)
    for method in ("init", "step"):
        ours = inspect.signature(getattr(type(sampler), method)).parameters
        theirs = inspect.signature(getattr(Sampler, method)).parameters
        assert [(p.name, p.kind, p.default) for p in ours.values()] == [
            (p.name, p.kind, p.default) for p in theirs.values()
        ]
    with pytest.raises(dataclasses.FrozenInstanceError):
        sampler.schedule = None
    assert sampler == MAKE[name](SCHEDULE)
    assert hash(sampler) == hash(MAKE[name](SCHEDULE))
    state = sampler.init(jnp.zeros((2, 3)))
    assert state.x.shape == (2, 3)


@CONTRACT
def test_a_picture_does_not_depend_on_its_batch(name):
    sampler, keys = MAKE[name](SCHEDULE), jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(6))
    whole = run(sampler, keys)
    np.testing.assert_allclose(run(sampler, keys[4:]), whole[4:], rtol=1e-5)
    np.testing.assert_allclose(run(sampler, keys[::-1]), whole[::-1], rtol=1e-5)
    np.testing.assert_allclose(run(sampler, KEY), whole, rtol=1e-5)  # one key stands for fold_in(key, 0..B-1)
    assert float(jnp.abs(whole[0] - whole[1]).max()) > 0.01


@CONTRACT
def test_point_data_is_hit_exactly(name):
    np.testing.assert_allclose(run(MAKE[name](SCHEDULE), mean=0.25, std=0.0), 0.25, rtol=1e-5)


@CONTRACT
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_dtype_is_kept_and_all_is_finite(name, dtype):
    x = run(MAKE[name](SCHEDULE), dtype=dtype)
    assert x.dtype == dtype
    assert bool(jnp.isfinite(x).all())


@CONTRACT
def test_numbers_do_not_recompile(name):
    """Another seed, grid, temperature or number in the sampler runs the same program."""
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def program(sampler, key, grid, temperature):
        return run(sampler, key, grid=grid, temperature=temperature)

    sampler = MAKE[name](SCHEDULE)
    for i in range(3):
        if hasattr(sampler, "eta"):
            sampler = dataclasses.replace(sampler, eta=i / 4)
        grid = jnp.asarray(timesteps.trailing(10, T=1000 - i), jnp.float32)
        program(sampler, jax.random.key(i), grid, jnp.float32(i)).block_until_ready()


@CONTRACT
def test_times_may_differ_by_example(name):
    """A step with times [B] is each example's own step; with a last step among them, which adds no noise."""
    sampler = MAKE[name](SCHEDULE)
    denoise = testing.gaussian_denoiser(**GAUSSIAN, schedule=SCHEDULE)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(3))
    x = jax.random.normal(KEY, (3, 4, 4, 3))
    t, s = jnp.array([0.5, 0.001, 0.9]), jnp.array([0.4, 0.0, 0.8])
    whole = sampler.step(keys, sampler.init(x), t, s, denoise, temperature=jnp.array([1.0, 2.0, 0.5])).x
    assert whole.shape == x.shape
    for i, temperature in enumerate([1.0, 2.0, 0.5]):
        one = sampler.step(keys[i : i + 1], sampler.init(x[i : i + 1]), t[i], s[i], denoise, temperature=temperature).x
        np.testing.assert_allclose(whole[i], one[0], rtol=1e-5, atol=1e-6)


@CONTRACT
def test_another_noise_is_passed_in(name):
    """With no noise at all every sampler is what it is at temperature 0."""
    silent = dataclasses.replace(MAKE[name](SCHEDULE), noise=lambda key, shape: jnp.zeros(shape))
    np.testing.assert_allclose(run(silent), run(MAKE[name](SCHEDULE), temperature=0.0), rtol=1e-5, atol=1e-6)


@CONTRACT
def test_half_precision_x_does_not_spoil_the_coefficients(name):
    """One step of 1/1000 in bfloat16 is the float32 step to bfloat16's own rounding (2^-8 of the largest number)."""
    sampler = MAKE[name](schedules.linear())
    prediction = Prediction(jnp.full((2, 50), 0.5), jnp.full((2, 50), -0.25))
    x = jnp.linspace(-1, 1, 100).reshape(2, 50)
    out = {}
    for dtype in (jnp.float32, jnp.bfloat16):
        cast = jax.tree.map(lambda a, dtype=dtype: a.astype(dtype), prediction)
        t, s = jnp.float32(0.501), jnp.float32(0.5)
        out[dtype] = sampler.step(KEY, sampler.init(x.astype(dtype)), t, s, lambda x, t, p=cast: p).x
    np.testing.assert_allclose(out[jnp.bfloat16].astype(jnp.float32), out[jnp.float32], atol=3 * 2**-8)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_gradient_in_eta(eta):
    """Finite everywhere, also at eta = 1; in between it is the difference quotient."""

    def spread(eta):
        return jnp.square(run(DDIM(SCHEDULE, eta=eta))).mean()

    slope = jax.grad(spread)(eta)
    assert np.isfinite(slope)
    if eta == 0.5:
        np.testing.assert_allclose(slope, (spread(eta + 0.01) - spread(eta - 0.01)) / 0.02, rtol=0.02)


@CONTRACT
def test_a_thousand_steps_are_one_program_with_one_denoiser(name):
    """The denoiser is traced once for any number of steps: the steps are a scan, not an unrolled loop."""
    calls = []

    def denoise(x, t):
        calls.append(t)
        return testing.gaussian_denoiser(**GAUSSIAN, schedule=SCHEDULE)(x, t)

    grid = timesteps.trailing(1000, T=1000)
    x = jax.jit(lambda key, x: sample(key, denoise, MAKE[name](SCHEDULE), grid, x))(KEY, jnp.ones((2, 3)))
    assert len(calls) == 1
    assert bool(jnp.isfinite(x).all())


@CONTRACT
def test_jit_vmap_and_grad(name):
    sampler = MAKE[name](SCHEDULE)

    def one(mean):
        return run(sampler, mean=mean).mean()

    means = jnp.array([0.1, 0.5])
    each = jnp.stack([one(m) for m in means])
    np.testing.assert_allclose(jax.vmap(one)(means), each, rtol=1e-4)
    np.testing.assert_allclose(jax.jit(one)(means[0]), each[0], rtol=1e-4)
    slope = jax.grad(one)(means[0])
    np.testing.assert_allclose(slope, (one(means[0] + 0.05) - one(means[0] - 0.05)) / 0.1, rtol=1e-2)


@CONTRACT
def test_collect_sees_every_step(name):
    x = jnp.ones((2, 3))
    denoise = testing.gaussian_denoiser(**GAUSSIAN, schedule=SCHEDULE)
    last, path = sample(
        KEY, denoise, MAKE[name](SCHEDULE), timesteps.trailing(5, T=1000), x, collect=lambda state: state.x
    )
    assert path.shape == (5, 2, 3)
    np.testing.assert_array_equal(path[-1], last)


@pytest.mark.parametrize("times", [[0.5], [[1.0, 0.0]], [0.0, 1.0], [1.0, 0.5, 0.5], [1.5, 0.0]])
def test_bad_grids_are_refused(times):
    with pytest.raises(InputError, match="times: expected"):
        run(DDIM(SCHEDULE), grid=np.array(times))


def test_bad_variance_and_bad_keys_are_refused():
    with pytest.raises(InputError, match="unknown variance 'small'; expected one of fixed_small"):
        DDPM(SCHEDULE, "small")
    with pytest.raises(InputError, match="expected one key or 2 keys"):
        white_noise(jax.random.split(KEY, 3), (2, 3))


def test_state_is_a_pytree_of_x():
    assert jax.tree.leaves(State(jnp.ones(2)))[0].shape == (2,)
