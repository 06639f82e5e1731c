"""What redis-py's methods send after the key, put together once for each set of options.

In redis-py 8, `set` and `zrange` take longer for that than all else of a command in `map()`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from functools import lru_cache
from types import NoneType
from typing import Any, NamedTuple

import redis

from ..protocol.encoding import Args, with_text_for_numbers

# Options of these types are kept: they are small, and are what they are equal to.
_KEPT = frozenset({bool, int, float, timedelta, NoneType})

# What can be sent as it is.
_SENT = frozenset({str, bytes, int, float})


class Recorded(NamedTuple):
    """What a method sends.

    Attributes:
        name: of the command.
        rest: what follows the first arguments.
        options: by which the reply is read.
    """

    name: str
    rest: Args
    options: Mapping[str, Any]


class _Recorder(redis.Redis):
    """Executes nothing: its methods return what they would have."""

    def __init__(self) -> None:
        pass

    def execute_command(self, *args: Any, **options: Any) -> Any:
        return args, options


_recorder = _Recorder()


class NotKept(Exception):
    """What redis-py sends for these options is not kept."""


@lru_cache(maxsize=1024, typed=True)  # a site has few timeouts, and few ranges
def get_recorded(method: str, count: int, *args: Any, **options: Any) -> Recorded:
    """Return what redis-py sends for a method.

    Args:
        count: how many first arguments are sent as they are, the key among them.
        args, options: the others, by position and by name.

    Raises:
        NotKept: it is not kept; TypeError: nor can it be, or redis-py refuses them.
        redis.DataError: what redis-py raises for them.
    """
    first = ("",) * count
    sent, meaning = getattr(_recorder, method)(*first, *args, **options)
    rest = sent[1 + count :]
    if not (
        _KEPT.issuperset(map(type, (*args, *options.values())))
        and _SENT.issuperset(map(type, rest))
    ):
        raise NotKept
    meaning.pop("keys", None)  # those of redis-py's own cache
    return Recorded(sent[0], with_text_for_numbers(rest), meaning)
