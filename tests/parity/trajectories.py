"""Two samplers, ours and a diffusers scheduler, side by side: the same start, the same model, the same noise.

The model of both is our exact denoiser of a Gaussian mixture, in float64. diffusers asks it by step number, we by
time; so that no rounding of step numbers enters, a scheduler that has `sigmas` (sigma / alpha on VP tables, t itself on
flow) is answered at the time our schedule has that very value, and our grid is made of the same times. What is left to
differ is the algorithm, and float32, to which diffusers rounds most of its states.
"""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import samplers, schedules, testing
from jaxdiff.noise import example_keys, fold_in, white_noise
from jaxdiff.parameterization import from_prediction

WHY = "the parity tests need diffusers: pip install -e '.[parity]'"
torch = pytest.importorskip("torch", reason=WHY)
diffusers = pytest.importorskip("diffusers", reason=WHY)

torch.set_num_threads(1)  # it works on arrays of 24 numbers here

T, BATCH, DIM = 1000, 6, 4
RTOL = 1e-5  # of the largest value of each state; float32 leaves 1e-6 (more at sigma / alpha of 1e4)
KEY = jax.random.key(7)
KINDS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v", "flow_prediction": "velocity"}
# A grid that starts where the denoiser changes from step to step, so that the first steps' lower orders tell.
LATE = {"n": 30, "skip": 10}
LINEAR = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
TABLES = {  # name -> how diffusers is asked for it, and ours
    "linear": (LINEAR, schedules.linear()),
    "quadratic": ({"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}, schedules.quadratic()),
    "cosine": ({"beta_schedule": "squaredcos_cap_v2"}, schedules.cosine()),
    "zero snr": (LINEAR | {"rescale_betas_zero_snr": True}, schedules.zero_terminal_snr(schedules.linear())),
}


class Case(NamedTuple):
    """A scheduler after `set_timesteps`, our schedule, and the times of its sigmas or step numbers, the end included."""

    scheduler: Any
    schedule: Any
    times: np.ndarray


def make(cls: Any, *, table: str = "linear", n: int = 20, skip: int = 0, end: float = 0.0, **config: Any) -> Case:
    """`cls` on a VP table with n inference steps, the first `skip` of them left out; `end` is where a scheduler without
    sigmas ends."""
    betas, schedule = TABLES[table]
    scheduler = build(cls, n, alpha_bar=schedule.alpha_bar, num_train_timesteps=T, **betas, **config)
    scheduler.timesteps = scheduler.timesteps[skip:]
    if hasattr(scheduler, "sigmas"):
        scheduler.sigmas = scheduler.sigmas[skip:]
        return Case(scheduler, schedule, times_of(scheduler.sigmas, schedule))
    return Case(scheduler, schedule, np.append((np.asarray(scheduler.timesteps) + 1) / T, end))


def make_flow(cls: Any, *, n: int = 20, **config: Any) -> Case:
    """`cls` on the straight path, where sigma is t."""
    scheduler = build(cls, n, num_train_timesteps=T, **config)
    return Case(scheduler, schedules.Flow(), scheduler.sigmas.double().numpy())


@contextmanager
def known_warnings() -> Iterator[None]:
    """Without those that diffusers gives here."""
    with warnings.catch_warnings():
        # It makes arrays of tensors, and tensors have NumPy's protocol in the form before NumPy 2.
        warnings.filterwarnings("ignore", "__array__ implementation doesn't accept a copy keyword", DeprecationWarning)
        warnings.filterwarnings("ignore", "__array_wrap__ must accept context", DeprecationWarning)
        warnings.filterwarnings("ignore", ".*algorithm_type.*dpmsolver. is deprecated", FutureWarning)
        yield


def build(cls: Any, n: int, *, alpha_bar: np.ndarray | None = None, **config: Any) -> Any:
    """A scheduler, set to n steps, with the table `alpha_bar` in place of its own one.

    Its own is the same one (`test_tables_and_grids`) computed in float32, which leaves the noise of single steps, 1 -
    alpha_bar_t / alpha_bar_s, right to 1e-3 only.
    """
    with known_warnings():
        scheduler = cls(**config)
        if alpha_bar is not None:
            scheduler.alphas_cumprod = torch.tensor(alpha_bar)
        scheduler.set_timesteps(n)
    for sigmas in {"sigmas", "sigmas_interpol"} & set(vars(scheduler)):
        setattr(scheduler, sigmas, getattr(scheduler, sigmas).double())  # the same numbers; what is made of them, exact
    if hasattr(scheduler, "set_begin_index"):
        # Else the first step is looked up by its step number, and the second one of two equal numbers is taken.
        scheduler.set_begin_index(0)
    return scheduler


def times_of(sigmas: Any, schedule: Any) -> np.ndarray:
    """The times where sigma / alpha has these values."""
    sigmas = np.asarray(sigmas, np.float64)
    log_snr = jnp.asarray(-2 * np.log(np.where(sigmas > 0, sigmas, 1)))
    return np.where(sigmas > 0, schedules.time_at_log_snr(log_snr, schedule=schedule), 0)


@lru_cache
def mixture(schedule: Any) -> Any:
    """The model: three well separated bumps. As our `Denoiser`, compiled."""
    means = np.random.default_rng(0).standard_normal((3, DIM))
    weights = np.array([0.2, 0.3, 0.5])
    return jax.jit(testing.mixture_denoiser(means=means, std=0.4, weights=weights, schedule=schedule))


def start(case: Case) -> np.ndarray:
    """x at the first time."""
    noise = np.random.default_rng(1).standard_normal((BATCH, DIM))
    return np.float64(case.schedule.sigma(jnp.asarray(case.times[0]))) * noise


@lru_cache
def noises(n: int) -> np.ndarray:
    """What our samplers draw in steps 0..n-1: from the keys `fold_in(fold_in(KEY, example), i)`."""
    keys = example_keys(KEY, jnp.arange(BATCH))
    return np.asarray(jax.jit(jax.vmap(lambda i: white_noise(fold_in(keys, i), (BATCH, DIM))))(jnp.arange(n)), float)


@partial(jax.jit, static_argnames="denoise")
def run(sampler: Any, times: Any, x: Any, denoise: Any) -> Any:
    """Compiled once for all grids and numbers of a sampler on a table."""
    return samplers.sample(KEY, denoise, sampler, times, x, collect=lambda state: state.x)[1]


def ours(case: Case, sampler: Any, *, times: np.ndarray | None = None, denoise: Any = None) -> np.ndarray:
    """Our states after each step, `[n, B, D]`. `times`, if not those of the case."""
    times = jnp.asarray(case.times if times is None else times)
    return np.asarray(run(sampler, times, jnp.asarray(start(case)), denoise or mixture(case.schedule)))


def theirs(case: Case, *, kind: str = "epsilon", output: Any = None, each: Any = None, **options: Any) -> np.ndarray:
    """diffusers' states after each call of the model, as x_t of our schedule, `[calls, B, D]`.

    Args:
      case: from `make`.
      kind: the scheduler's prediction_type.
      output: `(x, t) -> y`, instead of the mixture's of that kind.
      each: `i -> dict`, run before step i; arguments of `scheduler.step` that vary.
      options: arguments of `scheduler.step`.
    """
    scheduler, schedule, times = case
    alphas = np.asarray(schedule.alpha(jnp.asarray(times)))
    # The schedulers after k-diffusion hold x_t / alpha, start at that size, and undo it for the model.
    divided = getattr(scheduler, "init_noise_sigma", 1) != 1
    x = torch.tensor(start(case) / (alphas[0] if divided else 1))
    module = sys.modules[type(scheduler).step.__module__]  # it draws by a function imported there
    states = []
    with known_warnings(), pytest.MonkeyPatch.context() as patch:
        for i, timestep in enumerate(scheduler.timesteps):
            patch.setattr(module, "randn_tensor", lambda *_, i=i, **__: torch.tensor(noises(T)[i]), raising=False)
            x_t = scheduler.scale_model_input(x, timestep) if hasattr(scheduler, "scale_model_input") else x
            x_t, t = jnp.asarray(x_t.double().numpy()), jnp.asarray(times[i])
            if output is not None:
                y = output(x_t, t)
            else:
                y = from_prediction(mixture(schedule)(x_t, t), t, kind=KINDS[kind], schedule=schedule)
            arguments = options | (each(i) if each else {})
            x = scheduler.step(torch.tensor(np.asarray(y)), timestep, x, **arguments).prev_sample
            states.append(x.double().numpy() * (alphas[i + 1] if divided else 1))
    return np.stack(states)


def difference(actual: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Of each state, relative to its largest value."""
    assert actual.shape == expected.shape
    return np.abs(actual - expected).max(axis=(1, 2)) / np.abs(expected).max(axis=(1, 2))


def assert_agree(actual: np.ndarray, expected: np.ndarray) -> None:
    """All states within `RTOL`."""
    error = difference(actual, expected)
    print(f"relative difference {error.max():.1e} at step {error.argmax()}")
    assert error.max() < RTOL, f"states differ by {error}"
