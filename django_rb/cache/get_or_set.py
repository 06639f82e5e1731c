"""The methods of a cache that compute missing values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from inspect import isawaitable
from typing import TYPE_CHECKING, Any

from django.core.cache.backends.base import DEFAULT_TIMEOUT

from .beyond_django import BeyondDjango
from .codec import MISSING
from .terms import NOTHING, Seen, Terms, get_terms, refuse_awaitable

if TYPE_CHECKING:
    from .computing import Plan
    from .flights import Flight

Names = Mapping[bytes, Any]
Wanted = Mapping[bytes, Seen]
MakeKeys = Callable[[list[Any], int | None], list[bytes]]

UNKNOWN = object()  # the result for a key whose node failed


class GetOrSet(BeyondDjango):
    """`get_or_set` and related methods.

    Without the arguments `stale`, `lock`, `early`, `background` and `retry_after`, `get_or_set`
    works as Django's. With one of them, only one caller computes a missing value, and the
    others wait for it or get the stale one. See `django_rb.cache.computing`.
    """

    def get_or_set(
        self,
        key: Any,
        default: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
        *,
        stale: Any = None,
        lock: Any = None,
        early: bool | float = False,
        background: bool = False,
        retry_after: Any = None,
    ) -> Any:
        """Return the value of a key; if there is none, store `default` or what it returns.

        books = cache.get_or_set("books", fetch_books, 300, stale=60, lock=5)

        A value with a bad signature is replaced, which add() does not do. Times are in seconds,
        or timedeltas.

        Args:
            stale: how long after `timeout` a value may still be returned while one caller
                computes a new one, or while the function fails. The key expires after both.
            lock: how long the others wait for the caller that computes before they compute
                themselves; 5 by default. Give more than the function takes.
            early: sometimes compute a new value before the old one expires. This becomes more
                likely as the expiry approaches, and the longer the function takes. A number
                above 1 means earlier.
            background: compute a new value in another thread, and return the stale one.
            retry_after: if the function fails while there is a value to return, it is not
                called again for this time; 5 by default.
        """
        if stale is lock is retry_after is None and not early and not background:
            return self._get_or_set(key, default, timeout, version)
        ops = self._operations
        if ops is None or ops.cluster.is_retired:
            ops = self._ops
        made = ops.make_key(key, version)
        found = NOTHING
        if not ops.under_way or not _is_missed(ops.under_way.get(made)):
            look = ops.look(made, early, stale, lock, background, retry_after)
            found = ops.cluster.run(look, ops.deadline)
            if type(found) is not Seen:
                return found
        terms = get_terms(early, stale, lock, background, retry_after)
        return self._compute({made: key}, {made: found}, default, timeout, terms)[made]

    def get_or_set_many(
        self,
        keys: Iterable[Any],
        function: Callable[[list[Any]], Mapping[Any, Any]],
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
        *,
        stale: Any = None,
        lock: Any = None,
        early: bool | float = False,
        background: bool = False,
        retry_after: Any = None,
    ) -> dict[Any, Any]:
        """Return ``{key: value}``; those that are missing are computed in one call and stored.

        cache.get_or_set_many(ids, lambda missing: Book.objects.in_bulk(missing), 300)

        Args:
            function: takes a list of the keys that are to be computed, and returns a dictionary
                of their values. Keys that it leaves out are not stored, and not in the result.

        For the other arguments see `get_or_set`; here, too, one computes each key.
        """
        terms = get_terms(early, stale, lock, background, retry_after)
        ops = self._ops
        names = _named(keys, ops.make_keys, version)
        found = ops.run(ops.look_many(list(names), terms))
        wanted = _take_wanted(found)
        if wanted:
            found |= self._compute(names, wanted, function, timeout, terms, is_single=False)
        return {name: found[made] for made, name in names.items() if made in found}

    def refresh(
        self,
        key: Any,
        default: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
        *,
        stale: Any = None,
        lock: Any = None,
    ) -> Any:
        """Compute the value of a key now, whatever there is; store and return it.

        Computations that are already running do not overwrite it. For the arguments see
        `get_or_set`.
        """
        made = self._ops.make_key(key, version)
        terms = get_terms(stale=stale, lock=lock)
        names, wanted = {made: key}, {made: NOTHING}
        return self._compute(names, wanted, default, timeout, terms, is_forced=True)[made]

    # The same for event loops.

    async def aget_or_set(
        self,
        key: Any,
        default: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
        *,
        stale: Any = None,
        lock: Any = None,
        early: bool | float = False,
        background: bool = False,
        retry_after: Any = None,
    ) -> Any:
        """See `get_or_set`; `default`, or what it returns, is awaited if it can be."""
        if stale is lock is retry_after is None and not early and not background:
            return await self._aget_or_set(key, default, timeout, version)
        ops = self._ops
        made = ops.make_key(key, version)
        found = NOTHING
        if not _is_missed(ops.under_way.get(made)):
            look = ops.look(made, early, stale, lock, background, retry_after)
            found = await ops.arun(look)
            if type(found) is not Seen:
                return found
        terms = get_terms(early, stale, lock, background, retry_after)
        values = await self._acompute({made: key}, {made: found}, default, timeout, terms)
        return values[made]

    async def aget_or_set_many(
        self,
        keys: Iterable[Any],
        function: Callable[[list[Any]], Any],
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
        *,
        stale: Any = None,
        lock: Any = None,
        early: bool | float = False,
        background: bool = False,
        retry_after: Any = None,
    ) -> dict[Any, Any]:
        """See `get_or_set_many`; what the function returns is awaited if it can be."""
        terms = get_terms(early, stale, lock, background, retry_after)
        ops = self._ops
        names = _named(keys, ops.make_keys, version)
        found = await ops.arun(ops.look_many(list(names), terms))
        wanted = _take_wanted(found)
        if wanted:
            found |= await self._acompute(
                names, wanted, function, timeout, terms, is_single=False
            )
        return {name: found[made] for made, name in names.items() if made in found}

    async def arefresh(
        self,
        key: Any,
        default: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
        *,
        stale: Any = None,
        lock: Any = None,
    ) -> Any:
        """See `refresh`; `default`, or what it returns, is awaited if it can be."""
        made = self._ops.make_key(key, version)
        terms = get_terms(stale=stale, lock=lock)
        names, wanted = {made: key}, {made: NOTHING}
        found = await self._acompute(names, wanted, default, timeout, terms, is_forced=True)
        return found[made]

    # The steps of both.

    def _compute(
        self, names: Names, wanted: Wanted, default: Any, *args: Any, **options: Any
    ) -> dict[bytes, Any]:
        """Compute values in this thread; see `Computation`."""
        from .stepping import run  # noqa: PLC0415 (and with it redis-py)

        return run(self._ops, self._plan(names, wanted, default, *args, **options))

    async def _acompute(
        self, names: Names, wanted: Wanted, default: Any, *args: Any, **options: Any
    ) -> dict[bytes, Any]:
        """Compute values on the running event loop."""
        from .stepping import arun  # noqa: PLC0415

        plan = self._plan(names, wanted, default, *args, is_on_loop=True, **options)
        return await arun(self._ops, plan)

    def _plan(
        self,
        names: Names,
        wanted: Wanted,
        default: Any,
        timeout: Any,
        terms: Terms,
        **options: bool,
    ) -> Plan[dict[bytes, Any]]:
        from .computing import Computation  # noqa: PLC0415

        function = default if callable(default) else lambda: default
        expiry = self.get_backend_timeout(timeout)
        return Computation(self._ops, names, function, expiry, terms, **options).plan(wanted)

    def _get_or_set(self, key: Any, default: Any, timeout: Any, version: int | None) -> Any:
        """Do what Django's `get_or_set` does."""
        ops = self._ops
        found = ops.run(ops.get(key, MISSING, version, UNKNOWN))
        if found is not MISSING and found is not UNKNOWN:
            return found
        value = default() if callable(default) else default
        refuse_awaitable(value, default)
        if found is UNKNOWN:  # the node failed: do not wait for it again
            return value
        return self._run(ops.get_or_add(key, value, self.get_backend_timeout(timeout), version))

    async def _aget_or_set(
        self, key: Any, default: Any, timeout: Any, version: int | None
    ) -> Any:
        ops = self._ops
        found = await ops.arun(ops.get(key, MISSING, version, UNKNOWN))
        if found is not MISSING and found is not UNKNOWN:
            return found
        value = default() if callable(default) else default
        if isawaitable(value):
            value = await value
        if found is UNKNOWN:
            return value
        expiry = self.get_backend_timeout(timeout)
        return await ops.arun(ops.get_or_add(key, value, expiry, version))


def _is_missed(flight: Flight | None) -> bool:
    """Return whether a flight is running for a key without a value that can be served."""
    return flight is not None and flight.is_missed


def _named(keys: Iterable[Any], make_keys: MakeKeys, version: int | None) -> dict[bytes, Any]:
    """Return stored keys, and the caller's names of them."""
    distinct = list(dict.fromkeys(keys))
    return dict(zip(make_keys(distinct, version), distinct, strict=True))


def _take_wanted(found: dict[bytes, Any]) -> dict[bytes, Seen]:
    """Remove from `found` the keys that have to be computed, and return them."""
    wanted = {made: seen for made, seen in found.items() if type(seen) is Seen}
    for made in wanted:
        del found[made]
    return wanted
