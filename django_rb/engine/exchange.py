"""One node's share of a batch on one connection: bytes out, bytes in, no I/O.

An exchange is told three things by whoever moves its bytes: `sent(size)`, `feed(data)` and,
when it cannot go on, `fail(error)`. It says what to send next (`out`) and, as the answer
to `feed`, whether it has all its replies. Commands are encoded one piece ahead of the
socket, so that a batch of any size is never held as a whole in its encoded form.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import islice
from typing import Any, Final, TypeVar

from hiredis import ProtocolError as HiredisProtocolError
from hiredis import PushNotification, Reader

from .commands import is_read_only
from .encoding import Args, Buffer, encode
from .errors import ProtocolError, reply_error

T = TypeVar("T")

NO_REPLY: Final = object()


def make_reader(to_error: Callable[[str], Exception] = reply_error) -> Reader:
    """Return a parser for the replies of one connection; error replies come as exceptions."""
    return Reader(replyError=to_error, notEnoughData=NO_REPLY)


class Exchange:
    """The commands for one node, and its replies in the order of the commands.

    Args:
        host_id: the node.
        out: the first bytes of the encoded commands.
        count: how many replies the commands have, at least 1.
        pieces: the rest of the encoded commands, cut anywhere; taken as the socket drains.

    Attributes:
        out: the bytes to send next; None when all was sent.
        replies: what came back so far; error replies are exceptions in their place.
        error: why the exchange failed; None while it has not.
        commands: the commands, where they may be encoded again.
        untouched: not one byte was sent yet.
        is_heard: the node has begun to answer.
        may_join: it is one command of which an answer is soon to be expected, and may be
            sent along with others'.
        on_done: called when all replies are in, while other nodes are still awaited.
    """

    on_done: Callable[[Exchange], None] | None = None
    error: Exception | None = None
    commands: Sequence[Args] = ()
    untouched = True
    is_heard = False
    may_join = False

    def __init__(
        self, host_id: int, out: Buffer, count: int = 1, pieces: Iterator[Buffer] | None = None
    ) -> None:
        self.host_id = host_id
        self.out: Buffer | None = out
        self._first = out
        self.replies: list[Any] = []
        self._count = count
        self._pieces = pieces

    def add(self, command: bytes) -> None:
        """Take one more encoded command, before anything is sent."""
        assert isinstance(self.out, bytes)
        self.out = self._first = self.out + command
        self._count += 1

    @property
    def is_whole(self) -> bool:
        """Whether `out` is all there is to send."""
        return self._pieces is None

    @property
    def only_reads(self) -> bool:
        """Whether nobody can tell if it ran once or twice."""
        return bool(self.commands) and all(map(is_read_only, self.commands))

    def start_over(self) -> None:
        """Be as if nothing had been sent. Only for one that `only_reads`."""
        if self._pieces is None:
            self.out = self._first
        else:
            self._pieces = encode(self.commands)
            self.out = next(self._pieces)
        self.untouched = True

    def begin(self, reader: Reader, has_pushes: bool) -> None:
        """Take the reader of the connection that this exchange runs on. Nothing is sent yet.

        On a RESP3 connection (`has_pushes`) a node may say things that answer nothing.
        """
        self._reader = reader
        self._has_pushes = has_pushes

    def sent(self, size: int) -> Buffer | None:
        """Go on after `size` bytes of `out` were taken by the socket; return the new `out`."""
        self.untouched = False
        out = self.out
        if size != len(out):  # type: ignore[arg-type]
            self.out = memoryview(out)[size:]  # type: ignore[arg-type]
        elif self._pieces is None:
            self.out = None
        else:
            self.out = next(self._pieces, None)
        return self.out

    def feed(self, data: Buffer, size: int = -1) -> bool:
        """Read what the node sent; return whether all replies are here.

        Args:
            size: how many bytes of `data` that is; -1 for all.

        Raises:
            ProtocolError: this is not RESP, or more than was asked for.
        """
        reader, replies, count = self._reader, self.replies, self._count
        try:
            reader.feed(data, 0, size)  # type: ignore[arg-type]  # it takes any buffer
            # Never a reply further than asked for: the parser does not tell that it has
            # begun one, and would go on with it in the next exchange.
            if count == 1:
                reply = reader.gets()
                if reply is not NO_REPLY:
                    replies.append(reply)
            else:
                replies.extend(islice(iter(reader.gets, NO_REPLY), count - len(replies)))
            if self._has_pushes:
                self._drop_pushes()
        except HiredisProtocolError as error:
            # What came before it counts, but a push is no reply.
            replies[:] = [reply for reply in replies if type(reply) is not PushNotification]
            raise ProtocolError(f"The node does not speak RESP: {error}") from error
        if len(replies) < count:
            self.is_heard = True
            return False
        if self.out is not None or reader.has_data():
            raise self.too_much()
        return True

    def _drop_pushes(self) -> None:
        """Drop what answers nothing, and read on as far as that made room."""
        reader, replies = self._reader, self.replies
        while any(type(reply) is PushNotification for reply in replies) or (
            len(replies) == self._count and reader.has_data()
        ):
            replies[:] = [reply for reply in replies if type(reply) is not PushNotification]
            missing = self._count - len(replies)
            if missing:
                replies.extend(islice(iter(reader.gets, NO_REPLY), missing))
            elif reader.has_data() and type(reader.gets()) is not PushNotification:
                raise self.too_much()

    def too_much(self) -> ProtocolError:
        """Take all replies back: nobody knows which of them answers nothing."""
        self.replies.clear()
        return ProtocolError("The node sent more than it was asked for")

    def fail(self, error: Exception) -> None:
        """End without the replies that are still missing."""
        self.error = error


# What a transport drives: it yields the exchanges of a round, each of which then has its
# replies or its error, and returns the result of the batch.
Batch = Generator[Sequence[Exchange], None, T]
