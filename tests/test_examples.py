"""The examples, run as a user runs them: four libraries through the same functions, and the notebooks."""

import ast
import importlib.util
import json
import re
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from processes import QUICK, finish, start

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
SCRIPTS = [EXAMPLES / f"two_moons_{name}.py" for name in ("linen", "nnx", "equinox", "jax")]
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
NOISE = 0.08
FULL_SPEED = dict.fromkeys(QUICK, "0")  # they compile little, and run for long

by_name = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)


def moons(rng, n):
    """The data from their definition, not by scikit-learn: one of two half circles, a place on it, noise."""
    angle, first = rng.uniform(0, np.pi, n), rng.random(n) < 0.5
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points = np.where(first[:, None], upper, [1.0, 0.5] - upper)
    return points - [0.5, 0.25] + NOISE * rng.standard_normal((n, 2))


def sliced_wasserstein(x, y):
    """By numpy, on 32 lines with angles evenly apart."""
    angle = np.pi * np.arange(32) / 32
    lines = np.stack([np.cos(angle), np.sin(angle)])
    x, y = (np.sort(np.asarray(points, np.float64) @ lines, axis=0) for points in (x, y))
    return float(np.sqrt(np.mean((x - y) ** 2)))


def run_all(folder, steps):
    """What examples/two_moons.py says, which runs each script as a process of its own."""
    process = start(folder, "--steps", str(steps), script="examples/two_moons.py", environment=FULL_SPEED)
    return finish(process, timeout=1500)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder where all four have left their pictures and samples, and what was said."""
    folder = tmp_path_factory.mktemp("two_moons")
    return folder, run_all(folder, 3000)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """The same after one update."""
    folder = tmp_path_factory.mktemp("untrained")
    run_all(folder, 1)
    return folder


def samples(folder, script):
    return np.load(folder / f"{script.stem}.npz")["samples"]


@pytest.mark.slow
@by_name
def test_samples_are_the_data(made, untrained, script):
    """Distances add: that of samples to data is at most what exact samples have, which 99 of 100 pairs do not exceed, and
    the distance of what the network has learned, for which a quarter of the moons' own noise is allowed."""
    folder, said = made
    rng = np.random.default_rng(0)
    x = samples(folder, script)
    assert x.shape == (4000, 2)
    null = [sliced_wasserstein(moons(rng, len(x)), moons(rng, len(x))) for _ in range(200)]
    bound = np.quantile(null, 0.99) + NOISE / 4
    found, before = (
        np.mean([sliced_wasserstein(moons(rng, len(x)), points) for _ in range(20)])
        for points in (x, samples(untrained, script))
    )
    assert found < bound < before
    assert found < before / 4

    line = re.search(rf"{script.name}: \d+ s, (distance .*)", said)[1]
    told, middle, high = map(float, re.findall(r"0\.\d+", line))
    np.testing.assert_allclose(told, found, rtol=0.3)  # other draws, and fewer lines
    np.testing.assert_allclose([middle, high], np.quantile(null, [0.5, 0.99]), rtol=0.3)


@pytest.mark.slow
@by_name
def test_each_draws_its_picture(made, script):
    """Data in blue on the left, samples in orange on the right, each over more than half of a panel's width."""
    for name, panels in ((script.stem, 2), ("two_moons", 5)):
        image = plt.imread(made[0] / f"{name}.png")[..., :3]
        blue, orange = (np.abs(image - np.array(rgb) / 255).sum(-1) < 0.2 for rgb in ((31, 119, 180), (255, 127, 14)))
        first = image.shape[1] // panels
        assert blue[:, :first].any(0).mean() > 0.5
        assert not orange[:, :first].any()
        assert orange[:, first:].any(0).mean() > 0.5
        assert not blue[:, first:].any()


@pytest.mark.slow
def test_the_same_noise_leads_to_the_same_points(made):
    """DDIM solves an ODE that the data alone decide: networks of four libraries that learned it agree from the same
    noise on, but for the few points that start near the line where it decides between the moons."""
    x = np.stack([samples(made[0], script) for script in SCRIPTS])
    apart = np.linalg.norm(x[:, None] - x[None], axis=-1)  # [4, 4, n]
    strangers = np.linalg.norm(x[0] - x[1][::-1], axis=-1)
    for i, j in zip(*np.triu_indices(4, 1)):
        assert np.median(apart[i, j]) < NOISE < 0.1 * np.median(strangers)


@by_name
def test_short(script):
    assert len(script.read_text().splitlines()) < 80


def names_of_jaxdiff(path):
    """What a script uses of the package: `DDIM`, `losses.simple`, ..."""
    tree = ast.parse(path.read_text())
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "jaxdiff"
        for alias in node.names
    }
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.alias) and node.name.startswith("jaxdiff")]
    dotted = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, (ast.Attribute, ast.Name))}
    used = {name for name in dotted if name.split(".")[0] in imported}
    return {name for name in used if not any(other.startswith(f"{name}.") for other in used)}


@by_name
def test_all_use_the_same_functions(script):
    assert names_of_jaxdiff(script) == {
        "DDIM", "denoise.denoiser", "losses.simple", "prior", "sample", "schedules.Flow", "time_sampling.uniform_time",
        "timesteps.uniform", "white_noise",
    }  # fmt: skip


@by_name
def test_each_has_a_library_of_its_own(script):
    """And none the package's networks."""
    imported = set(re.findall(r"(?m)^(?:from|import) ([\w.]+)", script.read_text()))
    assert imported <= {"functools", "jax", "jax.numpy", "optax", "two_moons", "jaxdiff", "flax", "equinox"}
    own = {"linen": {"flax"}, "nnx": {"flax"}, "equinox": {"equinox"}, "jax": set()}[script.stem.split("_")[-1]]
    assert imported & {"flax", "equinox"} == own
    if own == {"flax"}:
        assert f"from flax import {script.stem.split('_')[-1]}" in script.read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--steps", "0"], "--steps 0: expected 1 or more"),
        (["--steps", "many"], "invalid int value: 'many'"),
        (["--out", "a.jpg"], "--out a.jpg: expected a name that ends in .png"),
        (["--out", "nowhere/a.png"], "--out nowhere/a.png: expected a name that ends in .png, in a folder that there"),
    ],
)
def test_what_is_wrong_with_the_command_is_said_at_once(tmp_path, monkeypatch, capsys, arguments, said):
    spec = importlib.util.spec_from_file_location("two_moons", EXAMPLES / "two_moons.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["two_moons_jax.py", *arguments])
    with pytest.raises(SystemExit) as stopped:
        module.options("two_moons_jax.py")
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_kept_without_outputs(path):
    text = path.read_text()
    notebook = nbformat.reads(text, 4)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert text == json.dumps(json.loads(text), indent=1, ensure_ascii=False) + "\n"
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.language_info == {"name": "python"}
    for cell in notebook.cells:
        assert cell.metadata == {}
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)
    for link in re.findall(r"\]\(([\w./]+)[#)]", text):
        assert (EXAMPLES / link).exists(), link


CHECKS = {
    # The least loss is that of the exact denoiser, computed on the same examples, so that no network is below it; guided
    # samples are where the data's likelihood has them: at 0, between the measurement's error and one and a half times it.
    "diffusion_from_scratch": """
assert least < reached < 1.02 * least, (least, reached)
distances = {name: distance(path[-1]) for name, path in paths.items()}
assert max(distances.values()) < np.quantile(null, 0.99) + 0.02, distances
assert abs(answers[:, 1].mean()) < 0.02 and 0.09 < answers[:, 1].std() < 0.15
near = lambda x: np.abs(np.asarray(x)[:, 1]) < 0.3
assert near(answers).mean() > 0.95 > 2 * near(data).mean()
""",
    # The class that was asked for, by the nearest real digit; less variety with more guidance; there and back; latents that
    # are noise; a walk that starts and ends at the digits.
    "digits": """
from sklearn.neighbors import KNeighborsClassifier
judge = KNeighborsClassifier(1).fit(real.reshape(len(real), -1), classes)
many = jnp.arange(200) % 10
asked = generate(params, jax.random.key(9), many, jnp.float32(1.5)).reshape(200, -1)
assert (judge.predict(asked) == many).mean() > 0.9
assert (judge.predict(sweep[0].reshape(20, -1)) == labels).mean() < 0.5
assert list(variety) == sorted(variety, reverse=True) and variety[0] < 1.2 * real_variety
assert jnp.sqrt(jnp.mean((returned - chosen) ** 2)) < 0.02
assert abs(latents.mean()) < 0.15 and 0.8 < latents.std() < 1.2
np.testing.assert_allclose(along[jnp.array([0, -1])], returned[jnp.array([0, 6])], atol=1e-3)
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path, tmp_path, monkeypatch):
    """From the first cell to the last in a kernel, and then what they claim, in the same one."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name, value in FULL_SPEED.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(path, 4)
    pictures = sum("plt.subplots(" in cell.source or "show(" in cell.source for cell in notebook.cells[2:])
    notebook.cells.append(nbformat.v4.new_code_cell(CHECKS[path.stem]))
    NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    drawn = sum(
        any("image/png" in output.get("data", {}) for output in cell.get("outputs", ())) for cell in notebook.cells
    )
    assert drawn == pictures
