"""The RATELIMIT_… settings, read in one place: validated, with every mistake explained."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from functools import lru_cache, partial
from ipaddress import IPv4Network, IPv6Network, ip_network
from numbers import Real
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.dispatch import receiver

from ..conf import check_alias, get_aliases
from ..engine.wording import clause, masked, number_of
from .algorithms import SLIDING_WINDOW, check_algorithm

PREFIX = "RATELIMIT_"
UNIX = "unix"

_MAPPED_BITS = 96  # of ::ffff:0:0/96, the IPv4-mapped addresses

# For responses to refused requests: a view, the path of one, or the name of a template.
View = str | Callable[..., Any] | None


@dataclass(frozen=True, slots=True)
class TrustedProxies:
    """RATELIMIT_TRUSTED_PROXIES: the proxies whose X-Forwarded-For is trusted.

    Attributes:
        hops: how many proxies are in front of the site, None if networks are given.
        networks: the networks of the proxies.
        unix: connections through a unix socket come from a proxy.
    """

    hops: int | None = None
    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    unix: bool = False


NOBODY = TrustedProxies()


@dataclass(frozen=True, slots=True)
class Config:
    """The settings of rate limits.

    Attributes:
        cluster: RATELIMIT_CLUSTER, an alias in RB_CLUSTERS.
        prefix: RATELIMIT_PREFIX, what the stored keys begin with.
        fail_open: RATELIMIT_FAIL_OPEN, whether a request passes if its limit's node failed.
        timeout: RATELIMIT_TIMEOUT, seconds for one check, None for the cluster's own.
        algorithm: RATELIMIT_ALGORITHM, the name of the default algorithm.
        enable: RATELIMIT_ENABLE, whether views are limited.
        view: RATELIMIT_VIEW, a view or a template that answers refused requests.
        trusted_proxies: RATELIMIT_TRUSTED_PROXIES.
        ipv4_mask, ipv6_mask: RATELIMIT_IPV4_MASK and _IPV6_MASK, the bits of an address that
            count.
    """

    cluster: str
    prefix: str
    fail_open: bool
    timeout: float | None
    algorithm: str
    enable: bool
    view: View
    trusted_proxies: TrustedProxies
    ipv4_mask: int
    ipv6_mask: int


@lru_cache(maxsize=1)
def get_config() -> Config:
    """Return the current settings.

    Raises:
        ImproperlyConfigured: with the setting, its value and what to do.
    """
    return Config(**{name: read() for name, read in _READERS.items()})


def _get(name: str, default: Any) -> Any:
    return getattr(settings, PREFIX + name, default)


def _get_bool(name: str, *, default: bool) -> bool:
    value = _get(name, default)
    if not isinstance(value, bool):
        raise mistake(name, f"{masked(value)} is neither True nor False.")
    return value


def get_cluster() -> str:
    """Return the alias of the cluster that stores the counters.

    Raises:
        ImproperlyConfigured: no setting names one, and there are several; or the setting
            names one that does not exist.
    """
    aliases = get_aliases()
    default = aliases[0] if len(aliases) == 1 else "default"
    alias: str = _get("CLUSTER", default)
    named = "" if hasattr(settings, f"{PREFIX}CLUSTER") else "the default of "
    check_alias(alias, f"{named}settings.{PREFIX}CLUSTER")
    return alias


def _get_prefix() -> str:
    prefix = _get("PREFIX", "rl")
    check_prefix(prefix, f"settings.{PREFIX}PREFIX")
    return str(prefix)


def _get_timeout() -> float | None:
    return parse_timeout(number_of(_get("TIMEOUT", None)), f"settings.{PREFIX}TIMEOUT")


def _get_algorithm() -> str:
    algorithm = _get("ALGORITHM", SLIDING_WINDOW)
    check_algorithm(algorithm, f"settings.{PREFIX}ALGORITHM")
    return str(algorithm)


def _get_view() -> View:
    view: View = _get("VIEW", None)
    if view is None or callable(view) or (isinstance(view, str) and "." in view):
        return view
    raise mistake(
        "VIEW",
        f"{masked(view)} is neither the path of a view, such as 'shop.views.too_many', nor the "
        "name of a template, such as 'too_many.html'.",
    )


def _get_trusted_proxies() -> TrustedProxies:
    value = number_of(_get("TRUSTED_PROXIES", None))
    if value is None:
        return NOBODY
    if type(value) is int and value >= 0:
        return TrustedProxies(hops=value) if value else NOBODY
    if isinstance(value, list | tuple | set | frozenset):
        networks = tuple(_parse_network(item) for item in value if item != UNIX)
        return TrustedProxies(networks=networks, unix=UNIX in value)
    raise mistake(
        "TRUSTED_PROXIES",
        f"{masked(value)} is neither a number of proxies, such as 1, nor a list of their "
        "networks, such as ['10.0.0.0/8'].",
    )


def _parse_network(network: object) -> IPv4Network | IPv6Network:
    try:
        parsed = ip_network(str(network))
    except ValueError as error:
        raise mistake(
            "TRUSTED_PROXIES",
            f"{masked(network)} is not a network: {clause(error)}. Use '10.0.0.0/8', "
            f"'2001:db8::/32' or one address, or {UNIX!r} for connections by a unix socket.",
        ) from error
    mapped = parsed.network_address.ipv4_mapped if isinstance(parsed, IPv6Network) else None
    if mapped is not None:  # clients' addresses of this form count as IPv4, too
        return IPv4Network((mapped, parsed.prefixlen - _MAPPED_BITS))
    return parsed


def _get_mask(name: str, default: int, most: int = 32) -> int:
    mask = number_of(_get(name, default))
    if type(mask) is not int or not 0 <= mask <= most:
        raise mistake(name, f"{masked(mask)} is not a number of bits from 0 to {most}.")
    return mask


def find_mistakes() -> Iterator[ImproperlyConfigured]:
    """Yield the first mistake in each setting that is set."""
    for name, read in _READERS.items():
        if hasattr(settings, PREFIX + name.upper()):
            try:
                read()
            except ImproperlyConfigured as error:
                yield error


_READERS: dict[str, Callable[[], Any]] = {
    "cluster": get_cluster,
    "prefix": _get_prefix,
    "fail_open": partial(_get_bool, "FAIL_OPEN", default=True),
    "timeout": _get_timeout,
    "algorithm": _get_algorithm,
    "enable": partial(_get_bool, "ENABLE", default=True),
    "view": _get_view,
    "trusted_proxies": _get_trusted_proxies,
    "ipv4_mask": partial(_get_mask, "IPV4_MASK", 32),
    "ipv6_mask": partial(_get_mask, "IPV6_MASK", 64, most=128),
}
NAMES = tuple(PREFIX + name.upper() for name in _READERS)


def check_prefix(prefix: object, whose: str) -> None:
    """Raise ImproperlyConfigured unless it is a valid prefix of stored keys."""
    if not isinstance(prefix, str) or not prefix or not prefix.isascii() or "{" in prefix:
        raise ImproperlyConfigured(
            f"{whose}: {masked(prefix)} is not a string of ASCII characters such as 'rl'. "
            "It must not contain '{', as a hash tag would put all limits on one node."
        )


def parse_timeout(timeout: object, whose: str) -> float | None:
    """Return a time in seconds as a Python number, None for None.

    Args:
        timeout: a number of any type, or a timedelta.
        whose: the name of the setting or argument, for the error.

    Raises:
        ImproperlyConfigured: it is not such a time.
    """
    if timeout is None:
        return None
    seconds = math.nan
    if isinstance(timeout, timedelta):
        seconds = timeout.total_seconds()
    elif not isinstance(timeout, bool) and isinstance(timeout, Real | Decimal):
        with suppress(OverflowError, ValueError):  # too large, or a signalling NaN
            seconds = float(timeout)
    if not 0 < seconds < 1e9:
        shown = timeout if isinstance(timeout, timedelta) else masked(timeout)
        raise ImproperlyConfigured(
            f"{whose}: {shown} is not a time in seconds above 0. Use None for the timeouts of "
            "the cluster."
        )
    return seconds


def mistake(name: str, text: str) -> ImproperlyConfigured:
    """Return the error for a setting: ``mistake("FAIL_OPEN", "'no' is …")``."""
    return ImproperlyConfigured(f"settings.{PREFIX}{name}: {text}")


@receiver(setting_changed)
def _reset_when_changed(*, setting: str, **kwargs: Any) -> None:
    """Follow override_settings() in tests."""
    if setting.startswith(PREFIX) or setting == "RB_CLUSTERS":
        get_config.cache_clear()
