"""DPM-Solver (`predict="eps"`) and DPM-Solver++ (`predict="x0"`): see `exponential` for the equation they solve."""

import dataclasses
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.noise import white_noise
from jaxdiff.samplers.base import (
    History,
    OneStep,
    State,
    check_number,
    denoise_unless,
    euler_step,
)
from jaxdiff.samplers.exponential import Predict, frame, linear_step, phi, span
from jaxdiff.schedules import check_choice, expand, safe_sqrt, time_at_log_snr
from jaxdiff.typing import Array, Denoiser, InputError, Noise, Schedule, concrete


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DPMSolverMultistep:
    """A polynomial through the predictions of the last `order` steps; one call a step.

    Orders 2 and 3 in the papers' forms: 2 is `m + (m - m_before) / (2 r)`, r the last step in units of this one; 3
    integrates the quadratic exactly. The first steps use the order there is history for.

    Attributes:
      schedule: gives alpha and sigma.
      order: 1, 2 or 3.
      predict: "x0" for DPM-Solver++, better under guidance; "eps" for DPM-Solver.
      eta: 0 for the ODE, 1 for the SDE; any number from 0, of "x0" only. It is tau^2 of SA-Solver (arXiv 2309.05019).
      noise: what is drawn, `(key, shape) -> noise`.

    Raises:
      InputError: another order or prediction, eta below 0, eta with "eps".

    >>> from jaxdiff.schedules import linear
    >>> DPMSolverMultistep(linear()).order
    2

    Source: Lu et al. 2022b (arXiv 2211.01095), Algorithm 2 and section 5 (SDE); Lu et al. 2022a (arXiv 2206.00927).
    """

    schedule: Schedule = dataclasses.field(metadata={"static": True})
    order: int = dataclasses.field(default=2, metadata={"static": True})
    predict: Predict = dataclasses.field(default="x0", metadata={"static": True})
    eta: Array | float = 0.0
    noise: Noise = dataclasses.field(default=white_noise, metadata={"static": True})

    def __post_init__(self) -> None:
        check_choice("order of DPMSolverMultistep", self.order, (1, 2, 3))
        check_choice("predict", self.predict, get_args(Predict))
        check_number("eta", self.eta, 0)
        eta = concrete(self.eta)
        if self.predict == "eps" and eta is not None and np.any(eta != 0):
            raise InputError(f"eta {self.eta}: the SDE solver follows x0; use predict='x0', or eta 0")

    def init(self, x: Array) -> History:
        return History.empty(x, self.order)

    def step(
        self, key: Array, state: History, t: Array, s: Array, denoise: Denoiser, *, temperature: Array | float = 1.0
    ) -> History:
        prediction = denoise(state.x, t)
        here, there, h, end = span(t, s, schedule=self.schedule, predict=self.predict)
        state = state.push(getattr(prediction, self.predict), here.clock)
        usable = jnp.where(end, 1, jnp.minimum(state.steps, self.order))
        x = linear_step(state.x, here, there, state.values[0], eta=self.eta)
        x = x + expand(there.alpha, x) * self._slopes(state, (1 + self.eta) * h, h, usable)

        # In an infinite step an SDE replaces all the noise.
        noisy = jnp.where(jnp.asarray(self.eta) > 0, 1.0, 0.0)
        fresh = jnp.where(end, noisy, -jnp.expm1(-2 * self.eta * h))
        kept = prediction._replace(eps=expand(1 - noisy, x) * prediction.eps)
        x = jnp.where(expand(end, x) > 0, euler_step(kept, s, schedule=self.schedule), x)
        std = self.schedule.sigma(s) * safe_sqrt(fresh)
        return state._replace(x=x + expand(temperature * std, x) * self.noise(key, x.shape).astype(x.dtype))

    def _slopes(self, state: History, H: Array, h: Array, usable: Array) -> Array:
        """What the first and second derivative of m add, over alpha_s."""
        m, clocks, (one, two, three) = state.values, state.clocks, phi(H, 3)
        if self.order == 1:
            return jnp.zeros_like(m[0])
        # The lengths of the last steps in units of this one; 1 where there is no history yet.
        r = [jnp.where(usable > j + 1, (clocks[j] - clocks[j + 1]) / h, 1) for j in range(self.order - 1)]
        slope = (m[0] - m[1]) / expand(r[0], m[0])
        total = expand(jnp.where(usable == 2, one / 2, 0), slope) * slope
        if self.order == 2:
            return total
        # The slope is that of the middle of the last step: the curvature carries it to t.
        curvature = (slope - (m[1] - m[2]) / expand(r[1], m[0])) / expand((r[0] + r[1]) / 2, m[0])
        slope = slope + expand(r[0] / 2, m[0]) * curvature
        two, three = (expand(jnp.where(usable == 3, weight, 0), total) for weight in (two, three))
        return total + two * slope + three * curvature


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DPMSolverSinglestep(OneStep):
    """A Runge-Kutta step in log-SNR: `order` calls a step, at equal fractions of it, and no history.

    Order 2 is `x_s = linear step with m(lambda_t + h / 2)`; order 3 has its calls at h / 3 and 2 h / 3.

    Attributes:
      schedule: gives alpha and sigma.
      order: 2 or 3. (1 is `DDIM`.)
      predict: "x0" for DPM-Solver++ (2S, 3S), "eps" for DPM-Solver-2 and DPM-Solver-3.

    Raises:
      InputError: another order or prediction.

    >>> from jaxdiff.schedules import linear
    >>> DPMSolverSinglestep(linear(), order=3).predict
    'x0'

    Source: Lu et al. 2022a (arXiv 2206.00927), Algorithms 1 and 2; Lu et al. 2022b (arXiv 2211.01095), Algorithm 1.
    """

    order: int = dataclasses.field(default=2, metadata={"static": True})
    predict: Predict = dataclasses.field(default="x0", metadata={"static": True})

    def __post_init__(self) -> None:
        check_choice("order of DPMSolverSinglestep", self.order, (2, 3))
        check_choice("predict", self.predict, get_args(Predict))

    def step(
        self, key: Array, state: State, t: Array, s: Array, denoise: Denoiser, *, temperature: Array | float = 1.0
    ) -> State:
        x, first = state.x, denoise(state.x, t)
        here, there, h, end = span(t, s, schedule=self.schedule, predict=self.predict)
        m0: Array = getattr(first, self.predict)

        def call(fraction: float, change: Array | float) -> Array:
            """m at a fraction of the step, minus m0; x there by the linear step and the slope so far."""
            clock = here.clock + fraction * h
            log_snr = 2 * clock if self.predict == "x0" else -2 * clock
            time = jnp.where(end, t, time_at_log_snr(log_snr, schedule=self.schedule))
            point = frame(time, schedule=self.schedule, predict=self.predict)
            _, two = phi(fraction * h, 2)
            there = linear_step(x, here, point, m0) + expand(point.alpha * two, x) * change
            m: Array = getattr(denoise_unless(end, denoise, there, time, first), self.predict)
            return m - m0

        one, two = phi(h, 2)
        if self.order == 2:
            change = expand(there.alpha * one, x) * call(1 / 2, jnp.zeros_like(x))
        else:
            third = call(1 / 3, jnp.zeros_like(x))
            change = expand(there.alpha * two * 3 / 2, x) * call(2 / 3, 2 * third)
        x = linear_step(x, here, there, m0) + change
        return State(jnp.where(expand(end, x) > 0, euler_step(first, s, schedule=self.schedule), x))
