"""A cache of the arguments that redis-py's methods send after the key.

In redis-py 8, `set` and `zrange` take longer to put these together than everything else that
`map()` does for a command.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from functools import lru_cache
from types import NoneType
from typing import Any, NamedTuple

import redis

from ..protocol.encoding import Args, with_text_for_numbers

# Options of these types are cached: they are small, and equal ones are sent alike.
_KEPT = frozenset({bool, int, float, timedelta, NoneType})

# The types of arguments that are sent without conversion by redis-py.
_SENT = frozenset({str, bytes, int, float})


class Recorded(NamedTuple):
    """The command that a method sends.

    Attributes:
        name: the name of the command.
        rest: the arguments after the first ones.
        options: the options for the conversion of the reply.
    """

    name: str
    rest: Args
    options: Mapping[str, Any]


class _Recorder(redis.Redis):
    """A client whose methods return what redis-py would send, and send nothing."""

    def __init__(self) -> None:
        pass

    def execute_command(self, *args: Any, **options: Any) -> Any:
        return args, options


_recorder = _Recorder()


class NotKept(Exception):
    """The command for these options is not cached."""


@lru_cache(maxsize=1024, typed=True)  # a site has few timeouts, and few ranges
def get_recorded(method: str, count: int, *args: Any, **options: Any) -> Recorded:
    """Return what redis-py sends for a method.

    Args:
        count: how many first arguments, the key included, are sent as they are.
        args, options: the other arguments, by position and by name.

    Raises:
        NotKept: the command is not cached.
        TypeError: an argument is not hashable, or redis-py refuses the arguments.
        redis.DataError: redis-py refuses the arguments.
    """
    first = ("",) * count
    sent, meaning = getattr(_recorder, method)(*first, *args, **options)
    rest = sent[1 + count :]
    if not (
        _KEPT.issuperset(map(type, (*args, *options.values())))
        and _SENT.issuperset(map(type, rest))
    ):
        raise NotKept
    meaning.pop("keys", None)  # for redis-py's own client-side cache only
    return Recorded(sent[0], with_text_for_numbers(rest), meaning)
