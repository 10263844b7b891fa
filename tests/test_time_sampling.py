"""The time samplers: their distributions by Kolmogorov-Smirnov, and that importance leaves the estimate unbiased."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxdiff import InputError, schedules, time_sampling

rng = np.random.default_rng(0)
KEYS = jax.random.split(jax.random.key(0), 20_000)


def follows(draws, distribution):
    """Kolmogorov-Smirnov: p-value above 1e-4."""
    return scipy.stats.kstest(np.asarray(draws, np.float64), distribution).pvalue > 1e-4


def test_uniform_steps_hit_every_step_equally_and_only_steps():
    t = np.asarray(time_sampling.uniform_steps(KEYS, T=10))
    k = np.rint(t * 10 - 1).astype(int)
    np.testing.assert_allclose(t * 10 - 1, k, atol=1e-5)
    counts = np.bincount(k, minlength=10)
    assert len(counts) == 10
    assert ((counts - 2000) ** 2 / 2000).sum() < 33.7  # chi-squared, 9 degrees of freedom, p = 1e-4


def test_uniform_time_is_uniform():
    t = time_sampling.uniform_time(KEYS)
    assert follows(t, "uniform")
    assert t.min() >= 1e-5


def test_stratified_times_lie_one_in_each_part():
    """The empirical distribution of a batch is within 1 / B of the uniform one, which independent draws never are."""
    n = 1000
    for seed in range(3):
        u = np.sort(np.asarray(time_sampling.stratified(jax.random.key(seed), jnp.arange(n), total=n, start=0.0)))
        assert scipy.stats.kstest(u, "uniform").statistic <= 1 / n + 1e-5
        np.testing.assert_allclose(np.diff(u), 1 / n, atol=1e-5)
    alone = time_sampling.uniform_time(KEYS[:n])
    assert scipy.stats.kstest(np.asarray(alone), "uniform").statistic > 2 / n


def test_each_stratified_time_is_uniform():
    at = jnp.arange(2) * 5
    t = jax.vmap(lambda key: time_sampling.stratified(key, at, total=8, start=0.2, end=0.9))(KEYS[:5000])
    for column in np.asarray(t).T:
        assert follows(column, scipy.stats.uniform(0.2, 0.7).cdf)
    assert t.min() >= 0.2
    assert t.max() <= 0.9


def test_devices_that_share_a_batch_draw_its_strata_together():
    key = jax.random.key(3)
    whole = time_sampling.stratified(key, jnp.arange(12), total=12)
    parts = [time_sampling.stratified(key, jnp.arange(first, first + 4), total=12) for first in (0, 4, 8)]
    np.testing.assert_array_equal(whole, jnp.concatenate(parts))
    assert whole.dtype == jnp.float32


def test_to_steps_makes_of_uniform_times_uniform_steps():
    for steps in (1, 7, 1000, 4000):
        u = np.r_[0, np.nextafter(np.float32(1), np.float32(0)), 1, rng.random(1000)].astype(np.float32)
        t = np.asarray(time_sampling.to_steps(jnp.asarray(u), T=steps), np.float64)
        k = np.rint(t * steps - 1)
        np.testing.assert_allclose(t * steps - 1, k, atol=1e-3)
        assert (k.min(), k.max()) == (0, steps - 1)
        np.testing.assert_array_equal(k, np.minimum(np.floor(u.astype(np.float64) * steps), steps - 1))
    n = 700
    every = time_sampling.to_steps(time_sampling.stratified(KEYS[0], jnp.arange(n), total=n, start=0.0), T=n // 7)
    counts = np.bincount(np.rint(np.asarray(every) * 100).astype(int) - 1)
    assert (np.abs(counts - 7) <= 1).all()


@pytest.mark.parametrize(
    "schedule",
    [schedules.EDM(), schedules.VP(), schedules.Flow(), schedules.CosineLogSNR()],
    ids=lambda s: type(s).__name__,
)
def test_log_normal_times_have_normal_log_sigma(schedule):
    t = time_sampling.log_normal(KEYS, schedule=schedule)
    log_sigma = -0.5 * np.asarray(schedules.log_snr(t, schedule=schedule))
    assert follows(log_sigma, scipy.stats.norm(-1.2, 1.2).cdf)
    t = time_sampling.log_normal(KEYS, schedule=schedule, mean=0.3, std=0.5)
    assert follows(-0.5 * np.asarray(schedules.log_snr(t, schedule=schedule)), scipy.stats.norm(0.3, 0.5).cdf)


def test_levels_that_the_schedule_lacks_become_its_ends():
    t = time_sampling.log_normal(KEYS, schedule=schedules.VE(0.1, 0.5), mean=-1.2, std=1.2)
    assert (float(t.min()), float(t.max())) == (0, 1)
    below = scipy.stats.norm(-1.2, 1.2).cdf(np.log(0.1))
    np.testing.assert_allclose(np.mean(np.asarray(t) == 0), below, atol=4 * np.sqrt(below / len(t)))


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.7, 0.5)])
def test_logit_normal_has_its_density(mean, std):
    """SD3's density exp(-(logit t - m)^2 / 2 s^2) / (s sqrt(2 pi) t (1 - t)), integrated here."""
    t = np.linspace(0, 1, 20_001)[1:-1]
    density = np.exp(-((np.log(t / (1 - t)) - mean) ** 2) / (2 * std**2)) / (std * np.sqrt(2 * np.pi) * t * (1 - t))
    cdf = np.cumsum(density) / 20_000
    assert follows(time_sampling.logit_normal(KEYS, mean=mean, std=std), lambda x: np.interp(x, t, cdf))


T = 6
TIMES = jnp.asarray((np.arange(T) + 1) / T, jnp.float32)


def warm(values):
    """A state whose rings are full of these losses [history, T]."""
    state = time_sampling.importance_init(T=T, history=len(values))
    for row in values:
        state = time_sampling.importance_update(state, TIMES, jnp.asarray(row, jnp.float32))
    return state


def test_importance_remembers_the_last_ten_losses_of_each_step():
    """Against a deque for each step, with batches that hold one step many more than ten times."""
    state = time_sampling.importance_init(T=T)
    memory = [collections.deque(maxlen=10) for _ in range(T)]
    update = jax.jit(time_sampling.importance_update)
    for size in (1, 5, 30, 30, 5, 64, 5):
        k = rng.integers(0, 2 if size == 30 else T, size)
        losses = rng.random(size).astype(np.float32)
        state = update(state, jnp.asarray((k + 1) / T, jnp.float32), jnp.asarray(losses))
        for step, loss in zip(k, losses, strict=True):
            memory[step].append(loss)
        for step in range(T):
            ring = np.asarray(state.losses[step])
            assert sorted(ring[ring > 0]) == sorted(memory[step])
            assert min(int(state.seen[step]), 10) == len(memory[step])


def test_importance_is_uniform_until_every_step_is_full():
    state = warm(rng.random((9, T)) + 0.5)
    state = state._replace(losses=jnp.ones((T, 10)))  # rings of ten, nine of them seen
    values = jnp.asarray(rng.random(T), jnp.float32)
    np.testing.assert_allclose(time_sampling.importance_probabilities(state), 1 / T, rtol=1e-6)
    almost = time_sampling.importance_update(state, TIMES[:-1], values[:-1])
    np.testing.assert_allclose(time_sampling.importance_probabilities(almost), 1 / T, rtol=1e-6)
    np.testing.assert_allclose(time_sampling.importance_weights(TIMES, almost), 1, rtol=1e-6)
    full = time_sampling.importance_update(almost, TIMES[-1:], values[-1:])
    assert np.ptp(time_sampling.importance_probabilities(full)) > 0.001


def test_importance_draws_with_the_root_of_the_second_moment():
    """Improved DDPM, eq. 18, but for a thousandth that is uniform; frequencies by chi-squared."""
    losses = rng.gamma(2.0, 1.0, (10, T)) * 2.0 ** np.arange(T)
    state = warm(losses)
    root = np.sqrt((losses**2).mean(0))
    p = 0.999 * root / root.sum() + 0.001 / T
    np.testing.assert_allclose(time_sampling.importance_probabilities(state), p, rtol=1e-5)
    t = time_sampling.importance_sample(KEYS, state)
    counts = np.bincount(np.rint(np.asarray(t) * T - 1).astype(int), minlength=T)
    assert scipy.stats.chisquare(counts, len(KEYS) * p).pvalue > 1e-4
    np.testing.assert_allclose(time_sampling.importance_weights(TIMES, state), 1 / (T * p), rtol=1e-5)


def test_weighted_losses_are_unbiased_and_vary_less():
    """sum_k p_k w_k L_k = mean L for any L, exactly; the mean of draws is within four standard errors of it. With the
    true losses remembered the estimate hardly varies; a step remembered without loss by mistake is still drawn."""
    true = np.array([5.0, 1.0, 0.3, 0.1, 0.02, 2.0])
    wrong = np.where(true == 2.0, 0.0, true)
    assert true.std() / true.mean() > 1  # with uniform times
    for remembered, spread in ((true, 0.1), (wrong, 30.0)):
        state = warm(np.tile(remembered, (10, 1)))
        p, w = time_sampling.importance_probabilities(state), time_sampling.importance_weights(TIMES, state)
        np.testing.assert_allclose(np.sum(p * w * true), true.mean(), rtol=1e-5)
        std = np.sqrt(np.sum(np.asarray(p) * (np.asarray(w) * true) ** 2) - true.mean() ** 2)
        assert std < spread * true.mean()
        t = time_sampling.importance_sample(KEYS, state)
        draws = (
            np.asarray(time_sampling.importance_weights(t, state)) * true[np.rint(np.asarray(t) * T - 1).astype(int)]
        )
        assert abs(draws.mean() - true.mean()) < 4 * std / np.sqrt(len(KEYS))


def test_losses_of_zero_everywhere_are_uniform_and_no_gradient_flows():
    state = warm(np.zeros((10, T)))
    np.testing.assert_allclose(time_sampling.importance_probabilities(state), 1 / T, rtol=1e-6)

    def through(losses):
        return time_sampling.importance_weights(TIMES, time_sampling.importance_update(state, TIMES, losses)).sum()

    assert (jax.grad(through)(jnp.ones(T)) == 0).all()
    with pytest.raises(InputError, match="T > 0"):
        time_sampling.importance_init(T=0)


STATE = warm(np.tile(np.arange(T) + 1.0, (10, 1)))


@pytest.mark.parametrize(
    "draw",
    [
        lambda k: time_sampling.uniform_steps(k, T=1000),
        time_sampling.uniform_time,
        lambda k: time_sampling.log_normal(k, schedule=schedules.EDM()),
        time_sampling.logit_normal,
        lambda k: time_sampling.importance_sample(k, STATE),
    ],
)
def test_a_time_depends_on_its_example_alone(draw):
    t = draw(KEYS[:8])
    np.testing.assert_array_equal(t[3:5], draw(KEYS[3:5]))
    assert (t.dtype, t.shape) == (jnp.float32, (8,))
    np.testing.assert_allclose(jax.jit(draw)(KEYS[:8]), t, rtol=1e-6)
