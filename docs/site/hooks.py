"""What the site has besides docs/: the reference, and pages that lie elsewhere in the repository; and links to them."""

import os
import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))
import reference

SOURCE = "https://github.com/jaxdiff/jaxdiff/blob/main/"
ELSEWHERE = (
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "benchmarks/RESULTS.md",
    "benchmarks/ledger/README.md",
    "examples/README.md",
)
PICTURES = ("benchmarks/**/*.png", "examples/**/*.png")
LINK = re.compile(r"(!?\[[^\]\n]*\]\()([^)\s#]+)((?:#[^)\s]*)?\))")

INLINE = re.compile(r"<code>[^<]*</code>")
OPTION = re.compile(r"--[\w.-]+")


def on_config(config: Any) -> Any:
    """The reference comes before the last part of the navigation."""
    pages = [
        {"Rooms": "reference/index.md"},
        {"The command line": "reference/command-line.md"},
        *({room: f"reference/{room}.md"} for room in reference.rooms()),
    ]
    config.nav.insert(-1, {"Reference": pages})
    return config


def on_files(files: Files, config: Any) -> Files:
    """The pages and pictures that are not in docs/, under the path that they have in the repository."""
    found = [*ELSEWHERE, *(str(p.relative_to(reference.ROOT)) for g in PICTURES for p in reference.ROOT.glob(g))]
    for path in found:
        files.append(File.generated(config, path, abs_src_path=str(reference.ROOT / path)))
    files.append(File.generated(config, "reference/index.md", content=reference.index()))
    files.append(File.generated(config, "reference/command-line.md", content=reference.command_line()))
    for room in reference.rooms():
        files.append(File.generated(config, f"reference/{room}.md", content=reference.page(room)))
    files.append(File.generated(config, "site.css", abs_src_path=str(Path(__file__).parent / "site.css")))
    return files


def on_page_markdown(markdown: str, page: Any, files: Files, **kwargs: Any) -> str:
    """Links as GitHub understands them, to files of the repository, become links within the site or to the source."""
    here = page.file.src_uri
    mine = here if here in ELSEWHERE else f"docs/{here}"

    def moved(match: re.Match[str]) -> str:
        path = match[2]
        if ":" in path or here.startswith("reference/"):
            return match[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(mine), path))
        there = target.removeprefix("docs/") if target.startswith("docs/") else target
        if files.get_file_from_path(there) is not None:
            path = posixpath.relpath(there, posixpath.dirname(here) or ".")
        elif os.path.exists(reference.ROOT / target):
            path = SOURCE + target
        return match[1] + path + match[3]  # what is not there is left for mkdocs to complain of

    return LINK.sub(moved, markdown)


def on_page_content(html: str, **kwargs: Any) -> str:
    """Options in a text are not broken at their dashes."""
    return INLINE.sub(lambda code: OPTION.sub(r'<span class="option">\g<0></span>', code[0]), html)
