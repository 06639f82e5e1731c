"""Keys of a cache that were typed without --cache: the commands tell."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from django.core.cache import cache
from django.core.management import call_command
from django.test import override_settings

from django_rb.engine import Cluster
from django_rb.testing import LocalNodes

from .calls import run, run_and_fail, run_json
from .processes import django, on_nodes

HINT = "Key :1:book:3 exists in the cache 'default'; use --cache default."


@pytest.fixture(autouse=True)
def _book(nodes: LocalNodes) -> None:
    cache.set("book:3", "Emma")


def said(*args: str) -> str:
    """Return what a command says to people besides its output."""
    err = StringIO()
    call_command(*args, stdout=StringIO(), stderr=err, no_color=True)
    return err.getvalue()


def test_a_key() -> None:
    assert run_and_fail("rb_get", "book:3")[1].endswith(f"/0). {HINT}")
    assert "--cache" not in run_and_fail("rb_get", "book:4")[1]
    assert "--cache" not in run_and_fail("rb_get", "book:4", "--cache", "default")[1]


def test_a_pattern() -> None:
    assert said("rb_scan", "book:*") == f"{HINT}\n"
    assert said("rb_scan", "book:*", "--type", "hash") == ""
    assert said("rb_scan", "page:*") == ""
    assert said("rb_scan", "book:*", "--cache", "default") == ""


def test_other_keys_than_were_meant_are_not_deleted_in_silence(cluster: Cluster) -> None:
    cluster.get_routing_client().set("book:7", "of the engine")
    told = f"The pattern applies to keys as the servers store them. {HINT}\n"
    assert said("rb_delete", "book:*", "--dry-run") == told
    assert said("rb_delete", "*", "--dry-run") == ""
    assert cache.get("book:3") == "Emma"


def test_a_setting_names_the_cache_that_is_meant() -> None:
    with override_settings(RB_COMMANDS_CACHE="default"):
        assert "Emma" in run("rb_get", "book:3")
        assert run("rb_scan") == "book:3\n"
        assert run_json("rb_route", "book:3")["keys"][0]["cache_key"] == "book:3"
        assert run("rb_scan", "--cache", "") == ":1:book:3\n"
        assert HINT in run_and_fail("rb_get", "book:3", "--cache", "")[1]
    with override_settings(RB_COMMANDS_CACHE="defualt"):
        assert "Did you mean 'default'" in run_and_fail("rb_get", "book:3")[1]


@pytest.mark.parametrize("command", ["rb_scan", "rb_delete"])
def test_patterns_that_cannot_be_meant(command: str) -> None:
    _, error = run_and_fail(command, "")
    assert error == "An empty pattern matches no key. Use '*' for all keys."
    for pattern in ("[abc", "page:\\"):
        _, error = run_and_fail(command, pattern)
        assert "ends in a backslash, or contains a '[' without a ']'" in error


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_is_full(nodes: LocalNodes) -> None:
    with Path("/dev/full").open("w") as full:
        done = django("rb_scan", env=on_nodes(default=nodes.hosts), stdout=full)
    assert (done.returncode, done.stderr) == (
        1,
        "Standard output cannot be written: No space left on device.\n",
    )
