"""What hosts may look like, and what an error says about those that cannot be."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import redis

from django_rb.engine import (
    BadHostSetup,
    Cluster,
    HostInfo,
    Node,
    PartitionRouter,
    SlotRouter,
)
from django_rb.engine.nodes.hosts import (
    parse_host,
    parse_hosts,
    with_database,
)
from django_rb.engine.nodes.option_checks import (
    REFUSED_OPTIONS,
    check_pool_options,
    pool_options,
)
from django_rb.engine.threads import handshake, make_redis_pool
from django_rb.engine.wording import did_you_mean
from django_rb.testing import LocalNodes
from tests.tables import for_each

SECRET = "hunter2"


@for_each(
    ("node", "expected"),
    [
        ({}, {"host": "localhost", "port": 6379, "db": 0, "ssl": False}),
        ({"host": "h", "port": 1, "db": 2}, {"host": "h", "port": 1, "db": 2}),
        ({"password": SECRET}, {"username": None, "password": SECRET}),
        ({"username": "u", "password": SECRET}, {"username": "u", "password": SECRET}),
        ({"unix_socket_path": "/run/v.sock"}, {"unix_socket_path": "/run/v.sock"}),
        ({"ssl": True}, {"ssl": True, "connection_class": handshake.SSLConnection}),
        ("redis://", {"host": "localhost", "port": 6379, "db": 0, "ssl": False}),
        ("redis://h", {"host": "h", "port": 6379, "db": 0}),
        ("redis://h:7", {"host": "h", "port": 7}),
        ("redis://h:7/3", {"host": "h", "port": 7, "db": 3}),
        ("redis://h/3/", {"db": 3}),
        ("redis://h?db=4", {"db": 4}),
        ("redis://[::1]:7/3", {"host": "::1", "port": 7, "db": 3}),
        ("redis://[2001:db8::5]", {"host": "2001:db8::5", "port": 6379}),
        (f"redis://:{SECRET}@h", {"username": None, "password": SECRET}),
        ("redis://u:p%40%2F%3A%23@h", {"username": "u", "password": "p@/:#"}),
        ("redis://h?password=p%40ss", {"password": "p@ss"}),
        ("redis://h?password=p@ss", {"password": "p@ss"}),
        ("redis://h?client_name=web", {"options": {"client_name": "web"}}),
        (
            f"rediss://u:{SECRET}@h:7/3",
            {"ssl": True, "port": 7, "connection_class": handshake.SSLConnection},
        ),
        ("rediss://h?ssl_cert_reqs=none", {"options": {"ssl_cert_reqs": "none"}}),
        ("unix:///run/v.sock", {"unix_socket_path": "/run/v.sock", "db": 0}),
        ("unix:///run/@.sock", {"unix_socket_path": "/run/@.sock"}),
        ("unix:///run/a%23b.sock", {"unix_socket_path": "/run/a#b.sock"}),
        ("redis://u:57%23W%3Fc%4003z@h", {"password": "57#W?c@03z"}),
        ("redis://h/0?", {"host": "h"}),
        (
            f"unix://u:{SECRET}@/run/v.sock?db=3",
            {
                "unix_socket_path": "/run/v.sock",
                "db": 3,
                "password": SECRET,
                "connection_class": handshake.UnixDomainSocketConnection,
            },
        ),
    ],
)
def test_a_node_is_a_dictionary_or_a_url(node: object, expected: dict[str, object]) -> None:
    info = parse_host(5, node)

    assert info.host_id == 5
    said = {"connection_class": handshake.kind_of(info)}
    assert {name: said.get(name) or getattr(info, name) for name in expected} == expected


@for_each(
    ("node", "address"),
    [
        ({}, "localhost:6379/0"),
        (f"rediss://u:{SECRET}@h:7/3", "h:7/3"),
        ("redis://[::1]:7/3", "[::1]:7/3"),
        (f"unix://:{SECRET}@/run/v.sock?db=3", "unix:/run/v.sock/3"),
    ],
)
def test_an_address_says_where_and_nothing_secret(node: object, address: str) -> None:
    assert parse_host(0, node).address == address


@for_each(
    "hosts",
    [
        ["redis://a", "redis://b"],
        {1: "redis://b", 0: {"host": "a"}},
        ({"host": "a"}, "redis://b"),
        [{"host": "b", "host_id": 1}, {"host": "a", "host_id": 0}],  # as in rb
    ],
)
def test_hosts_are_a_list_or_numbered(hosts: object) -> None:
    assert [(n, info.host_id, info.host) for n, info in parse_hosts(hosts).items()] == [
        (0, 0, "a"),
        (1, 1, "b"),
    ]


@for_each(
    "hosts",
    [
        {5: "redis://b", 2: {"host": "a"}},
        [{"host": "b", "host_id": 5}, {"host": "a", "host_id": 2}],
    ],
)
def test_host_ids_may_have_gaps(hosts: Any) -> None:
    cluster = Cluster(hosts, router_cls=SlotRouter)
    assert {n: info.host for n, info in cluster.hosts.items()} == {2: "a", 5: "b"}
    assert {cluster.get_host_for_key(f"key:{n}") for n in range(50)} == {2, 5}
    assert with_database(hosts, 3)[5]["db"] == 3


def test_the_router_that_takes_no_gaps_says_so_itself() -> None:
    with pytest.raises(BadHostSetup, match=r"PartitionRouter numbers 2 hosts.*gaps") as caught:
        Cluster({0: {}, 2: {}}, router_cls=PartitionRouter)
    assert caught.value.path == ("HOSTS",)


def test_defaults_hold_for_nodes_that_do_not_say_otherwise() -> None:
    defaults = {"db": 3, "password": SECRET, "port": 7, "client_name": "web"}
    first, second, third = parse_hosts(
        [{}, {"db": 1, "password": "own"}, "redis://:url@h:9/5"], defaults
    ).values()

    assert (first.db, first.password, first.port) == (3, SECRET, 7)
    assert (second.db, second.password, second.port) == (1, "own", 7)
    assert (third.db, third.password, third.port) == (5, "url", 9)
    assert third.options == {"client_name": "web"}


def test_a_number_may_be_a_text_of_digits_as_in_the_environment() -> None:
    node = {"port": "6380", "db": "3", "socket_timeout": "0.5", "health_check_interval": "30"}
    first, second = parse_hosts([node, {}], {"port": "7", "db": "0", "protocol": "3"}).values()

    assert (first.port, first.db, second.port, second.db) == (6380, 3, 7, 0)
    assert first.options == {
        "socket_timeout": 0.5,
        "health_check_interval": 30,
        "protocol": 3,
    }
    assert check_pool_options({"max_connections": "5", "socket_connect_timeout": "2"}) == {
        "max_connections": 5,
        "socket_connect_timeout": 2,
    }
    assert parse_host(0, {"password": "123"}).password == "123"


def test_host_ids_may_be_texts_as_in_json() -> None:
    hosts = parse_hosts({"2": {"host": "b"}, 0: {"host": "a"}})
    assert [(i, info.host) for i, info in hosts.items()] == [(0, "a"), (2, "b")]
    assert list(parse_hosts([{"host_id": "7"}])) == [7]
    own = Cluster(
        {"0": {}, "1": {"port": 6380}},  # type: ignore[dict-item]
        router_cls=SlotRouter,
        router_options={"weights": {"1": "2"}},
    )
    assert list(own.nodes) == [0, 1]


def test_a_number_of_digits_reaches_a_node(nodes: LocalNodes) -> None:
    cluster = Cluster(
        [{**host, "port": str(host["port"]), "db": "3"} for host in nodes.hosts.values()],
        pool_options={"socket_timeout": "2.5", "max_connections": "4"},
        health={"FAILURES": "3"},
    )
    assert set(cluster.call_nodes("PING")[0].values()) == {b"PONG"}
    assert all(node.socket_timeout == 2.5 for node in cluster.nodes.values())
    cluster.close()


def test_a_nodes_own_address_wins_over_a_default_one() -> None:
    (unix,) = parse_hosts(["unix:///s"], {"host": "h", "port": 7}).values()
    name, port = parse_hosts(["redis://h", {"port": 7}], {"unix_socket_path": "/s"}).values()

    assert unix.address == "unix:/s/0"
    assert name.address == "h:6379/0"
    assert port.address == "localhost:7/0"


def test_tls_options_in_the_defaults_are_for_nodes_that_use_tls() -> None:
    plain, tls = parse_hosts(["redis://h", "rediss://h"], {"ssl_ca_certs": "/ca.pem"}).values()

    assert "ssl_ca_certs" not in plain.connection_kwargs
    assert tls.connection_kwargs["ssl_ca_certs"] == "/ca.pem"


@for_each(
    ("hosts", "path", "parts"),
    [
        (None, ["HOSTS"], ["None", "neither a dictionary", "nor a list"]),
        ("", ["HOSTS"], ["''", "Put a single node into a list."]),
        ("redis://h:1/0", ["HOSTS"], ["'redis://h:1/0'", "Put a single node into a list."]),
        (b"redis://h", ["HOSTS"], ["A bytes", "Put a single node into a list."]),
        (5, ["HOSTS"], ["5"]),
        ({"redis://h"}, ["HOSTS"], ["A set"]),
        ({}, ["HOSTS"], ["There are no hosts. List at least one node."]),
        ([], ["HOSTS"], ["There are no hosts. List at least one node."]),
        ({-1: {}}, ["HOSTS", -1], ["-1", "0 or more"]),
        ({"one": {}}, ["HOSTS", "one"], ["'one'", "not an integer", "or give a list"]),
        ({0: {}, "0": {}}, ["HOSTS", "0"], ["Two hosts share the host id 0"]),
        ({True: {}}, ["HOSTS", True], ["True", "not an integer"]),
        ({"host": "h", "port": 1}, ["HOSTS", "host"], ["'host'", "not an integer"]),
        ([None], ["HOSTS", 0], ["None", "as {'host': '10.0.0.1', 'port': 6379} nor"]),
        ([5], ["HOSTS", 0], ["5", "redis://10.0.0.1:6379/0"]),
        ([["h", 1]], ["HOSTS", 0], ["A list", "redis://10.0.0.1:6379/0"]),
        (["h:6379"], ["HOSTS", 0], ["'h:6379'", "redis://, rediss://, unix://"]),
        (["http://h"], ["HOSTS", 0], ["'http://h'", "redis://, rediss://, unix://"]),
        ([""], ["HOSTS", 0], ["''", "redis://, rediss://, unix://"]),
        (["redis:/h"], ["HOSTS", 0], ["'redis:/h'", "redis://, rediss://, unix://"]),
        (["redis://h:port"], ["HOSTS", 0], ["'redis://h:port'", "cannot be read", "Port"]),
        (["redis://h:99999"], ["HOSTS", 0], ["'redis://h:99999'", "out of range"]),
        (["redis://::1:6379/0"], ["HOSTS", 0], ["'redis://::1:6379/0'", "cannot be read"]),
        (["redis://h/x"], ["HOSTS", 0], ["'redis://h/x'", "'x' is not a database number"]),
        (["redis://h/-1"], ["HOSTS", 0], ["'-1' is not a database number"]),
        (["redis://h/1.5"], ["HOSTS", 0], ["'1.5' is not a database number"]),
        (["redis://h/0/1"], ["HOSTS", 0], ["'0/1' is not a database number"]),
        (["redis://h/\u00b2"], ["HOSTS", 0], ["is not a database number"]),
        (["redis://h?db=x"], ["HOSTS", 0], ["'redis://h'", "db"]),
        (["redis://h?db=-1"], ["HOSTS", 0, "db"], ["-1", "0 or more"]),
        (["redis://h?socket_timeout=0"], ["HOSTS", 0, "socket_timeout"], ["0"]),
        (["redis://h?databse=1"], ["HOSTS", 0, "databse"], ["'databse'", "Choices are: "]),
        (["redis://h:57?W"], ["HOSTS", 0], ["'redis://h:57'", "name=value", "%3F"]),
        (["redis://h?db=1&W"], ["HOSTS", 0], ["'redis://h'", "name=value"]),
        (["redis://h?db="], ["HOSTS", 0], ["'redis://h'", "name=value"]),
        (["redis://h?=1"], ["HOSTS", 0], ["'redis://h'", "name=value"]),
        (["redis://h/0#x"], ["HOSTS", 0], ["'redis://***'", "a '#' has", "%23"]),
        (["unix:///run/a#b.sock"], ["HOSTS", 0], ["'unix://***'", "a '#' has", "%23"]),
        (["rediss://u:p@h1@h2"], ["HOSTS", 0], ["'rediss://***'", "more than one '@'", "%40"]),
        (["unix://u:p@/run/@.sock"], ["HOSTS", 0], ["more than one '@'", "%40"]),
        (["redis://h:6379\n"], ["HOSTS", 0], ["'redis://h:6379\\n'", "a line break"]),
        (["unix://"], ["HOSTS", 0], ["'unix://'", "contains no path of a socket", "unix:///run/"]),
        (["unix://run/v.sock"], ["HOSTS", 0], ["'unix://run/v.sock'", "unix:///run/"]),
        (["redis://h?ssl=no"], ["HOSTS", 0, "ssl"], ["'no'", "True nor False"]),
        ([{"prot": 1}], ["HOSTS", 0, "prot"], ["Unknown option 'prot'", "mean 'port'?"]),
        ([{"PORT": 1}], ["HOSTS", 0, "PORT"], ["Unknown option 'PORT'", "mean 'port'?"]),
        ([{"HOST": "h", "PORT": 1}], ["HOSTS", 0], ["mean 'host'? Unknown option 'PORT'."]),
        ([{5: 1}], ["HOSTS", 0, "5"], ["Unknown option 5", "Choices are: "]),
        ([{"port": "6379 "}], ["HOSTS", 0, "port"], ["'6379 '", "from 1 to 65535"]),
        ([{"port": 0}], ["HOSTS", 0, "port"], ["0", "from 1 to 65535"]),
        ([{"port": 65536}], ["HOSTS", 0, "port"], ["65536"]),
        ([{"port": None}], ["HOSTS", 0, "port"], ["None"]),
        ([{"port": True}], ["HOSTS", 0, "port"], ["True"]),
        ([{"port": [1]}], ["HOSTS", 0, "port"], ["A list"]),
        ([{"db": -1}], ["HOSTS", 0, "db"], ["-1", "of 0 or more"]),
        ([{"db": "O"}], ["HOSTS", 0, "db"], ["'O'"]),
        ([{"db": "-1"}], ["HOSTS", 0, "db"], ["'-1'"]),
        ([{"port": "65536"}], ["HOSTS", 0, "port"], ["65536"]),
        ([{"port": "6379.0"}], ["HOSTS", 0, "port"], ["6379.0"]),
        ([{"port": "٣"}], ["HOSTS", 0, "port"], ["'٣'"]),
        ([{"db": 1.0}], ["HOSTS", 0, "db"], ["1.0"]),
        ([{"host": ""}], ["HOSTS", 0, "host"], ["''", "not an address"]),
        ([{"host": None}], ["HOSTS", 0, "host"], ["None"]),
        ([{"host": 5}], ["HOSTS", 0, "host"], ["5"]),
        ([{"host": "redis://h"}], ["HOSTS", 0, "host"], ["'redis://h'", "in place of"]),
        ([{"host": "h#0"}], ["HOSTS", 0, "host"], ["'h#0'", "in place of"]),
        ([{"host": "h?db=1"}], ["HOSTS", 0, "host"], ["'h?db=1'", "in place of"]),
        (
            [{"unix_socket_path": "unix:///s"}],
            ["HOSTS", 0, "unix_socket_path"],
            ["'unix:///s'", "in place of"],
        ),
        ([{"host": "h/0"}], ["HOSTS", 0, "host"], ["'h/0'", "in place of"]),
        ([{"unix_socket_path": b"/s"}], ["HOSTS", 0, "unix_socket_path"], ["A bytes"]),
        ([{"password": 5}], ["HOSTS", 0, "password"], ["A int is not text"]),
        ([{"username": ["u"]}], ["HOSTS", 0, "username"], ["A list is not text"]),
        ([{"ssl": "yes"}], ["HOSTS", 0, "ssl"], ["'yes'", "True nor False"]),
        ([{"ssl_options": "x"}], ["HOSTS", 0, "ssl_options"], ["A str", "ssl_… options"]),
        (
            [{"ssl": True, "ssl_options": {"ssl_ca_cert": "x"}}],
            ["HOSTS", 0, "ssl_options", "ssl_ca_cert"],
            ["'ssl_ca_cert'", "mean 'ssl_ca_certs'?"],
        ),
        (
            [{"ssl": True, "ssl_options": {"ca_cert": "x"}}],
            ["HOSTS", 0, "ssl_options", "ca_cert"],
            ["'ca_cert'", "mean 'ca_certs'?"],
        ),
        (
            [{"ssl": True, "ssl_options": {"port": 1}}],
            ["HOSTS", 0, "ssl_options", "port"],
            ["Unknown option 'port'"],
        ),
        ([{"host_id": 0}, {}], ["HOSTS", 1], ["'host_id'", "none"]),
        ([{"host_id": 0}, "redis://h"], ["HOSTS", 1], ["'host_id'", "none"]),
        ([{"host_id": 0}] * 2, ["HOSTS", 1, "host_id"], ["share the host id 0"]),
        ([{"host_id": "a"}], ["HOSTS", 0, "host_id"], ["'a' is not an integer"]),
        ([{"ssl_keyfile": "/k"}], ["HOSTS", 0, "ssl_keyfile"], ["'ssl': True", "rediss://"]),
        (["redis://h?ssl_keyfile=/k"], ["HOSTS", 0, "ssl_keyfile"], ["rediss://"]),
        ([{"unix_socket_path": "/s", "ssl": True}], ["HOSTS", 0, "ssl"], ["cannot be used"]),
        ([{"unix_socket_path": "/s", "port": 1}], ["HOSTS", 0], ["not both"]),
        ([{}, {"socket_timeout": "1s"}], ["HOSTS", 1, "socket_timeout"], ["'1s'", "seconds"]),
        ([{"socket_timeout": math.nan}], ["HOSTS", 0, "socket_timeout"], ["nan"]),
        ([{"socket_connect_timeout": -1}], ["HOSTS", 0, "socket_connect_timeout"], ["-1"]),
        ([{"parser_class": object}], ["HOSTS", 0, "parser_class"], ["'parser_class'"]),
        ([{"path": "/s"}], ["HOSTS", 0, "path"], ["'path' cannot", "'unix_socket_path'"]),
        (["redis://h?socket_read_size=1"], ["HOSTS", 0, "socket_read_size"], ["buffers"]),
        ([{"max_connections": 5}], ["HOSTS", 0, "max_connections"], ["'max_connections'"]),
    ],
)  # fmt: skip
def test_a_mistake_in_hosts_is_explained(
    hosts: Any, path: list[object], parts: list[str]
) -> None:
    with pytest.raises(BadHostSetup) as caught:
        Cluster(hosts)

    assert list(caught.value.path) == path
    for part in parts:
        assert part in str(caught.value)


@for_each(
    ("defaults", "path", "part"),
    [
        ([], ["HOST_DEFAULTS"], "A list is not a dictionary"),
        ("redis://h", ["HOST_DEFAULTS"], "'redis://h' is not a dictionary"),
        (5, ["HOST_DEFAULTS"], "5 is not a dictionary"),
        ({"passwort": "x"}, ["HOST_DEFAULTS", "passwort"], "Did you mean 'password'?"),
        ({"db": "O"}, ["HOST_DEFAULTS", "db"], "'O' is not a whole number"),
    ],
)
def test_a_mistake_in_the_defaults_is_explained(
    defaults: Any, path: list[str], part: str
) -> None:
    with pytest.raises(BadHostSetup) as caught:
        parse_hosts([{}], defaults)
    assert list(caught.value.path) == path
    assert part in str(caught.value)


@for_each(
    ("options", "path", "part"),
    [
        ([], ["POOL_OPTIONS"], "A list is not a dictionary"),
        ("socket_timeout", ["POOL_OPTIONS"], "'socket_timeout' is not a dictionary"),
        ({"timeout": 1}, ["POOL_OPTIONS", "timeout"], "Unknown option 'timeout'"),
        ({"sockettimeout": 1}, ["POOL_OPTIONS", "sockettimeout"], "mean 'socket_timeout'?"),
        ({"socket_timeout": 0}, ["POOL_OPTIONS", "socket_timeout"], "0 is not a time"),
        ({"socket_timeout": "2s"}, ["POOL_OPTIONS", "socket_timeout"], "'2s' is not a time"),
        ({"max_connections": 0}, ["POOL_OPTIONS", "max_connections"], "of 1 or more"),
        ({"max_connections": None}, ["POOL_OPTIONS", "max_connections"], "None"),
        ({"host": "h"}, ["POOL_OPTIONS", "host"], "Unknown option 'host'"),
        ({"db": 1}, ["POOL_OPTIONS", "db"], "Unknown option 'db'"),
    ],
)
def test_a_mistake_in_the_pool_options_is_explained(
    options: Any, path: list[str], part: str
) -> None:
    with pytest.raises(BadHostSetup) as caught:
        Cluster([{}], pool_options=options)
    assert list(caught.value.path) == path
    assert part in str(caught.value)


@for_each("name", REFUSED_OPTIONS)
def test_an_option_that_is_refused_says_why_and_is_documented(name: str) -> None:
    options = {name: None}
    places: list[dict[str, Any]] = [
        {"hosts": [options]},
        {"hosts": [{}], "host_defaults": options},
        {"hosts": [{}], "pool_options": options},
    ]
    for place in places:
        with pytest.raises(BadHostSetup) as caught:
            Cluster(**place)
        assert f"redis-py's option {name!r} cannot be set" in str(caught.value)
        assert REFUSED_OPTIONS[name] in str(caught.value)
    page = (Path(__file__).parents[2] / "docs" / "settings.md").read_text()
    if name != "parser":  # redis-py calls it so in one class of its own
        reason = re.sub(r"'(\w+)'", r"`\1`", REFUSED_OPTIONS[name])
        reason = reason.replace(" for the path of a socket", "")
        assert f"| `{name}` | {reason.replace('redis.Redis', '`redis.Redis`')} |" in page


def test_pool_options_take_every_option_of_redis_pys_connections() -> None:
    options = {"socket_timeout": 0.5, "socket_connect_timeout": None, "max_connections": 3}

    assert check_pool_options(options) == options
    assert check_pool_options(None) == {}
    assert {"socket_keepalive", "client_name", "ssl_ca_certs", "protocol"} <= pool_options()


@for_each(
    "hosts",
    [
        f"redis://:{SECRET}@h",
        f"redis://:{SECRET}@h".encode(),
        {f"redis://:{SECRET}@h"},
        {f"redis://:{SECRET}@h": {}},
        [f":{SECRET}@h:6379"],
        [f"http://:{SECRET}@h"],
        [f"redis:/:{SECRET}@h"],
        [[f"redis://:{SECRET}@h"]],
        [f"redis://:{SECRET}@h:port"],
        [f"redis://:{SECRET}@h:99999"],
        [f"redis://:{SECRET}@h/x"],
        [f"redis://:{SECRET}@h?db=x"],
        [f"redis://:{SECRET}@h?databse=1"],
        [f"redis://:{SECRET}/@h:6379/0"],
        [f"redis://:x/{SECRET}@h:6379/0"],
        [f"redis://:{SECRET}#@h:6379/0"],
        [f"redis://:x#{SECRET}@h:6379/0"],
        [f"redis://:{SECRET}?@h:6379/0"],
        [f"redis://:x?{SECRET}@h:6379/0"],
        [f"redis://:x?y={SECRET}@h:6379/0"],
        [f"redis://:{SECRET}[@h:6379/0"],
        [f"redis://:{SECRET}\u2100@h:6379/0"],
        [f"redis://u:x@y/{SECRET}@h:6379/0"],
        [f"redis://h:port?password={SECRET}"],
        [f"redis://h:port?password=x@{SECRET}"],
        [f"redis://h?db=x&password={SECRET}"],
        [f"unix://:{SECRET}@"],
        [f"unix://:{SECRET}@run/v.sock"],
        [{f"redis://:{SECRET}@h": 1}],
        [{"host": f"redis://:{SECRET}@h"}],
        [{"host": f"u:{SECRET}@h"}],
        [{"port": f"redis://:{SECRET}@h"}],
        [{"port": {"password": SECRET}}],
        [{"db": [SECRET]}],
        [{"socket_timeout": f":{SECRET}@"}],
        [{"password": [SECRET]}],
        [{"password": SECRET.encode()}],
        [{"username": {SECRET}}],
        [{"password": SECRET, "prot": 1}],
        [{"password": SECRET, "port": "x"}],
        [{"password": SECRET, "unix_socket_path": "/s", "port": 1}],
        [{"ssl": True, "ssl_options": SECRET}],
        [{"ssl": True, "ssl_options": {"ssl_password": SECRET, "x": 1}}],
        [{"ssl_password": SECRET}],
    ],
)
def test_no_error_tells_a_password(hosts: Any) -> None:
    with pytest.raises(BadHostSetup) as caught:
        Cluster(hosts)

    error = caught.value
    assert SECRET not in f"{error} {error!r}"
    assert error.__suppress_context__ or error.__context__ is None


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
@for_each(
    "rest",
    [
        "://:57#Wc903z@127.0.0.9:6379/0",
        "://h:57#Wc903z@127.0.0.9:6379/0",
        "://h:57?Wc903z@127.0.0.9:6379/0",
        "://h:57?Wc903z=@127.0.0.9:6379/0",
        "://h:57?Wc90=3z@127.0.0.9:6379/0",
        "://h:57?db=1&Wc903z@127.0.0.9:6379/0",
        "://u:57@Wc903z@127.0.0.9:6379/0",
        "://u:57@127.0.0.7#Wc903z@127.0.0.9:6379",
        "://u:57@127.0.0.9:6379/0#Wc903z",
        "://u:57\nWc903z@127.0.0.9:6379/0",
        "://u:57@127.0.0.9:6379/0?Wc903z",
        "://u:57@127.0.0.9:6379/0?password=Wc903z@x",
    ],
)
def test_a_url_that_loses_its_password_is_refused_and_not_shown(scheme: str, rest: str) -> None:
    for hosts, defaults in (([f"{scheme}{rest}"], {}), ([{}], {"host": f"{scheme}{rest}"})):
        with pytest.raises(BadHostSetup) as caught:
            Cluster(hosts, host_defaults=defaults)
        shown = str(caught.value)
        assert not any(part in shown for part in ("57", "Wc90", "3z"))
        assert defaults or "%23" in shown


@for_each(
    "defaults", [f"redis://:{SECRET}@h", [SECRET], {"password": [SECRET]}, {SECRET + "@": 1}]
)
def test_no_error_about_defaults_or_pool_options_tells_a_password(defaults: Any) -> None:
    with pytest.raises(BadHostSetup) as caught:
        parse_hosts([{}], defaults)
    assert SECRET not in f"{caught.value}"
    with pytest.raises(BadHostSetup) as caught:
        Cluster([{}], pool_options=defaults)
    assert SECRET not in f"{caught.value}"


def test_no_repr_tells_a_password() -> None:
    host = {"host": "h", "username": "u", "password": SECRET}
    cluster = Cluster(
        [host, f"rediss://:{SECRET}@h", f"unix://:{SECRET}@/s"],
        host_defaults={"ssl_password": SECRET},
        pool_options={"client_name": "web"},
    )

    assert repr(cluster) == "<Cluster 0: h:6379/0, 1: h:6379/0, 2: unix:/s/0>"
    assert repr(cluster.hosts[1]) == "<HostInfo 1: h:6379/0>"
    assert repr(cluster.nodes[2]) == "<Node 2: unix:/s/0>"
    assert SECRET not in f"{cluster} {cluster.hosts} {cluster.nodes} {cluster.router}"
    assert isinstance(cluster.hosts[0], HostInfo)
    assert isinstance(cluster.nodes[0], Node)


@for_each(
    ("name", "known", "text"),
    [
        ("HOST", ["HOSTS", "ROUTER"], "Did you mean 'HOSTS'?"),
        ("hosts", ["HOSTS", "ROUTER"], "Did you mean 'HOSTS'?"),
        ("Host_default", ["HOSTS", "HOST_DEFAULTS"], "Did you mean 'HOST_DEFAULTS'?"),
        ("zzz", ["HOSTS", "ROUTER"], "Choices are: HOSTS, ROUTER."),
        (5, ["b", "a"], "Choices are: a, b."),
        ("a", [], "Choices are: ."),
    ],
)
def test_did_you_mean(name: object, known: list[str], text: str) -> None:
    assert did_you_mean(name, known) == text


@pytest.mark.parametrize("name", ["ca_certs", "ssl_ca_certs"])
def test_tls_options_are_spelled_as_in_rb_or_as_in_redis_py(name: str) -> None:
    mine = {name: "/etc/ca.pem"}
    info = parse_host(0, {"ssl": True, "ssl_options": mine})
    assert info.connection_kwargs["ssl_ca_certs"] == "/etc/ca.pem"
    assert "ca_certs" not in info.connection_kwargs
    assert info.ssl_options is mine  # rb's ring is built from it
    pool = make_redis_pool(Node(info), redis.ConnectionPool)
    assert pool.make_connection().ca_certs == "/etc/ca.pem"  # type: ignore[attr-defined]


def test_unix_sockets_work() -> None:
    with LocalNodes(2, unix_sockets=True) as nodes:
        for hosts in (nodes.hosts, nodes.urls):
            cluster = Cluster(hosts)
            try:
                replies, failures = cluster.call_nodes("PING")
                assert (replies, failures) == ({0: b"PONG", 1: b"PONG"}, [])
                cluster.get_local_client_for_key("key").set("key", 1)
                assert cluster.get_local_client_for_key("key").get("key") == b"1"
            finally:
                cluster.close()


@for_each("defaults", ["redis://10.0.0.1", [("db", 1)], 7])
def test_defaults_that_are_no_dictionary_are_refused(defaults: Any) -> None:
    with pytest.raises(BadHostSetup, match="is not a dictionary of options such as") as caught:
        Cluster([{}], host_defaults=defaults)
    assert caught.value.path == ("HOST_DEFAULTS",)
