"""Averages of power functions: the formulas against quadrature, and reconstruction against the averages themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from jaxdiff import InputError
from jaxdiff.config.check import LONGEST
from jaxdiff.train import ema

rng = np.random.default_rng(0)
STEPS = 4000
WALK = {  # parameters that drift by random steps, around values far from 0
    "kernel": 5 + 0.01 * rng.standard_normal((STEPS, 6, 4)).cumsum(0),
    "bias": -3 + 0.01 * rng.standard_normal((STEPS, 5)).cumsum(0),
}


def averages(length, steps):
    """The power-function average of the walk at some steps: `beta theta_hat + (1 - beta) theta`, in float64."""
    gamma, found = ema.gamma_of(length), {}
    average = {name: np.zeros(theta.shape[1:]) for name, theta in WALK.items()}
    for t in range(1, max(steps) + 1):
        beta = (1 - 1 / t) ** (gamma + 1)
        average = {name: beta * a + (1 - beta) * WALK[name][t - 1] for name, a in average.items()}
        if t in steps:
            found[t] = average
    return found


def stored(every, lengths=(0.05, 0.1)):
    """What a run leaves: a snapshot of each length every some steps."""
    steps = range(every, STEPS + 1, every)
    of = {length: averages(length, set(steps)) for length in lengths}
    return [(length, t, of[length][t]) for t in steps for length in lengths]


def distance(a, b):
    """Root mean square over the parameters."""
    return float(np.sqrt(np.mean(np.concatenate([(a[name] - b[name]).ravel() for name in WALK]) ** 2)))


@pytest.mark.parametrize("gamma", [0.1, 1.0, 6.94, 16.97, 500.0])
def test_sigma_rel_is_the_standard_deviation_of_the_profile_and_gamma_its_inverse(gamma):
    mean, square = (integrate.quad(lambda u, n: u**n * (gamma + 1) * u**gamma, 0, 1, (n,))[0] for n in (1, 2))
    np.testing.assert_allclose(ema.sigma_rel_of(gamma), np.sqrt(square - mean**2), rtol=1e-5)
    np.testing.assert_allclose(ema.gamma_of(ema.sigma_rel_of(gamma)), gamma, rtol=1e-9)


def test_only_lengths_of_averages_that_weigh_late_steps_more():
    for length in (0.0, -0.1, 0.289, float("nan")):
        with pytest.raises(InputError, match=r"expected 0 < length < 0\.2887"):
            ema.gamma_of(length)
    assert 0 < ema.gamma_of(0.2886) < 0.01
    assert ema.LONGEST == LONGEST


@pytest.mark.parametrize(("a", "b"), [((6.9, 1.0), (17.0, 1.0)), ((6.9, 0.4), (17.0, 1.5)), ((17.0, 3.0), (0.3, 0.7))])
def test_inner_products_are_the_integrals(a, b):
    def p(gamma, t, tau):
        return (gamma + 1) * tau**gamma / t ** (gamma + 1)

    expected, _ = integrate.quad(lambda tau: p(*a, tau) * p(*b, tau), 0, min(a[1], b[1]))
    np.testing.assert_allclose(ema.inner_product(*a, *b), expected, rtol=1e-9)
    np.testing.assert_allclose(ema.inner_product(*b, *a), expected, rtol=1e-9)


def test_shares_keep_their_digits_after_many_steps():
    """1 - (1 - 1/t)^(gamma + 1) in float32, where beta itself rounds to a few units of 6e-8."""
    t = np.array([1, 2, 10, 1000, 10**6, 10**8])
    got = jax.jit(ema.power(0.1))(jnp.asarray(t - 1, jnp.int32))
    expected = -np.expm1((ema.gamma_of(0.1) + 1) * np.log1p(-1 / t[1:]))
    np.testing.assert_allclose(got, [1, *expected], rtol=1e-5)


@pytest.mark.parametrize("step", [STEPS, STEPS // 2])
@pytest.mark.parametrize("length", [0.07, 0.1, 0.15, 0.2])
def test_reconstruction_comes_near_the_average_itself_with_more_snapshots(length, step):
    """Each error is also what the residual of the profiles promises, relative to how far the parameters moved."""
    direct = averages(length, {step})[step]
    moved = distance(direct, {name: theta[0] for name, theta in WALK.items()})
    errors, residuals = [], []
    for every in (400, 100, 25):
        snapshots = stored(every)
        errors.append(distance(ema.reconstruct(snapshots, sigma_rel=length, step=step), direct) / moved)
        residuals.append(ema.fit([s[:2] for s in snapshots], sigma_rel=length, step=step).residual)
    if length == 0.1:
        assert max(errors) < 1e-12
        return
    for many, few in zip(errors[1:], errors[:-1], strict=True):
        assert many < few / 4
    assert errors[0] < 0.03
    assert errors[2] < 1e-4
    assert all(error < residual for error, residual in zip(errors, residuals))


def test_a_stored_average_is_reproduced_to_rounding_at_its_step():
    snapshots = stored(100)
    for length, t, average in (snapshots[0], snapshots[21], snapshots[-1]):
        found = ema.reconstruct(snapshots, sigma_rel=length, step=t)
        for name in WALK:
            np.testing.assert_allclose(found[name], average[name], rtol=1e-12)


def test_the_residual_is_that_of_the_profiles():
    """Against the profiles on a fine grid, and against least squares on it: no other weights come nearer."""
    snapshots = [(length, t) for t in (1, 2, 3, 4) for length in (0.05, 0.1)]
    tau = (np.arange(40_000) + 0.5) / 10_000

    def profile(length, t):
        gamma = ema.gamma_of(length)
        return np.where(tau < t, (gamma + 1) * (tau / t) ** gamma / t, 0)

    found = ema.fit(snapshots, sigma_rel=0.2, step=4)
    basis, wanted = np.stack([profile(*s) for s in snapshots], 1), profile(0.2, 4)
    left = np.linalg.norm(basis @ found.weights - wanted) / np.linalg.norm(wanted)
    np.testing.assert_allclose(found.residual, left, rtol=1e-3)
    np.testing.assert_allclose(found.weights.sum(), 1, rtol=1e-12)
    # The condition that they sum to 1, by substitution of the last.
    free, *_ = np.linalg.lstsq(basis[:, :-1] - basis[:, -1:], wanted - basis[:, -1], rcond=None)
    np.testing.assert_allclose(found.weights, [*free, 1 - free.sum()], rtol=0.01, atol=1e-3)


def test_what_does_not_move_stays_to_rounding_however_few_the_snapshots():
    still = {"w": np.full(3, 1234.5, np.float32)}
    for length in (0.02, 0.07, 0.25):
        found = ema.reconstruct([(0.05, 500, still), (0.1, 500, still), (0.05, 900, still)], sigma_rel=length, step=900)
        np.testing.assert_allclose(found["w"], still["w"], rtol=1e-6)
        assert found["w"].dtype == np.float32


def test_a_step_without_a_snapshot_is_refused_with_those_there_are():
    for step, near in ((450, "400 and 500"), (1001, "900 and 1000")):
        with pytest.raises(InputError, match=rf"step {step} has no snapshot: they go up to 1000, .* of {near}"):
            ema.fit([(0.05, t) for t in range(100, 1001, 100)], sigma_rel=0.1, step=step)
    with pytest.raises(InputError, match="step 5 has no snapshot: none"):
        ema.fit([], sigma_rel=0.1, step=5)
