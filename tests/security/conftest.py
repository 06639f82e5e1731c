"""Servers that ask for more than a connection: certificates, users, passwords."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import trustme

from django_rb.engine import Cluster, SlotRouter
from django_rb.testing import LocalNodes
from tests.helpers import Servers
from tests.transports import awaited

from .guards import Guards
from .tls import serve_tls

Open = Callable[..., Cluster]


@pytest.fixture(params=["poll", "asyncio"])
def transport(request: pytest.FixtureRequest) -> Iterator[str]:
    """Have a test run twice: whatever it asks of clusters goes by each of the transports."""
    name: str = request.param
    with awaited() if name == "asyncio" else nullcontext():
        yield name


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [
        item
        for item in items
        if not (
            item.get_closest_marker("only_sync")
            and getattr(item, "callspec", None)
            and item.callspec.params.get("transport") == "asyncio"  # type: ignore[attr-defined]
        )
    ]


@pytest.fixture(scope="session")
def two_nodes() -> Iterator[LocalNodes]:
    """Two nodes for the whole run; `tls` and `guards` put something in front of them.

    They let everybody in, for everything: who may do what is what tests here decide.
    """
    with LocalNodes(2, options={"requirepass": "", "enable-debug-command": "yes"}) as nodes:
        yield nodes


@pytest.fixture
def open_cluster() -> Iterator[Open]:
    """Make clusters that are closed at the end."""
    clusters: list[Cluster] = []

    def make(hosts: Any, **options: Any) -> Cluster:
        clusters.append(Cluster(hosts, router_cls=SlotRouter, **options))
        return clusters[-1]

    yield make
    for cluster in clusters:
        cluster.close()


@pytest.fixture
def guards(two_nodes: LocalNodes) -> Iterator[Guards]:
    """Two clean nodes whose users a test may change."""
    two_nodes.flush()
    with Guards(two_nodes) as guards:
        yield guards


@pytest.fixture
def two_servers(two_nodes: LocalNodes) -> Iterator[Servers]:
    """The servers behind `tls`, asked past it."""
    with Servers(two_nodes.hosts) as servers:
        yield servers


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """The authority that everybody trusts."""
    return trustme.CA()


@pytest.fixture(scope="session")
def trust(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of the authority's certificate."""
    path = tmp_path_factory.mktemp("trust") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return str(path)


@pytest.fixture
def tls(two_nodes: LocalNodes, authority: trustme.CA, tmp_path: Path) -> Any:
    """Let `two_nodes` be reached by TLS: ``with tls(certificate) as hosts``."""
    two_nodes.flush()

    @contextmanager
    def serve(
        certificate: trustme.LeafCert | None = None, **options: Any
    ) -> Iterator[dict[int, dict[str, Any]]]:
        shown = certificate or authority.issue_cert("127.0.0.1", "localhost")
        with serve_tls(two_nodes, shown, authority, tmp_path, **options) as hosts:
            yield hosts

    return serve
