"""What nodes refuse because they are not, or no longer, who should answer; and lies."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import redis

from django_rb.engine import Cluster, UnroutableCommand
from django_rb.engine.rounds.batch import call, pipeline
from tests.helpers import wait_until
from tests.rediscluster.peers import KEY, OWNER, SLOT, Liars, get, resp

SUCCESSOR = (OWNER + 1) % 4
SCRIPT = "return redis.call('INCR', KEYS[1])"

REFUSALS = {
    "loading": b"-LOADING Redis is loading the dataset in memory\r\n",
    "masterdown": b"-MASTERDOWN Link with MASTER is down.\r\n",
    "readonly": b"-READONLY You can't write against a read only replica.\r\n",
}
# As Valkey and Redis 7 say it of a script, and as older servers wrap it.
OF_SCRIPTS = {
    "newer": REFUSALS["readonly"].rstrip() + b" script: 1b936e3f, on @user_script:1.\r\n",
    "older": b"-ERR Error running script (call to f_1b9): @user_script:1: @user_script: 1: "
    + REFUSALS["readonly"][1:],
}


class Demoted:
    """The owner of KEY: it takes some commands, refuses others, and has a successor."""

    def __init__(self, liars: Liars, refusal: bytes) -> None:
        self.taken: dict[int, list[list[bytes]]] = {n: [] for n in range(4)}
        self._liars = liars
        self._refusal = refusal
        liars.answer = self._answer

    def _answer(self, peer: int, command: Sequence[bytes]) -> bytes | None:
        if peer == OWNER and command[0] not in {b"APPEND", b"PING"}:
            return self._refusal
        if command[0] != b"PING":
            self.taken[peer].append([*command])
        return resp(len(self.taken[peer]))

    def has_successor(self) -> None:
        """Let all nodes say who has taken its part."""
        ranges = self._liars.slots[0]
        self._liars.agree_on(
            [(a, b, SUCCESSOR if owner == OWNER else owner) for a, b, owner in ranges]
        )


def look_may_be_taken(cluster: Cluster) -> None:
    layout = cluster.layout
    assert layout is not None
    wait_until(lambda: not layout._times.is_too_early)


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
def test_what_a_demoted_node_refuses_goes_to_its_successor(
    liars: Liars, make: Callable[..., Cluster], transport: str, refusal: bytes
) -> None:
    cluster = make()
    assert get(cluster)
    demoted = Demoted(liars, refusal)
    demoted.has_successor()
    look_may_be_taken(cluster)
    with cluster.map() as client:
        got = [client.append(KEY, "x"), client.incr(KEY), client.decr(KEY)]
    assert [promise.value for promise in got] == [1, 1, 2]
    # What it took is not sent again; the rest is, in its order.
    assert [[name for name, *_ in demoted.taken[peer]] for peer in (OWNER, SUCCESSOR)] == [
        [b"APPEND"],
        [b"INCRBY", b"DECRBY"],
    ]
    assert cluster.get_host_for_key(KEY) == SUCCESSOR


@pytest.mark.parametrize("refusal", OF_SCRIPTS.values(), ids=OF_SCRIPTS)
def test_scripts_that_may_not_write_go_to_the_successor(
    liars: Liars, make: Callable[..., Cluster], transport: str, refusal: bytes
) -> None:
    cluster = make()
    assert get(cluster)
    demoted = Demoted(liars, refusal)
    demoted.has_successor()
    look_may_be_taken(cluster)
    script = cluster.get_routing_client().register_script(SCRIPT)
    assert script(keys=[KEY]) == 1
    assert [len(taken) for taken in demoted.taken.values()].count(1) == 1
    assert len(demoted.taken[SUCCESSOR]) == 1


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_is_said_where_there_is_no_successor(
    liars: Liars, make: Callable[..., Cluster], transport: str, refusal: bytes
) -> None:
    cluster = make()
    assert get(cluster)
    demoted = Demoted(liars, refusal)
    look_may_be_taken(cluster)
    said = refusal.split(b" ")[1].decode()
    sent = len(liars.peers[OWNER].commands)
    with pytest.raises(redis.RedisError, match=rf"{said}.*\[node"):
        cluster.get_routing_client().incr(KEY)
    assert [c[0] for c in liars.peers[OWNER].commands[sent:]].count(b"INCRBY") == 1
    assert demoted.taken == {n: [] for n in range(4)}


def test_an_error_of_a_script_of_its_own_is_none_of_a_node(
    liars: Liars, make: Callable[..., Cluster], transport: str
) -> None:
    cluster = make()
    assert get(cluster)
    liars.answer = lambda _peer, _command: b"-ERR The shop is READONLY today\r\n"
    look_may_be_taken(cluster)
    with pytest.raises(redis.ResponseError, match=r"^The shop is READONLY today"):
        cluster.get_routing_client().eval(SCRIPT, 1, KEY)


@pytest.mark.parametrize(
    "lie",
    [
        "MOVED",
        "MOVED 5",
        "MOVED five 127.0.0.1:7000",
        "MOVED 16384 127.0.0.1:7000",
        "MOVED 5 127.0.0.1:7000",  # another slot than that of the key
        "MOVED {slot} ?:7000",
        "ASK",
        "ASK {slot} 127.0.0.1:65536",
    ],
)
def test_a_redirect_that_leads_nowhere_is_the_error(
    liars: Liars, make: Callable[..., Cluster], lie: str
) -> None:
    cluster = make()
    assert get(cluster) == b"peer %d" % OWNER
    said = lie.format(slot=SLOT)
    liars.answer = lambda _peer, _command: f"-{said}\r\n".encode()
    with pytest.raises(redis.ResponseError) as caught:
        get(cluster)
    assert said in str(caught.value)
    assert "[node" in str(caught.value)
    liars.answer = lambda _peer, _command: None
    assert get(cluster) == b"peer %d" % OWNER
    assert sorted(cluster.hosts) == [0, 1, 2, 3]


DOORS: dict[str, Callable[[Cluster], object]] = {
    "routing": lambda cluster: cluster.get_routing_client().execute_command("ASKING"),
    "map": lambda cluster: (
        cluster.get_routing_client().get_mapping_client().execute_command("asking")
    ),
    "all": lambda cluster: (
        cluster.get_routing_client().get_fanout_client([0]).execute_command("asking")
    ),
    "call_nodes": lambda cluster: cluster.call_nodes("Asking"),
    "pipeline": lambda cluster: cluster.run(pipeline(cluster, KEY.encode(), (b"ASKING",))),
    "call": lambda cluster: cluster.run(call(cluster, KEY.encode(), b"ASKING")),
}


@pytest.mark.parametrize("use", DOORS.values(), ids=DOORS)
def test_nobody_else_says_asking(
    liars: Liars, make: Callable[..., Cluster], use: Callable[[Cluster], object]
) -> None:
    """It would be for whatever comes next on its connection."""
    cluster = make()
    assert get(cluster)
    with pytest.raises(UnroutableCommand, match=r"ASKING only affects the connection"):
        use(cluster)
    assert [b"ASKING"] not in [c for peer in liars.peers for c in peer.commands]
