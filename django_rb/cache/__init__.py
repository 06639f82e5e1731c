"""The cache backend: CACHES["default"]["BACKEND"] = "django_rb.cache.RBCache"."""

from .backend import RBCache, get_cache
from .decorators import cached
from .serializers import JSONSerializer, MessagePackSerializer, PickleSerializer

__all__ = [
    "JSONSerializer",
    "MessagePackSerializer",
    "PickleSerializer",
    "RBCache",
    "cached",
    "get_cache",
]
