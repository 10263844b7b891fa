"""What samplers make of a mixture with the exact score cannot be told from exact samples."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import prior, sample, samplers, schedules, testing, timesteps
from jaxdiff.samplers import SAMPLERS

N = 4000
MIXTURE = {
    "means": np.array([[-1.0, -0.5], [0.9, 0.1], [0.1, 1.0]]),
    "std": 0.25,
    "weights": np.array([0.3, 0.5, 0.2]),
}
DRAW = partial(testing.mixture_samples, **MIXTURE)


@pytest.fixture(scope="module")
def limit():
    """The 99 % quantile of exact against exact, n = 4,000."""
    null = jax.jit(lambda key: testing.sliced_wasserstein_null(key, DRAW, n=N, repeats=200))(jax.random.key(0))
    return float(jnp.quantile(null, 0.99))


def log_density(schedule):
    return partial(testing.mixture_log_density, **MIXTURE, schedule=schedule)


STEPS = {  # where a hundred are not enough
    "ddim": 400,
    "euler": 400,
    "euler_maruyama": 800,
    "ddpm": 400,
    "euler_ancestral": 400,
    "predictor_corrector": 200,
    "annealed_langevin": 100,
}
PATHS = {"vp": schedules.VP(), "edm": schedules.EDM(), "flow": schedules.Flow()}


def times(schedule, steps):
    if isinstance(schedule, schedules.EDM):
        return timesteps.karras(steps, schedule=schedule)
    return timesteps.uniform(steps)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_of_the_mixture(name, path, limit):
    schedule = PATHS[path]
    make = {
        "edm": partial(samplers.EDM, steps=100),
        "annealed_langevin": partial(samplers.AnnealedLangevin, steps_per_level=20),
    }
    sampler = make.get(name, SAMPLERS[name])(schedule)
    denoise = testing.mixture_denoiser(**MIXTURE, schedule=schedule)
    x = prior(jax.random.key(1), (N, 2), schedule=schedule)
    grid = times(schedule, STEPS.get(name, 100))
    made = jax.jit(lambda x: sample(jax.random.key(2), denoise, sampler, grid, x))(x)
    distance = testing.sliced_wasserstein(jax.random.key(3), made, DRAW(jax.random.key(4), N))
    assert float(distance) < limit


def test_the_limit_finds_a_wrong_sampler(limit):
    """A sampler that draws 20 % too much noise, and one with too few steps, are found out."""
    schedule = schedules.VP()
    denoise = testing.mixture_denoiser(**MIXTURE, schedule=schedule)
    x, exact = prior(jax.random.key(1), (N, 2), schedule=schedule), DRAW(jax.random.key(4), N)
    for steps, temperature in ((400, 1.2), (8, 1.0)):
        made = sample(
            jax.random.key(2), denoise, samplers.DDPM(schedule), timesteps.uniform(steps), x, temperature=temperature
        )
        assert float(testing.sliced_wasserstein(jax.random.key(3), made, exact)) > limit


@pytest.mark.parametrize("path", PATHS)
def test_metropolis_adjusted_langevin_samples_the_mixture(path, limit):
    """Behind few steps of a predictor that is not exact, at each of its levels; and alone at the last level it mends a
    start that is wrong, which shows that the acceptance is right."""
    pytest.importorskip("blackjax", reason="extra mcmc: pip install 'jaxdiff[mcmc]'")
    schedule = PATHS[path]
    mala = samplers.MALA(schedule, log_density(schedule), step_size=0.1, steps_per_level=10)
    sampler = samplers.Chain((samplers.DDIM(schedule), mala))
    denoise = testing.mixture_denoiser(**MIXTURE, schedule=schedule)
    x = prior(jax.random.key(1), (N, 2), schedule=schedule)
    run = jax.jit(lambda key, sampler, grid, x: sample(key, denoise, sampler, grid, x))
    made = run(jax.random.key(2), sampler, jnp.asarray(times(schedule, 60), jnp.float32), x)
    assert float(testing.sliced_wasserstein(jax.random.key(3), made, DRAW(jax.random.key(4), N))) < limit
    assert (
        float(jnp.abs(made - run(jax.random.key(5), sampler, jnp.asarray(times(schedule, 60), jnp.float32), x)).max())
        > 0.1
    )


def test_a_mala_chain_belongs_to_its_example():
    pytest.importorskip("blackjax", reason="extra mcmc: pip install 'jaxdiff[mcmc]'")
    schedule = schedules.VP()
    mala = samplers.MALA(schedule, log_density(schedule), steps_per_level=3)
    x = jax.random.normal(jax.random.key(0), (6, 2))
    keys = jax.random.split(jax.random.key(1), 6)
    whole = mala.step(keys, mala.init(x), jnp.float32(0.5), jnp.float32(0.4), None).x
    part = mala.step(keys[4:], mala.init(x[4:]), jnp.float32(0.5), jnp.float32(0.4), None).x
    np.testing.assert_allclose(part, whole[4:], rtol=1e-5)
    assert float(jnp.abs(whole - x).max()) > 0.01
    still = mala.step(keys, mala.init(x), jnp.float32(0.1), jnp.float32(0.0), None).x
    np.testing.assert_array_equal(still, x)
    low = mala.step(keys, mala.init(x.astype(jnp.bfloat16)), jnp.float32(0.5), jnp.float32(0.4), None).x
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(low.astype(jnp.float32), whole, atol=0.1)
