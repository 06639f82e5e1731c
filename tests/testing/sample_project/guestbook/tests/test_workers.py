"""Run side by side, the tests store the same keys at the same time, and see only their own.

WORKERS names a directory and a number: "/tmp/x:2". A test goes on when so many processes
have stored their keys.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from django.core.cache import cache
from django.test import SimpleTestCase

from django_rb import clusters

SECONDS = 60

if "EARLY" in os.environ:  # in the process that then starts the others
    cache.set("early", 1)


def wait_for_others() -> None:
    place, _, count = os.environ["WORKERS"].partition(":")
    Path(place, str(os.getpid())).touch()
    deadline = time.monotonic() + SECONDS
    while len(list(Path(place).iterdir())) < int(count):
        assert time.monotonic() < deadline, "the other processes did not come"
        time.sleep(0.01)


class Worker(SimpleTestCase):
    def test_it_sees_its_own_keys_only(self) -> None:
        cluster = clusters["default"]
        for node in cluster.hosts:
            self.assertEqual(cluster.get_local_client(node).keys("*"), [])
        cache.set("whose", os.getpid())
        cluster.get_routing_client().set(f"of {os.getpid()}", 1)
        wait_for_others()
        self.assertEqual(cache.get("whose"), os.getpid())
        with cluster.all() as client:
            keys = client.keys("*")
        found = sorted(key for of_node in keys.value.values() for key in of_node)
        self.assertEqual(found, [b":1:whose", b"of %d" % os.getpid()])


class Worker2(Worker):
    pass


class Worker3(Worker):
    pass


class Worker4(Worker):
    pass


class Worker5(Worker):
    pass


class Worker6(Worker):
    pass
