"""Stampede protection: one caller computes a value, the others wait or get the stale one.

It is a plan: a generator without I/O that yields steps. A thread (`run`) or an event loop
(`arun`) executes them one by one. The plan is the same for one key and for many.

For each key that is missing or stale the plan finds out who computes it, in this order:

    another thread or task of this process    wait for its flight, without querying the node
    another process, which has the lease      query the node at intervals
    no other caller                           take the lease, and call the function

A caller with a stale value that may still be served does not wait.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from time import monotonic, perf_counter
from typing import Any, NamedTuple, TypeAlias, TypeVar

from ..engine.errors import failures_of
from ..engine.protocol.exchange import Batch
from ..engine.wording import get_logger
from .codec import MISSING
from .computed import Computed
from .flights import Flight
from .keys import loggable
from .leases import Stored
from .signing import BadSignature
from .tails import fingerprint
from .terms import Seen, Terms

T = TypeVar("T")

logger = get_logger("django_rb.cache")

# Seconds between two checks whether another process is done: the first, and the longest.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.002, 0.05

# A caller that has waited this often in a row computes itself. It is 2, because the first
# process may have died and another one taken over.
_WAITS = 2


class Ask(NamedTuple):
    """Run a batch."""

    batch: Batch[Any]


class Pause(NamedTuple):
    """Wait for some seconds."""

    seconds: float


class Wait(NamedTuple):
    """Wait for the end of a flight; the answer is whether it ended in time."""

    flight: Flight
    seconds: float


class Call(NamedTuple):
    """Call the function that computes."""

    function: Callable[..., Any]
    args: tuple[Any, ...]


class Aside(NamedTuple):
    """Execute another plan in the background."""

    plan: Plan[None]


Step: TypeAlias = Ask | Pause | Wait | Call | Aside
Plan: TypeAlias = Generator[Step, Any, T]


class Computation:
    """One call for the values of some keys.

    Args:
        ops: the operations of the cache.
        names: the caller's names of the keys.
        function: computes values; see `is_single`.
        is_single: whether the function takes nothing and returns the value; if not, it takes
            the names to compute and returns ``{name: value}``.
        timeout: for how many milliseconds values are fresh; None for ever.
        terms: how they are computed.
        is_forced: whether they are computed even if there is a value.
        is_on_loop: whether the steps are executed on an event loop.
    """

    def __init__(
        self,
        ops: Computed,
        names: Mapping[bytes, Any],
        function: Callable[..., Any],
        timeout: int | None,
        terms: Terms,
        *,
        is_single: bool = True,
        is_forced: bool = False,
        is_on_loop: bool = False,
    ) -> None:
        self._ops = ops
        self._flights = ops.flights
        self._names = names
        self._function = function
        self._is_single = is_single
        self._timeout = timeout
        self._terms = terms
        self._later_terms = terms._replace(beta=0.0)  # computed early at random only once
        self._is_forced = is_forced
        self._is_on_loop = is_on_loop
        self._results: dict[bytes, Any] = {}
        self._wanted: dict[bytes, Seen] = {}
        self._led: dict[bytes, Flight] = {}
        self._others: dict[bytes, Flight] = {}
        self._granted: dict[bytes, int | None] = {}
        self._waits_until: float | None = None
        self._pause = _FIRST_PAUSE

    def plan(self, wanted: Mapping[bytes, Seen]) -> Plan[dict[bytes, Any]]:
        """Compute values, or wait for others that do. Returns the values by key.

        Args:
            wanted: the `Seen` of each key.
        """
        self._wanted.update(wanted)
        try:
            while self._wanted:
                self._find_flights()
                yield from self._take()
                if self._granted:
                    yield from self._compute()
                elif self._wanted:
                    yield from self._wait()
        except BaseException:
            self._end(self._led)
            raise
        return self._results

    @property
    def _is_out_of_patience(self) -> bool:
        return self._waits_until is not None and monotonic() >= self._waits_until

    def _is_mine(self, flight: Flight) -> bool:
        """Return whether this caller would block a flight by waiting for it."""
        return flight.is_of_this_task() if self._is_on_loop else flight.is_of_this_thread()

    def _serve(self, key: bytes, value: Any) -> None:
        self._results[key] = value
        del self._wanted[key]

    def _end(self, led: Mapping[bytes, Flight], error: BaseException | None = None) -> None:
        """End flights without a value.

        Args:
            error: the error for those that wait. Errors of nodes are only for those that wait
                for their keys; exceptions that end this thread or task are for no other.
        """
        failed = (
            {key for failure in failures_of(error) for key in failure.keys} if error else ()
        )
        shared = error if isinstance(error, Exception) else None
        for key, flight in led.items():
            is_of_key = not failed or key in failed
            self._flights.end(key, flight, error=shared if is_of_key else None)

    def _find_flights(self) -> None:
        """Begin the flights that no other caller has begun."""
        self._others.clear()
        for key, seen in list(self._wanted.items()):
            if key in self._led:
                continue
            flight = self._flights.begin(key, is_missed=seen.value is MISSING)
            other = None if flight else self._flights.by_key.get(key)
            if other is not None:
                if seen.value is not MISSING and not self._is_forced:
                    self._serve(key, seen.value)
                    continue
                age = monotonic() - other.began
                if self._is_mine(other):  # the function has called for its own key
                    self._wanted[key] = seen._replace(is_unknown=True)
                    flight = Flight(is_missed=True)  # not shared with other callers
                elif self._is_forced:
                    flight = Flight(is_missed=True)
                elif age >= self._terms.lock or self._is_out_of_patience:
                    flight = self._flights.replace(key, other)
            if flight is not None:
                self._led[key] = flight
            elif other is not None:
                self._others[key] = other

    def _take(self) -> Plan[None]:
        """Ask for leases."""
        asked = []
        for key in self._led:
            if self._wanted[key].is_unknown or self._timeout == 0:
                self._granted[key] = None
            else:
                asked.append(key)
        if not asked:
            return
        is_overtaking = self._is_forced or self._is_out_of_patience
        try:
            told = yield Ask(self._ops.take(asked, self._terms, is_overtaking=is_overtaking))
        except Exception as error:
            self._end({key: self._led.pop(key) for key in asked}, error)
            raise
        unused: dict[bytes, int] = {}
        for key in asked:
            if key not in told:
                self._granted[key] = None
            elif self._is_served(key, *told[key]) and told[key][0] > 0:
                unused[key] = told[key][0]
        if unused:
            yield Ask(self._ops.end(unused))

    def _is_served(self, key: bytes, begun: int, data: bytes | None) -> bool:
        """Handle a key after asking for its lease; return whether it is done.

        Args:
            begun: above 0 where the lease was granted.
            data: what is stored.
        """
        found, seen = self._ops.judge(key, data, self._later_terms), self._wanted[key]
        if type(found) is not Seen:
            # It is fresh; if this is an early computation, it was so before.
            is_same = bool(seen.print) and seen.print == fingerprint(data)
            if not self._is_forced and not is_same:
                self._serve(key, found)
                self._flights.end(key, self._led.pop(key), data)
                return True
            found = seen._replace(value=found, print=fingerprint(data))
        self._wanted[key] = found
        if begun > 0:
            self._granted[key] = begun
        elif found.value is not MISSING:
            self._serve(key, found.value)
            self._flights.end(key, self._led.pop(key))
            return True
        else:
            self._pause = min(self._pause, max(-begun / 1000, _FIRST_PAUSE))
        return False

    def _compute(self) -> Plan[None]:
        granted, self._granted = self._granted, {}
        shares = []
        if self._terms.is_aside and not self._is_forced:
            aside = {k: b for k, b in granted.items() if self._wanted[k].value is not MISSING}
            granted = {k: b for k, b in granted.items() if k not in aside}
            shares.append((aside, True))
        shares.append((granted, False))
        for begun, is_aside in shares:
            if not begun:
                continue
            led = {key: self._led.pop(key) for key in begun}
            seen = {key: self._wanted[key] for key in begun}
            if is_aside:
                for key in begun:
                    self._serve(key, seen[key].value)
                yield Aside(self._settle_aside(begun, seen, led))
            else:
                values = yield from self._settle(begun, seen, led)
                for key in begun:
                    if key in values:
                        self._serve(key, values[key])
                    else:
                        del self._wanted[key]

    def _settle_aside(
        self,
        begun: Mapping[bytes, int | None],
        seen: Mapping[bytes, Seen],
        led: Mapping[bytes, Flight],
    ) -> Plan[None]:
        for flight in led.values():
            flight.belongs_here()
        yield from self._settle(begun, seen, led)

    def _settle(
        self,
        begun: Mapping[bytes, int | None],
        seen: Mapping[bytes, Seen],
        led: Mapping[bytes, Flight],
    ) -> Plan[dict[bytes, Any]]:
        """Call the function for keys whose leases were taken, and store what it returns.

        Returns the values by key; where it raises, those that may still be served.
        """
        leased = {key: when for key, when in begun.items() if when is not None}
        try:
            try:
                began = perf_counter()
                values = yield from self._call(begun)
                took = (perf_counter() - began) * 1000
                data = {key: self._ops.encode(value, key) for key, value in values.items()}
            except GeneratorExit:
                raise
            except BaseException as error:
                is_served = not self._is_forced and isinstance(error, Exception)
                served = {
                    key: seen[key].value
                    for key in begun
                    if is_served and seen[key].value is not MISSING
                }
                yield from self._give_up(leased, served)
                if len(served) < len(begun):
                    raise
                self._log(served, error)
                self._end(led)
                return served
            stored = yield Ask(
                self._ops.store(
                    {
                        key: Stored(
                            data[key],
                            -1 if self._timeout is None else self._timeout,
                            self._terms.stale,
                            took,
                            when,
                            seen[key].print,
                            seen[key].until,
                        )
                        for key, when in leased.items()
                        if key in data
                    }
                )
            )
        except BaseException as error:
            self._end(led, error)
            if not isinstance(error, Exception | GeneratorExit):
                yield from self._give_up(leased, ())  # cut short while it was stored
            raise
        results: dict[bytes, Any] = {}
        for key, made in data.items():
            # If its node failed, a key is not in `stored`: no newer value is known.
            self._flights.end(key, led[key], made if stored.get(key, True) else None)
            results[key] = self._ops.decode(made, key)
        left_out = {key: when for key, when in leased.items() if key not in data}
        self._end({key: led[key] for key in begun if key not in data})
        yield from self._give_up(left_out, ())
        return results

    def _call(self, keys: Iterable[bytes]) -> Plan[dict[bytes, Any]]:
        """Call the function; return its values by key."""
        if self._is_single:
            value = yield Call(self._function, ())
            return dict.fromkeys(keys, value)
        names = {key: self._names[key] for key in keys}
        values = yield Call(self._function, (list(names.values()),))
        if not isinstance(values, Mapping):
            raise TypeError(
                f"The function {self._function!r} returned {type(values).__name__}. It must "
                "return a dictionary that contains the values of the given keys."
            )
        return {key: values[name] for key, name in names.items() if name in values}

    def _give_up(self, leased: Mapping[bytes, int], served: Iterable[bytes]) -> Plan[None]:
        """End leases; those of keys with a value to serve only after a while."""
        resting = {key: leased[key] for key in served if key in leased}
        for share, rest in (
            (resting, self._terms.rest),
            ({key: when for key, when in leased.items() if key not in resting}, 0),
        ):
            if share:
                yield Ask(self._ops.end(share, rest))

    def _log(self, keys: Mapping[bytes, Any], error: BaseException) -> None:
        logger.warning(
            "Computing %s failed. Existing values are served; next attempt in %g s.",
            ", ".join(repr(loggable(key)) for key in list(keys)[:3]),
            self._terms.rest / 1000,
            exc_info=error,
        )

    def _wait(self) -> Plan[None]:
        """Wait for others that compute, for at most two leases."""
        now, lock = monotonic(), self._terms.lock
        if self._waits_until is None:
            self._waits_until = now + _WAITS * lock
        if self._led:
            yield Pause(max(0, min(self._pause, self._waits_until - now)))
            self._pause = min(self._pause * 1.5, _LONGEST_PAUSE)
            return
        for key, other in self._others.items():
            seconds = min(other.began + lock, self._waits_until) - now
            if not (yield Wait(other, seconds)):
                return
            data = other.outcome()
            if data is None:
                return
            try:
                self._serve(key, self._ops.decode(data, key))
            except BadSignature:  # of a cache with another key
                return
