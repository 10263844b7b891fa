"""Euler, Euler ancestral, Heun, DPM-2 and LMS against diffusers: the schedulers after k-diffusion.

They hold x_t / alpha and step in sigma / alpha, where the ODE has no linear term. On a VP schedule that is what our
samplers do too, in x_t. On the straight path of flow matching the same holds with t for sigma / alpha.
"""

import numpy as np
import pytest
from trajectories import LATE, assert_agree, diffusers, make, make_flow, ours, theirs, times_of

from jaxdiff.samplers import DPM2, LMS, Euler, EulerAncestral, Heun

# Euler's step is the same in every straight form. On the cosine table (sigma / alpha up to 2e4) our other solvers take
# the form of flow matching, with the clock sigma / (alpha + sigma): k-diffusion's first steps there are all error.
COSINE = {"table": "cosine", "timestep_spacing": "leading"}
TABLES = {"linear": {}, "quadratic": {"table": "quadratic"}}
GRIDS = {
    "leading": {"timestep_spacing": "leading", "steps_offset": 1},
    "trailing": {"timestep_spacing": "trailing"},
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
}
V = {"prediction_type": "v_prediction"}
# Every table, and every grid and kind on the first table, whose program is compiled already.
CASES = TABLES | GRIDS | {"v": V}
EACH = pytest.mark.parametrize("options", CASES.values(), ids=CASES)


def kind(options):
    return options.get("prediction_type", "epsilon")


@pytest.mark.parametrize("options", [*CASES.values(), COSINE], ids=[*CASES, "cosine"])
def test_euler(options):
    case = make(diffusers.EulerDiscreteScheduler, **options)
    assert_agree(ours(case, Euler(case.schedule)), theirs(case, kind=kind(options)))


def test_euler_to_sigma_min():
    case = make(diffusers.EulerDiscreteScheduler, final_sigmas_type="sigma_min", timestep_spacing="trailing")
    assert_agree(ours(case, Euler(case.schedule)), theirs(case))


@pytest.mark.parametrize("options", [*TABLES.values(), GRIDS["leading"], GRIDS["trailing"], V], ids=str)
def test_euler_ancestral(options):
    case = make(diffusers.EulerAncestralDiscreteScheduler, **options)
    assert_agree(ours(case, EulerAncestral(case.schedule)), theirs(case, kind=kind(options)))


def whole_steps(case):
    """The grid of a scheduler that counts the two calls of a step as two steps, and which of its states are at that
    grid's times: the second of each two, and the one of the last step, which has one call."""
    calls = len(case.scheduler.timesteps)
    return np.append(case.times[0], case.times[1 : calls + 1 : 2]), [*range(1, calls - 1, 2), calls - 1]


@EACH
def test_heun(options):
    """diffusers returns the Euler step that the second call is made at."""
    case = make(diffusers.HeunDiscreteScheduler, **options)
    times, calls = whole_steps(case)
    assert_agree(ours(case, Heun(case.schedule), times=times), theirs(case, kind=kind(options))[calls])


@EACH
def test_dpm_2(options):
    """diffusers returns the Euler step to the middle in log sigma that the second call is made at."""
    case = make(diffusers.KDPM2DiscreteScheduler, **options)
    times, calls = whole_steps(case)
    case.times[1:-1:2] = times_of(case.scheduler.sigmas_interpol, case.schedule)[1:-1:2]
    assert_agree(ours(case, DPM2(case.schedule), times=times), theirs(case, kind=kind(options))[calls])


@pytest.mark.parametrize(
    ("options", "order"), [*((options, 4) for options in CASES.values()), (LATE, 4), (LATE, 2), (LATE, 3)], ids=str
)
def test_lms(options, order):
    """k-diffusion, and diffusers with it, extrapolates the slopes down to sigma = 0. We deviate: our last step is
    Euler's, as in all our solvers. Here diffusers is told to use order 1 in that step.
    """
    case = make(diffusers.LMSDiscreteScheduler, **options)
    other = theirs(case, kind=kind(options), each=lambda i: {"order": 1 if i == 19 else order})
    assert_agree(ours(case, LMS(case.schedule, order=order)), other)


@pytest.mark.parametrize(
    "options", [{}, {"shift": 3.0}, {"use_karras_sigmas": True}, {"shift": 3.0, "shift_terminal": 0.02}], ids=str
)
def test_flow_euler(options):
    case = make_flow(diffusers.FlowMatchEulerDiscreteScheduler, **options)
    assert_agree(ours(case, Euler(case.schedule)), theirs(case, kind="flow_prediction"))


def test_flow_heun():
    case = make_flow(diffusers.FlowMatchHeunDiscreteScheduler, shift=3.0)
    times, calls = whole_steps(case)
    assert_agree(ours(case, Heun(case.schedule), times=times), theirs(case, kind="flow_prediction")[calls])
