"""RBCache: Django's cache API over the nodes of a cluster."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import index
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.cache import caches
from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.core.exceptions import ImproperlyConfigured

from .redis_names import RedisNames

if TYPE_CHECKING:
    from ..engine.near.tracking import NearInfo


class RBCache(RedisNames):
    """A cache on the nodes of one cluster; calls with many keys ask all nodes in parallel.

    CACHES = {
        "default": {
            "BACKEND": "django_rb.cache.RBCache",
            "LOCATION": "default",  # an alias in settings.RB_CLUSTERS
        },
    }

    Args:
        location: the alias of the cluster; "default" if empty.
        params: the cache's settings.

    Mistakes in the settings are raised when the cache is first used, as ImproperlyConfigured
    with the setting, the value and what to do. They are not raised earlier, because
    `manage.py check` creates every cache before it can report what is wrong with one.
    """

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        """Return the value of a key, or `default`."""
        ops = self._operations
        if ops is None or ops.cluster.is_retired:
            ops = self._ops
        if ops.near is not None:
            value, batch = ops.near.get_or_begin(key, default, version)
            return value if batch is None else ops.cluster.run(batch, ops.deadline)
        return ops.cluster.run(ops.get(key, default, version, default), ops.deadline)

    def get_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        """Return ``{key: value}`` for the keys that exist: one MGET per node, in parallel."""
        return self._run(self._ops.get_many(list(keys), version))

    def set(
        self,
        key: Any,
        value: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
        *,
        nx: bool = False,
        xx: bool = False,
    ) -> Any:
        """Store a value for `timeout` seconds, None for ever.

        Args:
            nx: store it only if the key does not exist, and return whether it was stored.
            xx: likewise, only if the key exists.
        """
        if nx or xx:
            expiry = self.get_backend_timeout(timeout)
            return self._run(self._ops.add(key, value, expiry, version, _condition(nx, xx)))
        ops = self._operations
        if ops is None or ops.cluster.is_retired:
            ops = self._ops
        expiry = self.get_backend_timeout(timeout)
        ops.cluster.run(ops.set(key, value, expiry, version), ops.deadline)
        return None

    def set_many(
        self,
        data: Mapping[Any, Any],
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
    ) -> list[Any]:
        """Store ``{key: value}``: one pipeline per node, in parallel.

        Returns the keys that could not be stored.
        """
        return self._run(self._ops.set_many(data, self.get_backend_timeout(timeout), version))

    def add(
        self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> bool:
        """Store a value unless the key exists; return whether it was stored."""
        expiry = self.get_backend_timeout(timeout)
        return self._run(self._ops.add(key, value, expiry, version))

    def touch(
        self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> bool:
        """Give a key a new timeout; return whether the key exists."""
        return self._run(self._ops.touch(key, self.get_backend_timeout(timeout), version))

    def delete(self, key: Any, version: int | None = None) -> bool:
        """Delete a key; return whether it existed."""
        return self._run(self._ops.delete(key, version))

    def delete_many(self, keys: Iterable[Any], version: int | None = None) -> None:
        """Delete keys: one UNLINK per node, in parallel."""
        self._run(self._ops.delete_many(list(keys), version))

    def has_key(self, key: Any, version: int | None = None) -> bool:
        """Return whether a key exists."""
        return self._run(self._ops.has_key(key, version))

    def incr(
        self,
        key: Any,
        delta: int = 1,
        version: int | None = None,
        *,
        ignore_key_check: bool = False,
    ) -> int:
        """Add to an integer atomically on its node, without changing its expiry.

        Args:
            ignore_key_check: whether a missing key counts as 0; it is then created without an
                expiry.

        Raises:
            ValueError: the key does not exist, or its value is not a 64-bit integer (the
                latter is also redis-py's ResponseError, as in Django's RedisCache).
        """
        ops, delta = self._ops, index(delta)
        return self._run(ops.incr(key, delta, version, may_create=ignore_key_check))

    def incr_version(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """Move a value to its version plus `delta`, keeping its expiry; return the new version.

        Raises:
            ValueError: the key does not exist in that version.
        """
        version = self.version if version is None else index(version)
        return self._run(self._ops.incr_version(key, index(delta), version))

    # The negative of a number of another type may overflow.

    def decr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """Subtract from an integer; see `incr`."""
        return self.incr(key, -index(delta), version)

    def decr_version(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """Move a value to its version minus `delta`; see `incr_version`."""
        return self.incr_version(key, -index(delta), version)

    def clear(self) -> bool:  # type: ignore[override]
        """Empty the configured database of every node, including other caches' keys."""
        return self._run(self._ops.clear())

    # Near copies are in this process: these methods do no I/O.

    def near_clear(self) -> None:
        """Drop the copies of values that OPTIONS["NEAR"] keeps in this process."""
        near = self._ops.near
        if near is not None:
            near.copies.clear()

    def near_info(self) -> NearInfo | None:
        """Return the statistics of near copies in this process; None for a cache without them.

        cache.near_info().hits
        """
        near = self._ops.near
        return None if near is None else near.copies.info()

    # The same for event loops: no threads are used, and each is as atomic as its namesake.

    async def aget(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        """See `get`."""
        ops = self._ops
        if ops.near is not None:
            value, batch = ops.near.get_or_begin(key, default, version)
            return value if batch is None else await ops.arun(batch)
        return await self._arun(ops.get(key, default, version, default))

    async def aget_many(
        self, keys: Iterable[Any], version: int | None = None
    ) -> dict[Any, Any]:
        """See `get_many`."""
        return await self._arun(self._ops.get_many(list(keys), version))

    async def aset(
        self,
        key: Any,
        value: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
        *,
        nx: bool = False,
        xx: bool = False,
    ) -> Any:
        """See `set`."""
        if nx or xx:
            expiry = self.get_backend_timeout(timeout)
            condition = _condition(nx, xx)
            return await self._arun(self._ops.add(key, value, expiry, version, condition))
        return await self._arun(
            self._ops.set(key, value, self.get_backend_timeout(timeout), version)
        )

    async def aset_many(
        self,
        data: Mapping[Any, Any],
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
    ) -> list[Any]:
        """See `set_many`."""
        expiry = self.get_backend_timeout(timeout)
        return await self._arun(self._ops.set_many(data, expiry, version))

    async def aadd(
        self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> bool:
        """See `add`."""
        expiry = self.get_backend_timeout(timeout)
        return await self._arun(self._ops.add(key, value, expiry, version))

    async def atouch(
        self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> bool:
        """See `touch`."""
        expiry = self.get_backend_timeout(timeout)
        return await self._arun(self._ops.touch(key, expiry, version))

    async def adelete(self, key: Any, version: int | None = None) -> bool:
        """See `delete`."""
        return await self._arun(self._ops.delete(key, version))

    async def adelete_many(self, keys: Iterable[Any], version: int | None = None) -> None:
        """See `delete_many`."""
        await self._arun(self._ops.delete_many(list(keys), version))

    async def ahas_key(self, key: Any, version: int | None = None) -> bool:
        """See `has_key`."""
        return await self._arun(self._ops.has_key(key, version))

    async def aincr(
        self,
        key: Any,
        delta: int = 1,
        version: int | None = None,
        *,
        ignore_key_check: bool = False,
    ) -> int:
        """See `incr`."""
        ops, delta = self._ops, index(delta)
        return await self._arun(ops.incr(key, delta, version, may_create=ignore_key_check))

    async def adecr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """Subtract from an integer; see `incr`."""
        return await self.aincr(key, -index(delta), version)

    async def aincr_version(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """See `incr_version`."""
        version = self.version if version is None else index(version)
        return await self._arun(self._ops.incr_version(key, index(delta), version))

    async def adecr_version(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """Move a value to its version minus `delta`; see `incr_version`."""
        return await self.aincr_version(key, -index(delta), version)

    async def aclear(self) -> bool:  # type: ignore[override]
        """See `clear`."""
        return await self._arun(self._ops.clear())

    async def aclose(self, **kwargs: Any) -> None:
        """Do nothing, as `close` does: the connections belong to the cluster."""
        self.close(**kwargs)


def _condition(nx: bool, xx: bool) -> bytes:
    if nx and xx:
        raise ValueError("nx=True and xx=True cannot be combined. Use one of them.")
    return b"NX" if nx else b"XX"


def get_cache(alias: str = "default") -> RBCache:
    """Return a cache of settings.CACHES as an `RBCache`.

    cache = get_cache()
    cache.ttl("page:1")

    It is the same object as ``caches[alias]``, which type checkers treat as a BaseCache.

    Raises:
        ImproperlyConfigured: there is none, or it has another BACKEND.
    """
    if alias not in settings.CACHES:
        from ..engine.wording import did_you_mean  # noqa: PLC0415 (and with it redis-py)

        raise ImproperlyConfigured(
            f"There is no cache {alias!r} in settings.CACHES. "
            f"{did_you_mean(alias, list(settings.CACHES))}"
        )
    cache = caches[alias]
    if not isinstance(cache, RBCache):
        raise ImproperlyConfigured(
            f"settings.CACHES[{alias!r}] is a {type(cache).__name__}: its keys are not on the "
            "nodes of a cluster. Use a cache with the BACKEND django_rb.cache.RBCache."
        )
    return cache
