"""What a network sees and predicts, as a set: `c_skip, c_out, c_in, c_noise` of the four published designs.

    x_0 = c_skip x_t + c_out F(c_in x_t, c_noise)

The paper writes them for data plus noise, alpha = 1. On any schedule x_t / alpha is that, with noise of standard
deviation sigma_bar = sigma / alpha; here c_skip and c_in contain the division by alpha, so they multiply x_t itself and
stay finite where the mathematics does. c_skip and c_out are not free: they say of what kind F is, and that kind, a row
of `parameterization`, is what the losses and `denoise.denoiser` ask for.

    model = precondition(network, edm(), schedule=schedule)
    denoise = denoiser(model, schedule=schedule, kind=edm().kind)

Source: Karras et al. 2022 (arXiv 2206.00364), table 1 and eq. 7.
"""

import dataclasses
import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from jaxdiff.parameterization import Kind, coefficients, determinant, edm_F
from jaxdiff.schedules import VP, Discrete, cosine, expand, half_log_snr, time_at_log_snr
from jaxdiff.typing import Array, Model, Schedule

Coefficient = Callable[[Array, Schedule], Array]
"""`(t, schedule) -> c`, the shape of t."""


@dataclasses.dataclass(frozen=True)
class Preconditioning:
    """How a network is fed and read.

    Attributes:
      kind: what F predicts, a key of `parameterization.KINDS` or a row.
      c_in: multiplies x_t.
      c_noise: what F is told of the time.
    """

    kind: Kind
    c_in: Coefficient
    c_noise: Coefficient

    def c_skip(self, t: Array, schedule: Schedule) -> Array:
        """Multiplies x_t in x_0: `b / det` of the kind."""
        _, b = coefficients(t, kind=self.kind, schedule=schedule)
        return b / determinant(t, kind=self.kind, schedule=schedule)

    def c_out(self, t: Array, schedule: Schedule) -> Array:
        """Multiplies F in x_0: `-sigma / det` of the kind."""
        return -schedule.sigma(t) / determinant(t, kind=self.kind, schedule=schedule)


def precondition(network: Model, design: Preconditioning, *, schedule: Schedule) -> Model:
    """A model of t from a network of (scaled x, c_noise): `F(c_in x_t, c_noise)`, a prediction of `design.kind`.

    Args:
      network: `(x [B, ...], c_noise [B]) -> F [B, ...]`.
      design: `edm()`, `vp()`, `ve()`, `iddpm()`, or another.
      schedule: gives alpha and sigma; need not be the one that the network was trained on.

    >>> from jaxdiff.schedules import EDM
    >>> model = precondition(lambda x, c_noise: x, edm(), schedule=EDM(80.0))
    >>> bool(abs(model(jnp.full((1, 1), 80.0), jnp.float32(1.0))[0, 0] - 1) < 1e-4)  # noise comes in as unit variance
    True
    """

    def model(x_t: Array, t: Array) -> Array:
        c_noise = jnp.broadcast_to(design.c_noise(t, schedule), x_t.shape[:1])
        return network(expand(design.c_in(t, schedule), x_t) * x_t, c_noise)

    return model


def _unit_noise(t: Array, schedule: Schedule) -> Array:
    return 1 / jnp.hypot(schedule.alpha(t), schedule.sigma(t))


def edm(sigma_data: float = 0.5) -> Preconditioning:
    """EDM's own: `c_in = 1 / sqrt(alpha^2 sigma_data^2 + sigma^2)`, `c_noise = log(sigma_bar) / 4`, F of `edm_F`.

    Its input and its target have unit variance, for data of standard deviation `sigma_data`.

    >>> from jaxdiff.schedules import EDM
    >>> c = edm()
    >>> t = jnp.float32(0.5 / 80)  # sigma = sigma_data
    >>> [round(float(f(t, EDM())), 4) for f in (c.c_skip, c.c_out, c.c_in, c.c_noise)]
    [0.5, 0.3536, 1.4142, -0.1733]
    """

    def c_in(t: Array, schedule: Schedule) -> Array:
        return 1 / jnp.hypot(schedule.alpha(t) * sigma_data, schedule.sigma(t))

    return Preconditioning(edm_F(sigma_data), c_in, lambda t, schedule: -half_log_snr(t, schedule=schedule) / 4)


def vp(trained: Schedule | None = None, *, M: int = 1000) -> Preconditioning:
    """The score networks of the VP SDE: F is eps, `c_in = 1 / sqrt(alpha^2 + sigma^2)`, `c_noise = (M - 1) t'` with t'
    the time at which the schedule that it was trained on, default `VP()`, has this sigma_bar.

    >>> from jaxdiff.schedules import VP
    >>> round(float(vp().c_noise(jnp.float32(0.5), VP())), 2)
    499.5
    """
    own = VP() if trained is None else trained

    def c_noise(t: Array, schedule: Schedule) -> Array:
        return (M - 1) * time_at_log_snr(2 * half_log_snr(t, schedule=schedule), schedule=own)

    return Preconditioning("eps", _unit_noise, c_noise)


def _minus_eps(t: Array, schedule: Schedule) -> tuple[Array, Array]:
    return jnp.zeros_like(t), -jnp.ones_like(t)


def ve() -> Preconditioning:
    """The score networks of the VE SDE: F is -eps = sigma score, `c_in = 1 / alpha`, `c_noise = log(sigma_bar / 2)`.

    The input is not scaled: it has the standard deviation of the noise, up to 50. Not for schedules with alpha(1) = 0.

    >>> from jaxdiff.schedules import VE
    >>> round(float(ve().c_noise(jnp.float32(1.0), VE(sigma_max=50.0))), 4)  # log 25
    3.2189
    """

    def c_noise(t: Array, schedule: Schedule) -> Array:
        return -half_log_snr(t, schedule=schedule) - math.log(2)

    return Preconditioning(_minus_eps, lambda t, schedule: 1 / schedule.alpha(t), c_noise)


def iddpm(table: Discrete | None = None) -> Preconditioning:
    """The networks of a table of steps: F is eps, `c_in = 1 / sqrt(alpha^2 + sigma^2)`, `c_noise` the step k whose
    sigma_bar is nearest.

    Args:
      table: what the network was trained on; default the cosine table of 1,000.

    >>> from jaxdiff.schedules import cosine
    >>> float(iddpm().c_noise(jnp.float32(0.3), cosine()))
    299.0
    """
    table = cosine() if table is None else table
    sigma_bar = np.sqrt((1 - table.alpha_bar) / np.maximum(table.alpha_bar, 1e-30))  # finite without signal too

    def c_noise(t: Array, schedule: Schedule) -> Array:
        here = jnp.exp(-half_log_snr(t, schedule=schedule))[..., None]
        steps = jnp.asarray(sigma_bar, here.dtype).reshape((1,) * (here.ndim - 1) + (-1,))
        # Clipped: everything is equally far from infinity.
        nearest = jnp.argmin(jnp.abs(steps - jnp.minimum(here, sigma_bar[-1])), axis=-1)
        return nearest.astype(here.dtype)

    return Preconditioning("eps", _unit_noise, c_noise)


PRECONDITIONINGS: dict[str, Callable[..., Preconditioning]] = {"vp": vp, "ve": ve, "iddpm": iddpm, "edm": edm}
"""Name -> function, in the order of the paper's table 1."""
