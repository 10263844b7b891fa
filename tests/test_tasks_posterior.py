"""Inpainting, restoration and denoising against exact posteriors of Gaussians and mixtures.

Of data N(m, C) measured as y = A x + s n the posterior is N(m + K (y - A m), C - K A C), K = C A^T (A C A^T + s^2 I)^-1.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import DDIM, DDPM, guidance, operators, prior, sample, schedules, tasks, testing, timesteps

N = 4000
H = W = 4
SHAPE = (H, W, 1)
SCHEDULE = schedules.VP()
rng = np.random.default_rng(0)
PLACES = np.stack(np.meshgrid(np.arange(H), np.arange(W), indexing="ij"), -1).reshape(-1, 2)
COVARIANCE = 0.36 * np.exp(-0.5 * ((PLACES[:, None] - PLACES[None]) ** 2).sum(-1) / 1.5**2)  # smooth pictures
MEAN = rng.uniform(-0.3, 0.3, SHAPE)
TRUTH = np.random.default_rng(1).multivariate_normal(MEAN.ravel(), COVARIANCE).reshape(SHAPE)
MASK = np.zeros(SHAPE, np.float32)
MASK[:, :2] = 1
DENOISE = testing.covariance_denoiser(mean=MEAN, covariance=COVARIANCE, schedule=SCHEDULE)
GRID = jnp.asarray(timesteps.log_snr_uniform(100, schedule=SCHEDULE), jnp.float32)
OPERATORS = {
    "mask": operators.Mask(MASK),
    "downsample": operators.Downsample(2),
    "blur": operators.Blur(jnp.asarray(operators.gaussian_kernel(0.4)[:3, :3])),
}


def matrix(A, shape=SHAPE):
    """The operator as a matrix."""
    return np.asarray(jax.vmap(lambda e: A(e[None])[0].ravel())(jnp.eye(int(np.prod(shape))).reshape(-1, *shape))).T


def posterior(A, y, std):
    gain = COVARIANCE @ A.T @ np.linalg.pinv(A @ COVARIANCE @ A.T + std**2 * np.eye(len(A)), rcond=1e-10)
    return MEAN.ravel() + gain @ (y - A @ MEAN.ravel()), COVARIANCE - gain @ A @ COVARIANCE


def compare(x, mean, covariance, *, slack, errors=4.5):
    """Mean and covariance of samples, within so many standard errors (16 numbers and 136) and a slack."""
    x = np.asarray(x, np.float64).reshape(len(x), -1)
    variances = np.maximum(np.diag(covariance), 0)
    off = np.abs(x.mean(0) - mean)
    assert (off <= errors * np.sqrt(variances / len(x)) + slack).all(), off.max()
    gap = np.abs(np.cov(x.T) - covariance)
    error = np.sqrt((covariance**2 + np.outer(variances, variances)) / len(x))
    assert (gap <= errors * error + slack).all(), gap.max()


def measured(A, std):
    y = np.asarray(A(jnp.asarray(TRUTH[None], jnp.float32)))
    noise = np.random.default_rng(2).standard_normal(y.shape).astype(np.float32)
    return jnp.asarray(y + np.float32(std) * noise * (MASK[None] if isinstance(A, operators.Mask) else 1))


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize(("sampler", "std"), [(DDPM, 0.0), (DDPM, 0.2), (DDIM, 0.2)])
def test_moment_matched_guidance_samples_the_posterior_of_a_gaussian(name, sampler, std):
    """Any linear operator, with noise and without, stochastic and deterministic; the steps' own error is below 0.01."""
    A, y = OPERATORS[name], measured(OPERATORS[name], std)

    @jax.jit
    def run(key):
        return tasks.restore(
            key, DENOISE, jnp.broadcast_to(y, (N, *y.shape[1:])), A, shape=(N, *SHAPE), sampler=sampler(SCHEDULE),
            schedule=SCHEDULE, times=GRID, noise_std=std, iterations=12,
        )  # fmt: skip

    x = run(jax.random.key(3))
    mean, covariance = posterior(matrix(A), np.ravel(y), std)
    compare(x, mean, covariance, slack=0.01)
    if std == 0:
        np.testing.assert_allclose(A(x), jnp.broadcast_to(y, A(x).shape), atol=2e-3)


@pytest.mark.parametrize("std", [0.3, 1.5])
def test_the_posterior_of_noisy_pictures(std):
    """The reverse process from the noise of y is exact, for every picture's own level; its mean is the denoiser's."""
    y = np.float32(TRUTH[None] + std * np.random.default_rng(2).standard_normal((1, *SHAPE)))
    mean, covariance = posterior(np.eye(H * W), y.ravel(), std)
    run = jax.jit(
        lambda key, y, level: tasks.posterior_samples(key, DENOISE, y, level, sampler=DDPM(SCHEDULE), steps=150)
    )
    both = jnp.concatenate([jnp.broadcast_to(jnp.asarray(y), (N, *SHAPE)), jnp.zeros((N, *SHAPE))])
    x = run(jax.random.key(3), both, jnp.repeat(jnp.array([std, 0.5], jnp.float32), N))
    compare(x[:N], mean, covariance, slack=0.01)
    compare(x[N:], *posterior(np.eye(H * W), np.zeros(H * W), 0.5), slack=0.01)
    found = tasks.posterior_mean(DENOISE, jnp.asarray(y), std, schedule=SCHEDULE)
    np.testing.assert_allclose(found.ravel(), mean, atol=2e-5)


MEANS = np.array([[[[-0.8], [-0.6]]], [[[0.5], [0.9]]], [[[0.7], [-0.7]]]])  # three pictures of two pixels
WEIGHTS, STD = np.array([0.5, 0.3, 0.2]), 0.25
MIXTURE = {"means": MEANS, "std": STD, "weights": WEIGHTS, "schedule": SCHEDULE}
LEFT = np.array([[[1.0], [0.0]]], np.float32)
KNOWN = 0.55


def log_evidence(x_t, t):
    """log p(left pixel = KNOWN + 0.1 n | x_t) of the mixture, in closed form."""
    alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
    var = alpha**2 * STD**2 + sigma**2
    x, means = x_t[:, None], jnp.asarray(MEANS, jnp.float32)[None]
    log_p = jnp.log(jnp.asarray(WEIGHTS[None], jnp.float32)) - 0.5 * jnp.sum((x - alpha * means) ** 2, (2, 3, 4)) / var
    left = means[..., 0, 0, 0] + alpha * STD**2 / var * (x - alpha * means)[..., 0, 0, 0]
    spread = STD**2 * sigma**2 / var + 0.1**2
    log_y = -0.5 * (KNOWN - left) ** 2 / spread
    return jax.nn.logsumexp(jax.nn.log_softmax(log_p) + log_y, axis=1)


def mixture_posterior():
    """Mean and covariance of the two pixels given the left one measured with noise 0.1."""
    variance = STD**2 + 0.1**2
    p = WEIGHTS * np.exp(-0.5 * (KNOWN - MEANS[:, 0, 0, 0]) ** 2 / variance)
    p = p / p.sum()
    means = MEANS.reshape(3, 2).copy()
    means[:, 0] += STD**2 / variance * (KNOWN - means[:, 0])
    mean = p @ means
    within = np.diag([STD**2 * 0.1**2 / variance, STD**2])
    return mean, within + (means - mean).T @ (p[:, None] * (means - mean))


def test_classifier_guidance_by_the_evidence_inpaints_a_mixture_exactly():
    denoise = testing.mixture_denoiser(**MIXTURE)
    guided = guidance.classifier(denoise, log_evidence, scale=1.0, schedule=SCHEDULE)
    run = jax.jit(lambda key, x: sample(key, guided, DDPM(SCHEDULE), GRID, x))
    x = run(jax.random.key(0), prior(jax.random.key(1), (N, 1, 2, 1), schedule=SCHEDULE))
    compare(x, *mixture_posterior(), slack=0.015)


def inpainted(predict, known, **options):
    run = jax.jit(
        lambda key: tasks.inpaint(
            key, predict, known, jnp.asarray(MASK[None]), sampler=DDPM(SCHEDULE), times=GRID, **options
        )
    )
    return run(jax.random.key(0))


FREE = MASK.ravel() == 0


def test_replacement_and_repaint_are_exact_where_the_parts_are_independent():
    """What is known says nothing of the rest, so the rest is the prior's; the known part is known to the bit."""
    predict = testing.gaussian_denoiser(mean=jnp.asarray(MEAN[None], jnp.float32), std=0.6, schedule=SCHEDULE)
    known = jnp.asarray(TRUTH[None] * np.ones((N, 1, 1, 1)), jnp.float32)
    for resamplings in (1, 3):
        x = inpainted(predict, known, jump_length=20, resamplings=resamplings)
        np.testing.assert_array_equal(x[:, :, :2], known[:, :, :2])
        compare(np.asarray(x).reshape(N, -1)[:, FREE], MEAN.ravel()[FREE], 0.36 * np.eye(FREE.sum()), slack=0.02)
