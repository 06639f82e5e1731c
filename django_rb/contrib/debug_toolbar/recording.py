"""Records the calls of one request, separately from those of parallel requests.

A recording is in a context variable, which tasks, the threads of `sync_to_async` and the tasks
that they start inherit. So an observer of all calls of the process knows the request of each.
Clusters have the observer only while at least one request is recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from contextvars import ContextVar
from threading import Lock
from time import perf_counter
from typing import Any, NamedTuple

import redis

from ...cache.keys import loggable
from ...callers import find_caller
from ...engine import UnroutableCommand
from ...engine.protocol.commands import is_read_only, keys_of
from ...engine.protocol.encoding import encode_key
from ...engine.rounds.observing import BatchEvent, ExchangeEvent, Observer
from ...engine.wording import escaped
from ..watching import Watching

Told = dict[str, Any]  # can be serialized as JSON

_MOST_CALLS = 500  # that are shown of a request
_MOST_KEYS = 50  # that are shown of a call


class _Call(NamedTuple):
    told: Told
    keys: list[bytes]
    only_reads: bool


_current: ContextVar[Recording | None] = ContextVar("django_rb_recording", default=None)


class Recording:
    """The calls of one request, between `start` and `stop`.

    Attributes:
        left_out: how many calls were not recorded, because there were too many.
    """

    def __init__(self) -> None:
        self.left_out = 0
        self._calls: list[_Call] = []
        self._began = perf_counter()
        self._is_open = False
        self._before: Recording | None = None

    def start(self) -> None:
        """Start recording the calls of this context. Does nothing the second time."""
        if not self._is_open:
            self._is_open = True
            self._before = _current.get()
            _current.set(self)
            _listeners.add()

    def stop(self) -> None:
        """Stop recording."""
        if self._is_open:
            self._is_open = False
            _current.set(self._before)
            _listeners.remove()

    def add(self, alias: str, batch: BatchEvent, exchanges: Sequence[ExchangeEvent]) -> None:
        """Add a call, unless it sent nothing."""
        if not self._is_open or (not exchanges and batch.error is None):
            return
        if len(self._calls) >= _MOST_CALLS:
            self.left_out += 1
            return
        caller = find_caller()
        commands, keys = _commands_and_keys(exchanges)
        # Caches raise ValueError if a key does not exist.
        error = None if type(batch.error) is ValueError else batch.error
        told: Told = {
            "cluster": alias,
            "operation": batch.operation,
            "at": batch.began - self._began,
            "seconds": batch.seconds,
            "commands": batch.commands,
            "keys": [_shown(key) for key in keys[:_MOST_KEYS]],
            "key_count": len(keys),
            "hits": batch.hits,
            "misses": batch.misses,
            "error": _describe(error),
            "caller": None if caller is None else escaped(caller),
            "nodes": [self._told_of(exchange) for exchange in exchanges],
            "same_as": None,
        }
        only_reads = bool(commands) and all(map(is_read_only, commands))
        self._calls.append(_Call(told, keys, only_reads))

    def told(self) -> list[Told]:
        """Return the calls, in the order in which they began.

        If a call read the same as an earlier one, with no writes in between, the number of the
        earlier one is in "same_as".
        """
        read: dict[tuple[object, ...], int] = {}
        calls = sorted(self._calls, key=lambda call: call.told["at"])
        for number, (told, keys, only_reads) in enumerate(calls, start=1):
            if only_reads and keys:
                question = (told["cluster"], told["operation"], *keys)
                first = read.setdefault(question, number)
                told["same_as"] = None if first == number else first
            elif keys:
                written = set(keys)
                read = {
                    question: number
                    for question, number in read.items()
                    if written.isdisjoint(question[2:])
                }
            else:  # it may have changed any key
                read.clear()
        return [call.told for call in calls]

    def _told_of(self, exchange: ExchangeEvent) -> Told:
        return {
            "host_id": exchange.host_id,
            "address": exchange.address,
            "names": list(exchange.names[:5]),
            "count": exchange.count,
            "at": exchange.began - self._began,
            "seconds": exchange.seconds,
            "bytes_out": exchange.bytes_out,
            "bytes_in": exchange.bytes_in,
            "round": exchange.round,
            "is_again": bool(exchange.redirects),
            "is_question": exchange.is_question,
            "error": _describe(exchange.error),
        }


class Recorder(Observer):
    """Adds each call of a cluster to the recording of its request, if there is one."""

    def __init__(self, alias: str) -> None:
        self._alias = alias

    def call_ended(self, batch: BatchEvent, exchanges: Sequence[ExchangeEvent]) -> None:
        """Record a call."""
        recording = _current.get()
        if recording is not None:
            recording.add(self._alias, batch, exchanges)


class _Listeners:
    """Adds a `Recorder` to all clusters while at least one request is recorded."""

    def __init__(self) -> None:
        self._count = 0
        self._lock = Lock()
        self._watching = Watching(Recorder)

    def add(self) -> None:
        with self._lock:
            self._count += 1
            if self._count == 1:
                self._watching.start()

    def remove(self) -> None:
        with self._lock:
            self._count -= 1
            if self._count == 0:
                self._watching.stop()


_listeners = _Listeners()


def _commands_and_keys(
    exchanges: Sequence[ExchangeEvent],
) -> tuple[list[Any], list[bytes]]:
    """Return the commands of a call, and their keys; resent commands count once."""
    commands: list[Any] = []
    keys: list[bytes] = []
    for exchange in exchanges:
        if exchange.is_question or exchange.redirects:
            continue
        for command in exchange.commands():
            commands.append(command)
            with suppress(UnroutableCommand):
                keys += map(encode_key, keys_of(command))
    return commands, keys


def _shown(key: bytes) -> str:
    """Return a key for display, shortened, as a session's key gives access to it."""
    return escaped(loggable(key))


def _describe(error: BaseException | None) -> str | None:
    """Return an error as text. Only the text of some errors is free of keys and values."""
    if error is None:
        return None
    if isinstance(error, redis.ConnectionError | redis.TimeoutError):
        return escaped(f"{type(error).__name__}: {error}")
    code = str(error).partition(" ")[0]
    if isinstance(error, redis.ResponseError) and code.isupper() and code.isalpha():
        return f"{type(error).__name__}: {code}"
    return type(error).__name__
