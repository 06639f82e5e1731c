"""What nodes say of their cluster: read, believed, and not believed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from django_rb.engine import Cluster, UnroutableCommand
from django_rb.engine.protocol.exchange import Exchange
from django_rb.engine.rounds import again
from django_rb.engine.rounds.observing import BatchEvent, ExchangeEvent, Observer
from django_rb.engine.topology.slots_replies import (
    Member,
    Shard,
    read_address,
    read_epoch,
    read_shards,
    read_slots,
)
from tests.helpers import wait_until
from tests.rediscluster.peers import KEY, OWNER, SLOT, Liars, get, look_again

ASKED = ("10.0.0.9", 7000)


def node(**details: object) -> list[object]:
    told: dict[str, object] = {
        "id": b"a",
        "port": 6379,
        "ip": b"10.0.0.1",
        "endpoint": b"10.0.0.1",
        "role": b"master",
        "health": b"online",
        **details,
    }
    return [part for name, value in told.items() for part in (name.encode(), value)]


@pytest.mark.parametrize(
    ("details", "is_tls", "address"),
    [
        ({}, False, ("10.0.0.1", 6379)),
        ({"endpoint": b"cache.example.com"}, False, ("cache.example.com", 6379)),
        ({"endpoint": b""}, False, ("10.0.0.9", 6379)),
        ({"endpoint": None}, False, ("10.0.0.9", 6379)),
        ({"endpoint": b"?"}, False, ("10.0.0.1", 6379)),
        ({"endpoint": b"::1"}, False, ("::1", 6379)),
        ({"tls-port": 6380}, True, ("10.0.0.1", 6380)),
        ({"tls-port": 6380}, False, ("10.0.0.1", 6379)),
    ],
)
def test_where_a_node_is(
    details: dict[str, object], is_tls: bool, address: tuple[str, int]
) -> None:
    reply = [[b"slots", [0, 5], b"nodes", [node(**details)]]]

    (shard,) = read_shards(reply, ASKED, is_tls=is_tls)

    assert shard == Shard(Member("a", address), [], [(0, 5)])


def test_the_primary_is_the_one_that_lives() -> None:
    dead, living = node(health=b"fail"), node(id=b"b", endpoint=b"10.0.0.2")
    replica = node(id=b"c", role=b"replica")
    reply = [
        {b"slots": [0, 5, 7, 7], b"nodes": [dead, replica, living]},
        [b"slots", [], b"nodes", [node(id=b"d")]],
    ]

    (shard,) = read_shards(reply, ASKED, is_tls=False)

    assert shard.primary.node_id == "b"
    assert [member.node_id for member in shard.replicas] == ["c"]
    assert shard.slots == [(0, 5), (7, 7)]


def test_slots_are_read_where_shards_are_not_known() -> None:
    reply = [
        [0, 5, [b"", 6379, b"a", []], [b"10.0.0.2", 6380, b"b", [b"hostname", b"x"]]],
        [6, 9, [b"?", 6381, b"c", [b"ip", b"10.0.0.3"]]],
        [10, 12, [None, 6379, b"a", []]],
    ]

    assert read_slots(reply, ASKED) == [
        Shard(
            Member("a", ("10.0.0.9", 6379)),
            [Member("b", ("10.0.0.2", 6380))],
            [(0, 5), (10, 12)],
        ),
        Shard(Member("c", ("10.0.0.3", 6381)), [], [(6, 9)]),
    ]


@pytest.mark.parametrize("reply", [b"OK", [1], [[b"slots", [0]]], [[b"nodes", []]], None, [[]]])
def test_what_is_no_layout_is_none(reply: Any) -> None:
    with pytest.raises(ValueError, match="not a reply to CLUSTER SHARDS"):
        read_shards(reply, ASKED, is_tls=False)
    with pytest.raises(ValueError, match="not a reply to CLUSTER SLOTS"):
        read_slots(reply or [b"x"], ASKED)


@pytest.mark.parametrize(
    ("said", "address"),
    [
        ("10.0.0.1:6379", ("10.0.0.1", 6379)),
        ("Cache.example.com:6379", ("cache.example.com", 6379)),
        ("::1:6379", ("::1", 6379)),
        (":6380", ("10.0.0.9", 6380)),
        ("?:6380", None),
        ("nonsense", None),
        ("10.0.0.1:", None),
        ("10.0.0.1:65536", None),
        ("10.0.0.1:" + "9" * 5000, None),
        ("10.0.0.1:\uff16\uff13", None),
    ],
)
def test_where_a_redirect_leads(said: str, address: tuple[str, int] | None) -> None:
    assert read_address(said, ASKED) == address


def test_epochs() -> None:
    assert read_epoch(b"cluster_state:ok\r\ncluster_current_epoch:12\r\n") == 12
    assert read_epoch(b"cluster_state:ok\r\n") is None
    assert read_epoch(redis.ResponseError("NOPERM")) is None


# What peers say that are not to be trusted.


def test_an_older_server_is_asked_for_its_slots(
    liars: Liars, make: Callable[..., Cluster]
) -> None:
    liars.knows_shards = False
    assert get(make()) == b"peer %d" % OWNER


def test_a_node_that_nobody_listed_is_followed(
    liars: Liars, make: Callable[..., Cluster], transport: str
) -> None:
    three = [(0, 5000, 0), (5001, 16383, 1)]
    liars.agree_on(three)
    cluster = make()
    liars.answer = lambda peer, _: None if peer == 3 else liars.moved(SLOT, 3)
    assert get(cluster) == b"peer 3"
    assert get(cluster) == b"peer 3"
    assert sorted(cluster.hosts) == [0, 1]


def test_a_circle_ends(liars: Liars, make: Callable[..., Cluster], transport: str) -> None:
    cluster = make()
    liars.answer = lambda peer, _: liars.moved(SLOT, (peer + 1) % 4)
    with pytest.raises(redis.ResponseError, match=f"^MOVED {SLOT} "):
        get(cluster)
    assert sum(len(peer.commands) for peer in liars.peers) < 16 + 2 * len(liars.asked) + 10
    with pytest.raises(redis.RedisError), cluster.map(timeout=0.05) as client:
        client.get(KEY)


def test_several_keys_in_a_circle_end_as_soon(
    liars: Liars,
    make: Callable[..., Cluster],
    transport: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = make()
    liars.answer = lambda peer, _: liars.moved(SLOT, (peer + 1) % 4)
    sent: list[Exchange] = []
    make_exchange = again._make_exchange

    def make_and_note(*args: Any) -> Exchange:
        sent.append(make_exchange(*args))
        return sent[-1]

    monkeypatch.setattr(again, "_make_exchange", make_and_note)

    def get_three() -> None:
        with cluster.map(auto_batch=False) as client:
            for n in range(3):
                client.get(f"{{{KEY}}}:{n}")

    with pytest.raises(redis.ResponseError):
        get_three()
    # What became of each before is known once, not for each of them in each round.
    assert max(len(exchange.tried) for exchange in sent) <= 3 * len(sent)


def test_a_move_to_nowhere_is_taken_back(
    liars: Liars, make: Callable[..., Cluster], transport: str
) -> None:
    cluster = make()
    assert get(cluster)
    lies = [b"-MOVED %d 127.0.0.1:1\r\n" % SLOT]
    liars.answer = lambda _peer, _: lies.pop() if lies else None
    wait_until(lambda: not lies or _fails(cluster))
    wait_until(lambda: not _fails(cluster))
    assert get(cluster) == b"peer %d" % OWNER


def _fails(cluster: Cluster) -> bool:
    try:
        get(cluster)
    except redis.ConnectionError:
        return True
    return False


def test_a_node_with_an_old_layout_is_not_believed(
    liars: Liars, make: Callable[..., Cluster], transport: str
) -> None:
    liars.epochs = [5, 5, 5, 5]
    cluster = make()
    assert get(cluster) == b"peer %d" % OWNER
    liars.slots[2] = [(0, 16383, 2)]  # as if it owned all
    liars.epochs[2] = 4
    del liars.asked[:]
    while 2 not in liars.asked:
        look_again(cluster, liars)
        assert get(cluster) == b"peer %d" % OWNER
    assert sorted(cluster.hosts) == [0, 1, 2, 3]


def test_a_move_is_not_undone_by_an_older_answer(
    liars: Liars, make: Callable[..., Cluster]
) -> None:
    cluster = make()
    assert get(cluster) == b"peer %d" % OWNER
    layout = cluster.layout
    assert layout is not None
    look = layout._look()
    (question,) = next(look)  # it is under way
    port = liars.peers[0].port
    layout.note_moved(SLOT, f"127.0.0.1:{port}", OWNER)
    question.replies = [
        [
            [b"slots", [first, last], b"nodes", [told]]
            for first, last, n in liars.slots[0]
            for told in [node(id=liars.ids[n], port=liars.peers[n].port, endpoint=b"127.0.0.1")]
        ],
        b"",
    ]
    with pytest.raises(StopIteration):
        next(look)
    assert get(cluster) == b"peer 0"
    look_again(cluster, liars)
    assert get(cluster) == b"peer %d" % OWNER


def test_a_seed_of_another_cluster_is_named(liars: Liars, make: Callable[..., Cluster]) -> None:
    ours = [(0, 16383, 1)]
    liars.slots = {0: [(0, 16383, 0)], 1: ours, 2: ours, 3: ours}
    liars.ids[0] = "f" * 40
    cluster = make(1)
    assert get(cluster) == b"peer 1"
    layout = cluster.layout
    assert layout is not None
    answer = Cluster([liars.host(0)], topology="redis-cluster")
    assert get(answer) == b"peer 0"
    answer.close()
    # As if the address of its only node had gone to another cluster.
    liars.ids[1], liars.slots[1] = "e" * 40, [(0, 5, 0), (6, 16383, 2)]
    look_again(cluster, liars)
    assert "now belongs to another cluster" in str(layout._failure)
    assert get(cluster) == b"peer 1"


def test_a_cluster_that_restarts_elsewhere_is_followed(
    liars: Liars, make: Callable[..., Cluster]
) -> None:
    liars.agree_on([(0, 8191, 0), (8192, 16383, 1)])
    cluster = make(0, 1, 2)
    assert get(cluster) == b"peer 1"
    shards = dict(cluster.hosts)
    liars.ids = [liars.ids[2], liars.ids[3], liars.ids[0], liars.ids[1]]
    liars.agree_on([(0, 8191, 2), (8192, 16383, 3)])
    look_again(cluster, liars)
    assert get(cluster) == b"peer 3"
    assert sorted(cluster.hosts) == sorted(shards)
    assert cluster.hosts[1].port == liars.peers[3].port


def test_addresses_are_mapped(liars: Liars, make: Callable[..., Cluster]) -> None:
    ports = [peer.port for peer in liars.peers]
    inside = {f"127.0.0.1:{port}": ("127.0.0.1", port) for port in ports}
    inside[f"127.0.0.1:{ports[3]}"] = ("127.0.0.1", ports[0])
    for address_map in (inside, lambda host, port: inside[f"{host}:{port}"]):
        cluster = make(address_map=address_map)
        cluster.get_routing_client().get(KEY)
        assert {info.port for info in cluster.hosts.values()} == set(ports[:3])


def test_a_shard_that_joins_gets_an_id_of_its_own(
    liars: Liars, make: Callable[..., Cluster]
) -> None:
    liars.agree_on([(8192, 16383, 1), (0, 8191, 2)])
    cluster = make()
    get(cluster)
    assert [info.port for info in cluster.hosts.values()] == [
        liars.peers[2].port,
        liars.peers[1].port,
    ]
    pools = dict(cluster._threads.pools)
    liars.agree_on([(0, 99, 3), (8192, 16383, 1), (100, 8191, 0)])
    look_again(cluster, liars)
    assert {host_id: info.port for host_id, info in cluster.hosts.items()} == {
        1: liars.peers[1].port,
        2: liars.peers[3].port,
        3: liars.peers[0].port,
    }
    assert cluster._threads.pools[1] is pools[1]


def test_keys_of_several_slots_are_refused(make: Callable[..., Cluster]) -> None:
    client = make().get_routing_client()
    with pytest.raises(UnroutableCommand, match=r"are in several slots: 'a' in 15495, 'b' in"):
        client.rename("a", "b")


def test_a_question_about_the_layout_is_no_round_of_a_call(
    make: Callable[..., Cluster],
) -> None:
    cluster = make()
    questions: list[bool] = []
    rounds: list[int] = []

    class Listener(Observer):
        def exchange_ended(self, exchange: ExchangeEvent) -> None:
            questions.append(exchange.is_question)

        def batch_ended(self, batch: BatchEvent) -> None:
            rounds.append(batch.rounds)

    cluster.observers = (Listener(),)
    get(cluster)
    assert questions == [True, False]
    assert rounds == [1]
