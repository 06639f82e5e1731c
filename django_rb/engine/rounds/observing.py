"""Observers: who is told of the batches that a cluster runs, and what they are told.

class Slow(Observer):
    def exchange_ended(self, exchange):
        if exchange.seconds > 0.1:
            print(exchange.address, exchange.names, exchange.seconds)

cluster.observers = (*cluster.observers, Slow())

The thread or task that runs a batch tells of it: of an exchange when the round that it is
part of has ended. A cluster without observers makes none of what is here.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from time import perf_counter
from typing import Any, Protocol, TypeVar

from ..protocol.encoding import Args, encode_key
from ..protocol.exchange import Batch, Exchange
from ..wording import get_logger

T = TypeVar("T")

Command = tuple[str | bytes, ...]

logger = get_logger("django_rb.observers")

# Their arguments are passwords.
_SECRET = ("AUTH", "HELLO")


@dataclass(eq=False, kw_only=True, slots=True)
class BatchEvent:
    """A call, all of whose commands are answered together.

    A command or a pipeline of a local client is one as well, with the operation "local".

    Attributes:
        operation: what was called, as in "get" or "get_many".
        rounds: how many rounds have begun, but for those that ask who owns which slots.
        commands: how many commands were to be sent; what goes again counts once.
        began: when, as `time.perf_counter()`.
        hits, misses: how many keys a cache has found, and how many not; what is not read from
            a cache counts as neither.
        near: how many keys were answered by near copies; those that were found are hits, too.
        warmed: how many of the hits came from the layout that a cache is warmed from.
        seconds: what it took; 0 until it has ended.
        error: what it raised, or else the first error of a node's that was not mended by a
            second look; None until it has ended.
    """

    operation: str
    rounds: int = 0
    commands: int = 0
    began: float = field(default_factory=perf_counter)
    hits: int = 0
    misses: int = 0
    near: int = 0
    warmed: int = 0
    seconds: float = 0.0
    error: BaseException | None = None


@dataclass(eq=False, kw_only=True, slots=True)
class ExchangeEvent:
    """What was sent to one node in one round of a batch, and how it ended.

    Of what local clients send the replies are not seen: `seconds` are those of sending.

    Attributes:
        batch: the batch.
        host_id, address: the node.
        count: how many commands.
        bytes_out, bytes_in: what the socket took, and what came back; nothing was sent where
            `bytes_out` is 0.
        began: when it had a connection, as `time.perf_counter()`; when its round began where
            there was none.
        seconds: from then to the last reply.
        redirects: 1 for a second look, 0 otherwise.
        error: why it failed, or the first error among the replies.
        round: in which round of the batch, from 1.
    """

    batch: BatchEvent
    host_id: int
    address: str
    count: int
    bytes_out: int
    bytes_in: int
    began: float
    seconds: float
    redirects: int
    error: BaseException | None
    round: int
    _exchange: Exchange = field(repr=False)

    @property
    def is_question(self) -> bool:
        """Whether it asks who owns which slots; `round` is then that of the round before."""
        return self._exchange.is_question

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the commands, each once."""
        names = self._exchange.names()
        if len(names) == 1:
            return (_to_name(names[0]),)
        return tuple(dict.fromkeys(map(_to_name, names)))

    def commands(self) -> list[Command]:
        """Return the commands, each its name and its arguments as bytes. Made when called.

        Arguments that are passwords (of AUTH and HELLO) are left out. Empty if the commands
        are not known.
        """
        return [_to_command(args) for args in self._exchange.commands()]


class Observer:
    """Is told what a cluster does; every method may be left out.

    What a method raises is logged, once for each observer, and the call goes on; only
    `before_use` may stop it. What an observer does with the cluster itself is not told.
    """

    def before_use(self) -> None:
        """Something is about to be sent, or a local client is about to connect.

        What this raises is raised where the cluster is used, and nothing is sent.
        """

    def batch_began(self, batch: BatchEvent) -> None:
        """A batch begins. Nothing was sent yet."""

    def round_began(self, batch: BatchEvent) -> None:
        """A round of a batch begins."""

    def exchange_ended(self, exchange: ExchangeEvent) -> None:
        """An exchange has its replies or its error: each time that it is sent, once."""

    def batch_ended(self, batch: BatchEvent) -> None:
        """A batch has ended: `seconds` and `error` are known."""

    def call_ended(self, batch: BatchEvent, exchanges: Sequence[ExchangeEvent]) -> None:
        """A batch has ended; for those who want to know of it once, and of all of it.

        Args:
            exchanges: in the order in which they ended; empty if nothing was to be sent.
        """


class Observed(Protocol):
    """A cluster, as far as this file knows it."""

    observers: Sequence[Observer]


_changing = threading.Lock()
# .is_telling: an observer is being told; .batch: the event of the batch that is at work
_here = threading.local()


def add_observer(cluster: Observed, observer: Observer) -> None:
    """Let an observer know what a cluster does from now on. Once is enough."""
    with _changing:
        cluster.observers = (*_others(cluster, observer), observer)


def remove_observer(cluster: Observed, observer: Observer) -> None:
    """Let an observer know of no further batch."""
    with _changing:
        cluster.observers = tuple(_others(cluster, observer))


def _others(cluster: Observed, observer: Observer) -> Iterable[Observer]:
    return (other for other in cluster.observers if other is not observer)


def begin_use(cluster: Observed) -> Sequence[Observer]:
    """Return who is to be told of a call; raise what `before_use` raises."""
    if getattr(_here, "is_telling", False):
        return ()
    for observer in cluster.observers:
        observer.before_use()
    return cluster.observers  # some may be gone by now


def tell(observers: Sequence[Observer], name: str, *events: object) -> None:
    """Call a method of each observer."""
    _here.is_telling = True
    try:
        for observer in observers:
            try:
                getattr(observer, name)(*events)
            except Exception:
                if not getattr(observer, "_has_failed", False):
                    observer._has_failed = True  # type: ignore[attr-defined]  # noqa: SLF001
                    logger.exception("%r failed; it is not logged again.", observer)
    finally:
        _here.is_telling = False


def go_on(batch: Batch[Any], event: BatchEvent) -> Sequence[Exchange]:
    """Return the next round of a batch; what it says by `tell_found` is put into the event."""
    outer = getattr(_here, "batch", None)
    _here.batch = event
    try:
        return next(batch)
    finally:
        _here.batch = outer


def tell_found(hits: int, misses: int, *, near: int = 0, warmed: int = 0) -> None:
    """From within a batch: say how many keys of it were found, and how many not.

    Args:
        near: how many keys near copies answered.
        warmed: how many hits, told apart, came from the layout before.
    """
    batch: BatchEvent | None = getattr(_here, "batch", None)
    if batch is not None:
        batch.hits += hits
        batch.misses += misses
        batch.near += near
        batch.warmed += warmed


def _to_name(word: Any) -> str:
    if type(word) is bytes or type(word) is str:
        return _text_of(word)
    return _text_of(encode_key(word))


@lru_cache(maxsize=1024)
def _text_of(word: str | bytes) -> str:
    """Return the name of a command as text. There are some hundred names."""
    return encode_key(word).decode(errors="backslashreplace").upper()


def _to_command(args: Args) -> Command:
    name = encode_key(args[0]).decode(errors="backslashreplace")
    if name.upper() in _SECRET:
        return (name,)
    return (name, *map(encode_key, args[1:]))
