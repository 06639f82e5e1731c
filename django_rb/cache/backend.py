"""RBCache: Django's cache API over the nodes of a cluster.

The engine and redis-py are imported by the first use of a cache (see `RBCache._settings`): a
process that uses none is spared them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache
from django.utils.functional import cached_property  # Python 3.11's own has a lock

from .codec import MISSING
from .options import without_secrets

if TYPE_CHECKING:
    from redis.asyncio.lock import Lock as AioLock
    from redis.lock import Lock

    from ..engine import Cluster
    from ..engine.protocol.exchange import Batch
    from .keys import Keys
    from .operations import Operations
    from .settings import CacheSettings

T = TypeVar("T")

UNKNOWN = object()  # what a node that failed has for a key

PAGE_SIZE = 1000
# The server adds its clock to the milliseconds and has 64 bits for the sum.
_MAX_SECONDS = 2**62 // 1000


class RBCache(BaseCache):
    """A cache on the nodes of one cluster; multi-key calls ask every node at once.

    CACHES = {
        "default": {
            "BACKEND": "django_rb.cache.RBCache",
            "LOCATION": "default",  # an alias in settings.RB_CLUSTERS
        },
    }

    Args:
        location: the alias; "default" where it is empty.
        params: the cache's settings.

    Mistakes in the settings are raised by the first use, as an ImproperlyConfigured that
    names the setting, the value and the way out: `manage.py check` makes every cache before
    it can say what is wrong with one.
    """

    def __init__(self, location: str, params: dict[str, Any]) -> None:
        super().__init__({**params, "OPTIONS": {}})
        timeout = params.get("timeout", params.get("TIMEOUT", 300))
        if isinstance(timeout, float):  # Django cuts fractions of a second off
            self.default_timeout = timeout
        self._alias = location or "default"
        self._options = without_secrets(params.get("OPTIONS", {}))
        self._operations: Operations | None = None

    def check_settings(self) -> None:
        """Raise ImproperlyConfigured for a mistake in the settings; connect to nothing."""
        self._settings.check_location()

    @property
    def cluster(self) -> Cluster:
        """The cluster the cache lives on."""
        return self._ops.cluster

    @property
    def key_maker(self) -> Keys:
        """What makes stored keys of the cache's own, and finds and reverses them."""
        return self._settings.keys

    @cached_property
    def _settings(self) -> CacheSettings:
        from .settings import CacheSettings  # noqa: PLC0415 (and with it redis-py)

        return CacheSettings(self, self._alias, self._options)

    @property
    def _ops(self) -> Operations:
        ops = self._operations
        if ops is None or ops.cluster.is_retired:  # the settings may change in tests
            ops = self._operations = self._settings.make_operations()
        return ops

    def _run(self, operation: Batch[T]) -> T:
        return self._ops.run(operation)

    async def _arun(self, operation: Batch[T]) -> T:
        return await self._ops.arun(operation)

    def get_backend_timeout(self, timeout: Any = DEFAULT_TIMEOUT) -> int | None:
        """Return a timeout in milliseconds: None for ever, 0 for already expired."""
        if timeout is DEFAULT_TIMEOUT:
            timeout = self.default_timeout
        return None if timeout is None else milliseconds(timeout)

    # Django's cache API.

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        """Return the value of a key, or `default`."""
        ops = self._operations
        if ops is None or ops.cluster.is_retired:
            ops = self._ops
        return ops.run(ops.get(key, default, version, default))

    def get_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        """Return ``{key: value}`` for the keys that exist: one MGET per node, all at once."""
        return self._run(self._ops.get_many(_collection(keys), version))

    def set(
        self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> None:
        """Store a value for `timeout` seconds, None for ever."""
        ops = self._operations
        if ops is None or ops.cluster.is_retired:
            ops = self._ops
        ops.run(ops.set(key, value, self.get_backend_timeout(timeout), version))

    def set_many(
        self,
        data: Mapping[Any, Any],
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
    ) -> list[Any]:
        """Store ``{key: value}``: one pipeline per node, all at once.

        Returns the keys that could not be stored.
        """
        return self._run(self._ops.set_many(data, self.get_backend_timeout(timeout), version))

    def add(
        self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> bool:
        """Store a value unless the key exists; return whether it was stored."""
        expiry = self.get_backend_timeout(timeout)
        return self._run(self._ops.add(key, value, expiry, version))

    def get_or_set(
        self, key: Any, default: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> Any:
        """Return the value of a key; where there is none, store `default` or what it returns.

        A value with a bad signature is replaced, which add() does not do.
        """
        ops = self._ops
        found = ops.run(ops.get(key, MISSING, version, UNKNOWN))
        if found is not MISSING and found is not UNKNOWN:
            return found
        value = default() if callable(default) else default
        if found is UNKNOWN:  # the node failed: it is not waited for once more
            return value
        return self._run(ops.get_or_add(key, value, self.get_backend_timeout(timeout), version))

    def touch(
        self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> bool:
        """Give a key a new timeout; return whether the key exists."""
        return self._run(self._ops.touch(key, self.get_backend_timeout(timeout), version))

    def delete(self, key: Any, version: int | None = None) -> bool:
        """Delete a key; return whether it existed."""
        return self._run(self._ops.delete(key, version))

    def delete_many(self, keys: Iterable[Any], version: int | None = None) -> None:
        """Delete keys: one UNLINK per node, all at once."""
        self._run(self._ops.delete_many(_collection(keys), version))

    def has_key(self, key: Any, version: int | None = None) -> bool:
        """Return whether a key exists."""
        return self._run(self._ops.has_key(key, version))

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """Add to an integer in one step on its node; its expiry stays as it is.

        Raises:
            ValueError: the key does not exist, or is no integer of 64 bits (the latter is
                redis-py's ResponseError as well, as in Django's RedisCache).
        """
        return self._run(self._ops.incr(key, delta, version))

    def incr_version(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """Move a value to its version plus `delta`, keeping its expiry; return the new version.

        Raises:
            ValueError: the key does not exist in that version.
        """
        version = self.version if version is None else version
        return self._run(self._ops.incr_version(key, delta, version))

    def clear(self) -> bool:  # type: ignore[override]
        """Empty the configured database of every node, other caches' keys there included."""
        return self._run(self._ops.clear())

    # Beyond Django, under django-redis's names.

    def ttl(self, key: Any, version: int | None = None) -> int | None:
        """Return the seconds a key has left: None for ever, 0 where it does not exist."""
        return self._run(self._ops.time_left(b"TTL", key, version))

    def pttl(self, key: Any, version: int | None = None) -> int | None:
        """Return the milliseconds a key has left: None for ever, 0 where it does not exist."""
        return self._run(self._ops.time_left(b"PTTL", key, version))

    def expire(self, key: Any, timeout: float, version: int | None = None) -> bool:
        """Let a key expire in `timeout` seconds; return whether it exists."""
        return self._run(self._ops.expire(key, milliseconds(timeout), version))

    def pexpire(self, key: Any, timeout: int, version: int | None = None) -> bool:
        """Let a key expire in `timeout` milliseconds; return whether it exists."""
        return self._run(self._ops.expire(key, int(timeout), version))

    def expire_at(self, key: Any, when: datetime | float, version: int | None = None) -> bool:
        """Let a key expire at a time: a datetime or Unix seconds; return whether it exists."""
        return self._run(self._ops.expire_at(key, when, version))

    def persist(self, key: Any, version: int | None = None) -> bool:
        """Take a key's expiry away; return whether it had one."""
        return self._run(self._ops.persist(key, version))

    def keys(self, pattern: str = "*", version: int | None = None) -> list[str]:
        """Return the cache's keys of one version that match a glob pattern, in no order."""
        return list(dict.fromkeys(self.iter_keys(pattern, version=version)))

    def iter_keys(
        self, pattern: str = "*", itersize: int = PAGE_SIZE, version: int | None = None
    ) -> Iterator[str]:
        """Yield the keys that match a glob pattern, page by page from all nodes at once.

        A key may come twice, as with SCAN. `itersize` is how many keys a node looks at for
        one page.
        """
        ops = self._ops
        reverse = self._settings.keys.reverser(version)
        cursors = ops.first_cursors()
        while cursors:
            cursors, pages = self._run(ops.scan(cursors, pattern, version, itersize))
            for page in pages.values():
                for key in page:
                    yield reverse(key)

    def delete_pattern(
        self, pattern: str, version: int | None = None, itersize: int = PAGE_SIZE
    ) -> int:
        """Delete the keys of one version that match a glob pattern; return how many."""
        return self._run(self._ops.delete_pattern(pattern, version, itersize))

    def lock(
        self,
        key: Any,
        version: int | None = None,
        timeout: float | None = None,
        sleep: float = 0.1,
        blocking: bool = True,
        blocking_timeout: float | None = None,
        thread_local: bool = True,
    ) -> Lock:
        """Return a redis-py lock on the node that owns the name.

        with cache.lock("report", timeout=30):
            …

        Args:
            timeout: seconds after which the lock ends by itself, None for never.
            sleep: seconds between two tries to get it.
            blocking: whether to wait for it.
            blocking_timeout: seconds to wait at most, None without limit.
        """
        cluster, made = self.cluster, self._settings.keys.make(key, version)
        lock: Lock = cluster.get_local_client_for_key(made).lock(
            made.decode(),
            timeout=timeout,
            sleep=sleep,
            blocking=blocking,
            blocking_timeout=blocking_timeout,
            thread_local=thread_local,
        )
        return lock

    # The same, awaited: no thread is used, and each is as atomic as the one it is named for.

    async def aget(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        """See `get`."""
        return await self._arun(self._ops.get(key, default, version, default))

    async def aget_many(
        self, keys: Iterable[Any], version: int | None = None
    ) -> dict[Any, Any]:
        """See `get_many`."""
        return await self._arun(self._ops.get_many(_collection(keys), version))

    async def aset(
        self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> None:
        """See `set`."""
        await self._arun(self._ops.set(key, value, self.get_backend_timeout(timeout), version))

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

    async def aget_or_set(
        self, key: Any, default: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> Any:
        """See `get_or_set`."""
        ops = self._ops
        found = await ops.arun(ops.get(key, MISSING, version, UNKNOWN))
        if found is not MISSING and found is not UNKNOWN:
            return found
        value = default() if callable(default) else default
        if found is UNKNOWN:
            return value
        expiry = self.get_backend_timeout(timeout)
        return await ops.arun(ops.get_or_add(key, value, expiry, version))

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
        await self._arun(self._ops.delete_many(_collection(keys), version))

    async def ahas_key(self, key: Any, version: int | None = None) -> bool:
        """See `has_key`."""
        return await self._arun(self._ops.has_key(key, version))

    async def aincr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """See `incr`."""
        return await self._arun(self._ops.incr(key, delta, version))

    async def adecr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """Subtract from an integer; see `incr`."""
        return await self.aincr(key, -delta, version)

    async def aincr_version(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """See `incr_version`."""
        version = self.version if version is None else version
        return await self._arun(self._ops.incr_version(key, delta, version))

    async def adecr_version(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """Move a value to its version minus `delta`; see `incr_version`."""
        return await self.aincr_version(key, -delta, version)

    async def aclear(self) -> bool:  # type: ignore[override]
        """See `clear`."""
        return await self._arun(self._ops.clear())

    async def aclose(self, **kwargs: Any) -> None:
        """Do what `close` does, which is nothing: connections are the cluster's."""
        self.close(**kwargs)

    async def attl(self, key: Any, version: int | None = None) -> int | None:
        """See `ttl`."""
        return await self._arun(self._ops.time_left(b"TTL", key, version))

    async def apttl(self, key: Any, version: int | None = None) -> int | None:
        """See `pttl`."""
        return await self._arun(self._ops.time_left(b"PTTL", key, version))

    async def aexpire(self, key: Any, timeout: float, version: int | None = None) -> bool:
        """See `expire`."""
        return await self._arun(self._ops.expire(key, milliseconds(timeout), version))

    async def apexpire(self, key: Any, timeout: int, version: int | None = None) -> bool:
        """See `pexpire`."""
        return await self._arun(self._ops.expire(key, int(timeout), version))

    async def aexpire_at(
        self, key: Any, when: datetime | float, version: int | None = None
    ) -> bool:
        """See `expire_at`."""
        return await self._arun(self._ops.expire_at(key, when, version))

    async def apersist(self, key: Any, version: int | None = None) -> bool:
        """See `persist`."""
        return await self._arun(self._ops.persist(key, version))

    async def akeys(self, pattern: str = "*", version: int | None = None) -> list[str]:
        """See `keys`."""
        found = [key async for key in self.aiter_keys(pattern, version=version)]
        return list(dict.fromkeys(found))

    async def aiter_keys(
        self, pattern: str = "*", itersize: int = PAGE_SIZE, version: int | None = None
    ) -> AsyncIterator[str]:
        """See `iter_keys`."""
        ops = self._ops
        reverse = self._settings.keys.reverser(version)
        cursors = ops.first_cursors()
        while cursors:
            cursors, pages = await self._arun(ops.scan(cursors, pattern, version, itersize))
            for page in pages.values():
                for key in page:
                    yield reverse(key)

    async def adelete_pattern(
        self, pattern: str, version: int | None = None, itersize: int = PAGE_SIZE
    ) -> int:
        """See `delete_pattern`."""
        return await self._arun(self._ops.delete_pattern(pattern, version, itersize))

    def alock(
        self,
        key: Any,
        version: int | None = None,
        timeout: float | None = None,
        sleep: float = 0.1,
        blocking: bool = True,
        blocking_timeout: float | None = None,
        thread_local: bool = True,
    ) -> AioLock:
        """Return an asynchronous lock on the node that owns the name; see `lock`.

        async with cache.alock("report", timeout=30):
            …
        """
        cluster, made = self.cluster, self._settings.keys.make(key, version)
        return cluster.aio.lock(
            made.decode(),
            timeout=timeout,
            sleep=sleep,
            blocking=blocking,
            blocking_timeout=blocking_timeout,
            thread_local=thread_local,
        )


def _collection(keys: Iterable[Any]) -> Collection[Any]:
    return keys if isinstance(keys, Collection) else list(keys)


def milliseconds(timeout: float) -> int:
    """Return a timeout in seconds as whole milliseconds; 0 for what has already expired.

    Raises:
        TypeError, ValueError: it is not a number, or not one that a server can count to.
    """
    if timeout <= 0:
        return 0
    if not timeout < _MAX_SECONDS:  # nor is NaN
        raise ValueError(
            f"A timeout of {timeout!r} seconds is no time. For keys that never expire use None."
        )
    return timeout * 1000 if type(timeout) is int else max(1, round(timeout * 1000))
