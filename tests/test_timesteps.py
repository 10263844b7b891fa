"""Time grids against the step numbers of the literature."""

import numpy as np
import pytest

from jaxdiff import InputError, timesteps


def steps(grid, T=1000):
    """The step numbers k of a grid's times, without the final 0."""
    assert grid[-1] == 0
    return np.rint(grid[:-1] * T - 1).astype(int).tolist()


def test_ten_of_a_thousand_steps():
    # Lin et al. 2023 (arXiv 2305.08891), table 2, in steps 1..1000; k is one less.
    assert steps(timesteps.leading(10, T=1000)) == [900, 800, 700, 600, 500, 400, 300, 200, 100, 0]
    assert steps(timesteps.linspace(10, T=1000)) == [999, 888, 777, 666, 555, 444, 333, 222, 111, 0]
    assert steps(timesteps.trailing(10, T=1000)) == [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]


@pytest.mark.parametrize("make", [timesteps.leading, timesteps.linspace, timesteps.trailing])
def test_all_steps_are_the_ancestral_chain(make):
    assert steps(make(1000, T=1000)) == list(range(999, -1, -1))


@pytest.mark.parametrize("make", [timesteps.leading, timesteps.linspace, timesteps.trailing, timesteps.quadratic])
@pytest.mark.parametrize(("n", "T"), [(1, 1), (1, 10), (3, 10), (7, 10), (10, 10), (50, 999), (333, 1000)])
def test_every_time_is_a_step_of_the_table_once(make, n, T):
    grid = make(n, T=T)
    assert grid.dtype == np.float64
    assert grid.shape == (n + 1,)
    assert (np.diff(grid) < 0).all()
    np.testing.assert_allclose(grid * T, np.rint(grid * T), atol=1e-9)
    assert 0 <= min(steps(grid, T)) <= max(steps(grid, T)) <= T - 1


def test_quadratic_is_uniform_in_the_root():
    np.testing.assert_allclose(np.diff(np.sqrt(timesteps.quadratic(7))), -1 / 7, rtol=1e-9)
    # Of a table: within half a step of the square, but for the first steps, which must differ.
    grid = timesteps.quadratic(50, T=1000) * 1000
    square = 1000 * np.linspace(1, 0, 51) ** 2
    assert (np.abs(grid - square) <= np.where(square > 3, 0.5, 2)).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: timesteps.uniform(0), "at least 1, got 0"),
        (lambda: timesteps.uniform(5, start=0.1, end=0.9), "start"),
        (lambda: timesteps.trailing(11, T=10), "ask for 10 or fewer"),
        (lambda: timesteps.leading(0, T=10), "at least 1"),
    ],
)
def test_bad_values_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
