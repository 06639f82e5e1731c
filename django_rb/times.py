"""Converts times, a timedelta or a number of any type, to Python's own numbers.

Numbers of other types, such as numpy's, are converted before any calculation, as results may
overflow in their own type.
"""

from __future__ import annotations

import reprlib
from datetime import datetime, timedelta
from operator import index

# The server adds its clock to the milliseconds and has 64 bits for the sum.
_MAX_MILLISECONDS = 2**62

_UNITS = {1000: "seconds", 1: "milliseconds"}


def to_seconds(value: object, argument: str) -> int | float:
    """Return a time in seconds as an int or a float.

    to_seconds(numpy.int32(60), "timeout")          # 60
    to_seconds(timedelta(minutes=1), "timeout")     # 60.0

    Args:
        value: a timedelta, or a number of seconds of any type.
        argument: its name in errors.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(value, timedelta):
        return value.total_seconds()
    return _number(value, argument, "seconds, or a timedelta")


def to_milliseconds(value: object, argument: str = "timeout", unit: int = 1000) -> int:
    """Return a time in whole milliseconds; 0 if it has already passed.

    Args:
        value: a timedelta, or a number of any type.
        argument: its name in errors.
        unit: the unit of a number in milliseconds: 1000 for seconds, 1 for milliseconds.

    Raises:
        TypeError: it is neither.
        ValueError: it is not a number, or too large for a server.
    """
    number: int | float
    if type(value) is int:  # the usual case
        number = value * unit
    elif isinstance(value, timedelta):
        number = value / timedelta(milliseconds=1)
    else:
        number = _number(value, argument, f"{_UNITS[unit]}, or a timedelta") * unit
    if number <= 0:
        return 0
    if not number < _MAX_MILLISECONDS:  # nor is NaN
        raise ValueError(
            f"A {argument} of {value!r} {_UNITS[unit]} is not a valid time. Use None for keys "
            "that never expire."
        )
    return number if type(number) is int else max(1, round(number))


def to_unix_milliseconds(when: object, argument: str) -> int:
    """Return a point in time as Unix time in milliseconds; 0 for times before 1970.

    Args:
        when: a datetime, in local time if it is naive, or Unix time in seconds.
        argument: its name in errors.

    Raises:
        TypeError: it is neither.
        ValueError: it is not a number, or too large for a server.
    """
    if isinstance(when, datetime):
        seconds: int | float = when.timestamp()
    else:
        seconds = _number(when, argument, "Unix seconds, or a datetime")
    return to_milliseconds(seconds, argument)


def _number(value: object, argument: str, kinds: str) -> int | float:
    kind = type(value)
    if kind is int or kind is float:
        return value  # type: ignore[return-value]
    try:
        return int(index(value))  # type: ignore[arg-type]  # not a child of int
    except TypeError:
        pass
    # float() would also accept text.
    if hasattr(kind, "__float__") and not isinstance(value, str | bytes):
        try:
            return float(value)  # type: ignore[arg-type]
        except TypeError:
            pass
    raise TypeError(
        f"The {argument} {reprlib.repr(value)} is of type {kind.__name__}. "
        f"Give a number of {kinds}."
    )
