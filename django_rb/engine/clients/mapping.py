"""The client whose commands become promises, and run when its block ends."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any, NoReturn, TypeAlias, cast

import redis
from redis.client import EMPTY_RESPONSE

from ..errors import NodeFailure, UnroutableCommand, attach
from ..protocol.encoding import Args
from ..protocol.exchange import Batch
from ..rounds.commands import run_commands
from .base import Combine, ManyNodesClient, Route, node_failures
from .port import ClientPort
from .promise import Promise, Unhandled, resolve_each

_Detail: TypeAlias = tuple[str, dict[str, Any], int, Combine | None, tuple[Any, ...] | None]

_PLAIN_GET: _Detail = ("GET", {}, 1, None, ())

# Types of replies that are values as they are.
_UNCONVERTED = frozenset({bytes, type(None)})


class MappingClient(ManyNodesClient):
    """Commands become promises; all of them run, side by side, when the block ends.

    with cluster.map() as client:
        hits = [client.get(f"page:{n}") for n in range(100)]
    [promise.value for promise in hits]

    For one thread.
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
        # What waits to be sent, and the promises of its replies.
        self._owners: list[int] = []
        self._commands: list[Args] = []
        self._promises: list[Promise[Any]] = []
        # For promises, by position, whose value is more than the next reply as it is: the
        # name that redis-py knows the conversion by, its options, how many commands the
        # call became, how their replies become one, and the call, if its keys route it.
        self._details: dict[int, _Detail] = {}
        self._bound: set[int] = set()  # positions of commands that were sent to hosts by id
        self._router = cluster.router  # that of what waits
        self._unhandled = Unhandled()
        # What nobody was told of: errors of callbacks, and what failed on which node.
        self._raised: list[Exception] = []
        self._failures: list[NodeFailure] = []
        self._gets_plainly = (
            "GET" in self._simple
            and self._decode is None
            and "GET" not in self.response_callbacks
        )

    def get(self, name: Any) -> Promise[Any]:  # type: ignore[override]
        """Return a promise for the value of a key; None where there is no such key."""
        if self._gets_plainly and type(name) is str:
            # What most calls of most batches are, without the detours of the rest.
            owner = self._cluster.router.get_host_for_key(name.encode())
            promise: Promise[Any] = Promise(self._unhandled)
            self._owners.append(owner)
            self._commands.append(("GET", name))
            self._promises.append(promise)
            return promise
        return cast(Promise[Any], super().get(name))

    def execute_command(self, *args: Any, **options: Any) -> Promise[Any]:
        """Return a promise for the result of a command that is yet to be sent.

        Raises:
            UnroutableCommand: its keys live on several nodes, or it has none.
        """
        if EMPTY_RESPONSE in options and len(args) == 1:  # mget([])
            return Promise.resolved(options[EMPTY_RESPONSE])
        promise: Promise[Any] = Promise(self._unhandled)
        self._add(promise, self._route(args), args[0], options, args)
        return promise

    def _add(
        self,
        promise: Promise[Any],
        route: Route,
        name: str,
        options: dict[str, Any],
        call: tuple[Any, ...] | None,
        *,
        is_bound: bool = False,
    ) -> None:
        owners, commands, combine = route
        if is_bound:
            self._bound.add(len(self._commands))
        self._owners += owners
        self._commands += commands
        self._details[len(self._promises)] = (name, options, len(owners), combine, call)
        self._promises.append(promise)

    def join(self, timeout: float | None = None) -> None:
        """Run what was asked for and settle its promises.

        Args:
            timeout: seconds; what is unfinished then is rejected with a TimeoutError.

        Raises:
            The first error that nobody handled, of its own type, after every node has
            finished. `failures_of(error)` says what failed on which node.
        """
        self._cluster.run(self._map(), timeout)

    async def ajoin(self, timeout: float | None = None) -> None:
        """Run what was asked for on the event loop that runs; see `join`."""
        await self._cluster.arun(self._map(), timeout)

    async def alearn(self) -> None:
        """Find out which nodes there are, if that is not known yet."""
        await self._cluster.alearn()

    def run_when_awaited(self, timeout: float | None = None) -> None:
        """Let a pending promise that is awaited have everything sent that waits.

        What fails is left to its promises, and to `ajoin`.
        """
        self._unhandled.run = lambda: self._cluster.arun(self._settling(), timeout)

    def run_no_more(self) -> None:
        """Let a pending promise that is awaited raise a RuntimeError."""
        self._unhandled.run = None

    def _map(self) -> Batch[None]:
        yield from self._settling()
        reasons = [reason for also in self._unhandled.values() for reason in also]
        errors = [reason for reason in reasons if isinstance(reason, Exception)] + self._raised
        failures = self._failures
        self._unhandled.clear()
        self._raised, self._failures = [], []
        if errors:
            raise attach(errors, failures)

    def _settling(self) -> Batch[None]:
        while self._promises:  # callbacks may ask for more
            if self._router is not self._cluster.router:
                self._route_anew()
                continue
            yield from self._run()

    def _run(self) -> Batch[None]:
        """Send what waits, settle its promises, and keep what failed on which node."""
        cluster = self._cluster
        owners, commands, bound = self._owners[:], self._commands[:], self._bound.copy()
        promises, details = self._promises[:], self._details.copy()
        self.cancel()
        try:
            replies = yield from run_commands(
                owners,
                commands,
                merge=self.auto_batch,
                slot_of=None if cluster.layout is None else cluster.layout.get_slot,
                bound=bound,
                max_concurrency=self._max_concurrency,
            )
        except BaseException as error:  # who else awaits one of them must not wait for ever
            self._reject(promises, error)
            raise
        if not details and _UNCONVERTED.issuperset(map(type, replies)):
            self._raised += resolve_each(promises, replies)
            return
        following = iter(replies)
        is_failing = False
        for position, promise in enumerate(promises):
            reply = next(following)
            if (detail := details.get(position)) is not None:
                name, options, count, combine, _ = detail
                if combine is not None:
                    reply = _combined([reply, *islice(following, count - 1)], combine)
                if isinstance(reply, redis.ResponseError) and EMPTY_RESPONSE in options:
                    reply = options[EMPTY_RESPONSE]
                elif not isinstance(reply, Exception):
                    try:
                        reply = self._convert(name, reply, options)
                    except Exception as error:  # noqa: BLE001 (it is the promise's)
                        reply = error
            try:
                if isinstance(reply, Exception):
                    is_failing = True
                    promise.reject(reply)
                else:
                    promise.resolve(reply)
            except Exception as error:  # noqa: BLE001 (a callback's; the others go on)
                self._raised.append(error)
        if is_failing:
            self._failures += node_failures(cluster, owners, commands, replies)

    def _route_anew(self) -> None:
        """Route what waits by the router of now: hosts came or went since it was told."""
        self._router = self._cluster.router
        known = iter(list(zip(self._owners, self._commands, strict=True)))
        bound, position_of_command = self._bound.copy(), 0
        promises, details = self._promises[:], self._details.copy()
        self.cancel()
        for position, promise in enumerate(promises):
            name, options, count, combine, call = details.get(position, _PLAIN_GET)
            owners, commands = zip(*islice(known, count), strict=True)
            is_bound = position_of_command in bound
            position_of_command += count
            try:
                if call is None:
                    self._check_host(owners[0])
                    route = (owners, commands, combine)
                    self._add(promise, route, name, options, None, is_bound=is_bound)
                    continue
                call = call or commands[0]
                self._add(promise, self._route(call), name, options, call)
            except UnroutableCommand as error:
                self._reject([promise], error)

    def _check_host(self, host_id: int) -> None:
        if host_id not in self._cluster.nodes:
            raise UnroutableCommand(f"Host {host_id} was removed before the command was sent.")

    def _reject(self, promises: Sequence[Promise[Any]], error: BaseException) -> None:
        """Settle the promises of an interrupted batch, whose commands may have run."""
        for promise in promises:
            reason = error
            if not isinstance(error, Exception):
                reason = redis.ConnectionError("Cut short: the replies were awaited no more")
            try:
                if promise.is_pending:
                    promise.reject(reason)
            except Exception as raised:  # noqa: BLE001 (a callback's; the others go on)
                self._raised.append(raised)

    def cancel(self) -> None:
        """Forget what was not sent yet; its promises stay pending."""
        self._owners.clear()
        self._commands.clear()
        self._promises.clear()
        self._details.clear()
        self._bound.clear()

    def script_load(self, script: Any) -> Promise[str]:  # type: ignore[override]
        """Keep a script for all nodes; a node gets it with its use."""
        return Promise.resolved(self._keep_script(script))

    def _not_promised(self, *_args: Any, **_options: Any) -> NoReturn:
        """Not promised: it would not know where to go on."""
        raise NotImplementedError(
            "Iterators of SCAN and its kin wait for one page to ask for the next, and "
            f"{type(self).__name__} gives promises. Use those of "
            "cluster.get_routing_client(); its scan_iter() scans all nodes at once."
        )

    scan_iter = sscan_iter = hscan_iter = zscan_iter = _not_promised


def _combined(parts: list[Any], combine: Combine) -> Any:
    """Return the reply to a command that was split: its first error, if there is one."""
    for part in parts:
        if isinstance(part, Exception):
            return part
    return combine(parts)
