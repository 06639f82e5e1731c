"""The transport of event loops: who waits is a task."""

from .transport import Transport

__all__ = ["Transport"]
