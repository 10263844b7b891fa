"""Schedules: `alpha(t)` and `sigma(t)`, what follows from them, and the published families. See `schedules.base`."""

from jaxdiff.schedules.base import (
    alpha_sigma,
    as_time,
    expand,
    half_log_snr,
    log_snr,
    require,
    time_at_log_snr,
)
from jaxdiff.schedules.continuous import VE, VP, Flow
from jaxdiff.schedules.discrete import (
    Discrete,
    constant,
    cosine,
    from_alpha_bar,
    from_betas,
    geometric,
    linear,
    quadratic,
    sigmoid,
    step_position,
    tanh,
)

__all__ = [
    "VE",
    "VP",
    "Discrete",
    "Flow",
    "alpha_sigma",
    "as_time",
    "constant",
    "cosine",
    "expand",
    "from_alpha_bar",
    "from_betas",
    "geometric",
    "half_log_snr",
    "linear",
    "log_snr",
    "quadratic",
    "require",
    "sigmoid",
    "step_position",
    "tanh",
    "time_at_log_snr",
]
