"""Redis's own commands on a cache's keys, by `client()` and under django-redis's names."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .get_or_set import GetOrSet

if TYPE_CHECKING:
    from .client import AioCacheClient, CacheClient


def _command(name: str) -> Callable[..., Any]:
    """Return a method that runs a command of the cache's client."""

    def run(self: RedisNames, *args: Any, version: int | None = None, **options: Any) -> Any:
        return getattr(self.client(version), name)(*args, **options)

    run.__name__ = name
    run.__doc__ = f"Run {name.upper()} on the cache's keys and values; see `client`."
    return run


def _acommand(name: str) -> Callable[..., Any]:
    """Return a method that awaits a command of the cache's client for event loops."""

    async def run(
        self: RedisNames, *args: Any, version: int | None = None, **options: Any
    ) -> Any:
        return await getattr(self.aclient(version), name)(*args, **options)

    run.__name__ = f"a{name}"
    run.__doc__ = f"Run {name.upper()} on the cache's keys and values; see `aclient`."
    return run


class RedisNames(GetOrSet):
    """`client()`, and the commands that django-redis's caches have as methods."""

    def client(self, version: int | None = None) -> CacheClient:
        """Return a client with all of Redis's commands, on the cache's keys and values.

        client = cache.client()
        client.sadd("tags", "new", ("also", "a", "tuple"))
        client.zadd("scores", {"ann": 3})
        with client.map() as promised:
            tags, ann = promised.smembers("tags"), promised.zscore("scores", "ann")

        Keys have the cache's prefix and version. Values of strings, hashes, lists, sets and
        sorted sets are what the cache stores; fields of hashes are text. Keys expire only if
        you set an expiry.

        Args:
            version: of the keys; the cache's own if it is not given.
        """
        from .client import CacheClient, Wording  # noqa: PLC0415 (and with it redis-py)

        return CacheClient(Wording(self, self._ops, version), self.cluster)

    def aclient(self, version: int | None = None) -> AioCacheClient:
        """Return what `client` does, with commands that are awaited."""
        from .client import AioCacheClient, Wording  # noqa: PLC0415

        return AioCacheClient(Wording(self, self._ops, version), self.cluster)

    sadd = _command("sadd")
    scard = _command("scard")
    sdiff = _command("sdiff")
    sdiffstore = _command("sdiffstore")
    sinter = _command("sinter")
    sinterstore = _command("sinterstore")
    sismember = _command("sismember")
    smembers = _command("smembers")
    smismember = _command("smismember")
    smove = _command("smove")
    spop = _command("spop")
    srandmember = _command("srandmember")
    srem = _command("srem")
    sscan = _command("sscan")
    sscan_iter = _command("sscan_iter")
    sunion = _command("sunion")
    sunionstore = _command("sunionstore")
    hset = _command("hset")
    hdel = _command("hdel")
    hlen = _command("hlen")
    hkeys = _command("hkeys")
    hexists = _command("hexists")

    asadd = _acommand("sadd")
    ascard = _acommand("scard")
    asdiff = _acommand("sdiff")
    asdiffstore = _acommand("sdiffstore")
    asinter = _acommand("sinter")
    asinterstore = _acommand("sinterstore")
    asismember = _acommand("sismember")
    asmembers = _acommand("smembers")
    asmismember = _acommand("smismember")
    asmove = _acommand("smove")
    aspop = _acommand("spop")
    asrandmember = _acommand("srandmember")
    asrem = _acommand("srem")
    asscan = _acommand("sscan")
    asunion = _acommand("sunion")
    asunionstore = _acommand("sunionstore")
    ahset = _acommand("hset")
    ahdel = _acommand("hdel")
    ahlen = _acommand("hlen")
    ahkeys = _acommand("hkeys")
    ahexists = _acommand("hexists")
