"""Run where Sentinels watch the site's shards: GUESTBOOK_TOPOLOGY=sentinel."""

from __future__ import annotations

import os
import time
import unittest

import redis
from django.test import SimpleTestCase

from django_rb.testing import RBTestCaseMixin

from ..book import sign


@unittest.skipUnless(os.environ.get("GUESTBOOK_TOPOLOGY") == "sentinel", "is about Sentinels")
class WatchedBySentinels(RBTestCaseMixin, SimpleTestCase):
    def test_a(self) -> None:
        self.assertEqual(sign("ann"), 1)

    def test_b_a_primary_dies(self) -> None:
        self.assertEqual(sign("ann"), 1)
        self.rb_nodes.kill(self.rb_cluster.get_host_for_key("visits:ann"))
        end = time.monotonic() + 30
        while True:
            try:
                self.assertIn(sign("ann"), {1, 2})
                break
            except redis.ConnectionError:
                self.assertLess(time.monotonic(), end)
                time.sleep(0.02)

    def test_c_and_the_next_test_has_others(self) -> None:
        self.assertEqual(sign("ann"), 1)
        self.assertEqual(set(self.rb_nodes.states().values()), {"running"})
