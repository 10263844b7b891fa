"""Time grids against the step numbers and noise levels of the literature."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import InputError, schedules, timesteps
from jaxdiff.build import SCHEDULES


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


def test_quadratic_of_a_table_is_the_nearest_step_or_the_next_free_one():
    for n, T in ((7, 10), (50, 1000), (333, 1000), (10, 10)):
        i = np.arange(n, 0, -1)
        expected = np.maximum(np.rint(T * (i / n) ** 2), i) - 1
        assert steps(timesteps.quadratic(n, T=T), T) == expected.tolist()


def test_ddim_respacing_is_the_smallest_stride_with_exactly_n_steps():
    """ddim50 of 1000 is 0, 20, ..., 980; and every n of every short table by trying all strides."""
    assert steps(timesteps.respaced("ddim50", T=1000)) == list(range(980, -1, -20))
    for T in range(1, 40):
        for n in range(1, T + 1):
            stride = next((i for i in range(1, T + 1) if len(range(0, T, i)) == n), None)
            if stride is None:
                with pytest.raises(InputError, match=f"no stride through {T} steps leaves exactly {n}; ask for") as e:
                    timesteps.ddim_respacing(n, T=T)
                below, above = map(int, re.search(r"ask for (\d+) or (\d+)", str(e.value)).groups())
                assert below < n < above
                for near in (below, above):
                    assert len(timesteps.ddim_respacing(near, T=T)) == near + 1
            else:
                assert steps(timesteps.ddim_respacing(n, T=T), T) == list(range(0, T, stride))[::-1]


@pytest.mark.parametrize(
    ("text", "T"), [("10,20,30", 1000), ("250", 1000), ("3, 1,4", 13), ("15,10,8,6", 4000), ("7", 7)]
)
def test_sections_of_a_table(text, T):
    """The rule by its words: as equal as can be, the first ones longer; of each its ends and steps evenly between."""
    counts = [int(part) for part in text.split(",")]
    sizes = [T // len(counts) + (j < T % len(counts)) for j in range(len(counts))]
    expected, first = [], 0
    for count, size in zip(counts, sizes, strict=True):
        stride = (size - 1) / (count - 1) if count > 1 else 1.0
        expected += [first + round(i * stride) for i in range(count)]
        first += size
    assert first == T
    assert steps(timesteps.respaced(text, T=T), T) == expected[::-1]
    assert len(set(expected)) == sum(counts)


def test_one_section_is_linspace():
    for n, T in ((2, 10), (50, 1000), (1000, 1000), (333, 999)):
        np.testing.assert_array_equal(timesteps.sections([n], T=T), timesteps.linspace(n, T=T))


def sigma_bar(grid, schedule):
    with jax.enable_x64(True):
        t = jnp.asarray(grid)
        return np.asarray(schedule.sigma(t)) / np.asarray(schedule.alpha(t))


def published(n, rho, sigma_min, sigma_max):
    """EDM, eq. 5."""
    i = np.arange(n)
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return (high + i / (n - 1) * (low - high)) ** rho


@pytest.mark.parametrize("n", [2, 18, 40])
def test_karras_is_equation_5_of_edm(n):
    edm = timesteps.karras(n, schedule=schedules.EDM())
    np.testing.assert_allclose(80 * edm[:-1], published(n, 7, 0.002, 80.0), rtol=1e-12)
    assert (edm.dtype, edm.shape, edm[0], edm[-1]) == (np.float64, (n + 1,), 1, 0)
    options = {"rho": 3.0, "sigma_min": 0.05, "sigma_max": 20.0}
    for schedule in (schedules.EDM(), schedules.VP(), schedules.SubVP(), schedules.Flow(), schedules.CosineLogSNR()):
        grid = timesteps.karras(n, schedule=schedule, **options)
        np.testing.assert_allclose(sigma_bar(grid[:-1], schedule), published(n, **options), rtol=1e-9)
        assert grid[-1] == 0


def test_levels_are_cut_to_what_the_schedule_has():
    # VE ends at its own sigma_min at t = 0, VP at sigma / alpha = 152 at t = 1: no time is there twice.
    grid = timesteps.karras(10, schedule=schedules.VE(0.01, 50.0))
    np.testing.assert_allclose(sigma_bar(grid, schedules.VE(0.01, 50.0)), published(11, 7, 0.01, 50.0), rtol=1e-9)
    assert (grid[0], grid[-1]) == (1, 0)
    grid = timesteps.karras(10, schedule=schedules.VP(), sigma_max=1e9, end=1e-3)
    low, high = 0.002, sigma_bar(1.0, schedules.VP())
    assert (grid[0], grid[-1]) == (1, 1e-3)
    floor = sigma_bar(1e-3, schedules.VP())
    assert floor > low
    np.testing.assert_allclose(sigma_bar(grid, schedules.VP()), published(11, 7, floor, high), rtol=1e-9)
    # A network of a table knows no time between t = 0 and the first step.
    grid = timesteps.karras(10, schedule=schedules.linear())
    np.testing.assert_allclose(grid[-2:], [1e-3, 0], rtol=1e-9)


def test_exponential_has_a_constant_ratio_and_is_uniform_in_log_snr():
    grid = timesteps.exponential(11, schedule=schedules.VP(), sigma_min=0.01, sigma_max=100.0)
    np.testing.assert_allclose(sigma_bar(grid[:-1], schedules.VP()), 10.0 ** np.linspace(2, -2, 11), rtol=1e-9)
    grid = timesteps.log_snr_uniform(13, schedule=schedules.Flow(), log_snr_min=-6.0, log_snr_max=6.0)
    np.testing.assert_allclose(-2 * np.log(sigma_bar(grid[:-1], schedules.Flow())), np.linspace(-6, 6, 13), atol=1e-9)
    # From t = 1 where the schedule's log-SNR does not go down to -12.
    assert timesteps.log_snr_uniform(5, schedule=schedules.VP())[0] == 1
    far = timesteps.karras(9, schedule=schedules.EDM(), rho=1e5)
    np.testing.assert_allclose(far, timesteps.exponential(9, schedule=schedules.EDM()), rtol=1e-3)


@pytest.mark.parametrize("make", [timesteps.karras, timesteps.exponential, timesteps.log_snr_uniform])
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_has_every_grid_of_levels(name, make):
    for n in (1, 2, 20):
        grid = make(n, schedule=SCHEDULES[name]())
        assert grid.shape == (n + 1,)
        assert 0 == grid[-1] < grid[-2]
        assert (np.diff(grid.astype(np.float32)) < 0).all()
        assert grid[0] <= 1


def test_grids_of_levels_are_made_while_tracing():
    @jax.jit
    def traced(x):
        return x * timesteps.karras(4, schedule=schedules.VP(0.1, 19.0)).astype(np.float32)

    np.testing.assert_allclose(traced(jnp.ones(5)), timesteps.karras(4, schedule=schedules.VP(0.1, 19.0)), rtol=1e-6)


def test_nearest_steps():
    grid = timesteps.karras(20, schedule=schedules.linear())
    near = timesteps.nearest_steps(grid, T=1000)
    np.testing.assert_allclose(near * 1000, np.rint(near * 1000), atol=1e-9)
    assert np.abs(near - grid).max() <= 0.0005 + 1e-12
    assert near[-1] == 0
    with pytest.raises(InputError, match=r"of 100 steps would go.*ask for fewer steps"):
        timesteps.nearest_steps(timesteps.karras(100, schedule=schedules.linear()), T=1000)


@pytest.mark.parametrize("seed", range(20))
def test_spread_steps_are_all_different_and_near(seed):
    """Any n <= T times, however crowded; a step that is free of crowds is the nearest one."""
    rng = np.random.default_rng(seed)
    T, n = 50, int(rng.integers(2, 51))
    times = np.append(np.sort(rng.beta(*rng.uniform(0.2, 2, 2), n))[::-1], 0.0)
    k = np.rint(timesteps.nearest_steps(times, T=T, spread=True) * T)
    assert (np.diff(k) <= -1).all()
    assert (k[0] <= T, k[-1]) == (True, 0)
    nearest = np.clip(np.rint(times * T), 1, T)[:-1]
    if len(set(nearest)) == n:
        np.testing.assert_array_equal(k[:-1], nearest)


@pytest.mark.parametrize("times", [[1.0, 0.0], (0.9, 0.5, 0.1), np.linspace(1, 0, 7, dtype=np.float32)])
def test_a_users_times_are_kept(times):
    grid = timesteps.user(times)
    assert grid.dtype == np.float64
    np.testing.assert_array_equal(grid, times)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: timesteps.uniform(0), "at least 1, got 0"),
        (lambda: timesteps.uniform(2.5), "whole number, at least 1, got 2.5"),
        (lambda: timesteps.karras(10.0, schedule=schedules.EDM()), "whole number"),
        (lambda: timesteps.uniform(5, start=0.1, end=0.9), "start"),
        (lambda: timesteps.trailing(11, T=10), "ask for 10 or fewer"),
        (lambda: timesteps.leading(0, T=10), "at least 1"),
        (lambda: timesteps.ddim_respacing(300, T=1000), "ask for 250 or 334"),
        (lambda: timesteps.ddim_respacing(1001, T=1000), "ask for 1000 or fewer"),
        (lambda: timesteps.respaced("ddim10,20", T=1000), 'expected "ddimN"'),
        (lambda: timesteps.respaced("fast27", T=1000), 'expected "ddimN"'),
        (lambda: timesteps.respaced("", T=1000), 'expected "ddimN"'),
        (lambda: timesteps.respaced("10,-5", T=1000), 'expected "ddimN"'),
        (lambda: timesteps.respaced("500,501", T=1000), "expected 1 to 500 steps in section 1 of 2.*got 501"),
        (lambda: timesteps.respaced("10,0", T=1000), "expected 1 to 500 steps"),
        (lambda: timesteps.sections([], T=10), "at least one"),
        (lambda: timesteps.user([1.0]), "two or more"),
        (lambda: timesteps.user([[1.0, 0.0]]), "one dimension"),
        (lambda: timesteps.user([0.0, 1.0]), "decreasing times"),
        (lambda: timesteps.user([1.0, 0.5, 0.5]), "0.5 and the time after it are equal in float32"),
        (lambda: timesteps.user([1.1, 0.0]), r"in \[0, 1\]"),
        (lambda: timesteps.user([1.0, -0.1]), r"in \[0, 1\]"),
        (lambda: timesteps.user([1.0, np.nan, 0.0]), "decreasing times"),
        (lambda: timesteps.user([1.0, 1 - 1e-9, 0.0]), "equal in float32"),
        (lambda: timesteps.nearest_steps([0.5, 0.4, 0.3, 0.2], T=3, spread=True), "ask for 3 or fewer"),
        (lambda: timesteps.karras(5, schedule=schedules.EDM(), rho=0.0), "rho > 0"),
        (lambda: timesteps.karras(5, schedule=schedules.EDM(), sigma_min=100.0), "sigma_min < sigma_max"),
        (lambda: timesteps.karras(0, schedule=schedules.EDM()), "at least 1"),
        (lambda: timesteps.karras(5, schedule=schedules.LogSNR(lambda t: 10 * t)), "log-SNR must fall"),
        (lambda: timesteps.exponential(5, schedule=schedules.EDM(), end=1.0), "end < 1"),
        (lambda: timesteps.log_snr_uniform(10, schedule=schedules.Flow(), log_snr_min=-90.0), "equal in float32"),
    ],
)
def test_bad_values_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
