"""SLOW: a line for each call that took too long, with its nodes and where it was called."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from django.contrib.sessions.backends.cache import SessionStore
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from django_rb import clusters, conf
from django_rb.callers import Caller, find_caller
from django_rb.testing import LocalNodes
from tests.helpers import Servers, make_cache
from tests.tables import for_each

SHORT = 1e-9  # seconds; every call takes longer


@pytest.fixture
def logged(
    nodes: LocalNodes, caplog: pytest.LogCaptureFixture
) -> Iterator[pytest.LogCaptureFixture]:
    with override_settings(RB_CLUSTERS={"default": {"HOSTS": nodes.hosts, "SLOW": SHORT}}):
        caplog.set_level(logging.WARNING, "django_rb.slow")
        yield caplog
    clusters.reset()


def here(offset: int) -> str:
    """Return what a line of the log says of a line of the function that calls this."""
    caller = inspect.stack()[1]
    return f"{caller.filename}:{caller.lineno + offset} in {caller.function}"


def test_a_slow_call_is_one_line(nodes: LocalNodes, caplog: pytest.LogCaptureFixture) -> None:
    keys = [f"key:{n}" for n in range(100)]
    setting = {"default": {"HOSTS": nodes.hosts, "SLOW": "0.04"}}
    with override_settings(RB_CLUSTERS=setting), Servers(nodes.hosts) as servers:
        cache = make_cache()
        cache.get_many(keys)
        caplog.clear()
        servers.ask(2, "CLIENT PAUSE", 100, "ALL")
        cache.get_many(keys)
        place = here(-1)
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("django_rb.slow", "WARNING")
    line = record.getMessage()
    assert line.startswith("get_many on 'default' took 0.")
    assert line.endswith(f"(MGET). Called at {place}")
    addresses = [f"node {n} at 127.0.0.1:{nodes.hosts[n]['port']}/0 " for n in range(4)]
    assert [line.count(address) for address in addresses] == [1, 1, 1, 1]
    assert min(addresses, key=line.index) == addresses[2]  # the slowest comes first


def test_errors_and_further_rounds_are_named(logged: pytest.LogCaptureFixture) -> None:
    cluster = clusters["default"]
    cluster.call_nodes("SCRIPT", "FLUSH")
    cache = make_cache()
    cache.set("key", "text")
    logged.clear()
    with pytest.raises(ValueError, match="not an integer"):
        cache.incr("key")
    assert "s (EVALSHA, NoScriptError)" in logged.messages[0]
    assert "s (EVAL, round 2, ResponseError)" in logged.messages[0]


def test_what_sends_nothing_and_what_sends_much(logged: pytest.LogCaptureFixture) -> None:
    cluster = clusters["default"]
    with cluster.map() as client:
        for name in ("get", "ttl", "strlen", "exists"):
            getattr(client, name)("key")
    assert "(GET TTL STRLEN …)" in logged.messages[-1]
    make_cache().get_many([])
    assert ": nothing was sent. Called at " in logged.messages[-1]


def test_asynchronous_calls(logged: pytest.LogCaptureFixture) -> None:
    cache = make_cache()

    async def read() -> str:
        await cache.aget("key")
        return here(-1)

    place = asyncio.run(read())
    assert logged.messages[-1].endswith(f"Called at {place}")

    async def gather() -> None:
        await asyncio.gather(cache.aget("key"))

    asyncio.run(gather())
    assert logged.messages[-1].endswith(
        "Called at an unknown place (it was the first call of a task)"
    )


def test_the_sites_own_line_is_named_if_there_is_one(logged: pytest.LogCaptureFixture) -> None:
    with override_settings(SESSION_ENGINE="django.contrib.sessions.backends.cache"):
        SessionStore("0" * 32).load()
    assert logged.messages[-1].endswith(f"Called at {here(-1)}")


def test_a_line_of_a_library_where_there_is_no_other() -> None:
    made_up = str(Path(asyncio.__file__).parent / "made_up.py")
    names: dict[str, Any] = {"find": find_caller, "found": []}
    exec(compile("def ask():\n    found.append(find())", made_up, "exec"), names)
    thread = Thread(target=names["ask"])
    thread.start()
    thread.join()
    assert names["found"] == [Caller(made_up, 2, "ask")]


def test_nothing_is_told_where_it_is_off(nodes: LocalNodes) -> None:
    assert clusters["default"].observers == ()
    with override_settings(RB_CLUSTERS={"default": {"HOSTS": nodes.hosts, "SLOW": None}}):
        assert clusters["default"].observers == ()


@for_each("slow", [0, -1, True, "a while", [], float("nan")])
def test_a_mistake_is_explained(slow: object) -> None:
    setting = {"default": {"HOSTS": ["redis://h"], "SLOW": slow}}
    with override_settings(RB_CLUSTERS=setting):
        with pytest.raises(ImproperlyConfigured, match=r"\['SLOW'\]: .*not a time in seconds"):
            clusters["default"]
        assert len(list(conf.find_all_mistakes())) == 1
