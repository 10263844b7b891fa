"""Inpainting as a sampler round any sampler: what is known is put into x after every step, as noisy as x is there."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.noise import fold_in, per_example, white_noise
from jaxdiff.operators import check_mask
from jaxdiff.process import q_sample, q_transition
from jaxdiff.schedules import check_whole, require
from jaxdiff.typing import Array, Denoiser, InputError, Noise, Schedule


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Replacement:
    """The given sampler's step from t to s, then `x_s <- m (alpha_s known + sigma_s eps) + (1 - m) x_s`, fresh eps.

    A step up, to s > t, is one of the forward process: on a grid that goes up and down (`time_travel`) with
    `DDPM` inside this is RePaint. `sample` runs down only; `tasks.inpaint` does both.

    Attributes:
      sampler: such as `DDPM(schedule)`.
      known: the picture, `[B, ...]` or `[1, ...]`, in [-1, 1]; anything where the mask is 0.
      mask: m, 1 where it is known, else 0; as many dimensions as `known`, and broadcasts against it.
      noise: what is drawn, `(key, shape) -> noise`.

    Raises:
      InputError: another value in the mask, where it is concrete.

    A sampler with a history (`DPMSolverMultistep`) goes down well enough, but remembers predictions of before the
    replacement; after a step up it would remember another way, which `tasks.inpaint` refuses.

    >>> from jaxdiff import DDIM, sample, schedules, testing, timesteps
    >>> schedule = schedules.Flow()
    >>> denoise = testing.gaussian_denoiser(mean=2.0, std=0.0, schedule=schedule)
    >>> sampler = Replacement(DDIM(schedule), known=jnp.array([[5.0, 0.0]]), mask=jnp.array([[1.0, 0.0]]))
    >>> sample(jax.random.key(0), denoise, sampler, timesteps.uniform(4), jnp.ones((1, 2))).tolist()
    [[5.0, 2.0]]

    Source: Song et al. 2021 (arXiv 2011.13456), appendix I.2; Lugmayr et al. 2022 (arXiv 2201.09865), eq. 8.
    """

    sampler: Any
    known: Array
    mask: Array
    noise: Noise = dataclasses.field(default=white_noise, metadata={"static": True})

    def __post_init__(self) -> None:
        check_mask(self.mask)

    @property
    def schedule(self) -> Schedule:
        """The inner sampler's."""
        schedule: Schedule = self.sampler.schedule
        return schedule

    def init(self, x: Array) -> Any:
        return self.sampler.init(x)

    def step(
        self, key: Array, state: Any, t: Array, s: Array, denoise: Denoiser, *, temperature: Array | float = 1.0
    ) -> Any:
        keys = per_example(key, state.x.shape[0])
        eps = self.noise(fold_in(keys, 1), state.x.shape).astype(state.x.dtype)

        def up(state: Any) -> Any:
            x = q_transition(state.x, jnp.minimum(s, t), jnp.maximum(s, t), eps, schedule=self.schedule)
            return state._replace(x=x.astype(state.x.dtype))

        def down(state: Any) -> Any:
            state = self.sampler.step(fold_in(keys, 0), state, t, s, denoise, temperature=temperature)
            known = jnp.broadcast_to(self.known.astype(eps.dtype), eps.shape)
            known = q_sample(known, s, eps, schedule=self.schedule)
            mask = jnp.broadcast_to(self.mask, eps.shape)
            return state._replace(x=jnp.where(mask > 0, known, state.x))

        return jax.lax.cond(jnp.all(s > t), up, down, state)


def remembers(sampler: Any) -> bool:
    """Whether it, or one inside it, keeps more from step to step than x: predictions of the steps before, say.

    >>> from jaxdiff.samplers import DDPM, UniPC
    >>> from jaxdiff.schedules import VP
    >>> remembers(DDPM(VP())), remembers(UniPC(VP()))
    (False, True)
    """
    inside = [*getattr(sampler, "samplers", ()), *([sampler.sampler] if hasattr(sampler, "sampler") else [])]

    def arrays(one: Any) -> int:
        return len(jax.tree.leaves(jax.eval_shape(one.init, jax.ShapeDtypeStruct((1, 1), jnp.float32))))

    return any(map(remembers, inside)) or arrays(sampler) > 1 + sum(map(arrays, inside))


def check_resampling(sampler: Any, resamplings: int) -> None:
    """Nothing, if a grid that goes up and down suits the sampler.

    Args:
      sampler: any.
      resamplings: r of `time_travel`.

    Raises:
      InputError: more than one resampling by a sampler that `remembers` the steps before.

    >>> from jaxdiff.samplers import UniPC
    >>> from jaxdiff.schedules import VP
    >>> check_resampling(UniPC(VP()), 2)
    Traceback (most recent call last):
    ...
    jaxdiff.typing.InputError: UniPC remembers the steps before, wrong after going up; use DDPM, or 1 resampling
    """
    check_whole("resamplings", resamplings)
    require(
        resamplings == 1 or not remembers(sampler),
        f"{type(sampler).__name__} remembers the steps before, wrong after going up; use DDPM, or 1 resampling",
    )


RESAMPLINGS = 10
"""The paper's r."""


def usual_jump(steps: int) -> int:
    """The paper's jump of 10 steps, or all but one of a shorter grid.

    >>> usual_jump(250), usual_jump(4)
    (10, 3)

    Source: Lugmayr et al. 2022 (arXiv 2201.09865), appendix B.
    """
    return max(1, min(10, steps - 1))


def time_travel(steps: int, *, jump_length: int, resamplings: int) -> np.ndarray:
    """RePaint's way through a grid of n = `steps` steps, as numbers of its times, 0 the noise and n the data: with p
    steps to go, p = 1, 1 + j, 1 + 2 j, ... <= n - j, it jumps back up j steps, r - 1 times, and comes down again.

    A jump is one step of the forward process, which has the distribution of the paper's j small ones. j = 1 is the
    paper's Algorithm 1 (U = r), r = 1 the grid itself. Each jump costs j more calls of the network.

    Args:
      steps: n.
      jump_length: j, from 1; the paper's 10 of 250 steps.
      resamplings: r, how often each piece is gone through, from 1; the paper's 10.

    Raises:
      InputError: numbers that are not whole, from 1; jumps that are not shorter than the grid.

    Returns:
      int `[m + 1]`: `times[time_travel(...)]` is the grid to run.

    >>> time_travel(5, jump_length=2, resamplings=2).tolist()
    [0, 1, 2, 0, 1, 2, 3, 4, 2, 3, 4, 5]

    Source: Lugmayr et al. 2022 (arXiv 2201.09865), Algorithm 1 and appendix B.
    """
    check_whole("steps", steps)
    check_whole("jump_length", jump_length)
    check_whole("resamplings", resamplings)
    if resamplings > 1 and jump_length >= steps:
        raise InputError(f"jump_length {jump_length}: expected fewer than the grid's {steps} steps, or it never jumps")
    left = {p: resamplings - 1 for p in range(1, steps - jump_length + 1, jump_length)}
    p, path = steps, [steps]
    while p > 0:
        p -= 1
        path.append(p)
        if left.get(p, 0):
            left[p] -= 1
            p += jump_length
            path.append(p)
    return steps - np.asarray(path)
