"""Values for pages: decoded only if that cannot execute code from a node."""

from __future__ import annotations

import pprint
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import time

from ...cache.codec import Codec
from ...cache.signing import BadSignature, SignedCodec
from ...cache.tails import read_tail
from ...engine.wording import escaped
from ...management.entries import KINDS, LINE, Entry, cell, read
from ...management.keys import readable
from ...management.output import bytes_of, count_of, time_of
from ...management.scanning import Nodes
from .where import Where

MOST_BYTES = 2**20  # of a string; of longer ones the beginning is shown, not decoded
MOST_ELEMENTS = 100
MOST_SHOWN = 20_000  # characters of a value
WIDTH = 88
_INTEGER = re.compile(rb"-?[0-9]{1,20}")


@dataclass
class Value:
    """A value for a page.

    Attributes:
        text: the decoded value, or the stored bytes if it cannot be decoded.
        is_decoded: whether it is the decoded value.
        columns, rows: the beginning of a value that is not a string.
        notes: remarks to show.
    """

    text: str = ""
    is_decoded: bool = False
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    notes: list[str] = field(default_factory=list)


def read_value(
    nodes: Nodes, entry: Entry, where: Where, key: bytes, *, show_pickles: bool
) -> Value:
    """Return the value of a key on a node, and store its size in the entry.

    Args:
        show_pickles: whether unsigned values are unpickled.
    """
    is_string = entry.kind == "string"
    read(nodes, [entry], key, MOST_BYTES // LINE if is_string else MOST_ELEMENTS, whole=False)
    value = Value()
    if entry.problem:
        value.notes.append(entry.problem)
    elif entry.data is not None:
        _show_string(value, entry, where, key, entry.data, show_pickles=show_pickles)
    elif entry.kind in KINDS:
        value.columns = KINDS[entry.kind].columns
        value.rows = [list(map(cell, element)) for element in entry.elements]
        if (entry.length or 0) > len(value.rows):
            shown, total = len(value.rows), count_of(entry.length or 0)
            value.notes.append(f"The first {shown} of {total} elements.")
    return value


def _show_string(
    value: Value, entry: Entry, where: Where, key: bytes, data: bytes, *, show_pickles: bool
) -> None:
    if tail := read_tail(data):
        left = tail.fresh_until / 1000 - time()
        fresh = f"fresh for {time_of(left)} more" if left > 0 else "stale"
        value.notes.append(
            f"A computed value: {fresh}; it took {tail.took:,.2f} ms to compute."
        )
    if len(data) < (entry.length or 0):
        shown, size = bytes_of(len(data)), bytes_of(entry.length or 0)
        value.notes.append(f"The first {shown} of {size}, as stored.")
    elif where.keyspace.cache is not None:
        codec = where.keyspace.cache.codec
        text = _decoded(value, codec, data, key, show_pickles=show_pickles)
        if text is not None:
            value.text, value.is_decoded = text, True
    if not value.is_decoded:
        # At most four characters for each byte; the excess is cut off here.
        value.text = readable(data[:MOST_SHOWN])
        if len(data) > MOST_SHOWN:
            value.text += "…"
    if len(value.text) > MOST_SHOWN:
        total = len(value.text)
        value.text = value.text[:MOST_SHOWN]
        value.notes.append(f"The first {MOST_SHOWN:,} of {total:,} characters.")


def _decoded(
    value: Value, codec: Codec | SignedCodec, data: bytes, key: bytes, *, show_pickles: bool
) -> str | None:
    """Return the value that the cache decodes, None if it cannot or must not."""
    if not (codec.is_safe or show_pickles or _INTEGER.fullmatch(data)):
        value.notes.append(
            "Shown as stored. It is not signed, and decoding it could run code that was put "
            "into it: see SIGNING_KEY, and RB_ADMIN['SHOW_PICKLES']."
        )
        return None
    try:
        decoded = codec.decode(data, key)
        text = repr(decoded)
        if len(text) <= MOST_SHOWN:  # for a megabyte it takes seconds
            text = pprint.pformat(decoded, width=WIDTH)
    except BadSignature:
        value.notes.append(
            "Shown as stored. The cache treats it as a miss: it was not signed for this key "
            "with the cache's SIGNING_KEY."
        )
        return None
    except Exception as error:  # noqa: BLE001 (serializers may raise anything)
        name, said = type(error).__name__, escaped(error)
        value.notes.append(f"Shown as stored. The cache cannot decode it: {name}: {said}")
        return None
    return escaped(text, keep="\n")
