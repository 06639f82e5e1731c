"""Near copies while nodes fail, for minutes: ``python -m tests.soak.near --minutes 10``.

It is the model of `tests.cache.near_model`, in rounds of some seconds, and fails at the first
value that goes backwards or is too old.
"""

from __future__ import annotations

import argparse
import random
from contextlib import suppress
from time import monotonic, sleep

import redis

from django_rb.testing import LocalNodes
from tests.cache.near_model import MAX_AGE
from tests.cache.test_near_model import FAULTS, check, readers

ROUND_SECONDS = 15.0


def main() -> None:
    """Run rounds until the time is over."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.near", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--processes", type=int, default=3)
    options = parser.parse_args()
    until = monotonic() + options.minutes * 60
    with LocalNodes(4) as nodes:
        while monotonic() < until:
            with readers(nodes, ROUND_SECONDS, options.processes) as told:
                ends = monotonic() + ROUND_SECONDS - 2
                while monotonic() < ends:
                    host_id = random.choice(list(nodes.hosts))
                    client = redis.Redis(**nodes.address(host_id))
                    with client, suppress(redis.ConnectionError):
                        random.choice(FAULTS)(nodes, client, host_id)
                    sleep(random.random())
            for process in told:
                print(process, flush=True)
            check(told, MAX_AGE)


if __name__ == "__main__":
    main()
