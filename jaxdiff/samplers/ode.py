"""The probability-flow ODE solved to a tolerance, as a sampler."""

import dataclasses

import jax

from jaxdiff.ode import Solver, solve
from jaxdiff.samplers.base import OneStep, State
from jaxdiff.typing import Array, Denoiser


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ODE(OneStep):
    """From t to s by as many steps of an adaptive solver as the tolerance asks for; see `jaxdiff.ode.solve`.

    It chooses its own times, so the grid `[1.0, 0.0]` is all it needs; one with more times says where to stop on the
    way. It injects no noise: `key` and `temperature` do nothing. The batch is solved jointly: beyond the digits of the
    tolerance a picture depends on the others.

    Attributes:
      schedule: gives alpha and sigma.
      rtol: relative tolerance of the local error.
      atol: absolute tolerance of it, in units of data and noise.
      end: the earliest time the network is asked about; 1 / T for a network of T steps. From there to 0 it is one
        first-order step.
      solver: "Tsit5" or "Dopri5".
      max_steps: the most steps from t to s, accepted and rejected.

    Raises:
      InputError: in a step: diffrax is not installed, an unknown solver, a tolerance or `end` that is not positive.
      RuntimeError: in a step, when it runs: `max_steps` do not suffice.

    >>> from jaxdiff.schedules import VP
    >>> ODE(VP(), rtol=1e-3).rtol
    0.001

    Source: Song et al. 2021 (arXiv 2011.13456), section 4.3.
    """

    rtol: Array | float = 1e-5
    atol: Array | float = 1e-5
    end: Array | float = 1e-5
    solver: Solver = dataclasses.field(default="Tsit5", metadata={"static": True})
    max_steps: int = dataclasses.field(default=4096, metadata={"static": True})

    def step(
        self, key: Array, state: State, t: Array, s: Array, denoise: Denoiser, *, temperature: Array | float = 1.0
    ) -> State:
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return State(solve(state.x, t, s, denoise, **options).x)
