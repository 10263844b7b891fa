"""SelfConditioning round every sampler: the estimate that is handed on, and the contracts of a sampler."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import DDIM, DDPM, Prediction, Sampler, sample, schedules, testing, timesteps
from jaxdiff.denoise import self_conditioned
from jaxdiff.samplers import Chain, Heun
from jaxdiff.samplers.self_conditioning import SelfConditioning

KEY = jax.random.key(0)
FLOW = schedules.Flow()
GRID = timesteps.uniform(6)
X = jax.random.normal(KEY, (4, 3, 2))
INNER = {"ddim": DDIM(FLOW), "ddpm": DDPM(FLOW), "heun": Heun(FLOW), "chain": Chain((DDPM(FLOW), DDIM(FLOW)))}


@pytest.mark.parametrize("name", INNER)
def test_a_denoiser_that_ignores_the_estimate_gives_what_the_sampler_alone_gives(name):
    exact = testing.gaussian_denoiser(mean=0.5, std=0.3, schedule=FLOW)
    alone = sample(KEY, exact, INNER[name], GRID, X)
    wrapped = sample(KEY, lambda x, t, estimate=None: exact(x, t), SelfConditioning(INNER[name]), GRID, X)
    np.testing.assert_allclose(wrapped, alone, rtol=1e-6)


def test_ddim_by_hand():
    """Each step is told the x0 of the one before, the first 0: the loop of the paper, in numpy."""

    def network(x, t, estimate):
        return 0.3 * x + 0.5 * estimate + 0.1

    denoise = self_conditioned(network, schedule=FLOW, kind="x0")
    found = sample(KEY, denoise, SelfConditioning(DDIM(FLOW)), GRID, X)
    x, x0 = np.asarray(X, np.float64), 0.0
    for t, s in zip(GRID[:-1], GRID[1:], strict=True):
        x0 = network(x, t, x0)
        eps = (x - (1 - t) * x0) / t
        x = (1 - s) * x0 + s * eps
    np.testing.assert_allclose(found, x, rtol=1e-4, atol=1e-5)


def test_a_second_call_is_told_of_the_first_and_the_first_is_handed_on():
    """Heun calls twice in a step; not in the last, which ends at the data."""
    told = []

    def denoise(x, t, estimate):
        told.append((float(t), float(estimate[0, 0])))
        return Prediction(jnp.full_like(x, len(told)), x)

    sampler, state = SelfConditioning(Heun(schedules.VE())), None
    state = sampler.init(jnp.zeros((1, 1)))
    with jax.disable_jit():
        for t, s in ((1.0, 0.6), (0.6, 0.3)):
            state = sampler.step(KEY, state, jnp.float32(t), jnp.float32(s), denoise)
    np.testing.assert_allclose([t for t, _ in told], [1.0, 0.6, 0.6, 0.3], rtol=1e-6)
    assert [e for _, e in told] == [0, 1, 1, 3]
    assert float(state.estimate[0, 0]) == 3


def test_protocol_and_recompilation():
    sampler = SelfConditioning(DDIM(FLOW))
    assert isinstance(sampler, Sampler)
    for method in ("init", "step"):
        ours, theirs = (list(inspect.signature(getattr(c, method)).parameters) for c in (SelfConditioning, Sampler))
        assert ours == theirs
    traces = []

    @jax.jit
    def run(sampler, x):
        traces.append(1)
        denoise = self_conditioned(lambda x, t, e: 0.1 * x + e, schedule=FLOW, kind="x0")
        return sample(KEY, denoise, sampler, GRID, x)

    a, b = (run(SelfConditioning(DDIM(FLOW, eta=eta)), X) for eta in (0.0, 0.7))
    assert len(traces) == 1
    assert float(jnp.abs(a - b).max()) > 1e-3
    half = run(sampler, X.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16


def test_within_a_chain_the_estimate_survives():
    """A corrector after it changes x; the wrapped sampler then works on that x."""
    denoise = self_conditioned(lambda x, t, e: 0.2 * x + 0.5 * e, schedule=FLOW, kind="x0")
    chain = Chain((SelfConditioning(DDIM(FLOW)), _Shift()))
    found = sample(KEY, denoise, chain, GRID, X)
    x, x0 = np.asarray(X, np.float64), 0.0
    for t, s in zip(GRID[:-1], GRID[1:], strict=True):
        x0 = 0.2 * x + 0.5 * x0
        x = (1 - s) * x0 + s * (x - (1 - t) * x0) / t + 1
    np.testing.assert_allclose(found, x, rtol=1e-4)


class _Shift:
    def init(self, x):
        return DDIM(FLOW).init(x)

    def step(self, key, state, t, s, denoise, *, temperature=1.0):
        return state._replace(x=state.x + 1)
