"""The transport for event loops: the calling task waits for replies."""

from .transport import Transport

__all__ = ["Transport"]
