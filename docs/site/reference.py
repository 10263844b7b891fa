"""What the reference lists, read from the package's files without importing them: a page for each room; and the help of
the command lines, which are asked for it."""

import ast
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "jaxdiff"
DOCSTRING = (
    "{members: [], show_root_heading: false, show_root_toc_entry: false, show_source: false}"  # alone, of a file
)


def rooms() -> dict[str, Path]:
    """Name -> file, of all that is imported; the command lines are a page of their own, made of their --help."""
    found = {path.stem if path.is_file() else path.name: path for path in sorted(PACKAGE.iterdir())}
    files = {name: path / "__init__.py" if path.is_dir() else path for name, path in found.items()}
    return {
        name: path for name, path in files.items() if path.suffix == ".py" and path.exists() and name[0] != "_"
        and name != "cli"
    }  # fmt: skip


def exported(path: Path) -> list[str]:
    """`__all__`, or where there is none the names of the file that do not begin with _ and are described."""
    body = ast.parse(path.read_text()).body
    for node in body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return list(_described(body))


def _described(body: list[ast.stmt]) -> Iterator[str]:
    for node, following in itertools.zip_longest(body, body[1:]):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names = [node.name]
        elif isinstance(node, (ast.Assign, ast.AnnAssign)) and _is_text(following):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [ast.unparse(target) for target in targets]
        else:
            continue
        yield from (name for name in names if name[0] != "_")


def _is_text(node: ast.stmt | None) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def parts(room: str) -> dict[str, list[str]]:
    """Module -> its names on the page of a room: the room's own first, then what else its files have.

    A file of which the room exports all has no part of its own.
    """
    path = rooms()[room]
    own = [name for name in exported(path) if not _is_file(f"jaxdiff.{room}.{name}")]
    found = {f"jaxdiff.{room}": own}
    for file in sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else []:
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        names = [name for name in exported(file) if name not in found[f"jaxdiff.{room}"]]
        if file.name != "__init__.py" and names:
            found[module] = names
    return found


def _file(name: str) -> Path:
    return ROOT / Path(*name.split(".")).with_suffix(".py")


def _is_file(name: str) -> bool:
    """Whether a name of a room is one of its files, as `tasks.anomaly`, and not what such a file has of that name."""
    return _file(name).exists() and name.rpartition(".")[2] not in exported(_file(name))


def home(name: str) -> str:
    """Where a name is found that a file of its room has too, as `tasks.inpaint`: in that file."""
    return f"{name}.{name.rpartition('.')[2]}" if _file(name).exists() and not _is_file(name) else name


def known() -> dict[str, str]:
    """Every name that may be written -> the one that it has in the reference."""
    listed = [f"{module}.{name}" for room in rooms() for module, names in parts(room).items() for name in names]
    found = {name: home(name) for name in listed}
    for name in exported(PACKAGE / "__init__.py"):
        homes = [full for full in listed if full.endswith(f".{name}") and full.count(".") == 2]
        found |= {f"jaxdiff.{name}": home(homes[0])} if homes else {}
    return found


def summary(path: Path) -> str:
    """The first paragraph of a file's docstring, as one line."""
    return " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0].split())


def page(room: str) -> str:
    """The Markdown of a room's page."""
    text = []
    for module, names in parts(room).items():
        text.append(f"{'##' if text else '#'} {module.removeprefix('jaxdiff.')}")
        text.append(f"::: {module}\n    options: {DOCSTRING}")
        text += [f"::: {home(f'{module}.{name}')}" for name in names]
    return "\n\n".join(text) + "\n"


def index() -> str:
    """The Markdown of the reference's first page."""
    top, there = [name for name in exported(PACKAGE / "__init__.py") if name not in rooms()], known()
    rows = [f"| [{name}]({name}.md) | {summary(path).rstrip(':')} |" for name, path in rooms().items()]
    here = [f"[`jaxdiff.{name}`][{there[f'jaxdiff.{name}']}]" for name in top]
    return (
        "# Reference\n\nMade of the docstrings: formula, shapes, units, what is raised, an example that runs, and the "
        f"paper.\n\nAt the top of the package: {', '.join(here)}.\n\n| room | |\n|---|---|\n" + "\n".join(rows) + "\n"
    )


COMMANDS = """
from jaxdiff.cli import main, sample_main, train_main
from jaxdiff.cli.main import app

names = []
for name, command in app._subcommands.items():
    inner = getattr(command.target, "_subcommands", None)
    names += [[name]] if inner is None else [[name, one] for one in inner]
programs = [("sample.py", sample_main, ["--help"])]
programs += [("train.py", train_main, ["--config", "configs/digits.py", "--help"])]
programs += [(f"jaxdiff {' '.join(name)}", main, [*name, "--help"]) for name in names]
for name, program, arguments in programs:
    print(f"\\f{name}", flush=True)
    try:
        program(arguments)
    except SystemExit:
        pass
"""


def command_line() -> str:
    """The Markdown of the page of all commands and options: what each says to --help."""
    environment = os.environ | {"COLUMNS": "86", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    helps = [part.partition("\n")[::2] for part in re.sub(r"\x1b\[[\d;]*m", "", done.stdout).split("\f")[1:]]
    text = "# The command line\n\nWhat `--help` says; that of `train.py` shows the values of configs/digits.py.\n"
    return text + "".join(f"\n## {name}\n\n``` {{ .text .help }}\n{help.strip()}\n```\n" for name, help in helps)
