"""How far from the exact posterior inpainting and restoring are, on data whose posterior is known.

    python benchmarks/posterior_error.py

Two kinds of data: a Gaussian field of 8x8 pixels (correlation exp(-d^2 / 2 1.5^2), standard deviation 0.6), and a
mixture of 8 pictures, waves of 8x8 pixels, each with standard deviation 0.1. Of each, the left half is known, or the
means of 2x2 squares. Printed are, in standard deviations of the posterior: the error of the mean (root mean square over
the pixels that are not known), the ratio of the standard deviations (ideal 1), and of the mixture how far the shares of
the components are from the exact ones (total variation, ideal 0).
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import DDIM, DDPM, operators, schedules, tasks, testing, timesteps

SHAPE = (8, 8, 1)
SIZE = 64
SCHEDULE = schedules.VP()


def field() -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance."""
    places = np.stack(np.meshgrid(np.arange(8), np.arange(8), indexing="ij"), -1).reshape(-1, 2)
    distance2 = ((places[:, None] - places[None]) ** 2).sum(-1)
    return np.zeros(SIZE), 0.36 * np.exp(-0.5 * distance2 / 1.5**2) + 1e-4 * np.eye(SIZE)


def pictures() -> np.ndarray:
    """The means of the mixture, `[8, 64]`."""
    rng = np.random.default_rng(0)
    y, x = np.meshgrid(np.arange(8) / 8, np.arange(8) / 8, indexing="ij")
    found = []
    for _ in range(8):
        a, b, phase = rng.integers(0, 3), rng.integers(0, 3), rng.uniform(0, 2 * np.pi)
        found.append(0.8 * np.sin(2 * np.pi * (a * x + b * y) + phase).ravel())
    return np.array(found)


def conditioned(
    mean: np.ndarray, covariance: np.ndarray, A: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of a Gaussian given `A x = y`."""
    gain = covariance @ A.T @ np.linalg.pinv(A @ covariance @ A.T, rcond=1e-9)
    return mean + gain @ (y - A @ mean), covariance - gain @ A @ covariance


def matrix(A: operators.Operator) -> np.ndarray:
    """The operator's, without rows of zeros."""
    rows = np.asarray(jax.vmap(lambda e: A(e[None])[0].ravel())(jnp.eye(SIZE).reshape(-1, *SHAPE))).T
    return rows[np.abs(rows).sum(1) > 0]


def methods(operator, known, steps):
    """Name -> (key, denoise, n) -> samples."""
    times = jnp.asarray(timesteps.log_snr_uniform(steps, schedule=SCHEDULE), jnp.float32)
    even = jnp.asarray(timesteps.uniform(steps), jnp.float32)
    y = operator(known[None])

    def restored(method, sampler, grid, **options):
        def run(key, denoise, n):
            return tasks.restore(
                key, denoise, jnp.broadcast_to(y, (n, *y.shape[1:])), operator, shape=(n, *SHAPE), sampler=sampler,
                schedule=SCHEDULE, times=grid, method=method, **options,
            )  # fmt: skip

        return run

    def painted(resamplings, jump_length=10):
        def run(key, denoise, n):
            whole = jnp.broadcast_to(known[None], (n, *SHAPE))
            return tasks.inpaint(
                key, denoise, whole, operator.mask[None], sampler=DDPM(SCHEDULE), times=times,
                jump_length=jump_length, resamplings=resamplings,
            )  # fmt: skip

        return run

    found = {
        "moments, DDPM": restored("moments", DDPM(SCHEDULE), times, iterations=20),
        "moments, DDIM": restored("moments", DDIM(SCHEDULE), times, iterations=20),
        "moments, 5 iterations": restored("moments", DDPM(SCHEDULE), times, iterations=5),
        **{f"DPS, zeta {z:g}": restored("dps", DDPM(SCHEDULE), even, zeta=z) for z in (0.3, 1.0, 3.0)},
        "null space": restored("null_space", DDPM(SCHEDULE), times),
    }
    if isinstance(operator, operators.Mask):
        found |= {"replacement": painted(1)}
        found |= {f"RePaint, j = 10, r = {r}": painted(r) for r in (2, 5, 10)}
        found |= {"RePaint, Algorithm 1, U = 10": painted(10, 1)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num", type=int, default=4000, help="samples of each method")
    parser.add_argument("--steps", type=int, default=100, help="of the grid")
    args = parser.parse_args()
    mask = np.zeros(SHAPE, np.float32)
    mask[:, :4] = 1
    masks = {"left half known": operators.Mask(jnp.asarray(mask)), "2x2 means known": operators.Downsample(2)}
    mean, covariance = field()
    means = pictures()
    weights = np.full(len(means), 1 / len(means))
    std = 0.1
    data = {
        "Gaussian field": testing.covariance_denoiser(
            mean=mean.reshape(SHAPE), covariance=covariance, schedule=SCHEDULE
        ),
        "mixture of 8": testing.mixture_denoiser(
            means=means.reshape(-1, *SHAPE), std=std, weights=weights, schedule=SCHEDULE
        ),
    }
    truth = {
        "Gaussian field": np.random.default_rng(1).multivariate_normal(mean, covariance),
        "mixture of 8": means[3] + std * np.random.default_rng(1).standard_normal(SIZE),
    }
    print(f"| data | measured | method | mean | std | components | seconds ({jax.devices()[0]}) |")
    print("|---|---|---|---|---|---|---|")
    for which, denoise in data.items():
        for what, operator in masks.items():
            known, A = jnp.asarray(truth[which].reshape(SHAPE), jnp.float32), matrix(operator)
            y = A @ truth[which]
            if which == "Gaussian field":
                exact, spread = conditioned(mean, covariance, A, y)
                p = np.ones(1)
            else:
                gram = std**2 * A @ A.T
                gap = y - means @ A.T
                log_p = -0.5 * np.einsum("ji,ik,jk->j", gap, np.linalg.inv(gram), gap)
                p = np.exp(log_p - log_p.max())
                p /= p.sum()
                each = [conditioned(m, std**2 * np.eye(SIZE), A, y) for m in means]
                centres = np.array([m for m, _ in each])
                exact = p @ centres
                spread = each[0][1] + (centres - exact).T @ (p[:, None] * (centres - exact))
            deviation = np.sqrt(np.diag(spread).clip(0))
            free = deviation > 1e-3
            for name, method in methods(operator, known, args.steps).items():
                run = jax.jit(lambda key, method=method, denoise=denoise: method(key, denoise, args.num))
                start = time.perf_counter()
                x = np.asarray(run(jax.random.key(0)), np.float64).reshape(args.num, -1)
                seconds = time.perf_counter() - start
                off = np.sqrt(np.mean(((x.mean(0) - exact) / deviation.clip(1e-9))[free] ** 2))
                ratio = np.mean(x.std(0)[free] / deviation[free])
                share = ""
                if len(p) > 1:
                    nearest = ((x[:, None] - means[None]) ** 2).sum(-1).argmin(1)
                    found = np.bincount(nearest, minlength=len(p)) / args.num
                    share = f"{0.5 * np.abs(found - p).sum():.3f}"
                print(f"| {which} | {what} | {name} | {off:.3f} | {ratio:.3f} | {share} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
