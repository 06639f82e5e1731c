"""Signed values: they are read only if they were written with the site's key.

A value other than an integer is stored as

    0xC1, "h", the 32 bytes of its MAC, the data

The data is what an unsigned cache would store, compressed or not: nothing is decompressed
or deserialized before its MAC was found right. The MAC (HMAC-SHA256: RFC 2104, FIPS 198-1)
covers the key under which the value is stored, so that it counts under no other:

    HMAC-SHA256(K, the key's length as 4 bytes, big-endian; the key; the data)

K is not the setting itself but HKDF-SHA256 of it (RFC 5869), with its own name: a site may
sign with a secret that has other uses, such as SECRET_KEY, and neither use weakens the
other. Integers are stored as their digits, unsigned: the server counts with them, and reading
digits is harmless. The tail of a computed value (see `django_rb.cache.tails`), which contains
how long it may be served, is also unsigned, as the server changes it, too.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from .codec import MAC_SIZE, SIGNED, Codec, Encoding
from .tails import SIZE as TAIL_SIZE
from .tails import read_tail

KEY, FALLBACKS = SIGNING_OPTIONS = ("SIGNING_KEY", "SIGNING_KEY_FALLBACKS")
MIN_SECRET_BYTES = 16

_PURPOSE = b"django_rb.cache.signing.1"
_HEADER_SIZE = len(SIGNED) + MAC_SIZE
_INTEGER = re.compile(rb"-?[0-9]{1,617}")  # all that a codec writes as digits: 2,048 bits
_WAY_OUT = "python -c 'import secrets; print(secrets.token_urlsafe(32))' prints a suitable key."


class BadSignature(Exception):
    """A value is unsigned, or was signed with another key or for another place."""


class Secret:
    """A value that is not shown by repr(), nor by tracebacks with local variables."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class Signer:
    """Signs with one secret, and accepts signatures of that one and of older ones.

    Args:
        secret: of any length.
        fallbacks: older secrets.
    """

    def __init__(self, secret: Secret, fallbacks: Iterable[Secret] = ()) -> None:
        self._secret = _derived(secret)
        self._older = tuple(map(_derived, fallbacks))

    def sign(self, data: bytes, key: bytes) -> bytes:
        """Return the MAC of data that is stored under a key."""
        return hmac.digest(self._secret, _signed_text(data, key), "sha256")

    def is_signed(self, data: bytes, key: bytes, mac: bytes) -> bool:
        """Return whether this is the MAC of data that is stored under a key."""
        text = _signed_text(data, key)
        if hmac.compare_digest(hmac.digest(self._secret, text, "sha256"), mac):
            return True
        return any(
            hmac.compare_digest(hmac.digest(secret, text, "sha256"), mac)
            for secret in self._older
        )


class SignedCodec:
    """A codec whose values are signed for the key under which they are stored.

    Args:
        codec: the form of what is signed.
        signer: signs it.
    """

    is_safe = True  # unsigned data is not read

    def __init__(self, codec: Codec, signer: Signer) -> None:
        self._codec = codec
        self._signer = signer

    def encode(self, value: Any, key: bytes) -> bytes:
        """Return what is stored for a value under a key."""
        return self._sealed(self._codec.encode(value), key)

    def encode_computed(self, value: Any, key: bytes) -> bytes:
        """Return what is stored for a value behind which a tail is to follow."""
        return self._sealed(self._codec.encode_computed(value), key)

    def encoding(self, values: Iterable[Any], keys: Sequence[bytes]) -> Encoding:
        """Return values with their keys, and what makes of each such pair what is stored."""
        return zip(values, keys, strict=True), self._encode_pair

    def decode(self, data: bytes, key: bytes) -> Any:
        """Return the value that was stored under a key.

        Raises BadSignature, or whatever the serializer raises for what it has signed.
        """
        return self._codec.decode(self._opened(data, key))

    def decode_found(
        self,
        bad: list[bytes],
        found: dict[Any, Any],
        names: list[Any],
        keys: list[bytes],
        replies: list[bytes | None],
    ) -> int:
        """Put the values of keys into `found`; return how many keys have none.

        A bad signature counts as nothing stored, and its key is added to `bad`.
        """
        misses = 0
        for name, key, data in zip(names, keys, replies, strict=True):
            if data is None:
                misses += 1
                continue
            try:
                found[name] = self.decode(data, key)
            except BadSignature:
                bad.append(key)
                misses += 1
        return misses

    def moved(self, data: bytes, key: bytes, new_key: bytes) -> bytes:
        """Return what is stored for a value once it was moved to another key.

        Raises BadSignature.
        """
        tail = data[-TAIL_SIZE:] if read_tail(data) else b""
        return self._sealed(self._opened(data, key), new_key) + tail

    def _encode_pair(self, pair: tuple[Any, bytes]) -> bytes:
        return self.encode(*pair)

    def _sealed(self, data: bytes, key: bytes) -> bytes:
        # A codec frames whatever else could be read as an integer.
        if _INTEGER.fullmatch(data):
            return data
        return b"".join((SIGNED, self._signer.sign(data, key), data))

    def _opened(self, stored: bytes, key: bytes) -> bytes:
        if stored[: len(SIGNED)] == SIGNED:
            mac, data = stored[len(SIGNED) : _HEADER_SIZE], stored[_HEADER_SIZE:]
            if read_tail(data) and self._signer.is_signed(data[:-TAIL_SIZE], key, mac):
                return data[:-TAIL_SIZE]
            if self._signer.is_signed(data, key, mac):
                return data
        elif _INTEGER.fullmatch(stored):
            return stored
        raise BadSignature


def get_signer(options: Mapping[str, Any]) -> Signer | None:
    """Return the signer for a cache with these OPTIONS, None without SIGNING_KEY.

    Args:
        options: the two that concern signing as Secret objects.

    Raises:
        ImproperlyConfigured: one of them is of the wrong type, or too short.
    """
    # This frame has no secret in a variable, as some tracebacks show local variables.
    mistake = next(_mistakes(options), None)
    if mistake is not None:
        raise ImproperlyConfigured(mistake)
    if KEY not in options:
        return None
    fallbacks = options.get(FALLBACKS, Secret(()))
    return Signer(options[KEY], map(Secret, fallbacks.value))


def _mistakes(options: Mapping[str, Any]) -> Iterator[str]:
    if KEY in options:
        yield from _mistakes_in(options[KEY].value, f"OPTIONS[{KEY!r}] of a cache")
    if FALLBACKS not in options:
        return
    name, fallbacks = f"OPTIONS[{FALLBACKS!r}]", options[FALLBACKS].value
    if isinstance(fallbacks, str | bytes):
        yield f"{name} of a cache is a single {type(fallbacks).__name__}. Put it into a list."
    elif not isinstance(fallbacks, list | tuple):
        yield f"{name} of a cache is a {type(fallbacks).__name__}, not a list of older keys."
    else:
        for number, secret in enumerate(fallbacks):
            yield from _mistakes_in(secret, f"{name}[{number}] of a cache")
        if fallbacks and KEY not in options:
            yield (
                f"{name} of a cache is set without {KEY}. Set {KEY} to the key to sign with; "
                "the older keys are only used to verify existing values."
            )


def _mistakes_in(secret: object, name: str) -> Iterator[str]:
    if secret is None:
        yield f"{name} is None. Leave the option out if values should not be signed."
    elif not isinstance(secret, str | bytes):
        yield f"{name} is a {type(secret).__name__}. Give a str or bytes. {_WAY_OUT}"
    elif not secret:
        yield f"{name} is empty. {_WAY_OUT}"
    elif len(_as_bytes(secret)) < MIN_SECRET_BYTES:
        yield f"{name} has fewer than {MIN_SECRET_BYTES} bytes. {_WAY_OUT}"


def _signed_text(data: bytes, key: bytes) -> bytes:
    return b"".join((len(key).to_bytes(4), key, data))


def _derived(secret: Secret) -> bytes:
    """Return HKDF-SHA256 (RFC 5869) of a secret: 32 bytes, without salt."""
    extracted = hmac.digest(bytes(32), _as_bytes(secret.value), "sha256")
    return hmac.digest(extracted, _PURPOSE + b"\x01", "sha256")


def _as_bytes(secret: str | bytes) -> bytes:
    # It must accept any text: an error of encode() would show it.
    return secret.encode(errors="surrogatepass") if isinstance(secret, str) else secret
