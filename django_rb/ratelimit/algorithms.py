"""How limits are counted: the algorithms, as scripts that run on the node of a limit's key.

A script is assembled from three parts: the clock, the arguments, and the decision of the
algorithm (the files in lua/). It uses the clock of its server, so the clocks of web servers do
not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from importlib.resources import files
from struct import Struct
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from ..engine.protocol.encoding import encode_words
from ..engine.protocol.scripts import KeyScript
from ..engine.rounds.scripts import ScriptCall
from ..engine.wording import did_you_mean, masked
from .rates import MAX_UNITS, Rate, whole_number

SLIDING_WINDOW = "sliding-window"
FIXED_WINDOW = "fixed-window"
TOKEN_BUCKET = "token-bucket"  # noqa: S105 (no password)

ALGORITHMS = (SLIDING_WINDOW, FIXED_WINDOW, TOKEN_BUCKET)

# The actions of a script.
HIT, PEEK, REFUND = b"hit", b"peek", b"refund"

_NO_CHARGE = (0.0, 0.0)

ARGUMENTS = 2  # of the scripts: what to do, and the numbers
_pack_numbers = Struct(">7d").pack

# A script's reply: ``(allowed, used, reset, retry, charged_at, level_before)``, all whole
# numbers; a refund needs the last two as arguments.
Answer = tuple[float, ...]
_answer = Struct(">6d")
read_answer = _answer.unpack


def is_answer(reply: Any, _kind: int) -> bool:
    """Return whether a node's reply can be the answer of a script."""
    return type(reply) is bytes and len(reply) == _answer.size


_BRACE = ord("{")
_MAX_KEY = 200  # bytes; longer ones are stored as their digest
_DIGEST = b"#"


def read_part(name: str) -> str:
    """Return a part of a script: "clock", "arguments" or the name of an algorithm."""
    return (files(__package__) / "lua" / f"{name.replace('-', '_')}.lua").read_text("utf-8")


def make_script(algorithm: str, clock: str, arguments: int = ARGUMENTS) -> KeyScript:
    """Return the script of an algorithm that reads the time by a clock of one's choice."""
    return KeyScript(clock + read_part("arguments") + read_part(algorithm), arguments)


SCRIPTS = {name: make_script(name, read_part("clock")) for name in ALGORITHMS}


class Rule:
    """What limits of the same rate, algorithm and burst have in common.

    Attributes:
        script: decides.
        burst: how many requests a full bucket has room for, if it was said.
        capacity: how many requests there is room for at once.
        window: the seconds in which so many become free, rounded up.
        ticks_per_second: in what the script counts time.
    """

    __slots__ = (
        "_heads", "_name", "_numbers", "_of_one", "burst", "capacity", "script",
        "ticks_per_second", "window",
    )  # fmt: skip

    def __init__(self, algorithm: str, rate: Rate, burst: int | None) -> None:
        self.script = SCRIPTS[algorithm]
        self.burst = burst
        is_never = rate.count == 0  # whatever the burst
        self.capacity = rate.count if burst is None or is_never else burst
        self.window = rate.period if is_never else -(-self.capacity * rate.period // rate.count)
        self._name = f"{algorithm}:{rate}"
        if algorithm == TOKEN_BUCKET:
            self._name += f":{self.capacity}"
        self._heads: dict[str, bytes] = {}
        # Milliseconds where there is room for the product of a count and a time.
        is_fine = max(rate.count, self.capacity) * rate.period * 1000 <= MAX_UNITS
        per_second = self.ticks_per_second = 1000 if is_fine else 1
        period, tick = rate.period * per_second, 1_000_000 // per_second
        self._numbers = (rate.count, period, tick, self.capacity)
        self._of_one = {action: self._encode(action, 1, _NO_CHARGE) for action in (HIT, PEEK)}

    def call(self, prefix: str, key: str | bytes, action: bytes, cost: int) -> ScriptCall:
        """Return what to run for a limit with a key."""
        return self.make_key(prefix, key), self.script, self.encode(action, cost)

    def encode(self, action: bytes, cost: int, charge: Sequence[float] = _NO_CHARGE) -> bytes:
        """Return the encoded arguments of the script; a refund says which charge it returns."""
        if cost == 1 and charge is _NO_CHARGE:
            return self._of_one[action]
        return self._encode(action, cost, charge)

    def _encode(self, action: bytes, cost: int, charge: Sequence[float]) -> bytes:
        cost = min(cost, self.capacity + 1)  # which is never allowed
        return encode_words((action, _pack_numbers(*self._numbers, cost, *charge)))

    def make_key(self, prefix: str, key: str | bytes) -> bytes:
        """Return the key of a limit as it is stored.

        It begins with everything that the state depends on, so that no state is misread. Long
        keys are stored as their SHA-256, and so are those with a hash tag, so that a client
        cannot choose the node.
        """
        stored = _encode_text(key) if isinstance(key, str) else key
        if len(stored) > _MAX_KEY or _BRACE in stored or stored.startswith(_DIGEST):
            stored = _DIGEST + sha256(stored).hexdigest().encode()
        head = self._heads.get(prefix)
        if head is None:
            head = self._heads[prefix] = f"{prefix}:{self._name}:".encode()
        return head + stored


def _encode_text(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return text.encode(errors="surrogatepass")


def make_rule(algorithm: str, rate: Rate, burst: int | None) -> Rule:
    """Return the rule of limits; `get_rule` remembers it.

    Raises:
        ImproperlyConfigured: there is no such algorithm, or it has no such burst.
        TypeError: the rate is no `Rate`.
    """
    if not isinstance(rate, Rate):
        raise TypeError(f"{masked(rate)} is not a Rate. Use parse_rate() to create one.")
    check_algorithm(algorithm, "algorithm")
    return Rule(
        algorithm, rate, None if burst is None else _parse_burst(burst, algorithm, rate)
    )


get_rule = lru_cache(maxsize=1024, typed=True)(make_rule)


def _parse_burst(burst: object, algorithm: str, rate: Rate) -> int:
    if algorithm != TOKEN_BUCKET:
        raise ImproperlyConfigured(
            f"burst: {masked(burst)} can only be used with the algorithm {TOKEN_BUCKET!r}, "
            f"not {algorithm!r}."
        )
    room = whole_number(burst)
    if room is None or room < 1:
        raise ImproperlyConfigured(
            f"burst: {masked(burst)} is not a whole number of 1 or more. Use None for the "
            "count of the rate."
        )
    if room * rate.period > MAX_UNITS:
        raise ImproperlyConfigured(
            f"burst: {room} in a bucket of {rate} cannot be counted exactly. The maximum is "
            f"{MAX_UNITS // rate.period}."
        )
    return room


def check_algorithm(algorithm: object, whose: str) -> None:
    """Raise ImproperlyConfigured unless there is an algorithm of this name.

    Args:
        whose: the setting or argument that names it, for the error.
    """
    if algorithm not in ALGORITHMS:
        raise ImproperlyConfigured(
            f"{whose}: there is no algorithm {masked(algorithm)}. "
            f"{did_you_mean(algorithm, ALGORITHMS)}"
        )
