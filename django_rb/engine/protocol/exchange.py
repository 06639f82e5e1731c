"""One node's share of a batch on one connection: bytes out, bytes in, no I/O.

A transport sends the bytes in `out` and calls three methods of an exchange: `sent(size)`,
`feed(data)`, which returns whether all replies have come, and `fail(error)`. Commands are
encoded one piece ahead of the socket, so that a batch of any size is never in memory as a
whole in its encoded form.

`commands` returns the commands again, for a round that sends some of them once more.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Generator, Iterator, Sequence
from itertools import cycle, islice
from typing import Any, Protocol, TypeAlias, TypeVar

from hiredis import ProtocolError as HiredisProtocolError
from hiredis import PushNotification, Reader

from ..errors import ProtocolError, RefusedEarly
from .commands import HARMLESS, check_all_shareable, check_shareable, is_read_only, reads_keys
from .encoding import (
    Arg,
    Args,
    Buffer,
    encode,
    encode_key,
    encode_keys,
    encode_large,
    pack_small,
)
from .reader import NO_REPLY, ReplyReader

T = TypeVar("T")

_PUSH = ord(">")


# A check whether a reply can be the answer to a command. Its arguments are the reply, and the
# byte of its RESP type if it is the only reply of its exchange, else 0.
IsAnswer: TypeAlias = Callable[[Any, int], bool]


class Watcher(Protocol):
    """An observer of an exchange; see `rounds.observing`."""

    def connected(self) -> None:
        """The exchange has a connection."""

    def sent(self, size: int) -> None:
        """The socket has accepted some bytes."""

    def received(self, size: int) -> None:
        """Some bytes were received."""

    def ended(self) -> None:
        """The exchange has its replies or its error."""


class Exchange:
    """The commands for one node, and its replies in the order of the commands.

    Args:
        host_id: the node.
        out: the first bytes of the encoded commands.
        count: how many replies the commands have, at least 1.
        pieces: the rest of the encoded commands, cut anywhere; encoded as they are sent.

    Attributes:
        count: how many replies the commands have.
        out: the bytes to send next; None when all was sent.
        replies: the replies so far; error replies are exceptions in their place.
        error: why the exchange failed; None while it has not.
        is_whole: `out` was all there is to send when the exchange was made.
        has_errors: it failed, or some of the replies are errors.
        is_stale: its idle connection turned out to be closed, and it may be sent again.
        waited: seconds that it had waited by then, which count towards the timeout.
        needs_new_connection: it must not use an idle connection.
        untouched: not one byte was sent yet.
        is_heard: the node has begun to answer.
        may_join: it is one command with an answer expected soon, and may be sent together
            with commands of others.
        answers: checks whether a reply can be the answer: one for each command, or one for
            all of them; none if any reply may be.
        bound: positions of commands that are for this node only, whatever their keys.
        is_question: it asks who owns which slots; it is no part of the caller's batch.
        follows_redirects: a node that is no primary any more may send commands elsewhere.
        is_for_primary: it is for a primary, though it only reads.
        tried: why other nodes did not run these commands.
        is_tracked: the node should track the keys that are read, if it has a connection
            for that.
        went_on: some of its commands were sent on to other nodes, in further rounds.
        on_done: called when all replies have come and none of them is an error, while other
            nodes are still awaited.
        watcher: its observer; None for none.
    """

    on_done: Callable[[Exchange], None] | None = None
    answers: Sequence[IsAnswer] = ()
    bound: Container[int] = ()
    is_question = False
    is_for_primary = False
    follows_redirects = True
    tried: tuple[Exception, ...] = ()
    is_tracked = False
    went_on = False
    watcher: Watcher | None = None
    error: Exception | None = None
    has_errors = False
    is_stale = False
    waited = 0.0
    needs_new_connection = False
    untouched = True
    is_heard = False
    may_join = False
    is_whole = True
    count = 1
    _pieces: Iterator[Buffer] | None = None
    _taken = 0  # bytes of the pieces that the socket has accepted

    def __init__(
        self, host_id: int, out: Buffer, count: int = 1, pieces: Iterator[Buffer] | None = None
    ) -> None:
        self.host_id = host_id
        self.out: Buffer | None = out
        self._first = out
        self.replies: list[Any] = []
        if count != 1:
            self.count = count
        if pieces is not None:
            self._pieces, self.is_whole = pieces, False

    @property
    def size(self) -> int:
        """How many bytes were sent or encoded so far; nothing more is encoded to find out."""
        if self._pieces is None:
            return len(self._first)
        return self._taken + len(self.out or b"")

    def commands(self) -> Sequence[Args]:
        """Return the commands, in the order of their replies; empty if they are not known."""
        return () if self._pieces is not None else _parsed(self._first)

    def names(self) -> Sequence[Arg]:
        """Return the names of the commands; only the first where the others are not known."""
        if self._pieces is None:
            return [command[0] for command in self.commands()]
        return (bytes(self._first).split(b"\r\n", 3)[2],)

    @property
    def only_reads(self) -> bool:
        """Whether all commands are read-only, so that sending them again is safe."""
        commands = self.commands()
        return bool(commands) and all(map(is_read_only, commands))

    @property
    def only_reads_keys(self) -> bool:
        """Whether a replica can run all commands; see `reads_keys`."""
        if self.is_for_primary or self.is_question or self.is_tracked or self.bound:
            return False
        commands = self.commands()
        return bool(commands) and all(map(reads_keys, commands))

    def start_over(self) -> None:
        """Reset the exchange so that it can be sent again on a new connection.

        This is safe only if nothing was sent, or if it `only_reads`.
        """
        self.out = self._first
        self._taken = 0
        self.untouched = True
        self.is_stale = False
        self.needs_new_connection = True

    def begin(self, reader: ReplyReader, has_pushes: bool) -> None:
        """Set the parser of the exchange's connection. Nothing is sent yet.

        With RESP3 (`has_pushes`) a node may send pushes, which are no replies.
        """
        self._reader = reader
        self._has_pushes = has_pushes
        if self.watcher is not None:
            self.watcher.connected()

    def sent(self, size: int) -> Buffer | None:
        """Return the new `out`, after the socket has accepted `size` bytes of it."""
        self.untouched = False
        out = self.out
        if self.watcher is not None:
            self.watcher.sent(size)
        if self._pieces is not None:
            self._taken += size
        if size != len(out):  # type: ignore[arg-type]
            self.out = memoryview(out)[size:]  # type: ignore[arg-type]
        elif self._pieces is None:
            self.out = None
        else:
            self.out = next(self._pieces, None)
        return self.out

    def feed(self, data: Buffer, size: int = -1) -> bool:
        """Parse what the node sent; return whether all replies have come.

        Args:
            size: how many bytes of `data` to parse; -1 for all.

        Raises:
            ProtocolError: this is not RESP, or there are too many replies, or one cannot be
                the answer to its command.
        """
        reader, replies, count = self._reader, self.replies, self.count
        kind = 0
        try:
            reader.feed(data, 0, size)  # type: ignore[arg-type]  # it takes any buffer
            # Never parse more replies than were asked for: the parser does not report a
            # reply that it has begun, and would continue it in the next exchange.
            if count == 1:
                reply = reader.gets()
                if reply is not NO_REPLY:
                    replies.append(reply)
                    kind = data[0] if not self.is_heard else 0
            else:
                replies.extend(islice(iter(reader.gets, NO_REPLY), count - len(replies)))
            if self._has_pushes and (kind in {0, _PUSH} or reader.has_data()):
                kind = 0
                self._drop_pushes()
        except HiredisProtocolError as error:
            # Replies before the error count, but not pushes.
            replies[:] = [reply for reply in replies if type(reply) is not PushNotification]
            raise ProtocolError(f"The node does not speak RESP: {error}") from error
        if self.watcher is not None:
            self.watcher.received(len(data) if size < 0 else size)
        if len(replies) < count:
            self.is_heard = True
            return False
        if self.out is not None or (reader.has_data() and not self._has_pushes):
            raise self.too_much(is_early=self.out is not None)
        if self.is_heard and not reader.is_cut:
            reader.shrink()
        if reader.errors:
            self.has_errors = True
        answers = self.answers
        if answers and not (len(replies) == 1 and answers[0](replies[0], kind)):
            self._check_answers(kind)
        if self.watcher is not None:
            self.watcher.ended()
        return True

    def take(self, reply: Any) -> None:
        """Set the only reply, which was received together with those of other exchanges."""
        self.replies.append(reply)
        self.has_errors = isinstance(reply, Exception)

    def _drop_pushes(self) -> None:
        """Drop pushes from the replies, and parse as many further ones."""
        reader, replies = self._reader, self.replies
        while any(type(reply) is PushNotification for reply in replies) or (
            len(replies) == self.count and reader.has_data()
        ):
            replies[:] = [reply for reply in replies if type(reply) is not PushNotification]
            missing = self.count - len(replies)
            if missing:
                replies.extend(islice(iter(reader.gets, NO_REPLY), missing))
                continue
            further = reader.gets()
            if further is NO_REPLY:
                reader.is_cut = True
                return
            if type(further) is not PushNotification:
                raise self.too_much()

    def _check_answers(self, kind: int) -> None:
        for reply, is_answer in zip(self.replies, cycle(self.answers), strict=False):
            if not is_answer(reply, kind) and not isinstance(reply, Exception):
                command = self.commands()[self.replies.index(reply)]
                # Its other replies may belong to other commands as well.
                self.replies.clear()
                name = encode_key(command[0]).decode()
                raise ProtocolError(
                    f"Unexpected reply of the node to {name}: {_described(reply)}"
                )

    def too_much(self, *, is_early: bool = False) -> ProtocolError:
        """Drop all replies and return the error: there was one too many, and it may be any.

        Args:
            is_early: not everything was sent to the node yet.
        """
        said = self._reader.errors[-1:]
        self.replies.clear()
        if is_early and said:
            return RefusedEarly(f"The node refused the request: {said[0]}")
        return ProtocolError("The node sent more replies than expected")

    def fail(self, error: Exception) -> None:
        """End with an error; the replies so far are kept."""
        self.error = error
        self.has_errors = True
        if self.watcher is not None:
            self.watcher.ended()


class CommandExchange(Exchange):
    """One command.

    Raises:
        UnroutableCommand: it changes the connection, which others use after it.
    """

    def __init__(self, host_id: int, args: Args) -> None:
        try:
            if args[0] not in HARMLESS:
                check_shareable(args)
        except (IndexError, TypeError):  # no name, or one in a buffer
            check_shareable(args)
        self._args = args
        out = pack_small(args)
        if out is None:
            pieces = encode_large(args)
            Exchange.__init__(self, host_id, next(pieces), 1, pieces)
        else:
            Exchange.__init__(self, host_id, out)

    def commands(self) -> Sequence[Args]:  # noqa: D102 (as in Exchange)
        return (self._args,)

    def names(self) -> Sequence[Arg]:  # noqa: D102 (as in Exchange)
        return (self._args[0],)

    def start_over(self) -> None:  # noqa: D102 (as in Exchange)
        super().start_over()
        if self._pieces is not None:
            self._pieces = encode_large(self._args)
            self.out = next(self._pieces)


class PipelineExchange(Exchange):
    """Several commands, encoded as they are sent.

    The first piece is encoded at once, so that errors there are raised before anything is sent.

    Args:
        is_checked: they were checked when they were first sent; ASKING, which may have been
            added, affects only the next command.

    Raises:
        UnroutableCommand: one of them changes the connection, which others use after it.
    """

    def __init__(
        self, host_id: int, commands: Sequence[Args], *, is_checked: bool = False
    ) -> None:
        if not is_checked:
            check_all_shareable(commands)
        pieces = encode(commands)
        super().__init__(host_id, next(pieces), len(commands), pieces)
        self._commands = commands

    def commands(self) -> Sequence[Args]:  # noqa: D102 (as in Exchange)
        return self._commands

    def names(self) -> Sequence[Arg]:  # noqa: D102 (as in Exchange)
        return [command[0] for command in self._commands]

    def start_over(self) -> None:  # noqa: D102 (as in Exchange)
        super().start_over()
        self._pieces = encode(self._commands)
        self.out = next(self._pieces)


class KeysExchange(Exchange):
    """One command whose arguments are keys.

    It is encoded when it is sent, while the nodes before it are already working.

    Raises:
        UnroutableCommand: it changes the connection, which others use after it.
    """

    def __init__(self, host_id: int, name: bytes, keys: Sequence[bytes]) -> None:
        if name not in HARMLESS:
            check_shareable((name, *keys))
        super().__init__(host_id, b"")
        self.name = name
        self.keys = keys

    def commands(self) -> Sequence[Args]:  # noqa: D102 (as in Exchange)
        return ((self.name, *self.keys),)

    def names(self) -> Sequence[Arg]:  # noqa: D102 (as in Exchange)
        return (self.name,)

    def begin(self, reader: ReplyReader, has_pushes: bool) -> None:  # noqa: D102 (as in Exchange)
        self.out = self._first = encode_keys(self.name, self.keys)
        super().begin(reader, has_pushes)


def _parsed(encoded: Buffer) -> list[Args]:
    reader = Reader(notEnoughData=NO_REPLY)
    reader.feed(bytes(encoded))
    return [tuple(words) for words in iter(reader.gets, NO_REPLY)]


def _described(reply: object) -> str:
    if isinstance(reply, list):
        return f"an array of {len(reply)}"
    if isinstance(reply, bytes):
        return f"a string of {len(reply)} bytes"
    return "nil" if reply is None else f"the number {reply}"


# A transport runs it: it yields the exchanges of a round, each of which then has its replies or
# its error, and returns the result of the batch.
Batch: TypeAlias = Generator[Sequence[Exchange], None, T]
