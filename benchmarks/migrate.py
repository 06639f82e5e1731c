"""Time rb_migrate of small keys from 4 nodes to 6: python -m benchmarks.migrate --keys 1000000

The new nodes are different servers, so every key is copied. The results are keys per second,
and the peak memory of the process before and after: it does not grow with the number of keys.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import sys
import time
from collections.abc import Iterable

import django
from django.conf import settings
from django.core.management import call_command

from django_rb import clusters
from django_rb.testing import LocalNodes

AT_ONCE = 10_000


def peak_megabytes() -> float:
    """Return the most memory that this process has had."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def fill(numbers: Iterable[int]) -> None:
    """Store keys of about 10 bytes with values of 60, every other one with an expiry."""
    with clusters["old"].map() as client:
        for number in numbers:
            expiry = 86_400 if number % 2 else None
            client.set(f"key:{number}", b"%060d" % number, ex=expiry)


def main() -> None:
    """Time on nodes of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--delete", action="store_true", help="delete them from the old nodes")
    options = parser.parse_args()
    with LocalNodes(4) as old, LocalNodes(6) as new:
        settings.configure(
            INSTALLED_APPS=["django_rb"],
            RB_CLUSTERS={"old": {"HOSTS": old.hosts}, "new": {"HOSTS": new.hosts}},
        )
        django.setup()
        for start in range(0, options.keys, AT_ONCE):
            fill(range(start, min(start + AT_ONCE, options.keys)))
        extra = ["--delete", "--no-input"] if options.delete else []
        out, before = io.StringIO(), peak_megabytes()
        began, cpu_began = time.perf_counter(), time.process_time()
        call_command("rb_migrate", "old", "new", "--format", "json", *extra, stdout=out)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu_began
        copied = sum(one["keys"] for one in json.loads(out.getvalue())["transfers"])
        print(f"{copied:,} keys in {seconds:.1f} s: {copied / seconds:,.0f} keys a second")
        print(f"{cpu:.1f} s of CPU time of this process; the nodes take theirs beside it")
        print(f"Peak memory: {before:.0f} MB before, {peak_megabytes():.0f} MB after")


if __name__ == "__main__":
    main()
