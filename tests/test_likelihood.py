"""Likelihoods against closed forms: densities of Gaussians and mixtures, the Gaussian chain's bound, known entropies."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from jaxdiff import InputError, Prediction, build, likelihood, schedules, testing, timesteps
from jaxdiff.config import Config, Diffusion
from jaxdiff.noise import white_noise
from jaxdiff.schedules import expand

KEY = jax.random.key(4)
FOUR = {"vp": schedules.VP(), "ve": schedules.VE(), "flow": schedules.Flow(), "linear": schedules.linear()}
EACH = pytest.mark.parametrize("name", FOUR)
VP = FOUR["vp"]
MIXTURE = {
    "means": np.random.default_rng(1).normal(size=(4, 2, 2)),
    "std": 0.3,
    "weights": np.array([1.0, 2.0, 3.0, 1.0]),
}
BITS = 1 / np.log(2)


def mixture(schedule=VP):
    return testing.mixture_denoiser(**MIXTURE, schedule=schedule)


def draws(n):
    return testing.mixture_samples(KEY, n, **MIXTURE)


# The density of the probability-flow ODE.


@EACH
def test_the_ode_finds_the_log_density_of_a_mixture(name):
    """To 1e-3 bits/dim with the exact trace, if it starts from the exact p_1; log p_start is log p_0 to that, too."""
    schedule, x = FOUR[name], draws(6)
    exact = partial(testing.mixture_log_density, **MIXTURE, schedule=schedule)
    run = partial(likelihood.ode, schedule=schedule, probe=None, prior_log_density=lambda x: exact(x, jnp.float32(1.0)))
    found = jax.jit(lambda x: run(KEY, x, mixture(schedule)))(x)
    assert found.log_density.shape == (6,)
    for t in (1e-5, 0.0):
        np.testing.assert_allclose(found.log_density / 4 * BITS, exact(x, jnp.float32(t)) / 4 * BITS, atol=1e-3)
    np.testing.assert_allclose(found.bits_per_dim, -found.log_density / 4 * BITS, rtol=1e-6)
    assert 20 < int(found.nfe) < 400


@EACH
@pytest.mark.parametrize("probe", [None, likelihood.rademacher], ids=["exact", "rademacher"])
def test_the_ode_finds_the_log_density_of_a_gaussian(name, probe):
    """From the default prior N(0, sigma_1^2): the affine map to x_1, written here, gives the model's density. The
    Jacobian is a multiple of the identity, so that one probe of signs is exact."""
    schedule, m, c, start = FOUR[name], 0.4, 0.3, 1e-5
    x = m + c * jax.random.normal(KEY, (5, 3))
    (a0, s0), (a1, s1) = ((float(schedule.alpha(t)), float(schedule.sigma(t))) for t in (start, 1.0))
    slope = np.hypot(a1 * c, s1) / np.hypot(a0 * c, s0)
    latent = a1 * m + slope * (np.asarray(x, np.float64) - a0 * m)
    expected = (norm.logpdf(latent, 0, s1) + np.log(slope)).sum(1)

    denoise = testing.gaussian_denoiser(mean=m, std=c, schedule=schedule)
    found = jax.jit(lambda x: likelihood.ode(KEY, x, denoise, schedule=schedule, start=start, probe=probe))(x)
    np.testing.assert_allclose(found.log_density / 3 * BITS, expected / 3 * BITS, atol=1e-3)
    np.testing.assert_allclose(found.latent, latent, rtol=1e-3, atol=2e-3 * s1)


@pytest.mark.parametrize("probe", [likelihood.rademacher, white_noise], ids=["signs", "gaussian"])
def test_hutchinson_is_unbiased(probe):
    """The mean over 2,000 probes is within five standard errors of the closed form, and each is off by more."""
    x = jnp.tile(draws(1), (2000, 1, 1))
    exact = partial(testing.mixture_log_density, x[:1], **MIXTURE, schedule=VP)
    prior = partial(testing.mixture_log_density, t=jnp.float32(1.0), **MIXTURE, schedule=VP)
    run = partial(likelihood.ode, schedule=VP, probe=probe, prior_log_density=prior, rtol=1e-4, atol=1e-4)
    found = jax.jit(lambda key, x: run(key, x, mixture()))(KEY, x).log_density
    error = float(found.std()) / np.sqrt(2000)
    assert error > 1e-3
    assert abs(float(found.mean()) - float(exact(t=jnp.float32(1e-5))[0])) < 5 * error


def test_an_example_belongs_to_its_key():
    x, keys = draws(6), jax.random.split(KEY, 6)
    run = jax.jit(lambda keys, x: likelihood.ode(keys, x, mixture(), schedule=VP, rtol=1e-6, atol=1e-6).log_density)
    whole = run(keys, x)
    np.testing.assert_allclose(run(keys[3:], x[3:]), whole[3:], atol=1e-3)
    assert float(jnp.abs(run(keys[::-1], x) - whole).max()) > 0.01


def test_the_gradient_of_the_log_density_is_the_score():
    """Reverse mode through the whole solve."""
    x, prior = draws(3), partial(testing.mixture_log_density, t=jnp.float32(1.0), **MIXTURE, schedule=VP)

    def total(x, start):
        options = {"schedule": VP, "probe": None, "prior_log_density": prior, "max_steps": 64, "start": start}
        return likelihood.ode(KEY, x, mixture(), **options).log_density.sum()

    t = jnp.float32(0.01)
    score = -mixture()(x, t).eps / expand(VP.sigma(t), x)
    np.testing.assert_allclose(jax.jit(jax.grad(total))(x, t), score, rtol=5e-3, atol=5e-3)


# The variational bound.


def pairs(key, shape):
    """Noise +1, -1, +1, ...: over each pair of equal data the mean of a square is its expectation."""
    return jnp.broadcast_to(jnp.asarray([1.0, -1.0] * (shape[1] // 2)), shape)


def gaussian_chain(x0, schedule, times, mean, std, variance):
    """The expected terms of the bound for data x0 and the exact denoiser of N(mean, std^2), in bits, float64 numpy."""
    coefficients = lambda t: (float(schedule.alpha(t)), float(schedule.sigma(t)) ** 2)

    def variances(s, t):
        (a_s, v_s), (a_t, v_t) = coefficients(s), coefficients(t)
        large = v_t - (a_t / a_s) ** 2 * v_s
        return v_s * large / v_t, large

    terms = []
    for t, s in zip(times[:-1], times[1:], strict=True):
        (a_s, _), (a_t, v_t) = coefficients(s), coefficients(t)
        q, large = variances(s, t)
        gain = a_t * std**2 / (a_t**2 * std**2 + v_t)
        squared = (1 - gain * a_t) ** 2 * (x0 - mean) ** 2 + gain**2 * v_t  # E (x0 - predicted x0)^2 over the noise
        if s > 0:
            p = q if variance == "fixed_small" else large
            shift = (a_s * large / v_t) ** 2 * squared
            terms.append(0.5 * (np.log(p / q) + q / p - 1 + shift / p))
        else:
            table = isinstance(schedule, schedules.Discrete)  # which has the next step's, as in improved DDPM
            p = variances(t, 2 * t)[0] if variance == "fixed_small" and table else large
            terms.append(0.5 * (np.log(2 * np.pi * p) + squared / p))
    a, v = coefficients(times[0])
    return np.array(terms) * BITS, 0.5 * a**2 * x0**2 / v * BITS


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("name", ["vp", "flow", "linear"])
def test_the_bound_is_the_closed_form_of_the_gaussian_chain(name, variance):
    """Term by term in float64, the total in float32 to 1e-4 bits/dim; on the mean an upper bound of the entropy."""
    schedule, m, c, grid = FOUR[name], 0.2, 0.4, timesteps.uniform(50)
    values = m + c * np.array([-1.0, 1.0])  # has the mean and the variance of the data
    x0 = np.repeat(values, 2)[:, None].repeat(4, axis=1).reshape(2, 8)
    denoise = testing.gaussian_denoiser(mean=m, std=c, schedule=schedule)
    options = {"schedule": schedule, "times": grid, "variance": variance, "bins": None, "noise": pairs}
    run = jax.jit(lambda x0: likelihood.vlb(KEY, x0, denoise, **options))
    with jax.enable_x64(True):
        found = run(jnp.asarray(x0))
        terms, prior = gaussian_chain(values, schedule, grid, m, c, variance)
        np.testing.assert_allclose(found["terms"], terms, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(found["prior"], prior, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(found["decoder"], terms[-1], rtol=1e-9)
        total = prior + terms.sum(0)
        np.testing.assert_allclose(found["total"], total, rtol=1e-6)
    np.testing.assert_allclose(run(jnp.asarray(x0, jnp.float32))["total"], total, atol=1e-4)
    assert total.mean() > 0.5 * np.log2(2 * np.pi * np.e * c**2)


def test_the_bound_tends_to_the_entropy_with_the_number_of_steps():
    m, c, gaps = 0.0, 0.5, []
    x0 = jnp.tile(c * jnp.array([-1.0, -1.0, 1.0, 1.0]), (1, 4))
    denoise = testing.gaussian_denoiser(mean=m, std=c, schedule=VP)
    for n in (10, 100, 1000):
        found = likelihood.vlb(
            KEY, x0, denoise, schedule=VP, times=timesteps.uniform(n), variance="fixed_large", bins=None, noise=pairs
        )
        gaps.append(float(found["total"][0]) - 0.5 * np.log2(2 * np.pi * np.e * c**2))
    assert gaps[0] > 4 * gaps[1] > 16 * gaps[2] > 0
    assert gaps[2] < 0.01


CONTINUOUS = {
    "vp": VP,
    "sub_vp": schedules.SubVP(),
    "flow": FOUR["flow"],
    "edm": schedules.EDM(),
    "ve": FOUR["ve"],
    "cosine_log_snr": schedules.CosineLogSNR(log_snr_max=10.0),
    "shifted": schedules.CosineLogSNR(shift=-4.16),
    "interpolated": schedules.InterpolatedCosineLogSNR(),
}


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("name", CONTINUOUS)
def test_the_bound_of_a_run_is_near_the_entropy_on_any_continuous_schedule(name, variance):
    """On 1,000 even steps in t the gap is 0.17 bits/dim on EDM's, 39 on VE. In a step of d in log-SNR a variance that is
    wrong by exp(d) costs d^2 / 4 nats: the small one where the data exceed the noise, the large one, where sigma grows
    and alpha does not, where the noise exceeds the data."""
    schedule, c = CONTINUOUS[name], 0.5
    x0 = jnp.tile(c * jnp.array([-1.0, -1.0, 1.0, 1.0]), (1, 4))
    denoise = testing.gaussian_denoiser(mean=0.0, std=c, schedule=schedule)
    chain, times = build.bound_chain(schedule)
    assert times.shape == (1001,)
    bound = partial(likelihood.vlb, schedule=chain, times=times, variance=variance, bins=None, noise=pairs)
    found = jax.jit(lambda x0: bound(KEY, x0, denoise))(x0)
    gap = float(found["total"][0]) - 0.5 * np.log2(2 * np.pi * np.e * c**2)
    assert 0 < gap < (0.1 if variance == "fixed_small" or name in ("edm", "ve") else 0.005)


def test_the_steps_of_a_bound_are_even_in_log_snr():
    config = Config(diffusion=Diffusion(schedule="flow", kind="velocity"))
    times, log_snr, _ = build.bound_by_step(config, build.Spec((8, 8, 1), None))
    assert (times[0], log_snr[0]) == (1, -np.inf)
    expected = np.linspace(-12, 12, 1000)
    np.testing.assert_allclose(log_snr[1:], expected[1:], atol=1e-4)
    np.testing.assert_allclose(times[1:], 1 / (1 + np.exp(expected[1:] / 2)), rtol=1e-4)
    assert build.bound_settings(config)["spacing"] == "log_snr"


def test_the_bound_with_real_noise_has_its_expectation():
    """Over 3,000 examples, term by term within five standard errors; the squared errors as well."""
    n, m, c, grid = 3000, 0.2, 0.4, timesteps.quadratic(8)
    x0 = jnp.full((n, 2), 0.5)
    denoise = testing.gaussian_denoiser(mean=m, std=c, schedule=VP)
    bound = partial(likelihood.vlb, schedule=VP, times=grid, variance="fixed_small", bins=None)
    found = jax.jit(lambda x0: bound(KEY, x0, denoise))(x0)
    assert found["terms"].shape == (8, n)
    terms, _ = gaussian_chain(np.array(0.5), VP, grid, m, c, "fixed_small")
    error = np.asarray(found["terms"]).std(1) / np.sqrt(n)
    assert np.all(np.abs(np.asarray(found["terms"]).mean(1) - terms) < 5 * error + 1e-5 * np.abs(terms))

    a, v = (np.asarray(f(grid[:-1]), np.float64) for f in (VP.alpha, lambda t: VP.sigma(t) ** 2))
    gain = a * c**2 / (a**2 * c**2 + v)
    x0_mse = (1 - gain * a) ** 2 * (0.5 - m) ** 2 + gain**2 * v
    for name, expected in (("x0_mse", x0_mse), ("eps_mse", a**2 / v * x0_mse)):
        values = np.asarray(found[name])
        assert np.all(np.abs(values.mean(1) - expected) < 5 * values.std(1) / np.sqrt(n) + 1e-5)

    # An example's terms belong to its key.
    few = bound(KEY, x0[:3], denoise)
    np.testing.assert_allclose(few["terms"], found["terms"][:, :3], rtol=1e-5)


def test_the_bound_of_images_on_levels_is_above_the_entropy_and_near_it():
    """Pixels that are level 100 or 140 with probability 1/4 and 3/4: 0.811 bits, and the bound's gap is small."""
    levels, p = np.array([[100.0], [140.0]]) / 127.5 - 1, np.array([0.25, 0.75])
    denoise = testing.mixture_denoiser(means=levels, std=0.0, weights=p, schedule=VP)
    grid = timesteps.quadratic(500)  # its last step starts at sigma = 6e-4, well within a level
    x0 = testing.mixture_samples(KEY, 1000, means=levels, std=0.0, weights=p)
    found = jax.jit(
        lambda x0: likelihood.vlb(KEY, x0, denoise, schedule=VP, times=grid, variance="fixed_small")["total"]
    )(x0)
    entropy, error = -(p * np.log2(p)).sum(), float(found.std()) / np.sqrt(1000)
    assert entropy - 5 * error < float(found.mean()) < entropy + 0.05 + 5 * error
    assert error < 0.05


def test_the_bound_is_traced_once_and_has_gradients():
    calls = []

    def total(mean, x0):
        def denoise(x, t):
            calls.append(t)
            return testing.gaussian_denoiser(mean=mean, std=0.3, schedule=VP)(x, t)

        options = {"schedule": VP, "times": timesteps.uniform(200), "variance": "fixed_large"}
        return likelihood.vlb(KEY, x0, denoise, **options, bins=None)["total"].mean()

    x0 = 0.4 + 0.3 * jax.random.normal(KEY, (50, 4))
    slope = jax.jit(jax.grad(total))
    assert float(slope(0.0, x0)) < -0.5 < 0.5 < float(slope(0.8, x0))  # the best mean lies between
    assert len(calls) == 1


# From levels to densities and back to bits.


def test_dequantised_bins_tile_the_line_around_the_levels():
    u = jnp.arange(8, dtype=jnp.uint8)[:, None].repeat(500, axis=1)
    x = np.asarray(likelihood.dequantise(KEY, u, levels=8))
    np.testing.assert_array_equal(np.rint((x + 1) * 3.5), np.asarray(u))
    assert np.abs((x + 1) * 3.5 - np.asarray(u)).max() > 0.49
    assert abs(((x + 1) * 3.5 - np.asarray(u)).mean()) < 5 * np.sqrt(1 / 12 / x.size)
    np.testing.assert_array_equal(likelihood.dequantise(KEY, u[:2], levels=8), x[:2])


@pytest.mark.parametrize("K", [1, 4, 64])
def test_the_importance_weighted_bound(K):
    """Of p(u), the model's probability of each of 4 levels, known from the normal distribution function: each bound is
    above it, and the gap is that of the delta method, Var[p(x)] / (2 K E[p(x)]^2), once K is large."""
    n, m, c = 4000, 0.3, 0.25
    u = jnp.arange(4, dtype=jnp.uint8)[:, None]
    edges = (np.arange(5) - 0.5) * 2 / 3 - 1
    truth = -np.log2(np.diff(norm.cdf(edges, m, c)))
    density = lambda keys, x: testing.gaussian_log_density(x, 0.0, mean=m, std=c, schedule=schedules.Flow())
    bits = likelihood.dequantised(KEY, jnp.tile(u, (n, 1)), density, samples=K, levels=4).reshape(n, 4)
    mean, error = np.asarray(bits.mean(0)), np.asarray(bits.std(0)) / np.sqrt(n)
    assert np.all(mean > truth - 4 * error)

    v = (np.arange(20_000) + 0.5) / 20_000 - 0.5
    p = norm.pdf(2 * (np.arange(4)[:, None] + v) / 3 - 1, m, c)
    if K == 1:
        np.testing.assert_array_less(np.abs(mean - (-np.log2(p).mean(1) + np.log2(1.5))), 5 * error)
    if K == 64:
        gap = p.var(1) / p.mean(1) ** 2 / (2 * K) * BITS
        assert np.all(np.abs(mean - truth - gap) < 0.3 * gap + 5 * error)


def test_more_importance_samples_lower_the_bound_and_none_goes_below_the_entropy():
    """Pixels of a known distribution over 4 levels, a density that fits it roughly: bound(1) > bound(4) > bound(32) >
    cross entropy > entropy."""
    p = np.array([0.1, 0.4, 0.3, 0.2])
    u = np.random.default_rng(0).choice(4, (20_000, 1), p=p).astype(np.uint8)
    density = lambda keys, x: testing.gaussian_log_density(x, 0.0, mean=0.1, std=0.5, schedule=schedules.Flow())
    bound = [
        float(likelihood.dequantised(KEY, jnp.asarray(u), density, samples=K, levels=4).mean()) for K in (1, 4, 32)
    ]
    cross = -np.log2(np.diff(norm.cdf((np.arange(5) - 0.5) * 2 / 3 - 1, 0.1, 0.5)))[u].mean()
    assert bound[0] > bound[1] > bound[2] > cross > -(p * np.log2(p)).sum()
    assert bound[2] < cross + 0.01


def test_bits_of_uint8_from_the_ode():
    """-log p / D / log 2 + log2(127.5), through the solve, is what the closed form gives for the same noise."""
    u = jnp.array([[[90], [200]], [[120], [130]]], jnp.uint8)
    denoise = testing.gaussian_denoiser(mean=0.1, std=0.4, schedule=VP)
    ode = lambda keys, x: likelihood.ode(keys, x, denoise, schedule=VP, probe=None).log_density
    exact = lambda keys, x: testing.gaussian_log_density(x, 1e-5, mean=0.1, std=0.4, schedule=VP)
    found, expected = (likelihood.dequantised(KEY, u, f, samples=2) for f in (ode, exact))
    np.testing.assert_allclose(found, expected, atol=2e-3)
    # In a bin of 1/255 the density hardly changes, so these are the bits of a normal distribution at the level.
    at_level = -norm.logpdf(np.asarray(u, float) / 127.5 - 1, 0.1, 0.4).mean((1, 2)) * BITS + np.log2(127.5)
    np.testing.assert_allclose(expected, at_level, atol=0.02)


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
def test_bound_and_ode_agree_on_a_trained_model():
    """A small network on a mixture in the plane: the 1,000-step bound lies above the ODE's bits/dim by at most 0.1,
    and both above the entropy of the data by little."""
    import optax

    schedule, T = schedules.linear(), 1000
    data = {"means": np.array([[-0.6, 0.3], [0.5, 0.6], [0.2, -0.7]]), "std": 0.2, "weights": np.ones(3)}
    widths = [2 + 8, 128, 128, 128, 2]
    keys = jax.random.split(KEY, len(widths))
    layers = zip(keys, widths[:-1], widths[1:])
    params = [(jax.random.normal(k, (a, b)) / np.sqrt(a), jnp.zeros((1, b))) for k, a, b in layers]

    def denoise(params, x, t):
        t = jnp.broadcast_to(t, x.shape[:1])
        half = (schedules.log_snr(jnp.maximum(t, 1 / T), schedule=schedule) / 4)[:, None]
        h = jnp.concatenate(
            [x, half, half**2 / 4, *(f(half * w) for f in (jnp.sin, jnp.cos) for w in (1, 2, 4))], axis=1
        )
        for i, (w, b) in enumerate(params):
            h = h @ w + b if i == len(params) - 1 else jax.nn.silu(h @ w + b)
        alpha, sigma = (f(t)[:, None] for f in (schedule.alpha, schedule.sigma))
        eps = sigma * x + alpha * h  # a network of v, in effect: exact where x is noise
        return Prediction((x - sigma * eps) / alpha, eps)

    def loss(params, key):
        a, b, c = jax.random.split(key, 3)
        x0, t = testing.mixture_samples(a, 512, **data), jax.random.randint(b, (512,), 1, T + 1) / T
        eps = jax.random.normal(c, x0.shape)
        x_t = schedule.alpha(t)[:, None] * x0 + schedule.sigma(t)[:, None] * eps
        return jnp.mean((denoise(params, x_t, t).eps - eps) ** 2)

    tx = optax.adam(optax.cosine_decay_schedule(3e-3, 3000))

    @jax.jit
    def train(params):
        def step(carry, i):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params, jax.random.fold_in(KEY, i)), state)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), jnp.arange(3000))[0][0]

    params = train(params)
    model = partial(denoise, params)
    x0 = testing.mixture_samples(jax.random.key(99), 4000, **data)
    bound = jax.jit(
        lambda x0: likelihood.vlb(
            KEY, x0, model, schedule=schedule, times=timesteps.uniform(T), variance="fixed_large", bins=None
        )["total"]
    )(x0)
    density = jax.jit(lambda x0: likelihood.ode(KEY, x0, model, schedule=schedule, start=1 / T, probe=None))(x0)
    entropy = -testing.mixture_log_density(x0, 0.0, **data, schedule=schedule) / 2 * BITS
    gap, above = np.asarray(bound - density.bits_per_dim), np.asarray(density.bits_per_dim - entropy)
    error = gap.std() / np.sqrt(len(x0))
    assert error < 0.02
    assert -0.01 - 3 * error < gap.mean() < 0.1
    assert -0.02 < above.mean() < 0.1


def test_misuse_is_refused():
    run = partial(likelihood.vlb, KEY, draws(2), mixture(), schedule=VP, variance="fixed_small")
    for grid in ([0.9, 0.0], [1.0, 0.1]):
        with pytest.raises(InputError, match=r"times: expected a grid from 1 to 0, got one from"):
            run(times=np.array(grid))
    with pytest.raises(InputError, match=r"start: expected a time in \(0, 1\), got 0"):
        likelihood.ode(KEY, draws(2), mixture(), schedule=VP, start=0.0)
    with pytest.raises(InputError, match="samples: expected a whole number, at least 1, got 0"):
        likelihood.dequantised(KEY, jnp.zeros((1, 2), jnp.uint8), lambda keys, x: x, samples=0)

    @jax.custom_vjp
    def backward_alone(x):
        return x

    backward_alone.defvjp(lambda x: (x, None), lambda _, gradient: (gradient,))
    with pytest.raises(InputError, match="no forward-mode derivative, .* compute in float32"):
        likelihood.ode(KEY, draws(2), lambda x, t: mixture()(backward_alone(x), t), schedule=VP)
