"""What a limiter asks of the nodes, and what it says when they fail."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

import pytest
import redis
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from django_rb import clusters
from django_rb.engine import Cluster, NodeDown
from django_rb.engine.errors import ProtocolError
from django_rb.engine.protocol.scripts import KeyScript
from django_rb.ratelimit import Limit, Limiter, Rate, Usage, limiter
from django_rb.ratelimit.algorithms import ARGUMENTS
from django_rb.testing import LocalNodes
from django_rb.testing.capture import CaptureCommandsContext
from tests.helpers import Servers, wait_until
from tests.test_readme import ROOT, code_blocks

ALGORITHMS = ["fixed-window", "sliding-window", "token-bucket"]
EVER = 1000 * 86400  # seconds; nothing ends or fills up in a test
BROKEN = 2  # the host id of a node that fails, where one does
SECRET = "hunter2"

Call = Callable[..., Any]


def call_directly(limiter: Limiter, name: str, *args: Any, **options: Any) -> Any:
    return getattr(limiter, name)(*args, **options)


def call_awaited(limiter: Limiter, name: str, *args: Any, **options: Any) -> Any:
    async def wait() -> Any:
        try:
            return await getattr(limiter, f"a{name}")(*args, **options)
        finally:
            await clusters["default"].aclose()

    return asyncio.run(wait())


@pytest.fixture(params=[call_directly, call_awaited], ids=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Call:
    """Calls a method of a limiter, or its asynchronous twin."""
    chosen: Call = request.param
    return chosen


@pytest.fixture
def servers(nodes: LocalNodes) -> Iterator[Servers]:
    with Servers(nodes.hosts) as asked:
        yield asked


def limit_on(host_id: int, count: int = 5, **options: Any) -> Limit:
    """Return a limit whose key lives on a given node."""
    owner_of = clusters["default"].get_host_for_key
    candidates = (Limit(f"key:{n}", Rate(count, EVER), **options) for n in range(1000))
    return next(
        limit
        for limit in candidates
        if owner_of(limit.rule.make_key("rl", limit.key)) == host_id
    )


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_limit_is_hit_peeked_at_and_reset(
    algorithm: str, call: Call, nodes: LocalNodes
) -> None:
    def ask(name: str, *args: Any) -> Any:
        return call(limiter, name, "key", Rate(3, EVER), *args, algorithm=algorithm)

    assert not ask("reset")
    assert ask("peek") == Usage(
        Limit("key", Rate(3, EVER), 1, algorithm), True, 0, 3, 0.0, 0.0, None
    )
    assert [(u.allowed, u.used, u.remaining) for u in (ask("hit"), ask("hit", 2))] == [
        (True, 1, 2),
        (True, 3, 0),
    ]
    for name in ("hit", "peek"):
        refused = ask(name)
        assert (refused.allowed, refused.used, refused.remaining) == (False, 3, 0)
        assert 0 < refused.retry_after <= refused.reset <= 2 * EVER
    assert ask("reset")
    assert ask("hit").used == 1


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_no_cost_is_free_and_one_too_high_never_allowed(
    algorithm: str, call: Call, servers: Servers
) -> None:
    def hit(cost: int, rate: str = "3/d") -> tuple[bool, int, float]:
        usage = call(limiter, "hit", "key", rate, cost, algorithm=algorithm)
        return usage.allowed, usage.used, usage.retry_after

    assert hit(0) == (True, 0, 0.0)
    for cost in (4, 2**53 + 1, 10**30, 10**5000):
        assert hit(cost) == (False, 0, math.inf)
    assert set().union(*servers.keys().values()) == set()  # nothing was charged
    assert hit(3) == (True, 3, 0.0)
    assert hit(0)[0]
    assert hit(1, "0/s") == hit(0, "0/s") == (False, 0, math.inf)  # never is never


def now(servers: Servers, host_id: int) -> float:
    seconds, microseconds = servers.ask(host_id, "TIME")
    return float(seconds + microseconds / 1e6)


def test_keys_expire_by_themselves_when_nothing_is_used_any_more(servers: Servers) -> None:
    for algorithm in ALGORITHMS:
        for attempt in range(20):
            name = f"key{attempt}"
            key = Limit(name, Rate(1, 1), algorithm=algorithm).rule.make_key("rl", name)
            owner = clusters["default"].get_host_for_key(key)
            began = now(servers, owner)
            usage = limiter.hit(name, "1/s", algorithm=algorithm)
            expires = servers.ask(owner, "PEXPIRETIME", key)
            ended = now(servers, owner)
            if ended - began < 0.4:  # or the key may be gone, on a busy machine
                break
        left = expires / 1000 - ended
        assert left <= usage.reset <= left + 0.5
    wait_until(lambda: not any(servers.keys().values()))
    for algorithm in ALGORITHMS:
        assert limiter.hit("key0", "1/s", algorithm=algorithm).allowed


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_time_is_that_of_the_server_to_the_millisecond(
    algorithm: str, servers: Servers
) -> None:
    period = 1000 * 86400 * 1000  # in milliseconds
    host_id = clusters["default"].get_host_for_key(
        Limit("key", Rate(1, EVER), algorithm=algorithm).rule.make_key("rl", "key")
    )
    before = servers.ask(host_id, "TIME")
    usage = limiter.hit("key", Rate(1, EVER), algorithm=algorithm)
    after = servers.ask(host_id, "TIME")
    earliest, latest = (time[0] * 1000 + time[1] // 1000 for time in (before, after))
    ends = {
        "fixed-window": [(now // period + 1) * period for now in (earliest, latest)],
        "sliding-window": [(now // period + 2) * period for now in (earliest, latest)],
        "token-bucket": [now + period for now in (earliest, latest)],
    }[algorithm]
    expires = servers.ask(host_id, "PEXPIRETIME", next(iter(servers.keys()[host_id])))
    assert ends[0] <= expires <= ends[1]
    if algorithm != "token-bucket":
        assert expires - latest <= round(usage.reset * 1000) <= expires - earliest


def test_web_servers_clocks_do_not_matter(
    nodes: LocalNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for algorithm in ALGORITHMS:
        limiter.hit("key", Rate(3, EVER), 3, algorithm=algorithm)
    for seconds in (0.0, 1e10):
        monkeypatch.setattr("time.time", lambda seconds=seconds: seconds)
        for algorithm in ALGORITHMS:
            assert not limiter.hit("key", Rate(3, EVER), algorithm=algorithm).allowed


def test_a_burst_alone_is_of_a_token_bucket(call: Call, servers: Servers) -> None:
    with override_settings(RATELIMIT_ALGORITHM="fixed-window"):
        usage = call(limiter, "hit", "key", "1/d", burst=9)
        assert (usage.limit.algorithm, usage.remaining) == ("token-bucket", 8)
        assert call(limiter, "peek", "key", "1/d", burst=9).used == 1
        assert call(limiter, "reset", "key", "1/d", burst=9)
        assert call(limiter, "hit", "key", "1/d").limit.algorithm == "fixed-window"


def test_a_changed_rate_algorithm_or_burst_begins_anew(servers: Servers) -> None:
    options: list[dict[str, Any]] = [
        {"rate": "5/d"},
        {"rate": "6/d"},
        {"rate": "5/2d"},
        {"rate": "5/d", "algorithm": "fixed-window"},
        {"rate": "5/d", "algorithm": "token-bucket"},
        {"rate": "5/d", "algorithm": "token-bucket", "burst": 6},
    ]
    for one in options:
        assert limiter.hit("key", cost=5, **one).used == 5
    for one in options:
        assert limiter.peek("key", **one).used == 5
    # Nor does the beginning of a key look like a burst.
    assert limiter.peek("6:key", "5/d", algorithm="token-bucket").used == 0
    assert sum(map(len, servers.keys().values())) == len(options)
    assert b"rl:sliding-window:5/d:key" in set().union(*servers.keys().values())


KEYS: list[str | bytes] = [
    "",
    "plain",
    "ä€😀",
    "\ud800 lone",
    b"\x00\xff\r\n*1\r\n$5\r\n",
    bytes(range(256)),
    "x" * 10_000,
    "x" * 9_999 + "y",
    bytes(range(256)) * 40,
    "{tag}one",
    "{tag}two",
    "{}",
    "}{",
    "#" + "0" * 64,
    "a:b",
    "a b\n",
]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_any_key_is_a_limit_of_its_own(algorithm: str, servers: Servers) -> None:
    limits = [Limit(key, Rate(100, EVER), n + 1, algorithm) for n, key in enumerate(KEYS)]
    assert [usage.used for usage in limiter.check(limits)] == list(range(1, len(KEYS) + 1))
    assert [usage.used for usage in limiter.check(limits, charge=False)] == list(
        range(1, len(KEYS) + 1)
    )
    stored = set().union(*servers.keys().values())
    assert len(stored) == len(KEYS)
    assert max(map(len, stored)) < 300
    assert not any(b"{" in key for key in stored)


def test_whoever_makes_up_a_key_cannot_choose_its_node_nor_meet_a_digest(
    servers: Servers,
) -> None:
    for n in range(40):
        limiter.hit(f"{{tag}}{n}", "1/d")
    assert all(servers.keys().values())  # they are on all nodes
    digest = next(iter(servers.keys()[0])).rpartition(b":")[2]
    assert limiter.hit(digest, "1/d").allowed


def test_limits_on_many_nodes_take_one_round_trip(call: Call, servers: Servers) -> None:
    limits = [limit_on(host_id) for host_id in range(3)]
    call(limiter, "check", limits)  # the scripts are known from here on
    servers.reset_counts()
    assert [usage.used for usage in call(limiter, "check", limits)] == [2, 2, 2]
    counts = servers.counts()
    assert [counts[host_id]["evalsha"] for host_id in range(4)] == [1, 1, 1, 0]
    assert sum(counts[3].values()) == 0
    assert sum(counts[host_id]["eval"] for host_id in range(4)) == 0


def test_limits_on_many_nodes_are_one_round(nodes: LocalNodes) -> None:
    limits = [limit_on(host_id) for host_id in range(3)] * 2
    limiter.check(limits)
    with CaptureCommandsContext("default") as captured:
        assert [usage.used for usage in limiter.check(limits)] == [3, 3, 3, 4, 4, 4]
    assert (captured.batches, captured.rounds) == (1, 1)


@pytest.mark.parametrize("given", [iter, lambda limits: (limit for limit in limits), tuple])
def test_limits_may_be_anything_that_is_iterated(
    given: Callable[..., Any], call: Call, nodes: LocalNodes
) -> None:
    limits = [limit_on(host_id) for host_id in range(3)]
    for expected in (1, 2):
        assert [usage.used for usage in call(limiter, "check", given(limits))] == [expected] * 3
    peeked = call(limiter, "check", map(limits.__getitem__, range(3)), charge=False)
    assert [usage.limit for usage in peeked] == limits


def test_limits_that_end_in_an_error_charge_nobody(call: Call, servers: Servers) -> None:
    def limits() -> Iterator[Limit]:
        yield limit_on(0)
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        call(limiter, "check", limits())
    assert not any(servers.keys().values())


def test_no_limits_ask_nothing(call: Call, nodes: LocalNodes) -> None:
    with CaptureCommandsContext("default") as captured:
        assert call(limiter, "check", []) == []
    assert len(captured) == 0


def test_nodes_that_forget_the_scripts_are_told_them(call: Call, servers: Servers) -> None:
    limits = [limit_on(host_id, algorithm=name) for host_id in (0, 1) for name in ALGORITHMS]
    for expected in (1, 2):
        for host_id in range(4):
            servers.ask(host_id, "SCRIPT", "FLUSH")
        assert {usage.used for usage in call(limiter, "check", limits)} == {expected}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("hosts", [(0, 1), (1, 0), (0, 0)], ids=str)
def test_what_one_limit_refuses_is_not_charged_to_the_others(
    hosts: tuple[int, int], algorithm: str, call: Call, nodes: LocalNodes
) -> None:
    free = limit_on(hosts[0], 5, cost=2, algorithm=algorithm)
    full = limit_on(hosts[1], 3, algorithm=algorithm)
    limiter.hit(free.key, free.rate, 1, algorithm=algorithm)
    limiter.hit(full.key, full.rate, 3, algorithm=algorithm)
    for _ in range(4):
        for limits in ([free, full], [full, free]):
            usages = {usage.limit: usage for usage in call(limiter, "check", limits)}
            assert (usages[free].allowed, usages[free].used) == (True, 1)
            assert usages[free].remaining == 4
            assert (usages[full].allowed, usages[full].used) == (False, 3)
    assert limiter.peek(free.key, free.rate, algorithm=algorithm).used == 1


def test_a_refusal_takes_a_second_round_only_where_something_was_charged(
    nodes: LocalNodes,
) -> None:
    free, full = limit_on(0), limit_on(1, 0)
    limiter.check([free, full])
    for limits, charge, rounds in [
        ([free, full], True, 2),
        ([free, full], False, 1),
        ([full, full], True, 1),
        ([free], True, 1),
    ]:
        with CaptureCommandsContext("default") as captured:
            limiter.check(limits, charge=charge)
        assert captured.rounds == rounds


class TestFailingNodes:
    """A node that is down or hangs, and what is said of it."""

    @contextmanager
    def down(self, nodes: LocalNodes, **options: Any) -> Iterator[None]:
        """Let a node refuse connections."""
        with socket.socket() as unheard:
            unheard.bind(("127.0.0.1", 0))
            broken = {"host": "127.0.0.1", "port": unheard.getsockname()[1]}
            hosts = {**nodes.hosts, BROKEN: {**broken, "password": SECRET}}
            with override_settings(RB_CLUSTERS={"default": {"HOSTS": hosts}}, **options):
                yield

    @pytest.mark.static
    @pytest.mark.parametrize("is_open", [True, False])
    def test_the_settings_decide(self, is_open: bool, call: Call, nodes: LocalNodes) -> None:
        with self.down(nodes, RATELIMIT_FAIL_OPEN=is_open):
            lost, other = limit_on(BROKEN), limit_on(0)
            for _ in range(5):
                usages = call(limiter, "check", [lost, other])
            assert usages[0].allowed is is_open
            assert isinstance(usages[0].error, redis.ConnectionError)
            assert (usages[0].used, usages[0].remaining) == (0, 5)
            assert (usages[0].retry_after > 0) is not is_open
            # What was refused for the failing node is not charged to the others.
            assert (usages[1].allowed, usages[1].error) == (True, None)
            assert usages[1].used == (5 if is_open else 0)

    @pytest.mark.static
    def test_nothing_is_given_back_to_a_node_that_failed(
        self, call: Call, nodes: LocalNodes
    ) -> None:
        with self.down(nodes):
            limits = [limit_on(BROKEN), limit_on(0), limit_on(1, 0)]
            usages = call(limiter, "check", limits)
        assert [usage.allowed for usage in usages] == [True, True, False]
        assert [usage.used for usage in usages] == [0, 0, 0]
        assert usages[0].error is not None

    @pytest.mark.parametrize("is_open", [True, False])
    def test_a_limiter_may_say_otherwise(self, is_open: bool, nodes: LocalNodes) -> None:
        with self.down(nodes, RATELIMIT_FAIL_OPEN=not is_open):
            own = Limiter(fail_open=is_open)
            assert own.check([limit_on(BROKEN)])[0].allowed is is_open

    def test_it_is_logged_once_and_without_the_password(
        self, nodes: LocalNodes, caplog: pytest.LogCaptureFixture
    ) -> None:
        own = Limiter()
        with self.down(nodes), caplog.at_level(logging.WARNING, "django_rb.ratelimit"):
            lost = limit_on(BROKEN)
            usages = [own.check([lost])[0] for _ in range(10)]
        ours = [r for r in caplog.records if r.name == "django_rb.ratelimit"]
        # Once that the connection is refused, once that the node is left alone now.
        assert len(ours) == 2
        assert isinstance(usages[-1].error, NodeDown)
        for record in ours:
            text = record.getMessage()
            assert text.startswith(f"Limits on node {BROKEN} cannot be checked: ")
            assert f"[node {BROKEN}, 127.0.0.1:" in text
        assert SECRET not in caplog.text + repr(usages)

    def test_a_reset_that_fails_is_an_error(self, call: Call, nodes: LocalNodes) -> None:
        with self.down(nodes):
            lost = limit_on(BROKEN)
            with pytest.raises(redis.ConnectionError, match=f"node {BROKEN}"):
                call(limiter, "reset", lost.key, lost.rate)

    def test_a_node_that_hangs_takes_no_more_time_than_was_given(
        self, call: Call, nodes: LocalNodes
    ) -> None:
        lost, other = limit_on(BROKEN), limit_on(0)
        nodes.pause(BROKEN)
        try:
            with override_settings(RATELIMIT_TIMEOUT=0.1):
                began = monotonic()
                usages = call(limiter, "check", [lost, other])
            assert 0.09 < monotonic() - began < 1.5  # not the socket_timeout of 2 s
        finally:
            nodes.resume(BROKEN)
        assert isinstance(usages[0].error, redis.TimeoutError)
        assert [usage.allowed for usage in usages] == [True, True]
        assert (usages[1].used, usages[1].error) == (1, None)

    def test_the_clusters_timeouts_hold_where_none_is_given(self, nodes: LocalNodes) -> None:
        options = {"socket_timeout": 0.1, "socket_connect_timeout": 0.1}
        config = {"HOSTS": nodes.hosts, "POOL_OPTIONS": options}
        with override_settings(RB_CLUSTERS={"default": config}):
            lost = limit_on(BROKEN)
            limiter.check([lost])
            nodes.pause(BROKEN)
            try:
                began = monotonic()
                (usage,) = limiter.check([lost])
                assert 0.09 < monotonic() - began < 1.5
            finally:
                nodes.resume(BROKEN)
        assert isinstance(usage.error, redis.TimeoutError)

    def test_an_error_reply_is_a_failure_of_its_limit_alone(
        self, call: Call, servers: Servers, caplog: pytest.LogCaptureFixture
    ) -> None:
        odd, other = limit_on(0), limit_on(0, 6)
        servers.ask(0, "RPUSH", odd.rule.make_key("rl", odd.key), "no state")
        for _ in range(2):
            usages = call(limiter, "check", [odd, other, odd])
        for usage in (usages[0], usages[2]):
            assert usage.allowed
            assert "WRONGTYPE" in str(usage.error)
            assert "[node 0, " in str(usage.error)
        assert (usages[1].used, usages[1].error) == (2, None)

    def test_a_refund_that_fails_is_logged_and_changes_no_verdict(
        self, nodes: LocalNodes, caplog: pytest.LogCaptureFixture
    ) -> None:
        free, full = limit_on(0), limit_on(1, 0)
        cluster = clusters["default"]
        own = Limiter()
        limits = [free, full]
        batch = own.make_batch(cluster, limits, charge=True)

        def meddled() -> Any:  # the node of the free limit fails between the rounds
            rounds = 0
            try:
                exchanges = next(batch)
                while True:
                    rounds += 1
                    if rounds == 2:
                        for exchange in exchanges:
                            exchange.fail(redis.ConnectionError("gone"))
                    else:
                        yield exchanges
                    exchanges = next(batch)
            except StopIteration as end:
                return end.value

        limiter.check(limits)  # the scripts are known from here on
        usages = cluster.run(meddled())
        assert [usage.allowed for usage in usages] == [True, False]
        assert usages[0].used == 1
        assert "Limits on node 0 cannot be checked: gone" in caplog.text


@pytest.mark.parametrize("body", ["'abc'", "7", "{1, 2}", "nil", "{ok = 'OK'}"])
def test_what_cannot_be_an_answer_is_a_failure_of_its_node(
    body: str, call: Call, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = KeyScript(f"return {body}", ARGUMENTS)
    servers.ask(0, "SCRIPT", "LOAD", f"return {body}")
    limits = [limit_on(0), limit_on(1, algorithm="fixed-window")]
    monkeypatch.setattr(limits[0].rule, "script", odd)
    usages = call(limiter, "check", limits)
    assert isinstance(usages[0].error, ProtocolError)
    assert "[node 0, " in str(usages[0].error)
    assert (usages[1].used, usages[1].error) == (1, None)


@pytest.mark.static
def test_the_rights_that_the_page_names_suffice(nodes: LocalNodes, servers: Servers) -> None:
    page = (ROOT / "docs" / "rate-limits.md").read_text()
    (rights,) = re.findall(r"needs `(\+evalsha [^`]+)` on\s+`(~[^`]+)`", page)
    words = " ".join(rights).split()
    for host_id in nodes.hosts:
        servers.ask(host_id, "ACL", "SETUSER", "limiter", "reset", "on", f">{SECRET}", *words)
        servers.ask(host_id, "SCRIPT", "FLUSH")
    user = {"username": "limiter", "password": SECRET}
    try:
        config = {"HOSTS": [{**host, **user} for host in nodes.hosts.values()]}
        with override_settings(RB_CLUSTERS={"default": config}):
            for algorithm in ALGORITHMS:
                free, full = limit_on(0, algorithm=algorithm), limit_on(1, 0)
                for _ in range(2):
                    usages = limiter.check([free, full])
                    assert [usage.error for usage in usages] == [None, None]
                assert limiter.hit(free.key, free.rate, algorithm=algorithm).used == 1
                assert limiter.reset(free.key, free.rate, algorithm=algorithm)
    finally:
        for host_id in nodes.hosts:
            servers.ask(host_id, "ACL", "DELUSER", "limiter")


def test_what_the_page_shows_of_a_limiter_is_true(nodes: LocalNodes) -> None:
    blocks = code_blocks("docs/rate-limits.md", "python")
    (block,) = (block for block in blocks if "limiter.hit(" in block)
    names: dict[str, Any] = {}
    exec(block, names)
    usage = names["usage"]
    assert (usage.allowed, usage.used, usage.remaining) == (True, 5, 95)
    assert usage.retry_after == 0.0
    assert [usage.used for usage in names["usages"]] == [1, 1]
    assert limiter.peek("invoices:7", "100/10m").used == 0  # it was reset


@pytest.mark.static
def test_a_limiter_has_a_cluster_and_a_prefix_of_its_own(
    nodes: LocalNodes, servers: Servers
) -> None:
    both = {"default": {"HOSTS": {0: nodes.hosts[0]}}, "limits": {"HOSTS": {0: nodes.hosts[1]}}}
    with override_settings(RB_CLUSTERS=both):
        Limiter(cluster="limits", prefix="own").hit("key", "5/d")
        with override_settings(RATELIMIT_CLUSTER="limits", RATELIMIT_PREFIX="set"):
            limiter.hit("key", "5/d", algorithm="fixed-window")
        with override_settings(RATELIMIT_ALGORITHM="token-bucket"):
            limiter.hit("key", "5/d")
    assert servers.keys() == {
        0: {b"rl:token-bucket:5/d:5:key"},
        1: {b"own:sliding-window:5/d:key", b"set:fixed-window:5/d:key"},
        2: set(),
        3: set(),
    }


@pytest.mark.static
def test_the_only_cluster_is_taken_without_asking(nodes: LocalNodes) -> None:
    config = {"HOSTS": nodes.hosts}
    with override_settings(RB_CLUSTERS={"main": config}):
        assert limiter.hit("key", "5/d").used == 1
    with override_settings(RB_CLUSTERS={"main": config, "default": config}):
        assert limiter.hit("key", "5/d").used == 2
    with (
        override_settings(RB_CLUSTERS={"main": config, "other": config}),
        pytest.raises(ImproperlyConfigured) as raised,
    ):
        limiter.hit("key", "5/d")
    assert str(raised.value) == (
        "There is no cluster 'default', the default of settings.RATELIMIT_CLUSTER, in "
        "settings.RB_CLUSTERS. Choices are: main, other."
    )


@pytest.mark.static
def test_limits_of_a_cluster_without_a_slot_router_work(nodes: LocalNodes) -> None:
    config = {"HOSTS": nodes.hosts, "ROUTER": "django_rb.engine.PartitionRouter"}
    with override_settings(RB_CLUSTERS={"default": config}):
        assert isinstance(clusters["default"], Cluster)
        assert [limiter.hit("key", "2/d").allowed for _ in range(3)] == [True, True, False]
