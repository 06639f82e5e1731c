"""Fixtures that every test may use: real nodes, started once, clean for each test."""

from __future__ import annotations

import asyncio
import functools
import gc
import importlib.metadata
import os
import signal
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
from django.test import override_settings

from django_rb import clusters
from django_rb.engine import Cluster, SlotRouter, guarding
from django_rb.testing import LocalNodes
from django_rb.testing.nodes import TOPOLOGIES
from tests.management import forkserver

NODES = 4

# `make browser` says where the browser is.
collect_ignore = [] if "DJANGO_RB_CHROMIUM" in os.environ else ["browser"]

# A run that was started in the background of a script ignores Ctrl-C, and so would every
# process that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# redis-py looks its own version up for each client and connection that is made, and reads a
# long file for it. Tests make thousands.
importlib.metadata.version = functools.cache(importlib.metadata.version)

# For each connection with TLS, redis-py loads all certificate authorities of the machine, even
# if it is given another one. This takes longer than the handshake, and no test needs them.
os.environ["SSL_CERT_FILE"] = os.environ["SSL_CERT_DIR"] = os.devnull

# No test is one of time.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

# Thousands of tests are collected and stay to the end: nothing there for the collector.
gc.disable()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--eager-tasks", action="store_true", help="event loops begin tasks at once (3.12)"
    )
    parser.addoption(
        "--topology",
        choices=TOPOLOGIES,
        default="static",
        help="what `nodes` and `cluster` are; tests marked `static` are left out of others",
    )


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker that starts the address of the fork server, which all of them use."""
    node.workerinput["forkserver"] = forkserver.address()


def pytest_configure(config: pytest.Config) -> None:
    if workerinput := getattr(config, "workerinput", None):
        forkserver.use(workerinput["forkserver"])
    config.addinivalue_line("markers", "static: is about independent nodes.")
    if config.getoption("--eager-tasks"):
        make_loop = asyncio.events.new_event_loop

        def make_eager_loop() -> asyncio.AbstractEventLoop:
            loop = make_loop()
            loop.set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009
            return loop

        asyncio.events.new_event_loop = make_eager_loop


def pytest_sessionstart() -> None:
    """Let tests connect to whatever they start: servers that only look like nodes, proxies.

    The settings name nobody's nodes here. Tests of the guard install one of their own.
    """
    guarding.guard = None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--topology") != "static":
        left_out = pytest.mark.skip(reason="is about independent nodes")
        for item in items:
            if item.get_closest_marker("static"):
                item.add_marker(left_out)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.set_threshold(5_000, 10, 10)  # seven times as seldom as Python would
    gc.enable()


@pytest.fixture(scope="session")
def topology(pytestconfig: pytest.Config) -> str:
    """Who says which nodes there are: that of --topology."""
    chosen: str = pytestconfig.getoption("--topology")
    return chosen


@pytest.fixture(scope="session")
def shared_nodes(topology: str) -> Iterator[LocalNodes]:
    """Four nodes for the whole run; use `nodes`, which cleans up."""
    with LocalNodes(NODES, topology=topology) as nodes:
        yield nodes


@pytest.fixture
def nodes(shared_nodes: LocalNodes) -> Iterator[LocalNodes]:
    """Four clean nodes, configured as the cluster "default". Leave them alive."""
    shared_nodes.flush()
    settings: dict[str, Any] = {"HOSTS": shared_nodes.hosts}
    if shared_nodes.topology != "static":
        settings["TOPOLOGY"] = shared_nodes.topology
    with override_settings(RB_CLUSTERS={"default": settings}):
        yield shared_nodes
    clusters.reset()


@pytest.fixture(scope="session")
def shared_open_nodes() -> Iterator[LocalNodes]:
    """Four nodes that let everybody in; use `open_nodes`, which cleans up."""
    with LocalNodes(NODES, options={"requirepass": ""}) as nodes:
        yield nodes


@pytest.fixture
def open_nodes(shared_open_nodes: LocalNodes) -> LocalNodes:
    """Four clean nodes for what knows a host and a port, and no password."""
    shared_open_nodes.flush()
    return shared_open_nodes


@pytest.fixture
def cluster(nodes: LocalNodes) -> Iterator[Cluster]:
    """An engine's cluster over `nodes`, as the settings would make it."""
    if nodes.topology == "static":
        cluster = Cluster(nodes.hosts, router_cls=SlotRouter)
    else:
        cluster = Cluster(nodes.hosts, topology=nodes.topology)
    yield cluster
    cluster.close()
