"""What `manage.py check` says of settings that work, and do not do what was meant."""

from __future__ import annotations

import json
import pickle
import re
import socket
from datetime import timedelta
from typing import Any

import pytest
from django.core import checks
from django.core.checks import CheckMessage, run_checks
from django.http import HttpResponse
from django.test import override_settings

from tests.management.processes import django, environment
from tests.tables import for_each
from tests.test_readme import code_blocks, names_in

BACKEND = "django_rb.cache.RBCache"
REDIS_CACHE = "django.core.cache.backends.redis.RedisCache"
SESSIONS = "django.contrib.sessions.backends.cache"
PER_SITE = ["django.middleware.cache.UpdateCacheMiddleware"]
HOSTS = [{"host": "10.0.0.1"}, {"host": "10.0.0.2"}]
CACHES = {"default": {"BACKEND": BACKEND}}


@pytest.fixture(autouse=True)
def _no_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        pytest.fail("a check connected to something, or asked for an address")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def found(**settings: Any) -> list[CheckMessage]:
    """Return what our checks of the settings say."""
    given = {"RB_CLUSTERS": {"default": {"HOSTS": HOSTS}}, "CACHES": CACHES, **settings}
    with override_settings(**given):
        messages = run_checks(tags=["caches"])
    ours = [m for m in messages if str(m.id).startswith("django_rb.")]
    for message in ours:
        assert message.level == (checks.ERROR if ".E" in str(message.id) else checks.WARNING)
        assert message.hint or message.id in {"django_rb.E001", "django_rb.E002"}
    return sorted(ours, key=lambda message: str(message.id))


def the_only(message_id: str, **settings: Any) -> str:
    (message,) = found(**settings)
    assert message.id == f"django_rb.{message_id}"
    return message.msg


def clusters(**configs: Any) -> dict[str, Any]:
    return {
        alias: config if isinstance(config, dict) else {"HOSTS": config}
        for alias, config in configs.items()
    }


def cache(location: str = "default", /, **params: Any) -> dict[str, Any]:
    return {"BACKEND": BACKEND, "LOCATION": location, **params}


def test_the_settings_in_the_readme_are_sound() -> None:
    shown = names_in(code_blocks("README.md", "python")[0])

    assert found(RB_CLUSTERS=shown["RB_CLUSTERS"], CACHES=shown["CACHES"]) == []


@pytest.mark.parametrize("nodes", ["", "local"])
def test_the_example_project_is_sound(nodes: str) -> None:
    urls = {"default": ["redis://127.0.0.1:1/0"], "sessions": ["redis://127.0.0.1:1/1"]}
    variables = {"DJANGO_RB_NODES": json.dumps(urls)} if nodes else {}
    done = django(
        "check",
        "--fail-level",
        "DEBUG",
        env=environment("bookshop.settings", PYTHONPATH="example_project", **variables),
    )

    assert done.stderr == ""
    assert "no issues" in done.stdout
    assert done.returncode == 0


# W001, W002: databases.


@pytest.mark.parametrize(
    ("hosts", "nodes", "address"),
    [
        ([{"port": 1}, {"port": 2}, "redis://localhost:1"], "nodes 0 and 2", "localhost:1/0"),
        ([{"port": 1, "db": 3}] * 3, "nodes 0, 1 and 2", "localhost:1/3"),
        (["unix:///s?db=1", "unix:///s?db=1"], "nodes 0 and 1", "unix:/s/1"),
    ],
)
def test_two_host_ids_of_one_database(hosts: list[Any], nodes: str, address: str) -> None:
    said = the_only("W001", RB_CLUSTERS=clusters(default=hosts))

    assert said.startswith("settings.RB_CLUSTERS['default']['HOSTS']: ")
    assert f"{nodes} are the same database, {address}." in said


def test_two_databases_of_one_server_are_two_nodes() -> None:
    assert found(RB_CLUSTERS=clusters(default=[{"port": 1}, {"port": 1, "db": 1}])) == []


def test_two_clusters_that_share_databases() -> None:
    many = [{"host": f"10.0.0.{n}"} for n in range(1, 6)]

    said = the_only("W002", RB_CLUSTERS=clusters(default=many, other=[{"port": 1}, *many]))

    assert "the clusters 'default' and 'other' share 10.0.0.1:6379/0, 10.0.0.2" in said
    assert "10.0.0.3:6379/0 and 2 more. clear() and rb_flushall" in said


def test_every_two_clusters_that_share_a_database_are_named() -> None:
    messages = found(RB_CLUSTERS=clusters(default=HOSTS, b=HOSTS, c=HOSTS[:1], d=["redis://d"]))

    assert [m.id for m in messages] == ["django_rb.W002"] * 3
    assert [re.findall(r"clusters (.*) share", m.msg)[0] for m in messages] == [
        "'default' and 'b'",
        "'default' and 'c'",
        "'b' and 'c'",
    ]


def test_clusters_on_other_databases_of_the_same_servers_share_nothing() -> None:
    other = {"HOSTS": HOSTS, "HOST_DEFAULTS": {"db": 1}}

    assert found(RB_CLUSTERS=clusters(default=HOSTS, other=other)) == []


# W003: keys.


def test_two_caches_that_store_the_same_keys() -> None:
    said = the_only("W003", CACHES={"default": cache(), "pages": cache(TIMEOUT=5)})

    assert said.startswith("settings.CACHES: 'default' and 'pages' store the same keys.")
    assert "10.0.0.1:6379/0 and 10.0.0.2:6379/0, with KEY_PREFIX '' and VERSION 1." in said


def test_two_caches_that_store_the_same_keys_through_two_clusters() -> None:
    messages = found(
        RB_CLUSTERS=clusters(default=HOSTS, other=HOSTS[1:]),
        CACHES={"default": cache(KEY_PREFIX="a"), "b": cache("other", KEY_PREFIX="a")},
    )

    assert [m.id for m in messages] == ["django_rb.W002", "django_rb.W003"]
    assert "Both are on 10.0.0.2:6379/0, with KEY_PREFIX 'a'" in messages[1].msg


@pytest.mark.parametrize(
    "params",
    [{"KEY_PREFIX": "p"}, {"VERSION": 2}, {"KEY_FUNCTION": "tests.test_checks_settings.upper"}],
)
def test_caches_with_other_keys_do_not_share_them(params: dict[str, Any]) -> None:
    assert found(CACHES={"default": cache(), "pages": cache(**params)}) == []


def upper(key: str, prefix: str, version: int) -> str:
    raise AssertionError("a check has no key to make")


@for_each(
    ("location", "options", "shares"),
    [
        ("redis://:secret@10.0.0.2", {}, True),
        ("redis://10.0.0.9,redis://10.0.0.2:6379/0", {}, True),
        (["redis://10.0.0.9", "redis://10.0.0.2"], {"db": "0"}, True),
        ("redis://10.0.0.2/1", {}, False),
        ("redis://10.0.0.2", {"db": "1"}, False),
        ("redis://10.0.0.3", {}, False),
        ("nonsense", {}, False),
        ("redis://10.0.0.2", {"db": "nonsense"}, False),
    ],
)
def test_keys_shared_with_djangos_own_cache(
    location: Any, options: dict[str, Any], shares: bool
) -> None:
    djangos = {"BACKEND": REDIS_CACHE, "LOCATION": location, "OPTIONS": options}

    messages = found(CACHES={"default": cache(), "old": djangos})

    assert [m.id for m in messages] == (["django_rb.W003"] if shares else [])
    assert "secret" not in str(messages)
    if shares:
        assert (
            "'default' and 'old' store the same keys. Both are on 10.0.0.2" in messages[0].msg
        )


def test_two_of_djangos_own_caches_are_not_ours_to_judge() -> None:
    djangos = {"BACKEND": REDIS_CACHE, "LOCATION": "redis://10.0.0.1"}

    assert found(CACHES={"default": djangos, "other": djangos}) == []


# W012: braces.


@pytest.mark.parametrize("prefix", ["{shop}", "shop{", "a{b}c"])
def test_a_prefix_that_begins_a_hash_tag(prefix: str) -> None:
    said = the_only("W012", CACHES={"default": cache(KEY_PREFIX=prefix)})

    assert said.startswith(f"settings.CACHES['default']['KEY_PREFIX'] is {prefix!r}. A '{{'")


@for_each("prefix", ["", "shop", "shop}", "(shop)"])
def test_a_prefix_that_does_not(prefix: str) -> None:
    assert found(CACHES={"default": cache(KEY_PREFIX=prefix)}) == []


def test_a_router_without_hash_tags_has_no_use_for_the_warning() -> None:
    config = {"HOSTS": HOSTS, "ROUTER": "django_rb.engine.ConsistentHashingRouter"}
    caches = {"default": cache(KEY_PREFIX="{shop}")}

    assert found(RB_CLUSTERS={"default": config}, CACHES=caches) == []


# W013: options that nothing reads.


def test_options_that_bound_other_caches() -> None:
    options = {"MAX_ENTRIES": 1000, "CULL_FREQUENCY": 2}
    said = the_only("W013", CACHES={"default": cache(OPTIONS=options)})

    assert said.startswith("settings.CACHES['default']['OPTIONS'] has 'MAX_ENTRIES' and 'CULL")


# W004, W005: sessions. E003: responses.


def test_sessions_that_a_silent_node_ends() -> None:
    said = the_only(
        "W004",
        SESSION_ENGINE=SESSIONS,
        CACHES={"default": cache(OPTIONS={"ON_NODE_ERROR": "miss"})},
    )

    assert said.startswith("settings.CACHES['default']['OPTIONS']['ON_NODE_ERROR'] is 'miss'")


@for_each(
    "settings",
    [
        {"SESSION_ENGINE": f"{SESSIONS}d_db"},
        {"SESSION_ENGINE": "django.contrib.sessions.backends.db"},
        {"SESSION_ENGINE": SESSIONS, "SESSION_CACHE_ALIAS": "other"},
        {"SESSION_ENGINE": SESSIONS, "SESSION_CACHE_ALIAS": "nowhere"},
    ],
)
def test_sessions_that_a_silent_node_does_not_end(settings: dict[str, Any]) -> None:
    caches = {
        "default": cache(OPTIONS={"ON_NODE_ERROR": "miss"}),
        "other": cache("other", OPTIONS={"ON_NODE_ERROR": "raise"}),
    }
    two = clusters(default=HOSTS, other=["redis://h"])

    assert found(RB_CLUSTERS=two, CACHES=caches, **settings) == []


def test_sessions_that_go_when_another_cache_is_cleared() -> None:
    caches = {"default": cache(), "sessions": cache(KEY_PREFIX="s"), "c": cache(VERSION=3)}
    settings = {"CACHES": caches, "SESSION_CACHE_ALIAS": "sessions"}

    said = the_only("W005", SESSION_ENGINE=SESSIONS, **settings)

    assert said.startswith("settings.CACHES['sessions'] stores the sessions")
    assert "the same databases as 'default' and 'c'." in said
    assert found(SESSION_ENGINE=f"{SESSIONS}d_db", **settings) == []


def test_sessions_in_the_only_cache_are_as_in_django() -> None:
    assert found(SESSION_ENGINE=SESSIONS) == []


class OwnSerializer:
    """A site's own, made of pickle."""

    def dumps(self, value: Any) -> bytes:
        return pickle.dumps(value)

    def loads(self, data: bytes) -> Any:
        return pickle.loads(data)


class LossySerializer(OwnSerializer):
    """Takes everything, and gives text back."""

    def dumps(self, value: Any) -> bytes:
        return pickle.dumps(str(value))


@pytest.mark.parametrize("serializer", ["json", "msgpack", LossySerializer])
def test_a_per_site_cache_that_cannot_store_responses(serializer: Any) -> None:
    caches = {"default": cache(), "json": cache("other", OPTIONS={"SERIALIZER": serializer})}
    settings = {
        "RB_CLUSTERS": clusters(default=HOSTS, other=["redis://h"]),
        "CACHES": caches,
        "CACHE_MIDDLEWARE_ALIAS": "json",
    }

    said = the_only("E003", MIDDLEWARE=PER_SITE, **settings)

    assert said.startswith("settings.CACHES['json']['OPTIONS']['SERIALIZER']: ")
    assert found(MIDDLEWARE=[], **settings) == []
    assert found(MIDDLEWARE=PER_SITE, **{**settings, "CACHE_MIDDLEWARE_ALIAS": "default"}) == []


@pytest.mark.parametrize(
    "options", [{}, {"SERIALIZER": "pickle"}, {"SERIALIZER": OwnSerializer}]
)
def test_a_per_site_cache_that_can_store_responses(options: dict[str, Any]) -> None:
    assert isinstance(pickle.loads(pickle.dumps(HttpResponse())), HttpResponse)
    assert found(MIDDLEWARE=PER_SITE, CACHES={"default": cache(OPTIONS=options)}) == []


# W006, W007: time.


@for_each(
    ("pool_options", "wait"),
    [
        ({"socket_timeout": 29.5}, "up to 30.5 seconds"),
        ({"socket_connect_timeout": 2000, "socket_timeout": 2000}, "up to 4000 seconds"),
        ({"socket_timeout": None}, "without limit"),
        ({"socket_connect_timeout": None}, "without limit"),
    ],
)
def test_nodes_that_outlast_the_gateway(pool_options: dict[str, Any], wait: str) -> None:
    slow = clusters(default={"HOSTS": HOSTS, "POOL_OPTIONS": pool_options})

    said = the_only("W006", RB_CLUSTERS=slow)

    assert said.startswith("settings.RB_CLUSTERS['default']: a call to a dead node waits ")
    assert wait in said


def test_one_slow_node_is_named() -> None:
    hosts = [
        {"host": "a"},
        {"host": "b", "socket_timeout": 40},
        {"host": "c", "socket_timeout": 50},
    ]

    said = the_only("W006", RB_CLUSTERS=clusters(default=hosts))

    assert "up to 51 seconds (node 2: socket_connect_timeout 1.0, socket_timeout 50)." in said


def test_the_node_without_limit_is_named_before_slow_ones() -> None:
    hosts = [{"host": "a", "socket_timeout": None}, {"host": "b", "socket_timeout": 40}]

    assert "without limit (node 0:" in the_only("W006", RB_CLUSTERS=clusters(default=hosts))


def test_deadlines_bound_what_slow_nodes_do_not() -> None:
    slow = {"default": {"HOSTS": HOSTS, "POOL_OPTIONS": {"socket_timeout": 60}}}
    quick = cache(OPTIONS={"DEADLINE": 2})
    locmem = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}

    assert found(RB_CLUSTERS=slow, CACHES={"default": quick}) == []
    assert the_only("W006", RB_CLUSTERS=slow, CACHES=locmem)
    prefixed = cache(KEY_PREFIX="p")
    assert the_only("W006", RB_CLUSTERS=slow, CACHES={"default": quick, "p": prefixed})


def test_30_seconds_are_not_too_long() -> None:
    slow = {"default": {"HOSTS": HOSTS, "POOL_OPTIONS": {"socket_timeout": 29}}}

    assert found(RB_CLUSTERS=slow) == []
    assert found(CACHES={"default": cache(OPTIONS={"DEADLINE": 30})}) == []
    deadline = timedelta(seconds=30)
    assert found(CACHES={"default": cache(OPTIONS={"DEADLINE": deadline})}) == []
    too_long = cache(OPTIONS={"DEADLINE": 2 * deadline})
    assert "is 60.0 seconds" in the_only("W007", CACHES={"default": too_long})


def test_a_deadline_in_milliseconds() -> None:
    said = the_only("W007", CACHES={"default": cache(OPTIONS={"DEADLINE": "500"})})
    assert "is 500 seconds" in said
    said = the_only("W007", CACHES={"default": cache(OPTIONS={"DEADLINE": 500})})

    assert said.startswith("settings.CACHES['default']['OPTIONS']['DEADLINE'] is 500 seconds.")


@pytest.mark.parametrize("health", [{"PAUSE": 1000}, {"MAX_PAUSE": 301}])
def test_a_node_that_is_back_and_stays_unused(health: dict[str, Any]) -> None:
    said = the_only("W009", RB_CLUSTERS={"default": {"HOSTS": HOSTS, "HEALTH": health}})

    assert said.startswith(
        "settings.RB_CLUSTERS['default']['HEALTH']: a node that is available again"
    )


@for_each("health", [None, {}, {"PAUSE": 60}, {"MAX_PAUSE": 300}])
def test_a_node_that_is_back_and_soon_used(health: Any) -> None:
    assert found(RB_CLUSTERS={"default": {"HOSTS": HOSTS, "HEALTH": health}}) == []


# W008: routers.


def test_rbs_router_is_for_rbs_data() -> None:
    partitioned = {"HOSTS": HOSTS, "ROUTER": "django_rb.engine.PartitionRouter"}
    moved = {**partitioned, "HOST_DEFAULTS": {"db": 1}}

    said = the_only("W008", RB_CLUSTERS=clusters(default=HOSTS, moved=moved))

    assert said.startswith("settings.RB_CLUSTERS['moved']['ROUTER'] is PartitionRouter")


@pytest.mark.parametrize("router", ["SlotRouter", "ConsistentHashingRouter"])
def test_routers_that_leave_most_keys_where_they_are(router: str) -> None:
    config = {"HOSTS": HOSTS, "ROUTER": f"django_rb.engine.{router}"}

    assert found(RB_CLUSTERS={"default": config}) == []


# All of them.


def test_a_mistake_hides_what_else_is_known_of_its_place_and_of_no_other() -> None:
    messages = found(
        RB_CLUSTERS=clusters(
            default=HOSTS, other=HOSTS, broken={"HOSTS": HOSTS, "ROUTER": "no.such"}
        ),
        CACHES={
            "default": cache(OPTIONS={"DEADLINE": 100}),
            "on broken": cache("broken", OPTIONS={"DEADLINE": 100}),
            "typo": cache(OPTIONS={"DEADLINE": 100, "SERIALISER": "json"}),
        },
    )

    assert [m.id for m in messages] == [
        f"django_rb.{name}" for name in ("E001", "E002", "W002", "W007")
    ]


@pytest.mark.parametrize("setting", [None, [], {"default": None}])
def test_there_is_nothing_more_to_say_without_clusters(setting: Any) -> None:
    ids = {m.id for m in found(RB_CLUSTERS=setting, SESSION_ENGINE=SESSIONS)}

    assert ids <= {"django_rb.E001", "django_rb.E002"}


def test_a_warning_can_be_silenced() -> None:
    (message,) = found(CACHES={"default": cache(OPTIONS={"DEADLINE": 500})})

    with override_settings(SILENCED_SYSTEM_CHECKS=["django_rb.W007"]):
        assert message.is_silenced()


# W014: files of TLS.


def test_files_that_are_not_there() -> None:
    options = {"ssl_ca_certs": "/no/ca.pem", "ssl_certfile": __file__, "ssl_keyfile": __file__}
    tls = {"host": "10.0.0.1", "ssl": True, **options}
    message = the_only("W014", RB_CLUSTERS=clusters(default=[tls]))
    assert message == (
        "settings.RB_CLUSTERS['default']['HOSTS'][0]: 'ssl_ca_certs' is '/no/ca.pem', which "
        "does not exist. No connection to the node can be opened."
    )
    both = [tls, {**tls, "host": "10.0.0.2", "ssl_ca_certs": __file__}]
    assert [m.id for m in found(RB_CLUSTERS=clusters(default=both))] == ["django_rb.W014"]
    assert found(RB_CLUSTERS=clusters(default=[{**tls, "ssl_ca_certs": __file__}])) == []
