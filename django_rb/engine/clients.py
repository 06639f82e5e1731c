"""redis-py's commands on many nodes: routed, mapped, fanned out.

The clients inherit every command method, and the conversion of replies, from redis-py's
own client; what is theirs is where a command goes. Nothing of redis-py's connection
handling is used: commands become `batch.Command`s and run as one batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Self, TypeVar

import redis
from redis.client import EMPTY_RESPONSE, NEVER_DECODE
from redis.commands.core import Script

from .batch import Command, call_nodes, run_commands
from .commands import SPLITTABLE, keys_of, name_of, refusal
from .encoding import Arg, Args
from .errors import NodeFailure, UnroutableCommand, attach, first_error
from .hashing import encode_key
from .promise import Promise

if TYPE_CHECKING:
    from .cluster import Cluster

Hosts = Iterable[int] | str  # host ids, or "all"

C = TypeVar("C", bound="MappingClient")

_PLAIN = frozenset({bytes, str, int, float})

# Commands of exactly so many words merge with their neighbours: more would be options.
_MERGED = {"GET": 2, "SET": 3}


class _Call:
    """One call of a command method: the commands it became, and what becomes of replies."""

    __slots__ = ("combine", "commands", "name", "options")

    def __init__(
        self,
        name: str,
        options: dict[str, Any],
        commands: list[Command],
        combine: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        self.name = name
        self.options = options
        self.commands = commands
        self.combine = combine


class _ManyNodesClient(redis.Redis):
    """What the clients over many nodes share."""

    def __init__(self, cluster: Cluster, *, auto_batch: bool = True) -> None:
        # redis-py's constructor takes as long as many a batch; the cluster calls it once.
        vars(self).update(vars(cluster.prototype))
        kwargs = self.connection_pool.connection_kwargs
        self._cluster = cluster
        self._decode = self.get_encoder().decode if kwargs.get("decode_responses") else None
        self.auto_batch = auto_batch

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._cluster!r}>"

    # From a call to commands.

    def _route(self, args: tuple[Any, ...], options: dict[str, Any]) -> _Call:
        """Return a call with each of its commands for the node that owns the keys."""
        sent = self._checked(args)
        name = str(sent[0])
        split = SPLITTABLE.get(name_of(sent))
        if split is not None:
            return self._split(args[0], sent, options, split.step, split.replies)
        owner = self._cluster.router.get_host_for_command(name, sent[1:])
        return _Call(args[0], options, [self._command(owner, sent)])

    def _command(self, host_id: int, sent: Args) -> Command:
        return Command(
            host_id, sent, may_merge=self.auto_batch and len(sent) == _MERGED.get(str(sent[0]))
        )

    def _split(
        self, name: str, sent: Args, options: dict[str, Any], step: int, replies: str
    ) -> _Call:
        keys = keys_of(sent)
        owners = self._cluster.router.get_hosts_for_keys(keys)
        shares: dict[int, list[int]] = {}
        for position, owner in enumerate(owners):
            shares.setdefault(owner, []).append(position)
        if len(shares) == 1:
            return _Call(name, options, [Command(owners[0], sent)])
        commands = [
            Command(
                owner,
                (sent[0], *(sent[1 + p * step + i] for p in positions for i in range(step))),
            )
            for owner, positions in shares.items()
        ]

        def in_order(parts: list[list[Any]]) -> list[Any]:
            whole: list[Any] = [None] * len(keys)
            for positions, part in zip(shares.values(), parts, strict=True):
                for position, value in zip(positions, part, strict=True):
                    whole[position] = value
            return whole

        combine: dict[str, Callable[[list[Any]], Any]] = {
            "order": in_order,
            "ok": lambda parts: parts[0],
            "sum": sum,
        }
        return _Call(name, options, commands, combine[replies])

    def _checked(self, args: tuple[Any, ...]) -> Args:
        """Return a command as it is sent: checked, encodable, the name's words apart."""
        why_not = refusal(args)
        if why_not is not None:
            raise UnroutableCommand(why_not)
        name = args[0] if isinstance(args[0], str) else encode_key(args[0]).decode()
        if " " in name or name is not args[0]:
            args = (*name.split(), *args[1:])
        if any(type(arg) not in _PLAIN for arg in args):
            # It raises what redis-py raises for None and the like.
            encode: Callable[[Any], Any] = self.get_encoder().encode
            args = tuple(arg if type(arg) in _PLAIN else bytes(encode(arg)) for arg in args)
        return args

    # From replies to a value.

    def _value(self, call: _Call) -> Any:
        """Return what the call's replies mean, as redis-py would; raise the first error."""
        replies = [command.reply for command in call.commands]
        options = call.options
        for reply in replies:
            if isinstance(reply, Exception):
                if isinstance(reply, redis.ResponseError) and EMPTY_RESPONSE in options:
                    return options[EMPTY_RESPONSE]
                raise reply
        reply = replies[0] if call.combine is None else call.combine(replies)
        return self._convert(call.name, reply, options)

    def _convert(self, name: str, reply: Any, options: dict[str, Any]) -> Any:
        if self._decode is not None and NEVER_DECODE not in options:
            reply = _decoded(reply, self._decode)
        callbacks: dict[str, Callable[..., Any]] = self.response_callbacks
        if name not in callbacks:
            return reply
        options = {
            key: value
            for key, value in options.items()
            if key not in ("keys", EMPTY_RESPONSE, NEVER_DECODE)
        }
        return callbacks[name](reply, **options)

    # What belongs to one connection, and so to one node.

    def _unsupported(self, what: str) -> NoReturn:
        raise NotImplementedError(
            f"{what} needs one connection to one node, and {type(self).__name__} has many. "
            "Use cluster.get_local_client(host_id) or cluster.get_local_client_for_key(key)."
        )

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> NoReturn:
        """Not on many nodes: commands of a batch are pipelined as it is."""
        self._unsupported("A pipeline")

    def transaction(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not on many nodes."""
        self._unsupported("A transaction")

    def pubsub(self, **kwargs: Any) -> NoReturn:
        """Not on many nodes."""
        self._unsupported("Pub/sub")

    def monitor(self) -> NoReturn:
        """Not on many nodes."""
        self._unsupported("MONITOR")

    def client(self) -> NoReturn:
        """Not on many nodes."""
        self._unsupported("A client of one connection")

    def lock(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not on many nodes: a lock lives where its name does."""
        self._unsupported("A lock")

    def set_response_callback(self, command: str, callback: Callable[..., Any]) -> None:
        """Convert the replies of a command in another way, on this client only."""
        self.response_callbacks = copy.copy(self.response_callbacks)
        super().set_response_callback(command, callback)

    def register_script(self, script: Any) -> Script:
        """Return a script to be called; nodes that do not know it get it by themselves."""
        registered = Script(self, script)
        self._cluster.remember_script(script)
        return registered


class RoutingClient(_ManyNodesClient):
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
        call = self._route(args, options)
        cluster = self._cluster
        cluster.run(run_commands(cluster, call.commands, cluster.scripts))
        failures = _failures(cluster, call.commands)
        if failures and EMPTY_RESPONSE not in options:
            raise first_error(failures)
        return self._value(call)

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
        options: list[Arg] = []
        for name, value in ((b"MATCH", match), (b"COUNT", count), (b"TYPE", _type)):
            if value is not None:
                options += (name, value)
        cluster = self._cluster
        cursors: dict[int, bytes] = dict.fromkeys(cluster.nodes, b"0")
        while cursors:
            pages, failures = cluster.run(
                call_nodes(
                    cluster,
                    {host: (b"SCAN", cursor, *options) for host, cursor in cursors.items()},
                )
            )
            for _, keys in pages.values():
                yield from (_decoded(keys, self._decode) if self._decode else keys)
            if failures:
                raise first_error(failures)
            cursors = {host: cursor for host, (cursor, _) in pages.items() if cursor != b"0"}

    def map(
        self,
        timeout: float | None = None,
        max_concurrency: int | None = 64,
        auto_batch: bool | None = None,
    ) -> MapManager[MappingClient]:
        """Return a context manager for promised commands; see `Cluster.map`."""
        return MapManager(self.get_mapping_client(max_concurrency, auto_batch), timeout)

    def fanout(
        self,
        hosts: Hosts | None = None,
        timeout: float | None = None,
        max_concurrency: int | None = 64,
        auto_batch: bool | None = None,
    ) -> MapManager[FanoutClient]:
        """Return a context manager for commands to chosen hosts; see `Cluster.fanout`."""
        return MapManager(self.get_fanout_client(hosts, max_concurrency, auto_batch), timeout)

    def get_mapping_client(
        self, max_concurrency: int | None = 64, auto_batch: bool | None = None
    ) -> MappingClient:
        """Return a client whose promises are settled by its `join()`; not thread-safe."""
        auto_batch = self.auto_batch if auto_batch is None else auto_batch
        return MappingClient(self._cluster, max_concurrency, auto_batch=auto_batch)

    def get_fanout_client(
        self,
        hosts: Hosts | None,
        max_concurrency: int | None = 64,
        auto_batch: bool | None = None,
    ) -> FanoutClient:
        """Return a client for chosen hosts; its `join()` settles its promises."""
        auto_batch = self.auto_batch if auto_batch is None else auto_batch
        return FanoutClient(self._cluster, hosts, max_concurrency, auto_batch=auto_batch)


class MappingClient(_ManyNodesClient):
    """Commands become promises; all of them run, side by side, when the block ends.

    with cluster.map() as client:
        hits = [client.get(f"page:{n}") for n in range(100)]
    [promise.value for promise in hits]

    For one thread.
    """

    def __init__(
        self, cluster: Cluster, max_concurrency: int | None = 64, *, auto_batch: bool = True
    ) -> None:
        super().__init__(cluster, auto_batch=auto_batch)
        if max_concurrency is not None and max_concurrency < 1:
            raise ValueError(
                f"max_concurrency={max_concurrency!r}: it is the number of nodes asked at a "
                "time, 1 or more; None asks all of them."
            )
        self._max_concurrency = max_concurrency
        self._waiting: list[tuple[_Call, Promise[Any]]] = []
        self._unhandled: list[Promise[Any]] = []

    def execute_command(self, *args: Any, **options: Any) -> Promise[Any]:
        """Return a promise for the result of a command that is yet to be sent.

        Raises:
            UnroutableCommand: its keys live on several nodes, or it has none.
        """
        return self._promise(self._route(args, options))

    def _promise(self, call: _Call) -> Promise[Any]:
        promise: Promise[Any] = Promise(self._unhandled)
        self._waiting.append((call, promise))
        return promise

    def join(self, timeout: float | None = None) -> None:
        """Run what was asked for and settle its promises.

        Args:
            timeout: seconds; what is unfinished then is rejected with a TimeoutError.

        Raises:
            The first error that nobody handled, of its own type, after every node has
            finished. `failures_of(error)` says what failed on which node.
        """
        raised: list[Exception] = []
        failures: list[NodeFailure] = []
        cluster = self._cluster
        deadline = None if timeout is None else monotonic() + timeout
        while self._waiting:  # callbacks may ask for more
            waiting = self._waiting[:]
            self._waiting.clear()
            commands = [command for call, _ in waiting for command in call.commands]
            cluster.run(
                run_commands(cluster, commands, cluster.scripts, self._max_concurrency),
                None if deadline is None else deadline - monotonic(),
            )
            failures += _failures(cluster, commands)
            for call, promise in waiting:
                try:
                    self._settle(call, promise)
                except Exception as error:  # noqa: BLE001 (a callback's; the others go on)
                    raised.append(error)
        errors = [p.reason for p in self._unhandled if isinstance(p.reason, Exception)] + raised
        self._unhandled.clear()
        if errors:
            raise attach(errors, failures)

    def _settle(self, call: _Call, promise: Promise[Any]) -> None:
        try:
            value = self._value(call)
        except Exception as error:  # noqa: BLE001 (it is the promise's)
            promise.reject(error)
        else:
            promise.resolve(value)

    def cancel(self) -> None:
        """Forget what was not sent yet; its promises stay pending."""
        self._waiting.clear()
        self._unhandled.clear()

    def scan_iter(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not promised: it would not know where to go on."""
        raise NotImplementedError(
            "scan_iter() yields pages, not promises. Use "
            "cluster.get_routing_client().scan_iter(), which scans all nodes at once."
        )


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
    ) -> None:
        super().__init__(cluster, max_concurrency, auto_batch=auto_batch)
        self._hosts = None if hosts is None else _checked_hosts(cluster, hosts)
        self._is_single = False
        self._is_retargeted = False

    def target(self, hosts: Hosts) -> Self:
        """Return a client for other hosts; what it is asked runs with this one's batch.

        client.target([0, 3]).ping()

        Raises:
            TypeError: the client was retargeted before.
        """
        if self._is_retargeted:
            raise TypeError("Cannot use target more than once.")
        return self._retargeted(hosts, is_single=False)

    def target_key(self, key: Any) -> Self:
        """Return a client for the host that owns a key; its values are plain results."""
        return self._retargeted([self._cluster.get_host_for_key(key)], is_single=True)

    def _retargeted(self, hosts: Hosts, *, is_single: bool) -> Self:
        if self._is_retargeted:
            raise TypeError("Cannot use target more than once.")
        targeted = copy.copy(self)  # both fill the same list of what waits
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
        """
        if self._hosts is None:
            raise RuntimeError(
                "The fanout client was given no hosts. Use cluster.fanout(hosts=[0, 1]), "
                "cluster.all() or client.target([0, 1])."
            )
        sent = self._checked(args)
        name = str(args[0])
        promises = {
            host_id: self._promise(_Call(name, options, [self._command(host_id, sent)]))
            for host_id in self._hosts
        }
        if self._is_single:
            (promise,) = promises.values()
            return promise
        return Promise.all(promises)


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


def _checked_hosts(cluster: Cluster, hosts: Hosts) -> list[int]:
    if isinstance(hosts, str):
        if hosts != "all":
            raise ValueError(f"hosts={hosts!r}: give a list of host ids, or 'all'.")
        return list(cluster.nodes)
    chosen = list(dict.fromkeys(hosts))
    unknown = [host_id for host_id in chosen if host_id not in cluster.nodes]
    if unknown:
        raise ValueError(
            f"hosts={chosen!r}: there is no host {unknown[0]!r} in {cluster!r}. "
            f"Known are: {', '.join(map(str, cluster.nodes))}."
        )
    return chosen


def _failures(cluster: Cluster, commands: Sequence[Command]) -> list[NodeFailure]:
    """Return what failed, an entry for each error of each node."""
    failed: dict[tuple[int, int], list[Command]] = {}
    for command in commands:
        if isinstance(command.reply, Exception):
            failed.setdefault((command.host_id, id(command.reply)), []).append(command)
    return [
        NodeFailure(
            host_id,
            cluster.get_address(host_id),
            share[0].reply,
            tuple(key for command in share for key in keys_of(command.args)),
        )
        for (host_id, _), share in failed.items()
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
