"""Reading CACHES[alias] when a cache is first used, and creating its operations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from django.core.cache.backends.base import BaseCache
from django.core.exceptions import ImproperlyConfigured

from .. import conf
from ..engine import BadHostSetup
from ..engine.nodes.option_checks import check_seconds
from ..engine.wording import clause, did_you_mean, number_of
from ..paths import import_path
from ..registry import clusters
from .codec import Codec
from .compressors import get_compressor
from .computed import Computed
from .keys import Keys
from .near import NearOperations
from .near_options import near_options_of
from .options import OF_OTHERS, OPTIONS, deadline_of, seconds_of
from .serializers import get_serializer
from .signing import SignedCodec, get_signer

ON_NODE_ERROR = ("raise", "miss")
DEFAULT_COMPRESS_MIN_BYTES = 1024


class CacheSettings:
    """The settings of one cache; TIMEOUT and OPTIONS are checked. No I/O.

    Args:
        cache: the cache.
        alias: the alias in LOCATION; it may be wrong, or become so.
        timeout: its TIMEOUT.
        options: its OPTIONS, those that concern signing as Secret objects.

    Raises:
        ImproperlyConfigured: with the setting, the value and what to do.
    """

    def __init__(
        self, cache: BaseCache, alias: str, timeout: object, options: Mapping[str, Any]
    ) -> None:
        seconds_of(timeout)
        if not isinstance(options, Mapping):
            raise ImproperlyConfigured(
                f"OPTIONS of a cache is a {type(options).__name__}, not a dictionary."
            )
        if unknown := [name for name in options if name not in OPTIONS]:
            raise ImproperlyConfigured(
                " ".join(
                    f"OPTIONS[{name!r}] of a cache is unknown. {_way_out(name)}"
                    for name in unknown
                )
            )
        self._alias = alias
        self.codec = _codec(options)
        self.keys = Keys(cache, _function(options, "REVERSE_KEY_FUNCTION"))
        self._raises = _choice(options, "ON_NODE_ERROR", ON_NODE_ERROR) == "raise"
        self._deadline = _deadline(options)
        self._warm_from = options.get("WARM_FROM")
        self._near = near_options_of(options)
        if self._near is not None:
            if self._warm_from is not None:
                raise ImproperlyConfigured(
                    "A cache has both OPTIONS['NEAR'] and OPTIONS['WARM_FROM']. Leave NEAR "
                    "out until all keys are in the new layout: changes in the old one are not "
                    "noticed."
                )
            if self._near.prefixes is not None:
                self.keys.matcher(self._near.prefixes)

    @property
    def is_warming(self) -> bool:
        """Whether the cache has WARM_FROM, an old layout to read missing keys from."""
        return self._warm_from is not None

    def check_location(self) -> None:
        """Raise ImproperlyConfigured unless LOCATION and WARM_FROM name two clusters."""
        conf.check_alias(self._alias, "the LOCATION of a cache")
        if self._warm_from is not None:
            _check_warm_from(self._warm_from, self._alias)

    def make_operations(self) -> Computed:
        """Return the cache's operations on the current cluster of its alias.

        Raises:
            ImproperlyConfigured: there is none, or its settings have a mistake.
        """
        self.check_location()
        cluster = clusters[self._alias]
        arguments = (cluster, self.keys, self.codec)
        make: Callable[..., Computed] = Computed
        if self._near is not None:
            make = partial(NearOperations, near=self._near)
        elif self._warm_from is not None:
            from .warming.old_layout import OldLayout  # noqa: PLC0415 (few caches need it)
            from .warming.operations import WarmingOperations  # noqa: PLC0415

            old = OldLayout(cluster, clusters[self._warm_from], self._deadline)
            make = partial(WarmingOperations, old=old)
        return make(*arguments, raises=self._raises, deadline=self._deadline)


def _check_warm_from(alias: object, location: str) -> None:
    option = "OPTIONS['WARM_FROM'] of a cache"
    if not isinstance(alias, str):
        raise ImproperlyConfigured(
            f"{option} is of type {type(alias).__name__}. Give one alias in "
            f"settings.{conf.SETTING}: a cache has one old layout at a time."
        )
    conf.check_alias(alias, option)
    if alias == location:
        raise ImproperlyConfigured(
            f"{option} is {alias!r}, which is also its LOCATION. Add the old layout to "
            "settings.RB_CLUSTERS with a separate alias."
        )


def _way_out(name: object) -> str:
    """Return a hint about an unknown option."""
    return OF_OTHERS.get(str(name).upper()) or did_you_mean(name, OPTIONS)


def _codec(options: Mapping[str, Any]) -> Codec | SignedCodec:
    compressor = options.get("COMPRESSOR")
    codec = Codec(
        get_serializer(options.get("SERIALIZER", "pickle")),
        None if compressor is None else get_compressor(compressor),
        _size(options, "COMPRESS_MIN_BYTES", DEFAULT_COMPRESS_MIN_BYTES),
    )
    signer = get_signer(options)
    return codec if signer is None else SignedCodec(codec, signer)


def _choice(options: Mapping[str, Any], name: str, choices: tuple[str, ...]) -> str:
    choice = options.get(name, choices[0])
    if choice not in choices:
        raise ImproperlyConfigured(
            f"OPTIONS[{name!r}] of a cache is {choice!r}. "
            f"Choose one of {', '.join(map(repr, choices))}."
        )
    return str(choice)


def _deadline(options: Mapping[str, Any]) -> float | None:
    seconds: float | None = number_of(deadline_of(options))
    try:
        check_seconds(seconds, ())
    except BadHostSetup as error:
        raise ImproperlyConfigured(f"OPTIONS['DEADLINE'] of a cache: {error}") from None
    return seconds


def _size(options: Mapping[str, Any], name: str, default: int) -> int:
    size = number_of(options.get(name, default))
    if type(size) is not int or size < 0:
        raise ImproperlyConfigured(
            f"OPTIONS[{name!r}] of a cache is {size!r}. Give a number of bytes, 0 or more."
        )
    return size


def _function(options: Mapping[str, Any], name: str) -> Callable[[str], str] | None:
    function = options.get(name)
    if isinstance(function, str):
        try:
            function = import_path(function)
        except ImportError as error:
            raise ImproperlyConfigured(
                f"OPTIONS[{name!r}] of a cache: {options[name]!r} cannot be imported: "
                f"{clause(error)}. Give the dotted path of a function."
            ) from error
    if function is not None and not callable(function):
        raise ImproperlyConfigured(
            f"OPTIONS[{name!r}] of a cache is {function!r}. Give a function or its dotted path."
        )
    return function
