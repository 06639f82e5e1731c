"""Compression of stored values: zlib, and zstd and lz4 as extras."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

from django.core.exceptions import ImproperlyConfigured


class Compressor(NamedTuple):
    """A compression format. Its code is stored with each value that it has compressed."""

    name: str
    code: int
    compress: Callable[[bytes], bytes]
    decompress: Callable[[bytes], bytes]


def _zlib() -> Compressor:
    return Compressor("zlib", ord("z"), zlib.compress, zlib.decompress)


def _zstd() -> Compressor:
    zstandard = _import("zstd", "zstandard")
    # The module's functions create a context for each call, as contexts are not thread-safe.
    return Compressor("zstd", ord("s"), zstandard.compress, zstandard.decompress)


def _lz4() -> Compressor:
    frame = _import("lz4", "lz4.frame")
    return Compressor("lz4", ord("l"), frame.compress, frame.decompress)


def _import(name: str, module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise ImproperlyConfigured(
            f"The compressor {name!r} requires the package {module.partition('.')[0]}: pip "
            f"install 'django-rb[{name}]'."
        ) from error


COMPRESSORS: dict[str, Callable[[], Compressor]] = {"zlib": _zlib, "zstd": _zstd, "lz4": _lz4}
_BY_CODE = {ord("z"): _zlib, ord("s"): _zstd, ord("l"): _lz4}


def get_compressor(name: object) -> Compressor:
    """Return the compressor for OPTIONS["COMPRESSOR"].

    Raises:
        ImproperlyConfigured: it is unknown, or its package is not installed.
    """
    if not isinstance(name, str) or name not in COMPRESSORS:
        raise ImproperlyConfigured(
            f"OPTIONS['COMPRESSOR']: {name!r} is unknown. Choose one of "
            f"{', '.join(map(repr, COMPRESSORS))}, or None to store values "
            f"uncompressed.{' It is a name, not a dotted path.' if '.' in str(name) else ''}"
        )
    return COMPRESSORS[name]()


def get_compressor_by_code(code: int) -> Compressor | None:
    """Return the compressor for the code in a stored value, None if it is unknown.

    Raises:
        ImproperlyConfigured: its package is not installed here.
    """
    make = _BY_CODE.get(code)
    return make and make()
