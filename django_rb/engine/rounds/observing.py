"""Observers, which are called for the batches that a cluster runs, and the events they get.

class Slow(Observer):
    def exchange_ended(self, exchange):
        if exchange.seconds > 0.1:
            print(exchange.address, exchange.names, exchange.seconds)

cluster.observers = (*cluster.observers, Slow())

Their methods are called in the thread or task that runs a batch; `exchange_ended` when the
round of the exchange has ended. A cluster without observers creates no events.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from time import perf_counter
from typing import Any, Protocol

from ..protocol.encoding import Args, encode_key
from ..protocol.exchange import Exchange
from ..wording import get_logger

Command = tuple[str | bytes, ...]

logger = get_logger("django_rb.observers")

# Commands whose arguments are passwords.
_SECRET = ("AUTH", "HELLO")


@dataclass(eq=False, kw_only=True, slots=True)
class BatchEvent:
    """A call, whose commands are a batch.

    A command or a pipeline of a local client is one as well, with the operation "local".

    Attributes:
        operation: the name of the call, such as "get" or "get_many".
        rounds: how many rounds have begun, except for those that ask who owns which slots.
        commands: how many commands were to be sent; one that is sent again counts once.
        began: when it began, as `time.perf_counter()`.
        hits, misses: how many keys a cache has found, and how many not; keys that are not read
            through a cache count as neither.
        near: how many keys were answered by near copies; those that exist are hits, too.
        warmed: how many of the hits came from the layout that a cache is warmed from.
        seconds: its duration; 0 until it has ended.
        error: the exception that it raised, or else the first error of a node that no second
            look has resolved; None until it has ended.
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
    """The commands that were sent to one node in one round of a batch, and how that ended.

    For local clients, replies are not observed: `seconds` is the time for sending.

    Attributes:
        batch: the batch.
        host_id, address: the node.
        count: how many commands.
        bytes_out, bytes_in: how many bytes were sent and received; nothing was sent if
            `bytes_out` is 0.
        began: when it had a connection, as `time.perf_counter()`; without a connection, when
            its round began.
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
        """Return the commands, each as its name and its arguments as bytes.

        Arguments that are passwords (of AUTH and HELLO) are left out. Empty if the commands
        are not known.
        """
        return [_to_command(args) for args in self._exchange.commands()]


class Observer:
    """The base class of observers; override the methods that you need.

    Exceptions of a method are logged, once for each observer, and the call goes on; only
    `before_use` can stop it. Calls that an observer itself makes are not observed.
    """

    def before_use(self) -> None:
        """Something is about to be sent, or a local client is about to connect.

        If this raises, nothing is sent, and the caller gets the exception.
        """

    def batch_began(self, batch: BatchEvent) -> None:
        """A batch begins. Nothing was sent yet."""

    def round_began(self, batch: BatchEvent) -> None:
        """A round of a batch begins."""

    def exchange_ended(self, exchange: ExchangeEvent) -> None:
        """An exchange has its replies or its error. Called each time that it was sent."""

    def batch_ended(self, batch: BatchEvent) -> None:
        """A batch has ended: `seconds` and `error` are known."""

    def call_ended(self, batch: BatchEvent, exchanges: Sequence[ExchangeEvent]) -> None:
        """A batch has ended; one call with all its exchanges.

        Args:
            exchanges: in the order in which they ended; empty if nothing was to be sent.
        """


class Observed(Protocol):
    """The part of a cluster that this module uses."""

    observers: Sequence[Observer]


_changing = threading.Lock()
# .is_telling: an observer is being told; .batch: the event of the batch that is at work
here = threading.local()


def add_observer(cluster: Observed, observer: Observer) -> None:
    """Add an observer to a cluster, unless it was added before."""
    with _changing:
        cluster.observers = (*_others(cluster, observer), observer)


def remove_observer(cluster: Observed, observer: Observer) -> None:
    """Remove an observer; it is not called for further batches."""
    with _changing:
        cluster.observers = tuple(_others(cluster, observer))


def _others(cluster: Observed, observer: Observer) -> Iterable[Observer]:
    return (other for other in cluster.observers if other is not observer)


def begin_use(cluster: Observed) -> Sequence[Observer]:
    """Return the observers to call; raise what `before_use` raises."""
    if getattr(here, "is_telling", False):
        return ()
    for observer in cluster.observers:
        observer.before_use()
    return cluster.observers  # read again: before_use() may have changed it


def tell(observers: Sequence[Observer], name: str, *events: object) -> None:
    """Call a method of each observer."""
    here.is_telling = True
    try:
        for observer in observers:
            try:
                getattr(observer, name)(*events)
            except Exception:
                if not getattr(observer, "_has_failed", False):
                    observer._has_failed = True  # type: ignore[attr-defined]  # noqa: SLF001
                    logger.exception(
                        "The observer %r failed. Further failures of it are not logged.",
                        observer,
                    )
    finally:
        here.is_telling = False


def tell_found(hits: int, misses: int, *, near: int = 0, warmed: int = 0) -> None:
    """Report, from within a batch, how many keys were found, and how many not.

    Args:
        near: how many keys near copies answered.
        warmed: how many further hits came from the previous layout.
    """
    batch: BatchEvent | None = getattr(here, "batch", None)
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
