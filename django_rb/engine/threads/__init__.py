"""The transport for threads: the calling thread waits for replies."""

from .pool import make_redis_pool
from .transport import Transport

__all__ = ["Transport", "make_redis_pool"]
