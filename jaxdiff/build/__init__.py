"""The one place where names become objects: from a `Config` to schedules, networks, losses, optimisers, data."""

from jaxdiff.build import anomaly
from jaxdiff.build.condition import channels, channels_of, low_shape, lowered
from jaxdiff.build.data import source, sources
from jaxdiff.build.diffusion import SCHEDULES, TIMES, measured, preconditioning, schedule, times_seen
from jaxdiff.build.evaluation import errors_by_time, evaluating, evaluation, times_shown
from jaxdiff.build.likelihood import bits_per_dim, bound_by_step, bound_chain, bound_settings
from jaxdiff.build.names import check_options, named
from jaxdiff.build.networks import Spec, denoiser, init_params, knows_none, model, network, with_lora
from jaxdiff.build.sample import SPACINGS, check_unused, sampler, times, with_sample
from jaxdiff.build.training import (
    averages,
    eval_loss_fn,
    evaluate_every,
    learning_rate,
    loss_fn,
    optimizer,
    steps_per_call,
    trained,
)

__all__ = [
    "SCHEDULES", "SPACINGS", "TIMES", "Spec", "anomaly", "averages", "bits_per_dim", "bound_by_step", "bound_chain",
    "bound_settings", "channels", "channels_of", "check_options", "check_unused", "denoiser", "errors_by_time",
    "eval_loss_fn", "evaluate_every", "evaluating", "evaluation", "init_params", "knows_none", "learning_rate",
    "loss_fn", "low_shape", "lowered", "measured", "model", "named", "network", "optimizer", "preconditioning",
    "sampler", "schedule", "source", "sources", "steps_per_call", "times", "times_seen", "times_shown", "trained",
    "with_lora", "with_sample",
]  # fmt: skip
