"""The client of `map()`: commands return promises and run when the block ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from operator import itemgetter
from typing import Any, NoReturn, TypeAlias, cast

import redis
from redis.client import EMPTY_RESPONSE

from ..errors import NodeFailure, UnroutableCommand, attach
from ..protocol.encoding import Args, encode_key
from ..protocol.exchange import Batch
from ..rounds.commands import run_commands
from ..routing.routers import BaseRouter
from .base import NEVER_REFUSING, Combine, ManyNodesClient, Route, node_failures
from .port import ClientPort
from .promise import Promise, Unhandled, settle_each
from .recorded import KeptMethods, Options

# For a call that is not just one command routed by its first argument: the name of redis-py's
# reply callback, the number of commands that are sent, the function that combines their
# replies, and the call itself, if it is routed by its keys.
_Detail: TypeAlias = tuple[str, int, Combine | None, Args | None]

_NO_OPTIONS: Options = {}

_get_name, _get_key = itemgetter(0), itemgetter(1)


class MappingClient(ManyNodesClient):
    """Commands return promises; all of them run, nodes in parallel, when the block ends.

    with cluster.map() as client:
        hits = [client.get(f"page:{n}") for n in range(100)]
    [promise.value for promise in hits]

    Not thread-safe.
    """

    def __init__(
        self,
        cluster: ClientPort,
        max_concurrency: int | None = 64,
        *,
        auto_batch: bool = True,
        like: redis.Redis | None = None,
    ) -> None:
        super().__init__(cluster, auto_batch=auto_batch, like=like)
        if max_concurrency is not None and max_concurrency < 1:
            raise ValueError(
                f"max_concurrency={max_concurrency!r}: it is the number of nodes asked at a "
                "time, 1 or more; None asks all of them."
            )
        self._max_concurrency = max_concurrency
        # Pending commands, and the promises for their replies.
        self._commands: list[Args] = []
        self._promises: list[Promise[Any]] = []
        # The hosts of commands that are not routed by their first argument, by position.
        self._owners: dict[int, int] = {}
        # Details of promises that do not take the fast path, by position.
        self._details: dict[int, _Detail] = {}
        # The options of their reply callbacks, by position.
        self._options: dict[int, Options] = {}
        self._bound: set[int] = set()  # positions of commands for hosts that are given by id
        self._router = cluster.router  # the one that routed the pending commands
        self._unhandled = Unhandled()
        # To be raised by join(): errors of callbacks, and what failed on which node.
        self._raised: list[Exception] = []
        self._failures: list[NodeFailure] = []
        # Keys are placed together when the block ends, where none of them is refused.
        self._places_later = type(self._router) in NEVER_REFUSING
        self._gets_plainly = (
            self._places_later
            and "GET" in self._simple
            and type(self).execute_command is MappingClient.execute_command
        )

    def get(self, name: Any) -> Promise[Any]:  # type: ignore[override]
        """Return a promise for the value of a key; None if there is no such key."""
        if self._gets_plainly and type(name) is str and name.isascii():
            # The fast path of the most common call.
            promise: Promise[Any] = Promise(self._unhandled)
            self._commands.append(("GET", name))
            self._promises.append(promise)
            return promise
        return cast(Promise[Any], super().get(name))

    def execute_command(self, *args: Any, **options: Any) -> Promise[Any]:
        """Return a promise for the result of a command; nothing is sent yet.

        Raises:
            UnroutableCommand: its keys are on several nodes, or it has none.
        """
        return self._record(args, options)

    def __init_subclass__(cls) -> None:
        """Pass all commands to `execute_command` of a class that overrides it."""
        super().__init_subclass__()
        if cls.execute_command is not MappingClient.execute_command:
            cls._execute_kept = KeptMethods._execute_kept  # noqa: SLF001 (same room)

    def _record(self, args: tuple[Any, ...], options: Options) -> Promise[Any]:
        if len(args) == 1 and EMPTY_RESPONSE in options:  # mget([])
            return Promise.resolved(options[EMPTY_RESPONSE])
        sent = self._sendable(args)
        promise: Promise[Any] = Promise(self._unhandled)
        if not (
            self._places_later
            and ((len(sent) > 1 and sent[0] in self._simple) or self._is_simple(sent))
        ):
            self._add(promise, self._route(sent), cast(str, sent[0]), options, sent)
            return promise
        # It is routed, with all others, when it is sent.
        if options and (len(options) > 1 or "keys" not in options):
            self._options[len(self._promises)] = options
        self._commands.append(sent)
        self._promises.append(promise)
        return promise

    _execute_kept = _record

    def _add(
        self,
        promise: Promise[Any],
        route: Route,
        name: str,
        options: Options,
        call: Args | None,
        *,
        is_bound: bool = False,
    ) -> None:
        owners, commands, combine = route
        first = len(self._commands)
        if is_bound:
            self._bound.add(first)
        self._owners.update(enumerate(owners, first))
        self._commands += commands
        self._options[len(self._promises)] = options
        self._details[len(self._promises)] = (name, len(owners), combine, call)
        self._promises.append(promise)

    def join(self, timeout: float | None = None) -> None:
        """Run the pending commands and settle their promises.

        Args:
            timeout: seconds; promises that are pending then are rejected with a TimeoutError.

        When every node has finished, this raises the first error that no callback handled.
        `failures_of(error)` returns what failed on which node.
        """
        self._cluster.run(self._map(), timeout)

    async def ajoin(self, timeout: float | None = None) -> None:
        """Do what `join` does, on the running event loop."""
        await self._cluster.arun(self._map(), timeout)

    async def alearn(self) -> None:
        """Find out which nodes there are, if that is not known yet."""
        await self._cluster.alearn()

    def run_when_awaited(self, timeout: float | None = None) -> None:
        """From now on, awaiting a pending promise sends all pending commands.

        Errors are raised where their promises are awaited, or by `ajoin`.
        """
        self._unhandled.run = lambda: self._cluster.arun(self._settling(), timeout)

    def run_no_more(self) -> None:
        """From now on, awaiting a pending promise raises a RuntimeError."""
        self._unhandled.run = None

    def _map(self) -> Batch[None]:
        try:
            yield from self._settling()
            reasons = [reason for also in self._unhandled.values() for reason in also]
            errors = [each for each in reasons if isinstance(each, Exception)] + self._raised
            if errors:
                raise attach(errors, self._failures)
        finally:  # also after an interruption: they are not for the next call
            self._unhandled.clear()
            self._raised, self._failures = [], []

    def _settling(self) -> Batch[None]:
        while self._promises:  # callbacks may add commands
            if self._router is not self._cluster.router:
                self._route_anew()
                continue
            yield from self._run()

    def _run(self) -> Batch[None]:
        """Send the pending commands, settle their promises, and keep the failures."""
        cluster = self._cluster
        commands, owners, bound = self._commands[:], self._owners.copy(), self._bound.copy()
        promises = self._promises[:]
        details, options = self._details.copy(), self._options.copy()
        self.cancel()
        try:
            hosts = _hosts_of(cluster.router, commands, owners)
            replies = yield from run_commands(
                hosts,
                commands,
                merge=self.auto_batch,
                slot_of=None if cluster.layout is None else cluster.layout.get_slot,
                bound=bound,
                max_concurrency=self._max_concurrency,
            )
            values = self._values(commands, replies, len(promises), details, options)
        except BaseException as error:  # else other tasks would await the promises for ever
            self._reject(promises, error)
            raise
        raised, is_failing = settle_each(promises, values)
        self._raised += raised
        if is_failing:
            self._failures += node_failures(cluster, hosts, commands, replies)

    def _values(
        self,
        commands: Sequence[Args],
        replies: Sequence[Any],
        count: int,
        details: Mapping[int, _Detail],
        options: Mapping[int, Options],
    ) -> Sequence[Any]:
        """Return the value of each of `count` promises, or the exception that rejects it."""
        names = {*map(_get_name, commands), *map(_get_name, details.values())}
        callbacks = {name: self.response_callbacks.get(name) for name in names}
        if len(names) == 1 and not details:  # as in most batches
            alike = set(map(id, options.values()))
            if not options or (len(alike) == 1 and len(options) == count):
                [callback] = callbacks.values()
                given = next(iter(options.values()), _NO_OPTIONS)
                return _each_converted(replies, self._converter(callback, given))
        converters = {
            name: self._converter(callback, _NO_OPTIONS) for name, callback in callbacks.items()
        }
        values: list[Any] = []
        following = zip(commands, replies, strict=True)
        for position in range(count):
            args, reply = next(following)
            name, given = args[0], options.get(position, _NO_OPTIONS)
            if (detail := details.get(position)) is not None:
                name, number, combine, _ = detail
                if combine is not None:
                    others = (other for _, other in islice(following, number - 1))
                    reply = _combined([reply, *others], combine)
            if isinstance(reply, Exception):
                if isinstance(reply, redis.ResponseError) and EMPTY_RESPONSE in given:
                    reply = given[EMPTY_RESPONSE]
            else:
                convert = converters[name]
                if given is not _NO_OPTIONS:
                    convert = self._converter(callbacks[name], given)
                if convert is not None:
                    try:
                        reply = convert(reply)
                    except Exception as error:  # noqa: BLE001 (it is the promise's)
                        reply = error
            values.append(reply)
        return values

    def _route_anew(self) -> None:
        """Route the pending commands again: hosts were added or removed since."""
        self._router = self._cluster.router
        known = iter(self._commands[:])
        owners, bound = self._owners.copy(), self._bound.copy()
        promises = self._promises[:]
        details, options = self._details.copy(), self._options.copy()
        self.cancel()
        first = 0  # position of the first command of a promise
        for position, promise in enumerate(promises):
            detail = details.get(position)
            given = options.get(position, _NO_OPTIONS)
            count = 1 if detail is None else detail[1]
            commands = tuple(islice(known, count))
            owner, is_bound = owners.get(first), first in bound
            first += count
            if owner is None:
                if detail is not None:
                    self._details[len(self._promises)] = detail
                if given:
                    self._options[len(self._promises)] = given
                self._commands += commands
                self._promises.append(promise)
                continue
            assert detail is not None
            name, _, combine, call = detail
            try:
                if call is None:
                    self._check_host(owner)
                    route: Route = ((owner,), commands, combine)
                else:
                    route = self._route(call)
                self._add(promise, route, name, given, call, is_bound=is_bound)
            except UnroutableCommand as error:
                self._reject([promise], error)

    def _check_host(self, host_id: int) -> None:
        if host_id not in self._cluster.nodes:
            raise UnroutableCommand(f"Host {host_id} was removed before the command was sent.")

    def _reject(self, promises: Sequence[Promise[Any]], error: BaseException) -> None:
        """Reject the promises of an interrupted batch, whose commands may have run."""
        for promise in promises:
            reason = error
            if not isinstance(error, Exception):
                reason = redis.ConnectionError(
                    "The call was interrupted before all replies had arrived. The command may "
                    "have been executed."
                )
            try:
                if promise.is_pending:
                    promise.reject(reason)
            except Exception as raised:  # noqa: BLE001 (of a callback; the others are called)
                self._raised.append(raised)

    def cancel(self) -> None:
        """Drop the commands that were not sent yet; their promises stay pending."""
        self._commands.clear()
        self._promises.clear()
        self._owners.clear()
        self._details.clear()
        self._options.clear()
        self._bound.clear()

    def script_load(self, script: Any) -> Promise[str]:  # type: ignore[override]
        """Keep a script; nodes load it when it is first used."""
        return Promise.resolved(self._keep_script(script))

    def _not_promised(self, *_args: Any, **_options: Any) -> NoReturn:
        """Raise NotImplementedError: each page needs the cursor of the one before."""
        raise NotImplementedError(
            "Iterators such as scan_iter() need the reply to one page to ask for the next, but "
            f"{type(self).__name__} returns promises. Use those of "
            "cluster.get_routing_client(); its scan_iter() scans all nodes at once."
        )

    scan_iter = sscan_iter = hscan_iter = zscan_iter = _not_promised


def _each_converted(
    replies: Sequence[Any], convert: Callable[[Any], Any] | None
) -> Sequence[Any]:
    """Return replies as a function converts them; in place of a reply, what it raised."""
    if convert is None:
        return replies
    are_errors = any(issubclass(kind, Exception) for kind in set(map(type, replies)))
    values: list[Any] = []
    for reply in replies:
        value = reply
        if not (are_errors and isinstance(reply, Exception)):
            try:
                value = convert(reply)
            except Exception as error:  # noqa: BLE001 (it is the promise's)
                value = error
        values.append(value)
    return values


def _combined(parts: list[Any], combine: Combine) -> Any:
    """Return the reply to a command that was split: its first error, if there is one."""
    for part in parts:
        if isinstance(part, Exception):
            return part
    return combine(parts)


def _hosts_of(
    router: BaseRouter, commands: Sequence[Args], owners: Mapping[int, int]
) -> list[int]:
    """Return the host of each command: the one in `owners`, or its first argument's."""
    placed = commands
    if owners:
        placed = [args for position, args in enumerate(commands) if position not in owners]
    hosts = router.get_hosts_for_keys(
        [key.encode() if type(key) is str else encode_key(key) for key in map(_get_key, placed)]
    )
    if not owners:
        return hosts
    others = iter(hosts)
    return [
        owners[position] if position in owners else next(others)
        for position in range(len(commands))
    ]
