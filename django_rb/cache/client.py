"""Clients that use a cache's keys and its stored form of values."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any, cast

from redis.client import NEVER_DECODE

from ..engine import Cluster, Promise
from ..engine.clients.aio import AioMapManager, AioRoutingClient
from ..engine.clients.managers import Mapped
from ..engine.clients.mapping import MappingClient
from ..engine.clients.routing import RoutingClient
from ..engine.protocol.commands import is_read_only, key_positions, keys_of
from ..engine.protocol.encoding import encode_key
from .beyond_django import BeyondDjango
from .computed import Computed
from .signing import BadSignature
from .values import NO_VALUES, PLACES, STRINGS, Places, positions_of

# The key for which members of lists, sets, hashes and sorted sets are signed: commands can move
# them to other keys.
_ANY_KEY = b""


_WORDS = (str, bytes, int, float)


class Wording:
    """Translates commands and replies between a client's keys and values and stored ones.

    Args:
        cache: the cache.
        ops: its operations.
        version: the version of its keys.
    """

    def __init__(self, cache: BeyondDjango, ops: Computed, version: int | None) -> None:
        self.cache = cache
        self.version = version
        self._ops = ops

    def make_key(self, key: Any) -> bytes:
        """Return a key as it is stored."""
        return self._ops.make_key(key.decode() if isinstance(key, bytes) else key, self.version)

    def encode(self, args: tuple[Any, ...]) -> tuple[tuple[Any, ...], Places, list[bytes]]:
        """Return a command as it is sent, the places of its values, and its keys.

        Raises:
            UnroutableCommand: it is not known where its keys are.
        """
        words = list(args)
        # Values may be of any type; key_positions() takes only text and numbers.
        at = key_positions([word if isinstance(word, _WORDS) else 0 for word in words])
        keys = [self.make_key(words[position]) for position in at]
        for position, made in zip(at, keys, strict=True):
            words[position] = made
        name = str(args[0]).upper()
        places = PLACES.get(name, NO_VALUES)
        of_strings = name in STRINGS
        for number, position in enumerate(positions_of(places.arguments, words)):
            key = keys[number] if of_strings else _ANY_KEY
            words[position] = self._ops.encode_plainly(words[position], key)
        return tuple(words), places, keys if of_strings else []

    def drop_copies(self, words: tuple[Any, ...]) -> None:
        """Drop the near copies of the keys of a command that may have changed them."""
        near = self._ops.near
        if near is not None and not is_read_only(words):
            near.copies.drop(map(encode_key, keys_of(words)))

    def decode(self, places: Places, keys: list[bytes], reply: Any) -> Any:
        """Return a reply with stored values decoded."""
        if places.replies == "-":
            return reply
        if places.replies == "fields":
            return [_as_text(field) for field in reply]
        if places.replies == "named":
            if not isinstance(reply, list | tuple):
                return reply
            name, *rest = reply
            reverse = self.cache.key_maker.reverser(self.version)
            return type(reply)((reverse(name), *(self._decoded(part) for part in rest)))
        if isinstance(reply, list) and keys:  # MGET
            return [self._decoded(part, key) for part, key in zip(reply, keys, strict=True)]
        return self._decoded(reply, *keys)

    def _decoded(self, reply: Any, key: bytes = _ANY_KEY) -> Any:
        match reply:
            case bytes():
                try:
                    value = self._ops.decode(reply, key)
                except BadSignature:
                    value = None
            case dict():
                value = {_as_text(field): self._decoded(part) for field, part in reply.items()}
            case list() | tuple():
                value = type(reply)(map(self._decoded, reply))
            case set():
                value = _set_of(list(map(self._decoded, reply)))
            case _:
                value = reply
        return value


class CacheClient(RoutingClient):
    """A routing client with a cache's keys and values; see `RBCache.client`."""

    def __init__(self, wording: Wording, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._wording = wording

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run one command and return its result."""
        if len(args) == 1:  # keyless, or the MGET of nothing
            return super().execute_command(*args, **options)
        sent, places, keys = self._wording.encode(args)
        if places.replies != "-":
            options[NEVER_DECODE] = True  # what comes back is no text
        try:
            reply = super().execute_command(*sent, **options)
        finally:
            self._wording.drop_copies(sent)
        return self._wording.decode(places, keys, reply)

    def scan_iter(
        self, match: Any = None, count: int | None = None, _type: str | None = None, **_: Any
    ) -> Iterator[str]:
        """Yield the cache's keys that match a pattern; see `RBCache.iter_keys`."""
        _refuse_type(_type)
        return self._wording.cache.iter_keys(match or "*", count, self._wording.version)

    def get_mapping_client(
        self, max_concurrency: int | None = 64, auto_batch: bool | None = None
    ) -> Mapped:
        """Return a client whose promises are settled by its `join()`."""
        client = CacheMappingClient(
            self._wording, self._wording.cache.cluster, max_concurrency, auto_batch
        )
        return cast(Mapped, client)


class AioCacheClient(AioRoutingClient):
    """A `CacheClient` for event loops; see `RBCache.aclient`."""

    def __init__(self, wording: Wording, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._wording = wording

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run one command and return its result."""
        if len(args) == 1:
            return await super().execute_command(*args, **options)
        sent, places, keys = self._wording.encode(args)
        if places.replies != "-":
            options[NEVER_DECODE] = True  # what comes back is no text
        try:
            reply = await super().execute_command(*sent, **options)
        finally:
            self._wording.drop_copies(sent)
        return self._wording.decode(places, keys, reply)

    def scan_iter(  # type: ignore[override]
        self, match: Any = None, count: int | None = None, _type: str | None = None, **_: Any
    ) -> AsyncIterator[str]:
        """Yield the cache's keys that match a pattern; see `RBCache.aiter_keys`."""
        _refuse_type(_type)
        return self._wording.cache.aiter_keys(match or "*", count, self._wording.version)

    def map(
        self,
        timeout: float | None = None,
        max_concurrency: int | None = 64,
        auto_batch: bool = True,
    ) -> AioMapManager[Mapped]:
        """Return an asynchronous context manager for promises; see `Cluster.amap`."""
        client = CacheMappingClient(
            self._wording, self._wording.cache.cluster, max_concurrency, auto_batch
        )
        return AioMapManager(cast(Mapped, client), timeout)


class CacheMappingClient(MappingClient):
    """A client of promises with a cache's keys and values."""

    def __init__(
        self,
        wording: Wording,
        cluster: Cluster,
        max_concurrency: int | None,
        auto_batch: bool | None,
    ) -> None:
        super().__init__(cluster, max_concurrency, auto_batch=auto_batch is not False)
        self._wording = wording
        self._sent: list[tuple[Any, ...]] = []

    def get(self, name: Any) -> Promise[Any]:  # type: ignore[override]
        """Return a promise for the value of a key; None if there is no such key."""
        return self.execute_command("GET", name)

    def join(self, timeout: float | None = None) -> None:
        """Run the pending commands; see `MappingClient.join`."""
        sent, self._sent = self._sent, []
        try:
            super().join(timeout)
        finally:
            for words in sent:
                self._wording.drop_copies(words)

    async def ajoin(self, timeout: float | None = None) -> None:
        """Do what `join` does, on the running event loop."""
        sent, self._sent = self._sent, []
        try:
            await super().ajoin(timeout)
        finally:
            for words in sent:
                self._wording.drop_copies(words)

    def execute_command(self, *args: Any, **options: Any) -> Promise[Any]:
        """Return a promise for the result of a command; nothing is sent yet."""
        if len(args) == 1:
            return super().execute_command(*args, **options)
        sent, places, keys = self._wording.encode(args)
        if places.replies != "-":
            options[NEVER_DECODE] = True  # what comes back is no text
        promise = super().execute_command(*sent, **options)
        self._sent.append(sent)
        return promise.then(partial(self._wording.decode, places, keys))


def _set_of(values: list[Any]) -> Any:
    """Return a set, or a list if some values are not hashable."""
    try:
        return set(values)
    except TypeError:
        return values


def _as_text(field: Any) -> Any:
    return field.decode(errors="surrogateescape") if isinstance(field, bytes) else field


def _refuse_type(kind: str | None) -> None:
    if kind is not None:
        raise TypeError(
            f"scan_iter(_type={kind!r}): the client of a cache finds keys only by pattern. "
            "Use cache.cluster.get_routing_client(), which works on stored keys."
        )
