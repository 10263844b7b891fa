"""UniPC: a multistep predictor of any order, and a corrector that uses the call which the next step makes anyway."""

import dataclasses
import math
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from jaxdiff.samplers.base import History, euler_step
from jaxdiff.samplers.exponential import Frame, Predict, linear_step, phi, span
from jaxdiff.schedules import check_choice, expand
from jaxdiff.typing import Array, Denoiser, Schedule

Variant = Literal["bh1", "bh2"]


class UniPCState(NamedTuple):
    """`x`, as predicted; and of the step that made it: the corrected x it started from, and its history."""

    x: Array
    before: Array
    history: History
    start: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class UniPC:
    """UniP predicts x_s; the next step's call at s corrects it (UniC) before it goes on. One call a step.

    With D_j = (m_j - m_0) / r_j of the steps before (in the corrector, of the new call too), B a chosen function of h,

        x_s = linear step with m_0 + alpha_s B sum_j rho_j D_j,        sum_j rho_j r_j^{k-1} = k-th moment / B

    The first steps use the order there is history for; a step at an end (`base.at_an_end`) is of first order.

    Attributes:
      schedule: gives alpha and sigma.
      order: 1, 2 or 3 of the predictor; the corrector's is one more.
      variant: B(h): "bh1" is h, "bh2" is 1 - e^{-h}.
      predict: "x0", or "eps".

    Raises:
      InputError: another order, variant or prediction.

    >>> from jaxdiff.schedules import linear
    >>> UniPC(linear()).variant
    'bh2'

    Source: Zhao et al. 2023 (arXiv 2302.04867), Algorithms 5 and 6 (multistep, data prediction), and section 4.1 for B.
    """

    schedule: Schedule = dataclasses.field(metadata={"static": True})
    order: int = dataclasses.field(default=2, metadata={"static": True})
    variant: Variant = dataclasses.field(default="bh2", metadata={"static": True})
    predict: Predict = dataclasses.field(default="x0", metadata={"static": True})

    def __post_init__(self) -> None:
        check_choice("order of UniPC", self.order, (1, 2, 3))
        check_choice("variant", self.variant, get_args(Variant))
        check_choice("predict", self.predict, get_args(Predict))

    def init(self, x: Array) -> UniPCState:
        history = History.empty(x, self.order)
        return UniPCState(x, x, history, history.clocks[0])

    def step(
        self, key: Array, state: UniPCState, t: Array, s: Array, denoise: Denoiser, *, temperature: Array | float = 1.0
    ) -> UniPCState:
        prediction = denoise(state.x, t)
        m = getattr(prediction, self.predict)
        # Correct x_t by what the call has just said of it.
        past = state.history
        before, here, h, end = span(
            state.start, t, schedule=self.schedule, predict=self.predict, unused=past.steps == 0
        )
        usable = jnp.where(end, 0, jnp.minimum(past.steps, self.order))
        corrected = self._combine(state.before, past, before, here, h, usable, [m])
        x = jnp.where(expand(usable, m) > 0, corrected, state.x)

        here, there, h, end = span(t, s, schedule=self.schedule, predict=self.predict)
        history = past._replace(x=x).push(m, here.clock)
        usable = jnp.where(end, 1, jnp.minimum(history.steps, self.order))
        predicted = self._combine(x, history, here, there, h, usable, [])
        predicted = jnp.where(expand(end, x) > 0, euler_step(prediction, s, schedule=self.schedule), predicted)
        return UniPCState(predicted, x, history, jnp.asarray(t))

    def _combine(self, x: Array, past: History, t: Frame, s: Frame, h: Array, usable: Array, new: list[Array]) -> Array:
        """The linear step with m_0, and the differences of history and of `new`, at the order that is usable."""
        result, m0 = linear_step(x, t, s, past.values[0]), past.values[0]
        first, *moments = phi(h, self.order + len(new) + 1)
        B = h if self.variant == "bh1" else first
        for order in range(1, self.order + 1):
            used = usable == order
            # What history is not there yet may coincide: other nodes stand for it, and nothing uses the result.
            nodes = [
                jnp.where(used, (clock - past.clocks[0]) / h, -1.0 - j) for j, clock in enumerate(past.clocks[1:order])
            ]
            nodes += [jnp.ones_like(h) for _ in new]
            for weight, m in zip(_weights(nodes, B, moments), (*past.values[1:order], *new)):
                result = result + expand(jnp.where(used, s.alpha * weight, 0), x) * (m - m0)
        return result


def _weights(nodes: list[Array], B: Array, moments: list[Array]) -> list[Array]:
    """`B rho_j / r_j` for each node r_j: the weight of D_j, by which it is (m_j - m_0)."""
    if len(nodes) == 1:  # the paper's choice at the lowest order, where it is right to that order for every B
        return [B / 2 / nodes[0]]
    weights = []
    for j, node in enumerate(nodes):
        # Lagrange's polynomial of the node, lowest power first; it picks rho_j out of the equations.
        powers = [jnp.ones_like(node)]
        for other in nodes[:j] + nodes[j + 1 :]:
            raised = [jnp.zeros_like(node), *powers]
            powers = [(up - other * same) / (node - other) for up, same in zip(raised, [*powers, jnp.zeros_like(node)])]
        sums = [math.factorial(k + 1) * moment * power for k, (power, moment) in enumerate(zip(powers, moments))]
        weights.append(sum(sums, jnp.zeros_like(node)) / node)
    return weights
