"""The RATELIMIT_… settings, read in one place: validated, with every mistake explained."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.dispatch import receiver

from ..conf import check_alias
from ..engine.hosts import did_you_mean, masked
from .algorithms import ALGORITHMS

PREFIX = "RATELIMIT_"


@dataclass(frozen=True, slots=True)
class Config:
    """The settings of rate limits.

    Attributes:
        cluster: RATELIMIT_CLUSTER, an alias in RB_CLUSTERS.
        prefix: RATELIMIT_PREFIX, what the stored keys begin with.
        fail_open: RATELIMIT_FAIL_OPEN, whether a request passes whose limit's node failed.
        timeout: RATELIMIT_TIMEOUT, seconds for one check, None for the cluster's own.
        algorithm: RATELIMIT_ALGORITHM, the name of the one that is used where none is named.
    """

    cluster: str
    prefix: str
    fail_open: bool
    timeout: float | None
    algorithm: str


@lru_cache(maxsize=1)
def get_config() -> Config:
    """Return the settings as they are.

    Raises:
        ImproperlyConfigured: naming the setting, its value and the way out.
    """
    return Config(
        cluster=_get_cluster(),
        prefix=_get_prefix(),
        fail_open=_get_bool("FAIL_OPEN", default=True),
        timeout=_get_timeout(),
        algorithm=_get_algorithm(),
    )


def _get(name: str, default: Any) -> Any:
    return getattr(settings, PREFIX + name, default)


def _get_bool(name: str, *, default: bool) -> bool:
    value = _get(name, default)
    if not isinstance(value, bool):
        raise mistake(name, f"{masked(value)} is neither True nor False.")
    return value


def _get_cluster() -> str:
    alias: str = _get("CLUSTER", "default")
    check_alias(alias, f"settings.{PREFIX}CLUSTER")
    return alias


def _get_prefix() -> str:
    prefix = _get("PREFIX", "rl")
    check_prefix(prefix, f"settings.{PREFIX}PREFIX")
    return str(prefix)


def _get_timeout() -> float | None:
    timeout: float | None = _get("TIMEOUT", None)
    check_timeout(timeout, f"settings.{PREFIX}TIMEOUT")
    return timeout


def _get_algorithm() -> str:
    algorithm = _get("ALGORITHM", "sliding-window")
    check_algorithm(algorithm, f"settings.{PREFIX}ALGORITHM")
    return str(algorithm)


def check_prefix(prefix: object, whose: str) -> None:
    """Raise ImproperlyConfigured unless stored keys may begin with it."""
    if not isinstance(prefix, str) or not prefix or not prefix.isascii() or "{" in prefix:
        raise ImproperlyConfigured(
            f"{whose}: {masked(prefix)} is not a text of ASCII characters such as 'rl'. "
            "It has no '{', as a hash tag would put all limits on one node."
        )


def check_timeout(timeout: object, whose: str) -> None:
    """Raise ImproperlyConfigured unless it is a time in seconds, or None."""
    if timeout is None:
        return
    is_number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if not is_number or not 0 < timeout < 1e9:  # type: ignore[operator]
        raise ImproperlyConfigured(
            f"{whose}: {masked(timeout)} is not a time in seconds above 0. "
            "None is for the cluster's own timeouts."
        )


def check_algorithm(algorithm: object, whose: str) -> None:
    """Raise ImproperlyConfigured unless there is an algorithm of this name."""
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise ImproperlyConfigured(
            f"{whose}: There is no algorithm {masked(algorithm)}. "
            f"{did_you_mean(algorithm, list(ALGORITHMS))}"
        )


def mistake(name: str, text: str) -> ImproperlyConfigured:
    """Return the error for a setting: ``mistake("FAIL_OPEN", "'no' is …")``."""
    return ImproperlyConfigured(f"settings.{PREFIX}{name}: {text}")


@receiver(setting_changed)
def _reset_when_changed(*, setting: str, **kwargs: Any) -> None:
    """Follow override_settings() in tests."""
    if setting.startswith(PREFIX) or setting == "RB_CLUSTERS":
        get_config.cache_clear()
