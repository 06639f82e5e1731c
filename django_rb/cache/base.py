"""The base class of the backend: its settings and operations.

The engine and redis-py are imported when a cache is first used (see `_settings`), so that a
process that uses none does not import them.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache
from django.core.exceptions import ImproperlyConfigured
from django.utils.functional import cached_property  # Python 3.11's own has a lock

from ..times import to_milliseconds
from .options import seconds_of, without_secrets

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from ..engine import Cluster
    from ..engine.protocol.exchange import Batch
    from .codec import Codec
    from .computed import Computed
    from .keys import Keys
    from .settings import CacheSettings
    from .signing import SignedCodec

T = TypeVar("T")


class ClusterBackend(BaseCache):
    """A backend that runs operations on the cluster that LOCATION names.

    Args:
        location: the alias; "default" where it is empty.
        params: the cache's settings.
    """

    def __init__(self, location: str, params: dict[str, Any]) -> None:
        super().__init__({**params, "timeout": 300, "OPTIONS": {}})
        self._timeout = params.get("timeout", params.get("TIMEOUT", 300))
        with suppress(ImproperlyConfigured):  # raised by the first use
            # Django cuts fractions of a second off, and takes what is no time for 300.
            self.default_timeout = seconds_of(self._timeout)
        self._alias = location or "default"
        self._options = without_secrets(params.get("OPTIONS", {}))
        self._operations: Computed | None = None

    def check_settings(self) -> None:
        """Raise ImproperlyConfigured for a mistake in the settings; no I/O."""
        self._settings.check_location()

    @property
    def cluster(self) -> Cluster:
        """The cluster whose nodes store the keys of the cache."""
        return self._ops.cluster

    @property
    def key_maker(self) -> Keys:
        """Turns the cache's keys into stored keys and back, and makes patterns."""
        return self._settings.keys

    @property
    def codec(self) -> Codec | SignedCodec:
        """Turns values into stored bytes and back."""
        return self._settings.codec

    @cached_property
    def _settings(self) -> CacheSettings:
        from .settings import CacheSettings  # noqa: PLC0415 (and with it redis-py)

        return CacheSettings(self, self._alias, self._timeout, self._options)

    @property
    def _ops(self) -> Computed:
        ops = self._operations
        if ops is None or ops.cluster.is_retired:  # the settings may change in tests
            ops = self._operations = self._settings.make_operations()
        return ops

    def _run(self, operation: Batch[T]) -> T:
        return self._ops.run(operation)

    def _arun(self, operation: Batch[T]) -> Coroutine[Any, Any, T]:
        return self._ops.arun(operation)

    def get_backend_timeout(self, timeout: Any = DEFAULT_TIMEOUT) -> int | None:
        """Return a timeout in milliseconds: None for ever, 0 for already expired."""
        if timeout is DEFAULT_TIMEOUT:
            timeout = self.default_timeout
        return None if timeout is None else to_milliseconds(timeout)
