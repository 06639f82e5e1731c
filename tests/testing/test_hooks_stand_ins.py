"""What stands in for clusters: when it starts, what counts as use, what flushing does."""

from __future__ import annotations

import subprocess
import sys
import threading
import unittest
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from django.core.cache import cache
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from django_rb import clusters
from django_rb.engine import Cluster
from django_rb.testing import LocalNodes, NodesError, ServerNotFoundError
from django_rb.testing.runner import RBTestSuite
from django_rb.testing.stand_in import StandIn
from django_rb.testing.stand_ins import StandIns, get_stand_ins

from ..helpers import Servers
from .sample_runs import FRESH_PYTEST, PYTEST, Runs

CLUSTERS: dict[str, dict[str, Any]] = {
    "default": {"HOSTS": ["redis://127.0.0.1:1", "redis://127.0.0.1:2"]},
    "other": {"HOSTS": ["redis://127.0.0.1:3"], "TEST": {"NODES": 3}},
}


@pytest.fixture
def stand_ins() -> Iterator[StandIns]:
    """Those of CLUSTERS, beside what the plugin has for this run."""
    with override_settings(RB_CLUSTERS=CLUSTERS):
        made = StandIns()
        yield made
        for alias in CLUSTERS:
            made[alias].stop()


@pytest.fixture
def stand_in(stand_ins: StandIns) -> StandIn:
    return stand_ins["default"]


@pytest.fixture
def cluster(stand_ins: StandIns) -> Cluster:
    return stand_ins.make_cluster("default")


def test_each_cluster_has_its_own_and_starts_them_when_it_is_made(stand_ins: StandIns) -> None:
    default = stand_ins.make_cluster("default")
    again = stand_ins.make_cluster("default")
    other = stand_ins.make_cluster("other")
    assert (len(default.hosts), len(other.hosts)) == (2, 3)
    places = [
        [info.address for info in made.hosts.values()] for made in (default, again, other)
    ]
    assert places[0] == places[1]
    assert not {*places[0]} & {*places[2]}


def test_nobody_else_on_the_machine_reaches_local_nodes(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    if redis.VERSION >= (5, 1):
        assert {*stand_in.lend_nodes().hosts[0]} == {"unix_socket_path"}
    monkeypatch.setattr("django_rb.testing.stand_in.can_have_unix_sockets", lambda: False)
    with override_settings(RB_CLUSTERS=CLUSTERS):
        without = StandIns()
        cluster = without.make_cluster("default")
        assert {*without["default"].lend_nodes().hosts[0]} == {"host", "port", "password"}
        assert cluster.call_nodes("PING")[1] == []
        without["default"].flush()
        without["default"].stop()


def test_options_that_only_tcp_has_are_no_obstacle() -> None:
    options = {"socket_keepalive": True, "socket_type": 0, "socket_keepalive_options": {}}
    config = {"default": {"HOSTS": ["redis://h"], "POOL_OPTIONS": options}}
    with override_settings(RB_CLUSTERS=config):
        stand_ins = StandIns()
        cluster = stand_ins.make_cluster("default")
        assert cluster.call_nodes("PING")[1] == []
        stand_ins["default"].stop()


def test_threads_that_ask_at_once_start_them_once(stand_ins: StandIns) -> None:
    made: list[Cluster] = []
    threads = [
        threading.Thread(target=lambda: made.append(stand_ins.make_cluster("default")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({cluster.hosts[0].address for cluster in made}) == 1


class TestUse:
    def test_making_a_cluster_is_none(self, stand_in: StandIn, cluster: Cluster) -> None:
        cluster.get_local_client(0).pipeline()
        cluster.get_host_for_key("key")
        assert not stand_in.is_used

    @pytest.mark.parametrize("times", [1, 2])
    def test_the_first_one_is_seen_and_later_ones_cost_nothing(
        self, times: int, stand_in: StandIn, cluster: Cluster
    ) -> None:
        plain = Cluster([{"port": 1}])
        for _ in range(times):
            stand_in.flush()
        cluster.call_nodes("PING")
        assert stand_in.is_used
        assert vars(cluster).keys() == vars(plain).keys()
        assert not cluster.observers

    def test_of_a_client_that_was_made_before(
        self, stand_in: StandIn, cluster: Cluster
    ) -> None:
        client = cluster.get_local_client(1)
        for _ in range(2):
            client.set("key", 1)
            assert stand_in.is_used
            stand_in.flush()
            assert not stand_in.is_used

    def test_of_any_cluster_that_was_made(self, stand_ins: StandIns, cluster: Cluster) -> None:
        second = stand_ins.make_cluster("default")
        for used in (cluster, second):
            used.call_nodes("SET", "key", 1)
            assert stand_ins["default"].is_used
            stand_ins.flush_used()
        assert not stand_ins["other"].is_used


class TestFlush:
    def test_of_those_that_were_used_and_no_others(self, stand_ins: StandIns) -> None:
        made = {alias: stand_ins.make_cluster(alias) for alias in CLUSTERS}
        for cluster in made.values():
            cluster.call_nodes("SET", "key", 1)
        stand_ins.flush_used()
        with Servers(stand_ins["other"].lend_nodes().hosts) as servers:
            assert servers.keys() == {0: set(), 1: set(), 2: set()}
            stand_ins.flush_used()
            servers.ask(0, "SET", "key", 1)  # past the cluster
            made["default"].call_nodes("SET", "key", 1)
            stand_ins.flush_used()
            assert servers.keys()[0] == {b"key"}

    def test_every_database_of_local_nodes(self, stand_in: StandIn) -> None:
        host = stand_in.lend_nodes().hosts[0]
        with redis.Redis(**host, db=7) as client:
            client.set("key", 1)
            stand_in.flush()
            assert client.dbsize() == 0

    def test_connections_stay(self, stand_in: StandIn, cluster: Cluster) -> None:
        cluster.call_nodes("PING")
        before = [pool.idle[0].fd for pool in cluster._threads.pools.values()]
        stand_in.flush()
        cluster.call_nodes("PING")
        assert [pool.idle[0].fd for pool in cluster._threads.pools.values()] == before

    def test_declared_nodes_that_cannot_be_flushed_are_told(self) -> None:
        with LocalNodes(1, options={"requirepass": "hunter2"}) as nodes:
            config = {"default": {"HOSTS": ["redis://h"], "TEST": {"HOSTS": nodes.urls}}}
            with override_settings(RB_CLUSTERS=config):
                stand_ins = StandIns()
                with pytest.raises(NodesError, match=r"\['TEST'\] declares could not be") as e:
                    stand_ins.make_cluster("default")
                stand_ins["default"].stop()
        assert f"node 0, 127.0.0.1:{nodes._addresses[0]['port']}/0" in str(e.value)

    def test_a_first_flush_that_failed_is_repeated(self) -> None:
        with LocalNodes(1) as nodes, Servers(nodes.hosts) as servers:
            config = {"default": {"HOSTS": ["redis://h"], "TEST": {"HOSTS": nodes.hosts}}}
            with override_settings(RB_CLUSTERS=config):
                stand_ins = StandIns()
                servers.ask(0, "SET", "left", 1)
                servers.ask(0, "CONFIG", "SET", "requirepass", "secret")
                with pytest.raises(NodesError, match="could not be flushed"):
                    stand_ins.make_cluster("default")
                password = nodes.hosts[0]["password"]
                servers.ask(0, "CONFIG", "SET", "requirepass", password)
                stand_ins.make_cluster("default")
                assert servers.keys() == {0: set()}
                stand_ins["default"].stop()

    def test_declared_nodes_are_not_lent(self) -> None:
        config = {"default": {"HOSTS": ["redis://h"], "TEST": {"DB": 15}}}
        with override_settings(RB_CLUSTERS=config):
            stand_in = StandIns()["default"]
        with pytest.raises(NodesError, match=r"no local nodes.*\['TEST'\] declares servers"):
            stand_in.lend_nodes()


class TestInstall:
    @pytest.fixture
    def site(self, nodes: LocalNodes) -> LocalNodes:
        """The nodes of the settings."""
        return nodes

    def test_clusters_that_were_made_before_are_refused(self, site: LocalNodes) -> None:
        cluster = clusters["default"]
        client = cluster.get_local_client(0)
        uses: list[Callable[[], object]] = [
            lambda: client.set("key", 1),
            lambda: cluster.call_nodes("SET", "key", 1),
            lambda: cluster.get_routing_client().get("key"),
        ]
        stand_ins = StandIns()
        stand_ins.install()
        try:
            for use in uses:
                with pytest.raises(
                    ImproperlyConfigured, match=r"^This cluster 'default' was created"
                ):
                    use()
            assert clusters["default"].call_nodes("PING")[1] == []
        finally:
            stand_ins.uninstall()
        with Servers(site.hosts) as servers:
            assert not set().union(*servers.keys().values())
        for use in uses:
            use()
        assert not cluster.observers

    def test_caches_that_were_used_before_are_not(self, site: LocalNodes) -> None:
        cache.set("key", 1)
        stand_ins = StandIns()
        stand_ins.install()
        try:
            assert cache.get("key") is None
        finally:
            stand_ins.uninstall()
        assert cache.get("key") == 1

    def test_a_run_inside_a_run_gives_way_to_it_again(self, site: LocalNodes) -> None:
        before = get_stand_ins()
        outer, inner = StandIns(), StandIns()
        outer.install()
        try:
            own = clusters["default"]
            inner.install()
            assert get_stand_ins() is inner
            inner.uninstall()
            assert get_stand_ins() is outer
            assert clusters["default"].hosts == own.hosts
            own.call_nodes("SET", "key", 1)
            assert outer["default"].is_used
        finally:
            outer.uninstall()
        assert get_stand_ins() is before
        assert clusters["default"].hosts[0].port == site.hosts[0]["port"]


class TestSuite:
    def test_one_may_be_in_another(self, monkeypatch: pytest.MonkeyPatch) -> None:
        done: list[str] = []

        class Case(unittest.TestCase):
            def test_it(self) -> None:
                done.append("test")

        monkeypatch.setattr(get_stand_ins(), "flush_used", lambda: done.append("flush"))
        result = unittest.TestResult()
        RBTestSuite([RBTestSuite([Case("test_it")]), Case("test_it")]).run(result)
        assert (result.testsRun, result.errors) == (2, [])
        assert done == ["flush", "flush", "test", "flush", "test"]


class TestOverriddenSettings:
    def test_other_nodes_are_used_as_named(self, stand_ins: StandIns) -> None:
        with override_settings(RB_CLUSTERS={"default": {"HOSTS": ["redis://127.0.0.1:9"]}}):
            cluster = stand_ins.make_cluster("default")
        assert cluster.hosts[0].address == "127.0.0.1:9/0"

    def test_the_sites_own_nodes_stay_replaced(self, stand_ins: StandIns) -> None:
        config = {
            "default": {**CLUSTERS["other"], "POOL_OPTIONS": {"socket_timeout": 0.5}},
            "new": {**CLUSTERS["default"], "HOST_DEFAULTS": {"db": 3}},
        }
        expected = stand_ins.make_cluster("default"), stand_ins.make_cluster("other")
        with override_settings(RB_CLUSTERS=config):
            default, new = stand_ins.make_cluster("default"), stand_ins.make_cluster("new")
        assert default.hosts[0].unix_socket_path == expected[1].hosts[0].unix_socket_path
        assert new.hosts[0].unix_socket_path == expected[0].hosts[0].unix_socket_path
        assert default.nodes[0].socket_timeout == 0.5


def test_an_alias_that_is_not_known(stand_ins: StandIns) -> None:
    with pytest.raises(ImproperlyConfigured, match="no cluster 'defualt'"):
        stand_ins["defualt"]
    with (
        override_settings(RB_CLUSTERS={**CLUSTERS, "late": CLUSTERS["other"]}),
        pytest.raises(ImproperlyConfigured, match=r"'late' was not in settings.RB_CLUSTERS"),
    ):
        stand_ins["late"]


def test_what_a_missing_server_says(
    stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DJANGO_RB_SERVER", "/nowhere/valkey-server")
    with pytest.raises(
        ServerNotFoundError, match="in place of the cluster 'default'"
    ) as caught:
        stand_ins.check_server()
    assert "DJANGO_RB_SERVER is '/nowhere/valkey-server'" in str(caught.value)
    assert "settings.RB_CLUSTERS['default']['TEST'] = {'HOSTS': […]}" in str(caught.value)


def run(code: str, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", *options, code],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("module", ["django_rb.testing", "django_rb.testing.plugin"])
def test_the_import_needs_no_django(module: str) -> None:
    code = (
        f"import sys, {module}; "
        "assert not {'django', 'redis', 'django_rb.engine'} & set(sys.modules)"
    )
    run(code, "-c")


def test_what_is_exported_is_there() -> None:
    import django_rb.testing

    assert all(hasattr(django_rb.testing, name) for name in django_rb.testing.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'RBRunner'"):
        _ = django_rb.testing.RBRunner


class TestThePluginIsInert:
    """Where it has nothing to do, it imports nothing."""

    def run_pytest(self, folder: Path, *command: str, **variables: str) -> None:
        (folder / "test_it.py").write_text(
            "import sys\n"
            "def test_it():\n"
            "    assert 'django_rb.testing.stand_ins' not in sys.modules\n"
        )
        status, said = Runs(folder, folder).run(*command, **variables)
        assert status == 0, said

    @pytest.fixture
    def settings(self, tmp_path: Path) -> dict[str, str]:
        (tmp_path / "mysettings.py").write_text(
            "SECRET_KEY = 'x'\nRB_CLUSTERS = {'default': {'HOSTS': ['redis://h']}}\n"
        )
        return {"DJANGO_SETTINGS_MODULE": "mysettings", "PYTHONPATH": str(tmp_path)}

    def test_without_settings(self, tmp_path: Path) -> None:
        self.run_pytest(tmp_path, *FRESH_PYTEST)

    def test_without_clusters(self, tmp_path: Path, settings: dict[str, str]) -> None:
        (tmp_path / "mysettings.py").write_text("SECRET_KEY = 'x'\nRB_CLUSTERS = {}\n")
        self.run_pytest(tmp_path, *PYTEST, **settings)

    def test_without_pytest_django(self, tmp_path: Path, settings: dict[str, str]) -> None:
        self.run_pytest(tmp_path, *FRESH_PYTEST, "-p", "no:django", **settings)

    def test_when_it_is_switched_off(self, tmp_path: Path, settings: dict[str, str]) -> None:
        self.run_pytest(tmp_path, *PYTEST, "-p", "no:django_rb", **settings)

    def test_else_it_is_not(self, tmp_path: Path, settings: dict[str, str]) -> None:
        with pytest.raises(
            AssertionError, match=r"assert 'django_rb.testing.stand_ins' not in"
        ):
            self.run_pytest(tmp_path, *PYTEST, **settings)


@pytest.mark.parametrize(
    "name",
    [
        "rb_cluster",
        "rb_nodes",
        "rb_capture",
        "rb_assert_num_batches",
        "rb_assert_nodes_touched",
    ],
)
def test_fixtures_refuse_the_sites_own_nodes(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("django_rb.testing.stand_ins._active", None)  # the plugin is inert
    with pytest.raises(
        ImproperlyConfigured,
        match=r"no nodes for tests in place of the site's own.*DJANGO_SETTINGS_MODULE",
    ):
        request.getfixturevalue(name)


def test_test_cases_refuse_to_run_on_the_sites_own_nodes(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from django.conf import settings; settings.configure(RB_CLUSTERS={}); "
        "from django_rb.testing import RBTestCase\n"
        "try: RBTestCase.setUpClass()\n"
        "except Exception as error: print(error)"
    )
    status, said = Runs(tmp_path).run(str(script))
    assert status == 0, said
    assert "TEST_RUNNER = 'django_rb.testing.RBDiscoverRunner'" in said
