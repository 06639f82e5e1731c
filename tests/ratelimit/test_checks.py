"""What `manage.py check` says of rate limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import Tags, run_checks
from django.test import override_settings
from django.utils.decorators import method_decorator
from django.views import View

from django_rb.checks.limits import check_limited_views, check_proxies
from django_rb.ratelimit import RatelimitMixin, ratelimit
from django_rb.ratelimit.decorator import limited_views, views_by_address
from django_rb.ratelimit.drf import RatelimitThrottle
from django_rb.ratelimit.functions import named_paths
from tests.ratelimit.site import page
from tests.tables import for_each

HTTPS = {"SECURE_PROXY_SSL_HEADER": ("HTTP_X_FORWARDED_PROTO", "https")}


def findings(tag: str) -> list[tuple[str, str]]:
    return [
        (str(message.id), f"{message.msg} {message.hint}")
        for message in run_checks(tags=[tag])
        if message.id in {f"django_rb.{i}" for i in ("E004", "E005", "W010", "W011")}
    ]


@for_each(
    ("settings", "said"),
    [
        ({}, None),
        (HTTPS, "settings.SECURE_PROXY_SSL_HEADER implies a proxy"),
        ({"USE_X_FORWARDED_HOST": True}, "settings.USE_X_FORWARDED_HOST implies a proxy"),
        ({"USE_X_FORWARDED_PORT": True}, "settings.USE_X_FORWARDED_PORT implies a proxy"),
        ({**HTTPS, "RATELIMIT_TRUSTED_PROXIES": 1}, None),
        ({**HTTPS, "RATELIMIT_TRUSTED_PROXIES": ["10.0.0.0/8"]}, None),
        ({**HTTPS, "RATELIMIT_TRUSTED_PROXIES": ["unix"]}, None),
        ({**HTTPS, "RATELIMIT_TRUSTED_PROXIES": []}, "implies a proxy"),
        ({"RATELIMIT_TRUSTED_PROXIES": 0}, None),
        ({**HTTPS, "RATELIMIT_TRUSTED_PROXIES": 0}, "implies a proxy"),
        ({"RATELIMIT_TRUSTED_PROXIES": ["10.0.0.0/8", "0.0.0.0/0"]}, "trusts all addresses"),
        ({"RATELIMIT_TRUSTED_PROXIES": ["::/0"]}, "trusts all addresses"),
        ({"RATELIMIT_TRUSTED_PROXIES": ["::ffff:0.0.0.0/96"]}, "trusts all addresses"),
        ({"RATELIMIT_TRUSTED_PROXIES": ["0.0.0.0/1", "128.0.0.0/1"]}, "trusts all addresses"),
    ],
)
def test_limits_by_address_behind_a_proxy(settings: dict[str, Any], said: str | None) -> None:
    known = set(views_by_address)
    views_by_address.clear()
    try:
        with override_settings(**settings):
            assert check_proxies() == []  # nothing is limited by address
            ratelimit(key="user_or_ip", rate="1/s")(page)
            found = findings(Tags.urls)
    finally:
        views_by_address.update(known)
    if said is None:
        assert found == []
    else:
        ((error_id, text),) = found
        assert error_id == "django_rb.W010"
        assert text.startswith(
            "Requests are limited by the client's address (tests.ratelimit.site.page), "
        )
        assert said in text


def test_a_method_that_is_limited_is_not_called_by_a_name_of_djangos() -> None:
    known = set(views_by_address)
    views_by_address.clear()
    try:
        method_decorator(ratelimit(key="ip", rate="1/s"), name="dispatch")(
            type("V", (View,), {})
        )
        with override_settings(**HTTPS):
            (message,) = check_proxies()
    finally:
        views_by_address.clear()
        views_by_address.update(known)
    assert "are limited by the client's address (a class-based view), but" in message.msg


def test_the_urls_are_imported_to_find_limited_views(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "urls_of_limits.py").write_text(
        "from django_rb.ratelimit import ratelimit\n"
        "limited = ratelimit(key='ip', rate='1/s')\n"
        "def first(request): ...\n"
        "urlpatterns, views = [], [limited(first)]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    known = set(views_by_address)
    views_by_address.clear()
    try:
        with override_settings(ROOT_URLCONF="urls_of_limits", USE_X_FORWARDED_HOST=True):
            (message,) = check_proxies()
    finally:
        views_by_address.clear()
        views_by_address.update(known)
    assert "(urls_of_limits.first)" in message.msg


@for_each(
    ("settings", "error_id", "said"),
    [
        ({"RATELIMIT_TRUSTED_PROXIES": "10.0.0.1"}, "E004", "'10.0.0.1' is neither"),
        ({"RATELIMIT_CLUSTER": "nowhere"}, "E004", "There is no cluster 'nowhere'"),
        ({"RATELIMIT_VIEW": "no.such.view"}, "E004", "'no.such.view' cannot be imported"),
        ({"RATELIMIT_VIEW": "missing.html"}, "E004", "There is no template 'missing.html'"),
        ({"RATELIMIT_ALGORITM": "fixed-window"}, "W011", "'RATELIMIT_ALGORITHM'"),
        ({"RATELIMIT_IP_META_KEY": "HTTP_X_REAL_IP"}, "W011", "RATELIMIT_TRUSTED_PROXIES"),
        ({"RATELIMIT_USE_CACHE": "default"}, "W011", "RATELIMIT_CLUSTER"),
        ({"RATELIMIT_EXCEPTION_CLASS": "site.TooMany"}, "W011", "RATELIMIT_VIEW"),
    ],
)
def test_settings(settings: dict[str, Any], error_id: str, said: str) -> None:
    with override_settings(**settings):
        ((found_id, text),) = findings(Tags.caches)
    assert found_id == f"django_rb.{error_id}"
    assert said in text


@for_each("name", ["LOGIN", "KEY", "RATE", "API_PER_MINUTE"])
def test_settings_of_the_sites_own_are_left_alone(name: str) -> None:
    with override_settings(**{f"RATELIMIT_{name}": "5/m"}):
        assert findings(Tags.caches) == []


def test_all_mistakes_are_told() -> None:
    with override_settings(RATELIMIT_ENABLE=1, RATELIMIT_VIEW=7, RATELIMIT_IPV4_MASK=99):
        assert len(findings(Tags.caches)) == 3


def test_a_site_without_the_cluster_and_without_limits_is_left_alone() -> None:
    with override_settings(RB_CLUSTERS={"main": {"HOSTS": ["redis://h"]}}, CACHES={}):
        assert findings(Tags.caches) == []


MIDDLEWARE = "django_rb.ratelimit.middleware.RatelimitMiddleware"
SEVERAL = {"main": {"HOSTS": ["redis://h"]}, "other": {"HOSTS": ["redis://i"]}}
NO_DEFAULT = (
    "There is no cluster 'default', the default of settings.RATELIMIT_CLUSTER, in "
    "settings.RB_CLUSTERS. Choices are: main, other. Set the cluster that counts: "
    "settings.RATELIMIT_CLUSTER."
)


@pytest.fixture
def no_views() -> Iterator[None]:
    """Nothing is known to be limited."""
    known = set(limited_views)
    limited_views.clear()
    yield
    limited_views.update(known)


def _decorate() -> None:
    ratelimit(key="user", rate="1/s")(page)


def _mix_in() -> None:
    type("Mixed", (RatelimitMixin, View), {"ratelimit_key": "user", "ratelimit_rate": "1/s"})


def _throttle() -> None:
    type("Throttle", (RatelimitThrottle,), {"limits": [("user", "1/s")]})


@pytest.mark.usefixtures("no_views")
@pytest.mark.parametrize("use", [_decorate, _mix_in, _throttle])
def test_limits_without_a_cluster_are_told(use: Callable[[], None]) -> None:
    with override_settings(RB_CLUSTERS=SEVERAL, CACHES={}):
        assert findings(Tags.urls) == []  # nothing needs one
        use()
        assert findings(Tags.urls) == [("django_rb.E004", NO_DEFAULT)]
        with override_settings(RATELIMIT_CLUSTER="main"):
            assert findings(Tags.urls) == []
    with override_settings(RB_CLUSTERS={"main": SEVERAL["main"]}, CACHES={}):
        assert findings(Tags.urls) == []  # the only one is taken
    with override_settings(RB_CLUSTERS={}, CACHES={}):
        ((_, text),) = findings(Tags.urls)
        assert "The setting is missing or empty" in text


@pytest.mark.usefixtures("no_views")
def test_the_middleware_without_a_cluster_is_told() -> None:
    with override_settings(RB_CLUSTERS=SEVERAL, CACHES={}, MIDDLEWARE=[MIDDLEWARE]):
        assert findings(Tags.urls) == [("django_rb.E004", NO_DEFAULT)]


def test_paths_are_looked_up() -> None:
    ratelimit(key="tests.ratelimit.site.no_key", rate="tests.ratelimit.site.no_rate")
    try:
        messages = check_limited_views()
    finally:
        for where in ("key", "rate"):
            named_paths.discard(f"tests.ratelimit.site.no_{where}")
    assert [message.id for message in messages] == ["django_rb.E005"] * 2
    assert "'tests.ratelimit.site.no_key' cannot be imported" in messages[0].msg
