"""Diffusion models as pure functions in JAX.

    x_t = alpha(t) x_0 + sigma(t) eps,        t in [0, 1], 0 is data

The core needs JAX alone. `jaxdiff.models` (Flax), `jaxdiff.data` and `jaxdiff.train` are imported when asked for.
"""

from jaxdiff import (
    coupling,
    denoise,
    guidance,
    likelihood,
    likelihood_terms,
    losses,
    noise,
    ode,
    operators,
    parameterization,
    preconditioning,
    process,
    samplers,
    schedules,
    tasks,
    testing,
    time_sampling,
    timesteps,
    typing,
    weighting,
)
from jaxdiff.noise import example_keys, white_noise
from jaxdiff.process import prior, q_posterior, q_sample, q_transition
from jaxdiff.samplers import DDIM, DDPM, sample
from jaxdiff.typing import Denoiser, InputError, Prediction, Sampler, Schedule

__version__ = "0.1.0"

__all__ = [
    "DDIM",
    "DDPM",
    "Denoiser",
    "InputError",
    "Prediction",
    "Sampler",
    "Schedule",
    "coupling",
    "denoise",
    "example_keys",
    "guidance",
    "likelihood",
    "likelihood_terms",
    "losses",
    "noise",
    "ode",
    "operators",
    "parameterization",
    "preconditioning",
    "prior",
    "process",
    "q_posterior",
    "q_sample",
    "q_transition",
    "sample",
    "samplers",
    "schedules",
    "tasks",
    "testing",
    "time_sampling",
    "timesteps",
    "typing",
    "weighting",
    "white_noise",
]
