"""The probability-flow ODE, solved to a tolerance by diffrax (`pip install 'jaxdiff[ode]'`).

    dx/dt = alpha'(t) E[x_0 | x_t] + sigma'(t) E[eps | x_t]

carries the distribution of x_t from any time to any other (Song et al. 2021, arXiv 2011.13456, eq. 13, in the symbols
of this package). Divided by `scale = alpha + sigma`, on the clock `tau = sigma / scale`, every schedule is the straight
path of flow matching,

    z = x / scale = (1 - tau) x_0 + tau eps,        dz/dtau = eps - x_0

which has no derivative of the schedule in it, a clock within [0, 1], and no singular end: dx/dt has one for VP at
t = 0, where sigma' is infinite, and the log-SNR for every schedule that reaches alpha = 0 or sigma = 0.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from jaxdiff.schedules import as_float, check_choice, check_monotone, expand, require, time_at_log_snr
from jaxdiff.typing import Array, Denoiser, InputError, PyTree, Schedule

Solver = Literal["Tsit5", "Dopri5"]
"""The pairs of order 5 and 4 of Tsitouras and of Dormand & Prince, six calls a step; diffrax's names."""


class Solution(NamedTuple):
    """Where the ODE leads.

    Attributes:
      x: the shape and dtype of the x it started from.
      nfe: how often the denoiser was called, for the whole batch; int32.
    """

    x: Array
    nfe: Array


def solve(
    x: Array,
    t: Array | float,
    s: Array | float,
    denoise: Denoiser,
    *,
    schedule: Schedule,
    rtol: Array | float = 1e-5,
    atol: Array | float = 1e-5,
    end: Array | float = 1e-5,
    solver: Solver = "Tsit5",
    max_steps: int = 4096,
) -> Solution:
    """Follow the probability-flow ODE from time t to s: to the data (s < t), or from it into the noise (s > t).

    The batch is solved as one system, whose steps suit the example that needs the shortest ones: the norm of the error
    is the maximum over examples of the root mean square over the dimensions of each. So every example meets the
    tolerance, but its digits beyond it depend on the others in the batch.

    A network says nothing of one half of its input at sigma = 0, and was not trained there. So the ODE is solved
    between times of at least `end`; what lies between `end` and 0 is one first-order step with the prediction at
    `end`, which to t = 0 of a schedule with sigma(0) = 0 returns the predicted x_0. It costs an error of the order of
    tau(end)^2. A network of T steps (`denoise.at_steps`) knows no time before 1 / T: give it `end=1 / T`.

    Args:
      x: `[B, ...]`, at time t. It is float32 or better while it is solved, also when `denoise` sees it.
      t: times in [0, 1], scalar or `[B]`.
      s: times in [0, 1], scalar or `[B]`.
      denoise: `(x_t, t) -> Prediction`.
      schedule: gives alpha and sigma, with decreasing log-SNR.
      rtol: relative tolerance of the local error of z, whose numbers are of the size of data and noise.
      atol: absolute tolerance of it.
      end: the earliest time at which `denoise` is called, > 0.
      solver: "Tsit5" or "Dopri5".
      max_steps: the most steps, accepted and rejected.

    Returns:
      `Solution(x, nfe)`. Reverse-mode differentiable, in everything but the tolerances.

    Raises:
      InputError: diffrax is not installed, an unknown solver, a tolerance or `end` that is not positive, or a schedule
        whose log-SNR does not decrease.
      RuntimeError: when it runs, if `max_steps` do not suffice (which is also what a NaN of the denoiser leads to).

    >>> from jaxdiff import schedules, testing
    >>> denoise = testing.gaussian_denoiser(mean=2.0, std=0.5, schedule=schedules.VP())
    >>> x = solve(jnp.ones((1, 1)), 1.0, 0.0, denoise, schedule=schedules.VP()).x
    >>> round(float(x[0, 0]), 3)  # one standard deviation above the mean, there as here
    2.493
    """
    _check_positive(rtol=rtol, atol=atol, end=end)
    check_monotone(schedule)
    z, t, s = as_float(x), as_float(t), as_float(s)
    early = jnp.asarray(end, t.dtype)
    (scale, first), (last_scale, last) = (scale_clock(time, schedule=schedule) for time in (t, s))
    start, stop = (scale_clock(jnp.maximum(time, early), schedule=schedule)[1] for time in (t, s))
    slope = straight_slope(denoise, schedule=schedule)

    def euler(z: Array, before: Array, after: Array) -> tuple[Array, Array]:
        moves = jnp.any(before != after)
        moved = jax.lax.cond(moves, lambda: z + expand(after - before, z) * slope(z, early), lambda: z)
        return moved, moves.astype(jnp.int32)

    z, one = euler(z / expand(scale, z), first, start)
    z, nfe = integrate(
        slope, z, start, stop, schedule=schedule, rtol=rtol, atol=atol, solver=solver, max_steps=max_steps
    )
    z, another = euler(z, stop, last)
    return Solution((expand(last_scale, z) * z).astype(x.dtype), nfe + one + another)


def scale_clock(t: Array, *, schedule: Schedule, w: Array | float = 1.0) -> tuple[Array, Array]:
    """`scale = alpha + w sigma` and `sigma / scale`, in the shape of t; with w = 1 that is tau, from 0 (data) to 1.

    >>> from jaxdiff.schedules import Flow
    >>> [float(a) for a in scale_clock(jnp.float32(0.25), schedule=Flow())]
    [1.0, 0.25]
    """
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    scale = alpha + w * sigma
    return scale, sigma / scale


def time_at_clock(tau: Array, *, schedule: Schedule) -> Array:
    """The time at which `sigma / (alpha + sigma) = tau`: where the log-SNR is `2 log((1 - tau) / tau)`.

    >>> from jaxdiff.schedules import Flow
    >>> round(float(time_at_clock(jnp.float32(0.25), schedule=Flow())), 6)
    0.25
    """
    tiny = jnp.asarray(jnp.finfo(tau.dtype).tiny, tau.dtype)
    log_snr = 2 * (jnp.log(jnp.maximum(1 - tau, tiny)) - jnp.log(jnp.maximum(tau, tiny)))
    return time_at_log_snr(log_snr, schedule=schedule)


def straight_slope(denoise: Denoiser, *, schedule: Schedule) -> Callable[[Array, Array], Array]:
    """`(z, t) -> dz/dtau = eps - x_0`, predicted from `x_t = (alpha + sigma) z`.

    >>> from jaxdiff import schedules, testing
    >>> denoise = testing.gaussian_denoiser(mean=2.0, std=0.0, schedule=schedules.Flow())
    >>> slope = straight_slope(denoise, schedule=schedules.Flow())
    >>> float(slope(jnp.ones((1, 1)), jnp.float32(0.5))[0, 0])  # x0 = 2, eps = 0
    -2.0
    """

    def slope(z: Array, t: Array) -> Array:
        scale, _ = scale_clock(t, schedule=schedule)
        prediction = denoise(expand(scale, z) * z, t)
        return prediction.eps.astype(z.dtype) - prediction.x0.astype(z.dtype)

    return slope


def integrate(
    slope: Callable[[Any, Array], Any],
    y: PyTree,
    start: Array,
    stop: Array,
    *,
    schedule: Schedule,
    rtol: Array | float,
    atol: Array | float,
    solver: Solver,
    max_steps: int,
) -> tuple[Any, Array]:
    """Solve `dy/dtau = slope(y, t)` between two readings of the clock.

    Args:
      slope: `(y, t) -> dy/dtau`, the structure of y; t in the shape of the clock.
      y: a pytree of `[B, ...]`, all of one dtype.
      start: tau, scalar or `[B]`: each example may have its own interval.
      stop: likewise, earlier or later.
      schedule, rtol, atol, solver, max_steps: as of `solve`.

    Returns:
      y at `stop`, and the number of calls of `slope`.

    >>> from jaxdiff.schedules import Flow
    >>> y, nfe = integrate(lambda y, t: y, jnp.ones((1, 1)), jnp.float32(0.0), jnp.float32(1.0), schedule=Flow(),
    ...                    rtol=1e-5, atol=1e-5, solver="Tsit5", max_steps=100)
    >>> round(float(y[0, 0]), 3)
    2.718
    """
    try:
        import diffrax
        import equinox
    except ImportError as error:
        raise InputError(
            "the adaptive ODE needs diffrax, which is not installed: pip install 'jaxdiff[ode]'"
        ) from error
    check_choice("solver", solver, get_args(Solver))
    dtype = jax.tree.leaves(y)[0].dtype
    start, reach = start.astype(dtype), (stop - start).astype(dtype)

    def field(u: Any, y: Any, _: None) -> Any:  # on the clock u from 0 to 1, the same for all examples
        rate = slope(y, time_at_clock(start + u * reach, schedule=schedule))
        return jax.tree.map(lambda a: expand(reach, a) * a, rate)

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        getattr(diffrax, solver)(),
        jnp.zeros((), dtype),
        jnp.ones((), dtype),
        jnp.full((), 0.05, dtype),
        y,
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol, norm=_worst_example),
        max_steps=max_steps,
        throw=False,
    )
    failure = (
        f"the ODE was not solved in {max_steps} steps: raise max_steps, or rtol and atol (the noise of a bfloat16 "
        "network forbids 1e-5), and see that the denoiser gives no NaN"
    )
    ys = equinox.error_if(solution.ys, solution.result != diffrax.RESULTS.successful, failure)
    calls = 1 + 6 * solution.stats["num_steps"]  # the last of a step's seven slopes is the first of the next step's
    return jax.tree.map(lambda a: a[-1], ys), calls


def _worst_example(error: PyTree) -> Array:
    """The maximum over arrays and examples of the root mean square over the dimensions of an example."""
    squares = [jnp.mean(jnp.square(a), axis=range(1, a.ndim)) for a in jax.tree.leaves(error)]
    return jnp.sqrt(jnp.max(jnp.stack([jnp.max(a) for a in squares])))


def _check_positive(**values: Array | float) -> None:
    for name, value in values.items():
        require(not isinstance(value, int | float) or value > 0, f"{name}: expected a number > 0, got {value}")
