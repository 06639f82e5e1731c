"""The base of the clients over many nodes: routing and encoding of commands.

The clients inherit the command methods and the conversion of replies from redis-py's
own client, and decide where a command goes. redis-py's connection handling is not used:
commands become a batch of the engine.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import redis
from redis.client import EMPTY_RESPONSE, NEVER_DECODE
from redis.commands.core import Script as RedisScript

from ..errors import NodeFailure, UnroutableCommand
from ..forks import register_at_fork
from ..protocol.commands import (
    SIMPLE,
    SPLITTABLE,
    Split,
    keys_of,
    name_of,
    patterns_of,
    refusal,
)
from ..protocol.encoding import Arg, Args, as_number, encode_key, with_text_for_numbers
from ..routing.hashing import hash_tag
from ..routing.routers import (
    BaseRouter,
    ConsistentHashingRouter,
    PartitionRouter,
    SlotRouter,
)
from ..routing.slots import ClusterRouter
from .port import ClientPort
from .recorded import KeptMethods, Options

Combine: TypeAlias = Callable[[list[Any]], Any]

Route: TypeAlias = tuple[Sequence[int], Sequence[Args], Combine | None]
"""What a call becomes: host ids, the command for each, and how replies become one."""

# Options of redis-py that are not for the callbacks that convert replies.
_SPENT = frozenset({"keys", EMPTY_RESPONSE, NEVER_DECODE})

# Integers below it are encoded when they are sent, which can fail for larger ones.
_LARGE = 2**64

# Commands that take only keys, and are split by node.
_SPLIT_BY_KEYS: frozenset[Arg] = frozenset(
    name for name, split in SPLITTABLE.items() if split.step == 1
)

# Routers that own every key, and place many as they place each. A site's may refuse one.
NEVER_REFUSING = frozenset(
    {SlotRouter, PartitionRouter, ConsistentHashingRouter, ClusterRouter}
)

_setting_callbacks = threading.Lock()


def _start_over_after_fork() -> None:
    global _setting_callbacks  # noqa: PLW0603 (another thread of the parent may hold it)
    _setting_callbacks = threading.Lock()


register_at_fork(_start_over_after_fork)


def _refused(what: str, instead: str) -> Any:
    """Return a method that raises NotImplementedError and names the alternative."""

    def method(self: ManyNodes, *_args: Any, **_options: Any) -> NoReturn:
        raise NotImplementedError(
            f"{what} requires a connection to one node, but {type(self).__name__} has many "
            f"nodes. Use {instead}{self._or_instead}."
        )

    method.__doc__ = f"Not on many nodes: use {instead}."
    return method


class UnconnectedPool(redis.ConnectionPool):
    """A pool that gives clients their options, and never connects.

    Methods of redis-py that need a connection of their own end here, with an error.
    """

    def get_connection(self, *_args: Any, **_options: Any) -> NoReturn:
        """Raise an error that names a client with connections."""
        raise NotImplementedError(
            "This requires a connection to one node, but this client uses many nodes. Use "
            "cluster.get_local_client(host_id) or cluster.get_local_client_for_key(key)."
        )


class Script(RedisScript):
    """redis-py's Lua script, which needs no client here: ``Script(None, "return 1")``.

    It is for `Cluster.execute_commands`. For a script to call, use a client's
    `register_script`.
    """

    def __init__(self, registered_client: redis.Redis | None, script: str | bytes) -> None:
        if registered_client is None:
            script = encode_key(script)
        super().__init__(registered_client, script)  # type: ignore[arg-type]


class ManyNodes:
    """The base of all clients over many nodes, for threads and for event loops."""

    _or_instead = ""  # further alternatives that the error of a refused method names

    if TYPE_CHECKING:  # redis-py's
        connection_pool: redis.ConnectionPool
        response_callbacks: Any

        def get_encoder(self) -> Any:
            """Return redis-py's encoder of arguments."""

    def __init__(
        self, cluster: ClientPort, *, auto_batch: bool = True, like: object | None = None
    ) -> None:
        # redis-py's constructor takes as long as a small batch, so the cluster calls it once.
        vars(self).update(vars(like or self._get_prototype(cluster)))
        kwargs = self.connection_pool.connection_kwargs
        self._cluster = cluster
        self._decode = self.get_encoder().decode if kwargs.get("decode_responses") else None
        self._owns_callbacks = False
        # The fast path goes by the first key alone. A router that overrides
        # get_host_for_command() is asked about each command instead.
        is_free = leaves_commands_alone(cluster.router)
        self._simple = SIMPLE if is_free else frozenset[Arg]()
        self._simple_with_one_key = _SPLIT_BY_KEYS if is_free else frozenset[Arg]()
        self.auto_batch = auto_batch

    @staticmethod
    def _get_prototype(cluster: ClientPort) -> object:
        return cluster.prototype

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._cluster!r}>"

    # From a call to commands.

    def _is_simple(self, sent: Args) -> bool:
        """Return whether a command can be sent unchanged to its first argument's host."""
        count = len(sent)
        return (count > 1 and sent[0] in self._simple) or (
            count == 2 and sent[0] in self._simple_with_one_key
        )

    def _route(self, sent: Args) -> Route:
        """Return each command of a call with the node that owns its keys.

        Raises:
            UnroutableCommand: no single node owns them, and it cannot be split.
        """
        router = self._cluster.router
        if self._is_simple(sent):
            return (router.get_host_for_key(encode_key(sent[1])),), (sent,), None
        sent = words_apart(with_text_for_numbers(sent))
        self._check(sent)
        name = name_of(sent)
        split = SPLITTABLE.get(name)
        if split is not None:
            return self._split(sent, split)
        owner = router.get_host_for_command(name, sent[len(name.split()) :])
        if len(self._cluster.nodes) > 1 or router.has_slots:
            _check_patterns(router, owner, sent)
        return (owner,), (sent,), None

    def _split(self, sent: Args, split: Split) -> Route:
        keys, step, router = keys_of(sent), split.step, self._cluster.router
        shares: dict[int, list[int]] = {}
        for position, place in enumerate(router.get_places(keys)):
            shares.setdefault(place, []).append(position)
        owners = router.get_hosts_for_keys([keys[share[0]] for share in shares.values()])
        if len(shares) == 1:
            return owners, (sent,), None
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
        return owners, commands, combine[split.replies]

    def _sendable(self, args: tuple[Any, ...]) -> Args:
        """Return a command whose arguments are text, bytes, or numbers."""
        for arg in args:
            kind = type(arg)
            if kind is str:
                if not arg.isascii():
                    break
            elif kind is int:
                if not -_LARGE < arg < _LARGE:
                    break
            elif kind is not bytes and kind is not float:
                break
        else:
            return args
        # For None and the like, it raises redis-py's own error.
        encode: Callable[[Any], Any] = self.get_encoder().encode

        def encoded(arg: Any) -> bytes:
            number = as_number(arg)
            if number is not None:  # redis-py would send the repr() of an IntEnum
                return repr(number).encode()
            return arg if type(arg) is bytes else bytes(encode(arg))

        name, *rest = map(encoded, args)
        return (args[0] if isinstance(args[0], str) else name, *rest)

    def _check(self, sent: Args) -> None:
        why_not = refusal(sent)
        if why_not is not None:
            raise UnroutableCommand(why_not)

    # From replies to a value.

    def _convert(self, name: str, reply: Any, options: Options) -> Any:
        """Return a reply as redis-py converts it."""
        convert = self._converter(self.response_callbacks.get(name), options)
        return reply if convert is None else convert(reply)

    def _converter(
        self, callback: Callable[..., Any] | None, options: Options
    ) -> Callable[[Any], Any] | None:
        """Return what converts replies as a callback of redis-py; None if nothing does."""
        decode = None if NEVER_DECODE in options else self._decode
        if not _SPENT.isdisjoint(options):
            options = {name: v for name, v in options.items() if name not in _SPENT}
        if callback is not None and options:
            callback = partial(callback, **options)
        if decode is None:
            return callback

        def convert(reply: Any) -> Any:
            reply = decoded(reply, decode)
            return reply if callback is None else callback(reply)

        return convert

    def set_response_callback(self, command: str, callback: Callable[..., Any]) -> None:
        """Set the function that converts the replies to a command, for this client only."""
        with _setting_callbacks:
            if not self._owns_callbacks:
                self.response_callbacks = copy.copy(self.response_callbacks)
                self._owns_callbacks = True
        self.response_callbacks[command] = callback

    def _keep_script(self, script: Any) -> str:
        encode: Callable[[Any], bytes] = self.get_encoder().encode
        return self._cluster.remember_script(encode(script)).decode()

    # Methods that need one connection, and so one node.

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
    lock = _refused("A lock", "cluster.get_routing_client().lock(name)")
    set_retry = _refused("A retry policy", "cluster.get_local_client(host_id).set_retry()")
    himport_prepare = himport_set = himport_discard = himport_discard_all = _refused(
        "HIMPORT", "cluster.get_local_client_for_key(key)"
    )

    @classmethod
    def from_url(cls, *_args: Any, **_options: Any) -> NoReturn:
        """Raise NotImplementedError: clients are created by a cluster."""
        raise NotImplementedError(
            f"{cls.__name__} has many nodes, but a URL is for one. Use Cluster([url, …]) and "
            "its get_routing_client(), map() or fanout()."
        )

    from_pool = from_url


class ManyNodesClient(ManyNodes, KeptMethods, redis.Redis):
    """The base of the clients over many nodes that are not asynchronous."""

    def register_script(self, script: Any) -> RedisScript:
        """Return a script to call; it is loaded on nodes that lack it."""
        self._keep_script(script)
        return RedisScript(self, script)


def leaves_commands_alone(router: BaseRouter) -> bool:
    """Return whether a router places commands by their keys alone."""
    return type(router).get_host_for_command is BaseRouter.get_host_for_command


def words_apart(sent: Args) -> Args:
    """Return a command with its name split into words, as they are sent."""
    name = sent[0] if sent else ""
    if not isinstance(name, str):
        name = encode_key(name).decode()
    elif name and " " not in name:
        return sent
    words = name.split()
    if not words:
        name_of(sent)  # raises the right error
    return (*words, *sent[1:])


def _check_patterns(router: BaseRouter, owner: int, sent: Args) -> None:
    """Refuse a SORT whose patterns may name keys of other nodes."""
    for pattern in patterns_of(sent):
        # With a hash tag before the asterisk, all matching keys are on one node.
        start = encode_key(pattern).partition(b"*")[0]
        is_tagged = hash_tag(start) != start
        if not (
            is_tagged
            and (isinstance(router, SlotRouter) or router.has_slots)
            and router.get_host_for_key(start) == owner
        ):
            raise UnroutableCommand(
                f"{name_of(sent)} with the pattern {pattern!r} reads keys that may be on "
                "other hosts, where the server cannot find them. With SlotRouter, use the same "
                "hash tag in key and pattern, such as {user:7}:ids and {user:7}:weight:*; or "
                "choose the host with cluster.get_local_client_for_key(key)."
            )


def node_failures(
    cluster: ClientPort, owners: Sequence[int], commands: Sequence[Args], replies: Sequence[Any]
) -> list[NodeFailure]:
    """Return what failed, one entry for each error of each node."""
    failed: dict[tuple[int, int], tuple[Exception, list[Arg]]] = {}
    for owner, args, reply in zip(owners, commands, replies, strict=True):
        if isinstance(reply, Exception):
            _, keys = failed.setdefault((owner, id(reply)), (reply, []))
            with suppress(UnroutableCommand):  # with fanout(), it may be an unknown command
                keys += keys_of(args)
    return [
        NodeFailure(owner, cluster.get_address(owner), error, tuple(keys))
        for (owner, _), (error, keys) in failed.items()
    ]


def decoded(reply: Any, decode: Callable[[bytes], Any]) -> Any:
    """Return a reply with all its bytes decoded, however deep."""
    if isinstance(reply, bytes):
        return decode(reply)
    if isinstance(reply, list):
        return [decoded(item, decode) for item in reply]
    if isinstance(reply, dict):
        return {decoded(k, decode): decoded(v, decode) for k, v in reply.items()}
    if isinstance(reply, set):
        return {decoded(item, decode) for item in reply}
    return reply
