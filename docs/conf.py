"""Settings of Sphinx: `make docs` builds the site from these pages."""

from __future__ import annotations

import sys
from pathlib import Path

import django
from django.conf import settings

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

from django_rb import __version__  # noqa: E402 (where the path leads)

settings.configure(INSTALLED_APPS=["django_rb"])
django.setup()

project = "django-rb"
author = "django-rb contributors"
copyright = author  # noqa: A001 (Sphinx's name)
release = version = __version__

extensions = [
    "myst_parser",
    "plain_docstrings",
    "sequence_diagrams",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
nitpicky = False
default_role = "code"
exclude_patterns = ["_build", "_ext"]

# The pages are Markdown that GitHub shows as well.
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
myst_fence_as_directive = ["mermaid"]

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 80

html_theme = "furo"
html_title = f"django-rb {release}"
html_static_path: list[str] = []
html_theme_options = {
    "source_repository": "https://github.com/django-rb/django-rb/",
    "source_branch": "main",
    "source_directory": "docs/",
}
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True

# Addresses in examples, and those that exist once a release does.
linkcheck_ignore = [
    r"http://127\.0\.0\.1",
    r"https://django-rb\.readthedocs\.io/",
    r"https://github\.com/django-rb/",
]
linkcheck_anchors = False
linkcheck_timeout = 15
linkcheck_retries = 2
