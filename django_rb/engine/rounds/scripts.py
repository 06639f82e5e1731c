"""Batches that run scripts, each on the node that owns its key."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any

from ..protocol.encoding import Arg
from ..protocol.exchange import Batch, Exchange, IsAnswer
from ..protocol.scripts import KeyScript, LuaScript
from .batch import call
from .outcomes import Outcome
from .port import Port


def run_script(
    port: Port, key: bytes, script: LuaScript, *args: Arg, answer: IsAnswer | None = None
) -> Batch[Outcome[Any]]:
    """Run a script on the node that owns its key; return its reply, None if it failed."""
    return call(port, key, b"EVALSHA", script.sha, 1, key, *args, answer=answer)


# A script's key, the script, and its arguments as encoded by `encode_words`.
ScriptCall = tuple[bytes, KeyScript, bytes]


def run_scripts(
    port: Port, calls: Sequence[ScriptCall], answer: IsAnswer | None = None
) -> Batch[list[Any]]:
    """Run scripts, each on the node that owns its key, on all nodes in parallel.

    Args:
        calls: ``(key, script, arguments)``.
        answer: checks whether a reply can be the answer; by default any can.

    Returns the replies, in the order of the calls; exceptions for failures and error replies.
    """
    owners = port.router.get_hosts_for_keys([key for key, _, _ in calls])
    commands: dict[int, list[bytes]] = defaultdict(list)
    for owner, (key, script, arguments) in zip(owners, calls, strict=True):
        commands[owner].append(script.evalsha % (len(key), key, arguments))
    exchanges = {
        owner: Exchange(owner, b"".join(share), len(share)) for owner, share in commands.items()
    }
    if answer is not None:
        for exchange in exchanges.values():
            exchange.answers = (answer,)
    yield tuple(exchanges.values())
    following = {owner: _replies_of(exchange) for owner, exchange in exchanges.items()}
    return [next(following[owner]) for owner in owners]


def _replies_of(exchange: Exchange) -> Iterator[Any]:
    """Yield the replies of an exchange, and its error for each that is missing."""
    yield from exchange.replies
    yield from repeat(exchange.error)
