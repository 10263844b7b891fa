"""How much each time counts: loss weights. (Which times training sees is `time_sampling`.)

A weight is a function `(t, *, kind, schedule) -> w`, the shape of t, on the squared error in what the network predicts.
Pass it to `losses.simple(..., weight=min_snr)`, with other numbers by `functools.partial(min_snr, gamma=1.0)`.

The papers state each for the error in x0 or in eps. Here each is a `size`, see `parameterization.error_weight`: a
weight w on the error in x0 has size sigma sqrt(w), one on that in eps alpha sqrt(w). So the loss of a denoiser is the
same whatever its kind, and the weights keep their limits at both ends of the schedule; where there is none, as of the
ELBO's towards the data, they are large or infinite.

To count the error of another kind, as "eps" for a score, is a weight too: `partial(kind_weight, as_kind="eps")`.
"""

from collections.abc import Callable
from typing import Protocol

import jax.numpy as jnp

from jaxdiff.parameterization import Kind, edm_F, error_weight, floored, kind_weight
from jaxdiff.schedules import as_float, d_alpha, diffusion
from jaxdiff.typing import Array, Schedule


class Weight(Protocol):
    """`(t, *, kind, schedule) -> w`."""

    def __call__(self, t: Array, *, kind: Kind, schedule: Schedule) -> Array: ...


def min_snr(t: Array, *, kind: Kind, schedule: Schedule, gamma: Array | float = 5.0) -> Array:
    """Min-SNR-gamma: `min(SNR, gamma)` on the error in x0, so `min(1, gamma / SNR)` on that in eps.

    >>> from jaxdiff.schedules import Flow
    >>> [round(float(min_snr(jnp.float32(0.25), kind=k, schedule=Flow())), 4) for k in ("x0", "eps")]  # SNR is 9
    [5.0, 0.5556]

    Source: Hang et al. 2023 (arXiv 2303.09556), section 3.4.
    """
    alpha, sigma = floored(t, schedule=schedule)
    return error_weight(jnp.minimum(alpha, jnp.sqrt(gamma) * sigma), t, kind=kind, schedule=schedule)


def truncated_snr(t: Array, *, kind: Kind, schedule: Schedule) -> Array:
    """Truncated SNR: `max(SNR, 1)` on the error in x0, that is, the larger of the errors in x0 and eps.

    >>> from jaxdiff.schedules import Flow
    >>> [float(truncated_snr(jnp.float32(t), kind="x0", schedule=Flow())) for t in (0.25, 0.75)]
    [9.0, 1.0]

    Source: Salimans & Ho 2022 (arXiv 2202.00512), section 4.
    """
    alpha, sigma = floored(t, schedule=schedule)
    return error_weight(jnp.maximum(alpha, sigma), t, kind=kind, schedule=schedule)


def p2(t: Array, *, kind: Kind, schedule: Schedule, gamma: Array | float = 1.0, k: Array | float = 1.0) -> Array:
    """Perception prioritised: `1 / (k + SNR)^gamma` on the error in eps.

    >>> from jaxdiff.schedules import Flow
    >>> round(float(p2(jnp.float32(0.25), kind="eps", schedule=Flow())), 4)
    0.1

    Source: Choi et al. 2022 (arXiv 2204.00227), section 3.
    """
    alpha, sigma = floored(t, schedule=schedule)
    share = sigma / jnp.sqrt(k * sigma**2 + alpha**2)  # 1 / sqrt(k + SNR)
    return error_weight(alpha * share**gamma, t, kind=kind, schedule=schedule)


def edm(t: Array, *, kind: Kind, schedule: Schedule, sigma_data: float = 0.5) -> Array:
    """EDM's `lambda = (sigma_bar^2 + sigma_data^2) / (sigma_bar sigma_data)^2` on the error in x0, with
    `sigma_bar = sigma / alpha`; 1 on the error in F, which is what it is made for.

    >>> from jaxdiff import schedules
    >>> round(float(edm(jnp.float32(0.5 / 80), kind="x0", schedule=schedules.EDM())), 3)  # sigma is 0.5: 1/2 / 1/16
    8.0

    Source: Karras et al. 2022 (arXiv 2206.00364), table 1, and section 5 for its times (`time_sampling.log_normal`).
    """
    return kind_weight(t, kind=kind, as_kind=edm_F(sigma_data), schedule=schedule)


def _noise_rate(t: Array, schedule: Schedule) -> Array:
    """`sigma (alpha sigma' - sigma alpha')`, which is alpha g^2 / 2: finite where sigma' or g is not."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    some = alpha > 0
    g = diffusion(jnp.where(some, t, 0.5), schedule=schedule)
    return jnp.where(some, 0.5 * alpha * g**2, -(sigma**2) * d_alpha(t, schedule=schedule))


def elbo(t: Array, *, kind: Kind, schedule: Schedule) -> Array:
    """The continuous-time variational bound: `-1/2 d log_snr/dt` on the error in eps, for t uniform in [0, 1].

    The mean of the loss is then the bound's diffusion term, in nats per dimension.

    >>> from jaxdiff.schedules import Flow
    >>> round(float(elbo(jnp.float32(0.25), kind="eps", schedule=Flow())), 4)  # 1 / (t (1 - t))
    5.3333

    Source: Kingma et al. 2021 (arXiv 2107.00630), section 4.
    """
    t = as_float(t)
    alpha, sigma = floored(t, schedule=schedule)
    return error_weight(jnp.sqrt(alpha * _noise_rate(t, schedule)) / sigma, t, kind=kind, schedule=schedule)


def sigmoid(t: Array, *, kind: Kind, schedule: Schedule, bias: Array | float = 0.0) -> Array:
    """The weight of the bound times `sigmoid(bias - log_snr)`: `elbo`, but for the details too fine to see.

    Args:
      t: times, scalar or `[B]`, of which the training sees uniform ones; of others divide the loss by their density.
      kind: what the model predicts.
      schedule: gives alpha and sigma.
      bias: the log-SNR above which the weight falls off; the papers tune it by the resolution, from -3 to 3.

    >>> from jaxdiff.schedules import Flow
    >>> round(float(sigmoid(jnp.float32(0.5), kind="eps", schedule=Flow())), 4)  # half of 1 / (t (1 - t))
    2.0

    Source: Kingma & Gao 2023 (arXiv 2303.00848), section 4; Hoogeboom et al. 2024 (arXiv 2410.19324), section 3.
    """
    t = as_float(t)
    alpha, sigma = floored(t, schedule=schedule)
    # sigmoid(bias - log_snr) = sigma^2 / (sigma^2 + exp(-bias) alpha^2), which takes the sigma^2 that elbo divides by.
    below = sigma**2 + jnp.exp(-jnp.asarray(bias, t.dtype)) * alpha**2
    return error_weight(jnp.sqrt(alpha * _noise_rate(t, schedule) / below), t, kind=kind, schedule=schedule)


WEIGHTS: dict[str, Callable[..., Array]] = {
    "min_snr": min_snr,
    "truncated_snr": truncated_snr,
    "p2": p2,
    "edm": edm,
    "elbo": elbo,
    "sigmoid": sigmoid,
}
"""Name -> weight, called as `WEIGHTS[name](t, kind=kind, schedule=schedule, **options)`."""
