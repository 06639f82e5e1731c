"""A test run connects to nothing but what is for tests, whatever the settings come to say."""

from __future__ import annotations

import asyncio
import copy
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from django.core.cache import cache
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from django_rb import clusters
from django_rb.engine import Cluster, guarding
from django_rb.testing import LocalNodes, places
from django_rb.testing import nodes as nodes_module
from django_rb.testing.places import Place
from django_rb.testing.stand_ins import StandIns

from ..helpers import Servers, make_cache

REFUSED = r"^A test run must not connect to .*settings\.RB_CLUSTERS\[alias\]\['TEST'\] = "


@contextmanager
def start_site(**options: Any) -> Iterator[LocalNodes]:
    """Start nodes that are not local nodes of this run."""
    with LocalNodes(2, **options) as nodes:
        nodes_module._started.discard(nodes)
        yield nodes


@contextmanager
def untouched(nodes: LocalNodes) -> Iterator[LocalNodes]:
    """Store a key in each node. Fails if one is gone at the end."""
    with Servers(nodes.hosts) as servers:
        for host_id in nodes.hosts:
            servers.ask(host_id, "FLUSHALL")
            servers.ask(host_id, "SET", "stays", 1)
        yield nodes
        assert servers.keys() == {0: {b"stays"}, 1: {b"stays"}}


@pytest.fixture(scope="module")
def shared_site() -> Iterator[LocalNodes]:
    with start_site() as nodes:
        yield nodes


@pytest.fixture
def site(shared_site: LocalNodes) -> Iterator[LocalNodes]:
    """The site's nodes. Fails if a key that they had is gone."""
    with untouched(shared_site) as nodes:
        yield nodes


@pytest.fixture
def site_on_sockets() -> Iterator[LocalNodes]:
    """The same, on unix sockets and of the test's own."""
    with start_site(unix_sockets=True) as own, untouched(own) as nodes:
        yield nodes


@pytest.fixture
def begin() -> Iterator[Callable[..., StandIns]]:
    """Begin a test run, given the settings of the cluster "default" at its beginning."""
    begun: list[Any] = []

    def begin(**config: Any) -> StandIns:
        settings = override_settings(RB_CLUSTERS={"default": config})
        settings.enable()
        stand_ins = StandIns()
        stand_ins.install()
        begun.extend([settings.disable, stand_ins.uninstall])
        return stand_ins

    yield begin
    for end in reversed(begun):
        end()


class Login(redis.CredentialProvider):
    """A credential provider; copies of it are not equal."""

    def __init__(self, host: dict[str, Any]) -> None:
        self._said = [host[name] for name in ("password",) if name in host]

    def get_credentials(self) -> Any:
        return tuple(self._said)


def with_login(nodes: LocalNodes) -> list[dict[str, Any]]:
    hosts = []
    for host in nodes.hosts.values():
        login = {"credential_provider": Login(host)} if "password" in host else {}
        hosts.append({**host, "password": None, **login})
    return hosts


SAME_NODES: dict[str, Callable[[LocalNodes], dict[str, Any]]] = {
    "tuple": lambda site: {"HOSTS": (*site.hosts.values(),)},
    "by id": lambda site: {"HOSTS": site.hosts},
    "urls": lambda site: {"HOSTS": site.urls},
    "option": lambda site: {
        "HOSTS": [{**host, "socket_timeout": 3} for host in site.hosts.values()]
    },
    "copy": lambda site: {"HOSTS": copy.deepcopy(with_login(site))},
    "other database": lambda site: {"HOSTS": site.urls, "HOST_DEFAULTS": {"db": 0}},
    "other spelling": lambda site: {
        "HOSTS": [{**host, "host": "127.1"} for host in site.hosts.values()]
    },
}


class TestOverriddenSettings:
    @pytest.mark.parametrize("form", SAME_NODES)
    def test_the_sites_nodes_in_another_form_stay_replaced(
        self, form: str, site: LocalNodes, begin: Callable[..., StandIns]
    ) -> None:
        stand_ins = begin(HOSTS=with_login(site))
        with override_settings(RB_CLUSTERS={"default": SAME_NODES[form](site)}):
            cache.set("key", 1)
            assert stand_ins["default"].is_used
            assert clusters["default"].hosts[0].address not in str(site.urls)
            cache.clear()

    @pytest.mark.parametrize("alias", ["default", "new"])
    @pytest.mark.parametrize("on_error", ["raise", "miss"])
    def test_some_of_them_are_refused(
        self, alias: str, on_error: str, site: LocalNodes, begin: Callable[..., StandIns]
    ) -> None:
        begin(HOSTS=site.urls)
        with override_settings(RB_CLUSTERS={alias: {"HOSTS": site.urls[:1]}}):
            own = make_cache(alias, OPTIONS={"ON_NODE_ERROR": on_error})
            with pytest.raises(ImproperlyConfigured, match=REFUSED):
                own.clear()
            assert clusters[alias].health()[0].state == "up"
            own.close()

    def test_what_is_said_has_no_password(self, begin: Callable[..., StandIns]) -> None:
        begin(HOSTS=["redis://h"])
        with override_settings(RB_CLUSTERS={"new": {"HOSTS": ["redis://:hunter2@[::1]:9/2"]}}):
            with pytest.raises(ImproperlyConfigured) as caught:
                clusters["new"].call_nodes("PING")
            assert str(caught.value) == (
                "A test run must not connect to redis://[::1]:9/2, which is neither a local "
                "node of the run nor declared for tests. If only tests use it, and may flush "
                "it, declare it in the settings of its cluster: "
                "settings.RB_CLUSTERS[alias]['TEST'] = {'HOSTS': ['redis://[::1]:9/2']}."
            )

    def test_a_test_may_declare_servers(
        self, site: LocalNodes, begin: Callable[..., StandIns]
    ) -> None:
        stand_ins = begin(HOSTS=site.urls)
        with LocalNodes(1) as other, Servers(other.hosts) as servers:
            nodes_module._started.discard(other)
            servers.ask(0, "SET", "left", 1)
            new = {"HOSTS": ["redis://h"], "TEST": {"HOSTS": other.urls}}
            for _ in range(2):
                with override_settings(RB_CLUSTERS={"new": new}):
                    clusters["new"].call_nodes("SET", "key", 1)
            assert servers.keys() == {0: {b"key"}}
            stand_ins.flush_used()
            assert servers.keys() == {0: set()}
            assert len(stand_ins._further) == 1

    def test_but_none_of_the_sites(
        self, site: LocalNodes, begin: Callable[..., StandIns]
    ) -> None:
        begin(HOSTS=site.urls)
        urls = [url.replace("127.0.0.1", "127.1") for url in site.urls]
        new = {"HOSTS": ["redis://h"], "TEST": {"HOSTS": urls}}
        with (
            override_settings(RB_CLUSTERS={"new": new}),
            pytest.raises(
                ImproperlyConfigured, match="even if the names differ, and tests flush it"
            ),
        ):
            clusters["new"]


class TestEveryWayToConnect:
    @pytest.fixture
    def cluster(self, site: LocalNodes, begin: Callable[..., StandIns]) -> Iterator[Cluster]:
        """A cluster of the site's nodes that no settings know of."""
        begin(HOSTS=["redis://h"])
        cluster = Cluster(site.hosts)
        yield cluster
        cluster.close()

    @pytest.mark.parametrize(
        "connect",
        [
            lambda cluster: cluster.call_nodes("FLUSHALL"),
            lambda cluster: cluster.get_routing_client().delete("stays"),
            lambda cluster: cluster.get_local_client(0).flushall(),
            lambda cluster: cluster.get_local_client(0).pipeline().flushall().execute(),
            lambda cluster: cluster.get_pool_for_host(0).make_connection().send_command("SET"),
            lambda cluster: asyncio.run(cluster.aio.delete("stays")),
        ],
        ids=["call_nodes", "routing", "local", "pipeline", "connection", "asyncio"],
    )
    def test_is_guarded(self, connect: Callable[[Cluster], object], cluster: Cluster) -> None:
        with pytest.raises(ImproperlyConfigured, match=REFUSED):
            connect(cluster)

    def test_until_the_run_ends(self, site: LocalNodes) -> None:
        before = guarding.guard
        with override_settings(RB_CLUSTERS={"default": {"HOSTS": ["redis://h"]}}):
            stand_ins = StandIns()
            stand_ins.install()
            assert guarding.guard is not None
            stand_ins.uninstall()
        assert guarding.guard is before
        assert Cluster(site.hosts).call_nodes("PING")[1] == []

    def test_local_nodes_of_a_test_are_for_it(self, begin: Callable[..., StandIns]) -> None:
        begin(HOSTS=["redis://h"])
        for unix_sockets in (False, True):
            with LocalNodes(1, unix_sockets=unix_sockets) as own:
                cluster = Cluster(own.hosts)
                assert cluster.call_nodes("PING")[1] == []
                cluster.close()
                hosts = own.hosts
            with pytest.raises(ImproperlyConfigured, match=REFUSED):  # it may be another's now
                Cluster(hosts).call_nodes("PING")

    def test_only_the_database_that_is_declared(
        self, site: LocalNodes, begin: Callable[..., StandIns]
    ) -> None:
        begin(HOSTS=site.urls, TEST={"DB": 15})
        assert clusters["default"].call_nodes("PING")[1] == []
        for db, host in ((15, "127.1"), (15, "127.0.0.1")):
            hosts = [{**own, "host": host, "db": db} for own in site.hosts.values()]
            assert Cluster(hosts).call_nodes("PING")[1] == []
        with pytest.raises(ImproperlyConfigured, match=REFUSED):
            Cluster(site.hosts).call_nodes("PING")


def refuse(begin: Callable[..., StandIns], hosts: object, declared: object) -> None:
    begin(HOSTS=hosts, TEST={"HOSTS": declared})
    with pytest.raises(ImproperlyConfigured, match="tests flush it") as caught:
        cache.clear()
    assert "node 0 of the cluster 'default'" in str(caught.value)
    with pytest.raises(ImproperlyConfigured, match="tests flush it"):
        Cluster([*declared] if isinstance(declared, list) else []).call_nodes("FLUSHALL")


class TestDeclaredServersAreComparedByWhatTheyAre:
    @pytest.mark.parametrize(
        "spelling",
        [
            "0.0.0.0",
            "127.1",
            "2130706433",
            "0x7f000001",
            "::ffff:127.0.0.1",
            "0:0:0:0:0:FFFF:7F00:0001",
            "localhost.",
            socket.gethostname(),
            socket.gethostname().upper() + ".",
            "127.0.0.2",
        ],
    )
    def test_addresses(
        self, spelling: str, site: LocalNodes, begin: Callable[..., StandIns]
    ) -> None:
        refuse(begin, site.urls, [{**site.hosts[0], "host": spelling}])

    @pytest.mark.parametrize(
        ("own", "spelling"),
        [
            ("2001:db8::a", "2001:0DB8:0:0:0:0:0:A"),
            ("::1", "::"),
            ("cache.invalid", "Cache.INVALID."),
        ],
    )
    def test_addresses_where_nobody_answers(
        self, own: str, spelling: str, begin: Callable[..., StandIns]
    ) -> None:
        refuse(begin, [{"host": own, "port": 1}], [{"host": spelling, "port": 1}])

    def test_paths(
        self, site_on_sockets: LocalNodes, tmp_path: Path, begin: Callable[..., StandIns]
    ) -> None:
        path = Path(site_on_sockets.hosts[0]["unix_socket_path"])
        (tmp_path / "link").symlink_to(path.parent)
        (path.parent / "hard").hardlink_to(path)
        for spelling in (
            f"/{path.parent}//{path.name}",
            f"{path.parent}/./{path.name}",
            str(tmp_path / "link" / path.name),
            str(path.parent / "hard"),
        ):
            refuse(begin, site_on_sockets.urls, [{"unix_socket_path": spelling}])

    def test_paths_where_nobody_listens(
        self, tmp_path: Path, begin: Callable[..., StandIns]
    ) -> None:
        own, spelling = f"unix://{tmp_path}/v.sock", f"unix://{tmp_path}//v.sock"
        refuse(begin, [own], [spelling])

    def test_one_server_behind_a_socket_and_a_port(
        self, site_on_sockets: LocalNodes, begin: Callable[..., StandIns]
    ) -> None:
        with Servers(site_on_sockets.hosts) as servers, socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
            probe.close()
            servers.ask(0, "CONFIG", "SET", "port", port)
            refuse(begin, site_on_sockets.urls, [{"host": "127.0.0.1", "port": port}])

    def test_two_servers_at_one_port_of_two_addresses(
        self, site: LocalNodes, begin: Callable[..., StandIns], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with LocalNodes(1, unix_sockets=True, options={"protected-mode": "no"}) as own:
            with Servers(own.hosts) as servers:
                servers.ask(0, "CONFIG", "SET", "bind", "127.0.0.2")
                servers.ask(0, "CONFIG", "SET", "port", site.hosts[0]["port"])
            declared = [{"host": "127.0.0.2", "port": site.hosts[0]["port"]}]
            begin(HOSTS=site.hosts, TEST={"HOSTS": declared})
            cache.clear()
            own.pause(0)
            monkeypatch.setattr(places, "ASK_SECONDS", 0.1)
            refuse(begin, site.hosts, declared)  # as it cannot be asked

    def test_databases_of_one_server_are_apart(
        self, site: LocalNodes, begin: Callable[..., StandIns]
    ) -> None:
        begin(HOSTS=site.hosts, TEST={"HOSTS": [{**site.hosts[0], "db": 3}]})
        cache.clear()

    def test_those_of_rb_nodes_and_those_that_they_stand_in_for(
        self, site: LocalNodes, begin: Callable[..., StandIns], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DJANGO_RB_NODES", '{"default": ["redis://127.0.0.1:1/0"]}')
        for port in (site.hosts[0]["port"], 1):
            refuse(begin, site.hosts, [{**site.hosts[0], "host": "127.1", "port": port}])


def test_an_abstract_socket_has_a_place() -> None:
    place = Place("", 0, "\0abstract", 0)
    assert place.leads_to(place)
    assert not place.may_lead_to(Place("", 0, "\0other", 0))
