"""Prediction kinds: every pair of conversions, and the papers' formulas."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import InputError, build, q_sample, schedules
from jaxdiff.build import SCHEDULES
from jaxdiff.config import Diffusion
from jaxdiff.parameterization import (
    KINDS,
    coefficients,
    edm_F,
    error_weight,
    from_prediction,
    kind_weight,
    previous_mean,
    target,
    to_prediction,
)

rng = np.random.default_rng(0)
X0, EPS, OTHER = rng.standard_normal((3, 6, 4))
T = np.array([0.05, 0.1, 0.3, 0.5, 0.8, 0.95])
ROWS = {**{kind: kind for kind in KINDS}, "F of unit data": edm_F(1.0), "previous mean": previous_mean(1000)}


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def test_kinds_are_the_papers_formulas():
    schedule = schedules.VP()
    x0, eps, t = map(jnp.asarray, (X0, EPS, T))
    alpha, sigma = (np.asarray(c)[:, None] for c in (schedule.alpha(t), schedule.sigma(t)))
    beta = (0.1 + T * 19.9)[:, None]
    x_t = alpha * X0 + sigma * EPS
    noise = sigma / alpha  # EDM's sigma, of x_t / alpha
    c_skip = 0.25 / (noise**2 + 0.25)
    c_out = noise * 0.5 / np.sqrt(noise**2 + 0.25)
    formulas = {
        "eps": EPS,
        "x0": X0,
        "v": alpha * EPS - sigma * X0,
        "score": -(x_t - alpha * X0) / sigma**2,  # gradient of log N(x_t; alpha x0, sigma^2)
        # of the probability flow ODE with the score of q(x_t | x_0): -beta/2 (x + score)
        "velocity": -beta / 2 * (x_t - (x_t - alpha * X0) / sigma**2),
        "F": (X0 - c_skip * x_t / alpha) / c_out,
    }
    assert set(formulas) == set(KINDS)
    for kind, expected in formulas.items():
        np.testing.assert_allclose(target(x0, eps, t, kind=kind, schedule=schedule), expected, rtol=1e-9, atol=1e-12)


def test_F_of_unit_data_on_a_variance_preserving_schedule_is_minus_v():
    x0, eps, t = map(jnp.asarray, (X0, EPS, T))
    F, v = (target(x0, eps, t, kind=kind, schedule=schedules.cosine()) for kind in (edm_F(1.0), "v"))
    np.testing.assert_allclose(F, -np.asarray(v), rtol=1e-6)


@pytest.mark.parametrize("k", [0, 1, 500, 999])
def test_previous_mean_is_equation_7_of_ddpm(k):
    table = schedules.linear()
    betas = np.array(table.betas)
    bar = np.cumprod(1 - betas)
    before = bar[k - 1] if k else 1.0
    x_t = np.sqrt(bar[k]) * X0 + np.sqrt(1 - bar[k]) * EPS
    expected = (
        np.sqrt(before) * betas[k] / (1 - bar[k]) * X0 + np.sqrt(1 - betas[k]) * (1 - before) / (1 - bar[k]) * x_t
    )
    t = jnp.asarray((k + 1) / 1000)
    y = target(jnp.asarray(X0), jnp.asarray(EPS), t, kind=previous_mean(1000), schedule=table)
    np.testing.assert_allclose(y, expected, rtol=1e-9, atol=1e-12)
    prediction = to_prediction(jnp.asarray(x_t), jnp.asarray(expected), t, kind=previous_mean(1000), schedule=table)
    np.testing.assert_allclose(prediction.x0, X0, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("k", [0, 10, 500, 999])
def test_previous_mean_in_float32_loses_only_what_the_network_output_has_lost(k):
    """x0 = (y - A x_t) / C: a rounding of y and x_t by 6e-8 becomes 6e-8 A / C, with C down to 1e-4 at the noise end."""
    table = schedules.linear()
    betas = np.array(table.betas)
    bar = np.cumprod(1 - betas)
    before = bar[k] / (1 - betas[k])
    x0_share, x_share = np.sqrt(before) * betas[k] / (1 - bar[k]), np.sqrt(1 - betas[k]) * (1 - before) / (1 - bar[k])
    x_t = np.sqrt(bar[k]) * X0 + np.sqrt(1 - bar[k]) * EPS
    with jax.enable_x64(False):
        x, y = (jnp.asarray(a, jnp.float32) for a in (x_t, x0_share * X0 + x_share * x_t))
        found = to_prediction(x, y, jnp.float32((k + 1) / 1000), kind=previous_mean(1000), schedule=table).x0
    assert np.abs(np.asarray(found) - X0).max() < 1e-5 + 1e-6 / x0_share


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("kind", ROWS)
def test_target_then_prediction_gives_data_and_noise_back(name, kind):
    schedule, label, kind = SCHEDULES[name](), kind, ROWS[kind]
    x0, eps, t = map(jnp.asarray, (X0, EPS, T))
    y = target(x0, eps, t, kind=kind, schedule=schedule)
    prediction = to_prediction(q_sample(x0, t, eps, schedule=schedule), y, t, kind=kind, schedule=schedule)
    if (name, label) == ("ve", "velocity"):  # d alpha / dt = 0: a network of sigma' eps
        np.testing.assert_allclose(y, schedule.sigma(t)[:, None] * np.log(5000) * EPS, rtol=1e-9)
    np.testing.assert_allclose(prediction.x0, X0, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(prediction.eps, EPS, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(from_prediction(prediction, t, kind=kind, schedule=schedule), y, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("kind", "other"), list(itertools.permutations(ROWS, 2)))
def test_weight_makes_squared_errors_of_two_kinds_equal(kind, other):
    """For two predictions at the same x_t, |y_other difference|^2 = weight |y_kind difference|^2."""
    schedule, kind, other = schedules.cosine(), ROWS[kind], ROWS[other]
    x0, eps, t = map(jnp.asarray, (X0, EPS, T))
    x_t = q_sample(x0, t, eps, schedule=schedule)
    predictions = [to_prediction(x_t, y, t, kind=kind, schedule=schedule) for y in (x0, jnp.asarray(OTHER))]
    others = [from_prediction(p, t, kind=other, schedule=schedule) for p in predictions]
    weight = kind_weight(t, kind=kind, as_kind=other, schedule=schedule)[:, None]
    np.testing.assert_allclose((others[1] - others[0]) ** 2, weight * (OTHER - X0) ** 2, rtol=1e-6)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("kind", KINDS)
def test_where_sampling_starts_a_kind_is_finite_in_float32_or_the_config_is_refused(name, kind):
    with jax.enable_x64(False):
        try:
            schedule = build.schedule(Diffusion(schedule=name, kind=kind))
        except InputError as error:
            assert kind in ("eps", "score")
            assert float(SCHEDULES[name]().alpha(1.0)) == 0
            assert "says nothing of the data at t = 1" in str(error)  # noqa: PT017
            return
        x = jnp.asarray(X0, jnp.float32)
        prediction = to_prediction(x, x, jnp.float32(1.0), kind=kind, schedule=schedule)
        assert np.isfinite(prediction.x0).all()
        assert np.isfinite(prediction.eps).all()


@pytest.mark.parametrize("kind", ROWS)
def test_an_error_of_unit_size_is_d_whatever_the_kind(kind):
    """x0 differs by sigma d and eps by -alpha d, so y = a x0 + b eps by (a sigma - b alpha) d."""
    schedule, t = schedules.Flow(), jnp.asarray(T)
    a, b = coefficients(t, kind=ROWS[kind], schedule=schedule)
    d = 1 / (np.asarray(a) * T - np.asarray(b) * (1 - T))  # of an error of 1 in y
    weight = error_weight(jnp.asarray(T), t, kind=ROWS[kind], schedule=schedule)
    np.testing.assert_allclose(weight, (T * d) ** 2, rtol=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_at_the_data_x0_is_x_and_all_is_finite_with_its_gradients(name, kind, dtype):
    """At t = 0 without noise, x_t / alpha is the data whatever the network says."""
    with jax.enable_x64(False):
        schedule = SCHEDULES[name]()
        x, y = (jnp.asarray(a, jnp.float32).astype(dtype) for a in (X0, OTHER))

        def convert(x, y, t):
            return to_prediction(x, y, t, kind=ROWS[kind], schedule=schedule)

        if kind == "previous mean" and float(schedule.sigma(0.0)) > 0:
            return  # the step before the first: nothing is said of it
        prediction = convert(x, y, jnp.float32(0))
        assert prediction.x0.dtype == prediction.eps.dtype == dtype
        if float(schedule.sigma(0.0)) == 0:
            np.testing.assert_array_equal(prediction.x0, x)
        assert np.isfinite(prediction.eps.astype(jnp.float32)).all()
        slopes = jax.grad(lambda *a: sum(p.astype(jnp.float32).sum() for p in convert(*a)[:2]), (0, 1))
        assert all(np.isfinite(g.astype(jnp.float32)).all() for g in slopes(x, y, jnp.float32(0)))


@pytest.mark.parametrize(("kind", "other"), [("score", "eps"), ("eps", "eps"), ("x0", "v"), ("velocity", "F")])
def test_weights_keep_their_limits_at_both_ends(kind, other):
    """The value at the end is the limit of those near it: eps and score both say nothing of the data at alpha = 0."""
    schedule = schedules.Flow()
    with jax.enable_x64(False):
        near = kind_weight(jnp.array([1e-6, 1 - 1e-6]), kind=kind, as_kind=other, schedule=schedule)
        at = kind_weight(jnp.array([0.0, 1.0]), kind=kind, as_kind=other, schedule=schedule)
    for a, b in zip(at, near, strict=True):
        assert np.isclose(a, b, rtol=1e-3, atol=1e-9) or (b > 1e9 and a > b)  # x0 as v at the data has none


def test_flow_velocity_is_noise_minus_data():
    x0, eps, t = map(jnp.asarray, (X0, EPS, T))
    np.testing.assert_allclose(target(x0, eps, t, kind="velocity", schedule=schedules.Flow()), EPS - X0, rtol=1e-12)


def test_unknown_kind_is_refused():
    with pytest.raises(InputError, match="unknown prediction kind 'noise'.*eps, x0"):
        coefficients(jnp.asarray(0.5), kind="noise", schedule=schedules.Flow())
