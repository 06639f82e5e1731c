"""The transport of threads: who waits is the thread that calls."""

from .pool import make_redis_pool
from .transport import Transport

__all__ = ["Transport", "make_redis_pool"]
