"""Redirects: which commands are sent again after error replies of nodes, and where.

    MOVED         to the slot's new owner, which is remembered at once
    ASK           to the node it names, with ASKING ahead; nothing is remembered
    TRYAGAIN      key by key, if it is a command that does the same for each of its keys (MGET,
                  UNLINK); else as it is, a little later
    CLUSTERDOWN   to the owner, as far as it is known by then, a little later
    LOADING, MASTERDOWN, READONLY, BUSY
                  to the owner, if that is another node by now
    REDIRECT      to the primary it names, which is remembered at once (no Redis Cluster; a
                  little later, where nodes name each other)

If a connection failed and another node owns the slot by now, commands that were not sent, or
that only read, go there. Commands that only read keys may go to a replica as well, if READ_FROM
allows it.
Commands on keys of one slot are sent again together, in their order. A command that a node has
executed is never sent again.

https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#redirection-and-resharding
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from time import monotonic
from typing import Any

from redis import exceptions as redis_errors

from ..errors import MOVABLE, NodeBusy, Redirected, UnroutableCommand, is_from
from ..nodes.failing import DeadlineError, is_own_lack
from ..nodes.node import PoolIsFull
from ..protocol.commands import SPLITTABLE, keys_of, name_of, reads_keys
from ..protocol.encoding import Args, encode_key
from ..protocol.exchange import Exchange, PipelineExchange
from ..protocol.scripts import with_source
from .port import Layout

MOVED, ASK, LATER, ELSEWHERE = "MOVED", "ASK", "LATER", "ELSEWHERE"
SPLIT, SOURCE = "SPLIT", "SOURCE"

# Seconds of the first pause; it grows from round to round up to the last.
_FIRST_PAUSE, _LAST_PAUSE = 0.01, 0.25

# How many redirects of one call are followed at once. Further ones may be a loop.
_AT_ONCE = 4


@dataclass(slots=True)
class Errand:
    """A command that may have to be sent again.

    Attributes:
        first, position: the exchange that it belongs to, and its place there.
        command: what is sent.
        slot: of its keys; None if it is for one host, whatever its keys.
        error: its error reply, or the error of its connection.
        why: how to continue after the error; see `why_again`.
        host_id: where it goes; None as long as that is not known.
        with_asking: ASKING is sent before it.
        is_bound: it is for one host and no other.
        parts: the commands that are sent instead, if it was split.
        is_redirected: the node that was asked has replied REDIRECT.
    """

    first: Exchange
    position: int
    command: Args
    slot: int | None
    error: Exception
    why: str
    host_id: int | None = None
    with_asking: bool = False
    is_bound: bool = False
    parts: Sequence[Args] = ()
    is_redirected: bool = False

    @property
    def reads(self) -> bool:
        """Whether it only reads keys, so that a replica can run it."""
        first = self.first
        return not (self.is_bound or first.is_for_primary) and reads_keys(self.command)


class Journey:
    """The redirects and pauses of one call so far.

    Attributes:
        rounds: the number of rounds in which commands were sent again.
    """

    def __init__(self) -> None:
        self.rounds = 0
        self._waits = 0
        self._until = 0.0

    def next_pause(self, layout: Layout) -> float | None:
        """Return for how many seconds to wait before a next try; None if it is too late."""
        now = monotonic()
        if not self._waits:
            self._until = now + (layout.patience if layout.may_wait() else 0.0)
        if now >= self._until:
            return None
        pause = min(_LAST_PAUSE, _FIRST_PAUSE * 2.0**self._waits) * random.uniform(0.5, 1)
        self._waits += 1
        return min(pause, self._until - now)

    @property
    def pause_in_circle(self) -> float:
        """Return the seconds to wait before redirects are followed; 0 after few of them."""
        if self.rounds < _AT_ONCE:
            return 0.0
        return random.uniform(0.5, 1) * _FIRST_PAUSE * (self.rounds - _AT_ONCE + 1)


def why_again(reply: Exception, command: Args) -> str | None:
    """Return how to continue after an error reply; None if it is final."""
    if isinstance(reply, redis_errors.NoScriptError):
        return SOURCE
    # MasterDownError is a ClusterDownError, too.
    if isinstance(reply, (*MOVABLE, NodeBusy)):
        return ELSEWHERE
    if isinstance(reply, redis_errors.ClusterDownError | redis_errors.TryAgainError):
        is_apart = isinstance(reply, redis_errors.TryAgainError) and parts_of(command)
        return SPLIT if is_apart else LATER
    if isinstance(reply, redis_errors.ResponseError):
        code, _, rest = str(reply).partition(" ")
        if code in {MOVED, ASK}:
            return code
        if "READONLY" in rest and encode_key(command[0]).upper().startswith(_RUN_SCRIPTS):
            return ELSEWHERE  # the server's error, wrapped in a script's error
    return None


_RUN_SCRIPTS = (b"EVAL", b"FCALL")


def parts_of(command: Args) -> list[Args]:
    """Return a command for each key, of one that does the same for each of several keys.

    MSET is none: it sets all keys of a slot, or none.
    """
    with suppress(UnroutableCommand):
        split = SPLITTABLE.get(name_of(command))
        if split is not None and split.step == 1 and len(command) > 2:
            return [(command[0], key) for key in command[1:]]
    return []


def joined(replies: Sequence[Any]) -> Any:
    """Return the reply to a command from those to its parts; an error if one of them is."""
    for reply in replies:
        if isinstance(reply, Exception):
            return reply
    return list(chain(*replies)) if isinstance(replies[0], list) else sum(replies)


def errands_of(
    layout: Layout, exchange: Exchange, errors: Iterable[tuple[int, Exception, Args]]
) -> Iterator[Errand]:
    """Yield the commands of an exchange that may be sent again.

    Args:
        errors: its error replies, with their positions and commands.
    """
    host_id, bound = exchange.host_id, exchange.bound
    for position, reply, command in errors:
        why = why_again(reply, command)
        if why is None:
            continue
        is_bound = position in bound
        slot = None if is_bound else slot_of(layout, command)
        target: int | None = None
        if why == SOURCE:
            if with_source(command) is not None:
                yield Errand(exchange, position, command, slot, reply, why, host_id)
            continue
        if slot is None:
            if why != ELSEWHERE or not exchange.follows_redirects:
                continue
            _note_refusal(layout, host_id, reply, command)
        elif why in {MOVED, ASK}:
            address = _address_in(reply, slot)
            if address is None:
                continue
            if why == MOVED:
                layout.note_moved(slot, address, host_id)
            else:
                target = layout.find(address, host_id)
        elif isinstance(reply, redis_errors.ClusterDownError) or why == ELSEWHERE:
            layout.want_look()
        errand = Errand(
            exchange, position, command, slot, reply, why, target, why == ASK, is_bound
        )
        errand.is_redirected = isinstance(reply, Redirected)
        yield errand
    if exchange.error is not None:
        yield from _unanswered(layout, exchange, exchange.error)


def _note_refusal(layout: Layout, host_id: int, reply: Exception, command: Args) -> None:
    if isinstance(reply, Redirected):
        layout.note_redirected(host_id, reply, question_about(command))
    layout.want_look()


def _unanswered(layout: Layout, exchange: Exchange, error: Exception) -> Iterator[Errand]:
    """Yield what may go to another node of an exchange whose connection failed."""
    if not (layout.may_be_elsewhere(exchange.host_id) and _is_in_no_doubt(exchange, error)):
        return
    layout.want_look()
    commands = exchange.commands()
    for position in range(len(exchange.replies), len(commands)):
        command = commands[position]
        is_bound = position in exchange.bound
        slot = None if is_bound else slot_of(layout, command)
        errand = Errand(exchange, position, command, slot, error, ELSEWHERE)
        errand.is_bound = is_bound
        yield errand


def _address_in(reply: Exception, slot: int) -> str | None:
    """Return the address in ``MOVED 7 10.0.0.1:6379``, None if it is unusable."""
    words = str(reply).split(" ")
    return words[2] if len(words) > 2 and words[1] == str(slot) else None


def _is_in_no_doubt(exchange: Exchange, error: Exception) -> bool:
    """Return whether what failed may be sent to another node."""
    is_nodes_failure = isinstance(
        error, redis_errors.ConnectionError | redis_errors.TimeoutError
    ) and not (
        isinstance(error, PoolIsFull)
        or isinstance(error.__cause__, DeadlineError)
        or is_own_lack(error)
    )
    return is_nodes_failure and (exchange.untouched or exchange.only_reads)


def slot_of(layout: Layout, command: Args) -> int | None:
    """Return the slot of a command's keys, None if it has none."""
    with suppress(UnroutableCommand):
        for key in keys_of(command)[:1]:
            return layout.get_slot(key)
    return None


def settle(layout: Layout, errands: Sequence[Errand]) -> tuple[list[Errand], list[Errand]]:
    """Decide which errands go at once, and where, and which after a pause.

    Errands that are in neither list are not sent again.
    """
    by_slot: dict[object, list[Errand]] = {}
    for errand in errands:
        place = (id(errand.first), errand.position) if errand.slot is None else errand.slot
        by_slot.setdefault(place, []).append(errand)
    now: list[Errand] = []
    later: list[Errand] = []
    for group in by_slot.values():
        reasons = {errand.why for errand in group}
        if LATER in reasons:
            for errand in group:
                errand.with_asking, errand.why = False, LATER
            later += group
            continue
        if SPLIT in reasons:
            # Key by key, the owner redirects only the commands on keys that it no longer has.
            for errand in group:
                errand.with_asking, errand.host_id = False, None
                if errand.why == SPLIT:
                    errand.parts = parts_of(errand.command)
        last = group[-1]
        if last.why in {MOVED, ELSEWHERE} or last.host_id is None:
            reads = all(errand.reads for errand in group)
            last.host_id = _find_owner(layout, last, reads=reads)
        if last.host_id is None:
            if last.is_redirected or _has_moved_back(layout, last):
                later += group
            continue
        for errand in group:
            errand.host_id, errand.with_asking = last.host_id, last.with_asking
        now += group
    return now, later


def _find_owner(layout: Layout, errand: Errand, *, reads: bool) -> int | None:
    """Return the host that should run a command; None if all have failed.

    Args:
        reads: a replica can run it.
    """
    slot, first = errand.slot, errand.first
    owner = layout.get_shard(first.host_id) if slot is None else layout.get_owner(slot)
    if errand.why != ELSEWHERE:
        return owner
    errors = (*first.tried, errand.error)
    for host_id in layout.get_readers(owner) if reads else (owner,):
        node = layout.get_node(host_id)
        if node is not None and not any(is_from(error, node.address) for error in errors):
            return host_id
    return None


def _has_moved_back(layout: Layout, errand: Errand) -> bool:
    """Return whether a replica refused a write, and its primary did so before."""
    if errand.slot is not None or "READONLY" not in str(errand.error):
        return False
    node = layout.get_node(layout.get_shard(errand.first.host_id))
    return node is not None and not is_from(errand.error, node.address)


def address_later(layout: Layout, errands: Iterable[Errand]) -> None:
    """Send errands after a pause to the owner of their slot, as far as that is known by now."""
    for errand in errands:
        if errand.slot is not None:
            errand.host_id = layout.get_owner(errand.slot)
        else:
            errand.host_id = layout.get_shard(errand.first.host_id)


def question_about(command: Args) -> Args:
    """Return a read, on the same key if there is one, that a replica answers with REDIRECT."""
    with suppress(UnroutableCommand):
        for key in keys_of(command)[:1]:
            return (b"EXISTS", key)
    return (b"DBSIZE",)


def questions_after(errands: Iterable[Errand]) -> dict[Exchange, list[Errand]]:
    """Return questions to nodes that refused writes of scripts, and the errands of each.

    Such a node does not reply REDIRECT, because the script writes, and not its command.
    """
    refused: dict[int, list[Errand]] = defaultdict(list)
    for errand in errands:
        is_script = encode_key(errand.command[0]).upper().startswith(_RUN_SCRIPTS)
        if is_script and errand.slot is None and "READONLY" in str(errand.error):
            refused[errand.first.host_id].append(errand)
    questions: dict[Exchange, list[Errand]] = {}
    for host_id, share in refused.items():
        exchange = PipelineExchange(host_id, [question_about(share[0].command)])
        exchange.is_question, exchange.bound = True, (0,)
        questions[exchange] = share
    return questions


def note_answers(layout: Layout, questions: Mapping[Exchange, Sequence[Errand]]) -> None:
    """Take note of what nodes have answered to `questions_after`."""
    for exchange, share in questions.items():
        for reply in exchange.replies:
            if isinstance(reply, Redirected):
                layout.note_redirected(exchange.host_id, reply, exchange.commands()[0])
                for errand in share:
                    errand.is_redirected = True
