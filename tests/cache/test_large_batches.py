"""Batches far larger than any buffer, and what they cost in memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from django_rb.conf import NODES_VARIABLE
from django_rb.testing import LocalNodes

KEYS, SIZE = 100_000, 1024

PROGRAM = f"""
import json, os
from django.conf import settings
settings.configure(CACHES={{"default": {{"BACKEND": "django_rb.cache.RBCache"}}}})
import django
django.setup()
from django.core.cache import cache

def memory(name):
    # Not getrusage(): its maximum begins with what the parent of the process had.
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name))

data = {{f"key:{{n}}": os.urandom({SIZE}) for n in range({KEYS})}}
cache.get("warm-up")
before = memory("VmRSS")
lost = cache.set_many(data)
after_set = memory("VmHWM")
found = cache.get_many(data)
after_get = memory("VmHWM")
print(json.dumps({{
    "lost": len(lost),
    "found": found == data,
    "set_growth": after_set - before,
    "get_growth": after_get - before,
}}))
"""


@pytest.mark.only_sync  # the program is one of threads
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_grows_by_no_more_than_twice_the_payload(nodes: LocalNodes) -> None:
    """100,000 values of 1 KiB go in and come back, over four nodes."""
    local = {"default": {"HOSTS": nodes.urls, "TOPOLOGY": nodes.topology}}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, NODES_VARIABLE: json.dumps(local)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    payload = KEYS * SIZE
    print(
        f"set_many grew by {said['set_growth'] / payload:.2f} payloads, "
        f"with get_many by {said['get_growth'] / payload:.2f}"
    )
    assert said["lost"] == 0
    assert said["found"]
    assert said["set_growth"] < 0.5 * payload
    assert said["get_growth"] < 2 * payload
