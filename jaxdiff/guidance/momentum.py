"""Adaptive projected guidance with momentum: it remembers, so it is a sampler round a sampler."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdiff.guidance.base import Scale
from jaxdiff.guidance.pairs import add_projected, two_halves
from jaxdiff.schedules import expand
from jaxdiff.typing import Array, Denoiser, Prediction, Schedule


class APGState(NamedTuple):
    """The current x, the sampler's own state, and the running sum of updates `d = x0_cond - x0_uncond`."""

    x: Array
    inner: Any
    running: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class APGMomentum:
    """Any sampler under `adaptive_projected` guidance whose update has (reverse) momentum over the steps:

        d <- x0_cond - x0_uncond + beta d

    To sample with it pass the denoiser of two halves itself, not a guided one. beta = 0 is `adaptive_projected`.

    Every call of a step adds the d of the step before; the first one's sum is handed on. The first call of a step must
    not be inside control flow.

    Attributes:
      sampler: the sampler inside, such as `samplers.DDIM(schedule)`.
      schedule: gives alpha and sigma.
      scale: as of `classifier_free` (a function of time is no argument of a jitted function: make the sampler inside).
      eta: the weight of the parallel part; a number or `[B]`.
      r: the largest norm of an example's d; a number or `[B]`.
      beta: the momentum, in (-1, 1), negative in the paper; a number or `[B]`.

    >>> from jaxdiff import samplers, schedules, timesteps
    >>> schedule = schedules.Flow()
    >>> both = lambda x, t: Prediction(jnp.array([[1.0], [0.0]]), x)
    >>> sampler = APGMomentum(samplers.DDIM(schedule), schedule, scale=2.0, eta=1.0)
    >>> times = timesteps.uniform(2)  # d is 1, then 1 - 0.5
    >>> samplers.sample(jax.random.key(0), both, sampler, times, jnp.zeros((1, 1))).tolist()
    [[1.5]]

    Source: Sadat et al. 2024 (arXiv 2410.02416), section 4.
    """

    sampler: Any
    schedule: Schedule = dataclasses.field(metadata={"static": True})
    scale: Scale
    eta: Array | float = 0.0
    r: Array | float = float("inf")
    beta: Array | float = -0.5

    def init(self, x: Array) -> APGState:
        return APGState(x, self.sampler.init(x), jnp.zeros_like(x))

    def step(
        self, key: Array, state: APGState, t: Array, s: Array, denoise: Denoiser, *, temperature: Array | float = 1.0
    ) -> APGState:
        kept = expand(jnp.asarray(self.beta), state.running) * state.running
        sums = []

        def guided(x: Array, at: Array) -> Prediction:
            conditional, unconditional = two_halves(denoise, x, at)
            alpha, sigma = self.schedule.alpha(at), self.schedule.sigma(at)
            ratio = jnp.where(sigma > 0, alpha / jnp.where(sigma > 0, sigma, 1), 0)  # at sigma = 0 eps is left alone
            d, d_eps = conditional.x0 - unconditional.x0 + kept, conditional.eps - unconditional.eps
            sums.append(d)
            d_eps = d_eps - expand(ratio, x) * kept
            return add_projected(conditional, d, d_eps, at, scale=self.scale, eta=self.eta, r=self.r)

        inner = self.sampler.step(key, state.inner._replace(x=state.x), t, s, guided, temperature=temperature)
        return APGState(inner.x, inner, sums[0])
