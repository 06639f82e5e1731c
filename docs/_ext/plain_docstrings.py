"""Lets autodoc show the package's docstrings, which are plain text, as they are meant.

A paragraph that is Python, such as an example, becomes a block of code.
"""

from __future__ import annotations

import ast
import re
import textwrap
from typing import Any

from sphinx.application import Sphinx


def is_code(paragraph: str) -> bool:
    """Return whether a paragraph is an example and no sentence."""
    text = textwrap.dedent(paragraph).replace("…", "...")
    try:
        compile(text, "", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except SyntaxError:
        return False
    return bool(re.search(r"[(=:\[]", text))


def as_rst(lines: list[str]) -> list[str]:
    """Return a docstring's lines with examples marked as code."""
    # Examples may have empty lines: what is indented below a line belongs to it.
    paragraphs = re.split(r"\n{2,}(?! )", "\n".join(lines))
    done = []
    for paragraph in paragraphs:
        if is_code(paragraph):
            code = textwrap.dedent(paragraph).replace("…", "...")
            block = textwrap.indent(code, "    ")
            done.append(f".. code-block:: python\n\n{block}")
        else:
            done.append(paragraph)
    return [*"\n\n".join(done).split("\n"), ""]


def change(
    _app: Sphinx, _what: str, _name: str, _obj: Any, _options: Any, lines: list[str]
) -> None:
    """Rewrite a docstring in place, as autodoc wants it."""
    lines[:] = as_rst(lines)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the change, ahead of napoleon's."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", change, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
