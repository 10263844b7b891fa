"""Self-conditioning: each step tells the next what it thought of x0. A wrapper round any sampler."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdiff.typing import Array, Denoiser, Prediction, Schedule


class SelfConditioningState(NamedTuple):
    """The current x, the sampler's own state, and the x0 of the step before (0: none)."""

    x: Array
    inner: Any
    estimate: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SelfConditioning:
    """The given sampler, whose denoiser is called with an estimate of x0: `denoise(x_t, t, estimate)`.

    The first call of a step gets the x0 of the step before, further calls get that of the first, which is then handed
    on. So the number of calls is the sampler's own. That first call must not be inside a loop: with `AnnealedLangevin`,
    whose calls are, use `denoise.two_pass`.

    Attributes:
      sampler: such as `DDIM(schedule)`. `sample` it with the denoiser of `denoise.self_conditioned`.

    >>> from jaxdiff import DDIM, sample
    >>> from jaxdiff.denoise import self_conditioned
    >>> from jaxdiff.schedules import Flow
    >>> denoise = self_conditioned(lambda x, t, estimate: 1 + estimate, schedule=Flow(), kind="x0")
    >>> sampler = SelfConditioning(DDIM(Flow()))
    >>> sample(jax.random.key(0), denoise, sampler, jnp.array([1.0, 0.6, 0.3, 0.0]), jnp.zeros((1, 1))).tolist()
    [[3.0]]

    Source: Chen et al. 2022 (arXiv 2208.04202), section 3.
    """

    sampler: Any

    @property
    def schedule(self) -> Schedule | None:
        """The inner sampler's, if it has one."""
        return getattr(self.sampler, "schedule", None)

    def init(self, x: Array) -> SelfConditioningState:
        return SelfConditioningState(x, self.sampler.init(x), jnp.zeros_like(x))

    def step(
        self,
        key: Array,
        state: SelfConditioningState,
        t: Array,
        s: Array,
        denoise: Denoiser,
        *,
        temperature: Array | float = 1.0,
    ) -> SelfConditioningState:
        known = [state.estimate]

        def told(x_t: Array, t: Array) -> Prediction:
            prediction: Prediction = denoise(x_t, t, known[-1])  # type: ignore[call-arg]  # a SelfDenoiser
            if len(known) == 1:
                known.append(prediction.x0.astype(state.estimate.dtype))
            return prediction

        inner = self.sampler.step(key, state.inner._replace(x=state.x), t, s, told, temperature=temperature)
        return SelfConditioningState(inner.x, inner, known[-1])
