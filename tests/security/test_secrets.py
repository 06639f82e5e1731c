"""A password is in no repr, log, error, traceback, debug page or output of a command."""

from __future__ import annotations

import asyncio
import gc
import io
import logging
import secrets
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from copy import copy
from dataclasses import asdict, astuple, replace
from functools import partial
from typing import Any

import pytest
import redis
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.core.management.base import CommandError
from django.test import override_settings
from redis.connection import parse_url

from django_rb import clusters, conf
from django_rb.cache import RBCache
from django_rb.engine import (
    BadHostSetup,
    BaseRouter,
    Cluster,
    Promise,
    SlotRouter,
    failures_of,
)
from django_rb.engine.nodes.hosts import parse_hosts
from django_rb.engine.nodes.option_checks import connection_options
from django_rb.testing import LocalNodes
from tests.helpers import make_cache
from tests.tables import for_each

from .guards import Guards
from .reports import caught, report

# Made at run time: no line of source that a debug page shows may hold it.
SECRET = f"s3cret-{secrets.token_hex(8)}"
WRONG = f"wr0ng-{secrets.token_hex(8)}"


def is_hidden(text: str) -> bool:
    # Not as an assert on `in`: pytest would show the text, and what a failure shows is long.
    for secret in (SECRET, WRONG):
        if secret in text:
            where = text.index(secret)
            raise AssertionError(f"Shown: …{text[max(0, where - 300) : where + 60]}…")
    return True


@pytest.fixture(autouse=True)
def everything_logged(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> Iterator[None]:
    """Whatever a test here does, no log record and no output has the password."""
    with caplog.at_level(logging.DEBUG):
        yield
    for record in caplog.records:
        is_hidden(f"{record.getMessage()} {record.args} {vars(record)}")
        if record.exc_info and record.exc_info[1]:
            is_hidden(report(record.exc_info[1]))
    is_hidden("".join(capfd.readouterr()))


@pytest.fixture
def app(guards: Guards) -> Guards:
    """Nodes that let in the user "app" with the password SECRET."""
    guards.set_user("app", f">{SECRET}", "~*", "&*", "+@all")
    guards.close_the_door()
    return guards


def url(host: dict[str, Any], password: str) -> str:
    return f"redis://app:{password}@{host['host']}:{host['port']}/0"


# The ways to give credentials; each returns the arguments of a Cluster.
WAYS: dict[str, Callable[[Guards, str], dict[str, Any]]] = {
    "hosts": lambda app, pw: {"hosts": app.hosts_with(username="app", password=pw)},
    "urls": lambda app, pw: {"hosts": [url(host, pw) for host in app.hosts.values()]},
    "defaults": lambda app, pw: {
        "hosts": app.hosts,
        "host_defaults": {"username": "app", "password": pw},
    },
    "pool": lambda app, pw: {
        "hosts": app.hosts,
        "pool_options": {"username": "app", "password": pw},
    },
    "provider": lambda app, pw: {
        "hosts": app.hosts,
        "host_defaults": {
            "credential_provider": redis.UsernamePasswordCredentialProvider("app", pw)
        },
    },
}


@contextmanager
def opened(app: Guards, way: str, password: str, protocol: int = 2) -> Iterator[Cluster]:
    arguments = WAYS[way](app, password)
    arguments["pool_options"] = {"protocol": protocol, **arguments.get("pool_options", {})}
    cluster = Cluster(router_cls=SlotRouter, **arguments)
    del arguments
    try:
        yield cluster
    finally:
        cluster.close()


@contextmanager
def configured(app: Guards, way: str, password: str, protocol: int = 2) -> Iterator[None]:
    names = {"hosts": "HOSTS", "host_defaults": "HOST_DEFAULTS", "pool_options": "POOL_OPTIONS"}
    config = {names[name]: value for name, value in WAYS[way](app, password).items()}
    config["POOL_OPTIONS"] = {"protocol": protocol, **config.get("POOL_OPTIONS", {})}
    with override_settings(RB_CLUSTERS={"default": config}):
        yield


@pytest.mark.parametrize("way", WAYS)
def test_no_repr_shows_it(way: str, app: Guards) -> None:
    with opened(app, way, SECRET) as cluster:
        with cluster.map() as client:
            promise = client.set("key", "value")
            shown: list[Any] = [
                client,
                promise,
                cluster.map(),
                cluster.all(),
                cluster.fanout([0]),
            ]
        local = cluster.get_local_client(0)
        assert local.ping()
        shown += [
            cluster,
            cluster.hosts,
            cluster.nodes,
            cluster.router,
            cluster.get_router(),
            cluster.get_routing_client(),
            cluster.prototype,
            local,
            local.pipeline(),
            local.pubsub(),  # type: ignore[no-untyped-call]
            local.lock("lock"),
            cluster.get_pool_for_host(0),
            cluster.health(),
            promise,
            Promise.all([promise]),
            *cluster.hosts.values(),
            *cluster.nodes.values(),
            *cluster.health().values(),
            *[
                connection
                for node in cluster._threads.pools.values()
                for connection in node.idle
            ],
        ]
        for thing in shown:
            is_hidden(f"{thing} {thing!r}")
        for node in cluster.nodes.values():
            is_hidden(repr(vars(node)))
        is_hidden(repr(vars(cluster)))
        for info in cluster.hosts.values():
            is_hidden(f"{vars(info)} {asdict(info)} {astuple(info)} {replace(info, db=1)}")


def test_no_repr_shows_the_password_of_a_key() -> None:
    for where in ("host_defaults", "pool_options"):
        options: dict[str, Any] = {where: {"ssl_password": SECRET}}
        cluster = Cluster([{"ssl": True}], **options)
        del options
        is_hidden(f"{cluster.get_local_client(0)!r} {cluster.get_pool_for_host(0)!r}")
        is_hidden(f"{vars(cluster.nodes[0])} {vars(cluster)} {asdict(cluster.hosts[0])}")


def test_no_repr_shows_the_password_of_a_key_by_the_name_of_rb() -> None:
    host = {"ssl": True, "ssl_options": {"password": SECRET, "keyfile": "key.pem"}}
    cluster = Cluster([host])
    is_hidden(f"{vars(cluster.nodes[0])} {vars(cluster)} {asdict(cluster.hosts[0])}")
    assert cluster.hosts[0].ssl_options == host["ssl_options"]


@pytest.mark.parametrize("way", WAYS)
def test_no_repr_of_a_cache_shows_it(way: str, app: Guards) -> None:
    with configured(app, way, SECRET):
        cache = make_cache()
        cache.set("key", 1)
        is_hidden(
            f"{cache} {cache!r} {vars(cache)} {cache.cluster} {clusters} {cache.lock('x')!r}"
        )


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("way", WAYS)
def test_no_refused_login_shows_it(way: str, protocol: int, app: Guards) -> None:
    with opened(app, way, WRONG, protocol) as cluster:
        _, failures = cluster.call_nodes("PING")
        assert len(failures) == 2
        for failure in failures:
            assert isinstance(failure.error, redis.AuthenticationError)
            is_hidden(f"{failure!r} {report(failure.error)}")
        is_hidden(repr(cluster.health()))

    def mapped() -> None:
        with opened(app, way, WRONG, protocol) as cluster, cluster.map() as client:
            for n in range(20):
                client.set(f"key:{n}", n)

    error = caught(mapped)
    assert isinstance(error, redis.AuthenticationError)
    assert len(failures_of(error)) == 2
    is_hidden(report(error))


@pytest.mark.parametrize("way", WAYS)
def test_no_error_of_redis_pys_own_client_shows_it(way: str, app: Guards) -> None:
    with opened(app, way, WRONG) as cluster:
        local = cluster.get_local_client(0)
        actions: dict[str, Callable[[], Any]] = {
            "command": local.ping,
            "pipeline": lambda: local.pipeline().execute_command("PING").execute(),  # type: ignore[no-untyped-call]
            "lock": local.lock("lock").acquire,
        }
        for action in actions.values():
            error = caught(action)
            assert isinstance(error, redis.RedisError)
            is_hidden(report(error))

    with opened(app, way, SECRET) as cluster:  # one that connects again by itself
        local = cluster.get_local_client(0)
        assert local.ping()
        connection = cluster.get_pool_for_host(0).make_connection()
        app.set_user("app", ">changed", "~*", "&*", "+@all")
        app.hang_up("app")
        for action in (local.ping, partial(connection.send_command, "PING")):
            error = caught(action)
            assert isinstance(error, redis.RedisError)
            is_hidden(report(error))


@pytest.mark.parametrize("way", WAYS)
def test_no_error_of_a_cache_shows_it(way: str, app: Guards) -> None:
    uses: list[Callable[[RBCache], Any]] = [
        lambda cache: cache.get("key"),
        lambda cache: cache.get_many(["a", "b", "c", "d"]),
        lambda cache: cache.set_many({"a": 1, "b": 2}),
        lambda cache: cache.incr("a"),
        lambda cache: cache.lock("a").acquire(),
        lambda cache: cache.clear(),
    ]
    for used in uses:
        with configured(app, way, WRONG):
            error = caught(lambda: used(make_cache()))  # noqa: B023
        assert isinstance(error, redis.RedisError)
        # Made without the settings: Django shows those of its own accord.
        is_hidden(report(error))


@pytest.mark.usefixtures("transport")
def test_no_miss_that_is_logged_shows_it(app: Guards, caplog: pytest.LogCaptureFixture) -> None:
    with configured(app, "urls", WRONG):
        cache = make_cache(OPTIONS={"ON_NODE_ERROR": "miss"})
        assert cache.get_many(["a", "b", "c"]) == {}
        for _ in range(5):  # until the nodes are down
            assert cache.get("a") is None
    assert "invalid username-password pair" in caplog.text


@pytest.mark.parametrize(("way", "protocol"), [("hosts", 2), ("provider", 3)])
def test_no_error_of_an_awaited_method_shows_it(way: str, protocol: int, app: Guards) -> None:
    async def use_all() -> None:
        cache = make_cache()
        with pytest.raises(redis.AuthenticationError) as caught:
            await cache.aget("key")
        errors.append(caught.value)
        with pytest.raises(redis.AuthenticationError) as caught:
            async with cache.cluster.amap() as client:
                client.get("key")
        errors.append(caught.value)

    errors: list[BaseException] = []
    with configured(app, way, WRONG, protocol):
        asyncio.run(use_all())
    for error in errors:
        # Made without the settings: Django shows those of its own accord.
        is_hidden(report(error))


def test_no_repr_of_what_is_awaited_shows_it(app: Guards) -> None:
    async def use() -> None:
        await cluster.aio.set("key", 1)
        manager = cluster.amap()
        async with manager as client:
            promise = client.get("key")
        [pools] = cluster._loops._loops
        for thing in (cluster.aio, manager, client, promise, pools, *asyncio.all_tasks()):
            is_hidden(f"{thing} {thing!r} {vars(thing) if hasattr(thing, '__dict__') else ''}")
        for pool in pools.pools:
            is_hidden(f"{pool!r} {vars(pool)} {[vars(c) for c in pool.connections]}")

    with opened(app, "hosts", SECRET) as cluster:
        asyncio.run(use())


def test_djangos_page_hides_a_password_that_is_called_one(app: Guards) -> None:
    for way in ("hosts", "defaults", "pool"):
        with configured(app, way, WRONG):
            is_hidden(report(caught(lambda: make_cache().get("key"))))


@pytest.mark.parametrize(
    ("transport", "way"),
    [*(("poll", way) for way in WAYS), ("asyncio", "urls")],
    indirect=["transport"],
)
@pytest.mark.usefixtures("transport")
def test_nodes_that_are_not_there_show_nothing(way: str, app: Guards) -> None:
    app = copy(app)
    app.hosts = {0: {"host": "127.0.0.1", "port": 1}}
    with opened(app, way, SECRET) as cluster:
        error = caught(lambda: use(cluster))
        assert isinstance(error, redis.ConnectionError)
        is_hidden(report(error))
        is_hidden(report(caught(cluster.get_local_client(0).ping)))


def use(cluster: Cluster) -> None:
    with cluster.map() as client:
        client.set("key", 1)


IMPOSSIBLE: list[dict[str, Any]] = [
    {"ssl_ca_certs": "/nowhere.pem"},
    {"ssl_certfile": "/nowhere.pem", "ssl_keyfile": "/nowhere.pem"},
]
IMPOSSIBLE += [
    {name: "none such"}
    for name in ("ssl_ciphers", "ssl_min_version")  # came with later redis-py
    if name in connection_options()
]


# Where the options of TLS are wrong, redis-py 5 leaves the socket to the collector.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.parametrize(
    ("transport", "options"),
    [("poll", options) for options in IMPOSSIBLE] + [("asyncio", IMPOSSIBLE[0])],
    indirect=["transport"],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
@pytest.mark.usefixtures("transport")
def test_options_of_tls_that_cannot_be_show_nothing(
    options: dict[str, Any], two_nodes: LocalNodes
) -> None:
    secrets_of_tls = {"password": SECRET, "ssl_password": SECRET}
    cluster = Cluster({0: {**two_nodes.hosts[0], "ssl": True, **secrets_of_tls, **options}})
    del secrets_of_tls
    try:
        error = caught(lambda: use(cluster))
        assert isinstance(error, redis.RedisError)
        assert "[node 0, 127.0.0.1:" in str(error)
        is_hidden(report(error))
        is_hidden(report(caught(cluster.get_local_client(0).ping)))
    finally:
        cluster.close()


# Mistakes in the settings, each with a password near it.
MISTAKES: list[Callable[[], Any]] = [
    lambda: {"default": {"HOSTS": [{"password": SECRET, "prot": 1}]}},
    lambda: {"default": {"HOSTS": [{"password": SECRET, "port": "x"}]}},
    lambda: {"default": {"HOSTS": [{"password": [SECRET]}]}},
    lambda: {"default": {"HOSTS": [{"password": SECRET, "credential_provider": object()}]}},
    lambda: {"default": {"HOSTS": [{"ssl_password": SECRET}]}},
    lambda: {"default": {"HOSTS": [{"ssl": True, "ssl_password": SECRET, "ssl_cert_reqs": 7}]}},
    lambda: {"default": {"HOSTS": {0: {"password": SECRET}, -2: {}}}},
    lambda: {"default": {"HOSTS": [f"redis://:{SECRET}@h:port"]}},
    lambda: {"default": {"HOSTS": [f"redis://:{SECRET}@h/x"]}},
    lambda: {"default": {"HOSTS": [f"redis://:{SECRET}@[h:1/0"]}},
    lambda: {"default": {"HOSTS": [f"redis://h?password={SECRET}&db=x"]}},
    lambda: {"default": {"HOSTS": [f"http://:{SECRET}@h"]}},
    lambda: {"default": {"HOSTS": f"redis://:{SECRET}@h"}},
    lambda: {"default": {"HOSTS": {f"redis://:{SECRET}@h": {}}}},
    lambda: {"default": {"HOSTS": [{}], "HOST_DEFAULTS": {"password": SECRET, "prot": 1}}},
    lambda: {"default": {"HOSTS": [{}], "HOST_DEFAULTS": f"redis://:{SECRET}@h"}},
    lambda: {"default": {"HOSTS": [{}], "POOL_OPTIONS": {"password": SECRET, "db": 1}}},
    lambda: {"default": {"HOSTS": [{"password": SECRET}], "ROUTER": "no.such.Router"}},
    lambda: {"default": {"HOSTS": [{"password": SECRET}], "ROUTER": int}},
    lambda: {"default": {"HOSTS": [{"password": SECRET}], "ROUTER_OPTIONS": {"x": 1}}},
    lambda: {"default": {"HOSTS": [{"password": SECRET}], "ROUTER_OPTIONS": []}},
    lambda: {"default": {"HOSTS": [{"password": SECRET}], "HEALTH": {"X": 1}}},
    lambda: {"default": {"HOSTS": [{"password": SECRET}], "HOST": []}},
    lambda: {"default": f"redis://:{SECRET}@h"},
    lambda: {"default": {f"redis://:{SECRET}@h": 1}},
    lambda: {"defualt": {"HOSTS": [{"password": SECRET}]}},
    lambda: [f"redis://:{SECRET}@h"],
    lambda: f"redis://:{SECRET}@h",
]
NUMBERS = range(len(MISTAKES))


def flush() -> None:
    call_command("rb_flushall", cluster=["default"], interactive=False)


@for_each(
    ("act", "number"),
    [
        # By way of clusters["default"], which raises the first mistake …
        *((lambda: make_cache().get("key"), number) for number in NUMBERS),
        *((flush, number) for number in NUMBERS[::7]),  # … as that does
        *((lambda: call_command("check"), number) for number in NUMBERS),
    ],
)
def test_no_mistake_in_the_settings_shows_it(act: Callable[[], Any], number: int) -> None:
    output = io.StringIO()
    with (
        override_settings(RB_CLUSTERS=MISTAKES[number]()),
        redirect_stdout(output),
        redirect_stderr(output),
    ):
        error = caught(act)
    is_hidden(report(error) + output.getvalue())


@for_each("number", NUMBERS)
def test_no_listed_mistake_shows_it(number: int) -> None:
    with override_settings(RB_CLUSTERS=MISTAKES[number]()):
        error = caught(lambda: conf.make_cluster("default"))
        found = conf.find_all_mistakes()
        with suppress(ImproperlyConfigured):
            list(clusters)
    is_hidden(report(error))
    for mistake in found:
        is_hidden(f"{mistake} {mistake!r}")


@pytest.mark.parametrize("form", ["redis://:{}@h", "u:{}@h"])
def test_a_location_that_is_a_url_shows_nothing(form: str) -> None:
    is_hidden(report(caught(lambda: make_cache(form.format(SECRET)).get("key"))))
    is_hidden(report(caught(lambda: clusters[form.format(SECRET)])))


class Moody(BaseRouter):
    """A router of a site's own, with a mistake in it."""

    def __init__(self, cluster: Any, **options: Any) -> None:
        mood = "for the report"
        raise LookupError(f"Not today, {mood}")


def test_a_router_that_raises_is_seen_and_the_settings_are_not() -> None:
    def settings() -> Any:
        hosts = [{"password": SECRET}, f"redis://:{SECRET}@h"]
        return {"default": {"HOSTS": hosts, "ROUTER": Moody}}

    for act in (lambda: clusters["default"], lambda: call_command("check")):
        with override_settings(RB_CLUSTERS=settings()):
            error = caught(act)
        assert isinstance(error, LookupError)
        text = report(error)
        is_hidden(text)
        assert "mood = 'for the report'" in text  # the site's own frames keep theirs
        assert "_make_router" in text  # and ours can be seen


@for_each(
    "mistake",
    [
        lambda: {"hosts": [{"password": SECRET, "prot": 1}]},
        lambda: {"hosts": [f"redis://:{SECRET}@h:port"]},
        lambda: {"hosts": [{}], "host_defaults": {"password": SECRET, "prot": 1}},
        lambda: {"hosts": [{}], "pool_options": {"password": SECRET, "prot": 1}},
        lambda: {"hosts": [{"password": SECRET}], "router_options": {"x": 1}},
        lambda: {"hosts": [{"password": SECRET}], "router_cls": Moody},
    ],
)
def test_no_mistake_in_the_engines_arguments_shows_it(
    mistake: Callable[[], dict[str, Any]],
) -> None:
    is_hidden(report(caught(lambda: Cluster(**mistake()))))


def test_no_mistake_in_a_host_that_is_added_shows_it() -> None:
    def add() -> None:
        Cluster([{}]).add_host(1, password=SECRET, prot=1)

    error = caught(add)
    assert isinstance(error, BadHostSetup)
    is_hidden(report(error))


@pytest.mark.parametrize(
    ("way", "is_right"), [*((way, False) for way in WAYS), ("urls", True), ("provider", True)]
)
def test_no_command_shows_it(way: str, is_right: bool, app: Guards) -> None:
    output = io.StringIO()
    local_nodes = ("rb_nodes", "--count", "1", "--format", "json" if is_right else "table")
    for arguments in (
        ("rb_flushall", "--noinput"),
        ("rb_flushall", "--noinput", "--format", "json"),
        ("rb_flushall", "--dry-run", "-v3", "--traceback"),
        (*local_nodes, "--", "true"),
        ("check",),
        ("check", "--tag", "rb_connect", "--deploy"),
        ("rb_status",),
        ("rb_status", "--format", "json"),
        ("rb_route", "key"),
        ("rb_scan", "*"),
        ("rb_get", "key"),
        ("rb_delete", "*", "--noinput"),
    ):
        error = None
        with (
            configured(app, way, SECRET if is_right else WRONG),
            redirect_stdout(output),
            redirect_stderr(output),
        ):
            try:
                call_command(*arguments, stdout=output, stderr=output)
            except CommandError as failed:
                error = failed
        if error is not None:
            assert not is_right or arguments[0] == "rb_get"  # there is no such key
            is_hidden(report(error))
    is_hidden(output.getvalue())
    assert "127.0.0.1" in output.getvalue()


def test_no_warning_and_no_rest_in_memory_is_printed(app: Guards) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        cluster = Cluster(**WAYS["urls"](app, SECRET))
        cluster.call_nodes("PING")
        del cluster
        gc.collect()
    is_hidden(" ".join(map(str, told)))


def test_what_a_caller_was_handling_keeps_its_variables() -> None:
    def outer() -> None:
        try:
            parse_url("http://kept")  # type: ignore[no-untyped-call]
        except ValueError:
            parse_hosts([{"password": SECRET, "prot": 1}])

    error = caught(outer)
    assert isinstance(error, BadHostSetup)
    is_hidden(report(error))
    handled = error.__context__
    assert handled is not None
    *_, (frame, _) = traceback.walk_tb(handled.__traceback__)
    assert frame.f_globals["__name__"] == "redis.connection"
    assert frame.f_locals["url"] == "http://kept"
