"""Second looks: which commands go again after a round, where, and in what form.

A batch knows nothing of them. After each of its rounds whoever drives it looks whether
something `asks_for_more`, and runs the rounds of `look_again`; their replies take the places
of the first ones before the batch goes on. `with_second_looks` makes that a batch again, for
who wants to see all rounds. Where all goes well it is one look at each exchange.

`what_next` is the one function that decides about a reply:

    NOSCRIPT    the script itself is sent in place of its digest

An exchange whose idle connection turned out to be closed (`is_stale`, see `may_go_again`)
goes again as a whole, on a new connection.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator, Iterator, Sequence
from itertools import chain, repeat
from typing import TypeVar

from redis.exceptions import NoScriptError

from ..errors import at_node
from ..protocol.answers import is_anything
from ..protocol.encoding import Args, encode_key
from ..protocol.exchange import Batch, Exchange, IsAnswer, PipelineExchange
from ..protocol.scripts import with_source
from .port import Port

T = TypeVar("T")

# Rounds of one batch in which commands may go again after one of its own.
_MOST_ROUNDS = 16

_Rounds = Generator[Sequence[Exchange], None, None]


def may_go_again(exchange: Exchange, error: Exception) -> bool:
    """Return whether an exchange may be sent again whose idle connection failed.

    So it is where the node had closed the connection, nothing came back on it, and either
    nothing was sent or all commands are read-only.
    """
    is_closed = isinstance(error, OSError) and not isinstance(error, TimeoutError)
    return (
        is_closed
        and not exchange.is_heard
        and not exchange.needs_new_connection
        and (exchange.untouched or exchange.only_reads)
    )


def what_next(reply: Exception, command: Args) -> Args | None:
    """Return the command that is to be sent because of an error reply; None for nothing."""
    if isinstance(reply, NoScriptError):
        return with_source(command)
    return None


def with_second_looks(port: Port, batch: Batch[T]) -> Batch[T]:
    """Return a batch that sends commands again where their replies ask for it.

    Error replies name their node from then on.
    """
    try:
        while True:
            exchanges = next(batch)
            yield exchanges
            if asks_for_more(exchanges):
                yield from look_again(port, exchanges)
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        batch.close()


def asks_for_more(exchanges: Sequence[Exchange]) -> bool:
    """Return whether something may have to go again after a round of these exchanges."""
    for exchange in exchanges:  # noqa: SIM110 (a generator would take three times as long)
        if exchange.has_errors or exchange.is_stale:
            return True
    return False


def look_again(port: Port, exchanges: Sequence[Exchange], rounds: int = 1) -> _Rounds:
    """Yield the rounds that follow from the replies to some exchanges."""
    stale = [exchange for exchange in exchanges if exchange.is_stale]
    if stale:
        for exchange in stale:
            exchange.start_over()
        yield stale
    places, commands = _following(port, exchanges, may_follow=rounds < _MOST_ROUNDS)
    if not places:
        return
    again = [PipelineExchange(host_id, commands[host_id]) for host_id in places]
    for exchange in again:
        exchange.answers = [_answer_to(*place) for place in places[exchange.host_id]]
    yield again
    if asks_for_more(again):
        yield from look_again(port, again, rounds + 1)
    changed = set()
    for exchange in again:
        answers = chain(exchange.replies, repeat(exchange.error))
        for (first, position), reply in zip(places[exchange.host_id], answers, strict=False):
            first.replies[position] = reply
            changed.add(first)
    for exchange in changed:
        exchange.has_errors = any(isinstance(reply, Exception) for reply in exchange.replies)
        if exchange.on_done is not None and not exchange.has_errors:
            exchange.on_done(exchange)


def _answer_to(exchange: Exchange, position: int) -> IsAnswer:
    """Return what tells whether a reply can answer one of the commands of an exchange."""
    answers = exchange.answers
    return answers[position % len(answers)] if answers else is_anything


# By host id: the places of the replies that are to be replaced, and the commands to send.
_Following = tuple[dict[int, list[tuple[Exchange, int]]], dict[int, list[Args]]]


def _following(port: Port, exchanges: Sequence[Exchange], *, may_follow: bool) -> _Following:
    """Return what is to be sent because of the error replies to some exchanges."""
    places: dict[int, list[tuple[Exchange, int]]] = defaultdict(list)
    commands: dict[int, list[Args]] = defaultdict(list)
    with_sources: set[tuple[int, bytes]] = set()
    for exchange in exchanges:
        if not exchange.has_errors:
            continue
        host_id = exchange.host_id
        for position, reply, command in _errors_of(port, exchange):
            following = what_next(reply, command) if may_follow else None
            if following is None:
                continue
            script = (host_id, encode_key(command[1]))
            if script in with_sources:  # the first brings the source along
                following = command
            with_sources.add(script)
            places[host_id].append((exchange, position))
            commands[host_id].append(following)
    return places, commands


def _errors_of(port: Port, exchange: Exchange) -> Iterator[tuple[int, Exception, Args]]:
    """Yield the error replies of an exchange, which name their node now, and their commands."""
    address = port.get_address(exchange.host_id)
    commands = exchange.commands()
    for position, reply in enumerate(exchange.replies):
        if isinstance(reply, Exception):
            reply.args = (at_node(reply, exchange.host_id, address, port.alias),)
            if position < len(commands):
                yield position, reply, commands[position]
