"""Mistakes in a cache's settings: each says what is wrong and the way out."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import pytest
from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from django_rb.cache import RBCache, get_cache
from django_rb.cache.options import OF_OTHERS
from django_rb.testing import LocalNodes
from tests.helpers import make_cache
from tests.tables import for_each
from tests.test_readme import ROOT

SECRET = "hunter2"


class NeedsArguments:
    def __init__(self, argument: str) -> None: ...

    def dumps(self, value: Any) -> bytes: ...  # type: ignore[empty-body]

    def loads(self, data: bytes) -> Any: ...


class OnlyDumps:
    def dumps(self, value: Any) -> bytes: ...  # type: ignore[empty-body]


USES: list[Callable[[RBCache], object]] = [
    RBCache.check_settings,
    lambda cache: cache.get("key"),
    lambda cache: cache.set_many({"key": 1}),
    lambda cache: cache.keys(),
    lambda cache: cache.lock("key"),
    lambda cache: cache.cluster,
]


@for_each(
    ("options", "parts"),
    [
        ({"COMPRESOR": "zlib"}, ["'COMPRESOR'", "Did you mean 'COMPRESSOR'?"]),
        ({"serializer": "json"}, ["'serializer'", "Did you mean 'SERIALIZER'?"]),
        ({"shelf": 3}, ["'shelf'", "unknown", "Choices are: ", "ON_NODE_ERROR"]),
        ({5: 3}, ["unknown", "Choices are: "]),
        ({"ON_NODE_ERROR": "ignore"}, ["'ON_NODE_ERROR'", "'ignore'", "'raise', 'miss'"]),
        ({"ON_NODE_ERROR": None}, ["'ON_NODE_ERROR'", "None", "'raise', 'miss'"]),
        ({"ON_NODE_ERROR": ["miss"]}, ["'ON_NODE_ERROR'", "['miss']", "'raise', 'miss'"]),
        (
            {"DEADLINE": 0},
            ["'DEADLINE'", "0 is not a time in seconds", "Use None for no limit"],
        ),
        ({"DEADLINE": -1.5}, ["'DEADLINE'", "-1.5"]),
        ({"DEADLINE": "1s"}, ["'DEADLINE'", "'1s'"]),
        ({"DEADLINE": True}, ["'DEADLINE'", "True"]),
        ({"DEADLINE": math.nan}, ["'DEADLINE'", "nan"]),
        ({"DEADLINE": math.inf}, ["'DEADLINE'", "inf"]),
        ({"COMPRESS_MIN_BYTES": -1}, ["'COMPRESS_MIN_BYTES'", "-1", "number of bytes"]),
        ({"COMPRESS_MIN_BYTES": 1.5}, ["'COMPRESS_MIN_BYTES'", "1.5", "number of bytes"]),
        ({"COMPRESS_MIN_BYTES": None}, ["'COMPRESS_MIN_BYTES'", "None", "number of bytes"]),
        ({"COMPRESS_MIN_BYTES": "1k"}, ["'COMPRESS_MIN_BYTES'", "'1k'", "number of bytes"]),
        ({"COMPRESSOR": "gzip"}, ["'COMPRESSOR'", "'gzip'", "'zlib', 'zstd', 'lz4'"]),
        ({"COMPRESSOR": ["zlib"]}, ["'COMPRESSOR'", "['zlib']", "'zlib', 'zstd', 'lz4'"]),
        ({"COMPRESSOR": ""}, ["'COMPRESSOR'", "''", "None to store values uncompressed"]),
        ({"SERIALIZER": "jsn"}, ["'SERIALIZER'", "'jsn'", "'pickle', 'json', 'msgpack'"]),
        ({"SERIALIZER": "no.such.Thing"}, ["'SERIALIZER'", "'no.such.Thing'", "import"]),
        ({"SERIALIZER": "tests.Thing"}, ["'SERIALIZER'", "'tests.Thing'", "import"]),
        ({"SERIALIZER": ".Thing"}, ["'SERIALIZER'", "'.Thing'", "import"]),
        ({"SERIALIZER": ""}, ["'SERIALIZER'", "''", "import"]),
        ({"SERIALIZER": None}, ["'SERIALIZER'", "None", "no dumps and no loads()"]),
        ({"SERIALIZER": OnlyDumps}, ["'SERIALIZER'", "OnlyDumps", "has no loads()"]),
        ({"SERIALIZER": NeedsArguments}, ["'SERIALIZER'", "NeedsArguments", "'argument'"]),
        ({"SERIALIZER": "math.pi"}, ["'SERIALIZER'", "'math.pi'", "no dumps and no loads()"]),
        ({"REVERSE_KEY_FUNCTION": "no.such"}, ["'REVERSE_KEY_FUNCTION'", "'no.such'"]),
        ({"REVERSE_KEY_FUNCTION": ".such"}, ["'REVERSE_KEY_FUNCTION'", "'.such'"]),
        ({"REVERSE_KEY_FUNCTION": 5}, ["'REVERSE_KEY_FUNCTION'", "5", "dotted path"]),
        (None, ["OPTIONS", "NoneType", "not a dictionary"]),
        (["COMPRESSOR"], ["OPTIONS", "list", "not a dictionary"]),
    ],
)
def test_a_mistake_in_the_options_is_explained(options: Any, parts: list[str]) -> None:
    for use in USES:
        with pytest.raises(ImproperlyConfigured) as caught:
            use(make_cache(OPTIONS=options))
        for part in parts:
            assert part in str(caught.value)


@for_each(
    ("location", "parts"),
    [
        ("defualt", ["'defualt'", "LOCATION", "settings.RB_CLUSTERS", "mean 'default'?"]),
        ("other", ["'other'", "LOCATION", "Choices are: default."]),
        ("127.0.0.1:6379", ["'127.0.0.1:6379'", "LOCATION", "Choices are: default."]),
        (
            f"redis://:{SECRET}@10.0.0.1:6379/0",
            ["***@10.0.0.1:6379/0", "LOCATION", "URLs belong in RB_CLUSTERS[alias]['HOSTS']"],
        ),
        ([f"redis://:{SECRET}@10.0.0.1:6379/0"], ["list", "LOCATION", "URLs belong in"]),
        (f":{SECRET}@h:6379", ["LOCATION", "URLs belong in"]),
        (5, ["5", "LOCATION", "such as 'default'"]),
    ],
)
def test_a_location_that_is_no_alias_is_explained(location: Any, parts: list[str]) -> None:
    for use in USES:
        with pytest.raises(ImproperlyConfigured) as caught:
            use(make_cache(location))
        for part in parts:
            assert part in str(caught.value)
        assert SECRET not in str(caught.value)
        with override_settings(RB_CLUSTERS={}), pytest.raises(ImproperlyConfigured) as caught:
            use(make_cache(location))
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize("clusters", [{}, None])
def test_without_clusters_the_error_shows_what_to_add(clusters: Any) -> None:
    with override_settings(RB_CLUSTERS=clusters):
        if clusters is None:
            with override_settings():
                from django.conf import settings

                del settings.RB_CLUSTERS
                check_what_to_add()
        else:
            check_what_to_add()


def check_what_to_add() -> None:
    with pytest.raises(
        ImproperlyConfigured, match=r"missing or empty.*RB_CLUSTERS = {'default'"
    ):
        make_cache("").get("key")


def test_djangos_own_options_and_settings_are_taken() -> None:
    cache = make_cache(
        TIMEOUT=5, OPTIONS={"MAX_ENTRIES": 10, "CULL_FREQUENCY": 2}, KEY_PREFIX="p", VERSION=2
    )
    cache.check_settings()
    assert (cache.default_timeout, cache.key_prefix, cache.version) == (5, "p", 2)


@for_each(
    ("option", "instead"),
    [
        ("IGNORE_EXCEPTIONS", "OPTIONS['ON_NODE_ERROR'] = 'miss'"),
        ("CLIENT_CLASS", "Leave it out"),
        ("SOCKET_TIMEOUT", "RB_CLUSTERS[alias]['POOL_OPTIONS']['socket_timeout']"),
        ("PASSWORD", "'password' of a node in RB_CLUSTERS[alias]['HOSTS']"),
        ("CONNECTION_POOL_KWARGS", "RB_CLUSTERS[alias]['POOL_OPTIONS']"),
        ("PARSER_CLASS", "Leave it out: replies are read by hiredis"),
        ("pool_class", "Leave it out"),  # of Django's RedisCache
        ("db", "'db' of a node"),
    ],
)
def test_an_option_of_another_backend_names_what_there_is_instead(
    option: str, instead: str
) -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        make_cache(OPTIONS={option: "hunter2"}).check_settings()
    assert f"OPTIONS[{option!r}] of a cache is unknown. " in str(caught.value)
    assert instead in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_options_of_others_are_documented() -> None:
    page = (ROOT / "docs/moving-from-django-redis.md").read_text()
    of_django = {"CONNECTION_POOL_CLASS_KWARGS", "DB", "MAX_CONNECTIONS", "POOL_CLASS", "SSL"}
    assert [
        name for name in OF_OTHERS if f"`{name}`" not in page and name not in of_django
    ] == []


def test_numbers_may_be_texts_of_digits(nodes: LocalNodes) -> None:
    options = {"DEADLINE": "2.5", "COMPRESSOR": "zlib", "COMPRESS_MIN_BYTES": "10"}
    cache = make_cache(TIMEOUT="60", OPTIONS=options)
    cache.set("key", "x" * 100)
    assert cache.get("key") == "x" * 100
    assert cache.ttl("key") in range(50, 61)


@for_each(
    ("options", "module", "extra"),
    [
        ({"COMPRESSOR": "zstd"}, "zstandard", "zstd"),
        ({"COMPRESSOR": "lz4"}, "lz4.frame", "lz4"),
        ({"SERIALIZER": "msgpack"}, "msgpack", "msgpack"),
    ],
)
def test_a_package_that_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, str], module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    package = module.partition(".")[0]
    with pytest.raises(ImproperlyConfigured) as caught:
        make_cache(OPTIONS=options).check_settings()
    assert f"requires the package {package}: pip install 'django-rb[{extra}]'." in str(
        caught.value
    )


def test_get_cache_has_the_type_of_the_cache_that_it_is(nodes: LocalNodes) -> None:
    cache = get_cache()
    assert cache is caches["default"]
    cache.set("key", 1, 60)
    assert cache.ttl("key") in {59, 60}  # which mypy knows
    with pytest.raises(ImproperlyConfigured, match="Did you mean 'default'"):
        get_cache("defualt")
    local = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
    with (
        override_settings(CACHES={"default": local}),
        pytest.raises(ImproperlyConfigured, match="is a LocMemCache"),
    ):
        get_cache()
