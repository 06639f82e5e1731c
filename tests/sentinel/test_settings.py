"""What settings say of Sentinels and of shards that they watch."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from django_rb import clusters, conf
from django_rb.engine import BadHostSetup, SlotRouter
from django_rb.engine.topology.sentinel_settings import read_watched

SECRET = "hunter2"
SENTINELS = ["redis://10.0.0.7", ("10.0.0.8", 26380), {"host": "10.0.0.9"}]
HOSTS: dict[int, Any] = {0: {"master_name": "a"}, 1: {"master_name": "b", "db": 2}}
SOUND = {"TOPOLOGY": "sentinel", "HOSTS": HOSTS, "SENTINELS": SENTINELS}


def test_hosts_and_sentinels_in_every_form() -> None:
    watched = read_watched(HOSTS, {"password": SECRET}, SENTINELS, {"username": "watcher"})
    assert [info.address for info in watched.shards.values()] == [
        "primary of a",
        "primary of b",
    ]
    assert [info.db for info in watched.shards.values()] == [0, 2]
    assert [info.address for info in watched.sentinels] == [
        "10.0.0.7:26379/0",
        "10.0.0.8:26380/0",
        "10.0.0.9:26379/0",
    ]
    for sentinel in watched.sentinels:
        assert sentinel.username == "watcher"
        assert sentinel.password is None
        assert sentinel.options["socket_timeout"] == 0.5
    assert watched.shards[0].username is None
    assert SECRET not in repr(watched)


def test_urls() -> None:
    urls = [
        f"redis+sentinel://ann:{SECRET}@10.0.0.7:26379,[::1]:26380/cache%2Fa?client_name=x",
        "rediss+sentinel://10.0.0.7:26379,sentinel.example.com/b/3",
    ]
    watched = read_watched(urls)
    first, second = watched.shards.values()
    assert (first.master_name, first.username, first.password) == ("cache/a", "ann", SECRET)
    assert (first.options["client_name"], first.db, first.ssl) == ("x", 0, False)
    assert (second.master_name, second.db, second.ssl) == ("b", 3, True)
    assert [(info.host, info.port, info.ssl) for info in watched.sentinels] == [
        ("10.0.0.7", 26379, False),
        ("::1", 26380, False),
        ("sentinel.example.com", 26379, False),
    ]
    assert all(info.password is None for info in watched.sentinels)


def test_sentinels_have_no_more_time_than_nodes() -> None:
    (info,) = read_watched(HOSTS, None, SENTINELS[:1], None, {"socket_timeout": 0.1}).sentinels
    assert info.options["socket_timeout"] == 0.1
    options = {"socket_timeout": 3}
    (info,) = read_watched(HOSTS, None, SENTINELS[:1], options).sentinels
    assert info.options["socket_timeout"] == 3


def test_a_cluster_of_the_settings() -> None:
    with override_settings(RB_CLUSTERS={"default": SOUND}):
        assert list(conf.find_all_mistakes()) == []
        cluster = clusters["default"]
        assert type(cluster.router) is SlotRouter
        assert str(cluster) == "<Cluster 0: primary of a, 1: primary of b>"
        with pytest.raises(TypeError, match="only be listed in HOSTS"):
            cluster.add_host(2, master_name="c")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"HOSTS": ["redis://10.0.0.1"]}, "['HOSTS'][0]: 'redis://10.0.0.1' is neither a dict"),
        ({"HOSTS": [{"host": "10.0.0.1"}]}, "['HOSTS'][0]['host']: Sentinels report"),
        ({"HOSTS": [{"db": 1}]}, "['HOSTS'][0]['master_name']: None is not the name"),
        ({"HOSTS": [{"master_name": "a", "nice": 1}]}, "['HOSTS'][0]['nice']: Unknown option"),
        ({"HOSTS": [{"master_name": "a"}] * 2}, "Hosts 0 and 1 are both the database 0 of 'a'"),
        ({"HOSTS": ["redis+sentinel://10.0.0.7"]}, "contains no shard. A URL looks like"),
        ({"HOSTS": ["redis+sentinel:///a"]}, "contains no Sentinels. A URL looks like"),
        ({"HOSTS": ["redis+sentinel://10.0.0.7:x/a"]}, "['HOSTS'][0]: "),
        ({"HOST_DEFAULTS": {"port": 1}}, "['HOST_DEFAULTS']['port']: Sentinels report"),
        ({"SENTINELS": []}, "['SENTINELS']: There are no Sentinels. List them"),
        ({"SENTINELS": "redis://10.0.0.7"}, "['SENTINELS']: 'redis://10.0.0.7' is not a list"),
        ({"SENTINELS": ["10.0.0.7:26379"]}, "['SENTINELS'][0]: '10.0.0.7:26379' is not a URL"),
        ({"SENTINELS": [("10.0.0.7", 0)]}, "['SENTINELS'][0]['port']: 0 is not a whole number"),
        ({"SENTINELS": ["unix:///s"]}, "['SENTINELS'][0]: A Sentinel requires a host"),
        ({"SENTINEL_OPTIONS": [SECRET]}, "['SENTINEL_OPTIONS']: "),
        ({"SENTINEL_OPTIONS": {"db": 1}}, "['SENTINEL_OPTIONS']['db']: It is different"),
        ({"SENTINEL_OPTIONS": {"nice": SECRET}}, "['SENTINEL_OPTIONS']['nice']: Unknown"),
        ({"TOPOLOGY": "static", "HOSTS": ["redis://h"]}, "['SENTINELS']: It can only be"),
        ({"TOPOLOGY": "sentinels"}, "Did you mean 'sentinel'?"),
    ],
)  # fmt: skip
def test_a_mistake_is_explained(changed: dict[str, Any], said: str) -> None:
    with (
        override_settings(RB_CLUSTERS={"default": {**SOUND, **changed}}),
        pytest.raises(ImproperlyConfigured) as caught,
    ):
        clusters["default"]
    assert said in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_secret_in_a_url_stays_one() -> None:
    url = f"redis+sentinel://:{SECRET}#@10.0.0.7/a"
    with pytest.raises(BadHostSetup) as caught:
        read_watched([url])
    assert SECRET not in str(caught.value)
