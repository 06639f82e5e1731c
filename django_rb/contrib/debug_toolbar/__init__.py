"""A panel for django-debug-toolbar: `RBPanel`."""

from .panel import RBPanel

__all__ = ["RBPanel"]
