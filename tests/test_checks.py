"""`manage.py check` says what the settings get wrong, and connects to nothing."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from django.core.checks import Error, Tags, run_checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.test import override_settings

from django_rb.cache import RBCache
from django_rb.checks.from_settings import check_caches
from tests.tables import for_each
from tests.test_conf import HOSTS, MISTAKES, SECRET

LOCAL = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}

BACKEND = "django_rb.cache.RBCache"


class ChildCache(RBCache):
    """A site's own."""


def findings() -> list[tuple[str, str]]:
    errors = run_checks(tags=[Tags.caches])
    assert all(isinstance(error, Error) for error in errors)
    return [(str(error.id), error.msg) for error in errors]


@pytest.fixture(autouse=True)
def _no_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        pytest.fail("a check connected to something")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_sound_settings_have_no_findings() -> None:
    with override_settings(
        RB_CLUSTERS={"default": {"HOSTS": HOSTS}, "other": {"HOSTS": ["redis://h"]}},
        CACHES={
            "default": {"BACKEND": BACKEND},
            "other": {"BACKEND": BACKEND, "LOCATION": "other", "OPTIONS": {"DEADLINE": 1}},
            "local": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
        },
    ):
        assert findings() == []
        call_command("check")


@for_each(("config", "parts"), MISTAKES)
def test_check_finds_what_a_cluster_would_raise(config: Any, parts: list[str]) -> None:
    with override_settings(RB_CLUSTERS={"default": config}, CACHES=LOCAL):
        found = findings()
        assert {error_id for error_id, _ in found} == {"django_rb.E001"}
        for part in parts:
            assert any(part in text for _, text in found)
        assert SECRET not in str(found)
        with pytest.raises(SystemCheckError, match=r"django_rb\.E001") as caught:
            call_command("check")
        assert SECRET not in str(caught.value)


def test_check_finds_that_the_setting_is_no_dictionary() -> None:
    with override_settings(RB_CLUSTERS=[], CACHES=LOCAL):
        ((error_id, text),) = findings()
    assert error_id == "django_rb.E001"
    assert text.startswith("settings.RB_CLUSTERS is a list, not a dictionary")


@pytest.mark.parametrize("backend", [BACKEND, f"{__name__}.ChildCache"])
@for_each(
    ("config", "text"),
    [
        ({"LOCATION": "nowhere"}, "There is no cluster 'nowhere', the LOCATION of a cache"),
        ({"LOCATION": f"redis://:{SECRET}@h"}, "There is no cluster 'redis://***@h'"),
        ({"LOCATION": ["redis://h"]}, "URLs belong in RB_CLUSTERS[alias]['HOSTS']"),
        (
            {"LOCATION": ["redis://h"]},
            "A list, the LOCATION of a cache, is not the alias of a cluster in settings.RB_CL",
        ),
        ({"OPTIONS": {"SERIALISER": "json"}}, "Did you mean 'SERIALIZER'?"),
        (
            {"OPTIONS": {"SERIALISER": "json", "DEADLINES": 1}},
            "mean 'SERIALIZER'? OPTIONS['DEADLINES'] of a cache is unknown.",
        ),
        ({"OPTIONS": {"SERIALIZER": "no.such"}}, "'no.such' cannot be imported"),
        ({"OPTIONS": {"ON_NODE_ERROR": "skip"}}, "Choose one of 'raise', 'miss'."),
        ({"OPTIONS": {"DEADLINE": -1}}, "-1 is not a time in seconds"),
        ({"OPTIONS": None}, "OPTIONS of a cache is a NoneType"),
    ],
)
def test_check_finds_mistakes_in_caches(
    backend: str, config: dict[str, Any], text: str
) -> None:
    caches = {"default": {"BACKEND": BACKEND}, "pages": {"BACKEND": backend, **config}}
    with override_settings(RB_CLUSTERS={"default": {"HOSTS": HOSTS}}, CACHES=caches):
        ((error_id, found),) = findings()
        with pytest.raises(SystemCheckError, match=r"settings.CACHES\['pages'\]: "):
            call_command("check")
    assert error_id == "django_rb.E002"
    assert found.startswith("settings.CACHES['pages']: ")
    assert text in found
    assert SECRET not in found


@pytest.mark.parametrize(
    "config", [{"BACKEND": "no.such.Cache"}, {"BACKEND": "django_rb.cache.Nothing"}, {}]
)
def test_caches_that_are_not_ours_are_left_to_django(config: dict[str, Any]) -> None:
    with override_settings(CACHES={**LOCAL, "other": config}):
        assert check_caches() == []


def test_the_mistakes_of_all_caches_and_clusters_are_told_at_once() -> None:
    with override_settings(
        RB_CLUSTERS={"default": {"HOSTS": HOSTS}, "one": None, "two": {}},
        CACHES={
            "default": {"BACKEND": BACKEND, "OPTIONS": {"x": 1}},
            "one": {"BACKEND": BACKEND, "LOCATION": "one"},
            "three": {"BACKEND": BACKEND, "LOCATION": "three"},
        },
    ):
        assert sorted((error_id, text.partition(":")[0]) for error_id, text in findings()) == [
            ("django_rb.E001", "settings.RB_CLUSTERS['one']"),
            ("django_rb.E001", "settings.RB_CLUSTERS['two']['HOSTS']"),
            ("django_rb.E002", "settings.CACHES['default']"),
            ("django_rb.E002", "settings.CACHES['three']"),
        ]
