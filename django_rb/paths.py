"""Dotted paths, which settings may contain instead of objects."""

from __future__ import annotations

from typing import Any

from django.utils.module_loading import import_string


def import_path(path: str) -> Any:
    """Return the object at a dotted path.

    Raises:
        ImportError: there is none, or the path is invalid.
    """
    if path.startswith("."):  # import_string() raises other errors for it
        raise ImportError(f"{path} doesn't look like a module path")
    return import_string(path)
