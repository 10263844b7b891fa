"""Every sampler, as the shared tests run it. A new sampler is a row of `SAMPLERS`; a row here is for another option."""

import dataclasses
from functools import partial

from jaxdiff.samplers import (
    DDIM,
    DDPM,
    EDM,
    LMS,
    SAMPLERS,
    Ancestral,
    AnnealedLangevin,
    Chain,
    DPMSolverMultistep,
    Heun,
    LangevinCorrector,
    UniPC,
)


def _corrected(schedule):
    return Chain((DPMSolverMultistep(schedule), LangevinCorrector(schedule, steps_per_level=2)))


MAKE = {
    **{name: make for name, make in SAMPLERS.items() if name != "ode"},  # adaptive: of the whole batch, in test_ode.py
    "edm": partial(EDM, steps=10),
    "annealed_langevin": partial(AnnealedLangevin, steps_per_level=3),
    "ddim, eta 0.5": partial(DDIM, eta=0.5),
    "ddpm, fixed_large": partial(DDPM, variance="fixed_large"),
    "dpm_solver++, order 1": partial(DPMSolverMultistep, order=1),
    "dpm_solver++, order 3, eta 0.5": partial(DPMSolverMultistep, order=3, eta=0.5),
    "unipc, order 1": partial(UniPC, order=1),
    "unipc, bh1, eps": partial(UniPC, order=3, variant="bh1", predict="eps"),
    "lms, order 2": partial(LMS, order=2),
    "ancestral heun": lambda schedule: Ancestral(Heun(schedule), 0.7),
    "multistep and corrector": _corrected,
}

CALLS = {  # places in a step where the denoiser is called, if not one
    "heun": 2,
    "edm": 2,
    "dpm2": 2,
    "dpm2_ancestral": 2,
    "dpm_solver_single": 2,
    "dpm_solver_single_3": 3,
    "dpm_solver++_single": 2,
    "dpm_solver++_single_3": 3,
    "pndm": 2,
    "annealed_langevin": 2,
    "predictor_corrector": 2,
    "ancestral heun": 2,
    "multistep and corrector": 2,
}


def silent(sampler, noise):
    """The sampler, and those inside it, with another noise."""
    changes = {}
    for field in dataclasses.fields(sampler):
        value = getattr(sampler, field.name)
        if field.name == "noise":
            changes["noise"] = noise
        elif field.name == "sampler":
            changes["sampler"] = silent(value, noise)
        elif field.name == "samplers":
            changes["samplers"] = tuple(silent(v, noise) for v in value)
    return dataclasses.replace(sampler, **changes)
