"""Time grids for sampling: float64 numpy arrays of `n + 1` decreasing times, the first where sampling starts.

A grid is data, not a setting of a sampler: pass any decreasing array to `samplers.sample`. A grid of other values,
or of other steps with the same `n`, does not recompile.

A network trained on a table of `T` steps knows only the times `(k + 1) / T`; `trailing`, `leading`, `linspace`,
`ddim_respacing` and `sections` choose n of them and end at t = 0. The first three have the names of Lin et al. 2023
(arXiv 2305.08891), table 2. `karras`, `exponential` and `log_snr_uniform` choose noise levels sigma / alpha and so take
a schedule; `nearest_steps` puts such a grid on a table.
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from jaxdiff.schedules import Discrete, check_monotone, check_whole, concretely, half_log_snr, require, time_at_log_snr
from jaxdiff.typing import InputError, Schedule


def _check(n: int, T: int | None = None) -> None:
    check_whole("steps", n)
    if T is not None and n > T:
        raise InputError(f"steps: {n} steps, but the model was trained on a table of {T}; ask for {T} or fewer")


def uniform(n: int, *, start: float = 1.0, end: float = 0.0) -> np.ndarray:
    """`n` equal steps from `start` to `end`.

    >>> uniform(4).tolist()
    [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    _check(n)
    if not 0 <= end < start <= 1:
        raise InputError(f"expected 0 <= end < start <= 1, got start={start}, end={end}")
    return start + (end - start) * np.arange(n + 1) / n


def quadratic(n: int, *, T: int | None = None) -> np.ndarray:
    """Equal steps in sqrt(t), finer towards the data: t_i = (i / n)^2 for i = n..0.

    With a table of `T` steps the nearest of its times, each at most once: k + 1 = max(round(T (i / n)^2), i).

    >>> quadratic(4).tolist()
    [1.0, 0.5625, 0.25, 0.0625, 0.0]
    >>> (quadratic(4, T=1000) * 1000 - 1).round().tolist()[:-1]
    [999.0, 561.0, 249.0, 61.0]

    Source: Song et al. 2021, DDIM (arXiv 2010.02502), section D.2.
    """
    _check(n, T)
    squares = (np.arange(n, -1, -1) / n) ** 2
    return squares if T is None else nearest_steps(squares, T=T, spread=True)


def trailing(n: int, *, T: int) -> np.ndarray:
    """`n` of `T` steps, evenly, the last step T-1 always among them: k + 1 = round(T (n - i) / n).

    >>> (trailing(5, T=1000) * 1000 - 1).tolist()[:-1]
    [999.0, 799.0, 599.0, 399.0, 199.0]
    """
    _check(n, T)
    return np.rint(np.linspace(T, 0, n + 1)) / T


def leading(n: int, *, T: int) -> np.ndarray:
    """`n` of `T` steps, the first step 0 always among them: k = i * (T // n). It does not start at pure noise.

    >>> (leading(5, T=1000) * 1000 - 1).tolist()[:-1]
    [800.0, 600.0, 400.0, 200.0, 0.0]
    """
    _check(n, T)
    return np.append((np.arange(n)[::-1] * (T // n) + 1) / T, 0.0)


def linspace(n: int, *, T: int) -> np.ndarray:
    """`n` of `T` steps, both ends among them: k = round(linspace(T - 1, 0, n)).

    >>> (linspace(4, T=1000) * 1000 - 1).tolist()[:-1]
    [999.0, 666.0, 333.0, 0.0]
    """
    _check(n, T)
    return np.append((np.rint(np.linspace(T - 1, 0, n)) + 1) / T, 0.0)


def ddim_respacing(n: int, *, T: int) -> np.ndarray:
    """Every `stride`-th of `T` steps from step 0 on, by the smallest stride that leaves exactly `n`; known as "ddimN".

    Raises:
      InputError: no stride leaves n; the message names the nearest numbers that one does.

    >>> (ddim_respacing(50, T=1000) * 1000 - 1).round().tolist()[:3]
    [980.0, 960.0, 940.0]

    Source: Song et al. 2021, DDIM (arXiv 2010.02502), section D.2 (linear).
    """
    _check(n, T)
    stride = -(-T // n)  # the smallest one that leaves at most n
    found = -(-T // stride)
    if found != n:
        raise InputError(
            f"ddim{n}: no stride through {T} steps leaves exactly {n}; ask for {found} or {-(-T // (stride - 1))}, "
            "or use sections, which needs no stride"
        )
    return np.append((np.arange(0, T, stride)[::-1] + 1) / T, 0.0)


def sections(counts: Sequence[int], *, T: int) -> np.ndarray:
    """`T` steps cut into equal sections, the first at the data, and `counts[j]` steps taken evenly from section j.

    Of a section of `size` steps those at round(i (size - 1) / (count - 1)), both its ends among them (its first step,
    where count = 1). What T leaves over after division goes to the first sections, one step each. A tie goes to the
    even step; the published code adds up strides in floating point, and some of its ties go to the other one.

    Raises:
      InputError: a count below 1, or above the steps of its section.

    >>> (sections([2, 3], T=10) * 10 - 1).round().tolist()[:-1]  # of 0..4 two, of 5..9 three
    [9.0, 7.0, 5.0, 4.0, 0.0]

    Source: Nichol & Dhariwal 2021 (arXiv 2102.09672), section 4, for one section; several are their code's strings.
    """
    require(len(counts) > 0, "sections: expected at least one number of steps")
    size, extra = divmod(T, len(counts))
    k, start = [], 0
    for j, count in enumerate(counts):
        here = size + (j < extra)
        require(
            1 <= count <= here,
            f"sections: expected 1 to {here} steps in section {j} of {len(counts)} of a table of {T}, got {count}",
        )
        k.append(start + np.rint(np.arange(count) * ((here - 1) / max(count - 1, 1))))
        start += here
    return np.append((np.concatenate(k)[::-1] + 1) / T, 0.0)


def respaced(text: str, *, T: int) -> np.ndarray:
    """The grid of a respacing string: "ddim50" is `ddim_respacing(50)`, "10,20,30" is `sections([10, 20, 30])`.

    Raises:
      InputError: another string.

    >>> len(respaced("10,20,30", T=1000)), len(respaced("ddim25", T=1000))  # n + 1 times
    (61, 26)
    """
    is_ddim = text.startswith("ddim")
    parts = [part.strip() for part in text.removeprefix("ddim").split(",")]
    if not all(part.isdecimal() for part in parts) or (is_ddim and len(parts) > 1):
        raise InputError(f'respacing {text!r}: expected "ddimN" such as "ddim50", or counts such as "10,20,30"')
    return ddim_respacing(int(parts[0]), T=T) if is_ddim else sections([int(part) for part in parts], T=T)


def user(times: Sequence[float] | np.ndarray) -> np.ndarray:
    """Any decreasing times in [0, 1], checked, as the float64 array that the other grids are.

    Raises:
      InputError: fewer than two times, or not decreasing, also once they are rounded to float32, or out of range.

    >>> user([1.0, 0.3, 0.0]).tolist()
    [1.0, 0.3, 0.0]
    """
    grid = np.asarray(times, np.float64)
    require(grid.ndim == 1 and grid.size >= 2, f"times: expected two or more in one dimension, got shape {grid.shape}")
    ok = bool(np.isfinite(grid).all()) and grid[0] <= 1 and grid[-1] >= 0
    require(ok and bool((np.diff(grid) <= 0).all()), f"times: expected decreasing times in [0, 1], got {grid}")
    same = np.diff(grid.astype(np.float32)) >= 0
    i = int(np.argmax(same))
    message = f"times: {grid[i]} and the time after it are equal in float32; ask for fewer steps, or for another range"
    require(not same.any(), message)
    return grid


def starting_at(times: Sequence[float] | np.ndarray, start: float) -> np.ndarray:
    """The end of a grid, from its first time that is not later than `start`: where sampling goes on from noisy data.

    Raises:
      InputError: a start from which no step is left.

    >>> starting_at(uniform(10), 0.35).round(4).tolist()
    [0.3, 0.2, 0.1, 0.0]
    """
    grid = user(times)
    rest = grid[grid <= start + 1e-9]
    require(len(rest) > 1, f"start: no step is left from {start} on a grid of {len(grid) - 1} steps; start later")
    return rest


def shifted(times: Sequence[float] | np.ndarray, *, shift: float) -> np.ndarray:
    """A grid of `schedules.Flow` with sigma / alpha times shift: `t -> shift t / (1 + (shift - 1) t)`.

    >>> shifted([1.0, 0.5, 0.0], shift=3.0).tolist()
    [1.0, 0.75, 0.0]

    Source: Esser et al. 2024 (arXiv 2403.03206), section 5.3.2.
    """
    require(shift > 0, f"shifted: expected shift > 0, got {shift}")
    t = user(times)
    return user(shift * t / (1 + (shift - 1) * t))


def nearest_steps(times: Sequence[float] | np.ndarray, *, T: int, spread: bool = False) -> np.ndarray:
    """A grid moved to the nearest times `(k + 1) / T` of a table; a time above 0 never to 0.

    Args:
      times: n + 1 decreasing times.
      T: the table's length.
      spread: of times with the same nearest step move the later ones on to free steps, instead of refusing them.

    Raises:
      InputError: two of the times have the same nearest step; with `spread`, more of them than steps.

    >>> nearest_steps([0.98, 0.33, 0.01, 0.0], T=10).tolist()
    [1.0, 0.3, 0.1, 0.0]
    >>> nearest_steps([0.98, 0.14, 0.13, 0.01, 0.0], T=10, spread=True).tolist()
    [1.0, 0.3, 0.2, 0.1, 0.0]
    """
    grid = user(times)[::-1]
    k = np.where(grid > 0, np.clip(np.rint(grid * T), 1, T), 0)
    n = len(k) - 1
    if spread:
        _check(int(np.sum(k > 0)), T)
        i = np.arange(n + 1)
        k = np.minimum(np.maximum.accumulate(k - i), T - n) + i  # k_i >= k_{i-1} + 1, and room for those after it
    same = int(np.sum(np.diff(k) == 0))
    require(
        same == 0,
        f"times: {same} of {n} steps would go from a step of the table of {T} to itself; "
        "ask for fewer steps, use trailing, or pass spread=True",
    )
    return np.asarray(k[::-1] / T)


def karras(
    n: int,
    *,
    schedule: Schedule,
    rho: float = 7.0,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    end: float = 0.0,
) -> np.ndarray:
    """`n` noise levels sigma / alpha evenly spaced in their rho-th root, and then `end`:

        sigma_i = (sigma_max^(1/rho) + i/(n-1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho,    i = 0..n-1

    Both limits are cut to what the schedule has, of a table to what its steps have. Where it has no level below
    sigma_min at `end` (sigma(0) > 0, such as VE), its own lowest is the last of n + 1. Times of a table lie
    between its steps: see `nearest_steps`.

    Args:
      n: the number of steps.
      schedule: gives the time of each level.
      rho: 1 is evenly spaced; more is finer towards the data.
      sigma_min: the last level before `end`.
      sigma_max: the first level; x starts at that time, which is 1 only if the schedule ends there.
      end: the time to stop at.

    >>> from jaxdiff.schedules import EDM
    >>> (80 * karras(3, schedule=EDM())).round(3).tolist()
    [80.0, 2.515, 0.002, 0.0]

    Source: Karras et al. 2022 (arXiv 2206.00364), eq. 5.
    """
    require(rho > 0, f"karras: expected rho > 0, got {rho}")
    return _levels(n, lambda s: s ** (1 / rho), lambda r: r**rho, schedule, sigma_min, sigma_max, end)


def exponential(
    n: int, *, schedule: Schedule, sigma_min: float = 0.002, sigma_max: float = 80.0, end: float = 0.0
) -> np.ndarray:
    """`n` noise levels sigma / alpha of constant ratio, and then `end`; arguments and limits as in `karras`.

    It is the limit of `karras` for rho -> infinity, and evenly spaced in log-SNR.

    >>> from jaxdiff.schedules import EDM
    >>> (80 * exponential(3, schedule=EDM())).round(3).tolist()
    [80.0, 0.4, 0.002, 0.0]
    """
    return _levels(n, np.log, np.exp, schedule, sigma_min, sigma_max, end)


def log_snr_uniform(
    n: int, *, schedule: Schedule, log_snr_min: float = -12.0, log_snr_max: float = 12.0, end: float = 0.0
) -> np.ndarray:
    """`n` times evenly spaced in log-SNR from `log_snr_min` up to `log_snr_max`, and then `end`.

    It is `exponential` with its limits sigma / alpha = exp(-log_snr / 2), cut in the same way to what the schedule has:
    the default limits are wider than the usual variance-preserving schedule, so it starts at t = 1 there.

    >>> from jaxdiff.schedules import Flow
    >>> log_snr_uniform(3, schedule=Flow()).round(4).tolist()
    [0.9975, 0.5, 0.0025, 0.0]

    Source: Lu et al. 2022 (arXiv 2206.00927), who call it uniform logSNR.
    """
    sigma_min, sigma_max = (float(np.exp(-0.5 * value)) for value in (log_snr_max, log_snr_min))
    return exponential(n, schedule=schedule, sigma_min=sigma_min, sigma_max=sigma_max, end=end)


def _levels(
    n: int,
    ramp: Callable[[np.ndarray], np.ndarray],
    inverse: Callable[[np.ndarray], np.ndarray],
    schedule: Schedule,
    sigma_min: float,
    sigma_max: float,
    end: float,
) -> np.ndarray:
    """Times of levels sigma / alpha evenly spaced in ramp(level)."""
    _check(n)
    check_monotone(schedule)
    require(0 <= end < 1, f"expected 0 <= end < 1, got end={end}")
    first = max(end, 1 / schedule.T) if isinstance(schedule, Discrete) else end
    with concretely():
        times = jnp.asarray([1.0, first, end])
        highest, lowest, at_end = np.exp(-np.asarray(half_log_snr(times, schedule=schedule)))
    high, low = min(sigma_max, float(highest)), max(sigma_min, float(lowest))
    require(
        0 < low < high, f"expected 0 < sigma_min < sigma_max within the schedule's own limits, got {low} and {high}"
    )
    count = n if at_end < low else n + 1  # n + 1 levels: the last of them is at `end`
    levels = inverse(np.linspace(ramp(np.array(high)), ramp(np.array(low)), count))
    with concretely():
        grid = np.array(time_at_log_snr(-2 * jnp.log(jnp.asarray(levels)), schedule=schedule))
    if high == highest:
        grid[0] = 1.0  # not 1 - 1e-16
    return user([*grid[:n], end])
