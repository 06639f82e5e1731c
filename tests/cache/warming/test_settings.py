"""OPTIONS["WARM_FROM"]: what is wrong is said with the way out, and what is right is not."""

from __future__ import annotations

import json
from io import StringIO
from typing import Any

import pytest
from django.core.cache import caches as all_caches
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.test import override_settings

from tests.cache.warming.conftest import Caches
from tests.helpers import make_cache

pytestmark = [pytest.mark.static, pytest.mark.only_sync]

BACKEND = "django_rb.cache.RBCache"


@pytest.mark.parametrize(
    ("alias", "said"),
    [
        ("odl", "no cluster 'odl', OPTIONS['WARM_FROM'] of a cache, in settings.RB_CLUSTERS"),
        ("odl", "Did you mean 'old'?"),
        (
            "default",
            "is 'default', which is also its LOCATION. Add the old layout to",
        ),
        (
            ["old", "older"],
            "is of type list. Give one alias in settings.RB_CLUSTERS",
        ),
        ("redis://:hunter2@10.0.0.1", "Use an alias, such as 'default'."),
    ],
)
def test_mistakes(layout: str, alias: Any, said: str) -> None:
    cache = make_cache(OPTIONS={"WARM_FROM": alias})
    for use in (cache.check_settings, lambda: cache.get("key")):
        with pytest.raises(ImproperlyConfigured) as raised:
            use()
        assert said in str(raised.value)
        assert "hunter2" not in str(raised.value)


def ids(**caches: Any) -> list[str]:
    hosts = [{"host": f"10.0.0.{n}"} for n in range(1, 4)]
    layouts = {
        "older": {"HOSTS": hosts[:1]},
        "old": {"HOSTS": hosts[:2]},
        "default": {"HOSTS": hosts},
    }
    settings = {
        alias: {
            "BACKEND": BACKEND,
            "LOCATION": location,
            "OPTIONS": options,
            "KEY_PREFIX": alias,
        }
        for alias, (location, options) in caches.items()
    }
    with override_settings(RB_CLUSTERS=layouts, CACHES=settings):
        return [str(message.id) for message in run_checks(tags=["caches"])]


def test_the_two_layouts_of_a_cache_may_share_nodes() -> None:
    assert ids(default=("default", {"WARM_FROM": "old"})) == ["django_rb.W002"] * 2  # and older
    assert ids(default=("default", {})) == ["django_rb.W002"] * 3


def test_a_chain_is_warned_of() -> None:
    assert "django_rb.W015" in ids(
        default=("default", {"WARM_FROM": "old"}), legacy=("old", {"WARM_FROM": "older"})
    )
    assert "django_rb.W015" not in ids(
        default=("default", {"WARM_FROM": "old"}), legacy=("old", {})
    )


def test_rb_status_shows_what_share_comes_from_the_old_layout(
    caches: Caches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("django_rb.cache.warming.tally.STORE_SECONDS", -1.0)
    site = {"BACKEND": BACKEND, "OPTIONS": {"WARM_FROM": "old"}}
    with override_settings(CACHES={"default": site, "plain": {"BACKEND": BACKEND}}):
        assert "from 'old' in the last 5 minutes: nothing was read" in status(
            "--cluster", "default"
        )
        caches.before.set_many(dict.fromkeys(caches.moving[:2], 1))
        for _ in range(4):
            all_caches["default"].get_many(caches.moving[:2])
        said = status("--cluster", "default")
        assert "Cache 'default', read from 'old' in the last 5 minutes: 25.0% of 8 keys" in said
        document = json.loads(status("--format", "json"))
        assert document["warming"] == [
            {
                "cache": "default",
                "cluster": "default",
                "warm_from": "old",
                "reads": 8,
                "warmed": 2,
                "share": 0.25,
                "error": None,
            }
        ]
        assert json.loads(status("--cluster", "old", "--format", "json"))["warming"] == []


def status(*args: str) -> str:
    out = StringIO()
    call_command("rb_status", *args, stdout=out, no_color=True)
    return out.getvalue()


def test_only_a_cache_that_warms_has_a_share(caches: Caches) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"no OPTIONS\['WARM_FROM'\]"):
        caches.plain.warm_share()
