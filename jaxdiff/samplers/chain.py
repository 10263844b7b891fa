"""Samplers in a row: a predictor and its correctors."""

import dataclasses
from typing import Any, NamedTuple

import jax

from jaxdiff.noise import fold_in, per_example
from jaxdiff.typing import Array, Denoiser, Schedule


class ChainState(NamedTuple):
    """The current x, and the members' states."""

    x: Array
    states: tuple[Any, ...]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Chain:
    """The first sampler goes from t to s; each of the others then works at s on what it finds there.

    Attributes:
      samplers: such as `(DDPM(schedule), LangevinCorrector(schedule))`, predictor-corrector sampling.

    >>> from jaxdiff.samplers import DDPM, LangevinCorrector
    >>> from jaxdiff.schedules import VP
    >>> len(Chain((DDPM(VP()), LangevinCorrector(VP()))).init(jax.numpy.zeros((1, 2))).states)
    2

    Source: Song et al. 2021 (arXiv 2011.13456), Algorithm 1 in appendix G.
    """

    samplers: tuple[Any, ...]

    @property
    def schedule(self) -> Schedule | None:
        """The first sampler's, if it has one."""
        return getattr(self.samplers[0], "schedule", None)

    def init(self, x: Array) -> ChainState:
        return ChainState(x, tuple(sampler.init(x) for sampler in self.samplers))

    def step(
        self, key: Array, state: ChainState, t: Array, s: Array, denoise: Denoiser, *, temperature: Array | float = 1.0
    ) -> ChainState:
        keys, x, states = per_example(key, state.x.shape[0]), state.x, []
        for i, (sampler, own) in enumerate(zip(self.samplers, state.states)):
            own = own._replace(x=x)
            states.append(sampler.step(fold_in(keys, i), own, t, s, denoise, temperature=temperature))
            x = states[-1].x
        return ChainState(x, tuple(states))
