"""A cache of the arguments that redis-py's methods send after the key.

In redis-py 8, `set` and `zrange` take longer to put these together than everything else that
`map()` does for a command.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from functools import lru_cache
from types import NoneType
from typing import Any, NamedTuple, TypeAlias

import redis

from ..protocol.encoding import Args, with_text_for_numbers

# Options of these types are cached: they are small, and equal ones are sent alike.
_KEPT = frozenset({bool, int, timedelta, NoneType})

# The types of arguments that are sent without conversion by redis-py.
_SENT = frozenset({str, bytes, int, float})


Options: TypeAlias = Mapping[str, Any]
"""Options for the conversion of a reply, as redis-py's methods give them."""


class Recorded(NamedTuple):
    """The command that a method sends.

    Attributes:
        name: the name of the command.
        rest: the arguments after the first ones.
        options: the options for the conversion of the reply.
    """

    name: str
    rest: Args
    options: Options


class _Recorder(redis.Redis):
    """A client whose methods return what redis-py would send, and send nothing."""

    def __init__(self) -> None:
        pass

    def execute_command(self, *args: Any, **options: Any) -> Any:
        return args, options


_recorder = _Recorder()


def _get_recorded(
    method: str, count: int, args: tuple[Any, ...], options: Mapping[str, Any]
) -> Recorded | None:
    """Return what redis-py sends for a method; None if that is not kept.

    Args:
        count: how many first arguments are sent as they are, the key among them.
        args, options: the others, by position and by name.

    Raises:
        TypeError, redis.DataError: what redis-py raises for them.
    """
    # First of all: a cache would hash and compare whatever it is given.
    for value in args:
        if type(value) not in _KEPT:
            return None
    if not options:  # a call with ** takes longer, also of no options
        return _record(method, count, *args)
    for value in options.values():
        if type(value) not in _KEPT:
            return None
    return _record(method, count, *args, **options)


@lru_cache(maxsize=1024, typed=True)  # a site has few timeouts, and few ranges
def _record(method: str, count: int, *args: Any, **options: Any) -> Recorded | None:
    first = ("",) * count
    sent, meaning = getattr(_recorder, method)(*first, *args, **options)
    rest = sent[1 + count :]
    if not _SENT.issuperset(map(type, rest)):
        return None
    meaning.pop("keys", None)  # those of redis-py's own cache
    return Recorded(sent[0], with_text_for_numbers(rest), meaning)


class KeptMethods(redis.Redis):
    """Methods of redis-py that put their arguments together once for all like calls."""

    def set(self, name: Any, value: Any, *args: Any, **options: Any) -> Any:
        """Set the value of a key; see redis-py's `set`."""
        recorded = _get_recorded("set", 2, args, options)
        if recorded is None:
            return super().set(name, value, *args, **options)
        command, rest, meaning = recorded
        return self._execute_kept((command, name, value, *rest), meaning)

    def zrange(self, name: Any, *args: Any, **options: Any) -> Any:
        """Return a range of a sorted set; see redis-py's `zrange`."""
        recorded = _get_recorded("zrange", 1, args, options)
        if recorded is None:
            return super().zrange(name, *args, **options)
        command, rest, meaning = recorded
        return self._execute_kept((command, name, *rest), meaning)

    def _execute_kept(self, args: tuple[Any, ...], options: Options) -> Any:
        """Do what `execute_command` does. The options are shared: not to be changed."""
        return self.execute_command(*args, **options)  # type: ignore[no-untyped-call]
