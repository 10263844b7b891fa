"""Types, protocols, and THE conventions of the package.

* A Gaussian diffusion is `x_t = alpha(t) x_0 + sigma(t) eps` with `t` in [0, 1]; `t = 0` is data, `t = 1` is noise.
  Sampling runs from `t` to an earlier `s < t`.
* A table of `T` betas is a schedule like any other: step `k = 0..T-1` of the papers' code sits at `t = (k + 1) / T`.
* Channels last: NHWC (NLC, NTHWC). Images are float32 in [-1, 1] inside, uint8 at the border.
* Times are float32 scalars or `[B]`; coefficients are computed in float32 or better, never in half precision.
* `key` is the first argument and typed (`jax.random.key`), arrays come next, everything else is keyword-only.
  Where a function needs one draw per example, `key` is a single key or an array `[B]` of keys; a single key stands
  for `example_keys(key, arange(B))`, so an example's draws do not depend on the batch it is in.
* Logarithms are natural, except in names that say `bits`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import numpy as np

Array = jax.Array
PyTree = Any
S = TypeVar("S", bound="HasX")


class InputError(ValueError):
    """What the user gave is wrong. The message says what was found, what was expected and how to mend it.

    The command line prints it without a traceback and exits with code 2.
    """


def concrete(value: Any) -> np.ndarray | None:
    """The number or numbers, or None for what is being traced or is no number."""
    values = None if isinstance(value, jax.core.Tracer) else np.asarray(value)
    return values if values is not None and values.dtype.kind in "fiub" else None


class Prediction(NamedTuple):
    """What a denoiser says of `x_t`: both halves of `x_t = alpha x0 + sigma eps`, so that no sampler converts.

    Attributes:
      x0: the predicted data, the shape of `x_t`.
      eps: the predicted noise, the shape of `x_t`, consistent with `x0`.
      log_var: only of networks that learn the reverse variance, else None; the shape of `x_t`. Either
        `log Var[x_s | x_t]` itself, or the position in [-1, 1] between the two fixed variances
        (`samplers.DDPM(variance="learned")` and `"learned_range"` say which one the network was trained for).
    """

    x0: Array
    eps: Array
    log_var: Array | None = None


Denoiser = Callable[[Array, Array], Prediction]
"""`(x_t [B, ...], t [B] or scalar) -> Prediction`."""

Model = Callable[[Array, Array], Array]
"""A network with its parameters and conditioning bound, as a function of time: `(x_t [B, ...], t [B]) -> y`."""

Noise = Callable[[Array, tuple[int, ...]], Array]
"""`(key or keys [B], shape [B, ...]) -> float32 noise of unit variance`, such as `noise.white_noise`."""

Batch = Mapping[str, Array]
"""A training batch: `image` [B, ...] and, for labelled data, `label` int32 [B]."""


@runtime_checkable
class Schedule(Protocol):
    """A frozen dataclass, hashable by value: signal `alpha` and noise `sigma` as functions of `t` in [0, 1]."""

    def alpha(self, t: Array) -> Array: ...

    def sigma(self, t: Array) -> Array: ...


class HasX(Protocol):
    """A sampler's state: at least the current `x`."""

    @property
    def x(self) -> Array: ...


@runtime_checkable
class Sampler(Protocol[S]):
    """A frozen dataclass. Numbers such as `eta` are pytree leaves, so that changing them never recompiles."""

    def init(self, x: Array) -> S: ...

    def step(
        self, key: Array, state: S, t: Array, s: Array, denoise: Denoiser, *, temperature: Array | float = 1.0
    ) -> S: ...
