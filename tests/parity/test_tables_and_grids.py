"""Tables of betas and grids of steps against diffusers."""

import numpy as np
import pytest
from trajectories import TABLES, T, build, diffusers, times_of

from jaxdiff import timesteps

STEPS = {"leading": timesteps.leading, "trailing": timesteps.trailing, "linspace": timesteps.linspace}


@pytest.mark.parametrize("table", TABLES)
def test_tables(table):
    """diffusers' are in float32: log alpha_bar, a sum of up to T logarithms, is right to about T roundings. The last
    beta of the cosine table, .999, is 1 - .001, and .001 is left with half of float32's digits."""
    betas, schedule = TABLES[table]
    theirs = diffusers.DDPMScheduler(num_train_timesteps=T, **betas).alphas_cumprod.double().numpy()
    np.testing.assert_allclose(theirs, schedule.alpha_bar, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("spacing", STEPS)
@pytest.mark.parametrize("n", [7, 10, 50, 1000])
def test_grids_of_steps(spacing, n):
    scheduler = build(diffusers.DDPMScheduler, n, timestep_spacing=spacing)
    np.testing.assert_array_equal(np.rint(STEPS[spacing](n, T=T)[:-1] * T) - 1, scheduler.timesteps.numpy())


@pytest.mark.parametrize("name", ["karras", "exponential"])
@pytest.mark.parametrize("table", ["linear", "quadratic", "cosine"])
def test_grids_of_noise_levels(name, table):
    """Between the same limits: the whole of the table, of which ours is cut to 0.002 to 80 if not asked."""
    betas, schedule = TABLES[table]
    scheduler = build(
        diffusers.EulerDiscreteScheduler, 20, alpha_bar=schedule.alpha_bar, **betas, **{f"use_{name}_sigmas": True}
    )
    ours = getattr(timesteps, name)(20, schedule=schedule, sigma_min=0.0, sigma_max=np.inf)
    np.testing.assert_allclose(times_of(scheduler.sigmas, schedule), ours, rtol=1e-5, atol=1e-8)
