"""redis-py's commands on many nodes: routed, mapped, fanned out.

The clients inherit every command method, and the conversion of replies, from redis-py's
own client; what is theirs is where a command goes. Nothing of redis-py's connection
handling is used: commands become a batch of the engine's.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    NoReturn,
    Protocol,
    Self,
    TypeAlias,
    TypeVar,
    cast,
)

import redis
from redis.client import EMPTY_RESPONSE, NEVER_DECODE
from redis.commands.core import Script as RedisScript

from .batch import call_nodes, run_commands
from .commands import SIMPLE, SPLITTABLE, Split, keys_of, name_of, patterns_of, refusal
from .connections import register_at_fork
from .encoding import Arg, Args
from .errors import NodeFailure, UnroutableCommand, attach, first_error
from .exchange import Batch
from .hashing import as_number, encode_key, hash_tag
from .promise import Promise, Unhandled, resolve_each
from .routers import BaseRouter, SlotRouter

if TYPE_CHECKING:
    from .cluster import Cluster

Hosts = Iterable[int] | str  # host ids, or "all"

C = TypeVar("C", bound="Mapped")

Combine: TypeAlias = Callable[[list[Any]], Any]

Route: TypeAlias = tuple[Sequence[int], Sequence[Args], Combine | None]
"""What a call becomes: host ids, the command for each, and how replies become one."""

# What is left of redis-py's options once a reply is there, and means nothing to callbacks.
_SPENT = frozenset({"keys", EMPTY_RESPONSE, NEVER_DECODE})

_UNCONVERTED = frozenset({bytes, type(None)})

_setting_callbacks = threading.Lock()


def _start_over_after_fork() -> None:
    global _setting_callbacks  # noqa: PLW0603 (another thread of the parent may hold it)
    _setting_callbacks = threading.Lock()


register_at_fork(_start_over_after_fork)


def _refused(what: str, instead: str) -> Any:
    """Return a method that says why a client of many nodes does not have it."""

    def method(self: _ManyNodes, *_args: Any, **_options: Any) -> NoReturn:
        raise NotImplementedError(
            f"{what} needs one connection to one node, and {type(self).__name__} has "
            f"many nodes. Use {instead}{self._or_instead}."
        )

    method.__doc__ = f"Not on many nodes: use {instead}."
    return method


class Mapped(Protocol):
    """What type checkers are told of a `MappingClient`: its commands give promises.

    The annotations that it inherits from redis-py's client name the values themselves.
    """

    def __getattr__(self, command: str) -> Callable[..., Promise[Any]]:
        """Every command of redis-py's client."""

    def register_script(self, script: Any) -> RedisScript:
        """Return a script to be called."""

    def join(self, timeout: float | None = None) -> None:
        """Run what was asked for and settle its promises."""

    async def ajoin(self, timeout: float | None = None) -> None:
        """Do so on the event loop that runs."""

    def settle_when_awaited(self, timeout: float | None = None) -> None:
        """Let a pending promise that is awaited have everything sent that waits."""

    def settle_no_more(self) -> None:
        """Let a pending promise that is awaited raise a RuntimeError."""

    def cancel(self) -> None:
        """Forget what was not sent yet."""


class Fanned(Mapped, Protocol):
    """What type checkers are told of a `FanoutClient`."""

    def target(self, hosts: Hosts) -> Fanned:
        """Return a client for other hosts."""

    def target_key(self, key: Any) -> Fanned:
        """Return a client for the host that owns a key."""


class UnconnectedPool(redis.ConnectionPool):
    """Knows how nodes are spoken to, and connects to none of them.

    Whatever of redis-py asks a client of many nodes for a connection ends here.
    """

    def get_connection(self, *_args: Any, **_options: Any) -> NoReturn:
        """Say which client has connections to hand out."""
        raise NotImplementedError(
            "This needs one connection to one node, and a client of many nodes has none to "
            "hand out. Use cluster.get_local_client(host_id) or "
            "cluster.get_local_client_for_key(key)."
        )


class Script(RedisScript):
    """redis-py's Lua script, which here needs no client: ``Script(None, "return 1")``.

    For `Cluster.execute_commands`. `register_script` of a client gives one to be called.
    """

    def __init__(self, registered_client: redis.Redis | None, script: str | bytes) -> None:
        if registered_client is None:
            script = encode_key(script)
        super().__init__(registered_client, script)  # type: ignore[arg-type]


class _ManyNodes:
    """What the clients over many nodes share, whoever waits for their replies."""

    _or_instead = ""  # beside what a refused method names

    if TYPE_CHECKING:  # redis-py's
        connection_pool: redis.ConnectionPool
        response_callbacks: Any

        def get_encoder(self) -> Any: ...

    def __init__(
        self, cluster: Cluster, *, auto_batch: bool = True, like: object | None = None
    ) -> None:
        # redis-py's constructor takes as long as many a batch; the cluster calls it once.
        vars(self).update(vars(like or self._get_prototype(cluster)))
        kwargs = self.connection_pool.connection_kwargs
        self._cluster = cluster
        self._decode = self.get_encoder().decode if kwargs.get("decode_responses") else None
        self._owns_callbacks = False
        self._gets_plainly = False
        # Where a router has a say of its own in commands, each of them is put to it.
        self._simple = SIMPLE if _has_no_say(cluster.router) else frozenset[Arg]()
        self.auto_batch = auto_batch

    @staticmethod
    def _get_prototype(cluster: Cluster) -> object:
        return cluster.prototype

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._cluster!r}>"

    # From a call to commands.

    def _route(self, args: tuple[Any, ...]) -> Route:
        """Return each command of a call with the node that owns its keys.

        Raises:
            UnroutableCommand: no single node owns them, and it cannot be split.
            redis.DataError: an argument that is not bytes, text or a number.
        """
        sent = self._sendable(args)
        router = self._cluster.router
        if len(sent) > 1 and sent[0] in self._simple:
            return (router.get_host_for_key(encode_key(sent[1])),), (sent,), None
        sent = _apart(sent)
        self._check(sent)
        name = name_of(sent)
        split = SPLITTABLE.get(name)
        if split is not None:
            return self._split(sent, split)
        owner = router.get_host_for_command(name, sent[len(name.split()) :])
        if len(self._cluster.nodes) > 1:
            _check_patterns(router, owner, sent)
        return (owner,), (sent,), None

    def _split(self, sent: Args, split: Split) -> Route:
        keys, step = keys_of(sent), split.step
        shares: dict[int, list[int]] = {}
        for position, owner in enumerate(self._cluster.router.get_hosts_for_keys(keys)):
            shares.setdefault(owner, []).append(position)
        if len(shares) == 1:
            return tuple(shares), (sent,), None
        commands = [
            (sent[0], *(sent[1 + p * step + i] for p in share for i in range(step)))
            for share in shares.values()
        ]

        def in_order(parts: list[list[Any]]) -> list[Any]:
            whole: list[Any] = [None] * len(keys)
            for positions, part in zip(shares.values(), parts, strict=True):
                for position, value in zip(positions, part, strict=True):
                    whole[position] = value
            return whole

        combine: dict[str, Combine] = {
            "order": in_order,
            "ok": lambda parts: parts[0],
            "sum": sum,
        }
        return tuple(shares), commands, combine[split.replies]

    def _sendable(self, args: tuple[Any, ...]) -> Args:
        """Return a command whose arguments can all be encoded."""
        for arg in args:
            kind = type(arg)
            if not (
                (kind is str and arg.isascii()) or kind is bytes or kind is int or kind is float
            ):
                break
        else:
            return args
        # It raises what redis-py raises for None and the like.
        encode: Callable[[Any], Any] = self.get_encoder().encode

        def encoded(arg: Any) -> bytes | int | float:
            number = as_number(arg)
            if number is not None:  # redis-py would send the repr() of an IntEnum
                return number
            return arg if type(arg) is bytes else bytes(encode(arg))

        name, *rest = map(encoded, args)
        return (args[0] if isinstance(args[0], str) else name, *rest)

    def _check(self, sent: Args) -> None:
        why_not = refusal(sent)
        if why_not is not None:
            raise UnroutableCommand(why_not)

    # From replies to a value.

    def _convert(self, name: str, reply: Any, options: dict[str, Any]) -> Any:
        """Return what redis-py makes of a reply."""
        if self._decode is not None and NEVER_DECODE not in options:
            reply = _decoded(reply, self._decode)
        callbacks: dict[str, Callable[..., Any]] = self.response_callbacks
        callback = callbacks.get(name)
        if callback is None:
            return reply
        if options:
            options = {name: v for name, v in options.items() if name not in _SPENT}
        return callback(reply, **options)

    def set_response_callback(self, command: str, callback: Callable[..., Any]) -> None:
        """Convert the replies of a command in another way, on this client only."""
        with _setting_callbacks:
            if not self._owns_callbacks:
                self.response_callbacks = copy.copy(self.response_callbacks)
                self._owns_callbacks = True
            self._gets_plainly = False
        self.response_callbacks[command] = callback

    def _keep_script(self, script: Any) -> str:
        encode: Callable[[Any], bytes] = self.get_encoder().encode
        return self._cluster.remember_script(encode(script)).decode()

    # What belongs to one connection, and so to one node.

    pipeline = _refused(
        "A pipeline",
        "cluster.map(), which pipelines by itself, or for a transaction "
        "cluster.get_local_client_for_key(key).pipeline()",
    )
    transaction = _refused(
        "A transaction", "cluster.get_local_client_for_key(key).transaction()"
    )
    watch = _refused("WATCH", "cluster.get_local_client_for_key(key).pipeline()")
    unwatch = _refused("UNWATCH", "cluster.get_local_client_for_key(key).pipeline()")
    pubsub = _refused("Pub/sub", "cluster.get_local_client(host_id).pubsub()")
    keyspace_notifications = _refused(
        "Pub/sub", "cluster.get_local_client(host_id).keyspace_notifications()"
    )
    monitor = _refused("MONITOR", "cluster.get_local_client(host_id).monitor()")
    client = _refused(
        "A client of one connection", "cluster.get_local_client(host_id).client()"
    )
    lock = _refused("A lock", "cluster.get_local_client_for_key(name).lock(name)")
    set_retry = _refused("A retry policy", "cluster.get_local_client(host_id).set_retry()")
    himport_prepare = himport_set = himport_discard = himport_discard_all = _refused(
        "HIMPORT", "cluster.get_local_client_for_key(key)"
    )

    @classmethod
    def from_url(cls, *_args: Any, **_options: Any) -> NoReturn:
        """Not on many nodes: a cluster makes its clients."""
        raise NotImplementedError(
            f"{cls.__name__} has many nodes, and a URL names one. Use Cluster([url, …]) and "
            "one of its get_routing_client(), map() and fanout()."
        )

    from_pool = from_url


class _ManyNodesClient(_ManyNodes, redis.Redis):
    """What the clients over many nodes share that wait for no event loop."""

    def register_script(self, script: Any) -> RedisScript:
        """Return a script to be called; nodes that do not know it get it by themselves."""
        self._keep_script(script)
        return RedisScript(self, script)


class Routing(_ManyNodes):
    """A command's way from a routing client and back, as a batch."""

    def _call(self, args: tuple[Any, ...], options: dict[str, Any]) -> Batch[Any]:
        owners, commands, combine = self._route(args)
        cluster = self._cluster
        replies = yield from run_commands(cluster, owners, commands)
        for reply in replies:
            if isinstance(reply, Exception):
                raise first_error(_failures(cluster, owners, commands, replies))
        reply = replies[0] if combine is None else combine(replies)
        return self._convert(args[0], reply, options)

    def _scan_options(self, match: Any, count: int | None, kind: str | None) -> Args:
        options: list[Any] = []
        for name, value in ((b"MATCH", match), (b"COUNT", count), (b"TYPE", kind)):
            if value is not None:
                options += (name, value)
        return self._sendable(tuple(options))

    def _scan(
        self, cursors: dict[int, bytes], options: Args
    ) -> Batch[tuple[dict[int, bytes], list[Any], list[NodeFailure]]]:
        """Read a page of each node that has more.

        Returns the cursors of those that still have, the keys, and what failed.
        """
        pages, failures = yield from call_nodes(
            self._cluster,
            {host: (b"SCAN", cursor, *options) for host, cursor in cursors.items()},
        )
        found = [key for _, keys in pages.values() for key in keys]
        if self._decode is not None:
            found = _decoded(found, self._decode)
        rest = {host: cursor for host, (cursor, _) in pages.items() if cursor != b"0"}
        return rest, found, failures


class RoutingClient(Routing, _ManyNodesClient):
    """Each command goes to the node that owns its keys; the result is there at once.

    client = cluster.get_routing_client()
    client.set("page:1", "text")
    client.mget("page:1", "page:2")       # asks each node for its share, side by side

    Safe to share between threads.
    """

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run one command and return its result.

        Raises:
            UnroutableCommand: its keys live on several nodes, or it has none.
        """
        if EMPTY_RESPONSE in options and len(args) == 1:  # mget([])
            return options[EMPTY_RESPONSE]
        return self._cluster.run(self._call(args, options))

    def scan_iter(
        self,
        match: Any = None,
        count: int | None = None,
        _type: str | None = None,
        **kwargs: Any,
    ) -> Iterator[Any]:
        """Yield the keys of all nodes, scanning every node at once, page by page.

        Memory stays constant. As with SCAN, a key may come twice.

        Args:
            match: glob pattern.
            count: how many keys a node looks at for one page.
            _type: only keys of this type: "string", "hash" …
        """
        options = self._scan_options(match, count, _type)
        cursors: dict[int, bytes] = dict.fromkeys(self._cluster.nodes, b"0")
        while cursors:
            cursors, keys, failures = self._cluster.run(self._scan(cursors, options))
            yield from keys
            if failures:
                raise first_error(failures)

    def script_load(self, script: Any) -> str:
        """Keep a script for all nodes, return its SHA1 digest; a node gets it with its use."""
        return self._keep_script(script)

    def map(
        self,
        timeout: float | None = None,
        max_concurrency: int | None = 64,
        auto_batch: bool | None = None,
    ) -> MapManager[Mapped]:
        """Return a context manager for promised commands; see `Cluster.map`."""
        return MapManager(self.get_mapping_client(max_concurrency, auto_batch), timeout)

    def fanout(
        self,
        hosts: Hosts | None = None,
        timeout: float | None = None,
        max_concurrency: int | None = 64,
        auto_batch: bool | None = None,
    ) -> MapManager[Fanned]:
        """Return a context manager for commands to chosen hosts; see `Cluster.fanout`."""
        return MapManager(self.get_fanout_client(hosts, max_concurrency, auto_batch), timeout)

    def get_mapping_client(
        self, max_concurrency: int | None = 64, auto_batch: bool | None = None
    ) -> Mapped:
        """Return a client whose promises are settled by its `join()`; not thread-safe."""
        auto_batch = self.auto_batch if auto_batch is None else auto_batch
        client = MappingClient(self._cluster, max_concurrency, auto_batch=auto_batch, like=self)
        return cast(Mapped, client)

    def get_fanout_client(
        self,
        hosts: Hosts | None,
        max_concurrency: int | None = 64,
        auto_batch: bool | None = None,
    ) -> Fanned:
        """Return a client for chosen hosts; its `join()` settles its promises."""
        auto_batch = self.auto_batch if auto_batch is None else auto_batch
        client = FanoutClient(
            self._cluster, hosts, max_concurrency, auto_batch=auto_batch, like=self
        )
        return cast(Fanned, client)


class MappingClient(_ManyNodesClient):
    """Commands become promises; all of them run, side by side, when the block ends.

    with cluster.map() as client:
        hits = [client.get(f"page:{n}") for n in range(100)]
    [promise.value for promise in hits]

    For one thread.
    """

    def __init__(
        self,
        cluster: Cluster,
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
        # call became, and how their replies become one.
        self._details: dict[int, tuple[str, dict[str, Any], int, Combine | None]] = {}
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
        return self._promise(self._route(args), args[0], options)

    def _promise(self, route: Route, name: str, options: dict[str, Any]) -> Promise[Any]:
        promise: Promise[Any] = Promise(self._unhandled)
        owners, commands, combine = route
        self._owners += owners
        self._commands += commands
        self._details[len(self._promises)] = (name, options, len(owners), combine)
        self._promises.append(promise)
        return promise

    def join(self, timeout: float | None = None) -> None:
        """Run what was asked for and settle its promises.

        Args:
            timeout: seconds; what is unfinished then is rejected with a TimeoutError.

        Raises:
            The first error that nobody handled, of its own type, after every node has
            finished. `failures_of(error)` says what failed on which node.
        """
        self._cluster.run(self._joining(), timeout)

    async def ajoin(self, timeout: float | None = None) -> None:
        """Run what was asked for on the event loop that runs; see `join`."""
        await self._cluster.arun(self._joining(), timeout)

    def settle_when_awaited(self, timeout: float | None = None) -> None:
        """Let a pending promise that is awaited have everything sent that waits.

        What fails is left to its promises, and to `ajoin`.
        """
        self._unhandled.run = lambda: self._cluster.arun(self._settling(), timeout)

    def settle_no_more(self) -> None:
        """Let a pending promise that is awaited raise a RuntimeError."""
        self._unhandled.run = None

    def _joining(self) -> Batch[None]:
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
            yield from self._run()

    def _run(self) -> Batch[None]:
        """Send what waits, settle its promises, and keep what failed on which node."""
        cluster = self._cluster
        owners, commands = self._owners[:], self._commands[:]
        promises, details = self._promises[:], self._details.copy()
        self.cancel()
        try:
            replies = yield from run_commands(
                cluster,
                owners,
                commands,
                merge=self.auto_batch,
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
            if position in details:
                name, options, count, combine = details[position]
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
            self._failures += _failures(cluster, owners, commands, replies)

    def _reject(self, promises: Sequence[Promise[Any]], error: BaseException) -> None:
        """Settle what was cut short. Whether the commands ran, nobody knows."""
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


class FanoutClient(MappingClient):
    """Each command goes to all chosen hosts; its value is ``{host id: result}``.

    with cluster.fanout(hosts=[0, 1]) as client:
        infos = client.info()
    infos.value[0]["redis_version"]

    Commands go where they are sent, not where the router would place their keys.
    """

    def __init__(
        self,
        cluster: Cluster,
        hosts: Hosts | None = None,
        max_concurrency: int | None = 64,
        *,
        auto_batch: bool = True,
        like: redis.Redis | None = None,
    ) -> None:
        super().__init__(cluster, max_concurrency, auto_batch=auto_batch, like=like)
        self._hosts = None if hosts is None else _checked_hosts(cluster, hosts)
        self._is_single = False
        self._is_retargeted = False
        self._gets_plainly = False  # that would be to the key's owner

    def target(self, hosts: Hosts) -> Self:
        """Return a client for other hosts; what it is asked runs with this one's batch.

        client.target([0, 3]).ping()

        Raises:
            TypeError: the client was retargeted before.
        """
        return self._retargeted(hosts, is_single=False)

    def target_key(self, key: Any) -> Self:
        """Return a client for the host that owns a key; its values are plain results."""
        return self._retargeted([self._cluster.get_host_for_key(key)], is_single=True)

    def _retargeted(self, hosts: Hosts, *, is_single: bool) -> Self:
        if self._is_retargeted:
            raise TypeError("Cannot use target more than once.")
        targeted = copy.copy(self)  # both fill the same lists of what waits
        vars(targeted).update(
            _hosts=_checked_hosts(self._cluster, hosts),
            _is_retargeted=True,
            _is_single=is_single,
        )
        return targeted

    def execute_command(self, *args: Any, **options: Any) -> Promise[Any]:
        """Return a promise for ``{host id: result}``.

        Raises:
            RuntimeError: no hosts were chosen.
            UnroutableCommand: it changes the connection it is sent on.
        """
        if self._hosts is None:
            raise RuntimeError(
                "The fanout client was given no hosts. Use cluster.fanout(hosts=[0, 1]), "
                "cluster.all() or client.target([0, 1])."
            )
        sent = _apart(self._sendable(args))
        self._check(sent)
        promises = {
            host_id: self._promise(((host_id,), (sent,), None), args[0], options)
            for host_id in self._hosts
        }
        if self._is_single:
            (promise,) = promises.values()
            return promise
        return Promise.all(promises)

    def script_load(self, script: Any) -> Promise[Any]:  # type: ignore[override]
        """Load a script on the chosen hosts; other nodes get it with its use."""
        self._keep_script(script)
        return self.execute_command("SCRIPT LOAD", script)


class MapManager(Generic[C]):
    """Runs a client's commands when its block ends, unless an exception ends it."""

    def __init__(self, client: C, timeout: float | None) -> None:
        self._client = client
        self._timeout = timeout

    def __enter__(self) -> C:
        return self._client

    def __exit__(self, exc_type: object, exc_value: object, traceback: object) -> None:
        if exc_type is not None:
            self._client.cancel()
        else:
            self._client.join(self._timeout)


def _has_no_say(router: BaseRouter) -> bool:
    return type(router).get_host_for_command is BaseRouter.get_host_for_command


def _apart(sent: Args) -> Args:
    """Return a command with the words of its name apart, as they are sent."""
    name = sent[0] if sent else ""
    if not isinstance(name, str):
        name = encode_key(name).decode()
    elif name and " " not in name:
        return sent
    words = name.split()
    if not words:
        name_of(sent)  # says what is wrong
    return (*words, *sent[1:])


def _check_patterns(router: BaseRouter, owner: int, sent: Args) -> None:
    """Refuse a SORT whose patterns name keys that its node need not have."""
    for pattern in patterns_of(sent):
        # A hash tag ahead of the asterisk says where all its keys are.
        start = encode_key(pattern).partition(b"*")[0]
        is_tagged = hash_tag(start) != start
        if not (
            is_tagged
            and isinstance(router, SlotRouter)
            and router.get_host_for_key(start) == owner
        ):
            raise UnroutableCommand(
                f"{name_of(sent)} with the pattern {pattern!r} reads keys that may be on "
                "other hosts than its own, and a server takes those for missing. With "
                "SlotRouter, give key and pattern the same hash tag, such as {user:7}:ids "
                "and {user:7}:weight:*; or choose the host by "
                "cluster.get_local_client_for_key(key)."
            )


def _checked_hosts(cluster: Cluster, hosts: Hosts) -> list[int]:
    if isinstance(hosts, str):
        if hosts != "all":
            raise ValueError(f"hosts={hosts!r}: give a list of host ids, or 'all'.")
        return list(cluster.nodes)
    if not isinstance(hosts, Iterable):
        raise TypeError(f"hosts={hosts!r}: give a list of host ids, or 'all'.")
    chosen = list(dict.fromkeys(hosts))
    unknown = [host_id for host_id in chosen if host_id not in cluster.nodes]
    if unknown:
        raise ValueError(
            f"hosts={chosen!r}: there is no host {unknown[0]!r} in {cluster!r}. "
            f"Known are: {', '.join(map(str, cluster.nodes))}."
        )
    return chosen


def _combined(parts: list[Any], combine: Combine) -> Any:
    """Return the reply to a command that was split: its first error, if there is one."""
    for part in parts:
        if isinstance(part, Exception):
            return part
    return combine(parts)


def _failures(
    cluster: Cluster, owners: Sequence[int], commands: Sequence[Args], replies: Sequence[Any]
) -> list[NodeFailure]:
    """Return what failed, an entry for each error of each node."""
    failed: dict[tuple[int, int], tuple[Exception, list[Arg]]] = {}
    for owner, args, reply in zip(owners, commands, replies, strict=True):
        if isinstance(reply, Exception):
            _, keys = failed.setdefault((owner, id(reply)), (reply, []))
            with suppress(UnroutableCommand):  # fanned out, it may be any command
                keys += keys_of(args)
    return [
        NodeFailure(owner, cluster.get_address(owner), error, tuple(keys))
        for (owner, _), (error, keys) in failed.items()
    ]


def _decoded(reply: Any, decode: Callable[[bytes], Any]) -> Any:
    """Return a reply with all its bytes decoded, however deep."""
    if isinstance(reply, bytes):
        return decode(reply)
    if isinstance(reply, list):
        return [_decoded(item, decode) for item in reply]
    if isinstance(reply, dict):
        return {_decoded(k, decode): _decoded(v, decode) for k, v in reply.items()}
    if isinstance(reply, set):
        return {_decoded(item, decode) for item in reply}
    return reply
