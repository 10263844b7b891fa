"""The house keeps its order: imports point one way, and `import jaxdiff` stays light."""

import ast
import json
import keyword
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "jaxdiff").rglob("*.py"))

CORE = [
    "typing",
    "noise",
    "schedules",
    "timesteps",
    "time_sampling",
    "process",
    "parameterization",
    "preconditioning",
    "weighting",
    "coupling",
    "condition",
    "likelihood_terms",
    "operators",
]
ABOVE = ["denoise", "losses", "samplers", "guidance", "testing", "ode", "likelihood"]
MAY_IMPORT = {
    "typing": [],
    "noise": ["typing"],
    "flops": ["typing"],
    "schedules": ["typing", "schedules"],
    "timesteps": ["typing", "schedules"],
    "time_sampling": ["typing", "schedules"],
    "process": ["typing", "noise", "schedules"],
    "parameterization": ["typing", "schedules", "process"],
    "preconditioning": ["typing", "schedules", "parameterization"],
    "weighting": ["typing", "schedules", "parameterization"],
    "coupling": ["typing"],
    "operators": ["typing", "schedules"],
    "condition": ["typing", "noise", "operators"],
    "likelihood_terms": ["typing", "schedules", "process"],
    "denoise": CORE,
    "losses": CORE,
    "guidance": [*CORE, "guidance"],
    "ode": CORE,
    "likelihood": [*CORE, "ode", "samplers"],
    "testing": CORE,
    "samplers": [*CORE, "ode", "samplers"],
    "tasks": [*CORE, *ABOVE, "tasks"],
    "models": ["typing", "noise", "models"],
    "files": [],
    "pixels": [],
    "weights": ["typing", "files"],
    "data": ["typing", "files", "data"],
    "metrics": ["typing", "metrics"],
    "train": ["typing", "noise", "train"],
    "config": ["typing", "config"],
    "build": [*CORE, *ABOVE, "tasks", "models", "data", "train", "pixels", "config", "build"],
    "sampling": [*CORE, *ABOVE, "tasks", "flops", "pixels", "config", "build"],
    "stepwise": ["typing", "noise", "samplers"],
    "on_images": ["typing", "noise", "pixels", "config", "build", "sampling"],
    "cascades": [*CORE, "tasks", "pixels", "config", "build", "sampling"],
    "pretrained": ["typing", "schedules", "denoise", "models", "config", "build", "files", "pretrained"],
    "features": ["typing", "models", "pretrained", "files", "pixels", "weights", "features"],
    "runs": ["typing", "files", "weights", "data", "train", "config", "build"],
    "remote": ["typing", "files", "train"],
    "evaluation": [
        "typing",
        "files",
        "pixels",
        "weights",
        "metrics",
        "features",
        "models",
        "pretrained",
        "data",
        "train",
        "testing",
        "evaluation",
    ],
    "serving": ["typing", "pixels"],
    "export": ["typing", "samplers", "config", "build", "sampling", "weights", "files", "serving"],
    "app": [
        "app",
        "typing",
        "noise",
        "process",
        "samplers",
        "tasks",
        "stepwise",
        "pixels",
        "config",
        "build",
        "sampling",
        "data",
    ],
    "report": ["typing", "files", "losses", "report"],
    "cli": [
        "cli",
        "typing",
        "samplers",
        "config",
        "build",
        "runs",
        "remote",
        "files",
        "pixels",
        "weights",
        "operators",
        "timesteps",
        "tasks",
        "metrics",
        "sampling",
        "on_images",
        "cascades",
        "export",
        "app",
        "evaluation",
        "metrics",
        "features",
        "report",
        "data",
        "train",
        "pretrained",
    ],
    "__init__": [*CORE, *ABOVE, "tasks"],
    "__main__": ["cli"],
}
THIRD_PARTY = {  # rooms that may import more than jax and numpy
    "coupling": {"optax"},
    "ode": {"diffrax", "equinox"},
    "samplers": {"blackjax"},
    "models": {"flax"},
    "data": {"array_record", "datasets", "grain", "PIL", "tqdm", "tensorflow_datasets"},
    "metrics": {"scipy", "sklearn"},
    "train": {"optax", "orbax"},
    "config": {"dacite"},
    "build": {"optax"},
    "evaluation": {"optax"},
    "remote": {"fsspec"},
    "weights": {"safetensors"},
    "pretrained": {"flax", "safetensors"},
    "report": {"tensorboardX", "tqdm", "matplotlib", "wandb"},
    "app": {"anyio", "fastapi", "gradio", "PIL", "pydantic", "starlette", "uvicorn"},
    "cli": {"jaxlib", "tyro", "tqdm"},
}


def room(path):
    return path.relative_to(ROOT / "jaxdiff").parts[0].removesuffix(".py")


def imports(path):
    """Full names of all that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path):
    known = {room(p) for p in FILES}
    for name in imports(path):
        first, *rest = name.split(".")
        if first == "jaxdiff":
            # `from jaxdiff import InputError` names no room: it is the package itself, which only scripts may use.
            assert rest, f"{path}: import jaxdiff"
            assert rest[0] in known, f"{path} imports {name} from the package; name the module"
            assert rest[0] in MAY_IMPORT[room(path)], f"{room(path)} may not import {rest[0]}"
        elif first not in sys.stdlib_module_names:
            assert first in {"jax", "numpy"} | THIRD_PARTY.get(room(path), set()), f"{path} imports {first}"


def test_scripts_see_only_the_command_line():
    for script in ("train.py", "sample.py"):
        assert all(name.startswith("jaxdiff.cli.") for name in imports(ROOT / script))


def test_no_jit_pmap_or_print_below_the_scripts():
    """The caller chooses how to compile; only train/, sampling, evaluation, init in build, export and serving run or
    make programs."""
    for path in FILES:
        calls = {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)}
        if room(path) not in (
            "train",
            "sampling",
            "build",
            "evaluation",
            "export",
            "serving",
            "stepwise",
            "app",
        ):
            assert not calls & {"jax.jit", "jax.pmap", "jax.lax.pmean"}, path
        if room(path) != "cli":
            assert "print" not in calls, path


def test_import_jaxdiff_loads_no_heavy_package():
    code = "import sys, json, jaxdiff; print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(json.loads(done.stdout))
    assert "jaxdiff" in loaded
    heavy = {
        "flax",
        "optax",
        "orbax",
        "tensorflow",
        "tensorflow_datasets",
        "torch",
        "grain",
        "sklearn",
        "matplotlib",
        "diffrax",
        "blackjax",
    }
    assert not loaded & heavy


def test_rooms_stay_small():
    for path in FILES:
        limit = 400 if room(path) in ("models",) else 350
        assert len(path.read_text().splitlines()) <= limit, path


def test_samplers_are_short():
    for path in (ROOT / "jaxdiff" / "samplers").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 200, path


def code_lines(path):
    """Each class and function of a file as its lines of code, names and numbers aside; no docstrings, no comments."""
    text = path.read_text()
    tree = ast.parse(text)
    skip = set()
    for node in ast.walk(tree):
        first = node.body[0] if isinstance(node, (ast.ClassDef, ast.FunctionDef)) else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            skip |= set(range(first.lineno, first.end_lineno + 1))
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            start = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            numbered = list(enumerate(text.splitlines(), 1))[start - 1 : node.end_lineno]
            lines = [line.strip() for i, line in numbered if i not in skip and line.strip() and line.strip()[0] != "#"]
            named = [
                re.sub(r"[A-Za-z_]\w*", lambda m: m[0] if keyword.iskeyword(m[0]) else "N", line) for line in lines
            ]
            yield (
                f"{path.name}:{node.name}",
                [re.sub(r"\b\d[\d.e-]*", "0", re.sub(r"\"[^\"]*\"", "S", n)) for n in named],
            )


def test_no_two_samplers_share_more_than_six_lines():
    paths = sorted((ROOT / "jaxdiff" / "samplers").glob("*.py"))
    runs = {}
    for name, lines in (pair for path in paths for pair in code_lines(path)):
        for i in range(len(lines) - 6):
            runs.setdefault(tuple(lines[i : i + 7]), set()).add(name)
    assert {run: names for run, names in runs.items() if len(names) > 1} == {}
