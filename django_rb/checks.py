"""What `manage.py check` can say of the settings. It connects to nothing.

django_rb.E001: a mistake in settings.RB_CLUSTERS.
django_rb.E002: a mistake in a cache of settings.CACHES that uses RBCache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.cache import caches
from django.core.checks import CheckMessage, Error, Tags, register
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from . import conf


@register(Tags.caches)
def check_clusters(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Report every mistake in settings.RB_CLUSTERS."""
    return [Error(str(error), id="django_rb.E001") for error in conf.find_all_mistakes()]


@register(Tags.caches)
def check_caches(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Report mistakes in the settings of every cache that is an RBCache."""
    from .cache import RBCache  # noqa: PLC0415 (what a site without it need not pay for)

    messages: list[CheckMessage] = []
    for alias, config in settings.CACHES.items():
        backend = config.get("BACKEND", "")
        try:
            backend_class = import_string(backend) if isinstance(backend, str) else backend
        except ImportError:
            continue  # Django says so itself
        if isinstance(backend_class, type) and issubclass(backend_class, RBCache):
            try:
                cache = caches[alias]
                assert isinstance(cache, RBCache)
                cache.check_settings()
            except ImproperlyConfigured as error:
                messages.append(
                    Error(f"settings.CACHES[{alias!r}]: {error}", id="django_rb.E002")
                )
    return messages
