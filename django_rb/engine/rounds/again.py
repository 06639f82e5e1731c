"""Second looks: which commands are sent again after a round, where, and in what form.

Batches do not deal with this. After each round of a batch, the transport checks whether
something `asks_for_more`, and runs the rounds of `look_again`; their replies replace the first
ones before the batch goes on. `with_second_looks` includes these rounds in a batch, for
observers. If nothing has to be sent again, this costs one check of each exchange.

If a node does not have a script (NOSCRIPT), its source is sent instead of its digest. All other
replies that send a command elsewhere, or back for later, are handled in `redirects`.

An exchange whose idle connection turned out to be closed (`is_stale`, see `may_go_again`)
goes again as a whole, on a new connection.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain, repeat
from typing import TypeVar

from ..errors import at_node
from ..protocol.answers import answer_to, is_anything, is_ok
from ..protocol.commands import name_of
from ..protocol.encoding import Args, encode_key
from ..protocol.exchange import Batch, Exchange, IsAnswer, PipelineExchange
from ..protocol.interludes import Pause
from ..protocol.scripts import with_source
from .port import Layout, Port, Rounds
from .redirects import (
    SOURCE,
    Errand,
    Journey,
    address_later,
    errands_of,
    joined,
    note_answers,
    questions_after,
    settle,
)

T = TypeVar("T")

# How many rounds with commands that are sent again may follow one round of a batch.
_MOST_ROUNDS = 16


def may_go_again(exchange: Exchange, error: Exception) -> bool:
    """Return whether an exchange whose idle connection failed may be sent again.

    This is safe if the node had closed the connection, nothing was received on it, and either
    nothing was sent or all commands are read-only.
    """
    is_closed = isinstance(error, OSError) and not isinstance(error, TimeoutError)
    return (
        is_closed
        and not exchange.is_heard
        and not exchange.needs_new_connection
        and (exchange.untouched or exchange.only_reads)
    )


def with_second_looks(port: Port, batch: Batch[T]) -> Batch[T]:
    """Return a batch that sends commands again if their replies ask for it.

    Error replies then name their node.
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
    """Return whether something may have to be sent again after a round of these exchanges."""
    for exchange in exchanges:  # noqa: SIM110 (a generator would take three times as long)
        if exchange.has_errors or exchange.is_stale:
            return True
    return False


def look_again(
    port: Port, exchanges: Sequence[Exchange], journey: Journey | None = None
) -> Rounds:
    """Yield the rounds that follow from the replies to some exchanges."""
    stale = [exchange for exchange in exchanges if exchange.is_stale]
    if stale:
        for exchange in stale:
            exchange.start_over()
        yield stale
    yield from _look_elsewhere(port, port.layout, exchanges, journey or Journey())


def _look_elsewhere(
    port: Port, layout: Layout, exchanges: Sequence[Exchange], journey: Journey
) -> Rounds:
    """Yield the rounds after nodes have redirected commands, or asked to try them later."""
    errands = [
        errand
        for exchange in exchanges
        if exchange.has_errors and not exchange.is_question
        for errand in errands_of(layout, exchange, _errors_of(port, exchange))
    ]
    if not errands:
        return
    if questions := questions_after(errands):
        yield list(questions)
        note_answers(layout, questions)
    yield from layout.look_if_due()
    if journey.rounds >= _MOST_ROUNDS - 1:
        return
    now, later = settle(layout, errands)
    if now:
        if journey.pause_in_circle:
            yield Pause(journey.pause_in_circle)
        yield from _send(port, now, journey)
    if later and journey.rounds < _MOST_ROUNDS - 1:
        seconds = journey.next_pause(layout)
        if seconds is not None:
            pause = Pause(seconds)
            yield pause
            if not pause.is_over:
                yield from layout.look_if_due()
                address_later(layout, later)
                yield from _send(port, later, journey)


def _send(port: Port, errands: Sequence[Errand], journey: Journey) -> Rounds:
    """Yield the round in which errands are sent, and those that follow from it.

    Their replies take the places of the first ones.
    """
    journey.rounds += 1
    by_host: dict[int, list[Errand]] = defaultdict(list)
    for errand in errands:
        assert errand.host_id is not None
        by_host[errand.host_id].append(errand)
    again = [_make_exchange(host_id, share) for host_id, share in by_host.items()]
    yield again
    if asks_for_more(again):
        yield from look_again(port, again, journey)
    changed = dict.fromkeys(errand.first for errand in errands)
    for first in changed:
        first.went_on = True
        if first.error is not None:  # what it did not answer was sent elsewhere, or stays so
            first.replies += repeat(first.error, first.count - len(first.replies))
            first.error = None
    for exchange, share in zip(again, by_host.values(), strict=True):
        answers = chain(exchange.replies, repeat(exchange.error))
        for errand in share:
            if errand.with_asking:
                next(answers)
            errand.first.replies[errand.position] = (
                joined([next(answers) for _ in errand.parts]) if errand.parts else next(answers)
            )
    for first in changed:
        first.has_errors = any(isinstance(reply, Exception) for reply in first.replies)
        if first.on_done is not None and not first.has_errors:
            first.on_done(first)


def _make_exchange(host_id: int, errands: Sequence[Errand]) -> Exchange:
    """Return an exchange that sends errands to a host."""
    commands: list[Args] = []
    answers: list[IsAnswer] = []
    bound: set[int] = set()
    with_sources: set[bytes] = set()
    for errand in errands:
        command = errand.command
        if errand.parts:
            commands += errand.parts
            answers += [answer_to((name_of(part), *part[1:])) for part in errand.parts]
            continue
        if errand.with_asking:
            commands.append((b"ASKING",))
            answers.append(is_ok)
        if errand.why == SOURCE:
            digest = encode_key(command[1])
            if digest not in with_sources:  # the first brings the source along
                command = with_source(command) or command
                with_sources.add(digest)
        if errand.is_bound:
            bound.add(len(commands))
        commands.append(command)
        answers.append(_answer_to(errand.first, errand.position))
    exchange = PipelineExchange(host_id, commands, is_checked=True)
    exchange.answers, exchange.bound = answers, bound
    exchange.is_for_primary = any(errand.first.is_for_primary for errand in errands)
    # Each error once: otherwise their number would multiply from round to round.
    before = (first.tried for first in dict.fromkeys(errand.first for errand in errands))
    errors = (errand.error for errand in errands)
    exchange.tried = tuple(dict.fromkeys(chain(*before, errors)))
    return exchange


def _answer_to(exchange: Exchange, position: int) -> IsAnswer:
    """Return the function that checks replies to one of the commands of an exchange."""
    answers = exchange.answers
    return answers[position % len(answers)] if answers else is_anything


def _errors_of(port: Port, exchange: Exchange) -> Iterator[tuple[int, Exception, Args]]:
    """Yield the error replies of an exchange, which name their node now, and their commands."""
    address = port.get_address(exchange.host_id)
    commands: Sequence[Args] | None = None
    for position, reply in enumerate(exchange.replies):
        if isinstance(reply, Exception):
            if commands is None:  # to parse them takes long, if they are many
                commands = exchange.commands()
            # By now another node may have the host id.
            said_by = getattr(reply, "said_by", address)
            reply.args = (at_node(reply, exchange.host_id, said_by, port.alias),)
            if position < len(commands):
                yield position, reply, commands[position]
