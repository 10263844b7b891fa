"""Loss weights against their papers' formulas, for every kind and schedule, in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from jaxdiff import losses, schedules, testing
from jaxdiff.build import SCHEDULES
from jaxdiff.parameterization import KINDS, from_prediction, kind_weight
from jaxdiff.weighting import WEIGHTS, edm, elbo, min_snr, p2, sigmoid

rng = np.random.default_rng(0)
T = (np.array([60, 300, 555, 800, 950]) + 0.4) / 1000  # between the knots of a table: its slopes jump there


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def numbers(schedule):
    """alpha, sigma and their slopes by central differences."""
    h = 1e-5

    def at(t):
        return np.asarray(schedule.alpha(jnp.asarray(t))), np.asarray(schedule.sigma(jnp.asarray(t)))

    (a1, s1), (a2, s2) = at(T - h), at(T + h)
    return *at(T), (a2 - a1) / (2 * h), (s2 - s1) / (2 * h)


def papers(name, alpha, sigma, d_alpha, d_sigma):
    """Which error the paper weights, and the weight."""
    snr = (alpha / sigma) ** 2
    slope = 2 * (d_alpha / alpha - d_sigma / sigma)  # of the log-SNR
    noise = sigma / alpha
    return {
        "min_snr": ("x0", np.minimum(snr, 5)),
        "truncated_snr": ("x0", np.maximum(snr, 1)),
        "p2": ("eps", 1 / (1 + snr)),
        "edm": ("x0", (noise**2 + 0.5**2) / (noise * 0.5) ** 2),
        "elbo": ("eps", -slope / 2),
        "sigmoid": ("eps", -slope / 2 / (1 + snr)),
    }[name]


def error(kind, alpha, sigma, d_alpha, d_sigma):
    """By how much the kind differs where x0 differs by sigma and eps by -alpha."""
    scale = np.sqrt(alpha**2 * 0.25 + sigma**2)
    a, b = {
        "eps": (0, 1),
        "x0": (1, 0),
        "v": (-sigma, alpha),
        "score": (0, -1 / sigma),
        "velocity": (d_alpha, d_sigma),
        "F": (sigma / 0.5 / scale, -alpha * 0.5 / scale),
    }[kind]
    return a * sigma - b * alpha


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_are_the_papers_formulas_in_every_kind(name, schedule):
    schedule = SCHEDULES[schedule]()
    given = numbers(schedule)
    stated_kind, stated = papers(name, *given)
    for kind in KINDS:
        expected = stated * (error(stated_kind, *given) / error(kind, *given)) ** 2
        actual = WEIGHTS[name](jnp.asarray(T), kind=kind, schedule=schedule)
        np.testing.assert_allclose(actual, expected, rtol=1e-5, err_msg=kind)


def test_other_numbers():
    """gamma, k, bias and sigma_data, at alpha = 0.8, sigma = 0.2."""
    t, flow, snr = jnp.float32(0.2), schedules.Flow(), 16.0
    close = partial(np.testing.assert_allclose, rtol=1e-5)
    close(min_snr(t, kind="eps", schedule=flow, gamma=1.0), 1 / snr)
    close(min_snr(t, kind="eps", schedule=flow, gamma=100.0), 1)
    close(p2(t, kind="eps", schedule=flow, gamma=0.5, k=3.0), (3 + snr) ** -0.5)
    close(edm(t, kind="x0", schedule=flow, sigma_data=2.0), (1 / snr + 4) / (4 / snr))
    rate = float(elbo(t, kind="eps", schedule=flow))
    close(sigmoid(t, kind="eps", schedule=flow, bias=-3.0), rate / (1 + np.exp(3 + np.log(snr))))


@pytest.mark.parametrize("schedule", ["cosine", "vp", "ve", "flow"])
@pytest.mark.parametrize("name", WEIGHTS)
def test_the_weighted_loss_of_a_denoiser_does_not_depend_on_its_kind(name, schedule):
    """One denoiser, dressed as a model of each kind: the same loss, example by example."""
    schedule = SCHEDULES[schedule]()
    x0, eps = (jnp.asarray(rng.standard_normal((5, 6)), jnp.float32) for _ in range(2))
    t = jnp.array([0.05, 0.2, 0.4, 0.7, 0.95])
    denoise = testing.gaussian_denoiser(mean=0.3, std=0.8, schedule=schedule)
    values = []
    for kind in KINDS:
        model = lambda x, t, kind=kind: from_prediction(denoise(x, t), t, kind=kind, schedule=schedule)
        terms = losses.simple(x0, t, eps, model=model, schedule=schedule, kind=kind, weight=WEIGHTS[name])
        values.append(terms["loss"])
    for value in values[1:]:
        np.testing.assert_allclose(value, values[0], rtol=1e-3)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("schedule", [schedules.VP(), schedules.SubVP(), schedules.Flow(), schedules.VE()], ids=str)
def test_the_bound_of_gaussian_data_is_its_mutual_information(schedule):
    """I-MMSE: the elbo-weighted loss of the exact denoiser, integrated over t, is the difference of
    I(x_0; x_t) = log(1 + c^2 SNR(t)) / 2 at the ends."""
    c, ends = 0.7, (0.05, 0.9)

    def snr(t):
        return float((schedule.alpha(t) / schedule.sigma(t)) ** 2)

    def loss(t):
        best = c**2 / (1 + c**2 * snr(t))  # the mean squared error in x0
        return float(elbo(jnp.asarray(t), kind="x0", schedule=schedule)) * best

    information = [0.5 * np.log(1 + c**2 * snr(t)) for t in ends]
    np.testing.assert_allclose(quad(loss, *ends)[0], information[0] - information[1], rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_the_bound_in_discrete_time_tends_to_the_continuous_one():
    """`losses.vlb` of 2,000 steps with the small variance, and `elbo`: the same expected loss for the same model."""
    schedule, T, c = schedules.VP(), 2000, 0.5
    k = np.arange(200, 2000, 300)
    t = jnp.asarray((k + 1) / T)
    node = jnp.ones((len(k), 1))  # any x0 and eps: both losses are the same quadratic form in the error
    denoise = testing.gaussian_denoiser(mean=0.0, std=c, schedule=schedule)
    model = lambda x, t: denoise(x, t).eps
    nats = losses.simple(node, t, -node, model=model, schedule=schedule, kind="eps", weight=elbo)["loss"]
    bits = losses.vlb(node, t, -node, denoise=denoise, schedule=schedule, variance="fixed_small", T=T)["loss"]
    np.testing.assert_allclose(np.asarray(bits) * np.log(2), nats, rtol=0.02)


BOUNDED = {
    "min_snr": KINDS,
    "truncated_snr": ["v", "F"],
    "p2": ["eps", "v", "F"],
    "edm": ["v", "F"],
    "sigmoid": ["v", "F"],
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", WEIGHTS)
def test_at_both_ends_weights_are_limits(name, schedule):
    """No NaN for any kind, and no infinity for those whose weight is bounded."""
    schedule, t = SCHEDULES[schedule](), jnp.array([0.0, 1.0])
    for kind in KINDS:
        weight = WEIGHTS[name](t, kind=kind, schedule=schedule)
        assert (weight.shape, weight.dtype) == ((2,), jnp.float32)
        assert not np.isnan(weight).any(), kind
        assert (weight >= 0).all(), kind
        if kind in BOUNDED.get(name, []) and (name, kind) != ("min_snr", "velocity"):
            assert np.isfinite(weight).all(), kind


def test_limits_of_min_snr_where_signal_or_noise_is_gone():
    """SNR = inf: gamma on x0, 0 on eps. SNR = 0: 0 on x0, 1 on eps and v."""
    ends, flow = jnp.array([0.0, 1.0]), schedules.Flow()
    for kind, expected in {"x0": [5, 0], "eps": [0, 1], "v": [0, 0], "F": [0, 0], "score": [0, 1]}.items():
        np.testing.assert_allclose(min_snr(ends, kind=kind, schedule=flow), expected, atol=1e-12, err_msg=kind)


def test_a_number_in_a_weight_does_not_recompile():
    traces = []

    @jax.jit
    def weight(gamma):
        traces.append(gamma)
        return min_snr(jnp.float32(0.3), kind="v", schedule=schedules.Flow(), gamma=gamma)

    assert float(weight(1.0)) != float(weight(5.0))
    assert len(traces) == 1


@pytest.mark.usefixtures("x64")
def test_min_snr_of_eps_and_v_are_the_papers_special_cases():
    """min(SNR, gamma) / SNR for eps, min(SNR, gamma) / (SNR + 1) for v; and eps counted as x0 is 1 / SNR."""
    schedule, t = schedules.cosine(), jnp.asarray(T)
    snr = np.asarray(schedule.alpha(t) / schedule.sigma(t)) ** 2
    np.testing.assert_allclose(min_snr(t, kind="eps", schedule=schedule), np.minimum(snr, 5) / snr, rtol=1e-9)
    np.testing.assert_allclose(min_snr(t, kind="v", schedule=schedule), np.minimum(snr, 5) / (snr + 1), rtol=1e-9)
    np.testing.assert_allclose(kind_weight(t, kind="eps", as_kind="x0", schedule=schedule), 1 / snr, rtol=1e-9)
