"""DDPM, DDIM and PNDM against diffusers: the schedulers that know their place by the step number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trajectories import T, assert_agree, difference, diffusers, make, mixture, noises, ours, start, theirs, torch

from jaxdiff import DDIM, DDPM
from jaxdiff.samplers import PNDM, State

TABLES = ["linear", "quadratic", "cosine"]
# Latent diffusion's: the grid is moved by one step and ends at the table's first step, not at the data.
LATENT = {"table": "quadratic", "steps_offset": 1, "set_alpha_to_one": False, "end": 1 / T}
# With no signal at the start.
ZERO_SNR = {"table": "zero snr", "timestep_spacing": "trailing"}


@pytest.mark.parametrize(
    ("variance", "table"), [*(("fixed_small", table) for table in TABLES), ("fixed_large", "linear")]
)
def test_ddpm(variance, table):
    case = make(diffusers.DDPMScheduler, table=table, variance_type=variance, clip_sample=False)
    assert_agree(ours(case, DDPM(case.schedule, variance=variance)), theirs(case))


@pytest.mark.parametrize("spacing", ["linspace", "trailing"])
def test_ddpm_on_other_grids(spacing):
    case = make(diffusers.DDPMScheduler, timestep_spacing=spacing, clip_sample=False)
    assert_agree(ours(case, DDPM(case.schedule)), theirs(case))


@pytest.mark.parametrize("kind", ["sample", "v_prediction"])
def test_ddpm_of_other_kinds(kind):
    case = make(diffusers.DDPMScheduler, prediction_type=kind, clip_sample=False)
    assert_agree(ours(case, DDPM(case.schedule)), theirs(case, kind=kind))


def test_ddpm_all_steps():
    case = make(diffusers.DDPMScheduler, n=T, clip_sample=False)
    assert_agree(ours(case, DDPM(case.schedule)), theirs(case))


@pytest.mark.parametrize("variance", ["learned", "learned_range"])
def test_ddpm_learned_variance(variance):
    """diffusers deviates: with "learned" the second half of the output is the variance, and its root is taken, though a
    network's output may be negative. We take it for the logarithm of the variance, as improved DDPM does."""
    case = make(diffusers.DDPMScheduler, variance_type=variance, clip_sample=False)
    exact = mixture(case.schedule)

    def denoise(x, t):
        return exact(x, t)._replace(log_var=jnp.sin(3 * x) - (4 if variance == "learned" else 0))

    def output(x, t):
        prediction = denoise(x, t)
        second = jnp.exp(prediction.log_var) if variance == "learned" else prediction.log_var
        return jnp.concatenate([prediction.eps, second], axis=1)

    assert_agree(ours(case, DDPM(case.schedule, variance=variance), denoise=denoise), theirs(case, output=output))


def test_ddpm_last_step_of_a_trailing_grid():
    """diffusers deviates: it leaves out the noise at step number 0, which the last step of a trailing grid is not, so
    that with the large variance its result is noisy. We follow Algorithm 2 of DDPM: no noise in the last step."""
    case = make(diffusers.DDPMScheduler, variance_type="fixed_large", timestep_spacing="trailing", clip_sample=False)
    other = theirs(case)
    beta = 1 - float(case.schedule.alpha(jnp.asarray(case.times[-2]))) ** 2  # of that step, down to the data
    other[-1] -= np.sqrt(beta) * noises(T)[19]
    assert_agree(ours(case, DDPM(case.schedule, variance="fixed_large")), other)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim(table, eta):
    case = make(diffusers.DDIMScheduler, table=table, clip_sample=False)
    assert_agree(ours(case, DDIM(case.schedule, eta=eta)), theirs(case, eta=eta))


@pytest.mark.parametrize("kind", ["sample", "v_prediction"])
@pytest.mark.parametrize(
    "options", [{"timestep_spacing": "trailing"}, LATENT, ZERO_SNR], ids=["trailing", "latent", "zero snr"]
)
def test_ddim_on_other_grids_and_kinds(options, kind):
    case = make(diffusers.DDIMScheduler, prediction_type=kind, clip_sample=False, **options)
    assert_agree(ours(case, DDIM(case.schedule, eta=0.3)), theirs(case, kind=kind, eta=0.3))


def test_ddim_on_a_linspace_grid():
    """diffusers deviates: its DDIM steps down by T // n = 50, whatever the grid is, and next calls the model at the time
    that the grid has, 53 or 52 further down. We step from each time of the grid to the next."""
    case = make(diffusers.DDIMScheduler, timestep_spacing="linspace", clip_sample=False)
    states, sampler = theirs(case), DDIM(case.schedule)
    assert difference(ours(case, sampler), states).max() > 0.01

    step = jax.jit(lambda x, t, s: sampler.step(jax.random.key(0), State(x), t, s, mixture(case.schedule)).x)
    before = [start(case), *states[:-1]]
    single = [step(x, t, jnp.maximum(t - 50 / T, 0)) for x, t in zip(before, case.times[:-1], strict=True)]
    assert_agree(np.stack(single), states)


@pytest.mark.parametrize("first", [{}, {"n": 40, "skip": 21}], ids=["whole", "late"])
@pytest.mark.parametrize(
    "options",
    [{"set_alpha_to_one": True}, {"set_alpha_to_one": True, "timestep_spacing": "trailing"}, LATENT],
    ids=["leading", "trailing", "latent"],
)
def test_pndm(options, first):
    """PLMS, diffusers' `skip_prk_steps`: both have the paper's multistep rule, and both deviate in the start, where the
    paper has three Runge-Kutta steps of four calls and latent diffusion one of Heun's, of two calls.

    diffusers counts those two calls as two steps, the first one an Euler step. It deviates further with kind "v", in
    that it adds up the outputs of several times before it makes eps of the sum; we add up eps. A last step to sigma = 0
    is Euler's here, so that point data is hit exactly, and of four slopes there: that state is not compared.
    """
    case = make(diffusers.PNDMScheduler, skip_prk_steps=True, **first, **options)
    times = np.unique(case.times)[::-1]
    calls = np.insert(times, 1, times[1])
    case.scheduler.timesteps = torch.tensor(np.rint(calls[:-1] * T) - 1).long()
    end = -1 if times[-1] == 0 else None
    assert_agree(ours(case, PNDM(case.schedule), times=times)[:end], theirs(case._replace(times=calls))[1:][:end])
