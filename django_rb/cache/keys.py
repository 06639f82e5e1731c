"""Cache keys: making and checking them in batches, and finding them by pattern."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any

from django.core.cache.backends.base import BaseCache, default_key_func
from django.core.exceptions import ImproperlyConfigured

# The characters that memcached does not allow in keys, and that Django warns about.
_NOT_PORTABLE = bytes(range(0x21)) + b"\x7f"
_MAX_LENGTH = 250
_GLOB = re.compile(r"([*?\[\]\\])")
# A pattern to which text can be appended that does not become part of a bracket or an escape.
# Servers parse the "]" in "[a-]" as the end of a range: it does not close the bracket.
_CLOSED_GLOB = re.compile(r"(?:[^\\\[]|\\.|\[\^?+(?:\\.|[^\\\]]-.|[^\\\]])*+\])*+", re.DOTALL)
_LONG_WORD = re.compile(r"([0-9A-Za-z_-]{6})[0-9A-Za-z_-]{18,}")
_MAX_LOGGED = 200
# Parts of the keys of leases, seals and tallies, which are stored beside a site's own keys; see
# `leases` and `warming`. Django warns about a site's keys that contain this character.
LEASE, SEAL, TALLY = b"\x1flease", b"\x1fseal", b"\x1ftally"
_STAND_IN = "4294967291"  # to find where a key is in a stored key; most functions keep digits


class Keys:
    """Makes and validates the keys of one cache, as its make_key() and validate_key() do.

    Prefix and version are joined once per batch, and a batch is checked as a whole. Keys are
    handled one by one only if a check fails, or if a subclass overrides these methods.
    """

    def __init__(self, cache: BaseCache, reverse: Callable[[str], str] | None = None) -> None:
        self._cache = cache
        self._reverse = reverse
        kind = type(cache)
        self._has_own_make = kind.make_key is not BaseCache.make_key
        self._has_own_validate = kind.validate_key is not BaseCache.validate_key
        if kind.make_and_validate_key is not BaseCache.make_and_validate_key:
            self._has_own_make = self._has_own_validate = True
        self._is_plain = not self._has_own_make and not self._has_own_validate

    def make(self, key: object, version: int | None) -> bytes:
        """Return one key as it is sent; warns as Django does if it is not portable."""
        cache = self._cache
        if self._is_plain and cache.key_func is default_key_func:
            if version is None:
                version = cache.version
            made = f"{cache.key_prefix}:{version}:{key!s}"
            # In the order of what is quickest: nearly all keys are portable.
            if made.isprintable() and " " not in made and len(made) <= _MAX_LENGTH:
                return made.encode()
        return self.make_many((key,), version)[0]

    def make_many(self, keys: Collection[Any], version: int | None) -> list[bytes]:
        """Return keys as they are sent; warns as Django does if they are not portable."""
        cache = self._cache
        if not keys:
            return []
        if self._has_own_validate:
            return [
                _as_bytes(cache.make_and_validate_key(key, version=version)) for key in keys
            ]
        prefix = self._prefix(version)
        texts: list[str] | None = None
        if prefix is not None and set(map(type, keys)) == {str}:
            text = prefix + f"\n{prefix}".join(keys)  # nearly every batch
        else:
            texts = [str(cache.make_key(key, version=version)) for key in keys]
            text = "\n".join(texts)
        # All keys at once: they are portable if only the line breaks between them are not.
        joined = text.encode()
        if len(joined) - len(joined.translate(None, _NOT_PORTABLE)) == len(keys) - 1:
            made = joined.split(b"\n")
            if max(map(len, made)) <= _MAX_LENGTH:
                return made
        texts = texts or [f"{prefix}{key}" for key in keys]
        for key in texts:
            cache.validate_key(key)
        return list(map(str.encode, texts))

    def pattern(self, pattern: str, version: int | None, prefix: str | None = None) -> bytes:
        """Return a glob pattern for SCAN that finds this cache's keys of one version.

        Args:
            prefix: that of the keys, where it is not the cache's own.

        Raises:
            TypeError: the pattern or the prefix is no text; or there is a prefix, and the
                cache's class has a make_key of its own, which takes none.
            ValueError: the cache's KEY_FUNCTION does not leave keys as they are; or adds
                something behind them, which the end of the pattern would change.
        """
        cache = self._cache
        if prefix is None:
            made = str(cache.make_key(_STAND_IN, version=version))
        elif self._has_own_make:
            raise TypeError(
                f"{type(cache).__name__} overrides make_key(), which takes no prefix."
            )
        else:
            version = cache.version if version is None else version
            made = str(cache.key_func(_STAND_IN, prefix, version))
        before, stand_in, after = made.partition(_STAND_IN)
        if not stand_in:
            raise ValueError(
                f"This cache stores the key {_STAND_IN!r} as {made!r}, so its keys cannot be "
                "found by pattern."
            )
        if after and not is_closed(pattern):
            raise ValueError(
                f"The pattern {pattern!r} ends in a backslash, or contains a '[' without a "
                f"']'. Because the KEY_FUNCTION of this cache appends {after!r} to each key, "
                "the pattern could match keys of others. Escape a special character with a "
                "backslash."
            )
        return f"{_escaped(before)}{pattern}{_escaped(after)}".encode()

    def reverser(self, version: int | None) -> Callable[[bytes], str]:
        """Return a function that turns a stored key of one version into the cache's own key.

        Raises:
            ImproperlyConfigured: the cache has a KEY_FUNCTION and no REVERSE_KEY_FUNCTION.
        """
        reverse, prefix = self._reverse, self._prefix(version)
        if reverse is not None:
            return lambda made: reverse(made.decode(errors="surrogateescape"))
        if prefix is None:
            raise ImproperlyConfigured(
                "A cache with a KEY_FUNCTION can only list its keys if "
                "OPTIONS['REVERSE_KEY_FUNCTION'] is set: a function that turns a stored key "
                "back into the cache's own, or its dotted path."
            )
        return lambda made: made.decode(errors="surrogateescape").removeprefix(prefix)

    def matcher(self, prefixes: tuple[str, ...]) -> Callable[[bytes], object]:
        """Return a function that tells whether a stored key's own key begins with a prefix.

        Raises:
            ImproperlyConfigured: the cache has a KEY_FUNCTION and no REVERSE_KEY_FUNCTION.
        """
        if self._reverse is not None:
            to_text = self.reverser(None)
            return lambda made: to_text(made).startswith(prefixes)
        if self._prefix(None) is None:
            raise ImproperlyConfigured(
                "OPTIONS['NEAR']['PREFIXES'] of a cache with a KEY_FUNCTION requires "
                "OPTIONS['REVERSE_KEY_FUNCTION']: a function that turns a stored key back "
                "into the cache's own, or its dotted path."
            )
        before = re.escape(f"{self._cache.key_prefix}:".encode())
        begins = b"|".join(re.escape(prefix.encode()) for prefix in prefixes)
        return re.compile(b"%b[^:]*:(?:%b)" % (before, begins)).match

    def _prefix(self, version: int | None) -> str | None:
        """Return what precedes every key, None if a function of the site decides it."""
        cache = self._cache
        if self._has_own_make or cache.key_func is not default_key_func:
            return None
        return f"{cache.key_prefix}:{cache.version if version is None else version}:"


def is_closed(pattern: str) -> bool:
    """Return whether text appended to a glob pattern stays separate from the pattern."""
    return _CLOSED_GLOB.fullmatch(pattern) is not None


def loggable(key: bytes) -> str:
    """Return a stored key for a log, shortened, as a session's key gives access to it.

    Of a word of 24 letters, digits, "-" and "_" or more, the first six are left.
    """
    return _LONG_WORD.sub(r"\1…", key.decode(errors="backslashreplace"))[:_MAX_LOGGED]


def is_lease(key: bytes) -> bool:
    """Return whether a stored key is that of a lease; see `django_rb.cache.leases`."""
    return LEASE in key


def is_companion(key: bytes) -> bool:
    """Return whether a stored key belongs to another one, and is not one of the site."""
    return b"\x1f" in key and (LEASE in key or SEAL in key or TALLY in key)


def _escaped(text: str) -> str:
    """Return a glob pattern that matches only this text."""
    return _GLOB.sub(r"\\\1", text)


def _as_bytes(key: object) -> bytes:
    return key if isinstance(key, bytes) else str(key).encode()
