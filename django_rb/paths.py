"""Dotted paths, which settings may give in place of what they name."""

from __future__ import annotations

from typing import Any

from django.utils.module_loading import import_string


def import_path(path: str) -> Any:
    """Return what a dotted path names.

    Raises:
        ImportError: nothing, or it is no such path.
    """
    if path.startswith("."):  # import_string() has other errors for it
        raise ImportError(f"{path} doesn't look like a module path")
    return import_string(path)
