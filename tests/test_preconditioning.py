"""Preconditioning against table 1 of EDM in numpy, and against what it is for: unit variances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import q_sample, schedules, testing
from jaxdiff.build import SCHEDULES
from jaxdiff.denoise import denoiser
from jaxdiff.parameterization import target
from jaxdiff.preconditioning import PRECONDITIONINGS, edm, iddpm, precondition, vp

rng = np.random.default_rng(0)
SIGMA = np.array([0.002, 0.02, 0.3, 1.0, 7.0, 80.0])
M = 1000


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def iddpm_noise(sigma):
    """c_noise of the cosine table: u_M = 0, u_(j-1) = sqrt((u_j^2 + 1) / max(bar_(j-1) / bar_j, C1) - 1), nearest."""
    bar = lambda j: np.sin(np.pi / 2 * j / (M * (0.008 + 1))) ** 2
    u = np.zeros(M + 1)
    for j in range(M, 0, -1):
        u[j - 1] = np.sqrt((u[j] ** 2 + 1) / np.maximum(bar(j - 1) / bar(j), 0.001) - 1)
    return np.array([M - 1 - np.argmin(np.abs(u[:M] - s)) for s in sigma], np.float64)


# sigma -> c_skip, c_out, c_in, c_noise, with beta_d = 19.9, beta_min = 0.1 and sigma_data = 0.5
TABLE_1 = {
    "vp": lambda s: (
        np.ones_like(s),
        -s,
        1 / np.sqrt(s**2 + 1),
        (M - 1) * (np.sqrt(0.1**2 + 2 * 19.9 * np.log(s**2 + 1)) - 0.1) / 19.9,
    ),
    "ve": lambda s: (np.ones_like(s), s, np.ones_like(s), np.log(s / 2)),
    "iddpm": lambda s: (np.ones_like(s), -s, 1 / np.sqrt(s**2 + 1), iddpm_noise(s)),
    "edm": lambda s: (
        0.25 / (s**2 + 0.25),
        s * 0.5 / np.sqrt(0.25 + s**2),
        1 / np.sqrt(0.25 + s**2),
        np.log(s) / 4,
    ),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", PRECONDITIONINGS)
def test_coefficients_are_table_1(name):
    """Data plus noise of the given sigma: the EDM schedule, alpha = 1."""
    schedule, t = schedules.EDM(80.0), jnp.asarray(SIGMA / 80)
    design = PRECONDITIONINGS[name]()
    for f, expected in zip((design.c_skip, design.c_out, design.c_in), TABLE_1[name](SIGMA), strict=False):
        np.testing.assert_allclose(f(t, schedule), expected, rtol=1e-6)
    np.testing.assert_allclose(design.c_noise(t, schedule), TABLE_1[name](SIGMA)[3], rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", PRECONDITIONINGS)
@pytest.mark.parametrize("schedule", ["vp", "linear", "flow", "ve"])
def test_on_any_schedule_it_is_table_1_of_x_over_alpha(name, schedule):
    """D = c_skip x / alpha + c_out F(c_in x / alpha, c_noise), all at sigma / alpha, whatever F is."""
    schedule = SCHEDULES[schedule]()
    t = jnp.asarray([0.05, 0.3, 0.7])
    alpha, sigma = (np.asarray(f(t))[:, None] for f in (schedule.alpha, schedule.sigma))
    x = rng.standard_normal((3, 4))
    F = lambda x, c: np.sin(3 * np.asarray(x)) + 0.01 * np.asarray(c)[:, None]
    c_skip, c_out, c_in, c_noise = (np.asarray(c) for c in TABLE_1[name](sigma / alpha))
    expected = c_skip * x / alpha + c_out * F(c_in * x / alpha, c_noise.ravel())

    design = PRECONDITIONINGS[name]()
    model = precondition(lambda x, c: jnp.asarray(F(x, c)), design, schedule=schedule)
    found = denoiser(model, schedule=schedule, kind=design.kind)(jnp.asarray(x), t)
    np.testing.assert_allclose(found.x0, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(alpha * found.x0 + sigma * found.eps, x, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("schedule", ["edm", "vp", "flow", "ve"])
@pytest.mark.parametrize("sigma_data", [0.5, 1.0])
def test_input_and_target_of_edm_have_unit_variance(schedule, sigma_data):
    """Measured, of 100,000 numbers of Gaussian data with standard deviation sigma_data, at five times with both ends."""
    schedule, n = SCHEDULES[schedule](), 100_000
    x0 = jnp.asarray(sigma_data * rng.standard_normal((5, n)), jnp.float32)
    eps = jnp.asarray(rng.standard_normal((5, n)), jnp.float32)
    t = jnp.array([0.0, 0.01, 0.2, 0.6, 1.0])
    seen = precondition(lambda x, c: x, edm(sigma_data), schedule=schedule)(q_sample(x0, t, eps, schedule=schedule), t)
    wanted = target(x0, eps, t, kind=edm(sigma_data).kind, schedule=schedule)
    np.testing.assert_allclose(np.var(seen, axis=1), 1, atol=5 * np.sqrt(2 / n))
    np.testing.assert_allclose(np.var(wanted, axis=1), 1, atol=5 * np.sqrt(2 / n))


@pytest.mark.usefixtures("x64")
def test_the_exact_F_is_the_exact_denoiser():
    """The best F of Gaussian data of std sigma_data is 0: c_skip alone is the best linear denoiser of it."""
    schedule = schedules.Flow()
    x, t = jnp.asarray(rng.standard_normal((3, 4))), jnp.asarray([0.1, 0.5, 1.0])
    model = precondition(lambda x, c: jnp.zeros_like(x), edm(0.5), schedule=schedule)
    found = denoiser(model, schedule=schedule, kind="F")(x, t)
    exact = testing.gaussian_denoiser(mean=0.0, std=0.5, schedule=schedule)(x, t)
    np.testing.assert_allclose(found.x0, exact.x0, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(found.eps, exact.eps, rtol=1e-6)


def test_networks_of_a_table_get_their_own_steps():
    """On the schedule it was trained on, step k at time (k + 1) / T; of a table without signal at the end too."""
    k = np.array([0, 1, 300, 998, 999])
    for table in (schedules.cosine(), schedules.linear(), schedules.zero_terminal_snr(schedules.linear())):
        seen = iddpm(table).c_noise(jnp.asarray((k + 1) / 1000, jnp.float32), table)
        np.testing.assert_array_equal(seen, k)
    own = schedules.VP(0.1, 12.0)
    np.testing.assert_allclose(vp(own).c_noise(jnp.float32(0.25), own), 999 / 4, rtol=1e-4)


@pytest.mark.parametrize("name", ["edm", "vp", "iddpm"])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_network_is_given_finite_numbers_at_both_ends(name, schedule, dtype):
    """Also where alpha or sigma is 0; `ve` does not scale its input and can't be."""
    schedule, design = SCHEDULES[schedule](), PRECONDITIONINGS[name]()
    x, t = jnp.asarray(rng.standard_normal((2, 3)), jnp.float32), jnp.array([0.0, 1.0])

    def seen(x):
        return precondition(lambda x, c: x + c.astype(x.dtype)[:, None] / 1000, design, schedule=schedule)(x, t)

    assert seen(x.astype(dtype)).dtype == dtype
    assert np.isfinite(seen(x.astype(dtype)).astype(jnp.float32)).all()
    assert np.isfinite(jax.grad(lambda x: seen(x).sum())(x)).all()
    if name == "edm":
        model = precondition(lambda x, c: x, design, schedule=schedule)
        predict = denoiser(model, schedule=schedule, kind=design.kind)
        assert all(np.isfinite(p).all() for p in predict(x, t)[:2])
        slopes = jax.grad(lambda x: sum(p.sum() for p in predict(x, t)[:2]))(x)
        assert np.isfinite(slopes).all()
