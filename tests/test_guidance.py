"""Guidance against exact denoisers and the papers' algorithms in numpy, and the contracts that every one keeps.

A new guidance is a function, and a row of `GUIDANCE`.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import (
    DDIM,
    DDPM,
    InputError,
    Prediction,
    guidance,
    q_sample,
    sample,
    samplers,
    schedules,
    testing,
    timesteps,
)
from jaxdiff.denoise import denoiser
from jaxdiff.parameterization import from_prediction

rng = np.random.default_rng(0)
SCHEDULES = {"cosine": schedules.cosine(), "vp": schedules.VP(), "ve": schedules.VE(), "flow": schedules.Flow()}
FLOW = SCHEDULES["flow"]
SHAPE = (4, 3, 2)
X = rng.standard_normal(SHAPE)
T = np.array([0.1, 0.4, 0.7, 0.95])
MEANS, WEIGHTS, STD = rng.standard_normal((2, *SHAPE[1:])), np.array([0.3, 0.7]), 0.8  # two classes
Y = rng.standard_normal((1, 2))  # a measurement: two of the elements
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def measure(x):
    return x[:, 0]


def one_class(schedule, j=0):
    return testing.gaussian_denoiser(mean=MEANS[j][None], std=STD, schedule=schedule)


def all_classes(schedule):
    return testing.mixture_denoiser(means=MEANS, std=STD, weights=WEIGHTS, schedule=schedule)


def halves(schedule):
    return guidance.paired(one_class(schedule), all_classes(schedule))


def log_class_probability(schedule, j=0):
    """log p(j | x_t) by Bayes' rule."""

    def log_prob(x, t):
        parts = [testing.gaussian_log_density(x, t, mean=m[None], std=STD, schedule=schedule) for m in MEANS]
        joint = jnp.stack(parts) + jnp.log(jnp.asarray(WEIGHTS, parts[0].dtype))[:, None]
        return jax.nn.log_softmax(joint, axis=0)[j]

    return log_prob


GUIDANCE = {  # name -> (scale, schedule) -> denoiser
    "classifier_free": lambda w, s: guidance.classifier_free(halves(s), scale=w),
    "rescaled": lambda w, s: guidance.rescaled(halves(s), scale=w, schedule=s),
    "cfg_plus_plus": lambda w, s: guidance.cfg_plus_plus(halves(s), scale=w),
    "adaptive_projected": lambda w, s: guidance.adaptive_projected(halves(s), scale=w, eta=0.3, r=0.5),
    "interval": lambda w, s: guidance.classifier_free(
        halves(s), scale=guidance.interval(w, low=0.05, high=np.inf, schedule=s)
    ),
    "auto": lambda w, s: guidance.auto(one_class(s), all_classes(s), scale=w),
    "product": lambda w, s: guidance.product([one_class(s), all_classes(s)], weights=[w, 0.5], schedule=s),
    "classifier": lambda w, s: guidance.classifier(all_classes(s), log_class_probability(s), scale=w, schedule=s),
    "posterior": lambda w, s: guidance.posterior(
        all_classes(s), guidance.gaussian_likelihood(Y, measure, noise_std=0.3, schedule=s), scale=w, schedule=s
    ),
    "dps": lambda w, s: guidance.dps(all_classes(s), Y, measure, zeta=w, steps=20, schedule=s),
}
every_guidance = pytest.mark.parametrize("name", GUIDANCE)


def on(name, x, t, schedule=FLOW, scale=1.7, dtype=np.float32):
    """One of the table at x and t."""
    times = jnp.asarray(t, np.float64 if dtype == np.float64 else np.float32)
    return GUIDANCE[name](scale, schedule)(jnp.asarray(x, dtype), times)


# Contracts


@every_guidance
def test_dtype_and_shape_are_kept(name):
    for dtype in (jnp.bfloat16, jnp.float32, jnp.float64):
        with jax.enable_x64(dtype == jnp.float64):
            for half in jax.eval_shape(lambda: on(name, X, T, dtype=dtype))[:2]:  # noqa: B023
                assert (half.dtype, half.shape) == (dtype, SHAPE)


@every_guidance
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_both_ends_of_every_schedule_are_finite(name, dtype):
    for schedule in SCHEDULES.values():
        prediction = on(name, X, np.array([0, 1e-4, 0.5, 1]), schedule, dtype=dtype)
        assert all(np.isfinite(np.asarray(half, np.float32)).all() for half in prediction[:2])


@every_guidance
@every_schedule
@pytest.mark.usefixtures("x64")
def test_the_halves_add_up_to_x_t(name, schedule):
    x0, eps = on(name, X, T, schedule, dtype=np.float64)[:2]
    added = q_sample(x0, jnp.asarray(T), eps, schedule=schedule)
    if name == "cfg_plus_plus":  # on purpose not
        assert np.abs(added - X).max() > 0.01
    else:
        np.testing.assert_allclose(added, X, atol=1e-9)


@every_guidance
def test_one_time_stands_for_all_and_an_example_is_the_same_in_any_batch(name):
    guided = jax.jit(lambda x, t: on(name, x, t))
    whole = guided(X, np.full(4, 0.4))
    chex.assert_trees_all_close(guided(X, 0.4), whole, rtol=1e-5)
    part = guided(X[1:3], 0.4)
    chex.assert_trees_all_close(part, jax.tree.map(lambda y: y[1:3], whole), rtol=1e-5)


@every_guidance
def test_another_scale_does_not_recompile_and_scales_may_be_mapped_over_or_differ_by_example(name):
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def guided(scale):
        return on(name, X, T, scale=scale).x0

    scales = np.array([0.0, 0.5, 1.0, 2.5], np.float32)
    one_by_one = jnp.stack([guided(w) for w in scales])
    assert np.abs(one_by_one[3] - one_by_one[1]).max() > 0.01  # the scale does something
    mapped = jax.jit(jax.vmap(lambda w: on(name, X, T, scale=w).x0))(scales)
    np.testing.assert_allclose(mapped, one_by_one, rtol=1e-4, atol=1e-5)
    by_example = jax.jit(lambda w: on(name, X, T, scale=w).x0)(scales)
    np.testing.assert_allclose(by_example, one_by_one[np.arange(4), np.arange(4)], rtol=1e-4, atol=1e-5)


@every_guidance
def test_gradients_are_finite_at_both_ends_and_where_predictions_agree(name):
    def total(x, t, w):
        return sum(jnp.sum(half) for half in GUIDANCE[name](w, FLOW)(x, t)[:2])

    t = jnp.array([0, 0.3, 0.8, 1])
    gradients = jax.grad(total, argnums=(0, 1, 2))(jnp.asarray(X, jnp.float32), t, jnp.float32(1.5))
    chex.assert_tree_all_finite(gradients)
    assert float(jnp.abs(gradients[2])) > 0


# Two predictions


def test_classifier_free_is_one_call_of_a_doubled_batch():
    """Equation 6: eps = (1 + w) eps_c - w eps_u with w = scale - 1."""
    calls = []

    def both(x, t):
        calls.append((x.shape, t.shape))
        half = jnp.arange(2, dtype=x.dtype).repeat(4).reshape(8, 1, 1)  # 0: conditional, 1: unconditional
        return Prediction(x + half, 2 * x - half, half)

    x = X.astype(np.float32)
    for scale in (0.0, 1.0, 1.5, 7.0):
        guided = guidance.classifier_free(both, scale=scale)(jnp.asarray(x), jnp.asarray(T, jnp.float32))
        w = scale - 1
        np.testing.assert_allclose(guided.x0, (1 + w) * x - w * (x + 1), atol=1e-5)
        np.testing.assert_allclose(guided.eps, (1 + w) * 2 * x - w * (2 * x - 1), atol=1e-5)
        np.testing.assert_array_equal(guided.log_var, np.zeros((4, 1, 1)))
    assert calls == [((8, 3, 2), (8,))] * 4


def test_guidance_of_gaussians_is_the_exact_denoiser_of_the_guided_density():
    """Scores of p_c^w p_u^(1-w) of two unit Gaussians with means 1 and 0: a unit Gaussian with mean w."""
    one, two, exact = (testing.gaussian_denoiser(mean=m, std=1.0, schedule=FLOW) for m in (1.0, 0.0, 1.7))
    x, t = jnp.asarray(X, jnp.float32), jnp.asarray(T, jnp.float32)
    guided = guidance.classifier_free(guidance.paired(one, two), scale=1.7)(x, t)
    chex.assert_trees_all_close(guided, exact(x, t), atol=1e-5)


@every_schedule
@pytest.mark.usefixtures("x64")
def test_classifier_free_and_classifier_guidance_are_the_same_arithmetic_of_scores(schedule):
    """And of scale 1 they are the exact denoiser of the class."""
    x, t = jnp.asarray(X), jnp.asarray(T)
    for w in (0.0, 1.0, 3.0):
        by_gradient = GUIDANCE["classifier"](w, schedule)(x, t)
        chex.assert_trees_all_close(by_gradient, GUIDANCE["classifier_free"](w, schedule)(x, t), rtol=1e-6, atol=1e-6)
        if w == 1:
            chex.assert_trees_all_close(by_gradient, one_class(schedule)(x, t), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["v", "eps", "x0", "velocity"])
@pytest.mark.usefixtures("x64")
def test_rescaling_restores_the_contrast(kind):
    """In full at phi = 1, not at all at phi = 0, and by the paper's mix of the two factors between."""
    x, t, schedule = jnp.asarray(X), jnp.asarray(T), SCHEDULES["cosine"]
    plain = guidance.classifier_free(halves(schedule), scale=4.0)(x, t)
    y_pos, y_cfg = (
        np.asarray(from_prediction(p, t, kind=kind, schedule=schedule)) for p in (one_class(schedule)(x, t), plain)
    )
    factor = y_pos.std(axis=(1, 2)) / y_cfg.std(axis=(1, 2))
    assert np.abs(factor - 1).max() > 0.1
    for phi in (0.0, 0.7, 1.0):
        guided = guidance.rescaled(halves(schedule), scale=4.0, phi=phi, kind=kind, schedule=schedule)(x, t)
        y = np.asarray(from_prediction(guided, t, kind=kind, schedule=schedule))
        expected = phi * (factor[:, None, None] * y_cfg) + (1 - phi) * y_cfg
        np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-9)
        if phi == 1:
            np.testing.assert_allclose(y.std(axis=(1, 2)), y_pos.std(axis=(1, 2)), rtol=1e-6)
        if phi == 0:
            chex.assert_trees_all_close(guided, plain, rtol=1e-6, atol=1e-9)


def gaussian_eps(x, alpha, sigma, mean, std):
    """The exact noise prediction of N(mean, std^2), in numpy."""
    return sigma * (x - alpha * mean) / (alpha**2 * std**2 + sigma**2)


@pytest.mark.usefixtures("x64")
def test_cfg_plus_plus_is_algorithm_2_over_ddim_steps():
    schedule, scale, times = schedules.linear(), 0.6, timesteps.trailing(10, T=1000)
    (m_c, c_c), (m_u, c_u) = (0.8, 0.5), (-0.2, 1.1)
    alpha_bar = np.concatenate([[1.0], np.cumprod(1 - np.array(schedule.betas))])
    x, k = X.copy(), np.rint(times * 1000).astype(int)
    for now, then in zip(k[:-1], k[1:], strict=True):
        alpha, sigma = np.sqrt(alpha_bar[now]), np.sqrt(1 - alpha_bar[now])
        eps_u, eps_c = gaussian_eps(x, alpha, sigma, m_u, c_u), gaussian_eps(x, alpha, sigma, m_c, c_c)
        eps = eps_u + scale * (eps_c - eps_u)
        x0 = (x - sigma * eps) / alpha
        x = np.sqrt(alpha_bar[then]) * x0 + np.sqrt(1 - alpha_bar[then]) * eps_u

    both = guidance.paired(
        testing.gaussian_denoiser(mean=m_c, std=c_c, schedule=schedule),
        testing.gaussian_denoiser(mean=m_u, std=c_u, schedule=schedule),
    )
    ours = sample(jax.random.key(0), guidance.cfg_plus_plus(both, scale=scale), DDIM(schedule), times, jnp.asarray(X))
    np.testing.assert_allclose(ours, x, rtol=1e-6, atol=1e-8)
    plain = sample(
        jax.random.key(0), guidance.classifier_free(both, scale=scale), DDIM(schedule), times, jnp.asarray(X)
    )
    assert np.abs(plain - x).max() > 0.01


def projected_x0(x0_c, d, scale, eta, r):
    """The guided x0 of adaptive projected guidance, in numpy, for a batch of vectors."""
    d = d * np.minimum(1, r / np.linalg.norm(d, axis=1, keepdims=True))
    unit = x0_c / np.linalg.norm(x0_c, axis=1, keepdims=True)
    parallel = np.sum(d * unit, axis=1, keepdims=True) * unit
    return x0_c + (scale - 1) * (d - parallel + eta * parallel)


@every_schedule
@pytest.mark.usefixtures("x64")
def test_adaptive_projection(schedule):
    x, t = jnp.asarray(X), jnp.asarray(T)
    x0_c, x0_u = (np.asarray(f(schedule)(x, t).x0).reshape(4, -1) for f in (one_class, all_classes))
    for eta, r in [(0.0, 0.1), (0.4, np.inf), (1.0, 0.05)]:
        guided = guidance.adaptive_projected(halves(schedule), scale=5.0, eta=eta, r=r)(x, t)
        expected = projected_x0(x0_c, x0_c - x0_u, 5.0, eta, r)
        np.testing.assert_allclose(guided.x0.reshape(4, -1), expected, rtol=1e-6, atol=1e-8)
    without = guidance.adaptive_projected(halves(schedule), scale=5.0, eta=1.0)(x, t)
    plain = guidance.classifier_free(halves(schedule), scale=5.0)(x, t)
    chex.assert_trees_all_close(without, plain, rtol=1e-9, atol=1e-9)


def apg_sampler(schedule, **changed):
    return guidance.APGMomentum(
        DDIM(schedule), schedule, **{"scale": 3.0, "eta": 0.2, "r": 0.5, "beta": -0.6} | changed
    )


@pytest.mark.usefixtures("x64")
def test_reverse_momentum_over_ddim_steps():
    """Against the recursion in numpy; without momentum it is the stateless guidance."""
    schedule, times = FLOW, timesteps.uniform(8)
    x, running = X.reshape(4, -1).copy(), 0.0
    mean = MEANS[0].reshape(1, -1)
    for t, s in zip(times[:-1], times[1:], strict=True):
        x0_c, x0_u = (x - t * gaussian_eps(x, 1 - t, t, m, c) for m, c in ((mean, STD), (0.0, 1.0)))
        x0_c, x0_u = (y / (1 - t) if t < 1 else np.zeros_like(x) + m for y, m in ((x0_c, mean), (x0_u, 0.0)))
        running = x0_c - x0_u - 0.6 * running
        x0 = projected_x0(x0_c, running, 3.0, 0.2, 0.5)
        x = (1 - s) * x0 + s * (x - (1 - t) * x0) / t

    both = guidance.paired(one_class(schedule), testing.gaussian_denoiser(mean=0.0, std=1.0, schedule=schedule))
    ours = sample(jax.random.key(0), both, apg_sampler(schedule), times, jnp.asarray(X))
    np.testing.assert_allclose(ours.reshape(4, -1), x, rtol=1e-6, atol=1e-8)

    none = sample(jax.random.key(0), both, apg_sampler(schedule, beta=0.0), times, jnp.asarray(X))
    stateless = guidance.adaptive_projected(both, scale=3.0, eta=0.2, r=0.5)
    np.testing.assert_allclose(none, sample(jax.random.key(0), stateless, DDIM(schedule), times, jnp.asarray(X)))
    assert np.abs(none - ours).max() > 0.01


def test_momentum_makes_no_call_of_its_own_and_no_number_recompiles():
    calls = []

    def both(x, t):
        calls.append(x.shape)
        return halves(FLOW)(x, t)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(sampler, x):
        return sampler.step(jax.random.key(0), sampler.init(x), jnp.float32(0.5), jnp.float32(0.4), both)

    chex.clear_trace_counter()
    x = jnp.asarray(X, jnp.bfloat16)
    first, second = (step(apg_sampler(FLOW, scale=w, eta=w, r=w, beta=-w), x) for w in (0.5, 2.0))
    assert calls == [(8, 3, 2)]
    assert first.x.dtype == first.running.dtype == jnp.bfloat16
    assert float(jnp.abs(first.x - second.x).max()) > 0


def test_autoguidance_is_an_extrapolation_from_the_worse_model():
    good = lambda x, t: Prediction(2 * x, 3 * x, 4 * x)
    worse = lambda x, t: Prediction(x + 1, -x)
    x = X.astype(np.float32)
    guided = guidance.auto(good, worse, scale=2.5)(jnp.asarray(x), jnp.float32(0.5))
    np.testing.assert_allclose(guided.x0, (x + 1) + 2.5 * (2 * x - (x + 1)), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(guided.eps, -x + 2.5 * (3 * x + x), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(guided.log_var, 4 * x)


@pytest.mark.parametrize(
    ("guide", "outside"),
    [
        (lambda w: guidance.classifier_free(halves(FLOW), scale=w), 1.0),
        (lambda w: guidance.rescaled(halves(FLOW), scale=w, schedule=FLOW), 1.0),
        (lambda w: guidance.adaptive_projected(halves(FLOW), scale=w), 1.0),
        (lambda w: guidance.auto(one_class(FLOW), all_classes(FLOW), scale=w), 1.0),
        (lambda w: guidance.classifier(one_class(FLOW), log_class_probability(FLOW), scale=w, schedule=FLOW), 0.0),
    ],
    ids=["classifier_free", "rescaled", "adaptive_projected", "auto", "classifier"],
)
def test_guided_in_an_interval_of_noise_and_the_plain_conditional_model_outside(guide, outside):
    """sigma / alpha = t / (1 - t) is 0.25, 1, 1, 4: the interval leaves its lower end out and has its upper end in."""
    x, t = jnp.asarray(X, jnp.float32), jnp.array([0.2, 0.5, 0.5, 0.8])
    for low, high, inside in [(0.5, 2.0, [1, 2]), (1.0, 9.0, [3]), (0.0, 1.0, [0, 1, 2]), (2.0, np.inf, [3])]:
        scale = guidance.interval(3.0, low=low, high=high, schedule=FLOW, outside=outside)
        guided, always, never = guide(scale)(x, t), guide(3.0)(x, t), one_class(FLOW)(x, t)
        mask = np.isin(np.arange(4), inside)[:, None, None]
        assert np.abs(always.x0 - never.x0).max(axis=(1, 2)).min() > 1e-3
        expected = jax.tree.map(lambda a, b, mask=mask: np.where(mask, a, b), always, never)
        chex.assert_trees_all_close(guided, expected, rtol=1e-4, atol=1e-5)


# Products


@every_schedule
@pytest.mark.usefixtures("x64")
def test_a_product_of_experts_adds_their_scores(schedule):
    """eps = -sigma times the gradient of the weighted sum of log densities, by automatic differentiation."""
    t = jnp.asarray(T)

    def log_density(x):
        mixture = testing.mixture_log_density(x, t, means=MEANS, std=STD, weights=WEIGHTS, schedule=schedule)
        return jnp.sum(1.5 * testing.gaussian_log_density(x, t, mean=0.5, std=0.8, schedule=schedule) - 0.3 * mixture)

    experts = [testing.gaussian_denoiser(mean=0.5, std=0.8, schedule=schedule), all_classes(schedule)]
    composed = guidance.product(experts, weights=[1.5, -0.3], schedule=schedule)(jnp.asarray(X), t)
    expected = -schedules.expand(schedule.sigma(t), composed.eps) * jax.grad(log_density)(jnp.asarray(X))
    np.testing.assert_allclose(composed.eps, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.usefixtures("x64")
def test_a_product_of_gaussians_is_exact_near_the_data():
    """N(m1, c1) N(m2, c2) has precision and precision-weighted mean the sums; compared are the scores -eps / sigma."""
    m, c, t = np.array([-0.7, 1.2]), np.array([0.5, 0.9]), jnp.float64(1e-5)
    experts = [testing.gaussian_denoiser(mean=a, std=b, schedule=FLOW) for a, b in zip(m, c, strict=True)]
    precision = (c**-2).sum()
    exact = testing.gaussian_denoiser(mean=(m / c**2).sum() / precision, std=precision**-0.5, schedule=FLOW)
    composed = guidance.product(experts, weights=np.ones(2), schedule=FLOW)(jnp.asarray(X), t)
    np.testing.assert_allclose(composed.eps / t, exact(jnp.asarray(X), t).eps / t, rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures("x64")
def test_the_path_of_a_product_shrinks_too_much():
    """What the docstring warns of: dx / dsigma = 2 sigma x / (s^2 + sigma^2) on VE paths."""
    schedule, s = schedules.EDM(), 0.5
    expert = testing.gaussian_denoiser(mean=0.0, std=s, schedule=schedule)
    denoise = guidance.product([expert, expert], weights=[1.0, 1.0], schedule=schedule)
    x, times = jnp.full((1, 1), 80.0), timesteps.karras(400, schedule=schedule, end=0.1)
    first, last = schedule.sigma(jnp.asarray(times[[0, -1]]))
    found = sample(jax.random.key(0), denoise, samplers.Heun(schedule), times, x)
    np.testing.assert_allclose(found, x * (s**2 + last**2) / (s**2 + first**2), rtol=1e-3)


@pytest.mark.usefixtures("x64")
def test_independent_conditions_compose_when_the_prior_is_counted_once():
    """x ~ N(0, 1), a and b two noisy readings of it: p(x | a, b) from p(x), p(x | a) and p(x | b), near the data. At
    pure noise the weights, which sum to 1, make x0 the same combination of means."""
    a, b, var_a, var_b = 0.9, -0.4, 0.5, 0.2

    def reading(precision, shift):
        mean = shift / (1 + precision)
        return testing.gaussian_denoiser(mean=mean, std=(1 + precision) ** -0.5, schedule=FLOW), mean

    (prior, _), (given_a, m_a), (given_b, m_b) = (
        reading(0, 0),
        reading(1 / var_a, a / var_a),
        reading(1 / var_b, b / var_b),
    )
    exact, _ = reading(1 / var_a + 1 / var_b, a / var_a + b / var_b)
    composed = guidance.product([prior, given_a, given_b], weights=[-1.0, 1.0, 1.0], schedule=FLOW)
    t = jnp.float64(1e-5)
    np.testing.assert_allclose(
        composed(jnp.asarray(X), t).eps / t, exact(jnp.asarray(X), t).eps / t, rtol=1e-3, atol=1e-3
    )
    np.testing.assert_allclose(composed(jnp.asarray(X), jnp.float64(1.0)).x0, m_a + m_b, rtol=1e-6)


# Measurements: x ~ N(m, c^2 I) in 4 dimensions, y = A x + noise with A A^T = I

N_X, PRIOR_MEAN, C, NOISE = 4, np.array([0.5, -0.3, 0.2, 1.0]), 0.7, 0.25
A = np.linalg.qr(rng.standard_normal((N_X, 2)))[0].T
READING = np.array([[0.8, -0.6]])
POST_COV = np.linalg.inv(np.eye(N_X) / C**2 + A.T @ A / NOISE**2)
POST_MEAN = POST_COV @ (PRIOR_MEAN / C**2 + A.T @ READING[0] / NOISE**2)


def project(x):
    return x @ jnp.asarray(A.T, x.dtype)


def exact_posterior(schedule):
    prior = testing.gaussian_denoiser(mean=PRIOR_MEAN[None], std=C, schedule=schedule)
    likelihood = guidance.gaussian_likelihood(READING, project, noise_std=NOISE, data_std=C, schedule=schedule)
    return guidance.posterior(prior, likelihood, schedule=schedule)


@every_schedule
@pytest.mark.usefixtures("x64")
def test_posterior_guidance_with_the_exact_variance_is_the_posterior_mean(schedule):
    """E[x_0 | x_t, y] by adding up the precisions of prior, measurement and noise."""
    x = rng.standard_normal((4, N_X))
    guided = exact_posterior(schedule)(jnp.asarray(x), jnp.asarray(T))
    for i, t in enumerate(T):
        alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
        precision = np.linalg.inv(POST_COV) + np.eye(N_X) * alpha**2 / sigma**2
        mean = np.linalg.solve(precision, np.linalg.solve(POST_COV, POST_MEAN) + alpha * x[i] / sigma**2)
        np.testing.assert_allclose(guided.x0[i], mean, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(guided.eps[i], (x[i] - alpha * mean) / sigma, rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_ddim_under_posterior_guidance_samples_the_posterior():
    """The map from noise to sample is affine: its value at 0 and its matrix give mean and covariance without drawing."""
    schedule = schedules.VP()
    x = jnp.concatenate([jnp.zeros((1, N_X)), jnp.eye(N_X)]) * schedule.sigma(1.0)
    out = np.asarray(sample(jax.random.key(0), exact_posterior(schedule), DDIM(schedule), timesteps.uniform(1000), x))
    np.testing.assert_allclose(out[0], POST_MEAN, atol=0.01)
    np.testing.assert_allclose((out[1:] - out[0]).T @ (out[1:] - out[0]), POST_COV, atol=0.01 * C**2)


@pytest.mark.usefixtures("x64")
def test_without_the_variance_of_x0_the_likelihood_is_that_of_dps():
    """grad log p(y | x0(x_t)) = J A^T (y - A x0) / noise_std^2 with J = dx0/dx_t, here a number."""
    x, t = rng.standard_normal((2, N_X)), 0.4
    prior = testing.gaussian_denoiser(mean=PRIOR_MEAN[None], std=C, schedule=FLOW)
    likelihood = guidance.gaussian_likelihood(READING, project, noise_std=NOISE, schedule=FLOW)
    guided = guidance.posterior(prior, likelihood, scale=0.3, schedule=FLOW)(jnp.asarray(x), jnp.float64(t))
    x0 = np.asarray(prior(jnp.asarray(x), jnp.float64(t)).x0)
    jacobian = (1 - t) * C**2 / ((1 - t) ** 2 * C**2 + t**2)
    g = jacobian * (READING - x0 @ A.T) @ A / NOISE**2
    np.testing.assert_allclose(guided.eps, (x - (1 - t) * x0) / t - t * 0.3 * g, rtol=1e-6)


@pytest.mark.parametrize(("table", "steps"), [(schedules.linear(20, beta_end=0.3), 20), (schedules.linear(), 10)])
@pytest.mark.usefixtures("x64")
def test_dps_with_ddpm_is_algorithm_1(table, steps):
    """Ancestral steps from the tables of the grid's own betas, noise and all, then the gradient step on x_{i-1}."""
    zeta, z = 0.15, 0.4  # the noise drawn is this number
    alpha_bar = np.concatenate([[1.0], np.cumprod(1 - np.array(table.betas))])[:: table.T // steps]
    x = rng.standard_normal((3, N_X))
    start = jnp.asarray(x)
    for i in range(steps, 0, -1):
        beta, before = 1 - alpha_bar[i] / alpha_bar[i - 1], alpha_bar[i - 1]
        var = alpha_bar[i] * C**2 + 1 - alpha_bar[i]
        jacobian = np.sqrt(alpha_bar[i]) * C**2 / var
        x0 = PRIOR_MEAN + jacobian * (x - np.sqrt(alpha_bar[i]) * PRIOR_MEAN)
        residual = READING - x0 @ A.T
        gradient = -2 * jacobian * residual @ A  # of |y - A x0|^2
        x = (np.sqrt(1 - beta) * (1 - before) * x + np.sqrt(before) * beta * x0) / (1 - alpha_bar[i])
        x = x + z * np.sqrt(beta * (1 - before) / (1 - alpha_bar[i]))
        x = x - zeta / np.linalg.norm(residual, axis=1, keepdims=True) * gradient

    prior = testing.gaussian_denoiser(mean=PRIOR_MEAN[None], std=C, schedule=table)
    guided = guidance.dps(prior, READING, project, zeta=zeta, steps=steps, schedule=table)
    sampler = DDPM(table, noise=lambda key, shape: jnp.full(shape, z))
    ours = sample(jax.random.key(0), guided, sampler, timesteps.uniform(steps), start)
    np.testing.assert_allclose(ours, x, rtol=1e-6, atol=1e-8)


def test_dps_has_no_gradient_where_the_measurement_is_met():
    prior = testing.gaussian_denoiser(mean=0.0, std=1.0, schedule=FLOW)
    guided = guidance.dps(prior, jnp.zeros((1, 2)), lambda x: x, zeta=0.3, steps=10, schedule=FLOW)
    x, t = jnp.zeros((1, 2)), jnp.float32(0.5)
    chex.assert_trees_all_close(guided(x, t), prior(x, t))


# Misuse


def test_a_denoiser_without_two_halves_is_refused():
    one_half = lambda x, t: Prediction(x[:4], x[:4])
    for guide in (guidance.classifier_free, guidance.cfg_plus_plus, guidance.adaptive_projected):
        with pytest.raises(InputError, match=r"returned 4 for a batch of 8.*concatenate\(\[labels, null\]\)"):
            guide(one_half, scale=2.0)(jnp.asarray(X, jnp.float32), jnp.float32(0.5))

    def bound_to_one_batch_of_labels(x, t):
        return Prediction(x + jnp.ones((4, 1, 1)), x)

    with pytest.raises(InputError) as caught:
        guidance.classifier_free(bound_to_one_batch_of_labels, scale=2.0)(jnp.asarray(X, jnp.float32), jnp.float32(0.5))
    assert "concatenate([labels, null])" in str(caught.value)


def test_what_the_denoiser_itself_refuses_comes_first():
    misspelt = denoiser(lambda x, t: x, schedule=FLOW, kind="epsilon")
    with pytest.raises(InputError, match=r"^unknown prediction kind 'epsilon'; expected one of eps, .*If that is for"):
        guidance.classifier_free(misspelt, scale=2.0)(jnp.asarray(X, jnp.float32), jnp.float32(0.5))


def test_wrong_numbers_are_refused():
    with pytest.raises(InputError, match="one weight per denoiser, got 1 and 2 weights"):
        guidance.product([one_class(FLOW)], weights=[1.0, 2.0], schedule=FLOW)
    with pytest.raises(InputError, match="noise_std"):
        guidance.gaussian_likelihood(jnp.zeros((1, 1)), lambda x: x, noise_std=0.0, schedule=FLOW)
    with pytest.raises(InputError, match="one value per example"):
        on("classifier_free", X, 0.5, scale=jnp.ones(3))
