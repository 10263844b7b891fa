"""What the pages say holds: their Python runs, their commands parse, their links, figures and pictures are there; and the
reference has every public name, with a docstring.

Whether the site is built without a warning, `mkdocs build --strict` says, a step of .ci/run.
"""

import dataclasses
import functools
import importlib
import inspect
import json
import re
import shlex
import sys
import tomllib
import typing
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import tiny
import tyro

from jaxdiff import DDIM, build, pretrained, prior, sample, schedules, testing, timesteps
from jaxdiff.cli import main, train, train_main
from jaxdiff.cli.main import app
from jaxdiff.cli.sample import SampleCommand
from jaxdiff.config import NETWORKS, Config, load
from jaxdiff.train import ema

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs" / "site"))
import reference  # noqa: E402

TEXT = {
    str(path.relative_to(ROOT)): path.read_text()
    for pattern in ("*.md", "docs/*.md", "benchmarks/**/*.md", "examples/**/*.md")
    for path in sorted(ROOT.glob(pattern))
}
PYTHON = {
    page: [re.sub(r"(?m)^   (?=\S|   )", "", b) for b in re.findall(r"(?ms)^ *```python\n(.*?)^ *```", text)]
    for page, text in TEXT.items()
    if "```python" in text
}


def run(page, names=None):
    """The names after all blocks of a page, in order, in one namespace."""
    names = {"__name__": "page", **(names or {})}
    for i, block in enumerate(PYTHON[page]):
        exec(compile(block, f"{page}, block {i + 1}", "exec"), names)
    return names


def readme(folder):
    """A linear network trains by gradient descent and samples, without Flax; a trained run is a function.

    For data at 2 (a point), v = alpha eps - 2 sigma, E[v^2] = 1/2 + 4/2, E[v x] = E[alpha sigma] (1 - 4) = -3/pi and
    E[x^2] = 5/2, so the best linear network has the loss 5/2 - (3/pi)^2 / (5/2) = 2.135 (cosine: alpha = cos(pi t / 2)).
    """
    (folder / "tiny.py").write_text(tiny.CONFIG)
    train_main(shlex.split("--config tiny.py --run runs/digits --train.steps 2"))
    (folder / "u_net.py").write_text(tiny.U_NET)
    config, spec = load(folder / "u_net.py"), build.Spec((8, 8, 3), None)
    own = pretrained.Pretrained(config, spec, tiny.first_params(config, spec, noise=0.1))
    pretrained.save_diffusers("ddpm-cifar10-32", own)
    main(shlex.split("export --run runs/digits --steps 2 --guidance 1.5 --platforms cpu --out digits.jaxdiff"))

    names = run("README.md", {"net": lambda params, x, t: x @ params})
    assert names["x0"].shape == (2, 8, 8, 1)
    assert names["images"].shape == (16, 8, 8, 1)
    assert (folder / "exported" / "config.json").exists()
    jax.tree.map(np.testing.assert_array_equal, names["p"].params, own.params)
    params, x0 = jnp.zeros((1, 1)), jnp.full((2048, 1), 2.0)
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


def app_page(folder):
    """Of a run as the page has it; what it finds it asserts itself."""
    (folder / "tiny.py").write_text(tiny.CONFIG)
    train_main(shlex.split("--config tiny.py --run runs/digits --train.steps 2"))
    assert run("docs/app.md")["frames"][-1].shape == (4, 8, 8, 1)


def contributing(folder):
    """Euler in sigma/alpha is DDIM with eta = 0: another derivation of the same step."""
    euler = run("CONTRIBUTING.md")["Euler"]
    for schedule in (schedules.VP(), schedules.Flow()):  # Flow's alpha(1) is 0
        x = prior(jax.random.key(0), (4, 3), schedule=schedule)
        denoise = testing.gaussian_denoiser(mean=0.5, std=0.2, schedule=schedule)
        grid = timesteps.uniform(20)
        ours, ddim = (sample(jax.random.key(1), denoise, s, grid, x) for s in (euler(schedule), DDIM(schedule)))
        np.testing.assert_allclose(ours, ddim, rtol=1e-4, atol=1e-4)


def samplers(folder):
    """A learned grid beats Karras', on noise that the grid was not learned from."""
    names = run("docs/samplers.md")
    karras, uniform = (float(error) for error in names["others"])
    assert float(names["learned"]) < 0.55 * karras
    assert float(names["learned"]) < 0.75 * uniform


def networks(folder):
    """A network that is as fresh as it says makes zeros of x's shape."""
    names = run("docs/networks.md")
    assert names["y"].dtype == jnp.float32
    np.testing.assert_array_equal(names["y"], jnp.zeros_like(names["x"]))


def training(folder):
    """Parameters k after update k, whose mean under the profile is the sum of k p_k."""
    names = run("docs/training.md")
    exponent, k = ema.gamma_of(0.07) + 1, np.arange(1, 101)
    expected = np.sum(k * ((k / 100) ** exponent - ((k - 1) / 100) ** exponent))
    np.testing.assert_allclose(names["made"]["w"], expected, rtol=1e-4)


def evaluation(folder):
    """A Frechet distance against scipy's matrix square root."""
    names = run("docs/evaluation.md")
    a, b = (np.cov(names[x], rowvar=False) for x in ("samples", "real"))
    shift = names["samples"].mean(0) - names["real"].mean(0)
    expected = shift @ shift + np.trace(a + b - 2 * scipy.linalg.sqrtm(a @ b).real)
    np.testing.assert_allclose(names["distance"], expected, rtol=1e-8)


MORE = {  # what is held against theory beside what the page asserts itself
    "README.md": readme,
    "CONTRIBUTING.md": contributing,
    "docs/app.md": app_page,
    "docs/samplers.md": samplers,
    "docs/networks.md": networks,
    "docs/training.md": training,
    "docs/evaluation.md": evaluation,
}
OF_ITSELF = ("assert",)  # a page without a row in MORE says what it finds


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("page", PYTHON)
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if page in MORE:
        MORE[page](tmp_path)
    else:
        assert any(word in block for block in PYTHON[page] for word in OF_ITSELF), (
            f"{page}: shows nothing that could fail"
        )
        run(page)


def code(text):
    """The lines of a page that are code but not Python's: fenced and indented ones."""
    text = re.sub(r"(?ms)^( *)```python\n.*?^ *```$", "", text)
    fenced = re.findall(r"(?ms)^ *```\w*\n(.*?)^ *```", text)
    indented = re.findall(r"(?m)(?:^\n|\A)((?:^    .*\n|^\n)+)", re.sub(r"(?ms)^ *```.*?^ *```$", "", text))
    return "\n".join([*fenced, *indented])


@pytest.mark.parametrize("page", TEXT)
def test_no_python_is_where_it_is_not_run(page):
    assert not re.search(r"(?m)^ *(import \w+|from [\w.]+ import |>>> )", code(TEXT[page])), "use a ```python block"


COMMAND = re.compile(r"(?:python (train|sample)\.py|(?<![\w/.'\[-])jaxdiff(?= [a-z])) ([^\n\"#;&`]*)")
STAND_INS = {  # for what a reader fills in
    "[--run RUN] [--section.field VALUE ...]": "--run RUN --train.steps 1",
    " ...": " --config configs/digits.py",
    "--config FILE": "--config configs/digits.py",
    "--train.steps N": "--train.steps 1",
    "--step STEP": "--step 1",
    "$steps": "5",
    "$i": "0",
}


def commands(text):
    """(program, arguments) of each command line in the code of a page."""
    text = code(text).replace("\\\n", " ")
    for theirs, ours in STAND_INS.items():
        text = text.replace(theirs, ours)
    for found in COMMAND.finditer(text):
        yield found[1] or "jaxdiff", tuple(shlex.split(found[2]))


def of_parsing_only(commands):
    """The same command line, whose commands do nothing."""
    twin = tyro.extras.SubcommandApp()
    for name, command in commands._subcommands.items():
        if isinstance(command.target, tyro.extras.SubcommandApp):
            twin.command(of_parsing_only(command.target), name=name)
        else:
            twin.command(functools.wraps(command.target)(lambda *args, **kwargs: None), name=name)
    return twin


PROGRAMS = {
    "train": lambda args: train._parse(list(args)),
    "sample": lambda args: tyro.cli(SampleCommand, args=args),
    "jaxdiff": lambda args: of_parsing_only(app).cli(args=args),
}


@pytest.mark.parametrize("page", [page for page, text in TEXT.items() if any(commands(text))])
def test_the_commands_of_a_page_parse(page, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(train, "_pull", lambda where: None)
    given = dataclasses.make_dataclass("Given", ["config"])(Config())
    monkeypatch.setattr(train, "load_pretrained", lambda path, options: given)
    for program, args in dict.fromkeys(commands(TEXT[page])):
        try:
            PROGRAMS[program](args)
        except SystemExit:
            pytest.fail(f"{page}: {program} {shlex.join(args)}\n{capsys.readouterr()}")


def options(command, prefix="--"):
    """The options of a command, or of a dataclass of settings."""
    hints = typing.get_type_hints(command, include_extras=True)
    for name, parameter in inspect.signature(command).parameters.items():
        hint = hints.get(name, parameter.annotation)
        inner = typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint
        if dataclasses.is_dataclass(inner):
            flat = any(getattr(extra, "name", None) == "" for extra in getattr(hint, "__metadata__", ()))
            yield from options(inner, prefix if flat else f"{prefix}{name}.")
        else:
            yield (prefix + name).replace("_", "-")


def known_options():
    apps = [app]
    for one in apps:
        for command in one._subcommands.values():
            if isinstance(command.target, tyro.extras.SubcommandApp):
                apps.append(command.target)
            else:
                yield from options(command.target)
    yield from options(SampleCommand)
    yield from options(train.TrainCommand)
    for network in NETWORKS.values():
        yield from options(network, "--model.")
    for script in (ROOT / "benchmarks").rglob("*.py"):
        yield from re.findall(r"\"(--[a-z][\w-]*)\"", script.read_text())
    yield from ("--help", "--signal", "--no-deps", "--logdir")  # the last ones of srun, pip and xprof


@pytest.mark.parametrize("page", TEXT)
def test_options_that_a_page_names_exist(page):
    known = set(known_options())
    assert {"--train.steps", "--num", "--model.memories", "--mask", "--fashion", "--features"} <= known
    named = {
        option
        for span in re.findall(r"(?<!`)`([^`\n]+)`", TEXT[page])
        for option in re.findall(r"(?<!\S)--(?!xla_)[a-z][\w.-]*", span)
    }
    assert {o.rstrip(".,") for o in named} - known == set()


@pytest.mark.parametrize("page", TEXT)
def test_links_and_files_of_a_page_exist(page):
    """Anchors are mkdocs' matter."""
    text, folder = TEXT[page], (ROOT / page).parent
    for path in re.findall(r"\]\(([^)\s#:]+)(?:#[\w-]+)?\)", text):
        assert (folder / path).exists(), f"{page}: {path}"
    for path in re.findall(r"(?<![\w/])(?:configs|benchmarks|tests)/[\w/]+\.py", text):
        assert (ROOT / path).exists(), f"{page}: {path}"


def test_the_two_commands_of_the_readme_stand_there():
    assert "pip install -e . && python train.py --config configs/digits.py" in TEXT["README.md"]
    assert "pip install -e '.[test]' && pytest" in TEXT["README.md"]


def test_figures_of_the_page_of_choices_are_measured_ones():
    measured = TEXT["benchmarks/RESULTS.md"] + TEXT["benchmarks/ledger/README.md"]
    rows = "\n".join(line for line in TEXT["docs/choosing.md"].splitlines() if line.startswith("|") or "digits" in line)
    figures = re.findall(r"(?<![\d.])\d+\.\d+(?![\d.])", re.sub(r"`[^`]*`", "", rows))
    assert len(figures) > 50
    own = {"1.5", "0.9999"}  # settings
    assert {f for f in figures if not re.search(rf"(?<![\d.]){re.escape(f)}(?!\d)", measured)} - own == set()


def test_every_picture_is_in_the_gallery_with_its_command():
    text = TEXT["docs/gallery.md"]
    there = {
        p.resolve() for pattern in ("docs/**/*", "examples/**/*", "benchmarks/ledger/*") for p in ROOT.glob(pattern)
        if p.suffix in (".png", ".jpg", ".gif", ".apng", ".svg", ".webp")
    }  # fmt: skip
    shown = {}
    for section in text.split("\n## ")[1:]:
        for path in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", section):
            shown[(ROOT / "docs" / path).resolve()] = code(section)
    assert set(shown) == there
    for path, command in shown.items():
        script = re.search(r"python ((?:benchmarks|examples)/[\w/]+\.py)", command)
        assert script or any(commands(f"\n    {command.strip()}\n")), path
        if script:
            assert (ROOT / script[1]).exists(), script[1]


def public(room):
    """What a room offers, as Python sees it."""
    module = importlib.import_module(f"jaxdiff.{room}")
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
    names = getattr(module, "__all__", [name for name in own if name[0] != "_"])
    found = {name: getattr(module, name) for name in names}
    return {name: value for name, value in found.items() if not isinstance(value, typing.TypeVar)}


ROOMS = sorted(
    {p.stem for p in (ROOT / "jaxdiff").iterdir() if p.name[0] not in "_." and p.suffix in ("", ".py")} - {"cli"}
)


@pytest.mark.parametrize("room", ROOMS)
def test_the_reference_has_every_public_name_of_a_room(room):
    """A docstring for each; more than a line where a function takes more than one argument."""
    page, index = reference.page(room), reference.index()
    assert f"({room}.md)" in index
    assert inspect.getdoc(importlib.import_module(f"jaxdiff.{room}"))
    for name, value in public(room).items():
        assert f"::: {reference.home(f'jaxdiff.{room}.{name}')}\n" in page, name
        if inspect.isclass(value) or inspect.isfunction(value):
            text = (value.__doc__ or "").strip()
            assert text, f"{name}: no docstring"
            assert not text.startswith(f"{name}("), f"{name}: no docstring but the one that dataclasses write"
            if inspect.isfunction(value) and len(inspect.signature(value).parameters) > 1:
                assert "\n" in text, f"{name}: say what its arguments are, or show an example"


def test_the_reference_links_what_is_in_backticks_and_shows_examples():
    griffe = pytest.importorskip("griffe", reason="of the extra docs")
    docstrings = importlib.import_module("docstrings").Docstrings()
    package = griffe.load("jaxdiff", search_paths=[ROOT], submodules=True)
    shown = docstrings.markdown(package["losses.pseudo_huber"].docstring.value, package["losses.pseudo_huber"])
    assert "```pycon\n>>> pseudo_huber(4.0)" in shown
    assert "[arXiv 2310.14189](https://arxiv.org/abs/2310.14189)" in shown
    weight = package["losses.simple"].docstring.value
    assert "[`weighting.min_snr`][jaxdiff.weighting.min_snr]" in docstrings.markdown(weight, package["losses.simple"])


def test_the_container_is_made_of_what_there_is():
    """What the Dockerfile copies is there and not ignored, its extras are ours, and its command line parses."""
    lines = re.sub(r"\\\n", "", (ROOT / "Dockerfile").read_text()).splitlines()
    said = [line.split(" ", 1) for line in lines if line and line[0] != "#"]
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"}
    copied = [name for word, rest in said if word == "COPY" for name in rest.split()[:-1]]
    assert set(copied) == kept
    assert all((ROOT / name).exists() for name in copied)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = dict(said)["ARG"].split("=")[1].split(",")
    assert set(extras) <= set(project["optional-dependencies"])
    assert {project["readme"], *project["license-files"]} <= set(copied)
    entry, command = (json.loads(dict(said)[word]) for word in ("ENTRYPOINT", "CMD"))
    assert entry[0] in project["scripts"]
    PROGRAMS["jaxdiff"]((*entry[1:], *command))
    probe = json.loads(next(rest for word, rest in said if word == "HEALTHCHECK").partition("CMD ")[2])
    assert f":{entry[-1]}/api/health" in probe[2]
    assert dict(said)["EXPOSE"] == entry[-1]
