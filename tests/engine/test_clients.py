"""The clients over many nodes: where commands go, and what becomes of them."""

# ruff: noqa: PT012, SIM117 (what a block of map() raises, its end raises)

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from enum import IntEnum
from functools import partial
from inspect import isawaitable
from operator import methodcaller
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.backoff import AbstractBackoff
from redis.retry import Retry

from django_rb.engine import (
    BaseRouter,
    Cluster,
    FanoutClient,
    MalformedCommand,
    MappingClient,
    PartitionRouter,
    Promise,
    RoutingClient,
    Script,
    SlotRouter,
    UnroutableCommand,
    failures_of,
)
from django_rb.engine.rounds.observing import ExchangeEvent, Observer, add_observer
from django_rb.engine.routing.hashing import encode_key
from django_rb.engine.threads.handshake import Home
from django_rb.engine.threads.pool import make_redis_pool
from django_rb.testing import LocalNodes
from tests.engine.peer import Peer
from tests.helpers import Servers
from tests.tables import for_each

KEYS = [f"key:{n}" for n in range(40)]


@pytest.fixture
def servers(nodes: LocalNodes) -> Iterator[Servers]:
    with Servers(nodes.hosts) as servers:
        servers.reset_counts()
        yield servers


@pytest.fixture
def client(cluster: Cluster) -> RoutingClient:
    return cluster.get_routing_client()


def total(servers: Servers) -> Counter[str]:
    """Return how often each command was called, on all nodes together."""
    return sum(servers.counts().values(), Counter())


def on_each(value: Any) -> dict[int, Any]:
    return dict.fromkeys(range(4), value)


def by_owner(cluster: Cluster, keys: list[str] = KEYS) -> dict[int, list[str]]:
    owned: dict[int, list[str]] = {host_id: [] for host_id in cluster.hosts}
    for key in keys:
        owned[cluster.get_host_for_key(key)].append(key)
    assert all(owned.values())
    return owned


def one_key_per_node(cluster: Cluster) -> list[str]:
    return [keys[0] for keys in by_owner(cluster).values()]


def on_one_node(cluster: Cluster) -> list[str]:
    """Return ten keys that one node owns."""
    keys = by_owner(cluster, [f"k{n}" for n in range(400)])[0][:10]
    assert len(keys) == 10
    return keys


def await_promise(manager: Any, call: Callable[[Any], Promise[Any]]) -> Any:
    with manager as client:
        promise = call(client)
    return promise.value


# --- Commands of several keys --------------------------------------------------------


Ask = Callable[[Callable[[Any], Any]], Any]


@pytest.fixture(params=["routing", "mapping", "aio", "amap"])
def ask(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[Ask]:
    """Run a call on a client of either kind and return its value."""

    async def awaited(call: Callable[[Any], Any]) -> Any:
        if request.param == "aio":
            return await call(cluster.aio)
        async with cluster.amap() as client:
            promise = call(client)
        return await promise

    with asyncio.Runner() as runner:
        yield {
            "routing": lambda call: call(cluster.get_routing_client()),
            "mapping": lambda call: await_promise(cluster.map(), call),
        }.get(request.param, lambda call: runner.run(awaited(call)))


@pytest.mark.static
def test_mget_keeps_order_and_duplicates(ask: Ask, servers: Servers) -> None:
    assert ask(lambda c: c.mset({key: key.upper() for key in KEYS})) is True
    wanted = [*KEYS[::-1], "missing", KEYS[3], KEYS[3], *KEYS[5:7]]
    servers.reset_counts()
    assert ask(lambda c: c.mget(wanted)) == [
        None if key == "missing" else key.upper().encode() for key in wanted
    ]
    assert servers.counts() == on_each(Counter(mget=1))


@pytest.mark.static
def test_mset_sets_each_key_where_it_belongs(
    ask: Ask, cluster: Cluster, servers: Servers
) -> None:
    ask(lambda c: c.mset({key: n for n, key in enumerate(KEYS)}))
    assert servers.counts() == on_each(Counter(mset=1))
    assert servers.keys() == {
        host_id: {key.encode() for key in keys} for host_id, keys in by_owner(cluster).items()
    }
    for n, key in enumerate(KEYS):
        assert cluster.get_local_client_for_key(key).get(key) == b"%d" % n


@pytest.mark.static
@for_each(("name", "expected"), [("delete", 20), ("unlink", 20), ("exists", 21), ("touch", 21)])
def test_counts_are_summed_up(name: str, expected: int, ask: Ask, servers: Servers) -> None:
    ask(lambda c: c.mset(dict.fromkeys(KEYS[:20], 1)))
    servers.reset_counts()
    assert ask(lambda c: getattr(c, name)(*KEYS, KEYS[0])) == expected
    sent = "del" if name == "delete" else name
    assert servers.counts() == on_each(Counter({sent: 1}))


def test_keys_of_one_node_are_not_split(ask: Ask, servers: Servers) -> None:
    ask(lambda c: c.mset({"{user:7}:a": 1, "{user:7}:b": 2}))
    assert ask(lambda c: c.mget("{user:7}:b", "{user:7}:a", "{user:7}:c")) == [b"2", b"1", None]
    assert total(servers) == Counter(mset=1, mget=1)


def test_keys_may_be_bytes_text_and_numbers(ask: Ask) -> None:
    ask(lambda c: c.mset({b"bytes": 1, "text": 2, "7": 3, "ключ": 4}))
    assert ask(lambda c: c.mget([b"text", "bytes", 7, "ключ".encode()])) == [
        b"2",
        b"1",
        b"3",
        b"4",
    ]


class Level(IntEnum):
    HIGH = 5


class Share(float):
    def __repr__(self) -> str:
        return "<a share>"


class Foreign:
    """An integer that is no child of int, as numpy's."""

    def __index__(self) -> int:
        return 7


def test_numbers_of_other_types_are_the_number(ask: Ask, cluster: Cluster) -> None:
    numbers: dict[str, Any] = {"5": Level.HIGH, "0.25": Share(0.25), "7": Foreign()}
    for text, number in numbers.items():
        ask(methodcaller("set", number, number))
        assert ask(methodcaller("get", text)) == text.encode()
        assert cluster.get_host_for_key(number) == cluster.get_host_for_key(text)
    assert ask(lambda c: c.mget(*numbers.values())) == [b"5", b"0.25", b"7"]
    assert ask(lambda c: c.incrby("5", Level.HIGH)) == 10
    with pytest.raises(redis.DataError):
        ask(lambda c: c.set("key", True))


@pytest.mark.static
def test_an_error_of_a_split_command_is_its_error(ask: Ask, cluster: Cluster) -> None:
    local = cluster.get_local_client(2)
    local.config_set("maxmemory", 1)
    try:
        with pytest.raises(redis.exceptions.OutOfMemoryError, match=r"\[node 2, ") as caught:
            ask(lambda c: c.mset(dict.fromkeys(KEYS, 1)))
        (failure,) = failures_of(caught.value)
        assert failure.host_id == 2
        assert list(failure.keys) == by_owner(cluster)[2]
        others = [key for key in KEYS if key not in failure.keys]
        assert ask(lambda c: c.exists(*KEYS)) == len(others)
    finally:
        local.config_set("maxmemory", 0)


SEVERAL_KEYS: dict[str, Callable[[Any, str, str], Any]] = {
    "RENAME": lambda c, a, b: c.rename(a, b),
    "MSETNX": lambda c, a, b: c.msetnx({a: 1, b: 2}),
    "SINTERSTORE": lambda c, a, b: c.sinterstore(a, a, b),
    "PFMERGE": lambda c, a, b: c.pfmerge(a, b),
    "EVAL": lambda c, a, b: c.eval("return 1", 2, a, b),
    "XREAD": lambda c, a, b: c.xread({a: 0, b: 0}),
    "LMPOP": lambda c, a, b: c.lmpop(2, a, b, direction="LEFT"),
    "SORT": lambda c, a, b: c.sort(a, store=b),
    "BITOP": lambda c, a, b: c.bitop("OR", a, a, b),
}


@for_each("name", SEVERAL_KEYS)
def test_keys_of_one_hash_tag_run_where_they_live(name: str, ask: Ask) -> None:
    ask(lambda c: c.delete("{user:7}:a", "{user:7}:b"))
    expected = pytest.raises(redis.ResponseError, match="no such key")
    with expected if name == "RENAME" else contextlib.nullcontext():
        ask(lambda c: SEVERAL_KEYS[name](c, "{user:7}:a", "{user:7}:b"))


@pytest.mark.static
@for_each("name", SEVERAL_KEYS)
def test_keys_of_several_nodes_are_refused_and_nothing_is_sent(
    name: str, ask: Ask, cluster: Cluster, servers: Servers
) -> None:
    a, b, *_ = one_key_per_node(cluster)
    with pytest.raises(UnroutableCommand) as caught:
        ask(lambda c: SEVERAL_KEYS[name](c, a, b))
    text = str(caught.value)
    assert name in text
    for key in (a, b):
        assert f"{key!r} on {cluster.get_host_for_key(key)}" in text
    assert "{user:7}:a" in text
    assert total(servers) == Counter()


def test_a_batch_with_a_refused_command_sends_nothing(
    cluster: Cluster, servers: Servers
) -> None:
    a, b, *_ = one_key_per_node(cluster)
    with pytest.raises(UnroutableCommand), cluster.map() as client:
        client.set(a, 1)
        client.rename(a, b)
    assert total(servers) == Counter()


@for_each(
    ("call", "name"),
    [
        (lambda c: c.ping(), "PING"),
        (lambda c: c.info(), "INFO"),
        (lambda c: c.keys(), "KEYS"),
        (lambda c: c.client_list(), "CLIENT LIST"),
        (lambda c: c.flushall(), "FLUSHALL"),
        (lambda c: c.eval("return 1", 0), "EVAL"),
        (lambda c: c.publish("a", "b"), "PUBLISH"),
    ],
)
def test_a_command_without_keys_names_the_clients_that_can(
    call: Callable[[Any], Any], name: str, ask: Ask, servers: Servers
) -> None:
    with pytest.raises(UnroutableCommand, match=f"^{name} has no key") as caught:
        ask(call)
    for way in ("cluster.fanout()", "cluster.all()", "cluster.get_local_client(host_id)"):
        assert way in str(caught.value)
    assert total(servers) == Counter()


@for_each("args", [(), ("",), (" ",), (b"",)])
def test_no_command_is_no_command(args: tuple[Any, ...], ask: Ask) -> None:
    with pytest.raises(MalformedCommand, match="The command is empty"):
        ask(lambda c: c.execute_command(*args))


def test_an_unknown_command_says_how_to_describe_it(ask: Ask) -> None:
    with pytest.raises(UnroutableCommand, match=r"register_command\('NOSUCH', …\)"):
        ask(lambda c: c.execute_command("NOSUCH", "key"))
    with pytest.raises(UnroutableCommand, match=r"register_command\('JSON.GET', …\)"):
        ask(lambda c: c.json().get("key"))


@for_each("options", [{"by": "w:*"}, {"get": ["#", "w:*->f"]}])
def test_sort_by_keys_of_other_nodes_is_refused(
    options: Any, ask: Ask, servers: Servers
) -> None:
    with pytest.raises(UnroutableCommand, match="other hosts") as caught:
        ask(lambda c: c.sort("ids", **options))
    assert "w:*" in str(caught.value)
    with pytest.raises(UnroutableCommand, match="SORT_RO with the pattern"):
        ask(lambda c: c.execute_command("SORT_RO", "ids", "BY", "w:*"))
    assert total(servers) == Counter()


def test_sort_by_keys_of_the_same_hash_tag_works(ask: Ask) -> None:
    ask(lambda c: c.rpush("{user:7}:ids", 1, 2, 3))
    ask(lambda c: c.mset({"{user:7}:w:1": 30, "{user:7}:w:2": 10, "{user:7}:w:3": 20}))
    assert ask(
        lambda c: c.sort("{user:7}:ids", by="{user:7}:w:*", get=["#", "{user:7}:w:*"])
    ) == [b"2", b"10", b"3", b"20", b"1", b"30"]
    assert ask(lambda c: c.sort("{user:7}:ids", by="nosort", get="#")) == [b"1", b"2", b"3"]
    for pattern in ("*{user:7}", "{user:8}:w:*", "{user:7*}"):
        if pattern == "{user:8}:w:*":
            continue  # it may be on the same node
        with pytest.raises(UnroutableCommand):
            ask(lambda c: c.sort("{user:7}:ids", by=pattern))  # noqa: B023 (called at once)


@pytest.mark.static
def test_sort_by_patterns_is_for_routers_with_hash_tags(nodes: LocalNodes) -> None:
    cluster = Cluster(nodes.hosts, router_cls=PartitionRouter)
    with pytest.raises(UnroutableCommand, match="other hosts"):
        cluster.get_routing_client().sort("{t}:ids", by="{t}:*")
    alone = Cluster([nodes.hosts[0]])
    assert alone.get_routing_client().sort("ids", by="w:*") == []
    cluster.close()
    alone.close()


@pytest.mark.static
def test_a_router_with_a_say_of_its_own_is_asked(nodes: LocalNodes) -> None:
    class ByCommand(BaseRouter):
        """Reads go to the last node, whatever the key."""

        def get_host_for_key(self, key: Any) -> int:
            return 0

        def get_host_for_command(self, command: str, args: Any) -> int:
            return 3 if command == "GET" else super().get_host_for_command(command, args)

    cluster = Cluster(nodes.hosts, router_cls=ByCommand)
    client = cluster.get_routing_client()
    client.set("key", 1)
    assert client.get("key") is None
    cluster.get_local_client(3).set("key", 3)
    assert client.get("key") == b"3"
    assert await_promise(cluster.map(), lambda c: c.get("key")) == b"3"
    cluster.close()


# --- The routing client --------------------------------------------------------------


def test_many_threads_share_a_routing_client(client: RoutingClient) -> None:
    errors: list[object] = []

    def work(name: str) -> None:
        keys = [f"{name}:{n}" for n in range(10)]
        try:
            for round_ in range(15):
                values = [f"{key}:{round_}".encode() for key in keys]
                client.mset(dict(zip(keys, values, strict=True)))
                assert client.mget(keys) == values
                assert client.get(keys[3]) == values[3]
                client.incr("all")
                with client.map() as mapped:
                    promises = [mapped.get(key) for key in keys]
                assert [promise.value for promise in promises] == values
        except BaseException as error:  # noqa: BLE001 (it is told to the test)
            errors.append(error)

    threads = [threading.Thread(target=work, args=(f"t{n}",)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert client.get("all") == b"180"


def test_a_client_may_be_closed_and_used_on(cluster: Cluster) -> None:
    with cluster.get_routing_client() as client:
        client.set("key", 1)
    client.close()
    assert client.get("key") == b"1"
    del client
    gc.collect()
    assert cluster.get_routing_client().get("key") == b"1"


def test_an_error_names_its_node_and_lists_what_failed(
    client: RoutingClient, cluster: Cluster
) -> None:
    client.rpush("list", 1)
    owner = cluster.get_host_for_key("list")
    with pytest.raises(redis.ResponseError, match=r"not an integer|wrong kind") as caught:
        client.incr("list")
    (failure,) = failures_of(caught.value)
    assert (failure.host_id, failure.keys) == (owner, ("list",))
    assert failure.address == cluster.hosts[owner].address
    assert f"[node {owner}, {failure.address}]" in str(caught.value)


def test_a_response_callback_is_the_clients_own(cluster: Cluster) -> None:
    client, other = cluster.get_routing_client(), cluster.get_routing_client()
    client.set("key", 7)
    client.set_response_callback("GET", lambda reply, **_: int(reply))
    assert client.get("key") == 7  # type: ignore[comparison-overlap]
    assert other.get("key") == b"7"
    # What is made of a client converts as it does.
    assert await_promise(client.map(), lambda c: c.get("key")) == 7
    assert await_promise(client.fanout(), lambda c: c.target_key("key").get("key")) == 7
    assert await_promise(cluster.map(), lambda c: c.get("key")) == b"7"
    with cluster.map() as mapped:
        mapped.set_response_callback("GET", lambda reply, **_: -int(reply))
        promise = mapped.get("key")
    assert promise.value == -7


def test_both_zeros_of_a_map_are_sent_as_they_are(client: RoutingClient) -> None:
    zeros = [0.0, *[-0.0] * 38, 0.0]
    with client.map() as mapped:
        for zero in zeros:
            mapped.rpush("list", zero)
    assert client.lrange("list", 0, -1) == [str(zero).encode() for zero in zeros]


def test_a_number_is_as_good_as_its_digits(cluster: Cluster) -> None:
    with cluster.map() as client:
        for number in range(100):
            client.set(number, number, ex=100)
            client.incrby(number, 2**63 - 1 - number)
        values = [client.get(str(number)) for number in range(100)]
    assert {promise.value for promise in values} == {str(2**63 - 1).encode()}


def test_a_number_that_has_too_many_digits_is_refused_at_once(cluster: Cluster) -> None:
    with cluster.map() as client:
        with pytest.raises(ValueError, match="digits"):
            client.incrby("key", 10**5000)
        good = client.set("key", 1)
    assert good.value is True


def test_replies_of_one_command_are_converted_each_with_its_options(cluster: Cluster) -> None:
    with cluster.map() as client:
        client.zadd("set", {"a": 1.5})
    with cluster.map() as client:
        ranges = [client.zrange("set", 0, -1, withscores=scores) for scores in (True, False)]
    assert [promise.value for promise in ranges] == [[(b"a", 1.5)], [b"a"]]


def test_errors_among_replies_of_one_command_are_not_converted(cluster: Cluster) -> None:
    cluster.get_routing_client().set("key:1", "text")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"), cluster.map() as client:
        found = [client.hgetall(f"key:{number}") for number in range(3)]
    assert [promise.value for promise in found] == [{}, None, {}]


def test_what_one_callback_cannot_convert_leaves_the_others_be(cluster: Cluster) -> None:
    with cluster.map() as client:
        client.set("key:2", "text")
    with pytest.raises(ValueError, match="text"), cluster.map() as client:
        client.set_response_callback("GET", lambda reply, **_: int(reply))
        for number in (0, 1, 3):
            client.set(f"key:{number}", number)
        numbers = [client.get(f"key:{number}") for number in range(4)]
    assert [promise.value for promise in numbers] == [0, 1, None, 3]


def test_a_callback_that_cannot_convert_rejects_its_promise_alone(cluster: Cluster) -> None:
    def refuse(reply: Any, **_: Any) -> Any:
        raise LookupError("what is this?")

    with pytest.raises(LookupError), cluster.map() as client:
        client.set_response_callback("SET", refuse)
        bad, good = client.set("key", 1), client.get("key")
    assert isinstance(bad.reason, LookupError)
    assert good.value == b"1"


def test_text_that_cannot_be_encoded_is_refused_at_once(cluster: Cluster) -> None:
    with cluster.map() as client:
        for args in (("SET", "\ud800", "v"), ("SET", "k", "\ud800"), ("GET", "\ud800")):
            with pytest.raises(UnicodeEncodeError):
                client.execute_command(*args)
        good = client.set("key", "é")
    assert good.value is True


# --- map() ---------------------------------------------------------------------------


def test_nothing_is_sent_before_the_block_ends(cluster: Cluster, servers: Servers) -> None:
    with cluster.map() as client:
        promises = [client.set(key, 1) for key in KEYS]
        assert total(servers) == Counter()
        assert all(promise.is_pending for promise in promises)
        assert repr(promises[0]) == "<Promise (pending)>"
    assert all(promise.is_resolved for promise in promises)
    assert [promise.value for promise in promises] == [True] * len(KEYS)


@pytest.mark.static
def test_adjacent_gets_and_sets_are_merged_per_node(cluster: Cluster, servers: Servers) -> None:
    with cluster.map() as client:
        for key in KEYS:
            client.set(key, key)
        promises = [client.get(key) for key in KEYS]
    assert [promise.value for promise in promises] == [key.encode() for key in KEYS]
    assert servers.counts() == on_each(Counter(mset=1, mget=1))


def test_a_lonely_get_stays_a_get(cluster: Cluster, servers: Servers) -> None:
    with cluster.map() as client:
        client.set("key", 1)
        promise = client.get("key")
        client.incr("key")
        again = client.get("key")
    assert (promise.value, again.value) == (b"1", b"2")
    assert total(servers) == Counter(set=1, get=2, incrby=1)


def test_nothing_is_merged_where_that_was_asked_for(cluster: Cluster, servers: Servers) -> None:
    with cluster.map(auto_batch=False) as client:
        for key in KEYS:
            client.set(key, key)
        promises = [client.get(key) for key in KEYS]
    assert [promise.value for promise in promises] == [key.encode() for key in KEYS]
    assert total(servers) == Counter(set=len(KEYS), get=len(KEYS))


@pytest.mark.static
def test_sets_with_options_are_never_merged(cluster: Cluster, servers: Servers) -> None:
    keys = on_one_node(cluster)
    with cluster.map() as client:
        promises = [client.set(key, 1) for key in keys[:3]]
        promises.append(client.set(keys[3], 1, ex=100))
        promises.append(client.set(keys[4], 1, nx=True))
        promises += [client.set(key, 2) for key in keys[5:8]]
        promises.append(client.set(keys[0], 9, get=True))
        promises.append(client.set(keys[0], 10, xx=True))
    assert [p.value for p in promises] == [True] * 8 + [b"1", True]
    assert servers.counts()[0] == Counter(mset=2, set=4)
    assert cluster.get_local_client(0).ttl(keys[3]) > 90


def test_commands_for_a_node_keep_their_order(cluster: Cluster) -> None:
    a, b, *_ = on_one_node(cluster)
    with cluster.map() as client:
        seen = [
            client.set(a, 1),
            client.set(b, 1),
            client.get(a),
            client.get(b),
            client.set(a, 2),
            client.incr(a),
            client.get(a),
            client.delete(a),
            client.get(a),
            client.get(b),
            client.set(a, "x", ex=5),
            client.set(a, "y"),
            client.set(a, "z"),
            client.get(a),
            client.ttl(a),
        ]
    assert [promise.value for promise in seen] == [
        True, True, b"1", b"1", True, 3, b"3", 1, None, b"1", True, True, True, b"z", -1,
    ]  # fmt: skip


def test_callbacks_are_called_in_the_order_of_the_commands(cluster: Cluster) -> None:
    seen: list[str] = []
    with cluster.map() as client:
        for key in KEYS:
            client.get(key).done(partial(lambda key, _: seen.append(key), key))
    assert seen == KEYS


def test_an_error_reply_rejects_its_own_promise_and_no_other(cluster: Cluster) -> None:
    a, b, *_ = on_one_node(cluster)
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"), cluster.map() as client:
        client.rpush(a, 1)
        bad = client.incr(a)
        good = client.incr(b)
        others = [client.set(key, 1) for key in KEYS]
    assert bad.is_rejected
    assert isinstance(bad.reason, redis.ResponseError)
    assert good.value == 1
    assert all(promise.value is True for promise in others)


def test_the_first_error_is_raised_after_every_node_has_finished(cluster: Cluster) -> None:
    a, b, c, d = one_key_per_node(cluster)
    with pytest.raises(redis.ResponseError) as caught, cluster.map() as client:
        client.rpush(a, 1)
        client.rpush(b, 1)
        good = client.set(c, 1)
        first = client.incr(a)
        second = client.eval("return redis.error_reply('OOM mine')", 1, b)
        last = client.set(d, 1)
    assert caught.value is first.reason
    assert isinstance(second.reason, redis.exceptions.OutOfMemoryError)
    assert caught.value.__notes__ == [f"Also failed: OutOfMemoryError: {second.reason}"]
    assert [(f.host_id, f.error, f.keys) for f in failures_of(caught.value)] == [
        (0, first.reason, (a,)),
        (1, second.reason, (b,)),
    ]
    assert good.value is last.value is True


HANDLERS: dict[str, Callable[[Promise[Any], list[Any]], Any]] = {
    "done": lambda promise, seen: promise.done(None, seen.append),
    "then": lambda promise, seen: promise.then(None, seen.append),
    "after then": lambda promise, seen: promise.then(str).then(None, seen.append),
    "all": lambda promise, seen: Promise.all([promise, 1]).then(None, seen.append),
    "all of a dict": lambda promise, seen: Promise.all({1: promise}).done(None, seen.append),
    "followed": lambda promise, seen: (
        Promise.resolved(1).then(lambda _: promise).done(None, seen.append)
    ),
}


@pytest.mark.parametrize("name", HANDLERS)
def test_a_handled_error_is_not_raised(name: str, cluster: Cluster) -> None:
    seen: list[Exception] = []
    with cluster.map() as client:
        client.rpush("list", 1)
        bad = client.incr("list")
        HANDLERS[name](bad, seen)
    assert seen == [bad.reason]


UNHANDLED: dict[str, Callable[[Promise[Any]], Any]] = {
    "done": lambda promise: promise.done(print),
    "then": lambda promise: promise.then(str),
    "then then": lambda promise: promise.then(str).then(str),
    "all": lambda promise: Promise.all([promise, promise]),
    "handler and then": lambda promise: (promise.done(None, print), promise.then(str)),
    "followed": lambda promise: Promise.resolved(1).then(lambda _: promise),
    "settles another": lambda promise: Promise[Any]().resolve(promise),
}


@pytest.mark.parametrize("name", UNHANDLED)
def test_an_error_that_was_only_passed_on_is_raised_once(name: str, cluster: Cluster) -> None:
    with pytest.raises(redis.ResponseError) as caught, cluster.map() as client:
        client.rpush("list", 1)
        bad = client.incr("list")
        UNHANDLED[name](bad)
    assert caught.value is bad.reason
    assert not hasattr(caught.value, "__notes__")


def test_an_error_may_be_handled_by_a_later_callback_of_the_same_batch(
    cluster: Cluster,
) -> None:
    seen: list[object] = []
    with cluster.map() as client:
        client.rpush("list", 1)
        bad = client.incr("list")
        client.get("key").done(lambda _: bad.done(None, seen.append))
    assert seen == [bad.reason]


def test_a_callback_that_raises_rejects_what_then_returned(cluster: Cluster) -> None:
    with pytest.raises(ValueError, match="invalid literal") as caught, cluster.map() as client:
        client.set("key", "text")
        promise = client.get("key")
        derived = promise.then(int)
        other = client.get("key").then(str)
    assert promise.value == b"text"
    assert derived.reason is caught.value
    assert other.value == "b'text'"
    assert failures_of(caught.value) == ()


def test_a_done_callback_that_raises_keeps_no_promise_pending(cluster: Cluster) -> None:
    error = KeyError("mine")

    def fail(_: object) -> None:
        raise error

    with pytest.raises(KeyError) as caught, cluster.map() as client:
        first = client.get("key").done(fail)
        sibling = first.then(lambda value: "went on")
        others = [client.set(key, 1) for key in KEYS]
    assert caught.value is error
    assert first.is_resolved
    assert sibling.value == "went on"
    assert all(promise.is_resolved for promise in others)


def test_gets_alone_have_callbacks_and_errors_like_everything_else(cluster: Cluster) -> None:
    a, b, c, *_ = keys = on_one_node(cluster)
    cluster.get_routing_client().set(c, "text")
    cluster.get_routing_client().rpush("list", 1)
    seen: list[object] = []

    def fail(_: object) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError) as caught, cluster.map() as client:
        first = client.get(a).done(fail)
        handled = client.get(b).done(None, seen.append)
        then = client.get(c).then(bytes.decode)
        settled = client.get(c)
        settled.resolve("by hand")
        rest = [client.get(key) for key in keys[3:]]
    assert [note for note in caught.value.__notes__ if "no longer pending" in note]
    assert (first.value, handled.value, then.value) == (None, None, "text")
    assert settled.value == "by hand"
    assert all(promise.is_resolved for promise in rest)
    assert seen == []
    with (
        pytest.raises(redis.ResponseError, match="WRONGTYPE") as wrong,
        cluster.map() as client,
    ):
        bad, good = client.get("list"), client.get(c)
    assert bad.reason is wrong.value
    assert good.value == b"text"


def test_callbacks_may_ask_for_more(cluster: Cluster, servers: Servers) -> None:
    with cluster.map() as client:
        for n in range(5):
            client.set(f"link:{n}", f"link:{n + 1}")
        client.set("link:5", "end")

    def follow(value: bytes) -> Any:
        return value if value == b"end" else client.get(value).then(follow)

    servers.reset_counts()
    with cluster.map() as client:
        end = client.get("link:0").then(follow)
        counted: list[Any] = []
        client.incr("n").done(lambda _: counted.append(client.incr("n")))
    assert end.value == b"end"
    assert [promise.value for promise in counted] == [2]
    assert total(servers) == Counter(get=6, incrby=2)


def test_an_error_in_what_a_callback_asked_for_is_raised(cluster: Cluster) -> None:
    with pytest.raises(redis.ResponseError) as caught, cluster.map() as client:
        client.rpush("list", 1)
        derived = client.get("key").then(lambda _: client.incr("list"))
    assert derived.reason is caught.value


def test_a_block_left_by_an_exception_sends_nothing(cluster: Cluster, servers: Servers) -> None:
    with pytest.raises(KeyError), cluster.map() as client:
        promises = [client.set(key, 1) for key in KEYS]
        raise KeyError
    assert total(servers) == Counter()
    assert all(promise.is_pending for promise in promises)
    client.join()
    assert total(servers) == Counter()


def test_join_runs_what_waits_and_the_client_goes_on(cluster: Cluster) -> None:
    client = cluster.get_routing_client().get_mapping_client()
    first = client.set("key", 1)
    client.join()
    assert first.value is True
    second = client.incr("key")
    assert second.is_pending
    client.join(timeout=5)
    assert second.value == 2
    client.join()


def test_a_value_is_there_after_join_and_not_before(cluster: Cluster) -> None:
    with cluster.map() as client:
        promise = client.get("key")
        with pytest.raises(RuntimeError, match="The promise is pending"):
            _ = promise.value
        client.join()
        assert promise.value is None


def test_cancel_forgets_what_was_not_sent(cluster: Cluster, servers: Servers) -> None:
    with cluster.map() as client:
        forgotten = client.set("key", 1)
        client.cancel()
        kept = client.get("key")
    assert forgotten.is_pending
    assert kept.value is None
    assert total(servers) == Counter(get=1)


def test_maps_may_be_nested(cluster: Cluster) -> None:
    with cluster.map() as outer:
        outer.set("a", 1)
        with cluster.map() as inner:
            inner.set("b", 2)
            nothing = inner.get("a")
        late = outer.get("b")
        outer.get("a").done(lambda _: inner_of_callback())

        def inner_of_callback() -> None:
            with cluster.map() as third:
                third.set("c", 3)

    assert nothing.value is None
    assert late.value == b"2"
    assert cluster.get_routing_client().mget("a", "b", "c") == [b"1", b"2", b"3"]


def test_an_empty_map_does_nothing(cluster: Cluster, servers: Servers) -> None:
    with cluster.map() as client:
        pass
    assert type(client).__name__ == MappingClient.__name__
    assert total(servers) == Counter()


def test_no_connection_is_left_in_doubt(cluster: Cluster) -> None:
    """After whatever happened, connections are idle, and the next replies are right."""
    for n in range(3):
        with contextlib.suppress(redis.ResponseError, KeyError), cluster.map() as client:
            client.set("list", "text") if n else client.rpush("list", 1)
            client.incr("list")
            for key in KEYS:
                client.set(key, key * 1000)
            if n == 2:
                raise KeyError
    with cluster.map() as client:
        promises = [client.get(key) for key in KEYS]
    assert [promise.value for promise in promises] == [(key * 1000).encode() for key in KEYS]
    assert [len(node.idle) for node in cluster._threads.pools.values()] == [1, 1, 1, 1]


def test_a_dead_node_fails_alone() -> None:
    with LocalNodes(3) as own:
        cluster = Cluster(own.hosts, router_cls=SlotRouter)
        owned = by_owner(cluster)
        client = cluster.get_routing_client()
        client.mset(dict.fromkeys(KEYS, "v"))
        own.kill(1)

        with pytest.raises(redis.ConnectionError) as caught, cluster.map() as mapped:
            promises = {key: mapped.get(key) for key in KEYS}
        for host_id, keys in owned.items():
            for key in keys:
                if host_id == 1:
                    assert promises[key].reason is caught.value
                else:
                    assert promises[key].value == b"v"
        (failure,) = failures_of(caught.value)
        assert (failure.host_id, list(failure.keys)) == (1, owned[1])
        # One error for many promises is told once, and has one traceback.
        assert not hasattr(caught.value, "__notes__")
        depth, traceback = 0, caught.value.__traceback__
        while traceback is not None:
            depth, traceback = depth + 1, traceback.tb_next
        assert depth < 20

        with pytest.raises(redis.ConnectionError) as caught:
            client.mget(KEYS)
        assert [f.host_id for f in failures_of(caught.value)] == [1]
        assert client.get(owned[0][0]) == b"v"

        own.kill(2)
        with pytest.raises(redis.ConnectionError) as caught, cluster.all() as fanned:
            pongs = fanned.ping()
        assert pongs.is_rejected
        assert {f.host_id for f in failures_of(caught.value)} == {1, 2}
        (note,) = caught.value.__notes__
        assert "node 2" in note

        with pytest.raises(redis.ConnectionError) as caught:
            list(client.scan_iter())
        assert {f.host_id for f in failures_of(caught.value)} == {1, 2}
        cluster.close()


def test_a_silent_node_is_given_up_when_the_time_is_over() -> None:
    with LocalNodes(3) as own:
        cluster = Cluster(own.hosts, router_cls=SlotRouter)
        owned = by_owner(cluster)
        cluster.get_routing_client().mset(dict.fromkeys(KEYS, "v"))
        own.pause(2)
        with pytest.raises(redis.TimeoutError, match="Deadline") as caught:
            with cluster.map(timeout=0.2) as client:
                promises = {key: client.get(key) for key in KEYS}
        assert [f.host_id for f in failures_of(caught.value)] == [2]
        for key in owned[2]:
            assert isinstance(promises[key].reason, redis.TimeoutError)
        for key in owned[0] + owned[1]:
            assert promises[key].value == b"v"

        # Time that callbacks take comes off what is left for their commands.
        late: list[Any] = []
        with cluster.map(timeout=0.2) as client:
            client.get(owned[2][0]).done(
                None, lambda _: late.append(client.get(owned[0][0]).done(None, late.append))
            )
        assert isinstance(late[1], redis.TimeoutError)

        own.resume(2)
        assert cluster.get_routing_client().mget(KEYS) == [b"v"] * len(KEYS)
        cluster.close()


@pytest.mark.parametrize("limit", [1, 2, 6, None])
def test_max_concurrency_bounds_the_nodes_in_flight(limit: int | None) -> None:
    """Each node holds its answer until as many were asked as may be, and a while longer."""
    asked = answered = most = 0
    at_limit, too_many, lock = threading.Event(), threading.Event(), threading.Lock()

    def answer(peer: Peer, connection: socket.socket, command: list[bytes]) -> None:
        nonlocal asked, answered, most
        with lock:
            asked += 1
            most = max(most, asked - answered)
            if asked - answered == (limit or 6):
                at_limit.set()
            if asked - answered > (limit or 6):
                too_many.set()
        at_limit.wait(5)
        too_many.wait(0.02)
        with lock:
            answered += 1
        connection.sendall(b"+%b\r\n" % command[1])

    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(Peer(answer)) for _ in range(6)]
        cluster = Cluster([peer.host for peer in peers])
        with cluster.fanout("all", max_concurrency=limit) as client:
            echoes = client.echo("hello")
        assert echoes.value == dict.fromkeys(range(6), b"hello")
        cluster.close()
    assert most == (limit or 6)


@pytest.mark.parametrize("limit", [0, -1])
def test_max_concurrency_is_at_least_one(limit: int, cluster: Cluster) -> None:
    with pytest.raises(ValueError, match=rf"max_concurrency={limit}"):
        cluster.map(max_concurrency=limit)


# --- fanout() and all() --------------------------------------------------------------


def test_all_asks_every_node(cluster: Cluster, servers: Servers) -> None:
    with cluster.all() as client:
        pongs, sizes, infos = client.ping(), client.dbsize(), client.info("server")
    assert type(client).__name__ == FanoutClient.__name__
    assert pongs.value == dict.fromkeys(range(4), True)
    assert sizes.value == dict.fromkeys(range(4), 0)
    assert {h: info["tcp_port"] for h, info in infos.value.items()} == {
        h: info.port for h, info in cluster.hosts.items()
    }
    assert servers.counts() == on_each(Counter(ping=1, dbsize=1))


def test_a_fanout_asks_the_chosen_nodes_in_their_order(
    cluster: Cluster, servers: Servers
) -> None:
    with cluster.fanout(hosts=[3, 1, 3]) as client:
        pongs = client.ping()
    assert list(pongs.value) == [3, 1]
    assert {h for h, counts in servers.counts().items() if counts} == {1, 3}


@pytest.mark.static
def test_keys_go_where_they_are_sent(cluster: Cluster, servers: Servers) -> None:
    with cluster.fanout([0, 1]) as client:
        for key in KEYS:
            client.set(key, 1)
        found = client.mget(KEYS[:3])
    assert found.value == {0: [b"1"] * 3, 1: [b"1"] * 3}
    assert servers.counts()[0] == Counter(mset=1, mget=1)
    assert servers.keys()[0] == servers.keys()[1] == {key.encode() for key in KEYS}


@pytest.mark.static
def test_a_get_goes_where_it_is_sent(cluster: Cluster, servers: Servers) -> None:
    with cluster.all() as client:
        client.set("key", 1)
        everyones = client.get("key")
        one = client.target([2]).get("key")
        others = [client.target_key(key).get("key") for key in KEYS[:3]]
    assert everyones.value == dict.fromkeys(range(4), b"1")
    assert one.value == {2: b"1"}
    assert [promise.value for promise in others] == [b"1"] * 3
    with cluster.fanout() as client, pytest.raises(RuntimeError, match="was given no hosts"):
        client.get("key")


def test_a_fanout_may_be_targeted_call_by_call(cluster: Cluster) -> None:
    owner = cluster.get_host_for_key("key")
    with cluster.fanout([0]) as client:
        own = client.client_id()
        some = client.target([1, 2]).ping()
        everyone = client.target("all").ping()
        stored = client.target_key("key").set("key", 1)
        with pytest.raises(TypeError, match="Cannot use target more than once"):
            client.target([1]).target([2])
        with pytest.raises(TypeError, match="Cannot use target more than once"):
            client.target_key("a").target_key("b")  # type: ignore[attr-defined]
    assert list(own.value) == [0]
    assert some.value == {1: True, 2: True}
    assert list(everyone.value) == [0, 1, 2, 3]
    assert stored.value is True
    assert cluster.get_local_client(owner).get("key") == b"1"


def test_hosts_that_make_no_sense_are_refused(cluster: Cluster) -> None:
    with pytest.raises(ValueError, match=r"no host 7 in <Cluster .*Choices are: 0, 1, 2, 3"):
        cluster.fanout([0, 7])
    with pytest.raises(ValueError, match=r"hosts='some': give a list of host ids, or 'all'"):
        cluster.fanout("some")
    with pytest.raises(TypeError, match=r"hosts=3: give a list of host ids, or 'all'"):
        cluster.fanout(3)  # type: ignore[arg-type]
    with cluster.fanout() as client:
        with pytest.raises(RuntimeError, match=r"client\.target\(\[0, 1\]\)"):
            client.ping()
        with pytest.raises(ValueError, match="no host 9"):
            client.target([9])
    with cluster.fanout([]) as client:
        nothing = client.ping()
    assert nothing.value == {}


@pytest.mark.static
def test_an_error_of_one_node_rejects_the_fanout_and_the_others_ran(cluster: Cluster) -> None:
    cluster.get_local_client(2).rpush("key", 1)
    with pytest.raises(redis.ResponseError, match=r"WRONGTYPE .*\[node 2, ") as caught:
        with cluster.all() as client:
            results = client.incr("key")
    assert results.reason is caught.value
    assert cluster.get_local_client(3).get("key") == b"1"


@pytest.mark.parametrize("args", [("NOSUCHCOMMAND",), ("GET",), ("MIGRATE",)])
def test_whatever_a_node_says_to_a_strange_command_is_told(
    args: tuple[str, ...], cluster: Cluster
) -> None:
    with pytest.raises(redis.ResponseError, match=r"unknown command|wrong number"):
        with cluster.all() as client:
            client.execute_command(*args)


# --- Local clients -------------------------------------------------------------------


def test_local_clients_have_pipelines_and_transactions(cluster: Cluster) -> None:
    client: Any = cluster.get_local_client_for_key("key")
    assert type(client) is redis.Redis
    pipe: Any
    with client.pipeline() as pipe:
        pipe.watch("key")
        pipe.multi()
        pipe.set("key", 1)
        pipe.incr("key")
        assert pipe.execute() == [True, 2]

    def count_on(pipe: Any) -> None:
        value = int(pipe.get("key"))
        pipe.multi()
        pipe.set("key", value + 1)

    assert client.transaction(count_on, "key") == [True]
    assert cluster.get_routing_client().get("key") == b"3"


def test_local_clients_have_pub_sub(cluster: Cluster) -> None:
    local: Any = cluster.get_local_client(1)
    with local.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe("channel")
        assert pubsub.get_message(timeout=5) is None  # the subscription, ignored
        with cluster.all() as client:
            heard = client.publish("channel", "text")
        message = pubsub.get_message(timeout=5)
    assert heard.value == {0: 0, 1: 1, 2: 0, 3: 0}
    assert message is not None
    assert (message["channel"], message["data"]) == (b"channel", b"text")


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_lost_pub_sub_subscribes_again(nodes: LocalNodes, protocol: int) -> None:
    cluster = Cluster(nodes.hosts, pool_options={"protocol": protocol})
    local: Any = cluster.get_local_client(0)
    with local.pubsub() as pubsub:
        pubsub.subscribe("channel")
        assert pubsub.get_message(timeout=5)["type"] == "subscribe"
        local.client_kill_filter(_type="pubsub")
        with contextlib.suppress(redis.ConnectionError):  # redis-py's own first try
            pubsub.get_message(timeout=5)
        assert pubsub.get_message(timeout=5)["type"] == "subscribe"
        assert local.publish("channel", "text") == 1
        assert pubsub.get_message(timeout=5)["data"] == b"text"
    cluster.close()


def test_a_local_client_moves_on_after_a_second_attempt_to_connect() -> None:
    with LocalNodes(2) as nodes:

        class Restarting(AbstractBackoff):
            def compute(self, failures: int) -> float:
                if killed:
                    nodes.restart(killed.pop())
                return 0

        killed = [0]
        errors = (ConnectionRefusedError, redis.ConnectionError)
        retry = Retry(Restarting(), 2, supported_errors=errors)
        cluster = Cluster(nodes.hosts, pool_options={"retry": retry})
        home = Home(cluster.nodes[0])
        pool = make_redis_pool(cluster.nodes[0], redis.ConnectionPool, home=home)
        client = redis.Redis(connection_pool=pool)
        nodes.kill(*killed)
        assert client.set("key", "old")
        home.node = cluster.nodes[1]
        with contextlib.suppress(redis.ConnectionError):  # without another try
            client.set("key", "new")
        assert client.set("key", "new")
        with Servers(nodes.hosts) as servers:
            assert servers.ask(0, "GET", "key") == b"old"
            assert servers.ask(1, "GET", "key") == b"new"
        pool.disconnect()
        cluster.close()


def test_local_clients_have_locks(cluster: Cluster) -> None:
    client = cluster.get_local_client_for_key("lock")
    with client.lock("lock", timeout=10, blocking=False):
        assert cluster.get_routing_client().exists("lock") == 1
        assert client.lock("lock", blocking=False).acquire() is False
    assert cluster.get_routing_client().exists("lock") == 0


def test_local_clients_share_their_nodes_pool(cluster: Cluster) -> None:
    first, second = cluster.get_local_client(0), cluster.get_local_client(0)
    assert first.connection_pool is second.connection_pool
    with pytest.raises(LookupError, match=r"no host 9. Choices are: 0, 1, 2, 3"):
        cluster.get_local_client(9)


# --- Scripts -------------------------------------------------------------------------

SOURCE = "return {KEYS[1], ARGV[1], redis.call('INCR', KEYS[1])}"


@pytest.fixture
def no_scripts(cluster: Cluster) -> None:
    with cluster.all() as client:
        client.script_flush()


@pytest.mark.usefixtures("no_scripts")
def test_a_script_goes_once_to_each_node_that_does_not_know_it(
    client: RoutingClient, cluster: Cluster, servers: Servers
) -> None:
    script = client.register_script(SOURCE)
    servers.reset_counts()
    assert [script([key], [1]) for key in KEYS] == [[k.encode(), b"1", 1] for k in KEYS]
    for host_id, keys in by_owner(cluster).items():
        assert servers.counts()[host_id] == Counter(evalsha=len(keys), eval=1, incr=len(keys))
    servers.ask(0, "SCRIPT", "FLUSH")
    servers.reset_counts()
    assert [script([key], [1])[2] for key in KEYS] == [2] * len(KEYS)
    assert servers.counts()[0]["eval"] == 1
    assert total(servers)["eval"] == 1


@pytest.mark.usefixtures("no_scripts")
def test_a_script_goes_once_within_one_batch(cluster: Cluster, servers: Servers) -> None:
    with cluster.map() as client:
        script = client.register_script(SOURCE)
        before = [client.set(f"other:{key}", key) for key in KEYS]
        results = [script([key], [key]) for key in KEYS]
        after = [client.get(f"other:{key}") for key in KEYS]
    assert [p.value for p in before] == [True] * len(KEYS)
    assert [p.value for p in results] == [[k.encode(), k.encode(), 1] for k in KEYS]
    assert [p.value for p in after] == [k.encode() for k in KEYS]
    for host_id, keys in by_owner(cluster).items():
        counts = servers.counts()[host_id]
        # Each is refused once; then the first brings the source.
        assert (counts["eval"], counts["evalsha"]) == (1, 2 * len(keys) - 1)
        assert counts["incr"] == len(keys)
    servers.reset_counts()
    with cluster.map() as client:
        results = [client.evalsha(script.sha, 1, key, "x") for key in KEYS]
    assert [p.value[2] for p in results] == [2] * len(KEYS)
    assert total(servers)["eval"] == 0


@pytest.mark.static
@pytest.mark.usefixtures("no_scripts")
def test_a_script_goes_to_the_hosts_of_a_fanout(cluster: Cluster, servers: Servers) -> None:
    with cluster.fanout([1, 2]) as client:
        script = client.register_script(SOURCE)
        results = script(["key"], ["x"])
        sizes = client.dbsize()
    assert results.value == {1: [b"key", b"x", 1], 2: [b"key", b"x", 1]}
    assert list(sizes.value) == [1, 2]
    assert total(servers)["eval"] == 2


@pytest.mark.usefixtures("no_scripts")
def test_an_error_in_a_script_is_its_callers(cluster: Cluster) -> None:
    with pytest.raises(redis.ResponseError) as caught, cluster.map() as client:
        bad = client.register_script("return redis.call('INCR', 'a', 'b')")(["key"])
        good = client.register_script("return 7")(["key"])
    assert bad.reason is caught.value
    assert good.value == 7


@pytest.mark.usefixtures("no_scripts")
def test_a_script_of_another_client_works(
    client: RoutingClient, cluster: Cluster, servers: Servers
) -> None:
    script = cluster.get_local_client(0).register_script(SOURCE.replace("INCR", "DECR"))
    assert script(["key"], ["x"], client=client) == [b"key", b"x", -1]
    read_only = "return redis.call('GET', KEYS[1])"
    sha = client.script_load(read_only)
    assert client.evalsha(sha, 1, "key") == b"-1"
    with cluster.all() as fanned:
        fanned.script_flush()
    servers.reset_counts()
    assert client.execute_command("EVALSHA_RO", sha.upper(), 1, "key") == b"-1"
    assert total(servers) == Counter(evalsha_ro=1, eval_ro=1, get=1)
    with cluster.map() as mapped:
        loaded = mapped.script_load("return 5")
    assert client.evalsha(loaded.value, 1, "key") == 5


@pytest.mark.usefixtures("no_scripts")
def test_script_load_of_a_fanout_loads(cluster: Cluster) -> None:
    with cluster.all() as client:
        loaded = client.script_load("return 6")
    (sha,) = set(loaded.value.values())
    with cluster.all() as client:
        known = client.script_exists(sha)
    assert known.value == on_each([True])
    with cluster.all() as client:
        client.script_flush()
    assert cluster.get_routing_client().evalsha(sha, 1, "key") == 6


@pytest.mark.usefixtures("no_scripts")
def test_a_script_that_nobody_registered_is_an_error(client: RoutingClient) -> None:
    with pytest.raises(redis.exceptions.NoScriptError):
        client.evalsha("0" * 40, 1, "key")


@pytest.mark.usefixtures("no_scripts")
def test_execute_commands_runs_commands_and_scripts(cluster: Cluster, servers: Servers) -> None:
    own = Script(None, SOURCE)
    registered = cluster.get_local_client(0).register_script("return ARGV")
    for _ in range(2):
        results = cluster.execute_commands(
            {
                "a": [("SET", "a", 0), (own, ["a"], [1]), ("GET", "a"), ("PING",)],
                "b": [(own, ("b",), range(2, 3)), (registered, iter(["b"]), ("x", "y"))],
                b"c": [("CLIENT", "GETNAME")],
            }
        )
        assert results["a"][1].value == [b"a", b"1", 1]
        assert results["a"][3].value is True
        assert results["b"][0].value[:2] == [b"b", b"2"]
        assert results["b"][1].value == [b"x", b"y"]
        assert results[b"c"][0].value is None
    assert results["a"][2].value == b"1"
    assert total(servers)["eval"] <= 3
    with pytest.raises(redis.ResponseError):
        cluster.execute_commands({"a": [("LPUSH", "a", 1)]})


# --- scan_iter() ---------------------------------------------------------------------


def test_scan_iter_yields_the_keys_of_all_nodes(client: RoutingClient) -> None:
    names = [f"page:{n}" for n in range(500)]
    client.mset(dict.fromkeys(names, 1))
    client.rpush("queue:1", 1)
    client.rpush("page:list", 1)
    everything = {name.encode() for name in (*names, "queue:1", "page:list")}
    assert set(client.scan_iter()) == everything
    assert set(client.scan_iter(count=7)) == everything
    assert set(client.scan_iter(match="page:1?")) == {b"page:%d" % n for n in range(10, 20)}
    assert set(client.scan_iter("queue:*")) == {b"queue:1"}
    assert set(client.scan_iter(_type="list", count=50)) == {b"queue:1", b"page:list"}
    assert set(client.scan_iter(match="page:*", _type="list")) == {b"page:list"}


def test_scan_iter_asks_for_a_page_at_a_time(client: RoutingClient, servers: Servers) -> None:
    client.mset({f"page:{n}": n for n in range(800)})
    keys = client.scan_iter(count=10)
    assert total(servers)["scan"] == 0
    next(keys)
    assert servers.counts()[0]["scan"] == servers.counts()[3]["scan"] == 1
    assert len(set(keys)) >= 799
    assert servers.counts()[0]["scan"] > 10


def test_scan_iter_decodes_like_everything_else(nodes: LocalNodes) -> None:
    for protocol in (2, 3):
        options = {"decode_responses": True, "protocol": protocol}
        cluster = Cluster(nodes.hosts, pool_options=options)
        client = cluster.get_routing_client()
        client.set("ключ", 1)
        assert list(client.scan_iter("кл*")) == ["ключ"]
        cluster.close()


# --- What many nodes cannot do -------------------------------------------------------

IMPOSSIBLE: dict[str, tuple[Callable[[Any], Any], str]] = {
    "pipeline": (lambda c: c.pipeline(), "cluster.get_local_client_for_key(key).pipeline()"),
    "transaction": (
        lambda c: c.transaction(print, "key"),
        "cluster.get_local_client_for_key(key).transaction()",
    ),
    "watch": (lambda c: c.watch("key"), "cluster.get_local_client_for_key(key).pipeline()"),
    "unwatch": (lambda c: c.unwatch(), "cluster.get_local_client_for_key(key).pipeline()"),
    "pubsub": (lambda c: c.pubsub(), "cluster.get_local_client(host_id).pubsub()"),
    "monitor": (lambda c: c.monitor(), "cluster.get_local_client(host_id).monitor()"),
    "client": (lambda c: c.client(), "cluster.get_local_client(host_id).client()"),
    "lock": (lambda c: c.lock("a"), "cluster.get_routing_client().lock(name)"),
    "set_retry": (lambda c: c.set_retry(None), "get_local_client(host_id).set_retry()"),
    "keyspace": (
        lambda c: c.keyspace_notifications(),
        "cluster.get_local_client(host_id).keyspace_notifications()",
    ),
    "himport": (
        lambda c: c.himport_prepare("fields", ["a"]),
        "cluster.get_local_client_for_key(key)",
    ),
    "himport_set": (
        lambda c: c.himport_set("key", "fields", [1]),
        "cluster.get_local_client_for_key(key)",
    ),
    "from_url": (lambda c: type(c).from_url("redis://"), "Cluster([url, …])"),
    "from_pool": (lambda c: type(c).from_pool(None), "Cluster([url, …])"),
    "module's pipeline": (
        lambda c: c.json().pipeline().execute_command("PING").execute(),
        "cluster.get_local_client(host_id)",
    ),
    "connection": (
        lambda c: c.connection_pool.get_connection("_"),
        "cluster.get_local_client(host_id)",
    ),
    "WATCH": (lambda c: c.execute_command("WATCH", "a"), "get_local_client_for_key(key)"),
    "MULTI": (lambda c: c.execute_command("MULTI"), "get_local_client_for_key(key)"),
    "SELECT": (lambda c: c.select(1), "cluster.get_local_client(host_id).client()"),
    "AUTH": (lambda c: c.auth("password"), '"username" and "password"'),
    "SUBSCRIBE": (
        lambda c: c.execute_command("SUBSCRIBE", "a"),
        "cluster.get_local_client(host_id).pubsub()",
    ),
    "MONITOR": (
        lambda c: c.execute_command("monitor"),
        "cluster.get_local_client(host_id).monitor()",
    ),
    "CLIENT SETNAME": (lambda c: c.client_setname("me"), '"client_name"'),
    "CLIENT REPLY": (lambda c: c.client_reply("OFF"), "get_local_client(host_id).client()"),
    "SHUTDOWN": (lambda c: c.shutdown(), "cluster.get_local_client(host_id).shutdown()"),
    "QUIT": (lambda c: c.quit(), "cluster.close()"),
    "HELLO": (lambda c: c.execute_command("HELLO", 3), '"protocol"'),
}


@pytest.mark.parametrize("kind", ["routing", "mapping", "fanout", "aio"])
@for_each("name", IMPOSSIBLE)
def test_what_needs_one_node_names_the_client_that_has_one(
    name: str, kind: str, cluster: Cluster, servers: Servers
) -> None:
    routing = cluster.get_routing_client()
    client: Any = {
        "routing": routing,
        "aio": cluster.aio,
        "mapping": routing.get_mapping_client(),
        "fanout": routing.get_fanout_client("all"),
    }[kind]
    call, way = IMPOSSIBLE[name]

    async def awaited() -> None:
        if isawaitable(result := call(client)):
            await result

    if name == "lock" and kind in {"aio", "routing"}:  # there it is one
        return
    with pytest.raises((NotImplementedError, UnroutableCommand)) as caught:
        asyncio.run(awaited()) if kind == "aio" else call(client)
    said = str(caught.value)
    assert way in said or (kind == "aio" and "redis.asyncio.Redis" in said)
    assert total(servers) == Counter()


@for_each("name", ["scan_iter", "sscan_iter", "hscan_iter", "zscan_iter"])
@pytest.mark.parametrize("kind", ["map", "all"])
def test_promises_have_no_iterators(name: str, kind: str, cluster: Cluster) -> None:
    with getattr(cluster, kind)() as client:
        with pytest.raises(NotImplementedError, match=r"get_routing_client\(\)"):
            getattr(client, name)("key")


# What redis-py's client has besides commands, and what many nodes make no difference to.
HARMLESS = {
    "close",  # nothing is the client's own
    "execute_command",
    "get_cache",
    "get_connection_kwargs",
    "get_encoder",
    "get_retry",
    "load_external_module",
    "parse_response",  # reads from the connection that it is given
    "register_script",
    "set_response_callback",
}


def test_nothing_of_redis_pys_client_slips_through(client: RoutingClient) -> None:
    """A newer redis-py may bring another method that takes a connection for itself."""
    own = {
        name
        for name, member in vars(redis.Redis).items()
        if callable(getattr(redis.Redis, name)) and not name.startswith("_")
    }
    assert "pipeline" in own
    for name in sorted(own - HARMLESS - {"lock"}):
        with pytest.raises(NotImplementedError, match=r"[Cc]luster"):
            getattr(client, name)()


def test_nothing_of_redis_pys_asyncio_client_slips_through(cluster: Cluster) -> None:
    own = {
        name
        for name, member in vars(redis.asyncio.Redis).items()
        if callable(getattr(redis.asyncio.Redis, name)) and not name.startswith("_")
    }
    assert "pipeline" in own
    for name in sorted(own - HARMLESS - {"aclose", "initialize", "lock"}):
        with pytest.raises(NotImplementedError, match=r"[Cc]luster"):
            getattr(cluster.aio, name)()


def test_clients_show_their_nodes_and_no_secrets(nodes: LocalNodes) -> None:
    cluster = Cluster([{**nodes.hosts[0], "password": "hunter2"}])
    for client in (cluster.get_routing_client(), cluster.map().__enter__()):
        assert repr(client) == f"<{type(client).__name__} of {cluster!r}>"
        assert "hunter2" not in repr(client)


class Choosy(SlotRouter):
    """Has places of its own for some keys, and none for one."""

    def get_host_for_key(self, key: Any) -> int:
        if encode_key(key) == b"bad":
            raise UnroutableCommand("There is no place for it.")
        if encode_key(key).startswith(b"pinned"):
            return 3
        return super().get_host_for_key(key)


def test_a_routers_own_places_count_everywhere(nodes: LocalNodes) -> None:
    cluster = Cluster(nodes.hosts, router_cls=Choosy)
    client = cluster.get_routing_client()
    keys = [f"{kind}:{number}" for kind in ("pinned", "other") for number in range(8)]
    for key in keys:
        client.set(key, key)
    assert client.mget(keys) == [key.encode() for key in keys]
    with cluster.map() as mapped:
        with pytest.raises(UnroutableCommand, match="no place"):
            mapped.get("bad")
        promises = [mapped.get(key) for key in keys]
        counted = [mapped.strlen(key) for key in keys]
    assert [promise.value for promise in promises] == [key.encode() for key in keys]
    assert [promise.value for promise in counted] == [len(key) for key in keys]
    assert set(cluster.get_local_client(3).keys("pinned:*")) == {k.encode() for k in keys[:8]}
    cluster.close()


def test_an_odd_name_leaves_no_promise_pending(cluster: Cluster) -> None:
    with cluster.fanout(hosts=[0]) as client:
        stored = client.set("key", "value")
        pong = client.execute_command(memoryview(b"PING"))
    assert stored.value == {0: True}
    assert pong.value in ({0: True}, {0: b"PONG"})


class NoTruth:
    """Converts replies, and must be asked for nothing else."""

    def __bool__(self) -> bool:
        raise AssertionError

    def __call__(self, reply: Any, **_options: Any) -> Any:
        return [reply]


def test_a_callback_is_not_asked_for_its_truth(cluster: Cluster) -> None:
    with cluster.map() as client:
        client.set_response_callback("STRLEN", NoTruth())
        client.set("key", "value")
        length = client.strlen("key")
    assert repr(length.value) == "[5]"


def test_a_class_that_replaces_execute_command_is_told_of_all_commands(
    cluster: Cluster,
) -> None:
    class Prefixing(MappingClient):
        def execute_command(self, name: Any, key: Any, *rest: Any, **options: Any) -> Any:
            return super().execute_command(name, f"mine:{key}", *rest, **options)

    client: Any = Prefixing(cluster)
    stored = client.set("key", "value", ex=100), client.zadd("set", {"a": 1})
    found = cluster.get_routing_client().mget("mine:key", "key")
    assert found == [None, None]
    scores, value = client.zrange("set", 0, -1), client.get("key")
    client.join()
    values = [promise.value for promise in (*stored, scores, value)]
    assert values == [True, 1, [b"a"], b"value"]
    assert cluster.get_routing_client().mget("mine:key", "key") == [b"value", None]


class Unhashable(int):
    """A number of a kind that redis-py takes, and no dictionary does."""

    def __hash__(self) -> int:
        raise AssertionError

    def __eq__(self, _other: object) -> bool:
        raise AssertionError


def test_options_of_a_users_types_are_not_compared(client: RoutingClient) -> None:
    client.set("key", "value", ex=300)
    client.set("key", "value", ex=Unhashable(300))
    assert 0 < client.ttl("key") <= 300
    assert client.zrange("none", 0, Unhashable(5)) == []


def test_both_zeros_are_sent_as_they_are(cluster: Cluster) -> None:
    sent: list[Any] = []

    class Sees(Observer):
        def exchange_ended(self, exchange: ExchangeEvent) -> None:
            sent.extend(exchange.commands())

    add_observer(cluster, Sees())
    for least in (0.0, -0.0):
        cluster.get_routing_client().zrange("set", least, 1, byscore=True)
    assert [command[2] for command in sent] == [b"0.0", b"-0.0"]
