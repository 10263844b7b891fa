"""Linear multistep solvers of the probability-flow ODE: one call a step, and the slopes of the steps before.

    x_s = scale_s (x_t / scale_t + sum_j b_j slope_j),        slope_0 the newest, sum_j b_j = c_s - c_t

in the straight form of `runge_kutta`. They differ in the weights b_j.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.samplers.base import History, denoise_unless, euler_step
from jaxdiff.samplers.runge_kutta import corrected, scale_clock, slope
from jaxdiff.schedules import check_choice, expand
from jaxdiff.typing import Array, Denoiser, Schedule

ADAMS_BASHFORTH = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
"""Row k - 1: the weights of order k for equal steps, newest slope first."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LMS:
    """Adams-Bashforth with unequal steps: b_j is the integral of the Lagrange polynomial of slope j over the step.

    The first steps use the slopes there are. A step that ends at sigma = 0 is Euler's.

    Attributes:
      schedule: gives alpha and sigma.
      order: 1 to 4, the number of slopes.

    Raises:
      InputError: another order.

    >>> from jaxdiff.schedules import VP
    >>> LMS(VP()).order
    4

    Source: Hairer, Norsett & Wanner, Solving Ordinary Differential Equations I, section III.5; LMS is k-diffusion's
    name for it.
    """

    schedule: Schedule = dataclasses.field(metadata={"static": True})
    order: int = dataclasses.field(default=4, metadata={"static": True})

    def __post_init__(self) -> None:
        check_choice("order of LMS", self.order, (1, 2, 3, 4))

    def init(self, x: Array) -> History:
        return History.empty(x, self.order)

    def step(
        self, key: Array, state: History, t: Array, s: Array, denoise: Denoiser, *, temperature: Array | float = 1.0
    ) -> History:
        prediction, (_, clock) = denoise(state.x, t), scale_clock(t, schedule=self.schedule)
        state = state.push(slope(prediction, schedule=self.schedule), clock)
        scale, end = scale_clock(s, schedule=self.schedule)
        usable = jnp.where(self.schedule.sigma(s) == 0, 1, jnp.minimum(state.steps, self.order))
        x = euler_step(prediction, s, schedule=self.schedule)
        for j in range(1, self.order):
            orders = range(j + 1, self.order + 1)
            weight = sum(jnp.where(usable == k, _lagrange_integral(state.clocks[:k], j, end), 0) for k in orders)
            x = x + expand(scale * weight, x) * (state.values[j] - state.values[0])
        return state._replace(x=x)


def _lagrange_integral(nodes: tuple[Array, ...], j: int, end: Array) -> Array:
    """The integral from nodes[0] to `end` of the Lagrange polynomial of node j of up to four, exactly: Gauss's two
    points integrate cubics."""
    middle, half = (nodes[0] + end) / 2, (end - nodes[0]) / 2
    total = jnp.zeros_like(half)
    for point in (middle - half / np.sqrt(3), middle + half / np.sqrt(3)):
        value = jnp.ones_like(point)
        for other in nodes[:j] + nodes[j + 1 :]:
            gap = nodes[j] - other
            value = value * (point - other) / jnp.where(gap == 0, 1, gap)  # 0 where there is no history yet
        total = total + half * value
    return total


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PNDM:
    """Pseudo linear multistep (PLMS): Adams-Bashforth's weights for equal steps, b_j = (c_s - c_t) times
    (55, -59, 37, -9) / 24, and Heun's for the first step, which has a second call.

    The weights suppose steps that are equal in time: give it a uniform grid. Until there are four slopes it uses the
    lower orders' weights. A step that ends at sigma = 0 is Euler's.

    Attributes:
      schedule: gives alpha and sigma.

    >>> from jaxdiff.schedules import linear
    >>> len(PNDM(linear()).init(jnp.zeros((1, 2))).values)
    4

    Source: Liu et al. 2022 (arXiv 2202.09778), section 3; the start is that of latent diffusion's PLMS, with two
    calls for the paper's twelve.
    """

    schedule: Schedule = dataclasses.field(metadata={"static": True})

    def init(self, x: Array) -> History:
        return History.empty(x, 4)

    def step(
        self, key: Array, state: History, t: Array, s: Array, denoise: Denoiser, *, temperature: Array | float = 1.0
    ) -> History:
        first, (_, clock) = denoise(state.x, t), scale_clock(t, schedule=self.schedule)
        state = state.push(slope(first, schedule=self.schedule), clock)
        x = euler_step(first, s, schedule=self.schedule)
        last = self.schedule.sigma(s) == 0
        second = denoise_unless((state.steps > 1) | last, denoise, x, s, first)
        change = 0.5 * (slope(second, schedule=self.schedule) - state.values[0])
        for j in range(1, 4):
            weight = jnp.asarray([0.0] + [row[j] if j < len(row) else 0.0 for row in ADAMS_BASHFORTH])
            b = weight[jnp.minimum(state.steps, 4)]
            change = change + expand(b, x) * (state.values[j] - state.values[0])
        return state._replace(x=corrected(first, change, jnp.where(last, 0.0, 1.0), t, s, self.schedule))
