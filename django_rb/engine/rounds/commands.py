"""Batches of any commands, for the clients, which also decide on which nodes they run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, chain, groupby, islice, repeat
from operator import itemgetter
from typing import Any

from ..protocol.answers import answers_to
from ..protocol.encoding import Args, Key
from ..protocol.exchange import Batch, Exchange, PipelineExchange

# Commands with exactly this many words are merged; with more they have options.
_MERGED = {"GET": (2, "MGET"), "SET": (3, "MSET")}


def run_commands(
    owners: Sequence[int],
    commands: Sequence[Args],
    *,
    merge: bool = False,
    slot_of: Callable[[Key], int | None] | None = None,
    bound: Container[int] = (),
    max_concurrency: int | None = None,
    for_primary: bool = False,
    follows_redirects: bool = True,
) -> Batch[list[Any]]:
    """Run any commands, each on the host whose id `owners` has at the same position.

    Returns the replies, in the order of the commands; exceptions for failures and error
    replies. Commands for one node run in their order, except that one whose script the node
    lacks is sent again after the others.

    Args:
        owners: host ids.
        commands: the commands, names in upper case as str.
        merge: send adjacent GETs to a node as MGET, and SETs without options as MSET.
        slot_of: returns the slot of a key, if nodes refuse commands on keys of several slots.
        bound: positions of commands that are for their node only, whatever their keys.
        max_concurrency: how many nodes are asked at the same time; None for all.
        for_primary: replicas must not run them, though some only read.
        follows_redirects: whether independent nodes may send them to other ones.
    """
    replies: list[Any] = [None] * len(commands)
    shares: dict[int, list[int]] = defaultdict(list)
    for position, owner in enumerate(owners):
        shares[owner].append(position)
    hosts = list(shares)
    step = max_concurrency or len(hosts) or 1
    for first in range(0, len(hosts), step):
        chosen = {host_id: shares[host_id] for host_id in hosts[first : first + step]}
        yield from _run_shares(
            chosen,
            commands,
            replies,
            slot_of,
            bound,
            merge=merge,
            for_primary=for_primary,
            follows_redirects=follows_redirects,
        )
    return replies


def _run_shares(
    shares: Mapping[int, list[int]],
    commands: Sequence[Args],
    replies: list[Any],
    slot_of: Callable[[Key], int | None] | None,
    bound: Container[int],
    *,
    merge: bool,
    for_primary: bool,
    follows_redirects: bool,
) -> Batch[None]:
    """Send each node its share, given as positions in `commands`, and fill `replies`."""
    exchanges: list[Exchange] = []
    merged: list[Sequence[int]] = []
    for host_id, share in shares.items():
        sent = [commands[position] for position in share]
        counts: Sequence[int] = ()
        if merge:
            sent, counts = _merged(sent, slot_of)
            if len(sent) == len(share):
                counts = ()  # none was merged
        exchange: Exchange = PipelineExchange(host_id, sent)
        exchange.answers = answers_to(sent)
        exchange.is_for_primary = for_primary
        exchange.follows_redirects = follows_redirects
        if bound:
            firsts = islice(accumulate(counts or repeat(1), initial=0), len(sent))
            starts = [share[first] for first in firsts]
            exchange.bound = {n for n, position in enumerate(starts) if position in bound}
        exchanges.append(exchange)
        merged.append(counts)
    yield exchanges
    for exchange, counts in zip(exchanges, merged, strict=True):
        said: Iterable[Any] = exchange.replies
        if exchange.error is not None:
            said = chain(said, repeat(exchange.error))
        if counts:
            said = _apart(said, counts)
        for position, reply in zip(shares[exchange.host_id], said, strict=False):
            replies[position] = reply


def _merged(
    commands: Iterable[Args], slot_of: Callable[[Key], int | None] | None
) -> tuple[list[Args], list[int]]:
    """Return merged commands, and how many of the given ones each of them replaces."""
    sent: list[Args] = []
    counts: list[int] = []
    for name, named in groupby(commands, _get_name):
        if name not in _MERGED:
            sent += named
            counts += repeat(1, len(sent) - len(counts))
            continue
        mergeable, merged_name = _MERGED[name]
        for size, group in groupby(named, len):
            if size == mergeable:
                for part in (group,) if slot_of is None else _together(group, slot_of):
                    words = list(chain.from_iterable(part))
                    del words[::size]  # the names
                    count = len(words) // (size - 1)
                    sent.append((name if count == 1 else merged_name, *words))
                    counts.append(count)
            else:
                sent += group
                counts += repeat(1, len(sent) - len(counts))
    return sent, counts


def _together(
    commands: Iterable[Args], slot_of: Callable[[Key], int | None]
) -> Iterator[Iterable[Args]]:
    """Yield commands in groups of neighbours whose keys share a slot."""
    return (part for _, part in groupby(commands, lambda args: slot_of(args[1])))


_get_name = itemgetter(0)


def _apart(said: Iterable[Any], counts: Iterable[int]) -> Iterator[Any]:
    """Yield a reply for each of the original commands, some of which were merged."""
    for reply, count in zip(said, counts, strict=False):
        if count > 1 and isinstance(reply, list):
            yield from reply  # MGET
        else:
            yield from repeat(reply, count)
