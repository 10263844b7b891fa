"""How often a picture calls the network: what a table of metrics against it stands on."""

import dataclasses

import pytest

from jaxdiff import build
from jaxdiff.config import Config, Diffusion, Sample
from jaxdiff.sampling import network_evaluations

SPEC = build.Spec((4, 4, 1), 3)


def counted(sampler, steps, **settings):
    config = Config(sample=Sample(sampler=sampler, steps=steps, guidance=1.0))
    return network_evaluations(dataclasses.replace(config, **settings), SPEC)


@pytest.mark.parametrize(
    ("sampler", "steps", "calls"),
    [
        ("ddpm", 7, 7),
        ("ddim", 7, 7),
        ("dpm_solver++", 7, 7),
        ("unipc", 7, 7),
        ("pndm", 7, 8),  # one more at its start: diffusers' PLMS
        ("heun", 7, 13),  # the last step is Euler's: Karras et al. 2022, algorithm 1
        ("dpm2", 7, 13),
        ("predictor_corrector", 7, 13),  # data without noise is not corrected
    ],
)
def test_calls_that_are_left_out_do_not_count(sampler, steps, calls):
    assert counted(sampler, steps) == calls


def test_18_steps_of_edm_are_the_paper_s_35():
    diffusion = Diffusion(schedule="edm", kind="F", preconditioning="edm", times="log_normal", weight="edm")
    assert counted("heun", 18, diffusion=diffusion) == 35


def test_guidance_calls_twice_where_there_are_classes():
    config = Config(sample=Sample(sampler="heun", steps=5, guidance=2.0))
    assert network_evaluations(config, SPEC) == 18
    assert network_evaluations(config, build.Spec((4, 4, 1), None)) == 9


def test_a_learned_variance_has_its_calls():
    assert counted("ddpm", 7, diffusion=Diffusion(learned_variance=True)) == 7


def test_an_adaptive_solver_depends_on_its_network():
    pytest.importorskip("diffrax")
    assert counted("ode", 7) is None
