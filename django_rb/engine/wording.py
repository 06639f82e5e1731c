"""How messages put names, settings and what servers and keys say; and how settings are read."""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Iterable, Sequence
from contextlib import suppress
from difflib import get_close_matches
from typing import Any

_NUMBER = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?")

# So much of a command is shown.
_SHOWN_WORDS = 10
_SHOWN_CHARACTERS = 60

_ESCAPES = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def escaped(text: object, keep: str = "") -> str:
    r"""Return text as a terminal or a log may show it: ``\x1b[2J`` is text, and no command.

    Control and format characters, line separators, surrogates and whatever else is not
    printable are escaped, by the bytes that UTF-8 has for them, as redis-cli does it.
    Backslashes stay as they are.

    Args:
        keep: characters that are left alone, such as line breaks that are our own.
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in keep else _escaped_char(char) for char in text
    )


def _escaped_char(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    is_byte = "\udc80" <= char <= "\udcff"  # one that was no UTF-8
    data = char.encode(errors="surrogateescape" if is_byte else "surrogatepass")
    return "".join(f"\\x{byte:02x}" for byte in data)


def get_logger(name: str) -> logging.Logger:
    """Return the logger of a name. What its lines tell of is escaped; see `escaped`."""
    logger = logging.getLogger(name)
    logger.addFilter(_escape_record)
    return logger


def _escape_record(record: logging.LogRecord) -> bool:
    if isinstance(record.args, tuple):
        record.args = tuple(
            escaped(arg) if isinstance(arg, str | Exception) else arg for arg in record.args
        )
    if record.exc_info and record.exc_info[1]:  # formatters take the text that is there
        lines = traceback.format_exception(record.exc_info[1])
        record.exc_text = escaped("".join(lines), keep="\n").rstrip("\n")
    return True


def number_of(value: object) -> Any:
    """Return the number that a text such as "6379" or "0.5" says; anything else as it is.

    Settings take their numbers from the environment, where all is text.
    """
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value) if "." in value else int(value)
    return value


def clause(error: object) -> str:
    """Return an error's text for a sentence that goes on or ends behind it."""
    return str(error).rstrip(".")


def did_you_mean(name: object, known: Sequence[str] | frozenset[str]) -> str:
    """Return what an error says about an unknown name: the nearest known one, or all."""
    by_lower = {str(k).lower(): k for k in known}
    near = get_close_matches(str(name).lower(), by_lower, n=1)
    if near:
        return f"Did you mean {by_lower[near[0]]!r}?"
    return f"Known are: {', '.join(sorted(map(str, known)))}."


def about_unknown(
    what: str, names: Iterable[object], known: Sequence[str] | frozenset[str]
) -> str:
    """Return what an error says about unknown names, each with its way out."""
    return " ".join(
        f"Unknown {what} {masked(name)}. {did_you_mean(name, known)}" for name in names
    )


def masked(value: object) -> str:
    """Return a value as an error may show it: without what could be a password."""
    if isinstance(value, str):
        return _masked_text(value)
    if value is None or isinstance(value, int | float):
        return repr(value)
    return f"A {type(value).__name__}"


def _masked_text(text: str) -> str:
    """Return a URL without user, password and query, any other text as it is."""
    scheme, mark, rest = text.partition("://")
    if not mark:
        return "A text with '@'" if "@" in text else repr(text)
    user, at, where = rest.rpartition("@")
    if "?" in user or "@" in user or "#" in rest:  # who knows where the password ends?
        return repr(f"{scheme}://***")
    return repr(f"{scheme}://{'***@' if at else ''}{where.partition('?')[0]}")


def shown_command(command: Sequence[str | bytes]) -> str:
    """Return a command in one line that people can read; what is long is cut off."""
    words = [_shown_word(word) for word in command[:_SHOWN_WORDS]]
    more = len(command) - len(words)
    return " ".join([*words, f"… ({more} more)"] if more else words)


def _shown_word(word: str | bytes) -> str:
    text = repr(word)[2:-1]  # of bytes, with what does not print in backslashes
    with suppress(UnicodeDecodeError):
        decoded = word if isinstance(word, str) else word.decode()
        if decoded.isprintable():
            text = decoded if decoded and " " not in decoded else repr(decoded)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
