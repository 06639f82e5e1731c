"""Run by `manage.py test` and by pytest. In most classes the second test follows a use."""

from __future__ import annotations

import unittest
from typing import Any, ClassVar
from urllib.request import urlopen

import redis
from django.conf import settings
from django.core.cache import cache, caches
from django.test import (
    LiveServerTestCase,
    SimpleTestCase,
    TestCase,
    TransactionTestCase,
    override_settings,
)

from django_rb import clusters
from django_rb.engine import (
    Cluster,
    ConsistentHashingRouter,
    PartitionRouter,
    SlotRouter,
    failures_of,
)
from django_rb.engine.threads import make_redis_pool
from django_rb.testing import RBTestCase, RBTestCaseMixin

from ..book import greet, sign

NAMES = [f"guest{n}" for n in range(60)]


def key_count(alias: str = "default") -> int:
    sizes, failures = clusters[alias].call_nodes("DBSIZE")
    assert not failures
    return sum(sizes.values())


class SignsOnce(unittest.TestCase):
    """For every kind of test case: whichever test is second finds no visit of the first."""

    def _sign(self) -> None:
        self.assertEqual(sign("ann"), 1)

    def test_a(self) -> None:
        self._sign()

    def test_b(self) -> None:
        self._sign()


class Simple(SignsOnce, SimpleTestCase):
    pass


class InTransaction(SignsOnce, TestCase):
    pass


class Awaited(RBTestCase):
    async def _sign(self) -> None:
        with self.assertNumBatches(1):
            self.assertEqual(await clusters["default"].aio.incr("visits:ann"), 1)

    async def test_a(self) -> None:
        await self._sign()

    async def test_b(self) -> None:
        await self._sign()


class WithTransactions(SignsOnce, TransactionTestCase):
    pass


class Live(SignsOnce, LiveServerTestCase):
    def _sign(self) -> None:
        with urlopen(f"{self.live_server_url}/sign/ann", timeout=30) as page:
            self.assertEqual(page.read(), b"1")


class EveryWayToUse(RBTestCase):
    """Each test uses the nodes in one way only, after having found them empty."""

    held_client: ClassVar[Any]
    held_pipeline: ClassVar[Any]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.held_client = clusters["default"].get_local_client(0)
        cls.held_pipeline = clusters["default"].get_local_client(1).pipeline()

    def setUp(self) -> None:
        # By clients of its own, which are no use of the cluster.
        for node in clusters["default"].nodes.values():
            pool = make_redis_pool(node, redis.ConnectionPool)
            self.assertEqual(redis.Redis(connection_pool=pool).keys("*"), [])
            pool.disconnect()

    def test_cache_set(self) -> None:
        cache.set("key", "value")

    def test_cache_get_and_set(self) -> None:
        self.assertIsNone(cache.get("key"))
        cache.set("key", "value")
        self.assertEqual(cache.get("key"), "value")

    def test_map(self) -> None:
        with self.rb_cluster.map() as client:
            for name in NAMES:
                client.set(name, 1)

    def test_local_client(self) -> None:
        self.rb_cluster.get_local_client(1).set("key", 1)

    def test_held_local_client(self) -> None:
        self.held_client.set("key", 1)

    def test_held_local_client_again(self) -> None:
        self.held_client.set("key", 1)

    def test_held_pipeline(self) -> None:
        self.held_pipeline.set("key", 1).execute()

    def test_lock(self) -> None:
        self.assertTrue(cache.lock("door").acquire())  # type: ignore[attr-defined]

    def test_nodes(self) -> None:
        if not settings.RB_CLUSTERS["default"]["TEST"]:
            with redis.Redis.from_url(self.rb_nodes.urls[1]) as client:
                client.set("key", 1)


class FilledBeforeTheClass(RBTestCase):
    rb_no_flush = True

    @classmethod
    def setUpTestData(cls) -> None:
        assert key_count() == 0
        cache.set("who", "ann")

    def test_a(self) -> None:
        self.assertEqual(cache.get("who"), "ann")
        cache.incr("seen") if "seen" in cache else cache.set("seen", 1)

    def test_b(self) -> None:
        self.assertEqual(cache.get("who"), "ann")
        cache.incr("seen") if "seen" in cache else cache.set("seen", 1)

    @classmethod
    def tearDownClass(cls) -> None:
        assert cache.get("seen") in {1, 2}  # 1 where xdist gives each worker one of them
        super().tearDownClass()


class WhatIsStoredBeforeTheClassIsFlushed(RBTestCase):
    @classmethod
    def setUpTestData(cls) -> None:
        cache.set("who", "ann")

    def test_a(self) -> None:
        self.assertEqual(key_count(), 0)


class Nodes(RBTestCase):
    def test_routing_is_that_of_the_settings(self) -> None:
        cluster = self.rb_cluster
        self.assertIsInstance(cluster.router, SlotRouter)
        self.assertEqual(cluster.nodes[0].socket_timeout, 5.0)
        self.assertIsInstance(clusters["archive"].router, ConsistentHashingRouter)
        config: Any = settings.RB_CLUSTERS["default"]
        as_configured = Cluster(
            config["HOSTS"], router_cls=SlotRouter, router_options=config["ROUTER_OPTIONS"]
        )
        if len(cluster.hosts) == len(as_configured.hosts):
            for name in NAMES:
                owner = as_configured.get_host_for_key(name)
                self.assertEqual(cluster.get_host_for_key(name), owner)

    def test_clusters_have_nodes_of_their_own(self) -> None:
        cache.set("key", "value")
        self.assertEqual(key_count("archive"), 0)
        caches["archive"].set("key", "other")
        self.assertEqual(cache.get("key"), "value")

    def test_other_routers_are_on_the_same_nodes(self) -> None:
        config = settings.RB_CLUSTERS["default"]
        addresses = [info.address for info in clusters["default"].hosts.values()]
        overridden = {
            "default": {**config, "ROUTER": PartitionRouter, "ROUTER_OPTIONS": {}},
            "same": {name: value for name, value in config.items() if name != "TEST"},
        }
        with override_settings(RB_CLUSTERS=overridden):
            self.assertIsInstance(clusters["default"].router, PartitionRouter)
            for alias in overridden:
                now = [info.address for info in clusters[alias].hosts.values()]
                self.assertEqual(now, addresses)
            cache.set("key", "value")
        self.assertEqual(key_count(), 1)

    def test_nodes_that_a_test_names_are_used(self) -> None:
        named = {"default": {"HOSTS": ["redis://127.0.0.1:5"]}}
        with override_settings(RB_CLUSTERS=named):
            self.assertEqual(clusters["default"].hosts[0].address, "127.0.0.1:5/0")
            self.assertFalse(clusters["default"]._threads.pools[0].idle)


@unittest.skipIf(settings.RB_CLUSTERS["default"]["TEST"], "needs as many local nodes")
class Faults(RBTestCase):
    def _failing(self) -> list[int]:
        """Ask each node, waiting for none but those that may be silent."""
        _, failures = self.rb_cluster.call_nodes("PING", hosts=[0, 2])
        _, others = self.rb_cluster.call_nodes("PING", hosts=[1], timeout=0.2)
        return [failure.host_id for failure in [*failures, *others]]

    def test_kill(self) -> None:
        greet(NAMES)
        self.rb_nodes.kill(1)
        with self.assertRaises(redis.ConnectionError) as caught:
            greet(NAMES)
        self.assertEqual([failure.host_id for failure in failures_of(caught.exception)], [1])

    def test_down(self) -> None:
        self.rb_nodes.kill(1)
        for _ in range(5):
            self.assertEqual(self._failing(), [1])
        self.assertEqual(self.rb_cluster.health()[1].state, "down")

    def test_it_ends_by_itself(self) -> None:
        self.rb_cluster.get_local_client(1).shutdown(nosave=True)
        for _ in range(5):
            self.assertEqual(self._failing(), [1])

    def test_pause(self) -> None:
        self.rb_nodes.pause(1)
        self.assertEqual(self._failing(), [1])

    def test_pause_and_resume(self) -> None:
        greet(NAMES)
        self.rb_nodes.pause(1)
        self.assertEqual(self._failing(), [1])
        self.rb_nodes.resume(1)
        self.assertEqual(len(cache.get_many(NAMES)), len(NAMES))

    def test_restart(self) -> None:
        greet(NAMES)
        self.rb_nodes.restart(1)
        self.assertLess(0, len(cache.get_many(NAMES)))
        self.assertLess(len(cache.get_many(NAMES)), len(NAMES))

    def test_kill_all(self) -> None:
        for host_id in self.rb_nodes.hosts:
            self.rb_nodes.kill(host_id)

    def test_a_node_that_takes_no_flush(self) -> None:
        self.rb_cluster.call_nodes("CONFIG", "SET", "requirepass", "secret", hosts=[0])
        self.rb_cluster.call_nodes("CLIENT", "KILL", "TYPE", "normal", hosts=[0])

    def test_nothing_is_wrong(self) -> None:
        self.assertEqual(key_count(), 0)
        self.assertEqual(set(self.rb_nodes.states().values()), {"running"})


class Sent(RBTestCaseMixin, SimpleTestCase):
    def test_batches(self) -> None:
        with self.assertNumBatches(2):
            greet(NAMES)
        self.assertNumBatches(1, greet, NAMES)

    def test_nodes(self) -> None:
        owner = self.rb_cluster.get_host_for_key("visits:ann")
        with self.assertNodesTouched({owner}):
            sign("ann")
        self.assertNodesTouched(1, sign, "ann")
        with self.assertNodesTouched(1, cluster="archive"):
            caches["archive"].get("key")

    def test_commands(self) -> None:
        owner = self.rb_cluster.get_host_for_key("visits:ann")
        with self.captureCommands() as captured:
            sign("ann")
        self.assertEqual(captured.commands, {owner: [("INCRBY", b"visits:ann", b"1")]})
