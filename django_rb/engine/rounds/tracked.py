"""Reads of keys that nodes track, so that near copies can be kept.

They run on the connection on which their node tracks keys, if that is free; if not, they are
normal reads. PTTL is sent along with each key, because nodes report an expired key only when
they remove it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress, islice
from time import monotonic
from typing import TYPE_CHECKING, Any

from hiredis import ProtocolError as HiredisProtocolError
from hiredis import PushNotification

from ..errors import ProtocolError
from ..near.copies import Copies
from ..near.tracking import Term
from ..protocol.answers import are_values, is_number
from ..protocol.encoding import Buffer, encode_each, encode_keys_and_each
from ..protocol.exchange import Batch, Exchange, KeysExchange
from ..protocol.reader import NO_REPLY, ReplyReader, Tracking
from .by_slot import ValuesExchange

if TYPE_CHECKING:
    from ..routing.routers import BaseRouter

FOR_EVER, _GONE = -1, -2  # replies to PTTL


class Reading:
    """Keys that are read together, from several nodes.

    Args:
        copies: the near copies.
        keys: the keys.
    """

    def __init__(self, copies: Copies, keys: Sequence[bytes]) -> None:
        self.copies = copies
        self._all = keys
        self._since: int | None = None
        self._keys: list[bytes] = []
        self._values: list[Any] = []
        self._ends: list[float] = []
        self._terms: list[Term] = []

    def begin(self) -> int:
        """Return the number of the latest change before any of the keys is read."""
        if self._since is None:
            self._since = self.copies.begin(self._all)
        return self._since

    def add(
        self,
        keys: Sequence[bytes],
        values: Sequence[Any],
        ends: Sequence[float],
        term: Term,
        since: int,
    ) -> None:
        """Add what one node has replied; see `Copies.fill`."""
        terms = [term] * len(keys)
        if since != self._since:  # the node has reported changes before
            self.copies.fill(since, keys, values, ends, terms)
            return
        self._keys += keys
        self._values += values
        self._ends += ends
        self._terms += terms

    def run(self, exchanges: Sequence[Exchange]) -> Batch[None]:
        """Run the exchanges of the keys; keep copies of what was read."""
        try:
            yield exchanges
        finally:
            if self._since is not None and self._keys:
                self.copies.fill(self._since, self._keys, self._values, self._ends, self._terms)


class Tracked(Exchange):
    """Reads keys, one reply or several for all of them.

    On a connection with tracking, PTTL is sent for each key too. When all replies have come,
    they are added to the reading, and the replies to PTTL removed.

    Attributes:
        copies: the near copies.
        keys: the keys.
        since: the number of the latest change when the keys were about to be read.
        is_kept: whether replies are stored as near copies. Otherwise `learn` compares them with
            the copies.
    """

    is_tracked = True
    copies: Copies
    keys: Sequence[bytes]
    since: int
    is_kept = False
    _tracking: Tracking | None = None
    _term: Term
    _times = 0  # how many replies are those of PTTL

    def begin(self, reader: ReplyReader, has_pushes: bool) -> None:
        """Take the reader of the connection, and with it whether the node tracks keys."""
        self.count -= self._times
        self._times = 0
        super().begin(reader, has_pushes)
        self._tracking = tracking = reader.tracking
        if tracking is not None:
            keys = self.keys
            self._times = len(keys)
            self.count += self._times
            self.out = self._first = self.out + encode_each(b"PTTL", keys)  # type: ignore[operator]
            self._began = monotonic()
            self.since = self._begin()
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
            further = [*islice(iter(reader.gets, NO_REPLY), self.count - len(replies))]
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
        left = self.count - len(replies)
        if left > 0:
            self.is_heard = bool(replies)
            return False
        if left or self.out is not None:
            raise self.too_much(is_early=self.out is not None)
        self._take_times()
        if self.watcher is not None:
            self.watcher.ended()
        return True

    def fail(self, error: Exception) -> None:
        """End with an error; the replies so far are kept, but not those to PTTL."""
        self.count -= self._times
        self._times = 0
        del self.replies[self.count :]
        super().fail(error)

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
        tracking.told(push, self)
        if self._term is before:
            self._term = tracking.term

    def _take_times(self) -> None:
        """Add what was read to the reading, and remove the replies to PTTL."""
        replies, first = self.replies, self.count - self._times
        times = replies[first:]
        del replies[first:]
        self.count, self._times = first, 0
        if self._reader.errors and any(isinstance(reply, Exception) for reply in replies):
            self.has_errors = True
        if first != 1 or not self.answers[0](replies[0], 0):
            self._check_answers(0)
        keys, values = self.keys, self._values()
        began, max_age = self._began, self.copies.max_age
        if not self.has_errors and _are_longer(times, max_age * 1000):
            ends = [began + max_age] * len(keys)
        else:
            if not all(is_number(left, 0) or isinstance(left, Exception) for left in times):
                replies.clear()
                raise ProtocolError("The node's reply to PTTL is not a number")
            pairs = zip(values, times, strict=True)
            ends = [end_of(data, left, began, max_age) for data, left in pairs]
            if not all(ends):
                are_over = [not end for end in ends]
                self.copies.learned(compress(keys, are_over), compress(values, are_over))
                keys, values, ends = (list(compress(of, ends)) for of in (keys, values, ends))
        self._keep(keys, values, ends)
        self.is_kept = not self.has_errors

    def _begin(self) -> int:
        """Return the number of the latest change before the keys are read."""
        return self.copies.begin(self.keys)

    def _keep(
        self, keys: Sequence[bytes], values: Sequence[Any], ends: Sequence[float]
    ) -> None:
        """Have what was read stored; see `Copies.fill`."""
        self.copies.fill(self.since, keys, values, ends, [self._term] * len(keys))

    def _values(self) -> Sequence[Any]:
        """Return what was read for each key: bytes, None, or an exception."""
        raise NotImplementedError

    def learn(self) -> None:
        """Drop copies that differ from what was read, unless it was kept; when all is read."""
        if not self.is_kept:
            values = self._values() if self.error is None else [self.error] * len(self.keys)
            self.copies.learned(self.keys, values)


def _are_longer(times: list[Any], longest: float) -> bool:
    """Return whether all of what PTTL said are numbers, and not before so many milliseconds."""
    try:
        return bool(min(times) >= longest) or times.count(FOR_EVER) == len(times)
    except TypeError:  # there are others than numbers
        return False


def end_of(data: Any, left: Any, began: float, max_age: float) -> float:
    """Return until when a copy is valid, as monotonic(); 0 if it is not.

    Args:
        data: what was read, None for nothing, or an exception.
        left: the reply to PTTL, or an exception.
        began: when the commands were sent.
        max_age: seconds.
    """
    if left == FOR_EVER or (data is None and left == _GONE):
        return began + max_age
    if isinstance(left, Exception) or isinstance(data, Exception) or left < 0:
        return 0.0
    return began + min(max_age, int(left) / 1000)


class MgetExchange(KeysExchange):
    """MGET of keys of one node, without near copies."""

    def __init__(self, host_id: int, keys: Sequence[bytes]) -> None:
        super().__init__(host_id, b"MGET", keys)
        size = len(keys)
        # A bound method here would be a cycle, and keep all values in memory until the garbage
        # collector runs.
        self.answers = (lambda reply, _kind: are_values(reply, size),)


class TrackedPart(Tracked):
    """Some of the keys of a reading."""

    reading: Reading

    def _begin(self) -> int:
        return self.reading.begin()

    def _keep(
        self, keys: Sequence[bytes], values: Sequence[Any], ends: Sequence[float]
    ) -> None:
        self.reading.add(keys, values, ends, self._term, self.since)


class TrackedMget(TrackedPart, MgetExchange):
    """MGET of keys of one node."""

    def __init__(self, host_id: int, keys: Sequence[bytes], reading: Reading) -> None:
        MgetExchange.__init__(self, host_id, keys)
        self.reading, self.copies = reading, reading.copies

    def begin(self, reader: ReplyReader, has_pushes: bool) -> None:  # noqa: D102 (as in Tracked)
        self._tracking = tracking = reader.tracking
        if tracking is None:
            self.count, self._times = 1, 0
            KeysExchange.begin(self, reader, has_pushes)
            return
        self._times = size = len(self.keys)
        self.count = size + 1
        self.out = self._first = encode_keys_and_each(b"MGET", b"PTTL", self.keys)
        Exchange.begin(self, reader, has_pushes)
        self._began = monotonic()
        self.since = self.reading.begin()
        self._term = tracking.term

    def feed(self, data: Buffer, size: int = -1) -> bool:
        """Read what the node sent; return whether all replies are here. See `Exchange.feed`."""
        tracking, reader, replies = self._tracking, self._reader, self.replies
        if tracking is None or replies or self.watcher is not None:
            return super().feed(data, size)
        try:
            reader.feed(data, 0, size)  # type: ignore[arg-type]
            further = [*islice(iter(reader.gets, NO_REPLY), self.count)]
        except HiredisProtocolError as error:
            raise ProtocolError(f"The node does not speak RESP: {error}") from error
        if len(further) == self.count and self.out is None and not reader.has_data():
            values, began, max_age = further[0], self._began, self.copies.max_age
            del further[0]
            if are_values(values, len(further)) and _are_longer(further, max_age * 1000):
                self.count, self._times = 1, 0
                replies.append(values)
                tracking.heard(began)
                ends = [began + max_age] * len(further)
                self.reading.add(self.keys, values, ends, self._term, self.since)
                self.is_kept = True
                return True
            further.insert(0, values)
        for reply in further:
            self._take(tracking, reply)
        return self._read_on(tracking)

    def _values(self) -> Sequence[Any]:
        reply = self.replies[0]
        return [reply] * len(self.keys) if isinstance(reply, Exception) else reply


class TrackedSlotValues(TrackedPart, ValuesExchange):
    """GETs of keys of one node of a Redis Cluster."""

    def __init__(
        self, host_id: int, keys: Sequence[bytes], router: BaseRouter, reading: Reading
    ) -> None:
        ValuesExchange.__init__(self, host_id, keys, router)
        self.reading, self.copies = reading, reading.copies

    def _values(self) -> Sequence[Any]:
        return list(self.values())
