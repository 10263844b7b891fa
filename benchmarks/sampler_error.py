"""Error against network calls for every sampler, on a mixture whose denoiser is exact: docs/sampler_error.png.

    python benchmarks/sampler_error.py            # minutes on a CPU

Left: the distance of deterministic samplers' samples from the exact solution of the probability-flow ODE from the same
noise. Right: the sliced Wasserstein distance of 4,000 samples from exact samples, for stochastic samplers too, with
what it is for exact samples.
"""

import argparse
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from jaxdiff import prior, sample, samplers, schedules, testing, timesteps
from jaxdiff.samplers import SAMPLERS, draws_noise

MIXTURE = {"means": np.array([[-1.0, -0.5], [0.9, 0.1], [0.1, 1.0]]), "std": 0.25, "weights": np.array([0.3, 0.5, 0.2])}
SCHEDULE = schedules.cosine()
N = 4000
CALLS = np.array([6, 8, 10, 14, 20, 30, 50, 100])
CALLS_PER_STEP = {
    "heun": 2, "edm": 2, "dpm2": 2, "dpm2_ancestral": 2, "dpm_solver_single": 2, "dpm_solver++_single": 2,
    "dpm_solver_single_3": 3, "dpm_solver++_single_3": 3, "predictor_corrector": 2,
}  # fmt: skip


def grid(steps: int) -> np.ndarray:
    """Equal steps in log-SNR, then to the data."""
    return timesteps.log_snr_uniform(steps, schedule=SCHEDULE)


def runs(name: str) -> dict[int, tuple[object, np.ndarray]]:
    """Calls -> sampler and grid; a step to the data is one call, whatever the sampler."""
    make, per_step = SAMPLERS[name], CALLS_PER_STEP.get(name, 1)
    if name == "annealed_langevin":  # a walk at few levels, and the last denoising
        make, per_step = partial(samplers.AnnealedLangevin, steps_per_level=5), 5
    found = {}
    for calls in CALLS:
        steps = (int(calls) - 1) // per_step + 1
        if steps >= 2:
            sampler = make(SCHEDULE, steps=steps) if name == "edm" else make(SCHEDULE)
            found[(steps - 1) * per_step + 1] = (sampler, grid(steps))
    return found


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/sampler_error.png"))
    out = parser.parse_args().out
    denoise = testing.mixture_denoiser(**MIXTURE, schedule=SCHEDULE)
    x = prior(jax.random.key(0), (N, 2), schedule=SCHEDULE)
    draw = partial(testing.mixture_samples, **MIXTURE)
    exact = draw(jax.random.key(1), N)
    key, lines = jax.random.key(2), jax.random.key(3)
    program = jax.jit(lambda sampler, times: sample(key, denoise, sampler, times, x))
    distance = jax.jit(lambda made: testing.sliced_wasserstein(lines, made, exact))
    null = jax.jit(lambda k: testing.sliced_wasserstein_null(k, draw, n=N, repeats=100))(jax.random.key(4))

    with jax.enable_x64(True):  # the reference: third order, 2,000 steps, float64
        wide = testing.mixture_denoiser(**MIXTURE, schedule=SCHEDULE)
        solver = samplers.DPMSolverSinglestep(SCHEDULE, order=3)
        solution = np.asarray(
            jax.jit(lambda x: sample(key, wide, solver, grid(2000), x))(jnp.asarray(np.asarray(x), jnp.float64))
        )

    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5.6), constrained_layout=True)
    print("| sampler | calls | distance to the ODE's solution | sliced Wasserstein |\n|---|---|---|---|")
    for i, name in enumerate(n for n in SAMPLERS if n not in ("euler", "euler_ancestral", "ode")):
        calls, errors, distances = [], [], []
        for nfe, (sampler, times) in runs(name).items():
            made = program(sampler, jnp.asarray(times, jnp.float32))
            calls.append(nfe)
            errors.append(float(np.sqrt(np.mean(np.square(np.asarray(made, np.float64) - solution)))))
            distances.append(float(distance(made)))
            if nfe in (11, 10, 21, 20, 51, 50) or nfe == max(CALLS):
                error = "" if draws_noise(sampler) else f"{errors[-1]:.4f}"
                print(f"| {name} | {nfe} | {error} | {distances[-1]:.4f} |")
        style = {"color": plt.colormaps["tab20"](i % 20), "linewidth": 1.4, "markersize": 3.5, "label": name}
        if not draws_noise(sampler):
            left.loglog(calls, errors, "o-", **style)
        right.loglog(calls, distances, "s--" if draws_noise(sampler) else "o-", **style)
    right.axhspan(*np.quantile(null, [0.01, 0.99]), color="0.8", label="exact samples (1 to 99 %)")
    for axes, title in (
        (left, "RMS distance to the ODE's solution"),
        (right, "sliced Wasserstein distance to the data"),
    ):
        axes.set(title=title, xlabel="network calls per sample")
        axes.set_xticks([5, 10, 20, 50, 100], ["5", "10", "20", "50", "100"])
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize=7, ncols=2)
    figure.savefig(out, dpi=110)
    print(f"{out}; exact against exact: {float(np.mean(null)):.4f}, 99 % quantile {float(np.quantile(null, 0.99)):.4f}")


if __name__ == "__main__":
    main()
