"""The cluster: its hosts come and go while it is used, and its scripts are kept."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from django_rb import __version__
from django_rb.engine import (
    BadHostSetup,
    BaseRouter,
    Cluster,
    ConsistentHashingRouter,
    PartitionRouter,
    SlotRouter,
    UnroutableCommand,
)
from django_rb.testing import LocalNodes
from tests.tables import for_each

KEYS = [f"key:{n}" for n in range(300)]
SECRET = "hunter2"


def owners(cluster: Cluster) -> dict[str, int]:
    return {key: cluster.get_host_for_key(key) for key in KEYS}


def first(nodes: LocalNodes, count: int) -> dict[int, dict[str, Any]]:
    return {host_id: nodes.hosts[host_id] for host_id in range(count)}


def test_nothing_is_connected_before_the_first_command() -> None:
    cluster = Cluster([{"port": 1}, {"port": 2}])
    client = cluster.get_routing_client()
    mapping = client.get_mapping_client()
    promise = mapping.get("key")
    cluster.get_local_client(0)
    assert promise.is_pending
    with pytest.raises(redis.ConnectionError):
        mapping.join()


def test_a_host_that_is_added_takes_its_share(nodes: LocalNodes) -> None:
    cluster = Cluster(first(nodes, 3), router_cls=SlotRouter)
    before, router = owners(cluster), cluster.get_router()
    cluster.get_routing_client().mset(dict.fromkeys(KEYS, "v"))

    cluster.add_host(3, **nodes.hosts[3])

    assert list(cluster.hosts) == list(cluster.nodes) == [0, 1, 2, 3]
    assert cluster.get_router() is not router
    after = owners(cluster)
    moved = [key for key in KEYS if before[key] != after[key]]
    assert moved
    assert {after[key] for key in moved} == {3}
    with cluster.map() as client:
        found = {key: client.get(key) for key in KEYS}
        for key in moved:
            client.set(key, "moved")
    assert [key for key in KEYS if found[key].value is None] == moved
    assert cluster.get_local_client(3).dbsize() == len(moved)
    with cluster.all() as fanned:
        pongs = fanned.ping()
    assert list(pongs.value) == [0, 1, 2, 3]
    cluster.close()


def test_a_host_that_is_removed_gives_its_share_away(nodes: LocalNodes) -> None:
    cluster = Cluster(nodes.hosts, router_cls=SlotRouter)
    client, before = cluster.get_routing_client(), owners(cluster)
    client.mset(dict.fromkeys(KEYS, "v"))
    local = cluster.get_local_client(1)
    assert local.ping()

    assert cluster.remove_host(1) is True
    assert cluster.remove_host(1) is False

    after = owners(cluster)
    moved = [key for key in KEYS if before[key] != after[key]]
    assert moved == [key for key in KEYS if before[key] == 1]
    values = client.mget(KEYS)
    assert [key for key, v in zip(KEYS, values, strict=True) if v is None] == moved
    with pytest.raises(LookupError, match="no host 1"):
        cluster.get_local_client(1)
    with pytest.raises(ValueError, match="no host 1"):
        cluster.fanout([1])
    assert set(client.scan_iter()) == {k.encode() for k in KEYS if before[k] != 1}

    cluster.add_host(1, **nodes.hosts[1])
    assert owners(cluster) == before
    assert client.mget(KEYS) == [b"v"] * len(KEYS)
    assert cluster.get_local_client(1).ping()
    cluster.close()


def test_a_host_is_added_with_the_defaults_of_the_cluster(nodes: LocalNodes) -> None:
    port = nodes.hosts[1]["port"]
    cluster = Cluster(
        [{"port": nodes.hosts[0]["port"]}],
        host_defaults={"host": "127.0.0.1", "db": 2, "password": nodes.hosts[0]["password"]},
    )
    cluster.add_host(1, port=port)
    assert cluster.hosts[1].address == f"127.0.0.1:{port}/2"
    assert cluster.call_nodes("PING")[0] == {0: b"PONG", 1: b"PONG"}
    cluster.close()


@for_each(
    ("arguments", "options", "address"),
    [
        (("127.0.0.1", 6381), {}, "127.0.0.1:6381/2"),
        (("h", 1, None, 0, SECRET, False, None), {}, "h:1/0"),
        (("localhost", 6379, "/s", 3), {}, "unix:/s/3"),
        ((None, None, "/s"), {}, "unix:/s/2"),
        (("h",), {"port": 1, "unix_socket_path": None, "ssl_options": None}, "h:1/2"),
        (("h", 1), {"db": 0, "client_name": "web"}, "h:1/0"),
        (({"host": "h", "port": 1},), {}, "h:1/2"),
        (({"host": "h"},), {"port": 1}, "h:1/2"),
        (({},), {}, "d:6379/2"),
        ((), {}, "d:6379/2"),
        ((f"redis://:{SECRET}@h:1/3",), {}, "h:1/3"),
        (("unix:///s",), {"db": 0}, "unix:/s/0"),
    ],
)
def test_a_host_is_added_by_arguments_as_in_rb_or_a_dictionary_or_a_url(
    arguments: tuple[Any, ...], options: dict[str, Any], address: str
) -> None:
    defaults = {"host": "d", "db": 2, "password": "default"}
    cluster = Cluster([{}], host_defaults=defaults, router_cls=SlotRouter)
    cluster.add_host(3, *arguments, **options)
    info = cluster.hosts[3]
    assert info.address == address
    assert info.password == (SECRET if SECRET in str(arguments) else "default")
    assert info.options == ({"client_name": "web"} if "client_name" in options else {})


@for_each(
    ("arguments", "options", "text"),
    [
        (("h", 1), {"port": 1}, "several values for port"),
        (({"port": 1},), {"port": 1}, "several values for port"),
        (("redis://h/1",), {"db": 1}, "several values for db"),
        (("h", 1, None, 0, SECRET, False, None, "more"), {}, "ssl, ssl_options in this order"),
        (({}, 1), {}, "one dictionary or URL"),
        ((f"redis://:{SECRET}@h", 1), {}, "one dictionary or URL"),
    ],
)
def test_arguments_of_a_host_that_do_not_go_together(
    arguments: tuple[Any, ...], options: dict[str, Any], text: str
) -> None:
    cluster = Cluster([{}], router_cls=SlotRouter)
    with pytest.raises(TypeError, match=text) as caught:
        cluster.add_host(3, *arguments, **options)
    assert SECRET not in str(caught.value)
    assert list(cluster.hosts) == [0]


def test_what_cannot_be_added_leaves_everything_as_it_was(nodes: LocalNodes) -> None:
    cluster = Cluster(first(nodes, 2), router_cls=PartitionRouter)
    hosts, router, before = cluster.hosts, cluster.router, owners(cluster)
    with pytest.raises(TypeError, match=r"share the same host id \(1\)"):
        cluster.add_host(1, port=1)
    with pytest.raises(BadHostSetup, match="prt"):
        cluster.add_host(2, prt=1)
    with pytest.raises(BadHostSetup, match='Expected host with ID "2"'):
        cluster.add_host(3, port=1)
    for host_id in ("2", -1, 1.5, True, None):
        with pytest.raises(BadHostSetup, match="not an integer of 0 or more"):
            cluster.add_host(host_id, port=1)  # type: ignore[arg-type]
    assert (cluster.hosts, cluster.router) == (hosts, router)
    assert list(cluster.nodes) == [0, 1]
    assert owners(cluster) == before
    assert cluster.call_nodes("PING")[0] == {0: b"PONG", 1: b"PONG"}
    cluster.close()


def test_what_cannot_be_removed_stays(nodes: LocalNodes) -> None:
    cluster = Cluster(first(nodes, 2), router_cls=PartitionRouter)
    before = owners(cluster)
    with pytest.raises(BadHostSetup, match="from 0 to 0"):
        cluster.remove_host(0)
    assert list(cluster.hosts) == list(cluster.nodes) == [0, 1]
    assert owners(cluster) == before
    assert cluster.remove_host(1)
    with pytest.raises(BadHostSetup, match="no hosts"):
        cluster.remove_host(0)
    assert cluster.call_nodes("PING")[0] == {0: b"PONG"}
    cluster.close()


@pytest.mark.parametrize("router_cls", [SlotRouter, ConsistentHashingRouter])
def test_batches_under_way_are_unharmed_by_hosts_that_come_and_go(
    router_cls: type[BaseRouter], nodes: LocalNodes
) -> None:
    """Whoever routed a key before the change gets its answer from where the key was."""
    cluster = Cluster(nodes.hosts, router_cls=router_cls)
    everywhere = {key: key.encode() for key in KEYS[:40]}
    with cluster.all() as client:
        client.mset(everywhere)  # so that every answer is the right one
    stop = threading.Event()
    errors: list[BaseException] = []
    rounds = [0] * 4

    def work(number: int) -> None:
        client = cluster.get_routing_client()
        try:
            while not stop.is_set():
                assert client.mget(list(everywhere)) == list(everywhere.values())
                with cluster.map() as mapped:
                    promises = {key: mapped.get(key) for key in everywhere}
                assert {key: p.value for key, p in promises.items()} == everywhere
                try:
                    with cluster.all() as fanned:
                        pongs = fanned.ping()
                    assert set(pongs.value) >= {0, 1, 2}
                except UnroutableCommand as error:  # it went before the block's end
                    if str(error) != "Host 3 was removed before the command was sent.":
                        raise
                assert cluster.get_local_client_for_key("key:1").get("key:1") == b"key:1"
                rounds[number] += 1
        except LookupError:
            work(number)  # the host went between the question who owns it and its client
        except BaseException as error:  # noqa: BLE001 (it is told to the test)
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(60):
        assert cluster.remove_host(3)
        cluster.call_nodes("PING")
        cluster.add_host(3, **nodes.hosts[3])
        cluster.call_nodes("PING")
        if errors:
            break
    stop.set()
    for thread in threads:
        thread.join()
    assert list(map(str, errors)) == []
    assert all(rounds)
    cluster.close()


class TestMapRoutesWhenItIsSent:
    """By who owns the keys then, if hosts came or went since it was told its commands."""

    KEYS = [f"key:{number}" for number in range(40)]

    @pytest.fixture
    def growing(self, nodes: LocalNodes) -> Iterator[Cluster]:
        cluster = Cluster(first(nodes, 2), router_cls=SlotRouter)
        yield cluster
        cluster.close()

    def grow(self, cluster: Cluster, nodes: LocalNodes) -> None:
        """Add two hosts, on which alone the keys that move to them are found."""
        before = owners(cluster)
        cluster.add_host(2, **nodes.hosts[2])
        cluster.add_host(3, **nodes.hosts[3])
        assert owners(cluster) != before
        with cluster.map() as client:
            client.mset({key: key.encode() for key in self.KEYS})

    def test_commands_of_any_kind(self, growing: Cluster, nodes: LocalNodes) -> None:
        values = [key.encode() for key in self.KEYS]
        with growing.map() as client:
            plain = [client.get(key) for key in self.KEYS]
            lengths = [client.strlen(key) for key in self.KEYS]
            several = client.mget(self.KEYS)
            existing = client.exists(*self.KEYS)
            replaced = [client.set(key, key, get=True) for key in self.KEYS]
            self.grow(growing, nodes)
        assert [promise.value for promise in plain] == values
        assert [promise.value for promise in lengths] == [len(key) for key in self.KEYS]
        assert several.value == values
        assert existing.value == len(values)
        assert [promise.value for promise in replaced] == values

    def test_what_cannot_be_routed_any_more(self, growing: Cluster, nodes: LocalNodes) -> None:
        one, other = next(
            (one, other)
            for one in self.KEYS
            for other in self.KEYS
            if growing.get_host_for_key(one) == growing.get_host_for_key(other)
            and not self.stay_together(nodes, one, other)
        )
        client = growing.get_routing_client().get_mapping_client()
        moved = client.rename(one, other)
        found = client.get(one)
        self.grow(growing, nodes)
        with pytest.raises(UnroutableCommand):
            client.join()
        assert isinstance(moved.reason, UnroutableCommand)
        assert found.value == one.encode()

    def stay_together(self, nodes: LocalNodes, *keys: str) -> bool:
        grown = Cluster(nodes.hosts, router_cls=SlotRouter)
        return len({grown.get_host_for_key(key) for key in keys}) == 1

    def test_a_callback_that_adds_a_host(self, growing: Cluster, nodes: LocalNodes) -> None:
        with growing.map() as client:

            def go_on(_: object) -> None:
                self.grow(growing, nodes)
                found.extend(client.get(key) for key in self.KEYS)

            found: list[Any] = []
            client.get("key:0").then(go_on)
        assert [promise.value for promise in found] == [key.encode() for key in self.KEYS]

    def test_a_host_that_is_removed_fails_its_own_commands(self, growing: Cluster) -> None:
        client = growing.get_routing_client().get_fanout_client([0, 1])
        pongs = [client.target([host_id]).ping() for host_id in (0, 1)]
        assert growing.remove_host(1)
        with pytest.raises(UnroutableCommand, match="Host 1 was removed"):
            client.join()
        assert pongs[0].value == {0: True}

    def test_fanned_out_commands_stay(self, growing: Cluster, nodes: LocalNodes) -> None:
        with growing.fanout([0, 1]) as client:
            pongs = client.ping()
            self.grow(growing, nodes)
        assert pongs.value == {0: True, 1: True}


def test_removed_hosts_keep_no_connection_after_close(nodes: LocalNodes) -> None:
    cluster = Cluster(nodes.hosts, router_cls=SlotRouter)
    cluster.call_nodes("PING")
    pool = cluster._threads.pools[2]
    taken = pool.take()
    assert taken is not None
    cluster.remove_host(2)
    cluster.add_host(2, **nodes.hosts[2])
    pool.give_back(taken)  # as a batch does that was under way
    cluster.close()
    assert taken.fd < 0


def test_removing_a_host_harms_no_local_client_in_the_middle_of_something(
    nodes: LocalNodes,
) -> None:
    cluster = Cluster(nodes.hosts, router_cls=SlotRouter)
    local: Any = cluster.get_local_client(2)
    assert local.ping()
    with local.client() as one:
        one.client_setname("mine")
        cluster.remove_host(2)
        assert one.client_getname() == "mine"  # it is still the same connection
    cluster.add_host(2, **nodes.hosts[2])
    assert cluster.get_pool_for_host(2) is not local.connection_pool
    cluster.close()


def test_a_cluster_that_nobody_uses_is_collected(nodes: LocalNodes) -> None:
    cluster = Cluster(nodes.hosts)
    client: Any = cluster.get_routing_client()
    client.get("key")
    with cluster.map() as mapped:
        promise = mapped.get("key")
    cluster.close()
    gone = weakref.ref(cluster)
    del cluster, client, mapped
    gc.collect()
    assert gone() is None
    assert promise.value is None


@pytest.mark.parametrize("pool_cls", [redis.ConnectionPool, redis.BlockingConnectionPool])
def test_local_clients_use_the_pool_class_that_was_given(
    pool_cls: type[redis.ConnectionPool], nodes: LocalNodes
) -> None:
    cluster = Cluster(nodes.hosts, pool_cls=pool_cls, pool_options={"max_connections": 2})
    local = cluster.get_local_client(0)
    assert type(local.connection_pool) is pool_cls
    assert local.ping()
    cluster.close()


def test_closing_a_cluster_closes_its_connections_and_it_goes_on(nodes: LocalNodes) -> None:
    cluster = Cluster(nodes.hosts)
    client = cluster.get_routing_client()
    client.set("key", 1)
    cluster.close()
    assert all(not node.idle for node in cluster._threads.pools.values())
    assert client.get("key") == b"1"
    cluster.disconnect_pools()


def test_options_of_connections_reach_every_client(nodes: LocalNodes) -> None:
    cluster = Cluster(
        nodes.hosts,
        host_defaults={"db": 1},
        pool_options={"client_name": "web", "decode_responses": True},
    )
    with cluster.all() as client:
        names, infos = client.client_getname(), client.client_info()
    assert names.value == dict.fromkeys(range(4), "web")
    assert {info["db"] for info in infos.value.values()} == {1}
    assert cluster.get_local_client(0).client_getname() == "web"
    cluster.close()


def knows_libraries(cluster: Cluster) -> bool:
    """Return whether a server has CLIENT SETINFO, which came with Redis 7.2."""
    version = cluster.get_local_client(0).info("server")["redis_version"]
    return tuple(map(int, version.split(".")[:2])) >= (7, 2)


def test_nodes_are_told_who_connects(nodes: LocalNodes) -> None:
    cluster = Cluster(nodes.hosts)

    async def on_a_loop() -> Any:
        async with cluster.aall() as client:
            infos = client.client_info()
        await cluster.aclose()
        return infos.value[0]

    with cluster.all() as client:
        in_threads = client.client_info()
    infos = [
        in_threads.value[0],
        cluster.get_local_client(0).client_info(),
        asyncio.run(on_a_loop()),
    ]
    if knows_libraries(cluster):
        for info in infos:
            assert info["lib-name"] == f"redis-py(django-rb_v{__version__})"
            assert info["lib-ver"] == redis.__version__
    cluster.close()


@pytest.mark.filterwarnings("ignore:Call to '__init__':DeprecationWarning")  # redis-py 7.2
def test_the_settings_may_say_who_connects(nodes: LocalNodes) -> None:
    cluster = Cluster(nodes.hosts, pool_options={"lib_name": "shop"})
    if knows_libraries(cluster):
        assert cluster.get_local_client(0).client_info()["lib-name"] == "shop"
    cluster.close()
