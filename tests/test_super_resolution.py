"""tasks.super_resolve and tasks.cascade with exact denoisers of Gaussian data: moments in closed form.

Data x ~ N(m, C), and the smaller picture A x, the means of 2x2 squares. What the network is told, z = sqrt(1 - s^2) A x +
s eps, is jointly Gaussian with x: with r = sqrt(1 - s^2) and K = r C A' (r^2 A C A' + s^2 I)^-1

    x | z ~ N(m + K (z - r A m), C - r K A C)
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import InputError, samplers, schedules, timesteps
from jaxdiff.noise import example_keys, white_noise
from jaxdiff.tasks.super_resolution import cascade, super_resolve
from jaxdiff.typing import Prediction

N = 20_000
VP = schedules.VP()
HOW = {
    "sampler": samplers.DPMSolverMultistep(VP, order=3),
    "times": timesteps.log_snr_uniform(40, schedule=VP),
    "schedule": VP,
    "factor": 2,
    "enlargement": "nearest",  # of which z can be read again
}


def means_of_squares(side):
    """The matrix A, from pictures of that side, row by row."""
    half = side // 2
    a = np.zeros((half * half, side * side))
    for y in range(side):
        for x in range(side):
            a[y // 2 * half + x // 2, y * side + x] = 1 / 4
    return a


@dataclasses.dataclass
class Gaussian:
    """Pictures `[side, side, 1]` and what is known of them."""

    side: int
    m: np.ndarray
    C: np.ndarray

    def half(self):
        a = means_of_squares(self.side)
        return Gaussian(self.side // 2, a @ self.m, a @ self.C @ a.T)

    def told(self, s):
        """K, and the covariance of x | z."""
        a, r = means_of_squares(self.side), np.sqrt(1 - s**2)
        K = r * self.C @ a.T @ np.linalg.inv(r**2 * a @ self.C @ a.T + s**2 * np.eye(len(a)))
        return K, self.C - r * K @ a @ self.C

    def bind(self, s):
        """The exact denoiser of x given z, which it reads from the channels: `E[x0 | x_t, z]`."""
        a, r = means_of_squares(self.side), np.sqrt(1 - s**2)
        K, left = (jnp.asarray(x, jnp.float32) for x in self.told(s))
        m, low_m = jnp.asarray(self.m, jnp.float32), jnp.asarray(r * a @ self.m, jnp.float32)

        def bound(image):
            z, level = image[:, ::2, ::2, 0].reshape(len(image), -1), image[..., -1]
            mu = m[None] + (z - low_m[None]) @ K.T
            mu = jnp.where((jnp.abs(level - s) < 1e-6).all(), mu, jnp.nan)  # it must be told the level, too

            def denoise(x_t, t):
                alpha, sigma = VP.alpha(t), VP.sigma(t)  # t is a number
                flat = x_t.reshape(len(x_t), -1) - alpha * mu
                gain = left @ jnp.linalg.inv(alpha**2 * left + sigma**2 * jnp.eye(len(m)))
                x0 = mu + alpha * (flat @ gain.T)
                eps = (x_t.reshape(len(x_t), -1) - alpha * x0) / sigma
                return Prediction(x0.reshape(x_t.shape), eps.reshape(x_t.shape))

            return denoise

        return bound


def gaussian(side, seed=0):
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((side**2, side**2)) / side
    return Gaussian(side, rng.uniform(-1, 1, side**2), root @ root.T + 0.1 * np.eye(side**2))


def check(x, mean, covariance):
    """Within 5 standard errors of so many draws."""
    x = np.asarray(x, np.float64)
    n, own = len(x), np.diag(covariance)
    np.testing.assert_array_less(np.abs(x.mean(0) - mean), 5 * np.sqrt(own / n))
    error = np.sqrt((np.outer(own, own) + covariance**2) / n)
    np.testing.assert_array_less(np.abs(np.cov(x.T) - covariance), 5 * error)


@pytest.mark.parametrize("s", [0.0, 0.3, 0.9])
def test_draws_given_a_picture_have_the_conditional_moments(s):
    """Of a fixed A x the noise of z counts to what is drawn: x ~ N(m + r K (A x - A m), C - r K A C + s^2 K K')."""
    data, low = gaussian(4), np.array([0.5, -1.0, 0.2, 0.8])
    K, left = data.told(s)
    drawn = jax.jit(partial(super_resolve, bind=data.bind(s), level=s, **HOW))(
        jax.random.key(0), jnp.broadcast_to(jnp.asarray(low, jnp.float32).reshape(1, 2, 2, 1), (N, 2, 2, 1))
    )
    assert drawn.shape == (N, 4, 4, 1)
    mean = data.m + np.sqrt(1 - s**2) * K @ (low - means_of_squares(4) @ data.m)
    flat = np.asarray(drawn).reshape(N, -1)
    check(flat, mean, left + s**2 * K @ K.T)
    if s == 0:  # then it is the picture, in fewer pixels
        np.testing.assert_allclose(flat @ means_of_squares(4).T, np.broadcast_to(low, (N, 4)), atol=0.02)


@pytest.mark.parametrize("levels", [(0.0, 0.0), (0.2, 0.4)])
def test_a_cascade_has_the_joint_covariance_of_all_its_stages(levels):
    """From 1x1 over 2x2 to 4x4: each stage's pictures have the data's moments, and covariances with the one before of
    r K V, V being its covariance."""
    large = gaussian(4, seed=1)
    middle = large.half()
    small = middle.half()
    root = float(np.sqrt(small.C[0, 0]))

    def base(keys):
        return jnp.float32(small.m[0]) + root * white_noise(keys, (len(keys), 1, 1, 1))

    stages = [
        partial(super_resolve, bind=data.bind(s), level=s, **HOW)
        for data, s in zip((middle, large), levels, strict=True)
    ]
    made = jax.jit(lambda key: cascade(key, base, stages, num=N))(jax.random.key(5))
    assert [x.shape for x in made] == [(N, 1, 1, 1), (N, 2, 2, 1), (N, 4, 4, 1)]
    (K1, _), (K2, _) = middle.told(levels[0]), large.told(levels[1])
    r1, r2 = (np.sqrt(1 - s**2) for s in levels)
    by_small = r1 * K1 @ small.C
    by_middle, by_both = r2 * K2 @ middle.C, r2 * K2 @ by_small
    joint = np.block([
        [small.C, by_small.T, by_both.T], [by_small, middle.C, by_middle.T], [by_both, by_middle, large.C],
    ])  # fmt: skip
    flat = np.concatenate([np.asarray(x).reshape(N, -1) for x in made], axis=1)
    check(flat, np.concatenate([small.m, middle.m, large.m]), joint)
    if levels == (0.0, 0.0):  # all stages are one picture
        np.testing.assert_allclose(joint[5:, 1:5], large.C @ means_of_squares(4).T, atol=1e-12)


def test_a_picture_is_its_own_whatever_the_batch():
    data = gaussian(4)
    low, keys = jax.random.normal(jax.random.key(1), (6, 2, 2, 1)), example_keys(jax.random.key(2), jnp.arange(6))
    enlarge = partial(super_resolve, bind=data.bind(0.3), level=0.3, **HOW)
    every = enlarge(jax.random.key(2), low)
    np.testing.assert_allclose(enlarge(keys[2:5], low[2:5]), every[2:5], atol=1e-5)
    assert np.abs(enlarge(keys[::-1], low) - every).max() > 0.1
    base = lambda keys: white_noise(keys, (len(keys), 2, 2, 1))
    both = cascade(jax.random.key(2), base, [enlarge], num=6)
    np.testing.assert_array_equal(both[0], base(keys))
    for whole, part in zip(both, cascade(keys[2:5], base, [enlarge], num=3)):
        np.testing.assert_allclose(part, whole[2:5], atol=1e-5)


def test_noise_of_the_augmentation_start_and_steps_are_independent():
    """With a network that passes on what it is given, the picture is z: whose noise must not be that of the start."""
    seen = []

    def bind(image):
        seen.append(image)

        def denoise(x_t, t):
            seen.append(x_t)
            return Prediction(image[..., :1], jnp.zeros_like(x_t))

        return denoise

    settings = HOW | {"sampler": samplers.DDIM(VP), "times": np.array([1.0, 0.0])}
    with jax.disable_jit():
        super_resolve(jax.random.key(0), jnp.zeros((N, 1, 1, 1)), bind=bind, level=1.0, **settings)
    z, x_1 = np.asarray(seen[0])[:, 0, 0, 0], np.asarray(seen[1]).reshape(N, -1)
    assert np.abs(z @ x_1 / N).max() < 5 / np.sqrt(N)


def test_errors():
    data = gaussian(4)
    with pytest.raises(InputError, match="levels from 0 to 1, got 2.0"):
        super_resolve(jax.random.key(0), jnp.zeros((1, 2, 2, 1)), bind=data.bind(0.0), level=2.0, **HOW)
    with pytest.raises(InputError, match="one key or 3 keys"):
        cascade(example_keys(jax.random.key(0), jnp.arange(2)), lambda keys: keys, [], num=3)
