"""What OPTIONS and TIMEOUT of a cache may say. Neither the engine nor redis-py is imported."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from ..times import to_milliseconds, to_seconds
from .signing import SIGNING_OPTIONS, Secret

OPTIONS = (
    "COMPRESSOR",
    "COMPRESS_MIN_BYTES",
    "CULL_FREQUENCY",  # Django's own; the server evicts by its maxmemory-policy
    "DEADLINE",
    "MAX_ENTRIES",  # likewise
    "NEAR",
    "ON_NODE_ERROR",
    "REVERSE_KEY_FUNCTION",
    "SERIALIZER",
    *SIGNING_OPTIONS,
    "WARM_FROM",
)

_OWN_CONNECTIONS = "Leave it out: the engine opens and pools its connections itself."
_OF_NODES = (
    "Use {!r} of a node in RB_CLUSTERS[alias]['HOSTS'], or 'HOST_DEFAULTS' for all nodes."
)
_OF_CONNECTIONS = "Use RB_CLUSTERS[alias]['POOL_OPTIONS'][{!r}]."

# Options of django-redis's and of Django's RedisCache, in capitals, and what there is instead.
OF_OTHERS = {
    "CLIENT_CLASS": "Leave it out: the cluster in LOCATION distributes the keys.",
    "CLOSE_CONNECTION": "Leave it out: connections stay open between requests.",
    "CONNECTION_FACTORY": _OWN_CONNECTIONS,
    "CONNECTION_POOL_CLASS": _OWN_CONNECTIONS,
    "CONNECTION_POOL_CLASS_KWARGS": "Use RB_CLUSTERS[alias]['POOL_OPTIONS'].",
    "CONNECTION_POOL_KWARGS": "Use RB_CLUSTERS[alias]['POOL_OPTIONS'].",
    "DB": _OF_NODES.format("db"),
    "IGNORE_EXCEPTIONS": "Use OPTIONS['ON_NODE_ERROR'] = 'miss'.",
    "LOG_IGNORED_EXCEPTIONS": "Leave it out: failures are logged by django_rb.health.",
    "MAX_CONNECTIONS": _OF_CONNECTIONS.format("max_connections"),
    "PARSER_CLASS": "Leave it out: replies are read by hiredis.",
    "PASSWORD": _OF_NODES.format("password"),
    "PICKLE_VERSION": "Use the protocol of a serializer: OPTIONS['SERIALIZER'] = "
    "django_rb.cache.PickleSerializer(protocol=4).",
    "POOL_CLASS": _OWN_CONNECTIONS,
    "REDIS_CLIENT_CLASS": _OWN_CONNECTIONS,
    "REDIS_CLIENT_KWARGS": "Use RB_CLUSTERS[alias]['POOL_OPTIONS'].",
    "SOCKET_CONNECT_TIMEOUT": _OF_CONNECTIONS.format("socket_connect_timeout"),
    "SOCKET_TIMEOUT": _OF_CONNECTIONS.format("socket_timeout"),
    "SSL": _OF_NODES.format("ssl"),
    "USERNAME": _OF_NODES.format("username"),
}


def without_secrets(options: Any) -> Any:
    """Return OPTIONS, secret values and those of misspelt options as Secret objects."""
    if not isinstance(options, Mapping):
        return options
    shown = frozenset(OPTIONS).difference(SIGNING_OPTIONS)
    return {name: value if name in shown else Secret(value) for name, value in options.items()}


def deadline_of(options: Mapping[str, Any]) -> Any:
    """Return DEADLINE, a timedelta in seconds and all else as it is."""
    deadline = options.get("DEADLINE")
    return deadline.total_seconds() if isinstance(deadline, timedelta) else deadline


def seconds_of(timeout: Any) -> int | float | None:
    """Return TIMEOUT as a number of seconds; None for keys that never expire.

    Raises:
        ImproperlyConfigured: it is no time.
    """
    if timeout is None:
        return None
    try:
        # Django reads text as well, for settings that come from the environment.
        if isinstance(timeout, str):
            number: int | float = float(timeout) if "." in timeout else int(timeout)
        else:
            number = to_seconds(timeout, "TIMEOUT")
        to_milliseconds(number, "TIMEOUT")
    except (TypeError, ValueError):
        raise ImproperlyConfigured(
            f"TIMEOUT of a cache is {timeout!r}. Give a number of seconds, a timedelta, or "
            "None for keys that never expire."
        ) from None
    return number
