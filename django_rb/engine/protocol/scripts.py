"""Lua scripts, which are sent by their SHA1 digest, or whole to servers that lack them."""

from __future__ import annotations

from hashlib import sha1

from .encoding import Args, encode_key, encode_words

# The sources of all scripts of this process by digest.
_sources: dict[bytes, bytes] = {}


def remember_script(source: str | bytes) -> bytes:
    """Keep a script's source for nodes that lack it; return its SHA1 digest."""
    text = encode_key(source)
    digest = sha1(text, usedforsecurity=False).hexdigest().encode()
    _sources[digest] = text
    return digest


def with_source(command: Args) -> Args | None:
    """Return the EVAL for an EVALSHA; None if the script is not known in this process.

    A script that is flagged as read-only is sent by EVAL_RO.
    """
    name, digest, *rest = command
    source = _sources.get(encode_key(digest).lower())
    if source is None:
        return None
    eval_name = b"EVAL_RO" if encode_key(name).upper().endswith(b"_RO") else b"EVAL"
    return (eval_name, source, *rest)


class LuaScript:
    """A Lua script on one key.

    Attributes:
        sha: its SHA1 digest, as text.
    """

    __slots__ = ("sha",)

    def __init__(self, source: str | bytes) -> None:
        self.sha = remember_script(source)


class KeyScript(LuaScript):
    """A Lua script on one key with a fixed number of arguments.

    Its commands are formatted here, which takes a third of hiredis' time.

    Args:
        source: the script.
        arguments: how many arguments follow the key.

    Attributes:
        evalsha: a format, for the length of the key, the key, and the arguments as
            `encode_words` makes them.
    """

    __slots__ = ("evalsha",)

    def __init__(self, source: str | bytes, arguments: int) -> None:
        super().__init__(source)
        words = encode_words((b"EVALSHA", self.sha, 1)).replace(b"%", b"%%")
        self.evalsha = b"*%d\r\n%b$%%d\r\n%%b\r\n%%b" % (arguments + 4, words)
