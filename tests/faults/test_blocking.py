"""The event loop goes on while no node can be reached: measured by a task that ticks."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.faults.operations import Caller
from tests.faults.proxy import swallow
from tests.faults.rig import PASSWORD, TIMEOUTS, USER, Rig, loop_of_callers
from tests.helpers import collect_garbage, make_cache

LONGEST = 0.05
TICK = 0.005
SECONDS = 0.5


@pytest.fixture
def transport() -> str:
    return "asyncio"


def waited_for_cpu() -> float:
    """Return for how many seconds this thread was ready to run, and others ran."""
    with contextlib.suppress(OSError):
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    return 0.0


async def tick(blocked: list[float], is_over: threading.Event) -> None:
    """Note for how long, at most, something else kept the loop."""
    while not is_over.is_set():
        began, waited = time.monotonic(), waited_for_cpu()
        await asyncio.sleep(TICK)
        late = time.monotonic() - began - TICK
        blocked.append(late - (waited_for_cpu() - waited))


async def use(is_over: threading.Event, *, in_a_row: int = 1) -> int:
    """Use a cache all the time; return how many of its calls failed."""
    cache = make_cache()
    failed = 0
    names = [f"name{n}" for n in range(20)]
    while not is_over.is_set():
        for _ in range(in_a_row):
            for call in (cache.aget("name"), cache.aget_many(names), cache.aset("name", 1)):
                try:
                    await call
                except redis.RedisError:
                    failed += 1
    return failed


async def longest_block(tasks: int, in_a_row: int) -> float:
    blocked: list[float] = []
    is_over = threading.Event()
    asyncio.get_running_loop().call_later(SECONDS, is_over.set)
    users = [use(is_over, in_a_row=in_a_row) for _ in range(tasks)]
    _, *failed = await asyncio.gather(tick(blocked, is_over), *users)
    assert all(failed)
    assert len(blocked) > 3
    return max(blocked)


# No node can be reached.


@contextlib.contextmanager
def refused(rig: Rig) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for proxy in rig.proxies.values():
            stack.enter_context(proxy.refusing())
        yield


@contextlib.contextmanager
def black_holed(rig: Rig) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for proxy in rig.proxies.values():
            stack.enter_context(proxy.black_hole())
        yield


@contextlib.contextmanager
def never_answering(rig: Rig) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for proxy in rig.proxies.values():
            stack.enter_context(proxy.tampering(requests=lambda: swallow))
        yield


WAYS = {"refused": refused, "black-holed": black_holed, "never answering": never_answering}


def check(tasks: int = 20, in_a_row: int = 1) -> None:
    collect_garbage()
    longest: list[float] = []
    while not longest or min(longest) > LONGEST:
        assert len(longest) < 3, f"Blocked for {longest} s"
        assert Caller.loop is not None
        longest.append(Caller.loop.run(longest_block(tasks, in_a_row)))


@pytest.mark.parametrize("health", [None, {"FAILURES": 3, "PAUSE": 0.05, "MAX_PAUSE": 0.05}])
@pytest.mark.parametrize("name", WAYS)
def test_the_loop_goes_on_while_no_node_can_be_reached(
    name: str, health: Any, rig: Rig
) -> None:
    with rig.cluster(*rig.data.hosts, times_out=True, HEALTH=health), WAYS[name](rig):
        check()


def test_calls_that_fail_at_once_let_others_have_their_turn(rig: Rig) -> None:
    """One task that goes on and on, while all nodes are down."""
    health = {"FAILURES": 1, "PAUSE": 60, "MAX_PAUSE": 60}
    with rig.cluster(*rig.data.hosts, times_out=True, HEALTH=health), refused(rig):
        check(1, in_a_row=3000)


def slow_getaddrinfo(original: Callable[..., Any]) -> Callable[..., Any]:
    def getaddrinfo(host: Any, *args: Any, **options: Any) -> Any:
        time.sleep(0.2)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    return getaddrinfo


def test_the_loop_goes_on_while_no_name_is_found(
    rig: Rig, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And while the machine takes its time to say so."""
    monkeypatch.setattr(socket, "getaddrinfo", slow_getaddrinfo(socket.getaddrinfo))
    hosts = {
        n: {"host": f"node{n}.invalid", "username": USER, "password": PASSWORD} for n in (0, 1)
    }
    settings.RB_CLUSTERS = {
        "default": {"HOSTS": hosts, "POOL_OPTIONS": TIMEOUTS, "HEALTH": None}
    }
    with loop_of_callers("asyncio"):
        check()
