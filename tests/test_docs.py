"""What the README and CONTRIBUTING show, runs."""

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import tiny

from jaxdiff import DDIM, prior, sample, schedules, testing, timesteps
from jaxdiff.cli import train_main
from jaxdiff.train import ema

ROOT = Path(__file__).parents[1]


def blocks(name, language):
    text = (ROOT / name).read_text()
    return [re.sub(r"(?m)^   (?=\S|   )", "", b) for b in re.findall(rf"(?ms)^ *```{language}\n(.*?)^ *```", text)]


def test_the_functions_in_your_own_code():
    """The README's first block with a linear network: it trains by gradient descent and samples, without Flax.

    For data at 2 (a point), v = alpha eps - 2 sigma, E[v^2] = 1/2 + 4/2, E[v x] = E[alpha sigma] (1 - 4) = -3/pi and
    E[x^2] = 5/2, so the best linear network has the loss 5/2 - (3/pi)^2 / (5/2) = 2.135 (cosine: alpha = cos(pi t / 2)).
    """
    names = {"net": lambda params, x, t: x @ params}
    exec(blocks("README.md", "python")[0], names)
    params = jnp.zeros((1, 1))
    x0 = jnp.full((2048, 1), 2.0)
    loss = jax.jit(jax.value_and_grad(names["loss"]))
    first, _ = loss(params, jax.random.key(1), x0)
    for i in range(40):
        _, gradient = loss(params, jax.random.key(i), x0)
        params = params - 0.1 * gradient
    last, _ = loss(params, jax.random.key(1), x0)
    np.testing.assert_allclose([first, last], [2.5, 2.135], rtol=0.05)
    np.testing.assert_allclose(params, -3 / np.pi / 2.5, rtol=0.05)
    # v = 0 is exact for unit Gaussian data: it leaves the noise as it is.
    samples = jax.jit(names["generate"], static_argnums=2)(0 * params, jax.random.key(2), (4000, 1))
    np.testing.assert_allclose([samples.mean(), samples.std()], [0, 1], atol=0.08)


@pytest.mark.usefixtures("standard_promotion")
def test_a_trained_run_is_a_function(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.py").write_text(tiny.CONFIG)
    train_main(shlex.split("--config tiny.py --run runs/digits --train.steps 2"))
    names = {"jax": jax}
    exec(blocks("README.md", "python")[1], names)
    assert names["x0"].shape == (2, 8, 8, 1)


@pytest.mark.usefixtures("standard_promotion")
def test_a_learned_grid_beats_karras():
    """docs/samplers.md: on noise that the grid was not learned from."""
    names = {}
    exec(blocks("docs/samplers.md", "python")[0], names)
    karras, uniform = (float(error) for error in names["others"])
    assert float(names["learned"]) < 0.55 * karras
    assert float(names["learned"]) < 0.75 * uniform


def test_the_sampler_of_contributing_is_ddim(tmp_path):
    """Euler in sigma/alpha is DDIM with eta = 0: another derivation of the same step."""
    (tmp_path / "euler.py").write_text(blocks("CONTRIBUTING.md", "python")[0])
    spec = importlib.util.spec_from_file_location("euler", tmp_path / "euler.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["euler"] = module
    spec.loader.exec_module(module)
    for schedule in (schedules.VP(), schedules.Flow()):  # Flow's alpha(1) is 0
        x = prior(jax.random.key(0), (4, 3), schedule=schedule)
        denoise = testing.gaussian_denoiser(mean=0.5, std=0.2, schedule=schedule)
        grid = timesteps.uniform(20)
        ours, ddim = (sample(jax.random.key(1), denoise, s, grid, x) for s in (module.Euler(schedule), DDIM(schedule)))
        np.testing.assert_allclose(ours, ddim, rtol=1e-4, atol=1e-4)


def test_a_network_in_your_own_code():
    """docs/networks.md's: a network that is as fresh as it says makes zeros of x's shape."""
    names = {}
    exec(blocks("docs/networks.md", "python")[0], names)
    assert names["y"].dtype == jnp.float32
    np.testing.assert_array_equal(names["y"], jnp.zeros_like(names["x"]))


def test_averages_in_your_own_code():
    """docs/training.md's: parameters k after update k, whose mean under the profile is the sum of k p_k."""
    names = {}
    exec(blocks("docs/training.md", "python")[0], names)
    exponent, k = ema.gamma_of(0.07) + 1, np.arange(1, 101)
    expected = np.sum(k * ((k / 100) ** exponent - ((k - 1) / 100) ** exponent))
    np.testing.assert_allclose(names["made"]["w"], expected, rtol=1e-4)


def test_commands_name_files_and_options_that_exist():
    text = "".join((ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md"))
    for page in sorted((ROOT / "docs").glob("*.md")):
        for path in re.findall(r"\]\(([\w./]+)[#)]", page.read_text()):
            assert (page.parent / path).exists(), f"{page.name}: {path}"
    for path in re.findall(r"\]\(([\w./]+)\)", text) + re.findall(r"configs/\w+\.py", text):
        assert (ROOT / path).exists(), path
    assert "pip install -e . && python train.py --config configs/digits.py" in text
    assert "pip install -e '.[test]' && pytest" in text


def test_a_frechet_distance_in_your_own_code():
    """docs/evaluation.md's: against scipy's matrix square root."""
    names = {}
    exec(blocks("docs/evaluation.md", "python")[0], names)
    a, b = (np.cov(names[x], rowvar=False) for x in ("samples", "real"))
    shift = names["samples"].mean(0) - names["real"].mean(0)
    expected = shift @ shift + np.trace(a + b - 2 * scipy.linalg.sqrtm(a @ b).real)
    np.testing.assert_allclose(names["distance"], expected, rtol=1e-8)
