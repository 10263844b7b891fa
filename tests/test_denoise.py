"""Denoisers, their wrappers, and the exact denoisers, against Bayes' rule and small linear algebra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from jaxdiff import InputError, Prediction, losses, q_sample, schedules, testing
from jaxdiff.build import SCHEDULES
from jaxdiff.denoise import (
    at_scaled_time,
    at_steps,
    clip_x0,
    denoiser,
    dynamic_threshold,
    self_conditioned,
    two_pass,
    with_first_estimate,
)
from jaxdiff.parameterization import KINDS, previous_mean, target

rng = np.random.default_rng(0)
X0, EPS = rng.standard_normal((2, 3, 2, 2, 1)).astype(np.float32)
T = jnp.array([0.1, 0.5, 0.9])
SCHEDULE = schedules.cosine()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("schedule", [SCHEDULE, schedules.VP(), schedules.Flow()], ids=["cosine", "vp", "flow"])
def test_a_perfect_model_of_any_kind_is_a_perfect_denoiser(kind, schedule):
    y = target(jnp.asarray(X0), jnp.asarray(EPS), T, kind=kind, schedule=schedule)
    x_t = q_sample(jnp.asarray(X0), T, jnp.asarray(EPS), schedule=schedule)
    prediction = denoiser(lambda x, t: y, schedule=schedule, kind=kind)(x_t, T)
    np.testing.assert_allclose(prediction.x0, X0, atol=1e-4)
    np.testing.assert_allclose(prediction.eps, EPS, atol=1e-4)
    assert prediction.log_var is None


def test_learned_variance_is_the_second_half_of_the_channels():
    def model(x, t):
        return jnp.concatenate([x, 5 * jnp.ones_like(x)], axis=-1)

    prediction = denoiser(model, schedule=SCHEDULE, kind="eps", learned_variance=True)(jnp.asarray(X0), T)
    np.testing.assert_allclose(prediction.eps, X0, rtol=1e-6)
    np.testing.assert_array_equal(prediction.log_var, 5)


@pytest.mark.parametrize(
    ("y", "learned"), [(jnp.ones((3, 4)), False), (jnp.ones((3, 2)), True), (jnp.ones((1, 2)), False), (0.5, True)]
)
def test_a_model_of_another_shape_is_refused(y, learned):
    denoise = denoiser(lambda x, t: y, schedule=SCHEDULE, kind="eps", learned_variance=learned)
    with pytest.raises(InputError, match=f"the model returned .* with learned_variance={learned} expected"):
        denoise(jnp.ones((3, 2)), jnp.float32(0.5))


def test_the_network_gets_exactly_the_papers_step_numbers():
    k = np.arange(1000)
    t = jnp.asarray((k + 1) / 1000, jnp.float32)
    seen = at_steps(lambda x, c: c, T=1000)(jnp.zeros((1000, 1)), t)
    np.testing.assert_array_equal(seen, k)
    assert at_steps(lambda x, c: c, T=1000)(jnp.zeros((4, 1)), jnp.float32(0.5)).tolist() == [499.0] * 4
    np.testing.assert_allclose(at_scaled_time(lambda x, c: c)(jnp.zeros((3, 1)), T), [100, 500, 900], rtol=1e-6)


def wild_prediction(x_t, t, scale=3.0, schedule=SCHEDULE):
    """x0 far outside the data's range, and the noise that adds up to x_t."""
    alpha, sigma = (np.reshape(f(t), (-1, 1, 1, 1)) for f in (schedule.alpha, schedule.sigma))
    x0 = scale * X0
    return Prediction(jnp.asarray(x0), jnp.asarray((np.asarray(x_t) - alpha * x0) / sigma, jnp.float32))


def thresholds(denoise, **options):
    return {"clip": clip_x0(denoise, **options), "dynamic": dynamic_threshold(denoise, percentile=0.8, **options)}


@pytest.mark.parametrize("name", ["clip", "dynamic"])
def test_a_prediction_held_in_range_still_adds_up_to_x_t(name):
    x_t = q_sample(jnp.asarray(X0), T, jnp.asarray(EPS), schedule=SCHEDULE)
    prediction = thresholds(wild_prediction, schedule=SCHEDULE)[name](x_t, T)
    assert np.abs(prediction.x0).max() <= 1
    assert np.abs(prediction.x0 - 3 * X0).max() > 0.5
    np.testing.assert_allclose(q_sample(prediction.x0, T, prediction.eps, schedule=SCHEDULE), x_t, atol=1e-5)


def test_clipping_is_numpys():
    x_t = q_sample(jnp.asarray(X0), T, jnp.asarray(EPS), schedule=SCHEDULE)
    found = clip_x0(wild_prediction, schedule=SCHEDULE, low=-0.5, high=2.0)(x_t, T).x0
    np.testing.assert_allclose(found, np.clip(3 * X0, -0.5, 2), rtol=1e-6)


@pytest.mark.parametrize("percentile", [0.5, 0.995])
@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_dynamic_thresholding_is_imagens(percentile, scale):
    """s = the percentile of |x0| in each example, at least 1; clip(x0, -s, s) / s."""
    x_t = q_sample(jnp.asarray(X0), T, jnp.asarray(EPS), schedule=SCHEDULE)
    wild = lambda x, t: wild_prediction(x, t, scale)
    found = dynamic_threshold(wild, schedule=SCHEDULE, percentile=percentile)(x_t, T)
    x0 = scale * X0
    s = np.maximum(np.quantile(np.abs(x0).reshape(3, -1), percentile, axis=1), 1).reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(found.x0, np.clip(x0, -s, s) / s, rtol=1e-5)
    alone = dynamic_threshold(lambda x, t: wild(x_t, T)._replace(x0=jnp.asarray(x0[:1])), schedule=SCHEDULE)
    assert alone(x_t[:1], T[:1]).x0.shape == (1, 2, 2, 1)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", ["clip", "dynamic"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_held_in_range_at_both_ends_all_is_finite(schedule, name, dtype):
    """sigma = 0 and alpha = 0, in values and gradients."""
    schedule, ends = SCHEDULES[schedule](), jnp.array([0.0, 0.5, 1.0])

    def held(x):
        x = x.astype(dtype)
        denoise = lambda x, t: Prediction(3 * x, -2 * x)
        p = thresholds(denoise, schedule=schedule)[name](x, ends)
        assert p.x0.dtype == p.eps.dtype == dtype
        return jnp.stack([p.x0, p.eps]).astype(jnp.float32)

    x = jnp.asarray(X0)
    assert np.isfinite(held(x)).all()
    assert np.isfinite(jax.grad(lambda x: held(x).sum())(x)).all()


@pytest.mark.parametrize("name", ["clip", "dynamic"])
def test_what_is_in_range_stays_to_the_last_bit(name):
    """Half precision too: eps made again from x_t and x0 would be wrong by 2^-9 / sigma."""
    x = jnp.asarray(X0).astype(jnp.bfloat16)
    given = Prediction((0.1 * x).astype(x.dtype), x)
    found = thresholds(lambda x, t: given, schedule=SCHEDULE)[name](x, jnp.float32(0.01))
    np.testing.assert_array_equal(found.x0, given.x0)
    np.testing.assert_array_equal(found.eps, given.eps)


def test_an_old_network_that_predicts_the_previous_mean_is_a_denoiser():
    """At every step of a table, with the network's own step numbers, from equation 7 in numpy."""
    table = schedules.linear(50, beta_end=0.2)
    betas = np.array(table.betas)
    bar = np.cumprod(1 - betas)
    before = bar / (1 - betas)
    k = np.arange(50)
    x0, eps = rng.standard_normal((2, 50, 4))
    x_t = np.sqrt(bar)[:, None] * x0 + np.sqrt(1 - bar)[:, None] * eps
    mean = (np.sqrt(before) * betas / (1 - bar))[:, None] * x0
    mean += (np.sqrt(1 - betas) * (1 - before) / (1 - bar))[:, None] * x_t

    def network(x, step):
        np.testing.assert_array_equal(step, k)
        return jnp.asarray(mean, jnp.float32)

    denoise = denoiser(at_steps(network, T=50), schedule=table, kind=previous_mean(50))
    found = denoise(jnp.asarray(x_t, jnp.float32), jnp.asarray((k + 1) / 50, jnp.float32))
    np.testing.assert_allclose(found.x0, x0, atol=1e-4)
    np.testing.assert_allclose(found.eps[1:], eps[1:], atol=1e-4)


def self_model(x, t, estimate):
    """A network that corrects its estimate."""
    return 0.5 * x + 0.25 * estimate * (1 + t)[:, None, None, None]


def test_two_pass_calls_with_nothing_then_with_its_own_x0():
    denoise = self_conditioned(self_model, schedule=SCHEDULE, kind="x0")
    x = jnp.asarray(X0)
    first = self_model(x, T, 0 * x)
    np.testing.assert_allclose(denoise(x, T).x0, first, rtol=1e-6)
    np.testing.assert_allclose(two_pass(denoise)(x, T).x0, self_model(x, T, first), rtol=1e-5)


def test_training_sees_an_estimate_for_half_of_the_examples():
    """By the example's key alone; the estimate is the model's own first answer."""
    n = 4000
    x, t = jnp.asarray(rng.standard_normal((n, 1, 1, 1)), jnp.float32), jnp.full((n,), 0.5)
    keys = jax.random.split(jax.random.key(3), n)
    arguments = {"schedule": SCHEDULE, "kind": "x0"}
    y = with_first_estimate(keys, self_model, **arguments)(x, t)
    without = self_model(x, t, 0 * x)
    told = np.asarray(jnp.abs(y - without).reshape(n) > 1e-6)
    assert abs(told.mean() - 0.5) < 5 * 0.5 / np.sqrt(n)
    np.testing.assert_allclose(y[told], self_model(x, t, without)[told], rtol=1e-5)
    np.testing.assert_allclose(with_first_estimate(keys[5:9], self_model, **arguments)(x[5:9], t[5:9]), y[5:9])
    for probability, expected in ((0.0, without), (1.0, self_model(x, t, without))):
        always = with_first_estimate(keys, self_model, probability=probability, **arguments)
        np.testing.assert_allclose(always(x, t), expected, rtol=1e-5)


def test_no_gradient_flows_through_the_estimate():
    """Of w x + estimate with the estimate w x (known): dy/dw is x, not 2 x. It works in any loss."""
    x0, t = jnp.asarray(X0), T

    def loss(w, stop):
        network = lambda x, t, estimate: w * x + estimate
        model = with_first_estimate(jax.random.key(0), network, schedule=SCHEDULE, kind="x0", probability=1.0)
        known = lambda x, t: w * x + jax.lax.stop_gradient(w) * x
        return losses.simple(x0, t, x0, model=known if stop else model, schedule=SCHEDULE, kind="x0")["loss"].sum()

    np.testing.assert_allclose(jax.grad(loss)(0.3, False), jax.grad(loss)(0.3, True), rtol=1e-5)


def test_self_conditioning_with_a_learned_variance():
    network = lambda x, t, estimate: jnp.concatenate([x + estimate, 5 * jnp.ones_like(x)], axis=-1)
    arguments = {"schedule": SCHEDULE, "kind": "x0", "learned_variance": True}
    prediction = two_pass(self_conditioned(network, **arguments))(jnp.asarray(X0), T)
    np.testing.assert_array_equal(prediction.log_var, 5)
    np.testing.assert_allclose(prediction.x0, 2 * X0, rtol=1e-6)
    y = with_first_estimate(jax.random.key(0), network, probability=1.0, **arguments)(jnp.asarray(X0), T)
    np.testing.assert_allclose(y[..., :1], 2 * X0, rtol=1e-6)


@pytest.mark.parametrize("t", [0.2, 0.6])
def test_exact_denoisers_are_posterior_means(t):
    """E[x_0 | x_t] by numerical integration of Bayes' rule, for one Gaussian and for a mixture of two."""
    means, weights, std, x_t = np.array([-0.6, 0.9]), np.array([1.0, 3.0]), 0.25, 0.35
    alpha, sigma = float(SCHEDULE.alpha(t)), float(SCHEDULE.sigma(t))

    def posterior_mean(density):
        joint = lambda x: density(x) * norm.pdf(x_t, alpha * x, sigma)
        return quad(lambda x: x * joint(x), -4, 4, limit=200)[0] / quad(joint, -4, 4, limit=200)[0]

    x = jnp.full((1, 1), x_t, jnp.float32)
    gaussian = testing.gaussian_denoiser(mean=-0.6, std=std, schedule=SCHEDULE)(x, jnp.float32(t))
    np.testing.assert_allclose(gaussian.x0[0, 0], posterior_mean(lambda x: norm.pdf(x, -0.6, std)), rtol=1e-4)

    mixture = testing.mixture_denoiser(
        means=jnp.asarray(means[:, None], jnp.float32), std=std, weights=jnp.asarray(weights), schedule=SCHEDULE
    )(x, jnp.float32(t))
    expected = posterior_mean(lambda x: (weights * norm.pdf(x, means, std)).sum())
    np.testing.assert_allclose(mixture.x0[0, 0], expected, rtol=1e-4)
    np.testing.assert_allclose(alpha * mixture.x0 + sigma * mixture.eps, x, rtol=1e-5)
