"""Reads of keys that nodes track, so that near copies can be kept.

They run on the connection on which their node tracks keys, if that is free; if not, they are
normal reads. PTTL is sent along with each key, because nodes report an expired key only when
they remove it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Any

from hiredis import ProtocolError as HiredisProtocolError
from hiredis import PushNotification

from ..errors import NodeFailure, ProtocolError
from ..near.copies import Copies, Place, Share
from ..near.tracking import Term
from ..protocol.answers import are_values, is_number, is_value
from ..protocol.encoding import Arg, Args, Buffer, encode_each
from ..protocol.exchange import Batch, Exchange, KeysExchange
from ..protocol.reader import NO_REPLY, ReplyReader, Tracking
from .by_slot import ValuesExchange
from .port import Port

if TYPE_CHECKING:
    from ..routing.routers import BaseRouter

_FOR_EVER, _GONE = -1, -2  # replies to PTTL


class Reading:
    """Keys that are read together, from several nodes.

    Args:
        copies: the near copies.
        keys: the keys.
    """

    def __init__(self, copies: Copies, keys: Sequence[bytes]) -> None:
        self.copies = copies
        self._keys = keys
        self._place: Place | None = None
        self._shares: list[Share] = []

    def reserve(self) -> Place:
        """Store a placeholder for all keys, and return it."""
        if self._place is None:
            self._place = self.copies.reserve(self._keys)
        return self._place

    def add(self, share: Share) -> None:
        """Add the replies of one node."""
        self._shares.append(share)

    def run(self, exchanges: Sequence[Exchange]) -> Batch[None]:
        """Run the exchanges of the keys; keep copies of what was read."""
        try:
            yield exchanges
        finally:
            if self._place is not None:
                self.copies.fill(self._place, self._shares)
                if sum(len(keys) for keys, *_ in self._shares) < len(self._keys):
                    self.copies.leave(self._place, self._keys)  # no node tells of the others


class Tracked(Exchange):
    """Reads keys, one reply or several for all of them.

    On a connection with tracking, PTTL is sent for each key too. When all replies have come,
    they are added to the reading, and the replies to PTTL removed.

    Attributes:
        reading: the reading that these keys are a part of.
        keys: the keys.
        is_kept: whether replies are stored as near copies. Otherwise `learn` compares them with
            the copies.
    """

    is_tracked = True
    reading: Reading
    keys: Sequence[bytes]
    is_kept = False
    _tracking: Tracking | None = None
    _place: Place
    _term: Term
    _times = 0  # how many replies are those of PTTL

    def begin(self, reader: ReplyReader, has_pushes: bool) -> None:
        """Take the reader of the connection, and with it whether the node tracks keys."""
        self._count -= self._times
        self._times = 0
        super().begin(reader, has_pushes)
        self._tracking = tracking = reader.tracking
        if tracking is not None:
            keys = self.keys
            self._times = len(keys)
            self._count += self._times
            self.out = self._first = self.out + encode_each(b"PTTL", keys)  # type: ignore[operator]
            self._began = monotonic()
            self._place = self.reading.reserve()
            self._term = tracking.term

    def feed(self, data: Buffer, size: int = -1) -> bool:
        """Read what the node sent; return whether all replies are here. See `Exchange.feed`."""
        tracking = self._tracking
        if tracking is None:
            return super().feed(data, size)
        try:
            self._reader.feed(data, 0, size)  # type: ignore[arg-type]
        except HiredisProtocolError as error:
            raise ProtocolError(f"The node does not speak RESP: {error}") from error
        if self.watcher is not None:
            self.watcher.received(len(data) if size < 0 else size)
        return self._read_on(tracking)

    def _read_on(self, tracking: Tracking) -> bool:
        """Process what the parser has; return whether all replies have come."""
        reader, replies = self._reader, self.replies
        try:
            further = [*islice(iter(reader.gets, NO_REPLY), self._count - len(replies))]
            if PushNotification in map(type, further):
                for reply in further:
                    self._take(tracking, reply)
            else:
                replies += further
            while reader.has_data() and (reply := reader.gets()) is not NO_REPLY:
                self._take(tracking, reply)
        except HiredisProtocolError as error:
            raise ProtocolError(f"The node does not speak RESP: {error}") from error
        tracking.heard(self._began)
        left = self._count - len(replies)
        if left > 0:
            self.is_heard = bool(replies)
            return False
        if left or self.out is not None:
            raise self.too_much(is_early=self.out is not None)
        self._take_times()
        if self.watcher is not None:
            self.watcher.ended()
        return True

    def _take(self, tracking: Tracking, reply: Any) -> None:
        if type(reply) is PushNotification:
            self._take_note(tracking, reply)
        elif reply is not NO_REPLY:
            self.replies.append(reply)

    def _take_note(self, tracking: Tracking, push: Any) -> None:
        """Process a push. One before the first reply is older than what is read."""
        if self.replies:
            tracking.told(push)
            return
        before = tracking.term
        tracking.told(push, dict.fromkeys(self.keys, self._place))
        if self._term is before:
            self._term = tracking.term

    def _take_times(self) -> None:
        """Add what was read to the reading, and remove the replies to PTTL."""
        replies, first = self.replies, self._count - self._times
        times = replies[first:]
        del replies[first:]
        self._count, self._times = first, 0
        if self._reader.errors and any(isinstance(reply, Exception) for reply in replies):
            self.has_errors = True
        if first != 1 or not self.answers[0](replies[0], 0):
            self._check_answers(0)
        values, began, max_age = self._values(), self._began, self._copies.max_age
        ends: float | list[float]
        if not self.has_errors and _are_longer(times, max_age * 1000):
            ends = began + max_age
        else:
            if not all(is_number(left, 0) or isinstance(left, Exception) for left in times):
                replies.clear()
                raise ProtocolError("The node answered PTTL with something else than a number")
            pairs = zip(values, times, strict=True)
            ends = [_end(data, left, began, max_age) for data, left in pairs]
        self._keep(values, ends)
        self.is_kept = not self.has_errors

    def _keep(self, values: Sequence[Any], ends: float | Sequence[float]) -> None:
        self.reading.add((self.keys, values, ends, self._term))

    def _values(self) -> Sequence[Any]:
        """Return what was read for each key: bytes, None, or an exception."""
        raise NotImplementedError

    @property
    def _copies(self) -> Copies:
        return self.reading.copies

    def learn(self) -> None:
        """Drop copies that differ from what was read, unless it was kept; when all is read."""
        if not self.is_kept:
            values = self._values() if self.error is None else [self.error] * len(self.keys)
            self._copies.learned(self.keys, values)


def _are_longer(times: list[Any], longest: float) -> bool:
    """Return whether all of what PTTL said are numbers, and not before so many milliseconds."""
    try:
        return bool(min(times) >= longest) or times.count(_FOR_EVER) == len(times)
    except TypeError:  # there are others than numbers
        return False


def _end(data: Any, left: Any, began: float, max_age: float) -> float:
    """Return until when a copy is valid, as monotonic(); 0 if it is not.

    Args:
        data: what was read, None for nothing, or an exception.
        left: the reply to PTTL, or an exception.
        began: when the commands were sent.
        max_age: seconds.
    """
    if left == _FOR_EVER or (data is None and left == _GONE):
        return began + max_age
    if isinstance(left, Exception) or isinstance(data, Exception) or left < 0:
        return 0.0
    return began + min(max_age, int(left) / 1000)


class TrackedGet(Tracked):
    """GET of one key: the fast path for the most common read."""

    answers = (is_value,)
    may_join = True

    def __init__(self, host_id: int, key: bytes, copies: Copies) -> None:
        self.host_id = host_id
        self.out = self._first = b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(key), key)
        self.replies = []
        self.key = key
        self._of = copies

    @property
    def _copies(self) -> Copies:
        return self._of

    @property
    def keys(self) -> Sequence[bytes]:  # type: ignore[override]
        """The key."""
        return (self.key,)

    def begin(self, reader: ReplyReader, has_pushes: bool) -> None:  # noqa: D102 (as in Tracked)
        self._reader, self._has_pushes = reader, has_pushes
        self._tracking = tracking = reader.tracking
        if tracking is None:
            self._count, self._times = 1, 0
        else:
            key = self.key
            self._count, self._times = 2, 1
            self.out = b"%b*2\r\n$4\r\nPTTL\r\n$%d\r\n%b\r\n" % (self._first, len(key), key)  # type: ignore[str-format]
            self._began = monotonic()
            self._place = self._of.reserve_one(key)
            self._term = tracking.term
        if self.watcher is not None:
            self.watcher.began()

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
            self._count, self._times = 1, 0
            began, copies = self._began, self._of
            replies.append(value)
            tracking.heard(began)
            end = _end(value, left, began, copies.max_age)
            copies.fill_one(self.key, self._place, value, end, self._term)
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

    def _keep(self, values: Sequence[Any], ends: float | Sequence[float]) -> None:
        self._of.fill(self._place, [(self.keys, values, ends, self._term)])


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


class MgetExchange(KeysExchange):
    """MGET of keys of one node, without near copies."""

    def __init__(self, host_id: int, keys: Sequence[bytes]) -> None:
        super().__init__(host_id, b"MGET", keys)
        size = len(keys)
        # No method of its own: that would be a cycle, which keeps all values that were found
        # until Python collects it.
        self.answers = (lambda reply, _kind: are_values(reply, size),)


class TrackedMget(Tracked, MgetExchange):
    """MGET of keys of one node."""

    def __init__(self, host_id: int, keys: Sequence[bytes], reading: Reading) -> None:
        MgetExchange.__init__(self, host_id, keys)
        self.reading = reading

    def _values(self) -> Sequence[Any]:
        reply = self.replies[0]
        return [reply] * len(self.keys) if isinstance(reply, Exception) else reply


class TrackedSlotValues(Tracked, ValuesExchange):
    """GETs of keys of one node of a Redis Cluster."""

    def __init__(
        self, host_id: int, keys: Sequence[bytes], router: BaseRouter, reading: Reading
    ) -> None:
        ValuesExchange.__init__(self, host_id, keys, router)
        self.reading = reading

    def _values(self) -> Sequence[Any]:
        return list(self.values())
