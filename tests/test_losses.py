"""Losses against closed forms, scipy, and the derivatives that they must and must not have."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxdiff import InputError, Prediction, losses, q_sample, schedules, testing
from jaxdiff.likelihood_terms import vlb_term
from jaxdiff.parameterization import KINDS, from_prediction, kind_weight, to_prediction
from jaxdiff.weighting import min_snr

rng = np.random.default_rng(0)
SCHEDULE = schedules.VP()
TABLE = schedules.linear(20, beta_end=0.3)


@pytest.mark.parametrize("kind", KINDS)
def test_expected_loss_of_the_exact_model_is_the_posterior_variance(kind):
    """For data N(0, c^2) the best model's error in x0 is c^2 sigma^2 / (alpha^2 c^2 + sigma^2), times the kind's weight."""
    c, n = 0.5, 100_000
    x0 = jnp.asarray(c * rng.standard_normal((n, 1)), jnp.float32)
    eps = jnp.asarray(rng.standard_normal((n, 1)), jnp.float32)
    t = jnp.full((n,), 0.4)
    exact = testing.gaussian_denoiser(mean=0.0, std=c, schedule=SCHEDULE)

    def model(x, t):
        return from_prediction(exact(x, t), t, kind=kind, schedule=SCHEDULE)

    terms = losses.simple(x0, t, eps, model=model, schedule=SCHEDULE, kind=kind)
    assert set(terms) == {"loss"}
    assert terms["loss"].shape == (n,)
    alpha, sigma = float(SCHEDULE.alpha(0.4)), float(SCHEDULE.sigma(0.4))
    weight = float(kind_weight(jnp.float32(0.4), kind="x0", as_kind=kind, schedule=SCHEDULE))
    expected = weight * c**2 * sigma**2 / (alpha**2 * c**2 + sigma**2)
    np.testing.assert_allclose(terms["loss"].mean(), expected, rtol=0.03)


def test_loss_is_the_mean_over_dimensions_not_over_examples():
    x0 = jnp.asarray(rng.standard_normal((3, 2, 2, 1)), jnp.float32)
    loss = losses.simple(x0, jnp.full((3,), 0.5), x0, model=lambda x, t: 0 * x, schedule=schedules.Flow(), kind="x0")[
        "loss"
    ]
    np.testing.assert_allclose(loss, np.square(x0).mean((1, 2, 3)), rtol=1e-6)


def test_a_score_counted_as_noise_is_the_noise_loss():
    """Denoising score matching with lambda = sigma^2: |score + eps/sigma|^2 sigma^2 = |sigma score + eps|^2."""
    x0, eps = (jnp.asarray(rng.standard_normal((5, 3)), jnp.float32) for _ in range(2))
    t = jnp.array([0.01, 0.1, 0.3, 0.6, 0.9])
    sigma = np.asarray(SCHEDULE.sigma(t))[:, None]
    arguments = {"schedule": SCHEDULE, "model": lambda x, t: 0.7 * x}
    loss = losses.simple(x0, t, eps, kind="score", as_kind="eps", **arguments)["loss"]
    x_t = np.asarray(SCHEDULE.alpha(t))[:, None] * x0 + sigma * eps
    np.testing.assert_allclose(loss, ((sigma * 0.7 * x_t + eps) ** 2).mean(1), rtol=1e-4)


def test_distances_are_the_functions_of_scipy():
    error = rng.standard_normal((4, 3, 2))
    e = jnp.asarray(error, jnp.float32)
    expected = {
        losses.square: (error**2).mean((1, 2)),
        losses.absolute: np.abs(error).mean((1, 2)),
        losses.huber(0.4): 2 * scipy.special.huber(0.4, error).mean((1, 2)),
        losses.huber(100.0): (error**2).mean((1, 2)),
        # scipy's pseudo-Huber of a number r is c^2 (sqrt(1 + (r/c)^2) - 1); the paper's is 1/c of it, of the norm
        losses.pseudo_huber(0.3): scipy.special.pseudo_huber(0.3, np.sqrt((error**2).sum((1, 2)))) / 0.3,
    }
    for distance, value in expected.items():
        np.testing.assert_allclose(distance(e), value, rtol=1e-5)
    c = 0.00054 * np.sqrt(6)
    np.testing.assert_allclose(losses.pseudo_huber()(e), np.sqrt((error**2).sum((1, 2)) + c**2) - c, rtol=1e-5)


@pytest.mark.parametrize("distance", [losses.square, losses.absolute, losses.huber(), losses.pseudo_huber()])
def test_distances_have_finite_gradients_where_there_is_no_error(distance):
    slope = jax.grad(lambda e: distance(e).sum())(jnp.zeros((2, 3)))
    assert np.isfinite(slope).all()
    if distance is not losses.absolute:  # which has none
        np.testing.assert_array_equal(slope, 0)


def test_a_distance_and_a_weight_are_passed_in():
    x0, eps = (jnp.asarray(rng.standard_normal((3, 4)), jnp.float32) for _ in range(2))
    t = jnp.array([0.1, 0.5, 0.9])
    loss = losses.simple(
        x0, t, eps, model=lambda x, t: 0 * x, schedule=SCHEDULE, kind="eps", weight=min_snr, distance=losses.absolute
    )["loss"]
    weight = min_snr(t, kind="eps", schedule=SCHEDULE)
    np.testing.assert_allclose(loss, weight * np.abs(eps).mean(1), rtol=1e-6)
    with pytest.raises(InputError, match="as_kind or weight, not both"):
        losses.simple(x0, t, eps, model=lambda x, t: x, schedule=SCHEDULE, kind="eps", as_kind="x0", weight=min_snr)


@pytest.mark.parametrize("kind", KINDS)
def test_a_half_precision_model_has_a_float32_loss(kind):
    x0, eps = (jnp.asarray(rng.standard_normal((2, 4)), jnp.float32).astype(jnp.bfloat16) for _ in range(2))
    loss = losses.simple(
        x0, jnp.array([1e-5, 1.0]), eps, model=lambda x, t: x, schedule=schedules.Flow(), kind=kind, weight=min_snr
    )["loss"]
    assert loss.dtype == jnp.float32
    assert np.isfinite(loss).all()


def small_model(params, x, t):
    """Two channels out of one: a prediction, and a variance."""
    return jnp.concatenate([params["mean"] * x + 0.1, jnp.tanh(params["var"] * x)], axis=-1)


BATCH = jnp.asarray(np.linspace(-1, 1, 256)[rng.integers(0, 256, (5, 6, 1))], jnp.float32)
NOISE = jnp.asarray(rng.standard_normal((5, 6, 1)), jnp.float32)
STEPS = jnp.asarray(np.array([1, 2, 7, 15, 20]) / 20, jnp.float32)
PARAMS = {"mean": jnp.float32(0.4), "var": jnp.float32(0.7)}


def hybrid(params, **options):
    options = {"vlb_weight": 0.02} | options
    return losses.hybrid(
        BATCH, STEPS, NOISE, model=partial(small_model, params), schedule=TABLE, kind="eps", T=20, **options
    )


def test_hybrid_teaches_the_mean_by_the_simple_loss_and_the_variance_by_the_bound():
    """Equation 16 with its stop-gradient: d/d mean is that of L_simple alone, d/d variance that of lambda L_vlb alone."""

    def simple(params):
        model = lambda x, t: small_model(params, x, t)[..., :1]
        return losses.simple(BATCH, STEPS, NOISE, model=model, schedule=TABLE, kind="eps")["loss"]

    def bound(params):  # all gradients of the bound, from its terms
        x_t = q_sample(BATCH, STEPS, NOISE, schedule=TABLE)
        y, v = jnp.split(small_model(params, x_t, STEPS), 2, axis=-1)
        prediction = to_prediction(x_t, y, STEPS, kind="eps", schedule=TABLE)._replace(log_var=v)
        s = jnp.asarray(np.array([0, 1, 6, 14, 19]) / 20, jnp.float32)
        return 20 * vlb_term(BATCH, x_t, s, STEPS, prediction, schedule=TABLE, variance="learned_range")

    terms = hybrid(PARAMS)
    np.testing.assert_allclose(terms["simple"], simple(PARAMS), rtol=1e-6)
    np.testing.assert_allclose(terms["vlb"], bound(PARAMS), rtol=1e-4)
    np.testing.assert_allclose(terms["loss"], terms["simple"] + 0.02 * terms["vlb"], rtol=1e-6)

    slope = jax.grad(lambda p: hybrid(p)["loss"].sum())(PARAMS)
    of_simple, of_bound = (jax.grad(lambda p, f=f: f(p).sum())(PARAMS) for f in (simple, bound))
    np.testing.assert_allclose(slope["mean"], of_simple["mean"], rtol=1e-5)
    np.testing.assert_allclose(slope["var"], 0.02 * of_bound["var"], rtol=1e-4)
    assert abs(of_bound["mean"]) > 0.1  # which is what is stopped
    assert of_simple["var"] == 0
    assert abs(slope["var"]) > 1e-3


def test_hybrid_takes_another_simple_loss():
    weighted = hybrid(PARAMS, mean_loss=partial(losses.simple, weight=min_snr))
    plain = hybrid(PARAMS)
    np.testing.assert_allclose(
        weighted["simple"], plain["simple"] * min_snr(STEPS, kind="eps", schedule=TABLE), rtol=1e-5
    )
    np.testing.assert_array_equal(weighted["vlb"], plain["vlb"])


def test_the_mean_of_vlb_over_the_steps_is_the_sum_of_its_terms():
    """t uniform over T steps and a factor of T: an unbiased estimate of the bound. The last term is in it too."""
    table = schedules.linear(4, beta_end=0.5)
    x0, eps = (jnp.broadcast_to(a[:1], (4, 6, 1)) for a in (BATCH, NOISE))
    denoise = testing.gaussian_denoiser(mean=0.0, std=0.5, schedule=table)
    t = jnp.array([0.25, 0.5, 0.75, 1.0])
    loss = losses.vlb(x0, t, eps, denoise=denoise, schedule=table, variance="fixed_large", T=4)["loss"]
    total = 0
    for s, t in ((0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0)):
        x_t = q_sample(x0[:1], t, eps[:1], schedule=table)
        total += vlb_term(x0[:1], x_t, s, t, denoise(x_t, t), schedule=table, variance="fixed_large")[0]
    np.testing.assert_allclose(loss.mean(), total, rtol=1e-4)


def test_vlb_of_a_table_of_a_thousand_is_the_papers_weighted_noise_loss():
    """Equation 12 of DDPM: beta^2 / (2 sigma^2 alpha (1 - alpha_bar)) |eps - eps'|^2 nats, with sigma^2 = beta."""
    table, k = schedules.linear(), np.array([5, 100, 700, 999])
    betas = np.array(table.betas)
    bar = np.cumprod(1 - betas)[k]
    betas, before = betas[k], bar / (1 - betas[k])
    x0, eps = (jnp.asarray(rng.standard_normal((4, 8)), jnp.float32) for _ in range(2))
    guess = np.asarray(eps) + 0.3 * rng.standard_normal((4, 8))
    t = jnp.asarray((k + 1) / 1000, jnp.float32)

    def denoise(x, t):
        return to_prediction(x, jnp.asarray(guess, jnp.float32), t, kind="eps", schedule=table)

    loss = losses.vlb(x0, t, eps, denoise=denoise, schedule=table, variance="fixed_large", T=1000)["loss"]
    small = betas * (1 - before) / (1 - bar)
    variances = 0.5 * (small / betas - 1 - np.log(small / betas))  # the part of the KL that is not the means'
    means = betas / (2 * (1 - betas) * (1 - bar)) * ((guess - np.asarray(eps)) ** 2).mean(1)
    np.testing.assert_allclose(loss, 1000 * (means + variances) / np.log(2), rtol=2e-3)


def test_uncertainty_is_least_at_the_logarithm_of_the_loss_and_then_all_levels_count_alike():
    """d/du (L / e^u + u) = 0 at u = log L, where the gradient in the model is that of log L."""
    t = jnp.array([0.1, 0.5, 0.9])
    loss = jnp.array([0.01, 1.0, 7.0])
    seen = []

    def total(u, loss):
        def log_var(log_snr):
            seen.append(log_snr)
            return u

        terms = losses.uncertainty({"loss": loss, "other": t}, t, log_var=log_var, schedule=schedules.Flow())
        assert set(terms) == {"loss", "unweighted", "other"}
        return terms["loss"].sum()

    of_u, of_loss = jax.grad(total, (0, 1))(jnp.log(loss), loss)
    np.testing.assert_allclose(of_u, 0, atol=1e-6)
    np.testing.assert_allclose(of_loss, 1 / loss, rtol=1e-5)
    np.testing.assert_allclose(seen[0], 2 * np.log((1 - t) / t), rtol=1e-5)


def test_flow_matching_is_the_simple_loss_of_velocity():
    x0, eps = (jnp.asarray(rng.standard_normal((3, 4)), jnp.float32) for _ in range(2))
    t = jnp.array([0.0, 0.3, 1.0])
    x_t = (1 - t)[:, None] * x0 + t[:, None] * eps
    loss = losses.simple(x0, t, eps, model=lambda x, t: 2 * x, schedule=schedules.Flow(), kind="velocity")["loss"]
    np.testing.assert_allclose(loss, ((2 * x_t - (eps - x0)) ** 2).mean(1), rtol=1e-5)


def test_predictions_of_a_network_without_variance_are_refused():
    denoise = lambda x, t: Prediction(x, x)
    with pytest.raises(InputError, match="needs a denoiser with log_var"):
        losses.vlb(BATCH, STEPS, NOISE, denoise=denoise, schedule=TABLE, variance="learned", T=20)
