"""Keys as text, as JSON, and as a cache stores them."""

from __future__ import annotations

import argparse
import warnings
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from django.conf import settings
from django.core.cache.backends.base import CacheKeyWarning, InvalidCacheKey
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError, CommandParser

from ..cache import RBCache, get_cache
from ..cache.keys import is_closed
from ..engine import Cluster
from ..engine.wording import escaped
from .base import NodesCommand, as_aliases

# The setting for the default of --cache.
IMPLIED_CACHE = "RB_COMMANDS_CACHE"


def readable(data: bytes) -> str:
    r"""Return bytes as one line of printable text, the rest escaped: ``page:\x00\xff``.

    UTF-8 is kept, a backslash is doubled. It contains nothing that moves a terminal's cursor.
    """
    return escaped(data.decode(errors="surrogateescape").replace("\\", r"\\"))


def for_json(data: bytes) -> str | dict[str, str]:
    """Return bytes for JSON: text, or ``{"base64": …}`` if they are not UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": b64encode(data).decode()}


def from_argument(text: str) -> bytes:
    """Return the bytes that were typed as an argument of the command line."""
    return text.encode(errors="surrogateescape")


def number(text: str) -> int:
    """Return the value of an option that is a whole number, 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 1 or more.")
    return int(text)


def ttl_of(milliseconds: int) -> float | None:
    """Return PTTL's reply in seconds, None for ever."""
    return None if milliseconds == -1 else milliseconds / 1000


@dataclass(frozen=True)
class Keyspace:
    """The keys that a command is for: all keys of clusters, or those of one cache.

    Attributes:
        clusters: by alias.
        cache: None if stored keys are meant.
        cache_alias: the alias of the cache.
    """

    clusters: Mapping[str, Cluster]
    cache: RBCache | None = None
    cache_alias: str | None = None

    def stored(self, keys: Sequence[bytes]) -> list[bytes]:
        """Return the stored keys."""
        if self.cache is None:
            return list(keys)
        texts = list(map(_text, keys))
        try:
            with warnings.catch_warnings():
                # Keys that memcached would not accept can be looked up.
                warnings.simplefilter("ignore", CacheKeyWarning)
                return self.cache.key_maker.make_many(texts, None)
        except InvalidCacheKey as error:
            raise CommandError(str(error)) from error

    def pattern(self, pattern: str) -> bytes:
        """Return the glob pattern of stored keys.

        Raises:
            CommandError: it matches nothing, or not what it seems to match.
        """
        typed = from_argument(pattern)
        if not pattern:
            raise CommandError("An empty pattern matches no key. Use '*' for all keys.")
        if not is_closed(pattern):
            raise CommandError(
                f"The pattern '{readable(typed)}' ends in a backslash, or contains a '[' "
                "without a ']'. Escape a special character with a backslash: \\["
            )
        if self.cache is None:
            return typed
        try:
            return self.cache.key_maker.pattern(_text(typed), None)
        except ValueError as error:
            raise CommandError(str(error)) from error

    def own(self, stored: bytes) -> str | None:
        """Return a cache's own key for a stored one, None if it is unknown."""
        return None if self._reverse is None else self._reverse(stored)

    @cached_property
    def _reverse(self) -> Callable[[bytes], str] | None:
        if self.cache is None:
            return None
        try:
            return self.cache.key_maker.reverser(None)
        except ImproperlyConfigured:  # a KEY_FUNCTION that cannot be reversed
            return None

    def readable(self, stored: bytes) -> str:
        """Return a key as text; the cache's own key if it is known."""
        own = self.own(stored)
        return readable(stored if own is None else from_argument(own))

    def described(self, stored: bytes) -> dict[str, Any]:
        """Return a key for JSON."""
        described: dict[str, Any] = {"key": for_json(stored)}
        if self.cache is not None:
            own = self.own(stored)
            described["cache_key"] = None if own is None else for_json(from_argument(own))
        return described


def _text(key: bytes) -> str:
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise CommandError(
            f"{readable(key)} is not valid UTF-8, and keys of a cache are text. Leave --cache "
            "out: stored keys may be any bytes."
        ) from None


class KeysCommand(NodesCommand):
    """A command for keys: those of clusters, or with --cache those of a cache."""

    def add_cache_argument(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--cache",
            metavar="ALIAS",
            help="Treat keys as those of this cache in settings.CACHES: its prefix and version "
            f"are added, and its cluster is used. Default: settings.{IMPLIED_CACHE}, if it is "
            "set. Use '' for keys as the servers store them.",
        )

    def check_owners_known(self, keyspace: Keyspace) -> None:
        """Raise CommandError if it is unknown which node owns a key."""
        for alias, cluster in keyspace.clusters.items():
            if cluster.layout is not None and not cluster.layout.is_known:
                raise CommandError(
                    f"No node of the Redis Cluster {alias!r} answers, so the owner of a key "
                    "is unknown."
                )

    def get_keyspace(self, aliases: Any, cache_alias: str | None) -> Keyspace:
        """Return the keys that --cluster and --cache, or else RB_COMMANDS_CACHE, select."""
        if cache_alias is None:
            cache_alias = getattr(settings, IMPLIED_CACHE, None)
            if cache_alias and aliases and home_of(cache_alias) not in as_aliases(aliases):
                cache_alias = None
        if not cache_alias:
            return Keyspace(self.get_clusters(aliases))
        cache = get_cache(cache_alias)
        cache.check_settings()
        home = home_of(cache_alias)
        if aliases and home not in self.get_clusters(aliases):
            raise CommandError(
                f"The cache {cache_alias!r} is on the cluster {home!r}. Leave --cluster out, "
                "or use that cluster."
            )
        self.learn(cache.cluster)
        return Keyspace({home: cache.cluster}, cache, cache_alias)


def home_of(cache_alias: str) -> str:
    """Return the alias of the cluster that a cache of settings.CACHES is on."""
    return settings.CACHES.get(cache_alias, {}).get("LOCATION") or "default"
