"""The loop on the host against the one that is a program."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from network_table import jit
from sampler_table import MAKE

from jaxdiff import DDIM, DDPM, prior, sample, schedules, stepwise, tasks, testing, timesteps
from jaxdiff.noise import example_keys, fold_in
from jaxdiff.samplers import Way

SCHEDULE = schedules.linear()
KEYS = example_keys(jax.random.key(7), jnp.arange(3))
TRACED = []


def gaussian(mean, x_t, t):
    TRACED.append(None)
    return testing.gaussian_denoiser(mean=mean, std=0.3, schedule=SCHEDULE)(x_t, t)


DENOISE = Partial(gaussian, jnp.float32(0.7))


def way(sampler, steps):
    x = prior(fold_in(KEYS, 0), (3, 2, 2, 1), schedule=SCHEDULE)
    return Way(sampler, np.asarray(timesteps.trailing(steps, T=1000), np.float32), x)


@pytest.mark.parametrize("name", MAKE)
def test_the_last_state_is_the_picture_of_one_program(name):
    goes = way(MAKE[name](SCHEDULE), 10)
    *_, last = stepwise.states(KEYS, DENOISE, goes, temperature=0.8)
    whole = jit(lambda x: sample(KEYS, DENOISE, goes.sampler, goes.times, x, temperature=0.8))(goes.x)
    # Where eps is predicted, rounding at the start is 1 / alpha times as large in x, 157 times.
    np.testing.assert_allclose(last.x, whole, atol=2e-4)


def test_every_state_is_seen_in_turn():
    goes = way(DDPM(SCHEDULE), 10)
    _, seen = sample(KEYS, DENOISE, *goes, collect=lambda state: state.x)
    states = [state.x for state in stepwise.states(KEYS, DENOISE, goes)]
    np.testing.assert_allclose(np.stack(states), np.stack([goes.x, *seen]), rtol=1e-5, atol=1e-5)


def test_other_numbers_trace_nothing():
    """Of steps too, and of the way up and down again; equal samplers and schedules count as the same."""
    mask = jnp.zeros((3, 2, 2, 1)).at[:, 0].set(1)

    def both(steps, eta, mean, resamplings):
        denoise = Partial(gaussian, jnp.float32(mean))
        list(stepwise.states(KEYS, denoise, way(DDIM(schedules.linear(), eta), steps), temperature=mean))
        times = timesteps.trailing(steps, T=1000)
        known = jnp.full_like(mask, mean)
        painted = tasks.inpainting_way(
            KEYS, known, mask, sampler=DDPM(SCHEDULE), times=times, jump_length=2, resamplings=resamplings
        )
        list(stepwise.states(KEYS, denoise, painted))

    both(5, 0.0, 0.5, 1)
    before = len(TRACED)
    both(7, 0.4, 0.2, 3)
    assert len(TRACED) == before


def test_a_step_is_made_when_it_is_asked_for():
    made = []

    def counted(x_t, t):
        jax.debug.callback(lambda: made.append(None))
        return gaussian(jnp.float32(0.0), x_t, t)

    states = stepwise.states(KEYS, Partial(counted), way(DDIM(SCHEDULE), 10))
    for state in itertools.islice(states, 4):
        state.x.block_until_ready()
    jax.effects_barrier()
    assert len(made) == 3


@pytest.mark.parametrize("resamplings", [1, 2])
def test_inpainting_by_its_way(resamplings):
    known, mask = jnp.full((3, 2, 2, 1), 0.9), jnp.zeros((3, 2, 2, 1)).at[:, 0].set(1)
    how = {"sampler": DDPM(SCHEDULE), "times": timesteps.trailing(6, T=1000), "jump_length": 2}
    how["resamplings"] = resamplings
    goes = tasks.inpainting_way(fold_in(KEYS, 0), known, mask, **how)
    *_, last = stepwise.states(fold_in(KEYS, 1), DENOISE, goes)
    whole = tasks.inpaint(KEYS, DENOISE, known, mask, **how)
    np.testing.assert_allclose(tasks.with_known(last.x, known, mask), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("std", [0.3, [0.2, 0.3, 0.4]])
def test_denoising_by_its_way(std):
    y = jnp.full((3, 2, 2, 1), 0.9)
    std = jnp.asarray(std)
    *_, last = stepwise.states(KEYS, DENOISE, tasks.posterior_way(y, std, sampler=DDPM(SCHEDULE), steps=6))
    whole = tasks.posterior_samples(KEYS, DENOISE, y, std, sampler=DDPM(SCHEDULE), steps=6)
    np.testing.assert_allclose(last.x, whole, rtol=1e-5, atol=1e-5)
