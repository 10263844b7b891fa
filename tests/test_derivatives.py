"""What follows from a schedule: its SDE, slopes, inverse, and the check that its log-SNR falls."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import InputError, schedules
from jaxdiff.build import SCHEDULES
from jaxdiff.schedules.derivatives import derivative

TIMES = (np.r_[1, 10, 100:1000:100, 990, 998] + 0.5) / 1000  # in the middle of a table's steps


@dataclasses.dataclass(frozen=True)
class Bare:
    """A schedule with nothing but alpha and sigma."""

    of: object

    def alpha(self, t):
        return self.of.alpha(t)

    def sigma(self, t):
        return self.of.sigma(t)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_sde_has_the_marginals_of_the_schedule(name):
    """For data of variance c^2: mean' = f mean and v' = 2 f v + g^2, with v' by differences; own methods or not."""
    schedule, h, c = SCHEDULES[name](), 1e-6, 0.7

    def moments(t):
        alpha, sigma = (np.asarray(f(jnp.asarray(t))) for f in (schedule.alpha, schedule.sigma))
        return alpha, sigma, alpha**2 * c**2 + sigma**2

    (a1, s1, v1), (a0, s0, v0), (alpha, _, v) = moments(TIMES + h), moments(TIMES - h), moments(TIMES)
    for known in (schedule, Bare(schedule)):
        t = jnp.asarray(TIMES)
        f, g = (np.asarray(d(t, schedule=known)) for d in (schedules.drift, schedules.diffusion))
        np.testing.assert_allclose((a1 - a0) / (2 * h), f * alpha, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose((v1 - v0) / (2 * h), 2 * f * v + g**2, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(schedules.d_alpha(t, schedule=known), (a1 - a0) / (2 * h), rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(schedules.d_sigma(t, schedule=known), (s1 - s0) / (2 * h), rtol=1e-5, atol=1e-8)


H = 0.1 + 19.9 / 2  # integral of beta from 0 to 1
CLOSED = {  # f and g^2 at t = 0 and t = 1, from the papers
    "vp": (schedules.VP(), [-0.05, -10], [0.1, 20]),
    "sub_vp": (schedules.SubVP(), [-0.05, -10], [0, 20 * (1 - np.exp(-2 * H))]),
    "ve": (schedules.VE(), [0, 0], [2 * np.log(5000) * 1e-4, 2 * np.log(5000) * 2500]),
    "edm": (schedules.EDM(), [0, 0], [0, 2 * 80**2]),
    "flow": (schedules.Flow(), [-1, -np.inf], [0, np.inf]),  # -1 / (1 - t) and 2 t / (1 - t)
    "linear": (schedules.linear(), [500 * np.log1p(-1e-4), 500 * np.log(0.98)], [-1000 * np.log1p(-1e-4), 20.2027]),
}


@pytest.mark.parametrize("name", CLOSED)
def test_drift_and_diffusion_at_both_ends(name):
    """Right and finite wherever the mathematics is, in float32."""
    schedule, f, variance = CLOSED[name]
    t = jnp.array([0.0, 1.0])
    np.testing.assert_allclose(schedules.drift(t, schedule=schedule), f, rtol=1e-5)
    np.testing.assert_allclose(schedules.diffusion(t, schedule=schedule) ** 2, variance, rtol=1e-5)
    for function in (schedules.drift, schedules.diffusion):
        (slopes,) = jax.vjp(lambda t: function(t, schedule=schedule), t)[1](jnp.ones(2))  # noqa: B023
        assert np.isfinite(slopes[0])
        assert np.isfinite(slopes[1]) == np.isfinite(f[1])


def test_slopes_at_the_ends():
    for t in (0.0, 1.0):
        assert float(schedules.d_alpha(jnp.float32(t), schedule=schedules.Flow())) == -1
        assert float(schedules.d_sigma(jnp.float32(t), schedule=schedules.Flow())) == 1
    np.testing.assert_allclose(schedules.d_sigma(jnp.float32(0.0), schedule=schedules.SubVP()), 0.1, rtol=1e-6)
    end = schedules.d_sigma(jnp.float32(1.0), schedule=schedules.VP())  # -alpha alpha' / sigma
    np.testing.assert_allclose(end, 10 * np.exp(-H) / np.sqrt(1 - np.exp(-H)), rtol=1e-5)
    assert schedules.d_sigma(jnp.float32(0.0), schedule=schedules.VP()) == np.inf


@pytest.mark.usefixtures("x64")
def test_slopes_of_a_table_jump_at_its_knots():
    schedule = schedules.from_betas([0.1, 0.5, 0.2])
    step = 1.5 * np.log1p([-0.1, -0.5, -0.2])
    t = jnp.array([0, 1 / 3 - 1e-6, 1 / 3, 1 / 3 + 1e-6, 2 / 3, 1])
    np.testing.assert_allclose(schedules.drift(t, schedule=schedule), step[[0, 0, 1, 1, 2, 2]], rtol=1e-9)


INVERSE = dict.fromkeys(SCHEDULES) | {"shifted": schedules.CosineLogSNR(shift=-3.0), "bisected": Bare(schedules.Flow())}
ENDS = np.r_[1e-6, 1e-5, 1e-4, 7e-4, TIMES, 1 - 1e-4, 1 - 1e-5]


def named(name):
    return INVERSE[name] or SCHEDULES[name]()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", INVERSE)
def test_time_at_log_snr_is_the_inverse(name):
    """In float64 to rounding, near both ends too; the closed form is the bisection; its slope is 1 / (d log_snr/dt)."""
    schedule, t = named(name), jnp.asarray(ENDS)
    has_none = ("cosine_log_snr_interpolated", "bisected")
    assert hasattr(schedule, "time_at_log_snr") == (name not in has_none)
    value = schedules.log_snr(t, schedule=schedule)
    found = schedules.time_at_log_snr(value, schedule=schedule)
    np.testing.assert_allclose(found, ENDS, rtol=1e-8, atol=1e-14)
    np.testing.assert_allclose(schedules.time_at_log_snr(value, schedule=Bare(schedule)), ENDS, rtol=1e-8)
    inverse = derivative(lambda v: schedules.time_at_log_snr(v, schedule=schedule), value)
    forward = derivative(lambda t: schedules.log_snr(t, schedule=schedule), t)
    np.testing.assert_allclose(inverse * forward, 1, rtol=1e-5)


@pytest.mark.parametrize("name", INVERSE)
def test_time_at_log_snr_in_float32(name):
    """t to two units in the last place of 1; towards the data, where log-SNR is +inf, relative to t."""
    schedule = named(name)
    t = jnp.asarray(ENDS, jnp.float32)
    value = schedules.log_snr(t, schedule=schedule)
    found = schedules.time_at_log_snr(value, schedule=schedule)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, t, atol=2.5e-7)
    if np.isinf(schedules.log_snr(jnp.float32(0.0), schedule=schedule)):
        np.testing.assert_allclose(found[:4], ENDS[:4], rtol=3e-5)
    again = schedules.log_snr(found, schedule=schedule)
    steep = np.abs(derivative(lambda t: schedules.log_snr(t, schedule=schedule), t))
    assert (np.abs(again - value) < 3e-5 + 2.5e-7 * steep).all()


@pytest.mark.parametrize("name", INVERSE)
def test_time_at_log_snr_beyond_the_schedule_is_its_nearest_end(name):
    schedule = named(name)
    far = jnp.array([np.inf, 1e4, 170.0, -170.0, -1e4, -np.inf])
    found, back = jax.vjp(lambda v: schedules.time_at_log_snr(v, schedule=schedule), far)
    np.testing.assert_allclose(found, [0, 0, 0, 1, 1, 1], atol=1e-6)
    np.testing.assert_allclose(back(jnp.ones(6))[0], 0, atol=1e-6)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_is_monotone(name):
    schedules.check_monotone(SCHEDULES[name]())


@dataclasses.dataclass(frozen=True)
class Counted:
    """sigma = t^power, and a count of the calls."""

    power: float
    calls = 0

    def alpha(self, t):
        type(self).calls += 1
        return jnp.ones_like(t)

    def sigma(self, t):
        return t**self.power


def test_a_schedule_that_does_not_fall_is_refused():
    wave = schedules.LogSNR(lambda t: 5 - 10 * t + 2 * jnp.cos(20 * t))
    flat = schedules.LogSNR(lambda t: -jnp.maximum(t, 0.5))
    broken = schedules.LogSNR(lambda t: -t + jnp.where(t > 0.5, jnp.nan, 0))
    for schedule, where in (
        (wave, "t = 0.17"),
        (flat, "t = 0.0"),
        (broken, "nan at t = 0.5"),
        (Counted(-1.0), "t = 0"),
    ):
        with pytest.raises(InputError, match=f"the log-SNR must fall.*{where}"):
            schedules.check_monotone(schedule)


def test_the_check_runs_once_for_equal_schedules_and_while_tracing():
    Counted.calls = 0

    @jax.jit
    def traced(x):
        schedules.check_monotone(Counted(2.0))
        return x

    jax.vmap(jax.grad(traced))(jnp.ones(3))
    jax.lax.scan(lambda c, x: (traced(c), x), 0.0, jnp.ones(2))
    schedules.check_monotone(Counted(2.0))
    assert Counted.calls == 1
    with pytest.raises(InputError, match="must fall"):
        jax.jit(lambda x: (schedules.check_monotone(Counted(-2.0)), x))(1.0)


def test_a_schedule_of_traced_parameters_is_not_checked_and_not_kept():
    def loss(params):
        schedule = schedules.LogSNR(lambda t: schedules.learned_log_snr(params, t))
        schedules.check_monotone(schedule)
        return schedule.alpha(jnp.float32(0.3))

    with jax.checking_leaks():
        slopes = jax.jit(jax.grad(loss))(schedules.init_log_snr(jax.random.key(0), features=4))
    assert all(np.isfinite(g).all() and np.any(g != 0) for g in slopes.values())


def test_concretely_is_float64_now_also_while_tracing():
    @jax.jit
    def traced(x):
        with schedules.concretely():
            third = np.asarray(jnp.asarray(1.0) / 3)
        assert third == 1 / 3
        return x * third.astype(np.float32)

    assert traced(jnp.float32(3)).dtype == jnp.float32
