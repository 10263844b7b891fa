"""Samplers, one file per family. To add one: a file here, and a row in `SAMPLERS`."""

from collections.abc import Callable
from functools import partial
from typing import Any

from jaxdiff.samplers.base import History, State, draws_noise
from jaxdiff.samplers.chain import Chain
from jaxdiff.samplers.ddim import DDIM, Euler, EulerAncestral, invert
from jaxdiff.samplers.ddpm import DDPM
from jaxdiff.samplers.dpm_solver import DPMSolverMultistep, DPMSolverSinglestep
from jaxdiff.samplers.langevin import AnnealedLangevin, LangevinCorrector
from jaxdiff.samplers.linear_multistep import LMS, PNDM
from jaxdiff.samplers.loop import Way, one_step, run, sample
from jaxdiff.samplers.mala import MALA
from jaxdiff.samplers.ode import ODE
from jaxdiff.samplers.renoise import EDM, Ancestral, Churn
from jaxdiff.samplers.replacement import (
    RESAMPLINGS,
    Replacement,
    check_resampling,
    remembers,
    time_travel,
    usual_jump,
)
from jaxdiff.samplers.reverse_sde import EulerMaruyama
from jaxdiff.samplers.runge_kutta import DPM2, Heun
from jaxdiff.samplers.self_conditioning import SelfConditioning
from jaxdiff.samplers.unipc import UniPC
from jaxdiff.typing import Array, Schedule


def _dpm2_ancestral(schedule: Schedule, eta: Array | float = 1.0) -> Ancestral:
    return Ancestral(DPM2(schedule), eta)


def _predictor_corrector(schedule: Schedule) -> Chain:
    return Chain((DDPM(schedule), LangevinCorrector(schedule)))


SAMPLERS: dict[str, Callable[..., Any]] = {
    "ddpm": DDPM,
    "ddim": DDIM,
    "euler": Euler,
    "euler_ancestral": EulerAncestral,
    "heun": Heun,
    "edm": EDM,
    "dpm2": DPM2,
    "dpm2_ancestral": _dpm2_ancestral,
    "dpm_solver": partial(DPMSolverMultistep, predict="eps"),
    "dpm_solver_3": partial(DPMSolverMultistep, order=3, predict="eps"),
    "dpm_solver++": DPMSolverMultistep,
    "dpm_solver++_3": partial(DPMSolverMultistep, order=3),
    "dpm_solver++_sde": partial(DPMSolverMultistep, eta=1.0),
    "dpm_solver_single": partial(DPMSolverSinglestep, predict="eps"),
    "dpm_solver_single_3": partial(DPMSolverSinglestep, order=3, predict="eps"),
    "dpm_solver++_single": DPMSolverSinglestep,
    "dpm_solver++_single_3": partial(DPMSolverSinglestep, order=3),
    "unipc": UniPC,
    "unipc_3": partial(UniPC, order=3),
    "lms": LMS,
    "pndm": PNDM,
    "euler_maruyama": EulerMaruyama,
    "annealed_langevin": AnnealedLangevin,
    "predictor_corrector": _predictor_corrector,
    "ode": ODE,
}
"""Name -> class, called as `SAMPLERS[name](schedule, **options)`; the command line and the shared tests read it."""

__all__ = [
    "DDIM",
    "DDPM",
    "DPM2",
    "EDM",
    "LMS",
    "MALA",
    "ODE",
    "PNDM",
    "RESAMPLINGS",
    "SAMPLERS",
    "Ancestral",
    "AnnealedLangevin",
    "Chain",
    "Churn",
    "DPMSolverMultistep",
    "DPMSolverSinglestep",
    "Euler",
    "EulerAncestral",
    "EulerMaruyama",
    "Heun",
    "History",
    "LangevinCorrector",
    "Replacement",
    "SelfConditioning",
    "State",
    "UniPC",
    "Way",
    "check_resampling",
    "draws_noise",
    "invert",
    "one_step",
    "remembers",
    "run",
    "sample",
    "time_travel",
    "usual_jump",
]
