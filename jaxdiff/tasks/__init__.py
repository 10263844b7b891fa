"""What diffusion is used for, as pure functions of a denoiser, a sampler and a time grid: composition, no mathematics.

A task is a function here, a command in `cli` and a page in the docs. What it needs of mathematics is in the rooms
below: `guidance`, `samplers`, `process`, `likelihood`.
"""

from jaxdiff.tasks import anomaly
from jaxdiff.tasks.edit import edited, from_noised, generated, transfer
from jaxdiff.tasks.inpaint import inpaint, inpainting_way, with_known
from jaxdiff.tasks.interpolate import between_latents, between_noised
from jaxdiff.tasks.remove_noise import estimate_noise, posterior_mean, posterior_samples, posterior_way, time_of_noise
from jaxdiff.tasks.restore import METHODS, Method, restore
from jaxdiff.tasks.super_resolution import cascade, super_resolve

__all__ = [
    "METHODS",
    "Method",
    "anomaly",
    "between_latents",
    "between_noised",
    "cascade",
    "edited",
    "estimate_noise",
    "from_noised",
    "generated",
    "inpaint",
    "inpainting_way",
    "posterior_mean",
    "posterior_samples",
    "posterior_way",
    "restore",
    "super_resolve",
    "time_of_noise",
    "transfer",
    "with_known",
]
