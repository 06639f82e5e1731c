"""The methods of a cache beyond Django's API: expiry, patterns and locks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime, timedelta
from operator import index
from typing import TYPE_CHECKING, Any, cast

from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.core.exceptions import ImproperlyConfigured

from ..times import to_milliseconds, to_seconds, to_unix_milliseconds
from .base import ClusterBackend
from .keys import is_companion

if TYPE_CHECKING:
    from ..engine.rounds.scans import Cursors
    from .locks import AioLock, Lock
    from .warming.reading import Reading
    from .warming.tally import WarmShare

PAGE_SIZE = 1000


class BeyondDjango(ClusterBackend):
    """Methods and arguments under django-redis's names."""

    def ttl(self, key: Any, version: int | None = None) -> int | None:
        """Return the seconds until a key expires: None for never, 0 if it does not exist."""
        return self._run(self._ops.time_left(b"TTL", key, version))

    def pttl(self, key: Any, version: int | None = None) -> int | None:
        """Return the milliseconds until a key expires; see `ttl`."""
        return self._run(self._ops.time_left(b"PTTL", key, version))

    def expire(self, key: Any, timeout: Any, version: int | None = None) -> bool:
        """Set a key to expire in `timeout` seconds; return whether it exists. See `touch`."""
        return self._run(self._ops.touch(key, self.get_backend_timeout(timeout), version))

    def pexpire(self, key: Any, timeout: Any, version: int | None = None) -> bool:
        """Set a key to expire in `timeout` milliseconds; return whether it exists."""
        return self._run(self._ops.touch(key, self._milliseconds(timeout), version))

    def expire_at(self, key: Any, when: datetime | float, version: int | None = None) -> bool:
        """Set a key to expire at a datetime or Unix seconds; return whether it exists."""
        expiry = to_unix_milliseconds(when, "when")
        return self._run(self._ops.expire_at(key, expiry, version))

    def pexpire_at(self, key: Any, when: datetime | float, version: int | None = None) -> bool:
        """Set a key to expire at a datetime or Unix milliseconds; return whether it exists."""
        return self._run(self._ops.expire_at(key, _unix_milliseconds(when), version))

    def persist(self, key: Any, version: int | None = None) -> bool:
        """Remove a key's expiry; return whether it had one."""
        return self._run(self._ops.persist(key, version))

    def keys(self, search: str = "*", version: int | None = None) -> list[str]:
        """Return the cache's keys of one version that match a glob pattern, in no order."""
        reverse, match = self._reverser_and_match(search, version)
        found = self._run(self._ops.all_keys(match, PAGE_SIZE))
        return list(dict.fromkeys(map(reverse, found)))

    def iter_keys(
        self, search: str = "*", itersize: int | None = None, version: int | None = None
    ) -> Iterator[str]:
        """Yield the keys that match a glob pattern, page by page from all nodes in parallel.

        A key may be returned twice, as with SCAN. A DEADLINE applies to each page.

        Args:
            search: the pattern.
            itersize: how many keys a node looks at for one page; 1,000 for None or 0.
        """
        ops = self._ops
        reverse, match = self._reverser_and_match(search, version)
        cursors: Cursors | None = None
        page_size = _page_size(itersize)
        while cursors or cursors is None:
            cursors, pages = ops.run(ops.scan(cursors, match, page_size))
            for page in pages.values():
                for key in page:
                    if not is_companion(key):
                        yield reverse(key)

    def delete_pattern(
        self,
        pattern: str,
        version: int | None = None,
        prefix: str | None = None,
        itersize: int | None = None,
    ) -> int:
        """Delete the keys of one version that match a glob pattern; return how many.

        Args:
            prefix: the keys' prefix, if it is not the cache's KEY_PREFIX.
            itersize: how many keys a node looks at for one page; 1,000 for None or 0.
        """
        match = self._match(pattern, version, prefix)
        return self._run(self._ops.delete_pattern(match, _page_size(itersize)))

    def warm_share(self, minutes: int = 5) -> WarmShare:
        """Return how many keys were read recently, and how many of them came from WARM_FROM.

        cache.warm_share().share  # 0.02: one in fifty came from what WARM_FROM names

        Reads of all processes count; they report them every few seconds.

        Args:
            minutes: how many past minutes count, up to 60, in addition to the current one.

        Raises:
            ImproperlyConfigured: the cache has no WARM_FROM.
        """
        return self._run(self._tallied().warm_share(minutes))

    def lock(
        self,
        key: Any,
        version: int | None = None,
        timeout: float | timedelta | None = None,
        sleep: float | timedelta = 0.1,
        blocking: bool = True,
        blocking_timeout: float | timedelta | None = None,
        thread_local: bool = True,
    ) -> Lock:
        """Return a redis-py lock on the node that owns the name.

        with cache.lock("report", timeout=30):
            …

        If the name moves to another node, as in a Redis Cluster, the lock follows it.

        Args:
            timeout: seconds after which the lock expires, None for never.
            sleep: seconds between two attempts to acquire it.
            blocking: whether to wait for it.
            blocking_timeout: seconds to wait at most, None without limit.
        """
        from .locks import Lock  # noqa: PLC0415 (and with it redis-py)

        ops, made = self._ops, self._settings.keys.make(key, version)
        return Lock(
            ops.cluster.get_routing_client(timeout=ops.deadline),
            made.decode(),
            timeout=_seconds(timeout, "timeout"),
            sleep=to_seconds(sleep, "sleep"),
            blocking=blocking,
            blocking_timeout=_seconds(blocking_timeout, "blocking_timeout"),
            thread_local=thread_local,
        )

    # The same for event loops.

    async def attl(self, key: Any, version: int | None = None) -> int | None:
        """See `ttl`."""
        return await self._arun(self._ops.time_left(b"TTL", key, version))

    async def apttl(self, key: Any, version: int | None = None) -> int | None:
        """See `pttl`."""
        return await self._arun(self._ops.time_left(b"PTTL", key, version))

    async def aexpire(self, key: Any, timeout: Any, version: int | None = None) -> bool:
        """See `expire`."""
        expiry = self.get_backend_timeout(timeout)
        return await self._arun(self._ops.touch(key, expiry, version))

    async def apexpire(self, key: Any, timeout: Any, version: int | None = None) -> bool:
        """See `pexpire`."""
        return await self._arun(self._ops.touch(key, self._milliseconds(timeout), version))

    async def aexpire_at(
        self, key: Any, when: datetime | float, version: int | None = None
    ) -> bool:
        """See `expire_at`."""
        expiry = to_unix_milliseconds(when, "when")
        return await self._arun(self._ops.expire_at(key, expiry, version))

    async def apexpire_at(
        self, key: Any, when: datetime | float, version: int | None = None
    ) -> bool:
        """See `pexpire_at`."""
        return await self._arun(self._ops.expire_at(key, _unix_milliseconds(when), version))

    async def apersist(self, key: Any, version: int | None = None) -> bool:
        """See `persist`."""
        return await self._arun(self._ops.persist(key, version))

    async def akeys(self, search: str = "*", version: int | None = None) -> list[str]:
        """See `keys`."""
        reverse, match = self._reverser_and_match(search, version)
        found = await self._arun(self._ops.all_keys(match, PAGE_SIZE))
        return list(dict.fromkeys(map(reverse, found)))

    async def aiter_keys(
        self, search: str = "*", itersize: int | None = None, version: int | None = None
    ) -> AsyncIterator[str]:
        """See `iter_keys`."""
        ops = self._ops
        reverse, match = self._reverser_and_match(search, version)
        cursors: Cursors | None = None
        page_size = _page_size(itersize)
        while cursors or cursors is None:
            cursors, pages = await ops.arun(ops.scan(cursors, match, page_size))
            for page in pages.values():
                for key in page:
                    if not is_companion(key):
                        yield reverse(key)

    async def adelete_pattern(
        self,
        pattern: str,
        version: int | None = None,
        prefix: str | None = None,
        itersize: int | None = None,
    ) -> int:
        """See `delete_pattern`."""
        match = self._match(pattern, version, prefix)
        return await self._arun(self._ops.delete_pattern(match, _page_size(itersize)))

    async def awarm_share(self, minutes: int = 5) -> WarmShare:
        """See `warm_share`."""
        return await self._arun(self._tallied().warm_share(minutes))

    def alock(
        self,
        key: Any,
        version: int | None = None,
        timeout: float | timedelta | None = None,
        sleep: float | timedelta = 0.1,
        blocking: bool = True,
        blocking_timeout: float | timedelta | None = None,
        thread_local: bool = True,
    ) -> AioLock:
        """Return an asynchronous lock on the node that owns the name; see `lock`.

        async with cache.alock("report", timeout=30):
            …
        """
        from ..engine.clients.aio import AioRoutingClient  # noqa: PLC0415
        from .locks import AioLock  # noqa: PLC0415

        ops, made = self._ops, self._settings.keys.make(key, version)
        return AioLock(
            AioRoutingClient(ops.cluster, timeout=ops.deadline),
            made.decode(),
            timeout=_seconds(timeout, "timeout"),
            sleep=to_seconds(sleep, "sleep"),
            blocking=blocking,
            blocking_timeout=_seconds(blocking_timeout, "blocking_timeout"),
            thread_local=thread_local,
        )

    def _tallied(self) -> Reading:
        ops = self._ops
        if not self._settings.is_warming:
            raise ImproperlyConfigured(
                f"The cache on the cluster {self._alias!r} has no OPTIONS['WARM_FROM'], so it "
                "reads only from that cluster."
            )
        return cast("Reading", ops)

    def _reverser_and_match(
        self, search: str, version: int | None
    ) -> tuple[Callable[[bytes], str], bytes]:
        keys = self._settings.keys
        return keys.reverser(version), keys.pattern(_text(search, "search"), version)

    def _match(self, pattern: str, version: int | None, prefix: str | None) -> bytes:
        prefix = None if prefix is None else _text(prefix, "prefix")
        return self._settings.keys.pattern(_text(pattern, "pattern"), version, prefix)

    def _milliseconds(self, timeout: Any) -> int | None:
        """Do what `get_backend_timeout` does for a timeout in milliseconds."""
        if timeout is None or timeout is DEFAULT_TIMEOUT:
            return self.get_backend_timeout(timeout)
        return to_milliseconds(timeout, "timeout", 1)


def _seconds(timeout: Any, argument: str) -> int | float | None:
    return None if timeout is None else to_seconds(timeout, argument)


def _unix_milliseconds(when: Any) -> int:
    if isinstance(when, datetime):
        return to_unix_milliseconds(when, "when")
    return to_milliseconds(when, "when", 1)


def _text(value: Any, argument: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"The {argument} {value!r} is of type {type(value).__name__}, not str.")
    return value


def _page_size(itersize: Any) -> int:
    try:
        size = 0 if itersize is None else index(itersize)
    except TypeError:
        raise TypeError(
            f"The itersize {itersize!r} is not a number of keys. Give 1 or more, or None for "
            "1,000."
        ) from None
    if size < 0:
        raise ValueError(f"The itersize {itersize!r} is below 0.")
    return size or PAGE_SIZE
