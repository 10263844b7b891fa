"""The process, how its network is fed, which times training sees, and how much they count."""

import inspect
import math
from collections.abc import Callable
from functools import cache, partial, wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import losses, schedules, time_sampling
from jaxdiff.build.names import check_options, named
from jaxdiff.config import Diffusion
from jaxdiff.parameterization import KINDS, determinant
from jaxdiff.preconditioning import PRECONDITIONINGS, Preconditioning
from jaxdiff.typing import Array, InputError, Schedule
from jaxdiff.weighting import WEIGHTS


def _zero_snr(table: Callable[..., schedules.Discrete]) -> Callable[..., schedules.Discrete]:
    @wraps(table)  # with the options of the table
    def rescaled(*args: Any, **options: Any) -> schedules.Discrete:
        return schedules.zero_terminal_snr(table(*args, **options))

    return rescaled


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": schedules.constant,
    "linear": schedules.linear,
    "quadratic": schedules.quadratic,
    "cosine": schedules.cosine,
    "sigmoid": schedules.sigmoid,
    "tanh": schedules.tanh,
    "geometric": schedules.geometric,
    "linear_zero_snr": _zero_snr(schedules.linear),
    "quadratic_zero_snr": _zero_snr(schedules.quadratic),
    "vp": schedules.VP,
    "sub_vp": schedules.SubVP,
    "ve": schedules.VE,
    "edm": schedules.EDM,
    "flow": schedules.Flow,
    "cosine_log_snr": schedules.CosineLogSNR,
    "cosine_log_snr_interpolated": schedules.InterpolatedCosineLogSNR,
}


TIMES: dict[str, Callable[..., Array]] = {
    "uniform": time_sampling.uniform_time,
    "log_normal": time_sampling.log_normal,
    "logit_normal": time_sampling.logit_normal,
}


def schedule(diffusion: Diffusion) -> Schedule:
    """The schedule, with T = `diffusion.steps` for a table; `InputError` if the prediction kind does not suit it."""
    make = named(SCHEDULES, diffusion.schedule, "schedule")
    named(KINDS, diffusion.kind, "prediction kind")
    check_options(f"schedule {diffusion.schedule}", make, diffusion.schedule_options, besides=("T",))
    is_table = "T" in inspect.signature(make).parameters
    alphas = make(*([diffusion.steps] if is_table else []), **diffusion.schedule_options)
    if not _tells_of_the_data_at_start(diffusion.kind, alphas):  # type: ignore[arg-type]  # ours can be hashed
        raise InputError(
            f"kind {diffusion.kind} says nothing of the data at t = 1 of the schedule {diffusion.schedule}, where "
            "alpha is 0 and sampling starts; use --diffusion.kind v, x0 or velocity"
        )
    return alphas


@cache  # a schedule is built wherever it is needed, which must not compile this again
def _tells_of_the_data_at_start(kind: str, alphas: Schedule) -> bool:
    det = jax.jit(partial(determinant, kind=kind, schedule=alphas))
    with jax.ensure_compile_time_eval():  # a number, also where a traced function builds its schedule
        return float(det(jnp.float32(1.0))) != 0


def preconditioning(diffusion: Diffusion, alphas: Schedule) -> Preconditioning | None:
    """How the network is fed, if not with x_t as it is.

    Args:
      diffusion: of which `preconditioning` is read.
      alphas: the schedule.

    Raises:
      InputError: an unknown one, or one that divides by alpha on a schedule where that ends in 0.
    """
    if diffusion.preconditioning is None:
        return None
    design = named(PRECONDITIONINGS, diffusion.preconditioning, "preconditioning")()
    with jax.ensure_compile_time_eval():
        scale = float(design.c_in(jnp.float32(1.0), alphas))
    if not math.isfinite(scale):
        raise InputError(
            f"--diffusion.preconditioning {diffusion.preconditioning}: divides by alpha, which is 0 at t = 1 of the "
            f"schedule {diffusion.schedule}; use edm"
        )
    return design


def times_seen(diffusion: Diffusion, alphas: Schedule) -> Callable[[Array], Array]:
    """keys `[B]` -> the times of training, `[B]`; of a table its own.

    Args:
      diffusion: of which `times` is read.
      alphas: the schedule.

    Raises:
      InputError: unknown times.
    """
    draw = named(TIMES, diffusion.times, "times")
    if "schedule" in inspect.signature(draw).parameters:
        draw = partial(draw, schedule=alphas)
    if not isinstance(alphas, schedules.Discrete):
        return draw
    if draw is time_sampling.uniform_time:
        return partial(time_sampling.uniform_steps, T=alphas.T)
    return lambda keys: time_sampling.to_steps(draw(keys), T=alphas.T)


def measured(diffusion: Diffusion, alphas: Schedule) -> Callable[..., dict[str, Array]]:
    """The loss, `losses.simple` or `hybrid` with its options.

    Args:
      diffusion: of which `weight`, `learned_variance` and their options are read.
      alphas: the schedule.

    Returns:
      the loss but for what a step brings: `(x0, t, eps, *, model, schedule, kind) -> terms`.

    Raises:
      InputError: an unknown weight or option, a weight that is negative or not finite, a learned variance without a
        table.
    """
    loss: Callable[..., dict[str, Array]] = losses.simple
    if diffusion.weight is not None:
        weight = named(WEIGHTS, diffusion.weight, "weight")
        check_options(f"weight {diffusion.weight}", weight, diffusion.weight_options, besides=("t", "kind", "schedule"))
        weight = partial(weight, **diffusion.weight_options)
        with jax.ensure_compile_time_eval():
            found = np.asarray(weight(jnp.linspace(0.01, 0.99, 99), kind=diffusion.kind, schedule=alphas))
        if not (np.isfinite(found).all() and (found >= 0).all()):
            raise InputError(
                f"--diffusion.weight {diffusion.weight} {diffusion.weight_options}: negative or not finite somewhere"
            )
        loss = partial(loss, weight=weight)
    elif diffusion.weight_options:
        raise InputError("--diffusion.weight-options without --diffusion.weight: name the weight that they belong to")
    elif diffusion.kind == "score":
        loss = partial(loss, as_kind="eps")
    if not diffusion.learned_variance:
        return loss
    if not isinstance(alphas, schedules.Discrete):
        raise InputError(
            f"--diffusion.learned-variance: the schedule {diffusion.schedule} has no steps whose variance could be "
            "learned; use a table, such as cosine"
        )
    return partial(losses.hybrid, T=alphas.T, mean_loss=loss)
