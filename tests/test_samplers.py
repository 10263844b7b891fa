"""The contracts that every sampler keeps."""

import dataclasses
import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampler_table import CALLS, MAKE, silent

from jaxdiff import (
    DDIM,
    DDPM,
    InputError,
    Prediction,
    Sampler,
    denoise,
    guidance,
    prior,
    sample,
    samplers,
    schedules,
    testing,
    timesteps,
)
from jaxdiff.noise import white_noise
from jaxdiff.samplers import State, draws_noise

KEY = jax.random.key(7)
GAUSSIAN = {"mean": 0.7, "std": 0.3}

CONTRACT = pytest.mark.parametrize("name", MAKE)
SCHEDULE = schedules.cosine()
GRID = jnp.asarray(timesteps.trailing(10, T=1000), jnp.float32)
TRACED = []


@jax.jit  # compiled once for most of the tests of a sampler, which are of one shape for it
def program(sampler, keys, x, grid, temperature, mean, std):
    TRACED.append(None)
    denoise = testing.gaussian_denoiser(mean=mean, std=std, schedule=SCHEDULE)
    return sample(keys, denoise, sampler, grid, x, temperature=temperature)


def run(sampler, key=KEY, x=None, grid=None, temperature=1.0, dtype=jnp.float32, **data):
    keys = key if key.ndim else jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(6))
    x = prior(keys, (keys.shape[0], 3, 3, 1), schedule=SCHEDULE).astype(dtype) if x is None else x
    numbers = GAUSSIAN | {"temperature": temperature} | data
    return program(sampler, keys, x, GRID if grid is None else grid, **jax.tree.map(jnp.float32, numbers))


@CONTRACT
def test_protocol(name):
    """The signatures of `Sampler`, argument by argument; a frozen dataclass with the schedule as static data."""
    sampler = MAKE[name](SCHEDULE)
    assert isinstance(sampler, Sampler)
    for method in ("init", "step"):
        ours = inspect.signature(getattr(type(sampler), method)).parameters
        theirs = inspect.signature(getattr(Sampler, method)).parameters
        assert [(p.name, p.kind, p.default) for p in ours.values()] == [
            (p.name, p.kind, p.default) for p in theirs.values()
        ]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(sampler, dataclasses.fields(sampler)[0].name, None)
    assert sampler == MAKE[name](SCHEDULE)
    assert hash(sampler) == hash(MAKE[name](SCHEDULE))
    state = sampler.init(jnp.zeros((2, 3)))
    assert state.x.shape == (2, 3)


@CONTRACT
def test_a_picture_does_not_depend_on_its_batch(name):
    sampler, keys = MAKE[name](SCHEDULE), jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(6))
    # from t = 0.9: at t = 1 alpha is 5e-5, where a solver in eps makes 1e-3 of a rounding that differs between programs
    grid = jnp.asarray(timesteps.uniform(10, start=0.9), jnp.float32)
    whole = run(sampler, keys, grid=grid)
    np.testing.assert_allclose(run(sampler, keys[4:], grid=grid), whole[4:], rtol=1e-5)
    np.testing.assert_allclose(run(sampler, keys[::-1], grid=grid), whole[::-1], rtol=1e-5)
    np.testing.assert_allclose(run(sampler, KEY, grid=grid), whole, rtol=1e-5)  # one key: fold_in(key, 0..B-1)
    assert float(jnp.abs(whole[0] - whole[1]).max()) > 0.01


@CONTRACT
def test_the_key_matters_where_noise_is_drawn_and_only_there(name):
    sampler, keys = MAKE[name](SCHEDULE), jax.random.split(KEY, 6)
    x = jax.random.normal(KEY, (6, 3, 3, 1))
    one, other = (run(sampler, keys[order], x=x) for order in (np.arange(6), np.arange(6)[::-1]))
    assert (float(jnp.abs(one - other).max()) > 1e-3) == draws_noise(sampler)


@CONTRACT
def test_point_data_is_hit_exactly(name):
    np.testing.assert_allclose(run(MAKE[name](SCHEDULE), mean=0.25, std=0.0), 0.25, rtol=1e-5)


@CONTRACT
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_dtype_is_kept_and_all_is_finite(name, dtype):
    x = run(MAKE[name](SCHEDULE), dtype=dtype)
    assert x.dtype == dtype
    assert bool(jnp.isfinite(x).all())


@CONTRACT
def test_numbers_do_not_recompile(name):
    """Another seed, grid, temperature or number in the sampler runs the same program."""
    made = MAKE[name](SCHEDULE)
    run(made)
    traced = len(TRACED)
    for i in range(3):
        sampler = jax.tree.map(lambda number, i=i: number * (1 - i / 4), made)
        grid = jnp.asarray(timesteps.trailing(10, T=1000 - i), jnp.float32)
        run(sampler, jax.random.key(i), grid=grid, temperature=float(i))
    assert len(TRACED) == traced


@CONTRACT
def test_times_may_differ_by_example(name):
    """A step with times [B] is each example's own step; with a last step among them, which adds no noise."""
    sampler = MAKE[name](SCHEDULE)
    denoise = testing.gaussian_denoiser(**GAUSSIAN, schedule=SCHEDULE)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(3))
    x = jax.random.normal(KEY, (3, 4, 4, 3))
    t, s = jnp.array([0.5, 0.001, 0.9]), jnp.array([0.4, 0.0, 0.8])
    whole = sampler.step(keys, sampler.init(x), t, s, denoise, temperature=jnp.array([1.0, 2.0, 0.5])).x
    assert whole.shape == x.shape
    for i, temperature in enumerate([1.0, 2.0, 0.5]):
        one = sampler.step(keys[i : i + 1], sampler.init(x[i : i + 1]), t[i], s[i], denoise, temperature=temperature).x
        np.testing.assert_allclose(whole[i], one[0], rtol=1e-5, atol=1e-6)


@CONTRACT
def test_another_noise_is_passed_in(name):
    """With no noise at all every sampler is what it is at temperature 0."""
    sampler = MAKE[name](SCHEDULE)
    quiet = run(silent(sampler, lambda key, shape: jnp.zeros(shape)))
    cold = run(sampler, temperature=0.0)
    np.testing.assert_allclose(quiet, cold, rtol=1e-5, atol=1e-6)


@CONTRACT
def test_half_precision_x_does_not_spoil_the_coefficients(name):
    """One step of 1/1000 in bfloat16 is the float32 step to bfloat16's own rounding (2^-8 of the largest number)."""
    sampler = MAKE[name](schedules.linear())
    prediction = Prediction(jnp.full((2, 50), 0.5), jnp.full((2, 50), -0.25))
    x = jnp.linspace(-1, 1, 100).reshape(2, 50)
    out = {}
    for dtype in (jnp.float32, jnp.bfloat16):
        cast = jax.tree.map(lambda a, dtype=dtype: a.astype(dtype), prediction)
        t, s = jnp.float32(0.501), jnp.float32(0.5)
        out[dtype] = sampler.step(KEY, sampler.init(x.astype(dtype)), t, s, lambda x, t, p=cast: p).x
    np.testing.assert_allclose(out[jnp.bfloat16].astype(jnp.float32), out[jnp.float32], atol=3 * 2**-8, rtol=2**-7)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_gradient_in_eta(eta):
    """Finite everywhere, also at eta = 1; in between it is the difference quotient."""

    def spread(eta):
        return jnp.square(run(DDIM(SCHEDULE, eta=eta))).mean()

    slope = jax.grad(spread)(eta)
    assert np.isfinite(slope)
    if eta == 0.5:
        np.testing.assert_allclose(slope, (spread(eta + 0.01) - spread(eta - 0.01)) / 0.02, rtol=0.02)


@CONTRACT
def test_a_thousand_steps_are_one_program_and_collect_sees_them(name):
    """The denoiser is traced where a step calls it, for any number of steps: they are a scan, not an unrolled loop."""
    calls = []

    def denoise(x, t):
        calls.append(t)
        return testing.gaussian_denoiser(**GAUSSIAN, schedule=SCHEDULE)(x, t)

    @jax.jit
    def run(key, x):
        grid = timesteps.trailing(1000, T=1000)
        return sample(key, denoise, MAKE[name](SCHEDULE), grid, x, collect=lambda state: state.x)

    last, path = run(KEY, jnp.ones((2, 3)))
    assert len(calls) == CALLS.get(name, 1)
    assert path.shape == (1000, 2, 3)
    assert bool(jnp.isfinite(path).all())
    np.testing.assert_array_equal(path[-1], last)


@CONTRACT
def test_vmap_and_grad_in_the_guidance_scale(name):
    """Several scales at once are each of them, and the slope is the difference quotient."""
    schedule, x = schedules.linear(), jax.random.normal(KEY, (2, 3))
    sampler = MAKE[name](schedule)
    one, other = (testing.gaussian_denoiser(mean=m, std=0.3, schedule=schedule) for m in (0.7, 0.2))

    def mean(scale):
        guided = guidance.classifier_free(guidance.paired(one, other), scale=scale)
        return sample(KEY, guided, sampler, GRID, x).mean()

    together, alone = jax.jit(jax.vmap(mean))(jnp.array([1.45, 1.55, 1.5, 1.0])), jax.jit(jax.value_and_grad(mean))
    for scale, ours in zip((1.5, 1.0), together[2:]):
        np.testing.assert_allclose(ours, alone(scale)[0], rtol=1e-4)
    np.testing.assert_allclose(alone(1.5)[1], (together[1] - together[0]) / 0.1, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("name", [name for name, make in MAKE.items() if jax.tree.leaves(make(SCHEDULE))])
def test_vmap_over_the_numbers_in_a_sampler(name):
    """eta, S_churn, snr, ...: several samplers of a kind at once are each of them."""

    def scaled(share):
        return run(jax.tree.map(lambda number: share * number, MAKE[name](SCHEDULE)))

    for share, ours in zip((0.2, 0.9), jax.vmap(scaled)(jnp.array([0.2, 0.9]))):
        np.testing.assert_allclose(ours, scaled(share), rtol=1e-4, atol=1e-5)


@CONTRACT
def test_the_network_may_compute_in_another_dtype_and_predict_a_variance(name):
    """A bfloat16 model with float32 x, and the other way round; Prediction.log_var is carried along or left."""
    sampler, x = MAKE[name](SCHEDULE), jax.random.normal(KEY, (2, 3))

    @partial(jax.jit, static_argnums=1)
    def made(x, theirs):
        def model(x_t, t):
            return jnp.concatenate([0.1 * x_t.astype(theirs), jnp.zeros_like(x_t, theirs)], axis=-1)

        predict = denoise.denoiser(model, schedule=SCHEDULE, kind="v", learned_variance=True)
        return sample(KEY, predict, sampler, GRID, x)

    for ours, theirs in ((jnp.float32, jnp.bfloat16), (jnp.bfloat16, jnp.float32)):
        y = made(x.astype(ours), theirs)
        assert y.dtype == ours
        assert bool(jnp.isfinite(y).all())


@pytest.mark.parametrize(
    "times", [[0.5], [[1.0, 0.0]], [0.0, 1.0], [1.0, 0.5, 0.5], [1.5, 0.0], [1.0, 0.5, 0.5 - 1e-9]]
)
def test_bad_grids_are_refused(times):
    with pytest.raises(InputError, match="times: expected"):
        sample(KEY, lambda x, t: Prediction(x, x), DDIM(SCHEDULE), np.array(times), jnp.ones((1, 2)))


def test_bad_variance_and_bad_keys_are_refused():
    with pytest.raises(InputError, match="unknown variance 'small'; expected one of fixed_small"):
        DDPM(SCHEDULE, "small")
    with pytest.raises(InputError, match="expected one key or 2 keys"):
        white_noise(jax.random.split(KEY, 3), (2, 3))
    with pytest.raises(InputError, match=r"expected a typed key, jax.random.key\(seed\), got uint32 of shape \(2,\)"):
        white_noise(jax.random.PRNGKey(0), (2, 3))


@pytest.mark.parametrize("sampler", [DDIM, samplers.Euler, "ddim", None])
def test_what_is_no_sampler_is_refused(sampler):
    with pytest.raises(InputError, match="sampler: expected an instance, such as DDIM"):
        sample(KEY, lambda x, t: Prediction(x, x), sampler, timesteps.uniform(3), jnp.ones((1, 2)))


def test_state_is_a_pytree_of_x():
    assert jax.tree.leaves(State(jnp.ones(2)))[0].shape == (2,)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DDIM(SCHEDULE, eta=-0.1), "eta: expected 0 to 1, got -0.1"),
        (lambda: DDIM(SCHEDULE, eta=np.array([0.5, 1.5])), "eta: expected 0 to 1"),
        (lambda: DDIM(SCHEDULE, eta=jnp.float32(2)), "eta: expected 0 to 1"),
        (lambda: samplers.Ancestral(samplers.LMS(SCHEDULE)), "LMS draws noise or has a history"),
        (lambda: samplers.Churn(DDPM(SCHEDULE)), "DDPM draws noise or has a history"),
        (lambda: samplers.EulerAncestral(SCHEDULE, eta=2), "eta: expected 0 to 1"),
        (lambda: samplers.Ancestral(DDIM(SCHEDULE), eta=-1), "eta: expected 0 to 1"),
        (lambda: samplers.EulerMaruyama(SCHEDULE, eta=-1.0), "eta: expected 0 or more"),
        (
            lambda: samplers.DPMSolverMultistep(SCHEDULE, order=4),
            "unknown order of DPMSolverMultistep 4; expected one of 1",
        ),
        (lambda: samplers.DPMSolverMultistep(SCHEDULE, eta=-1.0), "eta: expected 0 or more"),
        (lambda: samplers.DPMSolverMultistep(SCHEDULE, predict="eps", eta=1.0), "the SDE solver follows x0"),
        (lambda: samplers.DPMSolverMultistep(SCHEDULE, predict="v"), "unknown predict 'v'; expected one of x0, eps"),
        (
            lambda: samplers.DPMSolverSinglestep(SCHEDULE, order=1),
            "order of DPMSolverSinglestep 1; expected one of 2, 3",
        ),
        (lambda: samplers.UniPC(SCHEDULE, order=0), "order of UniPC 0"),
        (lambda: samplers.UniPC(SCHEDULE, order=2.0), "order of UniPC 2.0; expected one of 1, 2, 3"),
        (lambda: samplers.LMS(SCHEDULE, order=True), "order of LMS True"),
        (lambda: DDIM(SCHEDULE, eta="1"), "eta: expected 0 to 1, got '1'"),
        (lambda: samplers.UniPC(SCHEDULE, variant="bh3"), "unknown variant 'bh3'"),
        (lambda: samplers.LMS(SCHEDULE, order=5), "order of LMS 5"),
        (lambda: samplers.EDM(SCHEDULE, steps=0), "steps: expected 1 or more"),
        (lambda: samplers.EDM(SCHEDULE, steps=10, S_churn=-1), "S_churn: expected 0 or more"),
        (lambda: samplers.Churn(DDIM(SCHEDULE), gamma=-1), "gamma: expected 0 or more"),
        (lambda: samplers.LangevinCorrector(SCHEDULE, snr=-1), "snr: expected 0 or more"),
        (
            lambda: samplers.AnnealedLangevin(SCHEDULE, steps_per_level=0),
            "steps_per_level: expected a whole number, at least 1, got 0",
        ),
    ],
)
def test_options_out_of_range_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_a_schedule_whose_snr_is_not_monotone_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Back:
        def alpha(self, t):
            return jnp.cos(2.5 * t)

        def sigma(self, t):
            return jnp.sin(2.5 * t)

    with pytest.raises(
        InputError, match="Back: the log-SNR must fall from data at t = 0 to noise at t = 1, but it goes"
    ):
        sample(KEY, lambda x, t: Prediction(x, x), DDIM(Back()), timesteps.uniform(3), jnp.ones((1, 2)))


@CONTRACT
def test_gradient_in_the_grid_is_the_difference_quotient(name):
    """Of the middle times; at the ends it is finite."""
    schedule = schedules.Flow()
    denoise = testing.gaussian_denoiser(**GAUSSIAN, schedule=schedule)
    sampler, x = MAKE[name](schedule), jax.random.normal(KEY, (2, 3))
    mean = jax.jit(jax.value_and_grad(lambda grid: jnp.mean(sample(KEY, denoise, sampler, grid, x))))
    grid, push = jnp.array([1.0, 0.8, 0.5, 0.2, 0.0]), jnp.array([0.0, 0.0, 1.0, 0.0, 0.0])
    _, slope = mean(grid)
    assert bool(jnp.isfinite(slope).all())
    (above, _), (below, _) = (mean(grid + h * push) for h in (0.01, -0.01))
    np.testing.assert_allclose(slope @ push, (above - below) / 0.02, rtol=0.03, atol=2e-3)
