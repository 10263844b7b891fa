"""Schedules against numpy float64, the papers' numbers, and each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import InputError, Schedule, schedules
from jaxdiff.build import SCHEDULES

T = 1000
TABLES = ["constant", "linear", "quadratic", "cosine", "sigmoid", "tanh", "geometric"]


def f(t):
    return np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2


K = np.arange(T, dtype=np.float64)
PAPERS = {
    "constant": np.full(T, 0.01),
    "linear": 1e-4 + K / (T - 1) * (0.02 - 1e-4),
    "quadratic": (np.sqrt(0.00085) + K / (T - 1) * (np.sqrt(0.012) - np.sqrt(0.00085))) ** 2,
    "cosine": np.clip(1 - f((K + 1) / T) / f(K / T), 0, 0.999),
    "tanh": 1e-4 + (0.02 - 1e-4) * (1 + np.tanh(-3 + 6 * K / (T - 1)) / np.tanh(3)) / 2,
    "geometric": 0.02 * 0.98 ** (T - 1 - K),
}


@pytest.mark.parametrize("name", PAPERS)
def test_betas_are_the_papers_formulas(name):
    np.testing.assert_allclose(SCHEDULES[name](T).betas, PAPERS[name], rtol=1e-9)


def test_linear_and_cosine_tables_of_the_papers():
    # DDPM, section 4: beta_1 = 1e-4 ... beta_T = 0.02, and L_T is about 1e-5 bits/dim because alpha_bar_T is 4e-5.
    linear = schedules.linear()
    assert (linear.betas[0], linear.betas[-1]) == (1e-4, 0.02)
    np.testing.assert_allclose(linear.alpha_bar[-1], 4.036e-5, rtol=1e-3)
    # Improved DDPM, section 3.2: alpha_bar(t) = f(t)/f(0) wherever no beta is clipped to 0.999.
    cosine = schedules.cosine()
    np.testing.assert_allclose(cosine.alpha_bar[:-1], f((K[:-1] + 1) / T) / f(0), rtol=1e-9)
    assert cosine.betas[-1] == 0.999


def test_sigmoid_alpha_bar_is_the_normalised_sigmoid():
    t = np.arange(1, T) / T  # at t = 1 the paper's value is 0 and a beta is clipped

    def u(t):
        return 1 / (1 + np.exp(3 - 6 * t))

    np.testing.assert_allclose(schedules.sigmoid().alpha_bar[:-1], (u(1) - u(t)) / (u(1) - u(0)), rtol=1e-9)


def test_geometric_betas_grow_by_a_constant_factor_and_never_destroy_the_signal():
    betas = np.array(schedules.geometric(beta=0.02).betas)
    np.testing.assert_allclose(betas[1:] / betas[:-1], 1 / 0.98, rtol=1e-12)
    np.testing.assert_allclose(betas.sum(), 1 - 0.98**T, rtol=1e-12)
    assert schedules.geometric(beta=0.02).alpha_bar[-1] > 0.3


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_exact_on_its_grid_in_float32(name):
    """alpha(t) at t = (k+1)/T is sqrt(alpha_bar_k): no off-by-one, no reading between the steps."""
    schedule = SCHEDULES[name](T)
    alpha_bar = np.cumprod(1 - np.array(schedule.betas))
    t = jnp.asarray((K + 1) / T, jnp.float32)
    np.testing.assert_allclose(schedule.alpha(t), np.sqrt(alpha_bar), rtol=2e-6)
    np.testing.assert_allclose(schedule.sigma(t), np.sqrt(1 - alpha_bar), rtol=2e-6)
    assert float(schedule.alpha(0.0)) == 1
    assert float(schedule.sigma(0.0)) == 0


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_exact_on_its_grid_in_float64(name):
    schedule = SCHEDULES[name](T)
    alpha_bar, var = np.cumprod(1 - np.array(schedule.betas)), [0.0]
    for beta in schedule.betas:  # the variance by its recursion: 1 - alpha_bar would cancel
        var.append((1 - beta) * var[-1] + beta)
    with jax.enable_x64(True):
        t = jnp.asarray((K + 1) / T, jnp.float64)
        np.testing.assert_allclose(schedule.alpha(t), np.sqrt(alpha_bar), rtol=1e-11)
        np.testing.assert_allclose(schedule.sigma(t), np.sqrt(var[1:]), rtol=1e-11)


@pytest.mark.parametrize("steps", [1, 2, 7, 10, 1000, 4000])
def test_step_position_is_an_integer_on_the_grid(steps):
    k = np.arange(steps)
    t = jnp.asarray((k + 1) / steps, jnp.float32)
    assert np.array_equal(schedules.step_position(t, steps), k)
    between = jnp.asarray((k + 0.5) / steps, jnp.float32)
    np.testing.assert_allclose(schedules.step_position(between, steps), k - 0.5, atol=1e-3)


def test_between_steps_log_alpha_is_linear():
    schedule = schedules.linear(10)
    t = jnp.asarray([0.3, 0.34, 0.4], jnp.float32)
    low, middle, high = np.log(np.asarray(schedule.alpha(t), np.float64))
    np.testing.assert_allclose(middle, 0.6 * low + 0.4 * high, rtol=1e-4)


def test_gradient_in_t_is_the_slope_of_the_step():
    schedule = schedules.linear(10)
    log_alpha = np.log(1 - np.array(schedule.betas)) / 2 * 10
    slope = jax.grad(lambda t: jnp.log(schedule.alpha(t)))(jnp.float32(0.35))
    np.testing.assert_allclose(slope, log_alpha[3], rtol=1e-4)
    on_grid = jax.grad(lambda t: jnp.log(schedule.alpha(t)))(jnp.float32(0.3))
    np.testing.assert_allclose(on_grid, log_alpha[3], rtol=1e-4)


def test_vp_closed_form_solves_its_sde():
    """d log alpha / dt = -beta(t) / 2, and alpha^2 + sigma^2 = 1."""
    schedule = schedules.VP(0.1, 20.0)
    t = jnp.linspace(0.01, 1, 50)
    slope = jax.vmap(jax.grad(lambda t: jnp.log(schedule.alpha(t))))(t)
    np.testing.assert_allclose(slope, -0.5 * (0.1 + np.asarray(t) * 19.9), rtol=1e-5)
    np.testing.assert_allclose(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2, 1, rtol=1e-5)


def test_the_linear_table_tends_to_vp():
    """beta_k T -> beta(t): 1000 steps of 1e-4..0.02 are the SDE with beta from 0.1 to 20."""
    with jax.enable_x64(True):
        t = jnp.asarray(np.arange(1, 11) / 10)
        gap = []
        for n in (1000, 2000, 4000):
            table = schedules.linear(n, beta_start=0.1 / n, beta_end=20.0 / n)
            gap.append(np.abs(np.log(table.alpha(t)) - np.log(schedules.VP().alpha(t))).max())
        np.testing.assert_allclose(np.array(gap[:-1]) / gap[1:], 2, rtol=0.05)  # first order in 1/T


def test_ve_is_geometric_and_flow_is_straight():
    ve, flow = schedules.VE(0.01, 50.0), schedules.Flow()
    t = jnp.linspace(0, 1, 11)
    np.testing.assert_allclose(ve.sigma(t), 0.01 * 5000 ** np.linspace(0, 1, 11), rtol=1e-5)
    np.testing.assert_allclose(ve.alpha(t), 1)
    np.testing.assert_allclose(flow.alpha(t) + flow.sigma(t), 1, rtol=1e-6)


@pytest.mark.parametrize("name", SCHEDULES)
def test_contract(name):
    """Every schedule: hashable by value, keeps shape and dtype, monotone log-SNR, works under jit, vmap and grad."""
    schedule = SCHEDULES[name]()
    assert isinstance(schedule, Schedule)
    assert schedule == SCHEDULES[name]()
    assert hash(schedule) == hash(SCHEDULES[name]())
    t = jnp.linspace(0.01, 0.99, 99)
    for function in (schedule.alpha, schedule.sigma):
        assert function(t).shape == t.shape
        assert function(t).dtype == jnp.float32
        assert function(t.astype(jnp.bfloat16)).dtype == jnp.float32
        np.testing.assert_allclose(jax.jit(function)(t), function(t), rtol=1e-5)
        np.testing.assert_allclose(jax.vmap(function)(t), function(t), rtol=1e-5)
        assert np.isfinite(jax.vmap(jax.grad(function))(t)).all()
    assert (np.diff(schedules.log_snr(t, schedule=schedule)) < 0).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedules.from_betas([]), "non-empty"),
        (lambda: schedules.from_betas([0.1, 1.0]), r"betas\[1\] = 1.0"),
        (lambda: schedules.from_betas([0.1, -0.1]), r"betas\[1\] = -0.1"),
        (lambda: schedules.from_betas([np.nan]), r"betas\[0\] = nan"),
        (lambda: schedules.VE(2.0, 1.0), "sigma_min < sigma_max"),
        (lambda: schedules.sigmoid(start=3, end=-3), "start < end"),
        (lambda: schedules.geometric(beta=1.5), "beta in"),
    ],
)
def test_bad_values_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
