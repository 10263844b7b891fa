"""Metropolis-adjusted Langevin steps, by BlackJAX, for models that know their density."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxdiff.noise import per_example
from jaxdiff.samplers.base import OneStep, State, check_number
from jaxdiff.schedules import as_float, check_whole, expand
from jaxdiff.typing import Array, Denoiser, InputError


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MALA(OneStep):
    """`steps_per_level` Metropolis-adjusted Langevin steps of size `step_size sigma_s^2` at time s.

    They leave q(x_s) exactly as it is, which no unadjusted step of finite size does.

    Each example is a chain of its own, which accepts and refuses by itself. A corrector, to put behind a predictor with
    `Chain`; at sigma = 0 it does nothing. The denoiser is not called: the density says all, so guidance must be in it.

    Attributes:
      schedule: gives sigma.
      log_density: `(x [B, ...], t) -> [B]`, the log-density of x_t up to a constant, such as minus a network's energy.
        It is called with one example at a time, in a vmap: condition it alike for all examples.
      step_size: in units of sigma_s^2.
      steps_per_level: how many.

    Raises:
      InputError: a negative step size, no steps; BlackJAX is not installed.

    >>> from jaxdiff.schedules import VE
    >>> MALA(VE(), log_density=lambda x, t: -jnp.sum(x**2, axis=-1) / 2).steps_per_level
    1

    Source: Roberts & Tweedie 1996; Du et al. 2023 (arXiv 2302.11552), section 4, for diffusion.
    """

    log_density: Callable[[Array, Array], Array] = dataclasses.field(metadata={"static": True})
    step_size: Array | float = 0.1
    steps_per_level: int = dataclasses.field(default=1, metadata={"static": True})

    random: ClassVar[bool] = True  # it draws, though not by a `noise`

    def __post_init__(self) -> None:
        check_number("step_size", self.step_size, 0)
        check_whole("steps_per_level", self.steps_per_level)

    def step(
        self, key: Array, state: State, t: Array, s: Array, denoise: Denoiser, *, temperature: Array | float = 1.0
    ) -> State:
        """As `Sampler`; a temperature makes the density p^(1 / temperature^2), what scaled noise does to Langevin."""
        try:
            from blackjax import mala
        except ImportError as error:
            raise InputError("MALA needs BlackJAX: pip install 'jaxdiff[mcmc]'") from error
        x = as_float(state.x)  # BlackJAX wants one dtype of position and density
        skip = self.schedule.sigma(s) == 0
        time = jnp.broadcast_to(jnp.where(skip, t, s), x.shape[:1])
        cold = jnp.broadcast_to(jnp.square(temperature), x.shape[:1]).astype(time.dtype)

        def chain(key: Array, x: Array, time: Array, cold: Array) -> Array:
            step_size = self.step_size * jnp.square(self.schedule.sigma(time))
            kernel = mala(lambda x: self.log_density(x[None], time)[0] / cold, step_size)

            def body(state: Any, i: Array) -> tuple[Any, None]:
                return kernel.step(jax.random.fold_in(key, i), state)[0], None

            return jnp.asarray(jax.lax.scan(body, kernel.init(x), jnp.arange(self.steps_per_level))[0].position)

        moved = jax.vmap(chain)(per_example(key, x.shape[0]), x, time, cold)
        return State(jnp.where(expand(skip, x) > 0, x, moved).astype(state.x.dtype))
