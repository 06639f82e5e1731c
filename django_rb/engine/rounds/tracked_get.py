"""A read of one key that its node tracks: the fast path for the most common read."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import Any

from hiredis import ProtocolError as HiredisProtocolError

from ..errors import NodeFailure, ProtocolError
from ..near.copies import Copies
from ..protocol.answers import is_value
from ..protocol.encoding import Arg, Args, Buffer
from ..protocol.exchange import Batch
from ..protocol.reader import ReplyReader
from .port import Port
from .tracked import FOR_EVER, Tracked, end_of

_GET, _PTTL = b"*2\r\n$3\r\nGET\r\n", b"*2\r\n$4\r\nPTTL\r\n"


class TrackedGet(Tracked):
    """GET of one key."""

    answers = (is_value,)
    may_join = True

    def __init__(self, host_id: int, key: bytes, copies: Copies) -> None:
        self.host_id = host_id
        self.out = self._first = b"%b$%d\r\n%b\r\n" % (_GET, len(key), key)
        self.replies = []
        self.key = key
        self.keys = (key,)
        self.copies = copies

    def begin(self, reader: ReplyReader, has_pushes: bool) -> None:  # noqa: D102 (as in Tracked)
        self._reader, self._has_pushes = reader, has_pushes
        self._tracking = tracking = reader.tracking
        if tracking is None:
            self.count, self._times = 1, 0
        else:
            self.count, self._times = 2, 1
            first: bytes = self._first  # type: ignore[assignment]
            self.out = first + _PTTL + first[len(_GET) :]
            self._began = monotonic()
            self.since = self.copies.begin(self.keys)
            self._term = tracking.term
        if self.watcher is not None:
            self.watcher.connected()

    def feed(self, data: Buffer, size: int = -1) -> bool:
        """Read what the node sent; return whether all replies are here. See `Exchange.feed`."""
        tracking, reader, replies = self._tracking, self._reader, self.replies
        if tracking is None or replies or self.watcher is not None:
            return super().feed(data, size)
        try:
            reader.feed(data, 0, size)  # type: ignore[arg-type]
            value, left = reader.gets(), reader.gets()
        except HiredisProtocolError as error:
            raise ProtocolError(f"The node does not speak RESP: {error}") from error
        if (
            type(left) is int
            and (type(value) is bytes or value is None)
            and self.out is None
            and not reader.has_data()
        ):
            self.count, self._times = 1, 0
            began, copies = self._began, self.copies
            replies.append(value)
            tracking.heard(began)
            end = began + copies.max_age
            if left < copies.max_age * 1000 and left != FOR_EVER:
                end = end_of(value, left, began, copies.max_age)
            copies.fill_one(self.since, self.key, value, end, self._term)
            self.is_kept = True
            return True
        self._take(tracking, value)
        self._take(tracking, left)
        return self._read_on(tracking)

    def commands(self) -> Sequence[Args]:  # noqa: D102 (as in Exchange)
        return ((b"GET", self.key),)

    def names(self) -> Sequence[Arg]:  # noqa: D102 (as in Exchange)
        return (b"GET",)

    def _values(self) -> Sequence[Any]:
        return self.replies


def get_tracked(
    port: Port, key: bytes, copies: Copies
) -> Batch[tuple[bytes | None, list[NodeFailure]]]:
    """Return what is stored for a key, None for nothing, and keep a near copy."""
    host_id = port.router.get_host_for_key(key)
    exchange = TrackedGet(host_id, key, copies)
    yield (exchange,)
    if not exchange.is_kept:
        exchange.learn()
    error = exchange.error
    if error is None:
        reply = exchange.replies[0]
        if not exchange.has_errors:
            return reply, []
        error = reply
    return None, [NodeFailure(host_id, port.get_address(host_id), error, (key,))]
