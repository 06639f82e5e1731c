"""How messages show names, settings, commands and text from servers; and reading of numbers."""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Iterable, Sequence
from contextlib import suppress
from difflib import get_close_matches
from typing import Any

_NUMBER = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?")

# How much of a command is shown.
_SHOWN_WORDS = 10
_SHOWN_CHARACTERS = 60

_ESCAPES = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def escaped(text: object, keep: str = "") -> str:
    r"""Return text that is safe in a terminal or log: ``\x1b[2J`` clears no screen.

    Control and format characters, line separators, surrogates and everything else that is
    not printable is escaped by its bytes in UTF-8, as redis-cli does it. Backslashes stay as
    they are.

    Args:
        keep: characters that are not escaped, such as our own line breaks.
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
    is_byte = "\udc80" <= char <= "\udcff"  # a byte that was not valid UTF-8
    data = char.encode(errors="surrogateescape" if is_byte else "surrogatepass")
    return "".join(f"\\x{byte:02x}" for byte in data)


def get_logger(name: str) -> logging.Logger:
    """Return a logger that escapes the arguments of its messages; see `escaped`."""
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
    """Return the number in a text such as "6379" or "0.5"; anything else as it is.

    Settings often come from environment variables, which are text.
    """
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value) if "." in value else int(value)
    return value


def clause(error: object) -> str:
    """Return an error's text without the final period, for use inside a sentence."""
    return str(error).rstrip(".")


def did_you_mean(name: object, known: Sequence[str] | frozenset[str]) -> str:
    """Return a hint about an unknown name: the most similar known one, or all of them."""
    by_lower = {str(k).lower(): k for k in known}
    near = get_close_matches(str(name).lower(), by_lower, n=1)
    if near:
        return f"Did you mean {by_lower[near[0]]!r}?"
    return f"Choices are: {', '.join(sorted(map(str, known)))}."


def about_unknown(
    what: str, names: Iterable[object], known: Sequence[str] | frozenset[str]
) -> str:
    """Return the text of an error about unknown names, with a hint for each."""
    return " ".join(
        f"Unknown {what} {masked(name)}. {did_you_mean(name, known)}" for name in names
    )


def masked(value: object) -> str:
    """Return a value for an error message, without anything that could be a password."""
    if isinstance(value, str):
        return _masked_text(value)
    if value is None or isinstance(value, int | float):
        return repr(value)
    return f"A {type(value).__name__}"


def _masked_text(text: str) -> str:
    """Return a URL without user, password and query; other text as it is if it has no "@"."""
    scheme, mark, rest = text.partition("://")
    if not mark:
        return "A text with '@'" if "@" in text else repr(text)
    user, at, where = rest.rpartition("@")
    if "?" in user or "@" in user or "#" in rest:  # unclear where the password ends
        return repr(f"{scheme}://***")
    return repr(f"{scheme}://{'***@' if at else ''}{where.partition('?')[0]}")


def shown_command(command: Sequence[str | bytes]) -> str:
    """Return a command as one readable line; long ones are cut off."""
    words = [_shown_word(word) for word in command[:_SHOWN_WORDS]]
    more = len(command) - len(words)
    return " ".join([*words, f"… ({more} more)"] if more else words)


def _shown_word(word: str | bytes) -> str:
    text = repr(word)[2:-1]  # bytes, with escapes for what is not printable
    with suppress(UnicodeDecodeError):
        decoded = word if isinstance(word, str) else word.decode()
        if decoded.isprintable():
            text = decoded if decoded and " " not in decoded else repr(decoded)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
