"""Django's test classes, with RBCache as their cache.

Imported only once the settings are there and Django's tests can be imported.
"""

from __future__ import annotations

import atexit
import time
import unittest
from importlib import import_module
from typing import Any
from unittest import mock

from django.test import override_settings

from tests.cache.awaited import Awaited, Loops

BACKEND = "django_rb.cache.RBCache"
LOCMEM = "django.core.cache.backends.locmem.LocMemCache"
ALIASES = ("default", "other")  # of clusters; "other" is another database of the same nodes

_INTERNALS = "asks about the inside of Django's RedisCache: "
_CULLING = (
    "culling by MAX_ENTRIES: the server evicts by its maxmemory-policy. "
    "Django leaves it out for its RedisCache as well"
)

# Tests that are not run, each with the reason. What RedisCacheTests adds in a later
# Django runs until it is listed here.
LEFT_OUT = {
    "test_cull": _CULLING,
    "test_zero_cull": _CULLING,
    "test_cull_delete_when_store_empty": _CULLING,
    "test_cache_client_class": f"{_INTERNALS}its class RedisCacheClient",
    "test_client_driver_info": f"{_INTERNALS}the name it gives itself with CLIENT SETINFO",
    "test_get_backend_timeout_method": (
        f"{_INTERNALS}an undocumented method, in seconds there; RBCache's keeps fractions "
        "of a second and is in milliseconds"
    ),
    "test_get_client": f"{_INTERNALS}RedisCacheClient.get_client()",
    "test_get_connection_pool": f"{_INTERNALS}its connection pools",
    "test_get_connection_pool_index": f"{_INTERNALS}which replica it reads from",
    "test_incr_write_connection": f"{_INTERNALS}which replica it writes to",
    "test_redis_pool_options": f"{_INTERNALS}its OPTIONS go to redis-py's pool",
    "test_serializer_dumps": f"{_INTERNALS}its serializer object",
}

_SYNC_DATABASE = (
    "pickles a QuerySet that asks the database, which Django forbids while a loop runs"
)

_AWAITED_ALREADY = "is about the asynchronous methods, which RBCacheTests runs as they are"

# Besides, of the tests that are run awaited.
LEFT_OUT_AWAITED = {
    **{
        f"test_{name}_async_uses_specialized_implementation": _AWAITED_ALREADY
        for name in (
            "close",
            "decr",
            "decr_version",
            "delete_many",
            "get_many",
            "get_or_set",
            "has_key",
            "incr",
            "incr_version",
            "set_many",
        )
    },
    "test_cache_read_for_model_instance_with_deferred": _SYNC_DATABASE,
    "test_cache_write_for_model_instance_with_deferred": _SYNC_DATABASE,
}

# Classes that use the cache through another part of Django, by module.
USERS_OF_THE_CACHE = {
    "cache.tests": (
        "CacheHEADTest",
        "CacheI18nTest",
        "CacheMiddlewareTest",
        "CacheUtils",
        "PrefixedCacheI18nTest",
        "PrefixedCacheUtils",
        "TestWithTemplateResponse",
    ),
    "sessions_tests.tests": (
        "CacheDBSessionTests",
        "CacheDBSessionWithTimeZoneTests",
        "CacheSessionTests",
    ),
    "template_tests.syntax_tests.test_cache": ("CacheTagTests", "CacheTests"),
}

# This one waits for exactly the timeout. A server's clock for expiry ticks in whole
# milliseconds, so that a key can be there for one more; a plain RedisCache's as well.
WAITS_TO_THE_POINT = "test_cache_page_timeout"
A_TICK = 0.01

_sleep = time.sleep


class AwaitedCache(Awaited):
    """RBCache's asynchronous methods behind the names that Django's tests call."""

    loops = Loops()


atexit.register(AwaitedCache.loops.close)


def contracts() -> list[type[unittest.TestCase]]:
    """Return RedisCacheTests, and with it BaseCacheTests, over RBCache: called and awaited.

    Django's own tests of asynchronous methods are about its DummyCache alone.
    """
    return [
        _contract("RBCacheTests", BACKEND, LEFT_OUT),
        _contract(
            "AwaitedRBCacheTests", f"{__name__}.AwaitedCache", LEFT_OUT | LEFT_OUT_AWAITED
        ),
    ]


def _contract(name: str, backend: str, left_out: dict[str, str]) -> type[unittest.TestCase]:
    django = import_module("cache.tests")
    caches = django.caches_setting_for_tests(
        base={"BACKEND": backend, "LOCATION": "default"},
        exclude=django.redis_excluded_caches,
    )
    attributes: dict[str, Any] = {
        # Django skips it where settings.CACHES has no RedisCache.
        "__unittest_skip__": False,
        "__unittest_skip_why__": "",
    }
    for test, reason in left_out.items():
        if hasattr(django.RedisCacheTests, test):
            attributes[test] = unittest.skip(reason)(getattr(django.RedisCacheTests, test))
    return _derived(django.RedisCacheTests, name, caches, attributes)


def users_of_the_cache() -> list[type[unittest.TestCase]]:
    """Return the classes of USERS_OF_THE_CACHE over RBCache."""
    return [
        _derived(cls, f"{name}OverRBCache", _over_rbcache(cls), _less_to_the_point(cls))
        for module, names in USERS_OF_THE_CACHE.items()
        for name in names
        for cls in [getattr(import_module(module), name)]
    ]


def _over_rbcache(cls: Any) -> dict[str, dict[str, Any]]:
    """Return a class's setting CACHES with RBCache in place of each LocMemCache."""
    own = getattr(cls, "_overridden_settings", None) or {}
    caches: dict[str, dict[str, Any]] = own.get("CACHES", {"default": {"BACKEND": LOCMEM}})
    assert all(params["BACKEND"] == LOCMEM for params in caches.values()), cls
    return {
        alias: {**params, "BACKEND": BACKEND, "LOCATION": ALIASES[number]}
        for number, (alias, params) in enumerate(caches.items())
    }


def _less_to_the_point(cls: Any) -> dict[str, Any]:
    """Return WAITS_TO_THE_POINT, if the class has it, with a tick more in its sleep()."""
    test = getattr(cls, WAITS_TO_THE_POINT, None)
    if test is None:
        return {}
    longer = mock.patch("time.sleep", lambda seconds: _sleep(seconds + A_TICK))
    return {WAITS_TO_THE_POINT: longer(test)}


def _derived(
    base: Any,
    name: str,
    caches: dict[str, dict[str, Any]],
    attributes: dict[str, Any],
) -> type[unittest.TestCase]:
    made = type(name, (base,), {"__module__": __name__, **attributes})
    cls: type[unittest.TestCase] = override_settings(CACHES=caches)(made)
    return cls
