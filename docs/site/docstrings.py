"""Our docstrings as Markdown: doctests in a block of code, papers and names of the package as links."""

import re
from typing import Any

import griffe
import reference

ARXIV = re.compile(r"\barXiv (\d{4}\.\d{4,5})")
DOCTEST = re.compile(r"(?m)^( *)>>> .*\n(?:^ *\S.*\n?)*")
CODE = re.compile(r"(?<![`\[])`(\w[\w.]*)`(?![`\]])")


class Docstrings(griffe.Extension):
    """Changes the text of every docstring before it is parsed."""

    def __init__(self) -> None:
        self.known = reference.known()

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = self.markdown(obj.docstring.value, obj)

    def markdown(self, text: str, obj: griffe.Object) -> str:
        text = DOCTEST.sub(lambda m: self.fenced(m[0], m[1]), text + "\n")
        pieces = re.split(r"(?ms)(^ *```.*?^ *```$|^    .*?$)", text)  # blocks of code stay as they are
        pieces[::2] = [self.linked(piece, obj) for piece in pieces[::2]]
        return "".join(pieces).rstrip()

    def fenced(self, block: str, indent: str) -> str:
        return f"{indent}```pycon\n{block.rstrip()}\n{indent}```\n"

    def linked(self, text: str, obj: griffe.Object) -> str:
        text = ARXIV.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", text)
        return CODE.sub(lambda m: self.link(m[1], obj) or m[0], text)

    def link(self, name: str, obj: griffe.Object) -> str | None:
        """To what a name in backticks means where it stands: of this module, of its room, or of the package."""
        if (obj.is_function and name in obj.parameters) or (obj.is_class and name in obj.members):
            return None  # its own argument, whatever else is called so
        module = obj.module.path
        for scope in (module, ".".join(module.split(".")[:2]), "jaxdiff"):
            full = self.known.get(f"{scope}.{name}")
            if full is not None and full != obj.path:
                return f"[`{name}`][{full}]"
        return None
