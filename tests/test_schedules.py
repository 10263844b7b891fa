"""Schedules against numpy float64, the papers' numbers, and each other. What follows from them: test_derivatives.py."""

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


def test_sub_vp_has_the_alpha_of_vp_and_the_variance_of_its_sde():
    """v' = -beta v + beta (1 - exp(-2 int beta)) from v(0) = 0, by Runge-Kutta in numpy."""

    def slope(t, v):
        beta, h = 0.1 + 19.9 * t, 0.1 * t + 9.95 * t**2
        return beta * (1 - np.exp(-2 * h) - v)

    v, n = 0.0, 4000
    for t in np.arange(n) / n:
        a = slope(t, v)
        b = slope(t + 0.5 / n, v + 0.5 * a / n)
        c = slope(t + 0.5 / n, v + 0.5 * b / n)
        v += (a + 2 * b + 2 * c + slope(t + 1 / n, v + c / n)) / (6 * n)
        if np.isclose(t + 1 / n, [0.01, 0.3, 1]).any():
            at = jnp.float32(t + 1 / n)
            np.testing.assert_allclose(schedules.SubVP().sigma(at) ** 2, v, rtol=1e-5)
            assert schedules.SubVP().alpha(at) == schedules.VP().alpha(at)


def test_edm_is_linear_in_time_without_a_floor():
    edm = schedules.EDM()
    np.testing.assert_allclose(edm.sigma(jnp.linspace(0, 1, 11)), 80 * np.linspace(0, 1, 11), rtol=1e-6)
    assert (float(edm.sigma(0.0)), float(edm.alpha(0.3))) == (0, 1)


def test_cosine_in_log_snr():
    """-2 log tan of an angle linear in t from 15 to -15, in float32 at both ends too; nearly alpha = cos(pi t / 2)."""
    schedule = schedules.CosineLogSNR()
    t = np.r_[0, 1e-6, 1e-4, np.linspace(0.01, 0.99, 99), 1 - 1e-4, 1 - 1e-6, 1].astype(np.float32)
    first, last = np.arctan(np.exp(-7.5)), np.arctan(np.exp(7.5))
    angle = first + (last - first) * t.astype(np.float64)
    np.testing.assert_allclose(schedule.log_snr(t), -2 * np.log(np.tan(angle)), atol=2e-5)
    np.testing.assert_allclose(schedule.log_snr(jnp.array([0.0, 1.0])), [15, -15], rtol=1e-6)
    np.testing.assert_allclose(schedule.alpha(t), np.cos(np.pi / 2 * t), atol=1e-3)
    np.testing.assert_allclose(schedules.log_snr(t, schedule=schedule), schedule.log_snr(t), atol=1e-5)


def test_shifts_multiply_the_snr():
    """Simple diffusion: SNR_shifted = SNR (base / resolution)^2; interpolated from the high base at 0 to the low at 1."""
    t = jnp.linspace(0, 1, 21)
    plain = np.asarray(schedules.log_snr(t, schedule=schedules.CosineLogSNR()))
    for base in (32, 64):
        shifted = schedules.CosineLogSNR(shift=2 * np.log(base / 512))
        np.testing.assert_allclose(np.exp(schedules.log_snr(t, schedule=shifted) - plain), (base / 512) ** 2, rtol=1e-4)
    low, high = 2 * np.log(32 / 512), 2 * np.log(256 / 512)
    mixed = schedules.InterpolatedCosineLogSNR(shift_low=low, shift_high=high)
    of = [np.asarray(schedules.log_snr(t, schedule=schedules.CosineLogSNR(shift=s)), np.float64) for s in (low, high)]
    expected = np.asarray(t) * of[0] + (1 - np.asarray(t)) * of[1]
    np.testing.assert_allclose(schedules.log_snr(t, schedule=mixed), expected, atol=1e-4)


def test_a_schedule_from_any_log_snr_is_stable_in_float32():
    """alpha^2 = 1 / (1 + e^-lambda) and sigma^2 = 1 / (1 + e^lambda) to float32 relative precision at +-60."""
    schedule = schedules.LogSNR(lambda t: 60 - 120 * t)
    t = np.linspace(0, 1, 25, dtype=np.float32)
    snr = np.exp(60 - 120 * t.astype(np.float64))
    np.testing.assert_allclose(schedule.alpha(t), np.sqrt(snr / (1 + snr)), rtol=1e-5)
    np.testing.assert_allclose(schedule.sigma(t), np.sqrt(1 / (1 + snr)), rtol=1e-5)


def random_params(seed, size, spread):
    keys = jax.random.split(jax.random.key(seed), 3)
    names = ("slope", "shift", "scale")
    return {name: spread * jax.random.normal(key, (size,)) for name, key in zip(names, keys, strict=True)}


@pytest.mark.parametrize("spread", [0.1, 3.0, 50.0])
def test_a_learned_log_snr_falls_between_its_ends_whatever_the_parameters(spread):
    with jax.enable_x64(True):
        t = jnp.linspace(0, 1, 2001)
        for params in [random_params(seed, 16, spread) for seed in range(5)]:
            value = np.asarray(schedules.learned_log_snr(params, t, log_snr_min=-4.0, log_snr_max=9.0))
            np.testing.assert_allclose(value[[0, -1]], [9, -4], rtol=1e-12)
            assert (np.diff(value) < 0).all()
            schedules.check_monotone(schedules.LogSNR(lambda t, p=params: schedules.learned_log_snr(p, t)))
    start = schedules.learned_log_snr(schedules.init_log_snr(jax.random.key(0)), t.astype(jnp.float32))
    np.testing.assert_allclose(start, 13.3 - 18.3 * np.asarray(t), atol=0.5)


def test_the_learned_log_snr_is_the_papers_three_layers():
    """gamma = l1(t) + l3(sigmoid(l2(l1(t)))) with positive weights, scaled to its ends: VDM, appendix H, in numpy."""
    rng = np.random.default_rng(0)
    w1, b1, n = 0.6, -0.4, 32
    w2, w3 = rng.gamma(2.0, 2.0, (2, n))
    b2, b3 = rng.standard_normal(n) * 3, 0.7

    def gamma(t):
        l1 = w1 * t + b1
        return l1 + (w3 / (1 + np.exp(-(w2 * l1[:, None] + b2)))).sum(1) + b3

    t = np.linspace(0, 1, 50)
    share = (gamma(t) - gamma(t[:1])) / (gamma(t[-1:]) - gamma(t[:1]))

    def positive(weight):  # the inverse of softplus
        return np.log(np.expm1(weight))

    with jax.enable_x64(True):
        params = {"slope": positive(w2 * w1), "shift": w2 * b1 + b2, "scale": positive(w3 * n / w1)}
        params = {name: jnp.asarray(value) for name, value in params.items()}
        actual = schedules.learned_log_snr(params, jnp.asarray(t), log_snr_min=-5.0, log_snr_max=13.3)
    np.testing.assert_allclose(actual, 13.3 - 18.3 * share, rtol=1e-9)


def test_a_learned_schedule_in_the_continuous_vlb():
    """The diffusion loss 1/2 int e^lambda mmse(lambda) (-lambda') dt of Gaussian data depends on the ends alone
    (VDM, eq. 18): it is 1/2 log((1 + c^2 SNR_max) / (1 + c^2 SNR_min)), and its gradient in the curve is 0."""
    c = 0.5

    def loss(params, log_snr_max):
        schedule = schedules.LogSNR(lambda t: schedules.learned_log_snr(params, t, log_snr_max=log_snr_max))
        t = jnp.linspace(0.5 / 4000, 1 - 0.5 / 4000, 4000)
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        mmse = c**2 * sigma**2 / (alpha**2 * c**2 + sigma**2)
        slope = schedules.diffusion(t, schedule=schedule) ** 2 / sigma**2  # g^2 = -lambda' sigma^2
        return jnp.mean(0.5 * alpha**2 / sigma**2 * mmse * slope)

    with jax.enable_x64(True):
        for seed in range(2):
            params = random_params(seed, 16, 2.0)
            params = {name: value.astype(jnp.float64) for name, value in params.items()}
            value, (in_curve, in_end) = jax.value_and_grad(loss, (0, 1))(params, jnp.float64(6.0))
            snr = c**2 * np.exp([6.0, -5.0])
            np.testing.assert_allclose(value, 0.5 * np.log((1 + snr[0]) / (1 + snr[1])), rtol=1e-5)
            np.testing.assert_allclose(in_end, 0.5 * snr[0] / (1 + snr[0]), rtol=1e-4)
            assert max(float(jnp.abs(g).max()) for g in in_curve.values()) < 1e-5


TERMINAL = {
    "linear": schedules.zero_terminal_snr(schedules.linear()),
    "quadratic": schedules.zero_terminal_snr(schedules.quadratic()),
    "two steps": schedules.zero_terminal_snr(schedules.from_betas([0.1, 0.4])),
    "one step": schedules.from_betas([1.0]),
    "cosine unclipped": schedules.cosine(10, max_beta=1.0),
}


@pytest.mark.parametrize("table", [schedules.linear, schedules.quadratic])
def test_zero_terminal_snr_is_algorithm_1(table):
    root = np.sqrt(np.cumprod(1 - np.array(table().betas)))
    expected = (root - root[-1]) * root[0] / (root[0] - root[-1])
    rescaled = schedules.zero_terminal_snr(table())
    np.testing.assert_allclose(np.sqrt(rescaled.alpha_bar), expected, rtol=1e-9)
    assert rescaled.alpha_bar[-1] == 0
    assert rescaled.betas[0] == table().betas[0]
    t = jnp.asarray((K + 1) / T, jnp.float32)
    np.testing.assert_allclose(rescaled.alpha(t), expected, rtol=2e-6)
    np.testing.assert_allclose(rescaled.sigma(t), np.sqrt(1 - expected**2), rtol=2e-6)


@pytest.mark.parametrize("name", TERMINAL)
def test_a_table_that_ends_in_zero_is_finite_and_straight_in_its_last_step(name):
    schedule = TERMINAL[name]
    last = 1 / schedule.T
    t = jnp.linspace(1 - last, 1, 11)
    from_data = jnp.linspace(0, 1, 101)
    before = np.sqrt(np.prod(1 - np.array(schedule.betas[:-1])))
    np.testing.assert_allclose(schedule.alpha(t), before * np.linspace(1, 0, 11), atol=1e-4 * before)
    np.testing.assert_allclose(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2, 1, rtol=1e-6)
    assert (float(schedule.alpha(1.0)), float(schedule.sigma(1.0))) == (0, 1)
    for function in (schedule.alpha, schedule.sigma, lambda t: schedules.half_log_snr(t, schedule=schedule)):
        for at in (from_data, t):
            value, back = jax.vjp(function, at)
            assert np.isfinite(value).all()
            assert np.isfinite(back(jnp.ones_like(at))[0]).all()
    np.testing.assert_allclose(jax.grad(schedule.alpha)(1.0), -before * schedule.T, rtol=1e-5)
    assert schedules.log_snr(jnp.float32(1.0), schedule=schedule) == -np.inf


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
        ends = jnp.linspace(0, 1, 101)
        assert np.isfinite(function(ends)).all()
        assert np.isfinite(jax.vmap(jax.grad(function))(ends)).all()
    assert (np.diff(schedules.log_snr(t, schedule=schedule)) < 0).all()
    with jax.enable_x64(True):
        for function in (schedule.alpha, schedule.sigma):
            assert function(jnp.float64(0.5)).dtype == jnp.float64


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedules.from_betas([]), "non-empty"),
        (lambda: schedules.from_betas([0.1, 1.0, 0.1]), r"only the last may be 1, but betas\[1\] = 1.0"),
        (lambda: schedules.from_betas([0.1, 1.1]), r"betas\[1\] = 1.1"),
        (lambda: schedules.from_betas([0.1, -0.1]), r"betas\[1\] = -0.1"),
        (lambda: schedules.from_betas([np.nan]), r"betas\[0\] = nan"),
        (lambda: schedules.VE(2.0, 1.0), "sigma_min < sigma_max"),
        (lambda: schedules.sigmoid(start=3, end=-3), "start < end"),
        (lambda: schedules.geometric(beta=1.5), "beta in"),
        (lambda: schedules.VP(0.0, 20.0), "VP: expected 0 < beta_min"),
        (lambda: schedules.SubVP(2.0, 1.0), "SubVP: expected 0 < beta_min <= beta_max"),
        (lambda: schedules.EDM(0.0), "EDM: expected sigma_max > 0"),
        (lambda: schedules.CosineLogSNR(log_snr_min=5, log_snr_max=-5), "log_snr_min < log_snr_max"),
        (lambda: schedules.CosineLogSNR(shift=-np.inf), "finite shift"),
        (lambda: schedules.InterpolatedCosineLogSNR(shift_low=7.0), "or the log-SNR rises"),
        (lambda: schedules.zero_terminal_snr(schedules.from_betas([0.5])), "at least 2 steps"),
    ],
)
def test_bad_values_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
