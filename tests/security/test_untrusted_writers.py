"""What somebody who can write to a node can make a site do, and with which serializer."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from django_rb.cache import RBCache
from django_rb.testing import LocalNodes
from tests.helpers import Servers, make_cache


class Intruder:
    """A pickle of it makes a directory when it is read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self._path),)


@pytest.fixture
def servers(nodes: LocalNodes) -> Iterator[Servers]:
    with Servers(nodes.hosts) as servers:
        yield servers


def plant(servers: Servers, cache: RBCache, key: str, data: bytes) -> None:
    """Write what an intruder would, past the site."""
    made = cache.make_key(key)
    servers.ask(cache.cluster.get_host_for_key(made), "SET", made, data)


def read_in_every_way(cache: RBCache, key: str) -> None:
    for read in (
        lambda: cache.get(key),
        lambda: cache.get_many([key, "other"]),
        lambda: cache.get_or_set(key, 1),
        lambda: cache.incr(key),
        lambda: cache.touch(key, 60),
        lambda: cache.incr_version(key),
    ):
        with suppress(ValueError):  # json, msgpack and incr() say so of what they cannot read
            read()


def test_pickle_runs_what_others_wrote(servers: Servers, tmp_path: Path) -> None:
    """This is what docs/security.md says. Should it ever fail, the page can be nicer."""
    cache = make_cache()
    plant(servers, cache, "key", pickle.dumps(Intruder(tmp_path / "made")))
    cache.get("key")
    assert (tmp_path / "made").is_dir()


@pytest.mark.parametrize("compressor", [None, "zlib", "zstd", "lz4"])
@pytest.mark.parametrize("serializer", ["json", "msgpack"])
def test_json_and_msgpack_run_nothing(
    serializer: str, compressor: str | None, servers: Servers, tmp_path: Path
) -> None:
    from django_rb.cache.codec import Codec
    from django_rb.cache.compressors import get_compressor
    from django_rb.cache.serializers import get_serializer

    options = {"SERIALIZER": serializer, "COMPRESSOR": compressor}
    cache = make_cache(OPTIONS=options)
    intruder = Intruder(tmp_path / "made")
    plants = [
        pickle.dumps(intruder, protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    ]
    for name in ("zlib", "zstd", "lz4"):  # as a site with pickle would write it
        codec = Codec(get_serializer("pickle"), get_compressor(name))
        plants.append(codec.encode((intruder, "x" * 5000)))
    plants += [b"\xc10" + planted for planted in plants]
    for planted in plants:
        plant(servers, cache, "key", planted)
        read_in_every_way(cache, "key")

    assert not (tmp_path / "made").exists()
    cache.set("mine", {"a": [1, None, "text" * 500]})
    assert cache.get("mine") == {"a": [1, None, "text" * 500]}
