"""A process that uses no cache does not wait for redis-py."""

from __future__ import annotations

import subprocess
import sys

from django_rb.testing import LocalNodes

CODE = """
import sys, threading
import django
from django.conf import settings

settings.configure(
    INSTALLED_APPS=["django_rb"],
    CACHES={{"default": {{"BACKEND": "django_rb.cache.RBCache", "KEY_PREFIX": "imports"}}}},
    RB_CLUSTERS={{"default": {{"HOSTS": {hosts!r}}}}},
)
django.setup()
from django.core.cache import caches

cache = caches["default"]
assert not (early := {{"redis", "hiredis", "django_rb.engine"}} & set(sys.modules)), early

found, barrier = [], threading.Barrier(8)

def use(number):
    barrier.wait()
    cache.set(f"key{{number}}", number, 5)
    found.append(cache.get(f"key{{number}}"))

threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(sorted(found), len(cache.cluster.hosts), "redis" in sys.modules)
"""


def test_the_first_use_imports_the_engine(nodes: LocalNodes) -> None:
    code = CODE.format(hosts=nodes.hosts)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stderr == ""
    assert done.stdout == f"{list(range(8))} {len(nodes.hosts)} True\n"
