"""Values to bytes and back. A serializer is any object with `dumps` and `loads`."""

from __future__ import annotations

import json
import pickle
from typing import Any, Protocol

from django.core.exceptions import ImproperlyConfigured

from ..paths import import_path


class Serializer(Protocol):
    """What OPTIONS["SERIALIZER"] may be, or name, or make when called."""

    def dumps(self, value: Any, /) -> bytes:
        """Return a value as bytes."""

    def loads(self, data: bytes, /) -> Any:
        """Return the value of bytes that `dumps` made."""


class PickleSerializer:
    """Any Python object; Django's own format. Only for nodes that you trust."""

    def __init__(self, protocol: int = pickle.HIGHEST_PROTOCOL) -> None:
        self.protocol = protocol

    def dumps(self, value: Any, /) -> bytes:
        """Return a value as bytes."""
        return pickle.dumps(value, self.protocol)

    loads = staticmethod(pickle.loads)  # called for each value that is read


class JSONSerializer:
    """What JSON can say; dates, decimals and UUIDs are written as text and stay text."""

    def __init__(self) -> None:
        # It imports the models' half of Django, which not everybody needs.
        from django.core.serializers.json import DjangoJSONEncoder  # noqa: PLC0415

        self._encoder = DjangoJSONEncoder

    def dumps(self, value: Any, /) -> bytes:
        """Return a value as bytes."""
        return json.dumps(value, cls=self._encoder, separators=(",", ":")).encode()

    def loads(self, data: bytes, /) -> Any:
        """Return the value of bytes that `dumps` made."""
        return json.loads(data)


class MessagePackSerializer:
    """What MessagePack can say, bytes included; aware datetimes come back in UTC."""

    def __init__(self) -> None:
        try:
            import msgpack  # noqa: PLC0415 (an extra)
        except ImportError as error:
            raise ImproperlyConfigured(
                "The serializer 'msgpack' requires the package msgpack: pip install "
                "'django-rb[msgpack]'."
            ) from error
        self._packb, self._unpackb = msgpack.packb, msgpack.unpackb

    def dumps(self, value: Any, /) -> bytes:
        """Return a value as bytes."""
        data: bytes = self._packb(value, datetime=True)
        return data

    def loads(self, data: bytes, /) -> Any:
        """Return the value of bytes that `dumps` made."""
        return self._unpackb(data, timestamp=3, strict_map_key=False)


SERIALIZERS = {
    "pickle": PickleSerializer,
    "json": JSONSerializer,
    "msgpack": MessagePackSerializer,
}


def get_serializer(choice: Any) -> Serializer:
    """Return the serializer for OPTIONS["SERIALIZER"].

    Args:
        choice: "pickle", "json", "msgpack", a dotted path, a class, or an object.

    Raises:
        ImproperlyConfigured: it names nothing, or has no `dumps` and `loads`.
    """
    serializer: Any = SERIALIZERS.get(choice, choice) if isinstance(choice, str) else choice
    if isinstance(serializer, str):
        try:
            serializer = import_path(serializer)
        except ImportError as error:
            raise ImproperlyConfigured(
                f"OPTIONS['SERIALIZER']: {choice!r} cannot be imported: {error}. Choose one "
                f"of {', '.join(map(repr, SERIALIZERS))}, or the dotted path of your own."
            ) from error
    if isinstance(serializer, type):
        try:
            serializer = serializer()
        except TypeError as error:
            raise ImproperlyConfigured(
                f"OPTIONS['SERIALIZER']: {choice!r} cannot be created without arguments: "
                f"{error}. Give an instance, or the dotted path of one."
            ) from error
    missing = [
        name for name in ("dumps", "loads") if not callable(getattr(serializer, name, None))
    ]
    if missing:
        raise ImproperlyConfigured(
            f"OPTIONS['SERIALIZER']: {choice!r} has no {' and no '.join(missing)}(). Choose "
            f"one of {', '.join(map(repr, SERIALIZERS))}, or an object that has both methods."
        )
    result: Serializer = serializer
    return result
