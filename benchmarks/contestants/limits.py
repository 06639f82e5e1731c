"""django-rb's rate limits: three limits, whose keys are on three nodes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from random import randbytes
from types import SimpleNamespace
from typing import Any

import redis
from django.http import HttpRequest, HttpResponse

from benchmarks.contestants.django_caches import Hosts, RBCache
from django_rb.ratelimit import Limit, Rate, limiter, ratelimit

RATE = Rate(1_000_000_000, 3600)
LIMITED_NODES = 3


class Limits(RBCache):
    """`check` is Limiter.check(), `view` one with the decorator, `page` the same without."""

    def __init__(self, hosts: Hosts, prefix: str) -> None:
        super().__init__(hosts, prefix)
        limit = ratelimit(limits=[(key, RATE) for key in ("ip", "user", "header:x-api-key")])
        self._limited = limit(_page)
        self._limits: list[Limit] = []
        self._meta: dict[str, str] = {}
        self._user = SimpleNamespace(is_authenticated=True)
        self._spread(hosts, self._limit_others, self.check)
        self._spread(hosts, self._let_others_ask, self.view)

    def settings(self, hosts: Hosts) -> dict[str, Any]:
        return {**super().settings(hosts), "ALLOWED_HOSTS": ["*"], "SECRET_KEY": "benchmark"}

    def check(self, _: str = "") -> bool:
        return all(usage.allowed for usage in limiter.check(self._limits))

    def view(self, _: str = "") -> bool:
        return bool(self._limited(self._request()).status_code == 200)

    def page(self, _: str = "") -> bool:
        return bool(_page(self._request()).status_code == 200)

    def _request(self) -> Any:
        new: Any = HttpRequest()
        new.method, new.META, new.user = "GET", dict(self._meta), self._user
        return new

    def _limit_others(self, name: str) -> None:
        self._limits = [Limit(f"{name}:{number}", RATE) for number in range(LIMITED_NODES)]

    def _let_others_ask(self, name: str) -> None:
        address = ".".join(map(str, randbytes(3)))
        self._meta = {"REMOTE_ADDR": f"10.{address}", "HTTP_X_API_KEY": name}
        self._user.pk = name

    def _spread(
        self, hosts: Hosts, rename: Callable[[str], None], call: Callable[[], bool]
    ) -> None:
        """Rename who is limited until each node has one of the three keys."""
        clients = [redis.Redis(host=host, port=port) for host, port in hosts]

        def sizes() -> list[int]:
            return [int(client.dbsize()) for client in clients]

        unique = randbytes(8).hex()
        one_each = [1] * LIMITED_NODES
        for attempt in count():
            rename(f"{unique}:{attempt}")
            before = sizes()
            call()
            if [now - then for now, then in zip(sizes(), before, strict=True)] == one_each:
                break
        for client in clients:
            client.close()


def _page(request: HttpRequest) -> HttpResponse:
    return HttpResponse(b"ok")
