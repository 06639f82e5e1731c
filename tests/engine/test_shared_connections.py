"""No public way to send a command lets one change a connection that others use after it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from django_rb.engine import Cluster, UnroutableCommand
from django_rb.engine.protocol.commands import HARMLESS, register_command
from django_rb.engine.protocol.refusals import REFUSALS
from django_rb.engine.rounds.batch import call, call_each, count, pipeline
from django_rb.engine.rounds.commands import run_commands
from tests.tables import for_each

Send = Callable[[Cluster, tuple[Any, ...]], object]


def as_encoded(words: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(word.lower().encode() for word in words)


def in_map(cluster: Cluster, words: tuple[Any, ...]) -> None:
    with cluster.map() as client:
        client.execute_command(*words)


def in_fanout(cluster: Cluster, words: tuple[Any, ...]) -> None:
    with cluster.all() as client:
        client.execute_command(*words)


def awaited(cluster: Cluster, words: tuple[Any, ...]) -> None:
    asyncio.run(cluster.arun(pipeline(cluster, b"key", (b"GET", b"key"), words)))


def awaited_by_a_client(cluster: Cluster, words: tuple[Any, ...]) -> None:
    async def main() -> None:
        await cluster.aio.execute_command(*words)

    asyncio.run(main())


# Every public way to send a command.
WAYS: dict[str, Send] = {
    "call_nodes": lambda cluster, words: cluster.call_nodes(*words),
    "call_nodes, lower case": lambda cluster, words: cluster.call_nodes(*as_encoded(words)),
    "call_nodes, buffer": lambda cluster, words: cluster.call_nodes(
        bytearray(as_encoded(words)[0]), *words[1:]
    ),
    "call": lambda cluster, words: cluster.run(call(cluster, b"key", *words)),
    "pipeline": lambda cluster, words: cluster.run(
        pipeline(cluster, b"key", (b"GET", b"key"), words, (b"GET", b"key"))
    ),
    "batch of call_each": lambda cluster, words: cluster.run(call_each(cluster, {1: words})),
    "run_commands": lambda cluster, words: cluster.run(run_commands([0], [words], merge=True)),
    "arun": awaited,
    "routing client": lambda cluster, words: cluster.get_routing_client().execute_command(
        *words
    ),
    "map": in_map,
    "all": in_fanout,
    "aio": awaited_by_a_client,
    "execute_commands": lambda cluster, words: cluster.execute_commands({"key": [words]}),
}


@for_each("way", WAYS)
def test_what_changes_a_connection_is_refused_and_nothing_is_sent(
    way: str, cluster: Cluster
) -> None:
    for name in REFUSALS:
        with pytest.raises(UnroutableCommand, match=rf"^{name} "):
            WAYS[way](cluster, (*name.split(), "5", "word"))
    assert all(not pool.idle for pool in cluster._threads.pools.values())


def test_keys_do_not_hide_it(cluster: Cluster) -> None:
    with pytest.raises(UnroutableCommand, match="SUBSCRIBE requires its own connection"):
        cluster.run(count(cluster, b"subscribe", [b"channel"]))


def test_an_empty_command_is_refused(cluster: Cluster) -> None:
    for nothing in ((), ("",), (b"",)):
        with pytest.raises(UnroutableCommand, match="The command is empty"):
            cluster.call_nodes(*nothing)
        with pytest.raises(UnroutableCommand, match="The command is empty"):
            cluster.run(pipeline(cluster, b"key", (b"GET", b"key"), nothing))


def test_other_commands_are_sent_whatever_they_are_called(cluster: Cluster) -> None:
    hosts = [0]
    assert cluster.call_nodes(b"echo", "word", hosts=hosts) == ({0: b"word"}, [])
    assert cluster.call_nodes("client", "getname", hosts=hosts) == ({0: None}, [])
    _, failures = cluster.call_nodes("NO.SUCH", "word", hosts=hosts)
    assert "unknown command" in str(failures[0].error)


def test_no_description_makes_a_refused_command_harmless() -> None:
    register_command("SELECT", first_key=0)
    assert not HARMLESS & {"SELECT", b"SELECT", "CLIENT", b"CLIENT", "SCRIPT"}
