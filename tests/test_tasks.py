"""Operators, RePaint's way, editing and interpolation, from their definitions and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from test_tasks_posterior import matrix

from jaxdiff import (
    DDIM,
    DDPM,
    InputError,
    Prediction,
    denoise,
    guidance,
    operators,
    prior,
    sample,
    samplers,
    schedules,
    tasks,
    testing,
    timesteps,
)
from jaxdiff.noise import slerp

KEY = jax.random.key(0)
rng = np.random.default_rng(0)
PICTURES = jnp.asarray(rng.uniform(-1, 1, (3, 6, 6, 3)), jnp.float32)
ALL = {
    "mask": operators.Mask(jnp.asarray(rng.integers(0, 2, (6, 6, 1)), jnp.float32)),
    "downsample": operators.Downsample(3),
    "blur": operators.Blur(jnp.asarray(rng.uniform(0, 1, (3, 2)), jnp.float32)),
    "box": operators.Blur(jnp.ones((1, 3)) / 3),  # takes frequencies away
    "grey": operators.Grey(),
}


@pytest.mark.parametrize("name", ALL)
def test_pseudo_inverses_are_those_of_moore_and_penrose(name):
    """`A A+ A = A`, and both products symmetric: numpy's pinv of the matrix."""
    A = ALL[name]
    a = matrix(A, (6, 6, 3)).astype(np.float64)
    y_shape = A(PICTURES).shape[1:]
    size = int(np.prod(y_shape))
    columns = jax.vmap(lambda e: A.pinv(e[None])[0].ravel())(jnp.eye(size).reshape(-1, *y_shape))
    np.testing.assert_allclose(np.asarray(columns).T, np.linalg.pinv(a, rcond=1e-3), atol=2e-4)
    np.testing.assert_allclose(A(PICTURES).reshape(3, -1), np.asarray(PICTURES).reshape(3, -1) @ a.T, atol=1e-5)


def test_blur_is_the_convolution_of_scipy():
    kernel = rng.uniform(0, 1, (3, 5)).astype(np.float32)
    ours = operators.Blur(jnp.asarray(kernel))(PICTURES)
    theirs = scipy.ndimage.convolve(np.asarray(PICTURES), kernel[None, :, :, None], mode="wrap")
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    line = scipy.ndimage.gaussian_filter(np.eye(1, 31, 15)[0], 1.2, truncate=4 / 1.2, mode="wrap")
    np.testing.assert_allclose(operators.gaussian_kernel(1.2).sum(0), line[11:20], atol=1e-6)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: operators.Downsample(4)(PICTURES), "4 must divide both"),
        (lambda: operators.Downsample(0), "factor"),
        (lambda: operators.Grey()(PICTURES[..., :1]), "3 weights for pictures of 1 channels"),
        (lambda: operators.Blur(jnp.ones((9, 1)))(PICTURES), "larger than the pictures"),
        (lambda: operators.Blur(jnp.ones(3)), "expected \\[h, w\\]"),
        (lambda: operators.gaussian_kernel(0.0), "positive number of pixels"),
        (lambda: tasks.estimate_noise(PICTURES[:, :1]), "at least 2x2"),
        (lambda: timesteps.starting_at(timesteps.uniform(10), 0.05), "no step is left"),
    ],
)
def test_what_cannot_be_is_said(call, said):
    with pytest.raises(InputError, match=said):
        call()


def restored(**options):
    denoise = testing.gaussian_denoiser(mean=0.0, std=1.0, schedule=schedules.Flow())
    given = {"method": "moments", "A": operators.Downsample(2)} | options
    return tasks.restore(
        KEY, denoise, jnp.zeros((2, 2, 2, 1)), shape=(2, 4, 4, 1), sampler=DDIM(schedules.Flow()),
        schedule=schedules.Flow(), times=timesteps.uniform(4), **given,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "magic"}, "unknown method 'magic'; expected one of moments, dps, null_space"),
        ({"noise_std": -0.1}, "noise_std: expected 0 or more"),
        ({"iterations": 0}, "iterations"),
        ({"method": "null_space", "noise_std": 0.1}, "takes what was measured as exact"),
        ({"method": "dps", "noise_std": 0.1}, "takes what was measured as exact"),
        ({"method": "null_space", "A": lambda x: x[:, ::2, ::2]}, "pseudo-inverse"),
    ],
)
def test_restoring_refuses(options, said):
    with pytest.raises(InputError, match=said):
        restored(**options)


def test_the_null_space_method_fulfils_what_was_measured():
    """At the end A x = y, whatever the network says, here nothing but noise; and x_t = alpha x0 + sigma eps holds."""
    y = ALL["downsample"](PICTURES)
    noisy = lambda x, t: Prediction(jnp.sin(9 * x), jnp.cos(7 * x))
    guided = guidance.null_space(noisy, y, ALL["downsample"], schedule=schedules.Flow())
    x = prior(KEY, PICTURES.shape, schedule=schedules.Flow())
    x = sample(KEY, guided, DDPM(schedules.Flow()), timesteps.uniform(7), x)
    np.testing.assert_allclose(ALL["downsample"](x), y, atol=1e-5)
    consistent = lambda x, t: Prediction(0.3 * x, (x - 0.5 * 0.3 * x) / 0.5)
    p = guidance.null_space(consistent, y, ALL["downsample"], schedule=schedules.Flow())(PICTURES, jnp.float32(0.5))
    np.testing.assert_allclose(0.5 * p.x0 + 0.5 * p.eps, PICTURES, atol=1e-5)


def test_at_pure_noise_what_was_measured_does_nothing():
    """Where alpha = 0 a network's derivative means nothing, however large what is made of it would be."""
    network = lambda x, t: Prediction(0.02 * x, x)
    guided = guidance.moment_matched(network, jnp.ones((1, 2)), lambda x: x, noise_std=0.01, schedule=schedules.Flow())
    x = jnp.array([[0.3, -0.4]])
    for one, other in zip(guided(x, jnp.float32(1.0))[:2], network(x, 1.0)[:2]):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", samplers.SAMPLERS)
def test_which_samplers_remember(name):
    """Those with a history; correctors and ancestral steps do not."""
    history = ("dpm_solver", "unipc", "lms", "pndm")
    expected = name.startswith(history) and "single" not in name
    assert (
        samplers.remembers(samplers.SAMPLERS[name](schedules.VP(), **({"steps": 5} if name == "edm" else {})))
        == expected
    )


def test_noise_is_taken_away_at_times_that_a_network_of_a_table_knows():
    """Also of noise below that of its first step: from there on, decreasing, and last to 0."""
    asked = []

    def network(x, t):
        asked.append(t)
        return Prediction(x, x)

    std = jnp.array([1e-4, 0.05, 2.0])
    with jax.disable_jit():
        tasks.posterior_samples(KEY, network, jnp.zeros((3, 2)), std, sampler=DDIM(schedules.linear()), steps=20)
    times = np.array(asked)
    assert times.shape == (20, 3)
    assert times.min() >= 0.001 * (1 - 1e-4)
    assert (np.diff(times, axis=0) < 0).all()
    assert float(tasks.time_of_noise(1e-4, schedule=schedules.linear())) == pytest.approx(0.00101)
    with pytest.raises(InputError, match="positive"):
        tasks.time_of_noise(0.0, schedule=schedules.linear())
    with pytest.raises(InputError, match="one grid for all"):
        tasks.posterior_samples(
            KEY, network, jnp.zeros((3, 2)), std, sampler=samplers.UniPC(schedules.linear()), steps=20
        )


def test_times_that_rise_are_no_grid_to_inpaint_on():
    denoise = testing.gaussian_denoiser(mean=0.0, std=1.0, schedule=schedules.Flow())
    with pytest.raises(InputError, match="decreasing"):
        tasks.inpaint(
            KEY, denoise, jnp.zeros((1, 2)), jnp.zeros((1, 2)), times=np.array([0.0, 0.5, 1.0]),
            sampler=DDPM(schedules.Flow()),
        )  # fmt: skip


def test_each_picture_is_restored_for_itself():
    """Conjugate gradients too: the first of a batch is the same alone."""
    denoise = testing.covariance_denoiser(
        mean=np.zeros((6, 6, 3)), covariance=np.cov(rng.standard_normal((108, 300))), schedule=schedules.Flow()
    )

    def run(y):
        return tasks.restore(
            KEY, denoise, y, ALL["downsample"], shape=(len(y), 6, 6, 3), sampler=DDPM(schedules.Flow()),
            schedule=schedules.Flow(), times=timesteps.uniform(5), noise_std=0.1, iterations=3,
        )  # fmt: skip

    y = ALL["downsample"](PICTURES)
    np.testing.assert_allclose(run(y)[:1], run(y[:1]), atol=1e-5)


def paper_schedule(t_T, jump_len, jump_n_sample):
    """The times of RePaint with jumps of several steps, as its appendix describes them."""
    jumps = {j: jump_n_sample - 1 for j in range(0, t_T - jump_len, jump_len)}
    t, found = t_T, []
    while t >= 1:
        t -= 1
        found.append(t)
        if jumps.get(t, 0) > 0:
            jumps[t] -= 1
            for _ in range(jump_len):
                t += 1
                found.append(t)
    return [*found, -1]


@pytest.mark.parametrize(("n", "j", "r"), [(250, 10, 10), (7, 1, 3), (20, 5, 2), (4, 1, 1)])
def test_the_way_of_repaint_is_the_papers(n, j, r):
    """But for the places inside a jump, which is one step here."""
    theirs = paper_schedule(n, j, r)
    around = zip([n, *theirs], theirs, [*theirs[1:], -2])
    turns = [at for before, at, after in around if not before < at < after]
    assert (n - samplers.time_travel(n, jump_length=j, resamplings=r) - 1).tolist() == turns


def test_repaint_is_algorithm_1():
    """Its lines in numpy, U = 3 on a table of 6 betas, with the same "noise" everywhere."""
    T, U, z = 6, 3, 0.4
    betas = np.linspace(0.1, 0.5, T)
    schedule = schedules.from_betas(betas)
    abar = np.concatenate([[1.0], np.cumprod(1 - betas)])
    x0, mask = np.array([0.7, 0.0]), np.array([1.0, 0.0])
    eps_model = lambda x, t: np.sin(x) * t / T
    x = np.sqrt(1 - abar[T]) * np.full(2, z)
    for t in range(T, 0, -1):
        for u in range(1, U + 1):
            eps = z if t > 1 else 0.0
            known = np.sqrt(abar[t - 1]) * x0 + np.sqrt(1 - abar[t - 1]) * eps
            beta = betas[t - 1]
            mean = (x - beta / np.sqrt(1 - abar[t]) * eps_model(x, t)) / np.sqrt(1 - beta)
            std = np.sqrt((1 - abar[t - 1]) / (1 - abar[t]) * beta)
            before = mask * known + (1 - mask) * (mean + std * (z if t > 1 else 0.0))
            if u < U and t > 1:
                x = np.sqrt(1 - beta) * before + np.sqrt(beta) * z
        x = before

    def network(x, k):
        return jnp.sin(x) * ((k + 1) / T).reshape(-1, 1)

    predict = denoise.denoiser(denoise.at_steps(network, T=T), schedule=schedule, kind="eps")
    constant = lambda key, shape: jnp.full(shape, z)
    inside = samplers.Replacement(
        DDPM(schedule, noise=constant), jnp.asarray(x0[None]), jnp.asarray(mask[None]), constant
    )
    times = jnp.asarray(timesteps.trailing(T, T=T)[samplers.time_travel(T, jump_length=1, resamplings=U)])
    start = prior(KEY, (1, 2), schedule=schedule, noise=constant)
    ours = samplers.run(KEY, predict, samplers.Way(inside, times, start))
    np.testing.assert_allclose(ours[0], x, atol=2e-5)


def test_going_back_up_with_a_history_is_refused():
    denoise = testing.gaussian_denoiser(mean=0.0, std=1.0, schedule=schedules.Flow())
    with pytest.raises(InputError, match="DPMSolverMultistep remembers"):
        tasks.inpaint(
            KEY, denoise, jnp.zeros((1, 2)), jnp.zeros((1, 2)), times=timesteps.uniform(4), resamplings=2,
            sampler=samplers.DPMSolverMultistep(schedules.Flow()),
        )  # fmt: skip


@pytest.mark.parametrize("mask", [0.5, -1.0, 2.0, np.nan, 255])
def test_a_mask_of_other_values_than_0_and_1_is_refused(mask):
    """Where it is concrete: `jnp.where(mask > 0, ...)` took any for 0 or 1, and `Mask` scaled the picture by it."""
    known, mask, schedule = jnp.zeros((1, 2)), jnp.full((1, 2), mask), schedules.Flow()
    denoise, how = testing.gaussian_denoiser(mean=0.0, std=1.0, schedule=schedule), {"times": timesteps.uniform(4)}
    for wrong in (
        lambda: operators.Mask(mask),
        lambda: samplers.Replacement(DDPM(schedule), known, mask),
        lambda: tasks.inpaint(KEY, denoise, known, mask, sampler=DDPM(schedule), **how),
        lambda: tasks.inpainting_way(KEY, known, mask, sampler=DDPM(schedule), **how),
        lambda: tasks.with_known(known, known, mask),
    ):
        with pytest.raises(InputError, match="mask: expected 1 where it is known, else 0, got"):
            wrong()
    jax.jit(lambda mask: tasks.with_known(known, known, mask))(mask)  # whose values nobody knows
    assert operators.Mask(mask > 3)(known).tolist() == [[0.0, 0.0]]


def test_a_picture_noised_and_sampled_is_a_draw_from_its_posterior():
    """SDEdit of x on data N(m, c^2): x_t ~ N(alpha x, sigma^2), then p(x_0 | x_t): closed in mean and variance."""
    schedule, m, c, x, n = schedules.VP(), 0.5, 0.4, -0.6, 20_000
    times = jnp.asarray(timesteps.uniform(200, start=0.4), jnp.float32)
    alpha, sigma = float(schedule.alpha(0.4)), float(schedule.sigma(0.4))
    gain = alpha * c**2 / (alpha**2 * c**2 + sigma**2)
    mean, var = m + gain * alpha * (x - m), gain**2 * sigma**2 + c**2 * sigma**2 / (alpha**2 * c**2 + sigma**2)
    denoise = testing.gaussian_denoiser(mean=m, std=c, schedule=schedule)
    run = jax.jit(lambda key, x: tasks.from_noised(key, denoise, x, sampler=DDPM(schedule), times=times))
    found = run(KEY, jnp.full((n, 1), x))
    assert abs(float(found.mean()) - mean) < 4 * np.sqrt(var / n) + 2e-3
    assert abs(float(found.var()) - var) < 4 * var * np.sqrt(2 / n) + 2e-3


def test_transfer_maps_quantiles_to_quantiles():
    """Between two Gaussians the flow of one and back by the other is the monotone map, x -> m' + c' (x - m) / c."""
    schedule = schedules.VP()
    ours, theirs = (testing.gaussian_denoiser(mean=m, std=c, schedule=schedule) for m, c in ((0.3, 0.5), (-1.0, 0.25)))
    x = jnp.array([[-0.4], [0.3], [1.1]])
    times = jnp.asarray(timesteps.log_snr_uniform(400, schedule=schedule), jnp.float32)
    found = jax.jit(lambda x: tasks.transfer(ours, theirs, x, times=times, schedule=schedule))(x)
    np.testing.assert_allclose(found, -1.0 + 0.5 * (x - 0.3), atol=0.01)
    back = jax.jit(lambda x: tasks.transfer(ours, ours, x, times=times, schedule=schedule))(x)
    np.testing.assert_allclose(back, x, atol=2e-3)


def test_an_edit_moves_the_mean_by_the_difference():
    """Of unit Gaussians all flows are shifts: base at 0, more at 1, less at -0.5, scale 2 is a Gaussian at 3."""
    schedule = schedules.VP()
    base, more, less = (testing.gaussian_denoiser(mean=m, std=1.0, schedule=schedule) for m in (0.0, 1.0, -0.5))
    denoise = tasks.edited(base, more, less, scale=2.0, schedule=schedule)
    x, t = jnp.array([[0.2], [-1.4]]), jnp.float32(0.5)
    wanted = testing.gaussian_denoiser(mean=3.0, std=1.0, schedule=schedule)(x, t)
    np.testing.assert_allclose(denoise(x, t).x0, wanted.x0, atol=1e-5)
    np.testing.assert_allclose(denoise(x, t).eps, wanted.eps, atol=1e-5)
    growing = tasks.edited(base, more, less, scale=lambda t: 4 * t, schedule=schedule)
    np.testing.assert_allclose(growing(x, t).x0, wanted.x0, atol=1e-5)


def test_interpolation_keeps_its_ends_and_its_length():
    a, b = jax.random.normal(KEY, (2, 5, 4, 4, 1))
    share = jnp.linspace(0, 1, 5)
    path = slerp(a, b, share)
    np.testing.assert_allclose(path[0], a[0], atol=1e-6)
    np.testing.assert_allclose(path[-1], b[-1], atol=1e-6)
    unit = lambda x: x / jnp.sqrt(jnp.sum(x**2, (1, 2, 3), keepdims=True))
    np.testing.assert_allclose(jnp.sum(slerp(unit(a), unit(b), share) ** 2, (1, 2, 3)), 1, atol=1e-5)
    np.testing.assert_allclose(slerp(a, a, share), a, atol=1e-6)  # on one line
    assert slerp(a.astype(jnp.bfloat16), b.astype(jnp.bfloat16), share).dtype == jnp.bfloat16


def test_interpolation_in_the_stochastic_encoder():
    """On points nothing is left of what was noised; at share 0 and 1 it is `from_noised` of the ends, same noise."""
    schedule = schedules.VP()
    denoise = testing.gaussian_denoiser(mean=0.2, std=0.7, schedule=schedule)
    a, b = jax.random.normal(KEY, (2, 4, 3))
    times = jnp.asarray(timesteps.uniform(20, start=0.6), jnp.float32)
    options = {"sampler": DDPM(schedule), "times": times}
    shares = jnp.array([0.0, 1.0, 0.0, 1.0])
    found = tasks.between_noised(jax.random.key(4), denoise, a, b, shares, **options)
    ends = tasks.from_noised(jax.random.key(4), denoise, jnp.where((shares == 1)[:, None], b, a), **options)
    np.testing.assert_allclose(found, ends, atol=1e-5)


def test_noise_is_estimated():
    """Of a smooth picture within 5 %; for each picture its own."""
    smooth = np.sin(np.linspace(0, 3, 64))[:, None, None] * np.ones((1, 64, 3))
    std = np.array([0.05, 0.3])
    y = smooth[None] + std[:, None, None, None] * rng.standard_normal((2, 64, 64, 3))
    np.testing.assert_allclose(tasks.estimate_noise(jnp.asarray(y, jnp.float32)), std, rtol=0.05)
