"""settings.RB_CLUSTERS: what it may say, and what is said about its mistakes."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from django_rb import clusters, conf
from django_rb.cache import RBCache
from django_rb.engine import BaseRouter, ConsistentHashingRouter, PartitionRouter, SlotRouter
from django_rb.engine.nodes.health import HealthOptions, check_health
from django_rb.testing import LocalNodes
from tests.tables import for_each

SECRET = "hunter2"
HOSTS = [{"host": "10.0.0.1"}, {"host": "10.0.0.2", "port": 7000}]


class FirstRouter(BaseRouter):
    """Needs an option, and puts every key on one node."""

    def __init__(self, cluster: Any, chosen: int) -> None:
        super().__init__(cluster)
        self.chosen = chosen

    def get_host_for_key(self, key: object) -> int:
        return self.chosen


def addresses(alias: str = "default") -> list[str]:
    return [info.address for info in clusters[alias].hosts.values()]


@for_each(
    ("config", "expected"),
    [
        ({"HOSTS": HOSTS}, ["10.0.0.1:6379/0", "10.0.0.2:7000/0"]),
        ({"HOSTS": dict(enumerate(HOSTS))}, ["10.0.0.1:6379/0", "10.0.0.2:7000/0"]),
        ({"HOSTS": {0: HOSTS[0], 9999: HOSTS[1]}}, ["10.0.0.1:6379/0", "10.0.0.2:7000/0"]),
        ({"HOSTS": ["redis://h:1/2", "rediss://[::1]", "unix:///s?db=3"]},
         ["h:1/2", "[::1]:6379/0", "unix:/s/3"]),
        ({"HOSTS": HOSTS, "HOST_DEFAULTS": {"db": 3, "port": 9}},
         ["10.0.0.1:9/3", "10.0.0.2:7000/3"]),
        ({"HOSTS": HOSTS, "HOST_DEFAULTS": None, "ROUTER_OPTIONS": None, "POOL_OPTIONS": None},
         ["10.0.0.1:6379/0", "10.0.0.2:7000/0"]),
    ],
)  # fmt: skip
def test_hosts_in_every_form(config: dict[str, Any], expected: list[str]) -> None:
    with override_settings(RB_CLUSTERS={"default": config}):
        assert addresses() == expected
        assert list(conf.find_all_mistakes()) == []


def test_the_router_is_slot_router_unless_another_is_named() -> None:
    def router(**config: Any) -> BaseRouter:
        with override_settings(RB_CLUSTERS={"default": {"HOSTS": HOSTS, **config}}):
            return clusters["default"].router

    assert type(router()) is SlotRouter
    assert type(router(ROUTER="django_rb.engine.PartitionRouter")) is PartitionRouter
    assert type(router(ROUTER=ConsistentHashingRouter)) is ConsistentHashingRouter
    own = router(ROUTER=f"{__name__}.FirstRouter", ROUTER_OPTIONS={"chosen": 1})
    assert isinstance(own, FirstRouter)
    assert own.get_host_for_key("any") == 1


def test_router_options_reach_the_router() -> None:
    config = {"HOSTS": HOSTS, "ROUTER_OPTIONS": {"weights": {0: 99}}}
    with override_settings(RB_CLUSTERS={"default": config}):
        owners = [clusters["default"].get_host_for_key(f"key{n}") for n in range(1000)]
    assert owners.count(0) > 950


def test_pool_options_reach_the_connections() -> None:
    options = {"socket_timeout": 0.5, "max_connections": 3}
    with override_settings(RB_CLUSTERS={"default": {"HOSTS": HOSTS, "POOL_OPTIONS": options}}):
        node = clusters["default"].nodes[0]
    assert (node.socket_timeout, node.max_connections) == (0.5, 3)


@for_each(
    ("health", "options"),
    [
        ({}, HealthOptions(3, 1.0, 30.0)),
        ({"FAILURES": 1, "MAX_PAUSE": 5}, HealthOptions(1, 1.0, 5)),
        (
            {"FAILURES": "2", "PAUSE": "0.5", "MAX_PAUSE": "60"},
            HealthOptions(2, 0.5, 60),
        ),
        ({"PAUSE": 60}, HealthOptions(3, 60, 60)),  # a longer bound than the default one
        (None, HealthOptions(None, 0.0, 0.0)),
    ],
)
def test_health_reaches_the_nodes(health: Any, options: HealthOptions) -> None:
    assert check_health(health) == options
    with override_settings(RB_CLUSTERS={"default": {"HOSTS": HOSTS, "HEALTH": health}}):
        node = clusters["default"].nodes[0]
    for _ in range(4):
        node.failed(redis.ConnectionError("gone"))
    assert node.health.is_down is (health is not None)


SETTING = "settings.RB_CLUSTERS['default']"

MISTAKES: list[tuple[Any, list[str]]] = [
    (None, [f"{SETTING}: ", "NoneType", "'HOSTS'"]),
    ([], [f"{SETTING}: ", "list", "'HOSTS'"]),
    (f"redis://:{SECRET}@h", [f"{SETTING}: ", "str", "'HOSTS'"]),
    ({}, [f"{SETTING}['HOSTS']: It is missing.", "[{'host': '127.0.0.1'}]"]),
    ({"HOSTS": HOSTS, "ROUTR": 1}, [f"{SETTING}['ROUTR']: Unknown", "mean 'ROUTER'?"]),
    ({"HOSTS": HOSTS, "router": 1}, [f"{SETTING}['router']: Unknown", "mean 'ROUTER'?"]),
    ({"HOSTS": HOSTS, "OPTIONS": {}}, [f"{SETTING}['OPTIONS']: Unknown", "_OPTIONS'?"]),
    ({"HOSTS": HOSTS, "zzz": SECRET}, [f"{SETTING}['zzz']: Unknown", "HEALTH, HOSTS"]),
    ({"HOSTS": HOSTS, 5: 1}, [f"{SETTING}[5]: Unknown key 5."]),
    ({"HOSTS": HOSTS, f"redis://:{SECRET}@h": 1}, [f"{SETTING}['redis://***@h']: Unknown"]),
    ({"HOST": HOSTS}, [f"{SETTING}['HOST']: Unknown key 'HOST'.", "mean 'HOSTS'?"]),
    ({"HOSTS": None}, [f"{SETTING}['HOSTS']: None is neither"]),
    ({"HOSTS": ""}, [f"{SETTING}['HOSTS']: '' is neither", "into a list"]),
    ({"HOSTS": {}}, [f"{SETTING}['HOSTS']: There are no hosts.", "at least one"]),
    ({"HOSTS": []}, [f"{SETTING}['HOSTS']: There are no hosts.", "at least one"]),
    (
        {"HOSTS": {0: {}, 2: {}}, "ROUTER": "django_rb.engine.PartitionRouter"},
        [f"{SETTING}['HOSTS']: ", 'ID "1" among [0, 2]', "or use SlotRouter"],
    ),
    ({"HOSTS": {0: {}, 10_000: {}}}, [f"{SETTING}['HOSTS'][10000]: ", "0 to 9999"]),
    ({"HOSTS": {"a": {}}}, [f"{SETTING}['HOSTS']['a']: Host id 'a' is not an integer"]),
    ({"HOSTS": {f"redis://:{SECRET}@h": {}}}, [f"{SETTING}['HOSTS']['redis://***@h']: "]),
    ({"HOSTS": [{"prot": 1}]}, [f"{SETTING}['HOSTS'][0]['prot']: ", "mean 'port'?"]),
    ({"HOSTS": [{}, {"port": "1k"}]}, [f"{SETTING}['HOSTS'][1]['port']: '1k' is not"]),
    ({"HOSTS": [f"u:{SECRET}@h:6379"]}, [f"{SETTING}['HOSTS'][0]: ", "redis://, rediss://"]),
    (
        {"HOSTS": [f"redis://u:{SECRET}@h:x/0"]},
        [f"{SETTING}['HOSTS'][0]: 'redis://***@h:x/0' cannot be read", "A URL looks like"],
    ),
    ({"HOSTS": HOSTS, "HOST_DEFAULTS": []}, [f"{SETTING}['HOST_DEFAULTS']: A list is not"]),
    (
        {"HOSTS": HOSTS, "HOST_DEFAULTS": f"redis://:{SECRET}@h"},
        [f"{SETTING}['HOST_DEFAULTS']: 'redis://***@h' is not a dictionary"],
    ),
    (
        {"HOSTS": HOSTS, "HOST_DEFAULTS": {"pasword": SECRET}},
        [f"{SETTING}['HOST_DEFAULTS']['pasword']: ", "mean 'password'?"],
    ),
    (
        {"HOSTS": HOSTS, "HOST_DEFAULTS": {"password": [SECRET]}},
        [f"{SETTING}['HOST_DEFAULTS']['password']: A list is not text."],
    ),
    ({"HOSTS": HOSTS, "POOL_OPTIONS": [1]}, [f"{SETTING}['POOL_OPTIONS']: A list is not"]),
    (
        {"HOSTS": HOSTS, "POOL_OPTIONS": {"socket_timeot": 1}},
        [f"{SETTING}['POOL_OPTIONS']['socket_timeot']: ", "mean 'socket_timeout'?"],
    ),
    (
        {"HOSTS": HOSTS, "POOL_OPTIONS": {"socket_timeout": 0}},
        [f"{SETTING}['POOL_OPTIONS']['socket_timeout']: 0 is not", "Use None for no limit"],
    ),
    ({"HOSTS": HOSTS, "HEALTH": 3}, [f"{SETTING}['HEALTH']: 3 is not a dict", "'FAILURES': 3"]),
    ({"HOSTS": HOSTS, "HEALTH": False}, [f"{SETTING}['HEALTH']: False is not", "Use None"]),
    (
        {"HOSTS": HOSTS, "HEALTH": {"FAILS": 3, "PAUS": 1}},
        [f"{SETTING}['HEALTH']: Unknown key 'FAILS'.", "Unknown key 'PAUS'. Did you"],
    ),
    (
        {"HOSTS": HOSTS, "HEALTH": {"FAILS": 3}},
        [f"{SETTING}['HEALTH']['FAILS']: Unknown key 'FAILS'.", "mean 'FAILURES'?"],
    ),
    (
        {"HOSTS": HOSTS, "HEALTH": {"FAILURES": 0}},
        [f"{SETTING}['HEALTH']['FAILURES']: 0 is not", "1 or more", "HEALTH = None"],
    ),
    ({"HOSTS": HOSTS, "HEALTH": {"FAILURES": True}}, ["['FAILURES']: True is not"]),
    ({"HOSTS": HOSTS, "HEALTH": {"FAILURES": 2.5}}, ["['FAILURES']: 2.5 is not"]),
    ({"HOSTS": HOSTS, "HEALTH": {"PAUSE": 0}}, ["['HEALTH']['PAUSE']: 0 is not a time in sec"]),
    ({"HOSTS": HOSTS, "HEALTH": {"PAUSE": None}}, ["['HEALTH']['PAUSE']: None is not a time"]),
    ({"HOSTS": HOSTS, "HEALTH": {"MAX_PAUSE": "9s"}}, ["['MAX_PAUSE']: '9s' is not a time"]),
    ({"HOSTS": HOSTS, "HEALTH": {"MAX_PAUSE": float("nan")}}, ["['MAX_PAUSE']: nan is not a"]),
    (
        {"HOSTS": HOSTS, "HEALTH": {"PAUSE": 5, "MAX_PAUSE": 4}},
        [f"{SETTING}['HEALTH']['MAX_PAUSE']: 4 s is shorter than PAUSE, which is 5 s"],
    ),
    ({"HOSTS": HOSTS, "ROUTER_OPTIONS": [1]}, [f"{SETTING}['ROUTER_OPTIONS']: [1] is not"]),
    ({"HOSTS": HOSTS, "ROUTER_OPTIONS": []}, [f"{SETTING}['ROUTER_OPTIONS']: [] is not"]),
    (
        {"HOSTS": HOSTS, "ROUTER_OPTIONS": {"wieghts": {}}},
        [f"{SETTING}['ROUTER_OPTIONS']: SlotRouter does not take", "wieghts"],
    ),
    (
        {"HOSTS": HOSTS, "ROUTER_OPTIONS": {"weights": [1, 2]}},
        [f"{SETTING}['ROUTER_OPTIONS']['weights']: [1, 2] is not a dictionary of weights"],
    ),
    (
        {"HOSTS": HOSTS, "ROUTER_OPTIONS": {"weights": {2: 1}}},
        [f"{SETTING}['ROUTER_OPTIONS']['weights'][2]: ", "no such host", "Host ids are: 0, 1."],
    ),
    (
        {"HOSTS": HOSTS, "ROUTER_OPTIONS": {"weights": {0: 0}}},
        [f"{SETTING}['ROUTER_OPTIONS']['weights'][0]: 0 is not a weight", "above 0"],
    ),
    (
        {"HOSTS": HOSTS, "ROUTER": f"{__name__}.FirstRouter"},
        [f"{SETTING}['ROUTER_OPTIONS']: FirstRouter does not take these options", "'chosen'"],
    ),
    ({"HOSTS": HOSTS, "ROUTER": "SlotRouter"}, [f"{SETTING}['ROUTER']: 'SlotRouter' cannot"]),
    (
        {"HOSTS": HOSTS, "ROUTER": "django_rb.engine.SlottRouter"},
        [
            f"{SETTING}['ROUTER']: 'django_rb.engine.SlottRouter' cannot be imported: ",
            "The default is 'django_rb.engine.SlotRouter'.",
        ],
    ),
    ({"HOSTS": HOSTS, "ROUTER": "no.such.Router"}, [f"{SETTING}['ROUTER']: 'no.such.Router'"]),
    ({"HOSTS": HOSTS, "ROUTER": ""}, [f"{SETTING}['ROUTER']: '' cannot be imported"]),
    ({"HOSTS": HOSTS, "ROUTER": ".Router"}, [f"{SETTING}['ROUTER']: '.Router' cannot"]),
    (
        {"HOSTS": HOSTS, "ROUTER": "django_rb.engine.Cluster"},
        [f"{SETTING}['ROUTER']: 'django_rb.engine.Cluster' is not a class", "BaseRouter"],
    ),
    ({"HOSTS": HOSTS, "ROUTER": None}, [f"{SETTING}['ROUTER']: None is not a class"]),
    ({"HOSTS": HOSTS, "ROUTER": dict}, [f"{SETTING}['ROUTER']: <class 'dict'> is not"]),
    ({"HOSTS": HOSTS, "TOPOLOGY": "rediscluster"}, [f"{SETTING}['TOPOLOGY']: 'rediscl"]),
    (
        {"HOSTS": HOSTS, "TOPOLOGY": "redis-cluster", "ROUTER": "django_rb.engine.SlotRouter"},
        [f"{SETTING}['ROUTER']: The nodes of a Redis Cluster determine where keys are."],
    ),
    (
        {"HOSTS": ["unix:///run/valkey.sock"], "TOPOLOGY": "redis-cluster"},
        [f"{SETTING}['HOSTS'][0]: ", "Give its host and port."],
    ),
    (
        {"HOSTS": HOSTS, "ADDRESS_MAP": {"10.0.0.1:6379": "127.0.0.1:7001"}},
        [f"{SETTING}['ADDRESS_MAP']: ", "'TOPOLOGY': 'redis-cluster'"],
    ),
    (
        {"HOSTS": HOSTS, "TOPOLOGY": "redis-cluster", "ADDRESS_MAP": {"a:6379": "b"}},
        [f"{SETTING}['ADDRESS_MAP']['a:6379']: 'b' is not an address such as"],
    ),
    (
        {"HOSTS": HOSTS, "TOPOLOGY": "redis-cluster", "ADDRESS_MAP": "no.such.function"},
        [f"{SETTING}['ADDRESS_MAP']: 'no.such.function' cannot be imported"],
    ),
    ({"HOSTS": HOSTS, "ROUTER": 5}, [f"{SETTING}['ROUTER']: 5 is not a class"]),
]  # fmt: skip


@for_each(("config", "parts"), MISTAKES)
def test_a_mistake_is_explained(config: Any, parts: list[str]) -> None:
    with (
        override_settings(RB_CLUSTERS={"default": config}),
        pytest.raises(ImproperlyConfigured) as caught,
    ):
        clusters["default"]

    text = str(caught.value)
    for part in parts:
        assert part in text
    assert SECRET not in text


@for_each("setting", [[], [{"HOSTS": HOSTS}], None, "default", 5])
def test_the_setting_is_a_dictionary(setting: object) -> None:
    kind = type(setting).__name__
    with override_settings(RB_CLUSTERS=setting):
        for look in (lambda: clusters["default"], lambda: list(clusters), conf.get_aliases):
            with pytest.raises(
                ImproperlyConfigured, match=f"settings.RB_CLUSTERS is a {kind}, not a dict"
            ):
                look()
        assert len(list(conf.find_all_mistakes())) == 1


@for_each(
    ("aliases", "alias", "way_out"),
    [
        (["default"], "defualt", "Did you mean 'default'?"),
        (["default", "Sessions"], "sessions", "Did you mean 'Sessions'?"),
        (["a", "b"], "sessions", "Choices are: a, b."),
        ([], "sessions", r"missing or empty. Add RB_CLUSTERS = {'sessions': {'HOSTS': "),
    ],
)
def test_an_unknown_alias_is_explained(aliases: list[str], alias: str, way_out: str) -> None:
    with override_settings(RB_CLUSTERS={known: {"HOSTS": HOSTS} for known in aliases}):
        with pytest.raises(ImproperlyConfigured, match=f"no cluster '{alias}'.*{way_out}"):
            clusters[alias]
        with pytest.raises(ImproperlyConfigured, match=f"'{alias}', the LOCATION.*{way_out}"):
            RBCache(alias, {}).get("key")


def test_every_mistake_is_found_at_once() -> None:
    setting = {
        "one": {"HOSTS": [{"port": 0}], "ROUTR": 1, "POOL_OPTIONS": [], "ROUTER": "no"},
        "two": {"HOSTS": HOSTS, "ROUTER_OPTIONS": {"x": 1}},
        "three": None,
        "sound": {"HOSTS": HOSTS},
    }
    with override_settings(RB_CLUSTERS=setting):
        found = [str(error).partition(":")[0] for error in conf.find_all_mistakes()]
    assert found == [
        "settings.RB_CLUSTERS['one']['ROUTR']",
        "settings.RB_CLUSTERS['one']['HOSTS'][0]['port']",
        "settings.RB_CLUSTERS['one']['POOL_OPTIONS']",
        "settings.RB_CLUSTERS['one']['ROUTER']",
        "settings.RB_CLUSTERS['two']['ROUTER_OPTIONS']",
        "settings.RB_CLUSTERS['three']",
    ]


def test_a_mistake_in_one_cluster_leaves_the_others_usable() -> None:
    with override_settings(RB_CLUSTERS={"default": {"HOSTS": HOSTS}, "bad": None}):
        assert addresses() == ["10.0.0.1:6379/0", "10.0.0.2:7000/0"]


# DJANGO_RB_NODES: the nodes that `manage.py rb_nodes` started.


def test_local_nodes_stand_in_for_the_configured_ones(
    nodes: LocalNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = {
        "default": {
            "HOSTS": ["redis://:x@10.0.0.1"],
            "HOST_DEFAULTS": {"password": SECRET, "ssl": True},
            "ROUTER": PartitionRouter,
        },
        "other": {"HOSTS": HOSTS},
    }
    local = {"default": nodes.urls[:2], "new": nodes.urls[2:]}
    monkeypatch.setenv("DJANGO_RB_NODES", json.dumps(local))
    with override_settings(RB_CLUSTERS=setting):
        assert list(clusters) == ["default", "other", "new"]
        places = [f"127.0.0.1:{host['port']}/0" for host in nodes.hosts.values()]
        assert addresses() + addresses("new") == places
        assert addresses("other") == ["10.0.0.1:6379/0", "10.0.0.2:7000/0"]
        assert type(clusters["default"].router) is PartitionRouter
        RBCache("default", {}).set("key", 1)
        assert RBCache("default", {}).get("key") == 1


def test_local_nodes_need_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJANGO_RB_NODES", '{"default": ["redis://127.0.0.1:1/0"]}')
    with override_settings(RB_CLUSTERS={}):
        assert addresses() == ["127.0.0.1:1/0"]


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJANGO_RB_NODES", "")
    with override_settings(RB_CLUSTERS={"default": {"HOSTS": HOSTS}}):
        assert addresses() == ["10.0.0.1:6379/0", "10.0.0.2:7000/0"]


@for_each(
    "garbage",
    ["x", "{", "[]", "5", '"default"', "null", f"redis://:{SECRET}@h", '{"default": 5}',
     '{"default": "redis://h"}', '{"default": null}', '{"default": [5]}',
     f'{{"default": ["h:{SECRET}@6379"]}}', '{"default": []}'],
)  # fmt: skip
def test_a_variable_that_makes_no_sense_is_named(
    monkeypatch: pytest.MonkeyPatch, garbage: str
) -> None:
    monkeypatch.setenv("DJANGO_RB_NODES", garbage)
    with override_settings(RB_CLUSTERS={"default": {"HOSTS": HOSTS}}):
        with pytest.raises(ImproperlyConfigured, match="DJANGO_RB_NODES") as caught:
            clusters["default"]
        assert "rb_nodes" in str(caught.value)
        assert ".." not in str(caught.value)
        assert SECRET not in str(caught.value)
        assert len(list(conf.find_all_mistakes())) == 1


def test_a_mistake_of_the_settings_is_not_blamed_on_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DJANGO_RB_NODES", '{"default": ["redis://127.0.0.1:1/0"]}')
    configs: list[object] = [None, 5, "redis://h", []]
    for config in configs:
        with (
            override_settings(RB_CLUSTERS={"default": config}),
            pytest.raises(ImproperlyConfigured, match=r"settings.RB_CLUSTERS\['default'\]: A "),
        ):
            clusters["default"]


def test_local_nodes_take_nothing_that_only_the_configured_ones_need(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Weights name hosts that are not there, and local nodes ask for no password."""
    config = {
        "HOSTS": [*HOSTS, "redis://h"],
        "ROUTER_OPTIONS": {"weights": {2: 3}},
        "POOL_OPTIONS": {"username": "u", "password": SECRET, "socket_timeout": 9.0},
    }
    monkeypatch.setenv("DJANGO_RB_NODES", '{"default": ["redis://127.0.0.1:1/0"]}')
    with override_settings(RB_CLUSTERS={"default": config}):
        node = clusters["default"].nodes[0]
    assert node.socket_timeout == 9.0
    assert SECRET not in str(vars(node))
