"""redis-py's locks for clients of many nodes: a lock is on the node that owns its name."""

from __future__ import annotations

from copy import copy
from typing import Any

import redis.asyncio.lock
import redis.lock
from redis.commands.core import AsyncScript
from redis.commands.core import Script as RedisScript

from ..protocol.encoding import encode_key

# How many arguments of redis-py's `Redis.lock` come before `lock_class`.
ARGUMENTS_BEFORE_CLASS = 5


class Lock(redis.lock.Lock):
    """A lock for threads."""

    def __init__(self, redis: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(_for_primaries(redis), *args, **kwargs)

    def register_scripts(self) -> None:
        """Make the scripts of the class, if missing, without a client: it would stay alive."""
        for name, source in _sources(type(self)):
            if getattr(type(self), name, None) is None:
                setattr(type(self), name, RedisScript(None, source))  # type: ignore[arg-type]


class AioLock(redis.asyncio.lock.Lock):
    """A lock for event loops."""

    def __init__(self, redis: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(_for_primaries(redis), *args, **kwargs)

    def register_scripts(self) -> None:
        """Do what `Lock.register_scripts` does."""
        for name, source in _sources(type(self)):
            if getattr(type(self), name, None) is None:
                setattr(type(self), name, AsyncScript(None, source))  # type: ignore[arg-type]


def _for_primaries(client: Any) -> Any:
    """Return a client that asks primaries only, as replicas may lag behind."""
    client = copy(client)
    client.is_for_primaries = True
    return client


def _sources(lock: type[redis.lock.Lock | redis.asyncio.lock.Lock]) -> list[tuple[str, bytes]]:
    return [
        ("lua_release", encode_key(lock.LUA_RELEASE_SCRIPT)),
        ("lua_extend", encode_key(lock.LUA_EXTEND_SCRIPT)),
        ("lua_reacquire", encode_key(lock.LUA_REACQUIRE_SCRIPT)),
    ]
