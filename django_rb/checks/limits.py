"""Checks of rate limits: their settings, and the views that are limited."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from ipaddress import IPv4Network, IPv6Network, collapse_addresses

from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured
from django.template import TemplateDoesNotExist
from django.template.loader import get_template
from django.urls import get_resolver

from ..engine.wording import did_you_mean
from ..ratelimit import conf
from ..ratelimit.answers import import_view, is_template
from ..ratelimit.conf import NOBODY, PREFIX, TrustedProxies
from ..ratelimit.decorator import limited_views, views_by_address
from ..ratelimit.functions import RequestFunction, named_paths
from .site import listed

# Settings that imply that a proxy is in front of the site.
SIGNS_OF_A_PROXY = (
    "SECURE_PROXY_SSL_HEADER",
    "USE_X_FORWARDED_HOST",
    "USE_X_FORWARDED_PORT",
)
MOST_NAMED = 3

MIDDLEWARE = "django_rb.ratelimit.middleware.RatelimitMiddleware"

# The settings of django-ratelimit, and what to do about them.
OF_DJANGO_RATELIMIT = {
    "RATELIMIT_USE_CACHE": "Limits are counted on a cluster: set RATELIMIT_CLUSTER.",
    "RATELIMIT_CACHE_PREFIX": "Use RATELIMIT_PREFIX.",
    "RATELIMIT_IP_META_KEY": "Set RATELIMIT_TRUSTED_PROXIES.",
    "RATELIMIT_HASH_ALGORITHM": "Leave it out.",
    "RATELIMIT_EXCEPTION_CLASS": "Use RATELIMIT_VIEW.",
}


def check_limit_settings() -> list[CheckMessage]:
    """Report mistakes in the RATELIMIT_… settings."""
    mistakes = [*conf.find_mistakes(), *_find_view_mistakes()]
    return [_bad_setting(error) for error in mistakes]


def _bad_setting(error: Exception, hint: str | None = None) -> CheckMessage:
    return checks.Error(str(error), hint=hint, id="django_rb.E004")


def check_unread_settings() -> list[CheckMessage]:
    """Report unused settings: misspelt ones, and those of django-ratelimit."""
    return [
        checks.Warning(
            f"settings.{name} is not used.",
            hint=OF_DJANGO_RATELIMIT.get(name) or did_you_mean(name, conf.NAMES),
            id="django_rb.W011",
        )
        for name in sorted(dir(settings))
        if name in OF_DJANGO_RATELIMIT or _is_misspelt(name)
    ]


def _is_misspelt(name: str) -> bool:
    """Return whether a name is similar to one of our settings; others are the site's own."""
    if not name.startswith(PREFIX) or name in conf.NAMES:
        return False
    names = [known.removeprefix(PREFIX) for known in conf.NAMES]
    return bool(get_close_matches(name.removeprefix(PREFIX), names, n=1, cutoff=0.75))


def check_default_cluster() -> list[CheckMessage]:
    """Report that limits have no cluster, if no setting names one and something needs it."""
    _load_views()
    is_named = hasattr(settings, f"{PREFIX}CLUSTER")  # then E004 is reported for the setting
    if is_named or not (limited_views or MIDDLEWARE in settings.MIDDLEWARE):
        return []
    try:
        conf.get_cluster()
    except ImproperlyConfigured as error:
        return [_bad_setting(error, f"Set the cluster that counts: settings.{PREFIX}CLUSTER.")]
    return []


def check_limited_views() -> list[CheckMessage]:
    """Report dotted paths of keys and rates that cannot be imported."""
    _load_views()
    messages: list[CheckMessage] = []
    for path in sorted(named_paths):
        try:
            RequestFunction(path, "A view's key or rate").resolve()
        except ImproperlyConfigured as error:
            messages.append(checks.Error(str(error), id="django_rb.E005"))
    return messages


def check_proxies() -> list[CheckMessage]:
    """Report limits by address if the address cannot be the client's."""
    _load_views()
    if not views_by_address:
        return []
    try:
        config = conf.get_config()
    except ImproperlyConfigured:
        return []  # E004 reports it
    doubt = _doubt(config.trusted_proxies)
    if doubt is None:
        return []
    text, hint = doubt
    names = sorted(views_by_address)
    more = len(names) - MOST_NAMED
    shown = [*names[:MOST_NAMED], *([f"{more} more"] if more > 0 else [])]
    return [
        checks.Warning(
            f"Requests are limited by the client's address ({listed(shown)}), but {text}",
            hint=hint,
            id="django_rb.W010",
        )
    ]


def _doubt(trusted: TrustedProxies) -> tuple[str, str] | None:
    """Return a problem with the trusted proxies, and its solution; None if there is none."""
    setting = f"settings.{PREFIX}TRUSTED_PROXIES"
    if _trusts_all(trusted):
        return (
            f"{setting} trusts all addresses: clients can fake theirs.",
            "List only the networks of the proxies.",
        )
    signs = [name for name in SIGNS_OF_A_PROXY if getattr(settings, name, None)]
    if signs and trusted == NOBODY:
        return (
            f"settings.{signs[0]} implies a proxy, and {setting} contains none: all clients "
            "have the address of the proxy, and share each limit.",
            f"{setting} = 1 for one proxy that adds to X-Forwarded-For, or its networks. If "
            "the server already sets REMOTE_ADDR to the client's address, silence this "
            "warning.",
        )
    return None


def _trusts_all(trusted: TrustedProxies) -> bool:
    """Return whether networks together cover all addresses."""
    four = (network for network in trusted.networks if isinstance(network, IPv4Network))
    six = (network for network in trusted.networks if isinstance(network, IPv6Network))
    return any(network.prefixlen == 0 for network in collapse_addresses(four)) or any(
        network.prefixlen == 0 for network in collapse_addresses(six)
    )


def _find_view_mistakes() -> Iterator[Exception]:
    """Yield why RATELIMIT_VIEW cannot be used."""
    view = getattr(settings, f"{PREFIX}VIEW", None)
    try:
        if is_template(view):
            get_template(str(view))
        elif callable(view) or (isinstance(view, str) and "." in view):
            import_view(view)
    except ImproperlyConfigured as error:
        yield error
    except TemplateDoesNotExist:
        yield conf.mistake("VIEW", f"There is no template {view!r}.")


def _load_views() -> None:
    """Import the site's views, as limited views are known only after their import."""
    if getattr(settings, "ROOT_URLCONF", None):
        _ = get_resolver().url_patterns


SETTINGS_CHECKS = (check_limit_settings, check_unread_settings)
VIEWS_CHECKS = (check_default_cluster, check_limited_views, check_proxies)
