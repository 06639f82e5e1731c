"""What each cache operation asks of the nodes, and what it makes of their answers.

Every operation is a generator of the engine's rounds (see `django_rb.engine.rounds.batch`): it
does no I/O, so one text serves whichever transport drives it.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, TypeVar

from redis.exceptions import ResponseError

from ..engine import Cluster, NodeFailure
from ..engine.errors import COMPLAINTS, first_error
from ..engine.protocol.answers import (
    is_counter,
    is_number,
    is_ok,
    is_ok_or_nil,
    is_value,
)
from ..engine.protocol.encoding import Args
from ..engine.protocol.exchange import Batch, IsAnswer
from ..engine.protocol.scripts import LuaScript
from ..engine.rounds.batch import (
    call,
    call_nodes,
    count,
    find,
    pipeline,
    run_script,
    store,
)
from ..engine.rounds.scans import Cursors, delete_pages, first_cursors, scan
from ..engine.wording import get_logger
from .codec import Codec
from .keys import Keys, loggable
from .signing import BadSignature, SignedCodec

T = TypeVar("T")

logger = get_logger("django_rb.cache")

# Adds only to what exists, in one step, and leaves the expiry as it is. The sum is read
# as text: a number of Lua is a double and has no room for all 64 bits.
_INCR = LuaScript(
    "if redis.call('EXISTS', KEYS[1]) == 0 then return false end "
    "redis.call('INCRBY', KEYS[1], ARGV[1]) "
    "return redis.call('GET', KEYS[1])"
)

MIN_INTEGER, MAX_INTEGER = -(2**63), 2**63 - 1


class NotCountable(ResponseError, ValueError):
    """What incr() says of a value that is no integer of 64 bits, or would not stay one.

    Django documents ValueError; its own RedisCache raises redis-py's ResponseError, which
    sites that move here may be catching.
    """


class Operations:
    """The operations of one cache on one cluster.

    Args:
        cluster: the cluster.
        keys: makes the cache's keys.
        codec: the stored form of its values.
        raises: whether a node's failure is raised once the others are done; if not, it is
            logged, and what the node should have said counts as a miss.
        deadline: seconds for one operation, None without limit.
    """

    def __init__(
        self,
        cluster: Cluster,
        keys: Keys,
        codec: Codec | SignedCodec,
        *,
        raises: bool,
        deadline: float | None = None,
    ) -> None:
        self.cluster = cluster
        self._keys = keys
        self._make_key = keys.make
        self._codec = codec
        self._decode = codec.decode
        self._encode = codec.encode
        self._raises = raises
        self.deadline = deadline

    def run(self, operation: Batch[T]) -> T:
        """Run one of the operations below in the calling thread."""
        return self.cluster.run(operation, self.deadline)

    def arun(self, operation: Batch[T]) -> Coroutine[Any, Any, T]:
        """Run one of the operations below on the event loop that runs, once awaited."""
        return self.cluster.arun(operation, self.deadline)

    # Timeouts are in milliseconds here: None for ever, 0 for already expired.

    def get(self, key: object, default: Any, version: int | None, unknown: Any) -> Batch[Any]:
        """Return the value of a key, `default` where there is none.

        Args:
            unknown: the answer where the node failed.
        """
        made = self._make_key(key, version)
        data, failures = yield from call(self.cluster, made, b"GET", made, answer=is_value)
        if failures:
            self._raise_or_log(failures)
            return unknown
        try:
            return default if data is None else self._decode(data, made)
        except BadSignature:
            self._log_bad_signatures((made,))
            return default

    def get_many(self, keys: list[Any], version: int | None) -> Batch[dict[Any, Any]]:
        if not keys:
            return {}
        made = self._keys.make_many(keys, version)
        bad: list[bytes] = []
        decode = partial(self._codec.decode_found, bad)
        found, failures = yield from find(self.cluster, made, keys, decode)
        if bad:
            self._log_bad_signatures(bad)
        if failures:
            self._raise_or_log(failures)
        return found

    def set(
        self, key: object, value: Any, timeout: int | None, version: int | None
    ) -> Batch[None]:
        if timeout == 0:
            yield from self.delete(key, version)
            return
        made = self._make_key(key, version)
        data = self._encode(value, made)
        _, failures = yield from call(
            self.cluster, made, b"SET", made, data, *_expiry(timeout), answer=is_ok
        )
        if failures:
            self._raise_or_log(failures)

    def set_many(
        self, data: Mapping[Any, Any], timeout: int | None, version: int | None
    ) -> Batch[list[Any]]:
        """Return the keys that could not be stored."""
        pairs = dict(data if type(data) is dict else data.items())
        if not pairs:
            return []
        made = self._keys.make_many(pairs, version)
        if timeout == 0:
            _, failures = yield from count(self.cluster, b"UNLINK", made)
        else:
            values, encode = self._codec.encoding(pairs.values(), made)
            _, failures = yield from store(self.cluster, made, values, encode, _expiry(timeout))
        if not failures:
            return []
        self._raise_or_log(failures)
        lost = {key for failure in failures for key in failure.keys}
        return [key for key, sent in zip(pairs, made, strict=True) if sent in lost]

    def add(
        self, key: object, value: Any, timeout: int | None, version: int | None
    ) -> Batch[bool]:
        if timeout == 0:  # it would be gone at once: only the answer is left to give
            found = yield from self._run_on_key(b"EXISTS", key, version)
            return bool(found == 0)
        made = self._keys.make(key, version)
        stored, failures = yield from call(
            self.cluster,
            made,
            b"SET",
            made,
            self._encode(value, made),
            *_expiry(timeout),
            b"NX",
            answer=is_ok_or_nil,
        )
        if failures:
            self._raise_or_log(failures)
        return stored is not None

    def get_or_add(
        self, key: object, value: Any, timeout: int | None, version: int | None
    ) -> Batch[Any]:
        """Store a value unless the key exists; return what is stored then.

        A value with a bad signature is replaced. Where the node fails, `value` is returned.
        """
        made = self._keys.make(key, version)
        commands: tuple[Args, ...] = ((b"GET", made),)
        answers: tuple[IsAnswer, ...] = (is_value,)
        if timeout != 0:  # it would be gone at once
            data = self._encode(value, made)
            commands = ((b"SET", made, data, *_expiry(timeout), b"NX"), *commands)
            answers = (is_ok_or_nil, is_value)
        replies, failures = yield from pipeline(self.cluster, made, *commands, answers=answers)
        if failures:
            self._raise_or_log(failures)
        stored = replies[-1]
        if stored is None:
            return value
        try:
            return self._decode(stored, made)
        except BadSignature:
            yield from self.set(key, value, timeout, version)
            return value

    def touch(self, key: object, timeout: int | None, version: int | None) -> Batch[bool]:
        if timeout == 0:
            deleted = yield from self.delete(key, version)
            return deleted
        made = self._keys.make(key, version)
        if timeout is None:  # PERSIST alone says 0 for a key that had no expiry to lose
            commands: tuple[Args, ...] = ((b"PERSIST", made), (b"EXISTS", made))
        else:
            commands = ((b"PEXPIRE", made, timeout),)
        replies, failures = yield from pipeline(
            self.cluster, made, *commands, answers=(is_number,)
        )
        if failures:
            self._raise_or_log(failures)
        return bool(replies[-1])

    def delete(self, key: object, version: int | None) -> Batch[bool]:
        reply = yield from self._run_on_key(b"UNLINK", key, version)
        return bool(reply)

    def delete_many(self, keys: list[Any], version: int | None) -> Batch[None]:
        if not keys:
            return
        made = self._keys.make_many(keys, version)
        _, failures = yield from count(self.cluster, b"UNLINK", made)
        if failures:
            self._raise_or_log(failures)

    def has_key(self, key: object, version: int | None) -> Batch[bool]:
        reply = yield from self._run_on_key(b"EXISTS", key, version)
        return bool(reply)

    def _run_on_key(
        self, command: bytes, key: object, version: int | None, *args: Any
    ) -> Batch[Any]:
        """Run a command on a key; return the number it replies, None where the node failed."""
        made = self._keys.make(key, version)
        reply, failures = yield from call(
            self.cluster, made, command, made, *args, answer=is_number
        )
        if failures:
            self._raise_or_log(failures)
        return reply

    def time_left(self, command: bytes, key: object, version: int | None) -> Batch[int | None]:
        """Return what TTL and PTTL mean: None for ever, 0 where there is no such key."""
        reply = yield from self._run_on_key(command, key, version)
        return None if reply == -1 else max(0, reply or 0)

    def expire_at(self, key: object, when: int, version: int | None) -> Batch[bool]:
        """Let a key expire at a time, in milliseconds since 1970."""
        reply = yield from self._run_on_key(b"PEXPIREAT", key, version, when)
        return bool(reply)

    def persist(self, key: object, version: int | None) -> Batch[bool]:
        reply = yield from self._run_on_key(b"PERSIST", key, version)
        return bool(reply)

    def incr(self, key: object, delta: int, version: int | None) -> Batch[int]:
        made = self._keys.make(key, version)
        if not MIN_INTEGER <= delta <= MAX_INTEGER:
            raise ValueError(
                f"Key {key!r} cannot be incremented: the delta does not fit into 64 bits."
            )
        value, failures = yield from run_script(
            self.cluster, made, _INCR, delta, answer=is_counter
        )
        if failures:
            error = failures[0].error
            if isinstance(error, ResponseError) and "increment" in str(error):
                raise NotCountable(
                    f"Key {key!r} cannot be incremented by {delta}: the result does not fit "
                    "into 64 bits."
                ) from error
            if isinstance(error, ResponseError) and "not an integer" in str(error):
                raise NotCountable(
                    f"Key {key!r} cannot be incremented by {delta}: its value is not an "
                    "integer of 64 bits."
                ) from error
            raise first_error(failures)
        if value is None:
            raise ValueError(f"Key {key!r} not found")
        return int(value)

    def incr_version(self, key: object, delta: int, version: int) -> Batch[int]:
        """Move a value to another version, as it is stored and with the expiry it has.

        The two versions may live on different nodes: the new one is written before the
        old one is deleted.
        """
        old, new = self._keys.make(key, version), self._keys.make(key, version + delta)
        (data, ttl), failures = yield from pipeline(
            self.cluster,
            old,
            (b"GET", old),
            (b"PTTL", old),
            answers=(is_value, is_number),
        )
        if failures:
            raise first_error(failures)
        if data is None or ttl == -2:  # it may expire between the two
            raise ValueError(f"Key {key!r} not found")
        try:
            data = self._codec.moved(data, old, new)
        except BadSignature:
            self._log_bad_signatures((old,))
            raise ValueError(f"Key {key!r} not found") from None
        if old != new:
            expiry = _expiry(None if ttl == -1 else max(1, ttl))
            steps: tuple[tuple[bytes, Args, IsAnswer], ...] = (
                (new, (b"SET", new, data, *expiry), is_ok),
                (old, (b"UNLINK", old), is_number),
            )
            for made, args, answer in steps:
                _, failures = yield from call(self.cluster, made, *args, answer=answer)
                if failures:
                    raise first_error(failures)
        return version + delta

    def clear(self) -> Batch[bool]:
        flush = dict.fromkeys(self.cluster.nodes, (b"FLUSHDB", b"ASYNC"))
        _, failures = yield from call_nodes(self.cluster, flush, is_ok)
        if failures:
            self._raise_or_log(failures)
        return not failures

    def scan(
        self, cursors: Cursors | None, match: bytes, page_size: int
    ) -> Batch[tuple[Cursors, Mapping[int, list[bytes]]]]:
        """Read one page of keys on each node that has more; the first of all nodes for None.

        Returns the cursors of the nodes that have more still, and keys by host id.
        """
        if cursors is None:
            cursors = first_cursors(self.cluster)
        options: Args = (b"MATCH", match, b"COUNT", page_size)
        cursors, pages, failures = yield from scan(self.cluster, cursors, options)
        if failures:
            self._raise_or_log(failures)
        return cursors, pages

    def delete_pattern(self, match: bytes, page_size: int) -> Batch[int]:
        cursors: Cursors | None = None
        deleted = 0
        while cursors or cursors is None:
            cursors, pages = yield from self.scan(cursors, match, page_size)
            if pages:
                found, failures = yield from delete_pages(self.cluster, pages)
                if failures:
                    self._raise_or_log(failures)
                deleted += found
        return deleted

    def _log_bad_signatures(self, keys: Sequence[bytes]) -> None:
        hosts = sorted(set(self.cluster.router.get_hosts_for_keys(keys)))
        logger.warning(
            "Cache miss on node %s, cluster %s, for %d keys: no valid signature. "
            "The first is %s.",
            ", ".join(map(str, hosts)),
            self.cluster.alias,
            len(keys),
            repr(loggable(keys[0])),
        )

    def _raise_or_log(self, failures: Sequence[NodeFailure]) -> None:
        """Raise what failed, or make do, as the cache is set to.

        What is wrong with a node is in the log of `django_rb.health`; left for this one are
        the errors that a command was answered with.
        """
        if self._raises:
            raise first_error(failures)
        for failure in failures:
            error = failure.error
            if isinstance(error, ResponseError) and not isinstance(error, COMPLAINTS):
                code = str(error).partition(" ")[0]
                if self.cluster.recently_logged.is_new((failure.host_id, code)):
                    logger.warning("Node %d refused a command: %s", failure.host_id, error)


@lru_cache(maxsize=256)  # a site has few timeouts
def _expiry(timeout: int | None) -> Args:
    """Return the options of SET for a timeout in milliseconds."""
    if timeout is None:
        return ()
    if timeout % 1000:
        return (b"PX", b"%d" % timeout)
    return (b"EX", b"%d" % (timeout // 1000))
