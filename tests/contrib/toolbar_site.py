"""A site with django-debug-toolbar, as a program: prints what the panel shows of its pages.

    python -m tests.contrib.toolbar_site '{"0": {"host": …}}'

In a process of its own, as the toolbar changes Django for good.
"""

from __future__ import annotations

import asyncio
import json
import sys
import warnings
from contextlib import suppress
from typing import Any

import django
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import path

PAGE = "<html><body>page</body></html>"
KEYS = [f"book:{n}" for n in range(40)]
SESSION = "k3" * 16


def in_order(request: HttpRequest) -> HttpResponse:
    from django.core.cache import cache

    cache.set_many(dict.fromkeys(KEYS, "hidden-value"))
    cache.get_many([*KEYS, "none"])
    for key in KEYS:
        cache.get(key)
    cache.get("book:1")
    cache.set("book:2", "hidden-value")
    cache.get("book:2")
    return HttpResponse(PAGE)


def odd_keys(request: HttpRequest) -> HttpResponse:
    from django.core.cache import cache

    from django_rb import clusters

    cluster = clusters["default"]
    client = cluster.get_routing_client()
    cache.get("<script>alert(1)</script>")
    cache.get(f"django.contrib.sessions.cache{SESSION}")
    client.get(b"\xff\x00\x1b[2J")
    client.get("long:" + "ab " * 1000)
    cluster.get_local_client(0).ping()
    cluster.call_nodes("PING")
    return HttpResponse(PAGE)


def errors(request: HttpRequest) -> HttpResponse:
    import redis
    from django.core.cache import caches

    from django_rb import clusters

    client = clusters["default"].get_routing_client()
    client.rpush("list", "hidden-value")
    for command in (
        lambda: client.get("list"),
        lambda: client.eval("return redis.error_reply('bad hidden-value')", 1, "list"),
        lambda: caches["broken"].get("text"),
        lambda: caches["default"].incr("none"),
    ):
        with suppress(redis.RedisError, ValueError):
            command()
    clusters["default"].call_nodes("SCRIPT", "FLUSH")
    caches["default"].set("number", 1)
    caches["default"].incr("number")
    return HttpResponse(PAGE)


def nothing(request: HttpRequest) -> HttpResponse:
    return HttpResponse(PAGE)


def many(request: HttpRequest) -> HttpResponse:
    from django.core.cache import cache

    for n in range(60):
        cache.get(f"many:{n}")
    return HttpResponse(PAGE)


def in_a_thread(request: HttpRequest, name: str) -> HttpResponse:
    from django.core.cache import cache

    for n in range(5):
        cache.get(f"{name}:{n}")
    return HttpResponse(PAGE)


left_behind: set[asyncio.Task[None]] = set()


async def on_a_loop(request: HttpRequest, name: str) -> HttpResponse:
    from django.core.cache import cache

    async def later() -> None:
        await asyncio.sleep(0.05)
        await cache.aget(f"{name}:too-late")

    for n in range(5):
        await cache.aget(f"{name}:{n}")
        await asyncio.sleep(0)
    await asyncio.gather(*(cache.aget(f"{name}:side-{n}") for n in range(5)))
    task = asyncio.create_task(later())
    left_behind.add(task)
    task.add_done_callback(left_behind.discard)
    return HttpResponse(PAGE)


def main(hosts: str) -> None:
    """Visit the pages and print a JSON object."""
    warnings.simplefilter("error")
    settings.configure(
        DEBUG=True,
        ALLOWED_HOSTS=["*"],
        INTERNAL_IPS=["127.0.0.1"],
        ROOT_URLCONF=__name__,
        SECRET_KEY="toolbar",
        STATIC_URL="static/",
        INSTALLED_APPS=["django.contrib.staticfiles", "debug_toolbar", "django_rb"],
        MIDDLEWARE=["debug_toolbar.middleware.DebugToolbarMiddleware"],
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "APP_DIRS": True,
            }
        ],
        DEBUG_TOOLBAR_PANELS=[
            "debug_toolbar.panels.cache.CachePanel",  # it wraps caches
            "django_rb.contrib.debug_toolbar.RBPanel",
        ],
        DEBUG_TOOLBAR_CONFIG={"RENDER_PANELS": True},
        RB_CLUSTERS={
            "default": {"HOSTS": {int(host): node for host, node in json.loads(hosts).items()}},
            "broken": {"HOSTS": ["redis://:hunter2@127.0.0.1:1"]},
        },
        CACHES={
            "default": {"BACKEND": "django_rb.cache.RBCache", "TIMEOUT": None},
            "broken": {"BACKEND": "django_rb.cache.RBCache", "LOCATION": "broken"},
        },
        LOGGING_CONFIG=None,
        USE_TZ=True,
        USE_THOUSAND_SEPARATOR=True,
        LANGUAGE_CODE="de",
    )
    django.setup()
    from django_rb.contrib.debug_toolbar import recording

    recording._MOST_CALLS = 50
    from django.test import AsyncClient, Client

    urlpatterns.extend(_toolbar_urls())
    client = Client()
    from django_rb import clusters

    # The nodes are those of other tests, and may know this site's scripts from them.
    clusters["default"].call_nodes("SCRIPT", "FLUSH")
    told: dict[str, Any] = {
        name: client.get(f"/{name}/").content.decode()
        for name in ("in-order", "odd-keys", "errors", "nothing", "many")
    }
    told["off"] = client.get("/nothing/", REMOTE_ADDR="10.0.0.1").content.decode()
    told["timing"] = client.get("/in-order/").headers.get("Server-Timing", "")

    async def side_by_side() -> None:
        aclient = AsyncClient()
        pages = [f"/{kind}/{name}/" for kind in ("loop", "thread") for name in ("ann", "bob")]
        answers = await asyncio.gather(*map(aclient.get, pages))
        for page, answer in zip(pages, answers, strict=True):
            told[page] = answer.content.decode()
        while left_behind:
            await asyncio.sleep(0.01)

    asyncio.run(side_by_side())
    told["observers"] = [len(clusters[alias].observers) for alias in clusters]
    print(json.dumps(told))


def _toolbar_urls() -> list[Any]:
    from debug_toolbar.toolbar import debug_toolbar_urls

    return debug_toolbar_urls()


urlpatterns: list[Any] = [
    path("in-order/", in_order),
    path("odd-keys/", odd_keys),
    path("errors/", errors),
    path("nothing/", nothing),
    path("many/", many),
    path("thread/<name>/", in_a_thread),
    path("loop/<name>/", on_a_loop),
]

if __name__ == "__main__":
    main(sys.argv[1])
