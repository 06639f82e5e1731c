"""RB_CLUSTERS[alias]["TEST"]: what it may say, and what is said about its mistakes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.test import override_settings

from django_rb import clusters, conf

SECRET = "hunter2"
HOSTS = ["redis://10.0.0.1", f"redis://:{SECRET}@10.0.0.2/3"]
WHERE = "settings.RB_CLUSTERS['default']['TEST']"


def mistakes(test: object, hosts: object = HOSTS, **further: Any) -> list[str]:
    config = {"HOSTS": hosts, "TEST": test, **further}
    others = {"other": {"HOSTS": ["redis://Other.Host:7000/5", "unix:///run/v.sock?db=5"]}}
    with override_settings(RB_CLUSTERS={"default": config, **others}):
        return [str(error) for error in conf.find_all_mistakes()]


@pytest.mark.parametrize(
    "test",
    [
        None,
        {},
        {"NODES": 1},
        {"NODES": "1"},
        {"DB": 15},
        {"DB": "15"},
        {"HOSTS": ["redis://h"]},
        {"HOSTS": {0: {"host": "h"}, 1: "unix:///s"}, "DB": 15},
        {"HOSTS": ["redis://10.0.0.1/15", "redis://10.0.0.1/14"]},
    ],
)
def test_what_it_may_say(test: object) -> None:
    assert mistakes(test) == []
    config = {"default": {"HOSTS": HOSTS, "TEST": test}}
    with override_settings(RB_CLUSTERS=config):  # and the site does not care
        addresses = [info.address for info in conf.make_cluster("default").hosts.values()]
    assert addresses == ["10.0.0.1:6379/0", "10.0.0.2:6379/3"]


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        (5, [f"{WHERE}: 5 is not a dictionary such as {{'NODES': 2}}."]),
        ({"NODE": 2}, [f"{WHERE}['NODE']: Unknown key 'NODE'. Did you mean 'NODES'?"]),
        ({"NODES": 0}, [f"{WHERE}['NODES']: 0 is not a whole number of 1 or more."]),
        ({"NODES": True}, [f"{WHERE}['NODES']: True is not a whole number of 1 or more."]),
        ({"DB": -1}, [f"{WHERE}['DB']: -1 is not a whole number of 0 or more."]),
        ({"DB": "x"}, [f"{WHERE}['DB']: 'x' is not a whole number of 0 or more."]),
        (
            {"NODES": 2, "DB": 15},
            [
                f"{WHERE}['NODES']: It cannot be combined with 'HOSTS' or 'DB': it starts "
                "local nodes, while they declare servers."
            ],
        ),
        ({"HOSTS": []}, [f"{WHERE}['HOSTS']: There are no hosts. List at least one node."]),
        (
            {"HOSTS": [{"hots": 1}]},
            [f"{WHERE}['HOSTS'][0]['hots']: Unknown option 'hots'. Did you mean 'host'?"],
        ),
    ],
)
def test_mistakes(test: object, expected: list[str]) -> None:
    assert mistakes(test) == expected


@pytest.mark.parametrize(
    ("test", "place", "owner"),
    [
        ({"DB": 0}, "10.0.0.1:6379/0", "node 0 of the cluster 'default'"),
        ({"DB": 3}, "10.0.0.2:6379/3", "node 1 of the cluster 'default'"),
        ({"HOSTS": HOSTS[1:]}, "10.0.0.2:6379/3", "node 1 of the cluster 'default'"),
        ({"HOSTS": ["redis://other.host:7000/5"]}, "other.host:7000/5", "'other'"),
        ({"HOSTS": ["redis://OTHER.host:7000"], "DB": 5}, "other.host:7000/5", "'other'"),
        ({"HOSTS": ["unix:///run/v.sock?db=5"]}, "unix:/run/v.sock/5", "node 1 of the"),
    ],
)
def test_databases_of_the_site_are_never_those_of_its_tests(
    test: object, place: str, owner: str
) -> None:
    (said,) = mistakes(test)
    assert said.startswith(f"{WHERE}: {place} is ")
    assert owner in said
    assert said.endswith(", and tests flush it. Use a database or servers that only tests use.")


@pytest.mark.parametrize("name", ["127.0.0.1", "LOCALHOST", "[::1]"])
def test_this_machine_has_several_names(name: str) -> None:
    (said,) = mistakes({"HOSTS": [f"redis://{name}"]}, ["redis://localhost"])
    assert "127.0.0.1:6379/0 is node 0 of the cluster 'default'" in said


def test_databases_of_one_server_stay_apart() -> None:
    (said,) = mistakes({"DB": 15}, ["redis://h/0", "redis://h/1"])
    assert said.startswith(f"{WHERE}: Nodes 0 and 1 are both h:6379/15. ")


@pytest.mark.parametrize("test", [{"DB": 15}, {"HOSTS": ["redis://OTHER.host:7000/15"]}])
def test_two_clusters_declare_the_same_database(test: object) -> None:
    config = {
        "archive": {"HOSTS": ["redis://other.host:7000/5"], "TEST": {"DB": 15}},
        "default": {"HOSTS": ["redis://other.host:7000/6"], "TEST": test},
    }
    with override_settings(RB_CLUSTERS=config):
        (mistake,) = conf.find_all_mistakes()
        conf.get_config("archive")
    assert str(mistake) == (
        f"{WHERE}: other.host:7000/15 is also declared by "
        "settings.RB_CLUSTERS['archive']['TEST'], and each cluster is flushed separately. "
        "Use another database or server."
    )


@pytest.mark.parametrize(
    "first",
    [
        5,
        {"TEST": {"DB": 15}},
        {"HOSTS": 5, "TEST": {"DB": 15}},
        {"HOSTS": ["redis://h"], "TEST": 5},
        {"HOSTS": ["redis://h"], "TEST": {"DB": "x"}},
        {
            "HOSTS": ["redis://h"],
            "TEST": {"HOSTS": 5},
            "ROUTER_OPTIONS": {"weights": {0: 2}},
        },
    ],
)
def test_a_mistake_in_the_first_of_two_clusters_is_told_once(first: object) -> None:
    config = {"first": first, "default": {"HOSTS": HOSTS, "TEST": {"DB": 15}}}
    with override_settings(RB_CLUSTERS=config):
        (mistake,) = conf.find_all_mistakes()
    assert str(mistake).startswith("settings.RB_CLUSTERS['first']")


class TestWhereNodesOfRbNodesReplaceThoseOfTheSite:
    @pytest.fixture(autouse=True)
    def _replaced(self, monkeypatch: pytest.MonkeyPatch) -> None:
        local = {"default": ["redis://127.0.0.1:1/0"], "archive": ["redis://127.0.0.1:1/1"]}
        monkeypatch.setenv(conf.NODES_VARIABLE, json.dumps(local))

    def test_the_sites_own_are_still_not_for_tests(self) -> None:
        (said,) = mistakes({"HOSTS": HOSTS[:1]})
        assert "10.0.0.1:6379/0 is node 0 of the cluster 'default', and tests flush" in said

    def test_the_same_database_of_different_servers_is_no_mistake(self) -> None:
        config = {
            "archive": {"HOSTS": ["redis://a"], "TEST": {"DB": 15}},
            "default": {"HOSTS": ["redis://b"], "TEST": {"DB": 15}},
        }
        with override_settings(RB_CLUSTERS=config):
            assert conf.find_all_mistakes() == []


def test_a_mistake_elsewhere_is_told_once() -> None:
    assert len(mistakes({"DB": 15}, [5])) == 1
    assert len(mistakes({"DB": 15}, 5)) == 1


def test_secrets_are_not_told() -> None:
    said = mistakes({"HOSTS": HOSTS, SECRET + "://x@y": 1}) + mistakes(f"redis://:{SECRET}@h")
    assert len(said) == 2
    assert not any(SECRET in text for text in said[1:])
    assert not any(SECRET in text for text in mistakes({"HOSTS": HOSTS}))


def test_the_check_and_the_first_use_tell() -> None:
    config = {"default": {"HOSTS": HOSTS, "TEST": {"DB": 0}}}
    with override_settings(RB_CLUSTERS=config):
        with pytest.raises(SystemCheckError, match="tests flush it"):
            call_command("check")
        with pytest.raises(ImproperlyConfigured, match="tests flush it"):
            clusters["default"]


class TestWhatStandsInIsMadeFrom:
    """conf.with_nodes and conf.get_test_config."""

    CONFIG = {
        "HOSTS": [{"host": "h", "password": SECRET}, "redis://h:1/2"],
        "HOST_DEFAULTS": {"db": 4, "username": "u"},
        "ROUTER_OPTIONS": {"weights": {0: 2, 1: 3}},
        "POOL_OPTIONS": {"password": SECRET, "socket_timeout": 9.0},
    }

    def test_weights_are_kept_where_host_ids_have_gaps(self) -> None:
        config = {**self.CONFIG, "ROUTER_OPTIONS": {"weights": {0: 2, 1: 3, 2: 4}}}
        made = conf.with_nodes(config, {0: "redis://a", 2: "redis://b"})
        assert made["ROUTER_OPTIONS"] == {"weights": {0: 2, 2: 4}}

    def test_local_nodes_know_no_passwords_and_keep_weights(self) -> None:
        made = conf.with_nodes(self.CONFIG, ["redis://local"])
        assert made == {
            "HOSTS": ["redis://local"],
            "HOST_DEFAULTS": {},
            "ROUTER_OPTIONS": {"weights": {0: 2}},
            "POOL_OPTIONS": {"socket_timeout": 9.0},
        }

    def test_a_database_keeps_everything_else(self) -> None:
        made = conf.get_test_config({**self.CONFIG, "TEST": {"DB": 15}})
        assert made is not None
        cluster = conf.build_cluster("default", made)
        assert [info.address for info in cluster.hosts.values()] == ["h:6379/15", "h:1/15"]
        assert cluster.hosts[0].password == SECRET
        assert cluster.hosts[1].username == "u"

    def test_no_servers_are_declared(self) -> None:
        assert conf.get_test_config({**self.CONFIG, "TEST": {"NODES": 2}}) is None
        assert conf.get_test_config(self.CONFIG) is None
