"""Run where the site is on a Redis Cluster: GUESTBOOK_TOPOLOGY=redis-cluster."""

from __future__ import annotations

import os
import unittest

import redis
from django.core.cache import cache
from django.test import SimpleTestCase

from django_rb.testing import RBTestCaseMixin

from ..book import greet, sign

NAMES = [f"guest{n}" for n in range(60)]


@unittest.skipUnless(
    os.environ.get("GUESTBOOK_TOPOLOGY") == "redis-cluster", "is about a Redis Cluster"
)
class OnARedisCluster(RBTestCaseMixin, SimpleTestCase):
    def _sign(self) -> None:
        self.assertEqual(sign("ann"), 1)
        self.assertEqual(self.rb_cluster.call_nodes("CLUSTER", "COUNTKEYSINSLOT", 0)[1], [])

    def test_a(self) -> None:
        self._sign()

    def test_b(self) -> None:
        self._sign()

    def test_batches_are_counted_as_anywhere(self) -> None:
        with self.assertNumBatches(3), self.assertNodesTouched(3):
            greet(NAMES)
            cache.get_many(NAMES)

    def test_c_a_node_dies(self) -> None:
        greet(NAMES)
        self.rb_nodes.kill(1)
        with self.assertRaises(redis.RedisError):
            cache.get_many(NAMES)

    def test_d_and_the_next_test_has_another(self) -> None:
        self._sign()
        cache.set_many(dict.fromkeys(NAMES, 1))
        self.assertEqual(len(cache.get_many(NAMES)), len(NAMES))
