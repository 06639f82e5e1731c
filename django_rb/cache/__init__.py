"""The cache backend: CACHES["default"]["BACKEND"] = "django_rb.cache.RBCache"."""

from .backend import RBCache, get_cache
from .serializers import JSONSerializer, MessagePackSerializer, PickleSerializer

__all__ = [
    "JSONSerializer",
    "MessagePackSerializer",
    "PickleSerializer",
    "RBCache",
    "get_cache",
]
