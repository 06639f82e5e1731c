"""The decorator as django-ratelimit's users know it, and what it refuses to decorate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial, wraps
from http import HTTPMethod
from inspect import isawaitable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from django.utils.decorators import method_decorator
from django.views import View

from django_rb.ratelimit import (
    ALL,
    UNSAFE,
    Ratelimited,
    RatelimitMixin,
    aget_usage,
    ais_ratelimited,
    get_usage,
    is_ratelimited,
    ratelimit,
)
from django_rb.ratelimit.functions import named_paths
from django_rb.testing import CaptureCommandsContext, LocalNodes
from tests.helpers import Servers
from tests.ratelimit.site import apage, get, not_a_key, page, post, run, with_user
from tests.tables import for_each

pytestmark = pytest.mark.usefixtures("nodes")

HERE = "tests.ratelimit.test_decorator"


def of_query(group: str, request: HttpRequest) -> Any:
    return request.GET.get("as", "x")


async def aof_query(group: str, request: HttpRequest) -> Any:
    return request.GET.get("as", "x")


def of_a_coroutine(group: str, request: HttpRequest) -> Any:
    return aof_query(group, request)


class OfQuery:
    """An object whose call is awaited."""

    async def __call__(self, group: str, request: HttpRequest) -> Any:
        return request.GET.get("as", "x")


def rate_of_query(group: str, request: HttpRequest) -> Any:
    said: str | None = request.GET.get("rate")
    return said and (2, 3600) if said == "pair" else said


def refused(view: Callable[..., Any], *requests: HttpRequest) -> list[bool]:
    """Whether each of the requests was refused."""
    found = []
    for request in requests:
        try:
            view(request)
        except Ratelimited:
            found.append(True)
        else:
            found.append(False)
    return found


def user(pk: object) -> Any:
    return SimpleNamespace(pk=pk, is_authenticated=True)


NEVER: dict[str, Any] = {"ratelimit_key": "ip", "ratelimit_rate": "0/s"}


class Page(View):
    """Answers all methods."""

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        return HttpResponse("page")


# What it counts by.


def test_it_raises_a_permission_denied() -> None:
    view = ratelimit(key="ip", rate="1/d")(page)
    view(get())
    with pytest.raises(PermissionDenied) as caught:
        view(get())
    error = caught.value
    assert isinstance(error, Ratelimited)
    assert error.policies == ["ip"]
    assert error.status_code == 429
    assert not error.unavailable
    assert error.retry_after
    assert [usage.remaining for usage in error.usages] == [0]


@pytest.mark.parametrize(
    ("key", "same", "other"),
    [
        ("ip", get(HTTP_X="1"), get("10.0.0.2")),
        ("user", with_user(get("10.0.0.2"), user(7)), with_user(get(), user(8))),
        ("user_or_ip", with_user(get("10.0.0.2"), user(7)), get()),
        ("get:q", get("10.0.0.2", "/?q=a"), get(path="/?q=b")),
        ("header:x-key", get("10.0.0.2", HTTP_X_KEY="a"), get(HTTP_X_KEY="b")),
        ("header:X_Key", get("10.0.0.2"), None),
        (of_query, get("10.0.0.2", "/?as=1"), get(path="/?as=2")),
        (aof_query, get("10.0.0.2", "/?as=1"), get(path="/?as=2")),
        (OfQuery(), get("10.0.0.2", "/?as=1"), get(path="/?as=2")),
        (of_a_coroutine, get("10.0.0.2", "/?as=1"), get(path="/?as=2")),
        (f"{HERE}.of_query", get("10.0.0.2", "/?as=1"), get(path="/?as=2")),
        (f"{HERE}.aof_query", get("10.0.0.2", "/?as=1"), get(path="/?as=2")),
    ],
    ids=[
        "ip",
        "user",
        "user_or_ip",
        "get",
        "header",
        "header with _",
        "function",
        "async function",
        "async object",
        "function of a coroutine",
        "path",
        "path of async",
    ],
)
def test_keys(key: Any, same: HttpRequest, other: HttpRequest | None) -> None:
    first = with_user(get(path="/?q=a&as=1", HTTP_X_KEY="a"), user(7))
    if key == "ip":
        same.META["REMOTE_ADDR"] = "10.0.0.1"
    if key == "header:X_Key":
        first.META.pop("HTTP_X_KEY")
    view = ratelimit(key=key, rate="1/d")(page)
    requests = [first, same, *([other] if other else [])]
    assert refused(view, *requests) == [False, True, False][: len(requests)]

    async_view = ratelimit(key=key, rate="1/d")(apage)

    async def visits() -> list[bool]:
        found = []
        for request in requests:
            try:
                await async_view(request)
            except Ratelimited:
                found.append(True)
            else:
                found.append(False)
        return found

    assert run(visits()) == [False, True, False][: len(requests)]


def test_fields_of_a_form() -> None:
    view = ratelimit(key="post:name", rate="1/d")(page)
    requests = [post({"name": "ann"}), post({"name": "ann"}), post({"name": "bob"}), post()]
    assert refused(view, *requests) == [False, True, False, False]
    assert refused(view, post({"other": "ann"})) == [True]  # all without it are one


def test_the_same_field_of_a_query_and_a_form_is_one() -> None:
    @ratelimit(key="get:q", rate="2/d")
    @ratelimit(key="post:q", rate="2/d")
    def search(request: HttpRequest) -> HttpResponse:
        return HttpResponse()

    assert refused(search, get(path="/?q=a"), get(path="/?q=a"), get(path="/?q=a")) == [
        False,
        False,
        True,
    ]
    assert refused(search, post({"q": "a"})) == [True]


def test_somebodys_address_is_nobodys_name() -> None:
    """Who asks for ?q=10.0.0.1 must not use up what 10.0.0.1 has."""

    @ratelimit(key="ip", rate="1/d")
    @ratelimit(key="get:q", rate="1/d")
    @ratelimit(key="header:q", rate="1/d")
    def search(request: HttpRequest) -> HttpResponse:
        return HttpResponse()

    mean = get("10.6.6.6", "/?q=10.0.0.1", HTTP_Q="10.0.0.2")
    assert refused(search, mean) == [False]
    assert refused(search, get("10.0.0.1", "/?q=1", HTTP_Q="1")) == [False]
    assert refused(search, get("10.0.0.2", "/?q=2", HTTP_Q="2")) == [False]


def test_fields_and_functions_are_apart() -> None:
    fields = ratelimit(limits=[("get:a", "1/d"), ("get:b", "1/d")])(page)
    assert refused(fields, get(path="/?a=x&b=y"), get(path="/?a=y&b=z")) == [False, False]
    by_name = ratelimit(group="g", key=lambda group, request: "10.0.0.1", rate="1/d")(page)
    by_address = ratelimit(group="g", key="ip", rate="1/d")(page)
    assert [*refused(by_name, get()), *refused(by_address, get())] == [False, False]


def also_of_query(group: str, request: HttpRequest) -> Any:
    return of_query(group, request)


def test_functions_that_return_the_same_are_apart() -> None:
    def once(key: Any) -> Any:
        return ratelimit(group="g", key=key, rate="1/d")(page)

    assert refused(once(of_query), get()) == [False]
    assert refused(once(also_of_query), get()) == [False]
    assert refused(once(OfQuery()), get()) == [False]
    for same in (of_query, partial(of_query), f"{HERE}.of_query"):
        assert refused(once(same), get()) == [True]
    assert refused(once(f"{HERE}.also_of_query"), get()) == [True]
    assert refused(once(OfQuery()), get()) == [True]


def make_key(field: str) -> Any:
    def of_field(group: str, request: HttpRequest) -> Any:
        return request.GET.get(field, "x")

    return of_field


of_a, of_b = make_key("a"), make_key("b")


class OfField:
    """An object that is told which field."""

    def __init__(self, field: str) -> None:
        self.field = field

    def __call__(self, group: str, request: HttpRequest) -> Any:
        return request.GET.get(self.field, "x")

    def read(self, group: str, request: HttpRequest) -> Any:
        return request.GET.get(self.field, "x")


def of(group: str, request: HttpRequest, field: str = "a") -> Any:
    return request.GET.get(field, "x")


NAMESAKES = [
    (make_key("a"), make_key("b")),
    (lambda group, request: "a", lambda group, request: "b"),
    (OfField("a"), OfField("b")),
    (OfField("a").read, OfField("b").read),
    (partial(of, field="a"), partial(of, field="b")),
    (partial(of, field="a"), of),
]


@pytest.mark.parametrize("keys", NAMESAKES)
def test_functions_of_one_view_that_share_a_name_are_an_error(keys: tuple[Any, Any]) -> None:
    one, other = keys
    with pytest.raises(ImproperlyConfigured, match="they would share a counter"):
        ratelimit(limits=[(one, "1/d"), (other, "1/d")])(page)
    with pytest.raises(ImproperlyConfigured, match="they would share a counter"):
        ratelimit(key=one, rate="1/d")(ratelimit(key=other, rate="1/d")(page))
    with pytest.raises(ImproperlyConfigured, match="they would share a counter"):
        ratelimit(limits=[(one, "1/d"), (other, rate_of_query)])(page)
    # These are counters of their own, and the same function is one limit.
    ratelimit(limits=[(one, "1/d"), (other, "2/d")])(page)
    ratelimit(limits=[(one, "1/d"), {"key": other, "rate": "1/d", "group": "g"}])(page)
    ratelimit(key=one, rate="1/d", method="GET")(
        ratelimit(key=other, rate="1/d", method="POST")(page)
    )
    ratelimit(limits=[(one, "1/d"), (other, None)])(page)
    view = ratelimit(limits=[(one, "1/d"), (one, "1/d")])(page)
    assert refused(view, get(), get()) == [False, True]
    same = [(of, "1/d"), (partial(of), "1/d"), (f"{HERE}.of", "1/d")]
    ratelimit(limits=same, group="same")(page)(get())


def test_functions_that_share_a_name_by_their_paths_are_an_error() -> None:
    view = ratelimit(limits=[(f"{HERE}.of_a", "1/d"), (f"{HERE}.of_b", "1/d")])(page)
    for _ in range(2):
        with pytest.raises(ImproperlyConfigured, match=r"make_key\.<locals>\.of_field"):
            view(get())
    for name in ("of_a", "of_b"):
        named_paths.discard(f"{HERE}.{name}")


def test_those_who_are_not_logged_in_have_their_address() -> None:
    view = ratelimit(key="user_or_ip", rate="1/d")(page)
    requests = [get("10.0.0.1"), get("10.0.0.2"), get("10.0.0.1")]
    assert refused(view, *requests) == [False, False, True]


@pytest.mark.parametrize("value", ["x" * 10_000, "\x00\udcff\n{a}", "é" * 300, ""])
def test_any_value_can_be_counted(value: str, nodes: LocalNodes) -> None:
    view = ratelimit(group="g", key=lambda g, r: value, rate="1/d")(page)
    assert refused(view, get(), get()) == [False, True]
    view = ratelimit(group="b", key=lambda g, r: value.encode("utf-8", "replace"), rate="1/d")(
        page
    )
    assert refused(view, get(), get()) == [False, True]
    with Servers(nodes.hosts) as servers:
        keys = [key for keys in servers.keys().values() for key in keys]
    assert len(keys) == 2
    assert all(len(key) < 120 for key in keys)
    assert any(b":g:" in key for key in keys)


def test_a_key_function_has_to_say_something() -> None:
    view = ratelimit(key=lambda group, request: None, rate="1/d")(page)
    with pytest.raises(ImproperlyConfigured, match="returned None"):
        view(get())


def test_groups_are_counted_together() -> None:
    one = ratelimit(group="g", key="ip", rate="2/d")(page)
    two = ratelimit(group="g", key="ip", rate="2/d")(apage)
    apart = ratelimit(key="ip", rate="2/d")(page)
    assert refused(one, get()) == [False]
    run(two(get()))
    assert refused(one, get()) == [True]
    assert refused(apart, get()) == [False]


def test_key_and_rate_functions_are_given_the_group() -> None:
    given = []

    def key(group: str, request: HttpRequest) -> str:
        given.append(group)
        return "x"

    def rate(group: str, request: HttpRequest) -> str:
        given.append(group)
        return "9/d"

    ratelimit(group="g", key=key, rate=rate)(page)(get())
    ratelimit(key=key, rate=rate)(page)(get())
    name = "tests.ratelimit.site.page"
    assert given == ["g", "g", name, name]


# How many.


@pytest.mark.parametrize("rate", [rate_of_query, f"{HERE}.rate_of_query"])
def test_rates_that_a_function_says(rate: Any) -> None:
    view = ratelimit(key="ip", rate=rate)(page)
    assert refused(view, *(get(path="/?rate=1/d") for _ in range(2))) == [False, True]
    assert refused(view, *(get(path="/?rate=pair") for _ in range(3))) == [False, False, True]
    assert refused(view, *(get() for _ in range(3))) == [False] * 3
    assert refused(view, get(path="/?rate=0/s")) == [True]
    with pytest.raises(ImproperlyConfigured, match="'many' is not a rate"):
        view(get(path="/?rate=many"))


def test_no_rate_is_no_limit_and_asks_nobody() -> None:
    request = get()
    del request.user
    view = ratelimit(key="user", rate=None)(page)
    assert refused(view, request, request) == [False] * 2
    assert request.limited is False  # type: ignore[attr-defined]


def test_cost_algorithm_and_burst() -> None:
    assert refused(ratelimit(key="ip", rate="5/d", cost=2)(page), get(), get(), get()) == [
        False,
        False,
        True,
    ]
    bucket = ratelimit(group="b", key="ip", rate="1/d", burst=2)(page)
    assert refused(bucket, get(), get(), get()) == [False, False, True]
    fixed = ratelimit(group="f", key="ip", rate="1/d", algorithm="fixed-window")(page)
    assert refused(fixed, get(), get()) == [False, True]
    with override_settings(RATELIMIT_ALGORITHM="fixed-window"):
        again = ratelimit(group="f", key="ip", rate="1/d")(page)
        assert refused(again, get()) == [True]


# Which requests.


@for_each(
    ("method", "limited"),
    [
        (ALL, {"GET", "HEAD", "POST", "DELETE"}),
        (None, {"GET", "HEAD", "POST", "DELETE"}),
        ((None,), {"GET", "HEAD", "POST", "DELETE"}),
        ([None], {"GET", "HEAD", "POST", "DELETE"}),
        (ratelimit.ALL, {"GET", "HEAD", "POST", "DELETE"}),
        (UNSAFE, {"POST", "DELETE"}),
        (ratelimit.UNSAFE, {"POST", "DELETE"}),
        ("GET", {"GET", "HEAD"}),
        ("post", {"POST"}),
        (["GET", "delete"], {"GET", "HEAD", "DELETE"}),
        ("ALL", {"GET", "HEAD", "POST", "DELETE"}),
        ("all", {"GET", "HEAD", "POST", "DELETE"}),
        ("any", {"GET", "HEAD", "POST", "DELETE"}),
        (["ALL"], {"GET", "HEAD", "POST", "DELETE"}),
        (("GET", None), {"GET", "HEAD", "POST", "DELETE"}),
        ("UNSAFE", {"POST", "DELETE"}),
        ("unsafe", {"POST", "DELETE"}),
        (["UNSAFE"], {"POST", "DELETE"}),
        ({"unsafe", "GET"}, {"GET", "HEAD", "POST", "DELETE"}),
        (HTTPMethod.POST, {"POST"}),
        ("OPTIONS", set()),
        ("PROPFIND", set()),
    ],
)
def test_methods(method: Any, limited: set[str]) -> None:
    view = ratelimit(key="ip", rate="0/s", method=method)(page)
    for name in ("GET", "HEAD", "POST", "DELETE"):
        request = get()
        request.method = name
        assert refused(view, request) == [name in limited]
    mixed: Any = type("Mixed", (RatelimitMixin, Page), {**NEVER, "ratelimit_method": method})
    for name in ("GET", "HEAD", "POST", "DELETE"):
        request = get()
        request.method = name
        assert refused(mixed.as_view(), request) == [name in limited]
        assert is_ratelimited(request, "g", None, "ip", "0/s", method) == (name in limited)


def test_the_constants_are_where_django_ratelimit_has_them() -> None:
    for function in (ratelimit, is_ratelimited, get_usage, ais_ratelimited, aget_usage):
        assert (function.ALL, function.UNSAFE) == (ALL, UNSAFE)
    assert get_usage(get(), "g", None, "ip", "0/s", get_usage.UNSAFE) is None
    assert is_ratelimited(get(), "g", None, "ip", "0/s", is_ratelimited.ALL)


def test_a_page_and_its_head_are_one_counter() -> None:
    view = ratelimit(key="ip", rate="1/d", method="GET")(page)
    head = get()
    head.method = "HEAD"
    assert refused(view, get(), head) == [False, True]


def test_the_user_is_asked_only_if_that_matters() -> None:
    class Request(HttpRequest):
        @property
        def user(self) -> Any:  # type: ignore[override]
            raise AssertionError("the user was looked up")

    request = Request()
    request.method = "GET"
    request.META["REMOTE_ADDR"] = "10.0.0.1"
    view = ratelimit(key="user", rate="1/d", method="POST")(page)
    assert refused(view, request) == [False]
    view = ratelimit(key="ip", rate="1/d")(page)
    assert refused(view, request) == [False]
    with override_settings(RATELIMIT_ENABLE=False):
        view = ratelimit(key="user", rate="1/d")(page)
        assert refused(view, request) == [False]


def test_a_user_needs_the_middleware() -> None:
    request = get()
    del request.user, request.auser
    with pytest.raises(ImproperlyConfigured, match="AuthenticationMiddleware"):
        ratelimit(key="user", rate="1/d")(page)(request)
    with pytest.raises(ImproperlyConfigured, match="AuthenticationMiddleware"):
        run(ratelimit(key="user", rate="1/d")(apage)(request))


def test_an_async_view_asks_for_its_user_asynchronously() -> None:
    request = get()
    del request.user

    async def auser() -> Any:
        return user(7)

    request.auser = auser
    view = ratelimit(limits=[("user", "1/d"), ("user_or_ip", "9/d")])(apage)
    run(view(request))
    with pytest.raises(Ratelimited):
        run(view(request))


def test_nobody_shares_the_counter_of_those_who_are_not_logged_in() -> None:
    view = ratelimit(key="user", rate="1/d")(page)
    requests = [get(), *(with_user(get(), user(pk)) for pk in ("None", "", "anonymous"))]
    assert refused(view, *requests, *requests) == [False] * 4 + [True] * 4
    request = get()
    request.user = None  # type: ignore[assignment]
    assert refused(view, request) == [True]


def test_those_who_are_not_logged_in_are_one_user() -> None:
    view = ratelimit(key="user", rate="1/d")(page)
    assert refused(view, get("10.0.0.1"), get("10.0.0.2")) == [False, True]
    assert AnonymousUser().pk is None


# Whether it blocks.


def test_limited_is_told_and_stays_true() -> None:
    @ratelimit(key="ip", rate="1/d", block=False)
    def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse(str(request.limited))  # type: ignore[attr-defined]

    assert [view(get()).content for _ in range(2)] == [b"False", b"True"]
    request = get("10.0.0.2")
    request.limited = True  # type: ignore[attr-defined]
    assert view(request).content == b"True"


def test_a_limit_that_only_tells_lets_the_others_count() -> None:
    """Its refusal is no refusal of the request: else one could pass without being counted."""
    view = ratelimit(
        limits=[
            {"key": "ip", "rate": "1/d", "block": False},
            {"key": "get:q", "rate": "3/d"},
        ]
    )(page)
    assert refused(view, *(get() for _ in range(4))) == [False, False, False, True]


# What it returns.


class Shared(dict[str, int]):
    """Something that all requests are answered with."""


RESULTS: list[Any] = [{"a": 1}, Shared(a=1), (200, {"a": 1}), None, "text", 7]


@pytest.mark.parametrize("result", RESULTS, ids=repr)
def test_what_is_no_response_passes_through(result: Any) -> None:
    def view(request: HttpRequest) -> Any:
        return result

    async def aview(request: HttpRequest) -> Any:
        return result

    before = repr(result)
    limited, alimited = (ratelimit(key="ip", rate="9/d")(one) for one in (view, aview))
    for _ in range(2):
        assert limited(get()) is result
        assert run(alimited(get())) is result
    assert repr(result) == before


# Several.


def test_stacked_decorators_are_one() -> None:
    @ratelimit(key="ip", rate="9/d")
    @ratelimit(key="get:q", rate="1/d")
    @ratelimit(key="header:x", rate="9/d")
    def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse()

    assert refused(view, get(), get(), get()) == [False, True, True]
    with pytest.raises(Ratelimited) as caught:
        view(get())
    assert caught.value.policies == ["get:q"]
    # What the second one refused was charged to no other.
    assert [usage.used for usage in caught.value.usages] == [1, 1, 1]
    assert view.__name__ == "view"


def test_a_decorator_between_them_keeps_its_place() -> None:
    def only_ann(view: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(view)
        def wrapper(request: HttpRequest) -> Any:
            return view(request) if request.GET.get("name") == "ann" else HttpResponse("no")

        return wrapper

    @ratelimit(key="ip", rate="3/d")
    @only_ann
    @ratelimit(key="ip", rate="1/d")
    def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse()

    bob, ann = "/?name=bob", "/?name=ann"
    assert refused(view, get(path=bob), get(path=ann), get(path=ann)) == [False, False, True]
    assert refused(view, get(path=bob)) == [True]


def test_limits_of_different_batches_are_told_apart() -> None:
    inner = ratelimit(limits=[("ip", "0/s"), ("get:q", "0/s")])(page)

    @ratelimit(limits=[("ip", "9/d"), ("ip", "8/d")])
    def view(request: HttpRequest) -> HttpResponse:
        return inner(request)

    with pytest.raises(Ratelimited) as caught:
        view(get())
    assert caught.value.policies == ["ip-3", "get:q"]


def test_what_is_written_twice_is_charged_once() -> None:
    view = ratelimit(limits=[("ip", "2/d"), ("ip", "2/d")])(page)
    assert refused(view, get(), get(), get()) == [False, False, True]


def test_a_list_of_limits() -> None:
    view = ratelimit(
        group="g",
        block=False,
        limits=[
            ("ip", "9/d"),
            {"key": "get:q", "rate": (1, 60), "block": True, "name": "query", "group": "h"},
        ],
    )(page)
    view(get())
    with pytest.raises(Ratelimited) as caught:
        view(get())
    assert caught.value.policies == ["query"]
    assert refused(ratelimit(group="h", key="get:q", rate="1/m")(page), get()) == [True]


@pytest.mark.parametrize("view", [page, apage])
def test_one_round_trip_for_three_limits(view: Any, nodes: LocalNodes) -> None:
    three = view
    for key in ("ip", "get:q", "header:x"):
        three = ratelimit(key=key, rate="9/d")(three)

    def visit() -> None:
        response = three(get())
        if isawaitable(response):
            run(cast(Any, response))

    visit()  # the scripts are there
    with Servers(nodes.hosts) as servers, CaptureCommandsContext() as captured:
        servers.reset_counts()
        visit()
        asked = sum(servers.counts().values(), Counter())
    assert asked["evalsha"] == 3
    assert asked["eval"] == 0
    if view is page:  # what is sent from event loops is not captured
        assert captured.batches == captured.rounds == 1


# By hand.


def test_is_ratelimited() -> None:
    def ask(increment: bool) -> bool:
        return is_ratelimited(get(), group="g", key="ip", rate="2/d", increment=increment)

    assert [ask(False), ask(True), ask(False), ask(True)] == [False] * 4
    assert [ask(False), ask(True)] == [True, True]
    assert run(ais_ratelimited(get(), group="g", key="ip", rate="2/d")) is True
    assert is_ratelimited(get(), fn=page, key="ip", rate="2/d") is False
    assert is_ratelimited(get(), "g", None, "ip", "2/d", "POST", True) is False
    assert is_ratelimited(get(), "g", None, "ip", "2/d", "GET", True) is False  # its own count
    assert is_ratelimited(get(), "g", None, "ip", None) is False


def test_get_usage() -> None:
    usage = get_usage(get(), group="g", key="ip", rate="2/d", increment=True)
    assert usage is not None
    assert 0 < usage.pop("time_left") <= 2 * 86400
    assert usage == {"count": 1, "limit": 2, "should_limit": False}
    again = run(aget_usage(get(), group="g", key="ip", rate="2/d", increment=True))
    assert (again["count"], again["should_limit"]) == (2, False)
    refused = get_usage(get(), group="g", key="ip", rate="2/d", increment=True)
    assert refused is not None
    assert (refused["count"], refused["should_limit"]) == (2, True)
    with override_settings(RATELIMIT_ENABLE=False):
        assert get_usage(get(), group="g", key="ip", rate="0/s") is None
    mistakes: list[dict[str, Any]] = [
        {"key": "ip", "rate": "1/s"},
        {"group": "g", "rate": "1/s"},
        {"group": "g", "key": "ip"},
        {"group": "g", "key": "i", "rate": "1/s"},
    ]
    for mistake in mistakes:
        with pytest.raises(ImproperlyConfigured):
            get_usage(get(), **mistake)
        with pytest.raises(ImproperlyConfigured):
            is_ratelimited(get(), **mistake)
        with pytest.raises(ImproperlyConfigured):
            run(aget_usage(get(), **mistake))
        with pytest.raises(ImproperlyConfigured):
            run(ais_ratelimited(get(), **mistake))


def test_fn_is_the_view_that_is_decorated() -> None:
    view = ratelimit(key="ip", rate="2/d")(page)
    view(get())
    for fn in (view, page):
        usage = get_usage(get(), fn=fn, key="ip", rate="2/d")
        assert usage is not None
        assert usage["count"] == 1


def test_several_limits_may_be_given_by_anything_that_is_iterated() -> None:
    class First(RatelimitMixin, Page):
        ratelimit_limits = (pair for pair in [("ip", "1/d")])

    class Second(First):
        pass

    for limited in (First, Second):
        assert refused(limited.as_view(), get(), get()) == [False, True]
    view = ratelimit(limits=iter([("ip", "1/d")]))(page)
    assert refused(view, get(), get()) == [False, True]


# What cannot be.


@for_each(
    ("arguments", "text"),
    [
        ({}, "The key is missing"),
        ({"rate": "1/s"}, "The key is missing"),
        ({"key": "ip"}, "The rate is missing"),
        ({"key": "ip", "rate": "fast"}, "'fast' is not a rate"),
        ({"key": "ip", "rate": "1/0s"}, "0 seconds"),
        ({"key": "ip", "rate": "-1/s"}, "'-1/s' is not a rate"),
        ({"key": "ip", "rate": (1, 2, 3)}, "is not a rate"),
        ({"key": "ip", "rate": 5}, "5 is not a rate"),
        ({"key": "ip", "rate": "no.such.rate"}, "'no.such.rate' cannot be imported: there is"),
        ({"key": "ip", "rate": lambda: "1/s"}, "def function.group, request."),
        ({"key": "up", "rate": "1/s"}, "no key 'up'. Choices are: ip, user, user_or_ip"),
        ({"key": "users", "rate": "1/s"}, "Did you mean 'user'"),
        ({"key": "cookie:x", "rate": "1/s"}, "no key 'cookie:x'"),
        ({"key": "pots:x", "rate": "1/s"}, "Did you mean 'post:'"),
        ({"key": "get:", "rate": "1/s"}, "contains no field"),
        ({"key": "header:x y", "rate": "1/s"}, "'x y' is not the name of a header"),
        ({"key": 7, "rate": "1/s"}, "7 is neither a str nor a function"),
        ({"key": "no.such.key", "rate": "1/s"}, "'no.such.key' cannot be imported: there is"),
        ({"key": "tests..x", "rate": "1/s"}, "cannot be imported: there is"),
        ({"key": not_a_key, "rate": "1/s"}, "'not_a_key' cannot be called with"),
        ({"key": "ip", "rate": "1/s", "method": 7}, "7 is neither an HTTP method"),
        ({"key": "ip", "rate": "1/s", "method": []}, "is neither an HTTP method"),
        ({"key": "ip", "rate": "1/s", "method": "GET, POST"}, "neither an HTTP method"),
        (
            {"key": "ip", "rate": "1/s", "method": "PSOT"},
            "'PSOT' is neither an HTTP method, .* Did you mean 'POST'",
        ),
        ({"key": "ip", "rate": "1/s", "method": ["GET", "puts"]}, "Did you mean 'PUT'"),
        ({"key": "ip", "rate": "1/s", "method": "UNSAVE"}, "Did you mean 'UNSAFE'"),
        ({"key": "ip", "rate": "1/s", "method": [["GET"]]}, "neither an HTTP method"),
        ({"key": "ip", "rate": "1/s", "block": None}, "None is neither True nor False"),
        ({"key": "ip", "rate": "1/s", "group": 7}, "group=….: 7 is not a non-empty str"),
        ({"key": "ip", "rate": "1/s", "cost": -1}, "-1 is not a cost"),
        ({"key": "ip", "rate": "1/s", "cost": "1"}, "not a cost"),
        ({"key": "ip", "rate": "1/s", "algorithm": "leaky"}, "no algorithm 'leaky'"),
        ({"key": "ip", "rate": "1/s", "burst": 0}, "0 is not a whole number"),
        (
            {"key": "ip", "rate": "1/s", "burst": 5, "algorithm": "fixed-window"},
            "only be used with the algorithm 'token-bucket'",
        ),
        ({"limits": []}, "the list is empty"),
        ({"limits": ["ip"]}, "'ip' is not a limit"),
        ({"limits": [("ip", "x")]}, "'x' is not a rate"),
        ({"limits": [{"key": "ip", "rat": "1/s"}]}, "Did you mean 'rate'"),
        ({"limits": [{"key": "ip"}]}, "The rate is missing"),
        ({"limits": [("ip", "1/s")], "key": "ip"}, "must be set for each limit separately"),
    ],
)
def test_mistakes_are_told_when_a_view_is_decorated(arguments: Any, text: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=text):
        ratelimit(**arguments)
    if "key" in arguments and "name" not in arguments:
        attributes = {f"ratelimit_{name}": value for name, value in arguments.items()}
        with pytest.raises(ImproperlyConfigured, match=text):
            type("Mistaken", (RatelimitMixin, View), attributes)


def test_a_path_is_looked_up_when_it_is_used() -> None:
    """Its module may be half imported while its views are decorated."""
    view = ratelimit(key="tests.ratelimit.site.not_there", rate="1/s")(page)
    with pytest.raises(ImproperlyConfigured, match=r"site\.not_there' cannot be imported"):
        view(get())
    named_paths.discard("tests.ratelimit.site.not_there")


def test_a_method_that_is_decorated_as_a_function_is_told_so() -> None:
    class Mistaken(View):
        @ratelimit(key="ip", rate="1/s")
        def get(self, request: HttpRequest) -> HttpResponse:
            return HttpResponse()

    with pytest.raises(ImproperlyConfigured, match="method_decorator"):
        Mistaken.as_view()(get())


def test_a_mixin_without_a_limit_is_told_so() -> None:
    class Mistaken(RatelimitMixin, View):
        pass

    with pytest.raises(ImproperlyConfigured, match="Mistaken has no limit"):
        Mistaken.as_view()
    limited = Mistaken.as_view(ratelimit_key="ip", ratelimit_rate="0/s")
    with pytest.raises(Ratelimited):
        limited(get())


def test_a_mixin_behind_the_views_class_is_told_so() -> None:
    """The view's own dispatch() would never ask it."""

    class Limited(RatelimitMixin):
        ratelimit_key = "ip"
        ratelimit_rate = "1/s"

    for bases in ((View, RatelimitMixin), (View, Limited)):
        with pytest.raises(ImproperlyConfigured, match="Mistaken would not be limited"):
            type("Mistaken", bases, {})
    type("Right", (Limited, View), {})


def test_inherited_dispatch_is_counted_by_its_class() -> None:
    @method_decorator(ratelimit(key="ip", rate="1/d"), name="dispatch")
    class One(View):
        def get(self, request: HttpRequest) -> HttpResponse:
            return HttpResponse()

    class Two(One):
        pass

    assert refused(One.as_view(), get(), get()) == [False, True]
    assert refused(Two.as_view(), get(), get()) == [False, True]


def test_views_of_classes_are_counted_by_their_class() -> None:
    class One(View):
        def get(self, request: HttpRequest) -> HttpResponse:
            return HttpResponse()

    class Two(One):
        pass

    once = ratelimit(key="ip", rate="1/d")
    assert refused(once(One.as_view()), get(), get()) == [False, True]
    assert refused(once(Two.as_view()), get(), get()) == [False, True]
