"""Prediction kinds: every pair of conversions, and the papers' formulas."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import InputError, build, q_sample, schedules
from jaxdiff.build import SCHEDULES
from jaxdiff.config import Diffusion
from jaxdiff.parameterization import KINDS, coefficients, from_prediction, kind_weight, target, to_prediction

rng = np.random.default_rng(0)
X0, EPS, OTHER = rng.standard_normal((3, 6, 4))
T = np.array([0.05, 0.1, 0.3, 0.5, 0.8, 0.95])


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
    formulas = {
        "eps": EPS,
        "x0": X0,
        "v": alpha * EPS - sigma * X0,
        "score": -(x_t - alpha * X0) / sigma**2,  # gradient of log N(x_t; alpha x0, sigma^2)
        # of the probability flow ODE with the score of q(x_t | x_0): -beta/2 (x + score)
        "velocity": -beta / 2 * (x_t - (x_t - alpha * X0) / sigma**2),
    }
    assert set(formulas) == set(KINDS)
    for kind, expected in formulas.items():
        np.testing.assert_allclose(target(x0, eps, t, kind=kind, schedule=schedule), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("kind", KINDS)
def test_target_then_prediction_gives_data_and_noise_back(name, kind):
    schedule = SCHEDULES[name]()
    x0, eps, t = map(jnp.asarray, (X0, EPS, T))
    y = target(x0, eps, t, kind=kind, schedule=schedule)
    prediction = to_prediction(q_sample(x0, t, eps, schedule=schedule), y, t, kind=kind, schedule=schedule)
    if (name, kind) == ("ve", "velocity"):  # d alpha / dt = 0: a network of sigma' eps
        np.testing.assert_allclose(y, schedule.sigma(t)[:, None] * np.log(5000) * EPS, rtol=1e-9)
    np.testing.assert_allclose(prediction.x0, X0, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(prediction.eps, EPS, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(from_prediction(prediction, t, kind=kind, schedule=schedule), y, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("kind", "other"), list(itertools.permutations(KINDS, 2)))
def test_weight_makes_squared_errors_of_two_kinds_equal(kind, other):
    """For two predictions at the same x_t, |y_other difference|^2 = weight |y_kind difference|^2."""
    schedule = schedules.cosine()
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
            assert (name, kind) in (("flow", "eps"), ("flow", "score"))
            assert "says nothing of the data at t = 1" in str(error)  # noqa: PT017
            return
        x = jnp.asarray(X0, jnp.float32)
        prediction = to_prediction(x, x, jnp.float32(1.0), kind=kind, schedule=schedule)
        assert np.isfinite(prediction.x0).all()
        assert np.isfinite(prediction.eps).all()


def test_flow_velocity_is_noise_minus_data():
    x0, eps, t = map(jnp.asarray, (X0, EPS, T))
    np.testing.assert_allclose(target(x0, eps, t, kind="velocity", schedule=schedules.Flow()), EPS - X0, rtol=1e-12)


def test_unknown_kind_is_refused():
    with pytest.raises(InputError, match="unknown prediction kind 'noise'.*eps, x0"):
        coefficients(jnp.asarray(0.5), kind="noise", schedule=schedules.Flow())
