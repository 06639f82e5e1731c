"""What rb's README and documentation show, in the words of these tests, by rb's names."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from django_rb.engine import (
    BaseRouter,
    Cluster,
    ConsistentHashingRouter,
    FanoutClient,
    MappingClient,
    PartitionRouter,
    Promise,
    RoutingClient,
    Script,
    UnroutableCommand,
)
from django_rb.testing import LocalNodes
from django_rb.testing.rb import TestSetup, make_test_cluster


@pytest.fixture
def rb_cluster(nodes: LocalNodes) -> Iterator[Cluster]:
    """A cluster made the way rb's README makes it."""
    cluster = Cluster(
        {host_id: {"port": host["port"]} for host_id, host in nodes.hosts.items()},
        host_defaults={"host": "127.0.0.1", "password": nodes.hosts[0]["password"]},
    )
    yield cluster
    cluster.disconnect_pools()


def test_a_cluster_routes_as_rb_does_unless_told_otherwise(rb_cluster: Cluster) -> None:
    router = rb_cluster.get_router()
    assert type(router) is PartitionRouter
    assert isinstance(router, BaseRouter)
    assert router.cluster is rb_cluster
    assert router.get_host_for_key("page:1") == rb_cluster.get_host_for_key("page:1")
    assert router.get_host_for_command("GET", ["page:1"]) == router.get_host_for_key("page:1")
    assert router.get_key("GET", ["page:1"]) == "page:1"


@pytest.mark.static
def test_numbers_are_summed_up_by_callbacks(rb_cluster: Cluster) -> None:
    client = rb_cluster.get_routing_client()
    for key in range(0, 100, 2):
        client.set(str(key), key)
    results: list[int] = []
    with rb_cluster.map() as mapped:
        for key in range(100):
            mapped.get(key).then(lambda value: results.append(int(value or 0)))
    assert len(results) == 100
    assert f"Sum: {sum(results)}" == f"Sum: {sum(range(0, 100, 2))}"


@pytest.mark.static
def test_promises_are_kept_and_their_values_read(rb_cluster: Cluster) -> None:
    keys = [f"key:{n}" for n in range(50)]
    with rb_cluster.map() as client:
        for key in keys:
            client.set(key, key.upper())
    results = {}
    with rb_cluster.map() as client:
        for key in keys:
            results[key] = client.get(key)
    assert {key: promise.value for key, promise in results.items()} == {
        key: key.upper().encode() for key in keys
    }


@pytest.mark.static
def test_a_routing_client_works_key_by_key(rb_cluster: Cluster) -> None:
    keys = [f"key:{n}" for n in range(20)]
    client = rb_cluster.get_routing_client()
    assert isinstance(client, RoutingClient)
    for key in keys:
        client.set(key, key)
    results = {}
    for key in keys:
        results[key] = client.get(key)
    assert results == {key: key.encode() for key in keys}


@pytest.mark.static
def test_a_routing_client_has_map_and_fanout(rb_cluster: Cluster) -> None:
    client = rb_cluster.get_routing_client(auto_batch=False)
    assert client.auto_batch is False
    with client.map(timeout=5, max_concurrency=2) as mapped:
        promise = mapped.set("key", 1)
    assert type(mapped).__name__ == MappingClient.__name__
    assert promise.value is True
    with client.fanout(hosts="all") as fanned:
        size = fanned.dbsize()
    assert type(fanned).__name__ == FanoutClient.__name__
    assert sum(size.value.values()) == 1
    mapping = client.get_mapping_client()
    promise = mapping.get("key")
    mapping.join()
    assert promise.value == b"1"


@pytest.mark.static
@pytest.mark.parametrize("way", ["all", "fanout", "hosts"])
def test_every_host_is_flushed(way: str, rb_cluster: Cluster) -> None:
    with rb_cluster.map() as client:
        for key in range(100):
            client.set(key, 1)
    with {
        "all": rb_cluster.all(),
        "fanout": rb_cluster.fanout(hosts="all"),
        "hosts": rb_cluster.fanout(hosts=[0, 1, 2, 3]),
    }[way] as client:
        client.flushdb()
    with rb_cluster.all() as client:
        sizes = client.dbsize()
    assert sizes.value == dict.fromkeys(range(4), 0)


def test_what_is_fanned_out_comes_back_by_host(rb_cluster: Cluster) -> None:
    with rb_cluster.fanout(hosts=[0, 1, 2, 3]) as client:
        results = client.info()
    seen = {host_id: info["tcp_port"] for host_id, info in results.value.items()}
    assert seen == {host_id: info.port for host_id, info in rb_cluster.hosts.items()}


def test_a_fanout_is_targeted_call_by_call(rb_cluster: Cluster) -> None:
    with rb_cluster.fanout() as client:
        some = client.target([1, 2]).ping()
        one = client.target_key("key").echo("text")
    assert some.value == {1: True, 2: True}
    assert one.value == b"text"
    with pytest.raises(TypeError, match="more than once"):
        client.target([1]).target([2])


@pytest.mark.static
def test_local_clients_are_redis_pys_own(rb_cluster: Cluster) -> None:
    client = rb_cluster.get_local_client_for_key("key")
    assert isinstance(client, redis.Redis)
    client.set("key", 1)
    owner = rb_cluster.get_host_for_key("key")
    assert rb_cluster.get_local_client(owner).get("key") == b"1"
    assert client.connection_pool is rb_cluster.get_pool_for_host(owner)
    with pytest.raises(LookupError):
        rb_cluster.get_local_client(99)


def test_commands_are_executed_by_routing_key(rb_cluster: Cluster) -> None:
    results = rb_cluster.execute_commands(
        {"foo": [("PING",), ("TIME",)], "bar": [("CLIENT", "GETNAME")]}
    )
    assert list(results) == ["foo", "bar"]
    ping, time = results["foo"]
    (name,) = results["bar"]
    assert repr(ping) == "<Promise True>"
    seconds, microseconds = time.value
    assert repr(time) == f"<Promise ({seconds}, {microseconds})>"
    assert repr(name) == "<Promise None>"


def test_scripts_are_loaded_where_they_are_executed() -> None:
    script = Script(None, "return {KEYS, ARGV}")
    with make_test_cluster(servers=2, databases_each=2) as cluster:
        results = cluster.execute_commands(
            {
                "foo": [(script, ("key:1", "key:2"), range(3))],
                "bar": [(script, ("key:3", "key:4"), range(3, 6))],
            }
        )
    assert repr(results) == (
        "{'foo': [<Promise [['key:1', 'key:2'], ['0', '1', '2']]>], "
        "'bar': [<Promise [['key:3', 'key:4'], ['3', '4', '5']]>]}"
    )


@pytest.mark.static
def test_a_ring_is_asked_for_by_class(nodes: LocalNodes) -> None:
    cluster = Cluster(
        nodes.hosts, router_cls=ConsistentHashingRouter, router_options={"ring": "rb"}
    )
    assert type(cluster.get_router()) is ConsistentHashingRouter
    with cluster.map() as client:
        for n in range(20):
            client.set(f"key:{n}", n)
    owned = {n: cluster.get_local_client_for_key(f"key:{n}").get(f"key:{n}") for n in range(20)}
    assert owned == {n: b"%d" % n for n in range(20)}
    cluster.disconnect_pools()


def test_a_list_of_hosts_says_their_ids(nodes: LocalNodes) -> None:
    hosts = [{"host_id": host_id, **host} for host_id, host in nodes.hosts.items()]
    cluster = Cluster(hosts[::-1])
    assert [(i, info.port) for i, info in cluster.hosts.items()] == [
        (i, host["port"]) for i, host in nodes.hosts.items()
    ]


def test_a_command_without_a_key_cannot_be_routed(rb_cluster: Cluster) -> None:
    with pytest.raises(UnroutableCommand):
        rb_cluster.get_routing_client().ping()


def test_promises_have_rbs_names() -> None:
    promise: Promise[int] = Promise()
    seen: list[object] = []
    promise.done(seen.append)
    promise.resolve(1)
    assert seen == [1]
    assert Promise.all({"a": promise, "b": 2}).value == {"a": 1, "b": 2}
    assert Promise.resolved(3).then(lambda value: value + 1).value == 4
    assert isinstance(Promise.rejected(ValueError()).reason, ValueError)


def test_a_test_cluster_has_a_node_for_each_database_of_its_servers() -> None:
    with TestSetup(servers=2, databases_each=3) as setup:
        cluster = setup.make_cluster()
        assert len(cluster.hosts) == 6
        with cluster.map() as client:
            for n in range(60):
                client.set(f"key:{n}", n)
            texts = [client.get(f"key:{n}") for n in range(60)]
        assert [promise.value for promise in texts] == list(map(str, range(60)))
        with cluster.all() as client:
            sizes = client.dbsize()
        assert sum(sizes.value.values()) == 60
        assert all(sizes.value.values())
        cluster.disconnect_pools()
        pids = [setup.nodes.pid(n) for n in range(2)]
    assert len(set(pids)) == 2
    setup.close()
