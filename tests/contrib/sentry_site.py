"""A site under sentry-sdk, as a program: prints what it did and what Sentry was sent.

    python -m tests.contrib.sentry_site '{"0": {"host": …}}' …

In a process of its own, as sentry-sdk changes Django for good.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any
from wsgiref.util import setup_testing_defaults

import django
import sentry_sdk
from asgiref.testing import ApplicationCommunicator
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from sentry_sdk.envelope import Envelope
from sentry_sdk.integrations.django import DjangoIntegration
from sentry_sdk.transport import Transport

sent: list[dict[str, Any]] = []


class Kept(Transport):
    """Keeps what would be sent."""

    def capture_envelope(self, envelope: Envelope) -> None:
        for item in envelope.items:
            payload = item.get_event() or item.get_transaction_event()
            if payload is not None:
                sent.append(json.loads(json.dumps(payload, default=str)))


def use_cache(request: HttpRequest) -> JsonResponse:
    from django.core import cache as module

    cache: Any = module.cache
    done: list[Any] = [
        cache.set("text", "value"),
        cache.get("text"),
        cache.get("none"),
        cache.get("none", default=5),
        cache.set_many({"a": 1, "b": None}, timeout=60),
        cache.get_many(["a", "b", "none"]),
        cache.get_many(key for key in ("a", "text")),
        cache.get("b", 5),
        cache.add("a", 2),
        cache.incr("a"),
        cache.get_or_set("made", lambda: "new"),
        cache.get(key="made", version=1),
        cache.delete_many(["a", "b"]),
        cache.has_key("a"),
    ]
    return JsonResponse(done, safe=False)


async def use_cache_async(request: HttpRequest) -> JsonResponse:
    from django.core import cache as module

    cache: Any = module.cache
    await asyncio.gather(*(cache.aset(f"n{n}", n) for n in range(5)))
    done: list[Any] = [
        await cache.aset("text", "value"),
        await cache.aget("text"),
        await cache.aget("none", default=5),
        await cache.aset_many({"a": 1, "b": None}, timeout=60),
        await cache.aget_many(["a", "b", "none"]),
        await cache.aadd("a", 2),
        await cache.aincr("a"),
        await cache.aget_or_set("made", lambda: "newer"),
        await cache.adelete_many(["a", "b"]),
        await cache.ahas_key("a"),
        await asyncio.gather(*(cache.aget(f"n{n}") for n in range(5))),
    ]
    return JsonResponse(done, safe=False)


def fail(request: HttpRequest) -> HttpResponse:
    from django.core.cache import caches

    return HttpResponse(caches["broken"].get("text"))


urlpatterns = [
    path("sync/", use_cache),
    path("async/", use_cache_async),
    path("fail/", fail),
]


def get(page: str) -> tuple[str, bytes]:
    """Ask the site by WSGI; return the status and the answer."""
    environ: dict[str, Any] = {"PATH_INFO": page}
    setup_testing_defaults(environ)
    statuses: list[str] = []

    def start_response(status: str, *_: object) -> None:
        statuses.append(status)

    answer = b"".join(get_wsgi_application()(environ, start_response))  # type: ignore[arg-type]
    return statuses[0], answer


async def aget(page: str) -> bytes:
    """Ask the site by ASGI."""
    scope = {"type": "http", "method": "GET", "path": page, "headers": [], "query_string": b""}
    make_site: Any = ApplicationCommunicator  # it has no types
    site = make_site(get_asgi_application(), scope)
    await site.send_input({"type": "http.request"})
    await site.receive_output(timeout=30)
    answer: bytes = (await site.receive_output(timeout=30))["body"]
    await site.wait()
    return answer


def main(hosts: str) -> None:
    """Use the site and print a JSON object."""
    sentry_sdk.init(
        "https://key@sentry.invalid/1",
        transport=Kept,
        integrations=[DjangoIntegration(cache_spans=True)],
        traces_sample_rate=1.0,
    )
    settings.configure(
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=__name__,
        SECRET_KEY="sentry",
        INSTALLED_APPS=["django_rb"],
        RB_CLUSTERS={
            "shop": {"HOSTS": {int(host): node for host, node in json.loads(hosts).items()}},
            "broken": {"HOSTS": ["redis://:hunter2@127.0.0.1:1"]},
        },
        CACHES={
            "default": {"BACKEND": "django_rb.cache.RBCache", "LOCATION": "shop"},
            "broken": {"BACKEND": "django_rb.cache.RBCache", "LOCATION": "broken"},
        },
        LOGGING_CONFIG=None,
    )
    django.setup()
    answers = {"sync": json.loads(get("/sync/")[1])}
    answers["async"] = json.loads(asyncio.run(aget("/async/")))
    failed = get("/fail/")[0]
    sentry_sdk.flush()
    print(json.dumps({"answers": answers, "failed": failed, "sent": sent}))


if __name__ == "__main__":
    main(sys.argv[1])
