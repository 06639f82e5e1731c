"""Django's users of a cache: sessions, the per-site and per-view cache, fragments."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from django.contrib.sessions.backends.cache import SessionStore
from django.core.cache import cache, caches
from django.core.cache.utils import make_template_fragment_key
from django.http import HttpRequest, HttpResponse
from django.template import engines
from django.test import Client, override_settings
from django.urls import path
from django.views.decorators.cache import cache_page, never_cache
from django.views.decorators.vary import vary_on_headers

from django_rb.cache import RBCache
from django_rb.testing import LocalNodes
from tests.helpers import Servers

calls = count(1)


def counting(request: HttpRequest) -> HttpResponse:
    """Say how often a view was called."""
    return HttpResponse(f"call {next(calls)}")


def visits(request: HttpRequest) -> HttpResponse:
    """Count in the session."""
    request.session["visits"] = request.session.get("visits", 0) + 1
    return HttpResponse(request.session["visits"])


def forget(request: HttpRequest) -> HttpResponse:
    request.session.flush()
    return HttpResponse("gone")


def fragment(request: HttpRequest) -> HttpResponse:
    template = engines["django"].from_string(
        "{% load cache %}{% cache 60 box name %}{{ name }} {{ n }}{% endcache %}"
    )
    return HttpResponse(
        template.render({"name": request.GET["name"], "n": next(calls)}, request)
    )


urlpatterns = [
    path("counting/", counting),
    path("page/", cache_page(60)(counting)),
    path("never/", never_cache(counting)),
    path("language/", cache_page(60, key_prefix="l")(vary_on_headers("X-Lang")(counting))),
    path("visits/", visits),
    path("forget/", forget),
    path("fragment/", fragment),
]

SESSIONS = ["django.contrib.sessions.middleware.SessionMiddleware"]
PER_SITE = [
    "django.middleware.cache.UpdateCacheMiddleware",
    "django.middleware.cache.FetchFromCacheMiddleware",
]


@pytest.fixture
def site(nodes: LocalNodes) -> Iterator[dict[int, dict[str, Any]]]:
    with override_settings(
        ROOT_URLCONF=__name__,
        ALLOWED_HOSTS=["*"],
        MIDDLEWARE=SESSIONS,
        SESSION_ENGINE="django.contrib.sessions.backends.cache",
        TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
    ):
        assert isinstance(caches["default"], RBCache)
        yield nodes.hosts


@pytest.fixture
def client(site: object) -> Client:
    return Client()


def get(client: Client, url: str, **headers: str) -> str:
    response = client.get(url, headers=headers)
    assert response.status_code == 200
    return response.content.decode()


def test_a_session_lasts_from_request_to_request(client: Client) -> None:
    assert [get(client, "/visits/") for _ in range(3)] == ["1", "2", "3"]
    assert get(Client(), "/visits/") == "1"
    get(client, "/forget/")
    assert get(client, "/visits/") == "1"


def test_sessions_are_spread_over_the_nodes(site: dict[int, dict[str, Any]]) -> None:
    for _ in range(60):
        get(Client(), "/visits/")
    with Servers(site) as servers:
        shares = {host_id: len(keys) for host_id, keys in servers.keys().items()}
    assert sum(shares.values()) == 60
    assert all(shares.values())


def test_the_session_store_keeps_its_promises(client: Client) -> None:
    session = SessionStore()
    session["user"] = {"id": 5}
    session.set_expiry(60)
    session.create()
    key = session.session_key
    assert key is not None

    assert SessionStore().exists(key)
    assert SessionStore(key)["user"] == {"id": 5}
    session.cycle_key()
    assert not SessionStore().exists(key)
    assert SessionStore(session.session_key)["user"] == {"id": 5}
    session.set_expiry(50)
    session.save()
    left = caches["default"].ttl(session.cache_key)  # type: ignore[attr-defined]
    assert left in {49, 50}
    session.delete()
    assert SessionStore(session.session_key).load() == {}


def test_a_cached_view_is_called_once(client: Client) -> None:
    first = get(client, "/page/")

    assert get(client, "/page/") == get(Client(), "/page/") == first
    assert get(client, "/page/?other") != first
    cache.clear()
    assert get(client, "/page/") != first


def test_a_cached_view_varies_on_headers(client: Client) -> None:
    german, french = (get(client, "/language/", **{"X-Lang": lang}) for lang in ("de", "fr"))

    assert german != french
    assert get(client, "/language/", **{"X-Lang": "de"}) == german
    assert get(client, "/language/", **{"X-Lang": "fr"}) == french


def test_a_site_is_cached_as_a_whole(client: Client) -> None:
    with override_settings(MIDDLEWARE=PER_SITE, CACHE_MIDDLEWARE_SECONDS=60):
        client = Client()
        first = get(client, "/counting/")
        assert get(client, "/counting/") == first
        response = client.get("/counting/")
        assert "max-age=60" in response.headers["Cache-Control"]
        assert get(client, "/never/") != get(client, "/never/")


def test_a_template_fragment_is_rendered_once(client: Client) -> None:
    ann, bob = (get(client, f"/fragment/?name={name}") for name in ("Ann", "Bob"))

    assert ann.startswith("Ann ")
    assert ann.split() != bob.split()
    assert get(client, "/fragment/?name=Ann") == ann
    assert cache.delete(make_template_fragment_key("box", ["Ann"]))
    assert get(client, "/fragment/?name=Ann") != ann
    assert get(client, "/fragment/?name=Bob") == bob
