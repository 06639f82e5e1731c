"""What a view asks the nodes for its limits, and what its answers say of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import override_settings

from django_rb.ratelimit import Limit, Rate, Ratelimited, limiter, ratelimit
from django_rb.ratelimit.view_limits import LimitOptions
from django_rb.testing import LocalNodes
from tests.helpers import Servers
from tests.ratelimit.site import apage, get, page, run, with_user

pytestmark = pytest.mark.usefixtures("nodes")


def by_path(group: str, request: HttpRequest) -> str:
    return request.path


by_path.__module__ = "shop.limits"
by_path.__qualname__ = "by_path"

# What is stored, byte for byte: other keys would let all limits begin anew with an update.
STORED: list[tuple[dict[str, Any], str]] = [
    ({"key": "ip", "rate": "5/m"}, "sliding-window:5/m:g:a95c54b3643ba128e26716d4cc9bbe57"),
    ({"key": "user", "rate": "5/m"}, "sliding-window:5/m:g:6660c90637ca55565b2b1d9c7ea7f8ec"),
    (
        {"key": "user_or_ip", "rate": (5, 90)},
        "sliding-window:5/90s:g:6660c90637ca55565b2b1d9c7ea7f8ec",
    ),
    (
        {"key": "get:q", "rate": "5/m", "method": "GET"},
        "sliding-window:5/m:g:0d7e79cffbdaa580b44b93a6713e360b",
    ),
    (
        {"key": "post:q", "rate": "5/m", "method": ("POST", "GET")},
        "sliding-window:5/m:g:07bd5e1cdf88c88bca22f311089f25e5",
    ),
    (
        {"key": "header:X-Key", "rate": "100/h", "algorithm": "fixed-window"},
        "fixed-window:100/h:g:1a225908e86b6cf92db455278dcec037",
    ),
    (
        {"key": "ip", "rate": "60/m", "burst": 5, "group": "{page}"},
        "token-bucket:60/m:5:#3414938f4919c6ec33a22fb3927d9ed76461027bbdb64832617f52b5adc263fe",
    ),
    (
        {"key": by_path, "rate": "1/d", "group": "ü %d"},
        "sliding-window:1/d:ü %d:cf85628cc5b30eccc6fa5687c12340ec",
    ),
    (
        {"key": "ip", "rate": "7/d", "group": "p" * 300},
        "sliding-window:7/d:#e0c02335f0449d5754cfd7d5dcee08ca73ebea50ab111168eb999fe6f40d2bc9",
    ),
]


@pytest.mark.parametrize(("arguments", "key"), STORED)
def test_stored_keys_stay_what_they_were(
    arguments: dict[str, Any], key: str, nodes: LocalNodes
) -> None:
    user = SimpleNamespace(pk=7, is_authenticated=True)
    request = with_user(get("10.0.0.1", "/?q=%00ü{", HTTP_X_KEY="a"), user)
    ratelimit(**{"group": "g", **arguments})(page)(request)
    with Servers(nodes.hosts) as servers:
        assert set().union(*servers.keys().values()) == {f"rl:{key}".encode()}


@pytest.mark.parametrize("group", ["page", "ü", "{page}", "#page", "%d %b", "p" * 300])
@pytest.mark.parametrize("cost", [1, 7])
def test_a_view_counts_what_the_limiter_counts(group: str, cost: int) -> None:
    view = ratelimit(key="get:q", rate=(cost, 86400), group=group, cost=cost)(page)
    view(get(path="/?q=%00%7B*"))
    with pytest.raises(Ratelimited) as caught:
        view(get(path="/?q=%00%7B*"))
    (refused,) = caught.value.usages
    (peeked,) = limiter.check([refused.limit], charge=False)
    assert refused.used == peeked.used == cost
    assert (refused.limit.cost, peeked.allowed) == (cost, False)


def test_settings_may_change(nodes: LocalNodes) -> None:
    view = ratelimit(key="ip", rate="1/d", group="g")(page)
    view(get())
    with override_settings(RATELIMIT_PREFIX="other"):
        view(get())
    with override_settings(RATELIMIT_ALGORITHM="fixed-window"):
        view(get())
    with override_settings(RATELIMIT_IPV4_MASK=24):
        view(get())
    with override_settings(RATELIMIT_TIMEOUT=5), pytest.raises(Ratelimited):
        view(get())
    with Servers(nodes.hosts) as servers:
        keys = sorted(set().union(*servers.keys().values()))
    assert [key.rpartition(b":")[0] for key in keys] == [
        b"other:sliding-window:1/d:g",
        b"rl:fixed-window:1/d:g",
        b"rl:sliding-window:1/d:g",
        b"rl:sliding-window:1/d:g",
    ]


def test_a_rate_that_depends_on_the_request_is_asked_of_each() -> None:
    def rate(group: str, request: HttpRequest) -> str | None:
        return request.GET.get("rate")

    view = ratelimit(key="ip", rate=rate)(page)
    for path, policy in [("2/m", "q=2;w=60"), ("9/h", "q=9;w=3600"), ("2/m", "q=2;w=60")]:
        answer = view(get(path=f"/?rate={path}"))
        assert answer["RateLimit-Policy"] == f'"ip";{policy}'
    assert not view(get()).has_header("RateLimit-Policy")


def test_names_are_told_apart_and_quoted() -> None:
    names = ("100 %", "ip", "ip")
    limits = [
        LimitOptions(key="ip", rate=f"9/{n}h", name=name) for n, name in enumerate(names, 1)
    ]
    answer = ratelimit(limits=limits)(page)(get())
    assert answer["RateLimit-Policy"] == (
        '"100 %";q=9;w=3600, "ip";q=9;w=7200, "ip-2";q=9;w=10800'
    )
    assert answer["RateLimit"].count(";r=8;t=") == 3


def test_a_limit_that_is_written_twice_is_told_twice_and_charged_once() -> None:
    view = ratelimit(limits=[("ip", "9/d"), ("ip", "9/d"), ("get:q", "9/d")])(page)
    for left in (8, 7):
        answer = view(get())
        assert answer["RateLimit"].count(f";r={left};t=") == 3
        assert '"ip-2";q=9;w=86400' in answer["RateLimit-Policy"]


def test_what_a_second_view_is_told_comes_after_the_first() -> None:
    inner = ratelimit(key="ip", rate="9/d", group="g")(page)

    @ratelimit(key="ip", rate="3/d", group="g")
    def outer(request: HttpRequest) -> HttpResponse:
        del inner(request).headers["RateLimit"]
        return HttpResponse()

    for left in (2, 1):
        answer = outer(get())
        assert answer["RateLimit-Policy"] == '"ip";q=3;w=86400, "ip-2";q=9;w=86400'
        assert answer["RateLimit"].startswith(f'"ip";r={left};t=')
        assert f'"ip-2";r={left + 6};t=' in answer["RateLimit"]


BURSTS = [
    # rate, burst, the policy, and what is left after one request
    ("60/m", 5, "q=5;w=5", 4),
    ("60/m", 100, "q=100;w=100", 99),
    ("7/m", 2, "q=2;w=18", 1),
    ("7/m", None, "q=7;w=60", 6),
]


@pytest.mark.parametrize(("rate", "burst", "policy", "left"), BURSTS)
def test_the_fields_of_a_bucket_fit_together(
    rate: str, burst: int | None, policy: str, left: int
) -> None:
    view = ratelimit(key="ip", rate=rate, burst=burst, algorithm="token-bucket")(page)
    answer = view(get())
    assert answer["RateLimit-Policy"] == f'"ip";{policy}'
    assert answer["RateLimit"].startswith(f'"ip";r={left};t=')


def test_a_bucket_that_allows_nothing_has_room_for_nothing() -> None:
    limit = Limit("key", Rate(0, 60), algorithm="token-bucket", burst=5)
    assert (limit.capacity, limit.rule.window) == (0, 60)


@pytest.mark.parametrize("is_open", [True, False])
@pytest.mark.parametrize("view", [page, apage])
def test_a_node_that_failed_is_left_out_of_the_fields(view: Any, is_open: bool) -> None:
    nowhere = {"default": {"HOSTS": ["redis://127.0.0.1:1"]}}
    limited = ratelimit(limits=[("ip", "9/d"), ("get:q", "9/d")])(view)
    with override_settings(RB_CLUSTERS=nowhere, RATELIMIT_FAIL_OPEN=is_open):
        if not is_open:
            with pytest.raises(Ratelimited) as caught:
                run(limited(get())) if view is apage else limited(get())
            assert caught.value.unavailable
            return
        answer = run(limited(get())) if view is apage else limited(get())
    assert answer["RateLimit-Policy"] == '"ip";q=9;w=86400, "get:q";q=9;w=86400'
    assert not answer.has_header("RateLimit")
