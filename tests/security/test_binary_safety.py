"""No key and no value becomes another command, whatever bytes it has."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.core.cache import CacheKeyWarning
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from django_rb.engine import Cluster
from django_rb.testing import LocalNodes
from tests.helpers import Servers, make_cache

MIB = 1024 * 1024

# What would be a command, a reply or an end, if it were taken for one.
RESP = [
    "\r\n*1\r\n$8\r\nFLUSHALL\r\n",
    "\r\nFLUSHALL\r\n",
    "x\r\n*3\r\n$3\r\nSET\r\n$6\r\ncanary\r\n$4\r\ndead\r\n",
    "$-1\r\n",
    "*-1\r\n",
    "+OK\r\n",
    "-ERR no\r\n",
    "$3\r\nabc\r\n",
    "FLUSHALL",
    "CONFIG SET requirepass x",
    "\x00",
    "\r\n",
    " ",
    "\\r\\n",
    "%s%d%b",
    "*?[a-z]",
    "{",
    "}{",
    "{}",
    "{a}b",
    "\ufeff\u2028\u202e\U0001f9e8",
]
piece = st.text(max_size=20) | st.sampled_from(RESP)
text = st.lists(piece, min_size=1, max_size=4).map("".join)
key_text = text.filter(bool)
blob = (
    st.binary(max_size=40)
    | st.sampled_from([each.encode() for each in RESP])
    | st.lists(st.binary(max_size=9) | st.sampled_from([b"\r\n", b"\x00"])).map(b"".join)
)
key = st.one_of(key_text, blob.filter(bool))
value = st.one_of(text, blob)

many = settings(
    max_examples=60,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.target],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def as_bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


@contextmanager
def only(servers: Servers, **expected: int) -> Iterator[None]:
    """Fail unless the servers ran so many commands of each kind, and no others."""
    servers.reset_counts()
    yield
    total: Counter[str] = sum(servers.counts().values(), Counter())
    assert total == Counter(expected)


@pytest.fixture
def servers(nodes: LocalNodes) -> Iterator[Servers]:
    """The servers, each with a key that a FLUSHALL would take along."""
    with Servers(nodes.hosts) as servers:
        for host_id in nodes.hosts:
            servers.ask(host_id, "SET", "canary", "alive")
        yield servers
        for host_id in nodes.hosts:
            assert servers.ask(host_id, "GET", "canary") == b"alive"


def stored(servers: Servers, cluster: Cluster, key: Any) -> Any:
    """Return what the node that owns a key has under it."""
    return servers.ask(cluster.get_host_for_key(key), "GET", as_bytes(key))


@many
@given(data=st.dictionaries(key_text, value, max_size=8))
def test_the_cache(data: dict[str, Any], servers: Servers) -> None:
    cache = make_cache(KEY_PREFIX="\r\n*1\r\n$8\r\nFLUSHALL\r\n")
    nodes_used = len({cache.cluster.get_host_for_key(cache.make_key(key)) for key in data})
    one = next(iter(data), None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CacheKeyWarning)
        calls = {"set": len(data), "mget": nodes_used, "unlink": nodes_used}
        if one is not None:
            calls |= {"set": len(data) + 1, "get": 1, "exists": 1}
            calls |= {"evalsha": 1, "getrange": 1, "pexpire": 1}
            cache.touch(one, 60)  # its node may have to learn the script first
        with only(servers, **{name: n for name, n in calls.items() if n}):
            assert cache.set_many(data) == []
            assert cache.get_many(data) == data
            if one is not None:
                assert cache.get(one) == data[one]
                assert cache.has_key(one)
                assert cache.touch(one, 60)
                assert cache.add(one, "other") is False
            cache.delete_many(data)
        assert cache.get_many(data) == {}


@many
@given(data=st.dictionaries(key_text, value, min_size=1, max_size=4))
def test_keys_are_listed_and_found_by_patterns_as_they_are(
    data: dict[str, Any], servers: Servers
) -> None:
    cache = make_cache(KEY_PREFIX="p*[\r\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CacheKeyWarning)
        cache.set_many(data)
        assert sorted(cache.keys()) == sorted(data)
        assert cache.delete_pattern("*") == len(data)


@many
@given(data=st.dictionaries(key, value, min_size=1, max_size=8), more=st.lists(value))
def test_map(data: dict[Any, Any], more: list[Any], cluster: Cluster, servers: Servers) -> None:
    data = {as_bytes(key): value for key, value in data.items()}  # "a" and b"a" are one key
    lists = {b"list:" + key: [value, *more] for key, value in data.items()}
    commands = {"set": len(data), "get": len(data), "rpush": len(data), "lrange": len(data)}
    with only(servers, **commands):
        with cluster.map(auto_batch=False) as client:
            for key, value in data.items():
                client.set(key, value)
                client.rpush(b"list:" + key, *lists[b"list:" + key])
        with cluster.map(auto_batch=False) as client:
            found = {key: client.get(key) for key in data}
            ranges = {key: client.lrange(key, 0, -1) for key in lists}
    assert {key: promise.value for key, promise in found.items()} == {
        key: as_bytes(value) for key, value in data.items()
    }
    assert {key: promise.value for key, promise in ranges.items()} == {
        key: list(map(as_bytes, values)) for key, values in lists.items()
    }
    for key, value in data.items():
        assert stored(servers, cluster, key) == as_bytes(value)
    with cluster.map() as client:  # merged into MSETs and MGETs
        for key in data:
            client.set(key, key)
    with cluster.map() as client:
        found = {key: client.get(key) for key in data}
    assert all(promise.value == key for key, promise in found.items())
    with cluster.map() as client:
        client.delete(*data, *lists)


@many
@given(name=key, text=value)
def test_the_routing_client(name: Any, text: Any, cluster: Cluster, servers: Servers) -> None:
    client = cluster.get_routing_client()
    with only(servers, set=1, get=1, append=1, strlen=1):
        assert client.set(name, text) is True
        assert client.get(name) == as_bytes(text)
        client.append(name, text)
        assert client.strlen(name) == 2 * len(as_bytes(text))
    assert stored(servers, cluster, name) == as_bytes(text) * 2
    client.delete(name)


@many
@given(name=key, text=value)
def test_fanout_and_scripts(name: Any, text: Any, cluster: Cluster, servers: Servers) -> None:
    with only(servers, set=4, get=4):
        with cluster.all() as client:
            client.set(name, text)
        with cluster.all() as client:
            found = client.get(name)
    assert found.value == dict.fromkeys(range(4), as_bytes(text))
    for host_id in range(4):
        assert servers.ask(host_id, "GET", as_bytes(name)) == as_bytes(text)

    script = cluster.get_routing_client().register_script("return {KEYS[1], ARGV[1]}")
    assert script([name], [text]) == [as_bytes(name), as_bytes(text)]
    results = cluster.execute_commands({name: [("SET", name, text), ("GET", name)]})
    assert [promise.value for promise in results[name]] == [True, as_bytes(text)]
    with cluster.all() as client:
        client.delete(name)


@many
@given(words=st.lists(value, min_size=1, max_size=4))
def test_a_name_of_a_command_is_one_word_of_a_command(
    words: list[Any], cluster: Cluster, servers: Servers
) -> None:
    """A command that no server knows is refused, whatever its name is made of."""
    name = b"NO-SUCH-" + b"".join(map(as_bytes, words)).replace(b" ", b"_")
    with only(servers):
        replies, failures = cluster.call_nodes(name, *words, hosts=[0])
    assert replies == {}
    assert "unknown command" in str(failures[0].error)


@pytest.mark.parametrize("size", [64 * 1024, 16 * MIB])
def test_huge_keys_and_values(size: int, cluster: Cluster, servers: Servers) -> None:
    shape = b"\r\n*1\r\n$8\r\nFLUSHALL\r\n"
    huge = (shape * (size // len(shape) + 1))[:size]
    names = [huge, huge + b"\x00", b"small"]
    with only(servers, set=3, get=3):
        with cluster.map(auto_batch=False) as client:
            for name in names:
                client.set(name, huge)
        with cluster.map(auto_batch=False) as client:
            found = [client.get(name) for name in names]
    assert all(promise.value == huge for promise in found)
    assert all(stored(servers, cluster, name) == huge for name in names)

    cache = make_cache()
    cache.set("huge", huge)
    assert cache.get("huge") == huge
    cache.set("huge", huge.decode("latin-1") + "\U0001f9e8")
    assert cache.get_many(["huge"]) == {"huge": huge.decode("latin-1") + "\U0001f9e8"}


@pytest.mark.parametrize("lone", ["\ud800", "key:\udcff\r\n"])
def test_what_is_no_unicode_is_refused_before_anything_is_sent(
    lone: str, cluster: Cluster, servers: Servers
) -> None:
    with only(servers), warnings.catch_warnings():
        warnings.simplefilter("ignore", CacheKeyWarning)
        with pytest.raises(UnicodeEncodeError):
            make_cache().get(lone)
        with pytest.raises(UnicodeEncodeError):
            make_cache().set_many({"good": 1, lone: 1})
        with pytest.raises(UnicodeEncodeError):
            cluster.get_routing_client().set(lone, 1)
        with pytest.raises(UnicodeEncodeError):
            cluster.get_routing_client().set("good", lone)
