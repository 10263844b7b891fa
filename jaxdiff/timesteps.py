"""Time grids for sampling: float64 numpy arrays of `n + 1` decreasing times, the first where sampling starts.

A grid is data, not a setting of a sampler: pass any decreasing array to `samplers.sample`. A grid of other values,
or of other steps with the same `n`, does not recompile.

A network trained on a table of `T` steps knows only the times `(k + 1) / T`; `trailing`, `leading` and `linspace`
choose n of them and end at t = 0. The names are those of Lin et al. 2023 (arXiv 2305.08891), table 2.
"""

import numpy as np

from jaxdiff.typing import InputError


def _check(n: int, T: int | None = None) -> None:
    if n < 1:
        raise InputError(f"steps: expected at least 1, got {n}")
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
    i = np.arange(n, -1, -1)
    squares = (i / n) ** 2
    return squares if T is None else np.maximum(np.rint(T * squares), i) / T


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
