"""What each cache operation asks of the nodes, and what it makes of their answers.

Every operation is a generator of the engine's rounds (see `django_rb.engine.rounds.batch`): it
does no I/O, so one text serves whichever transport drives it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, Protocol, TypeVar, cast

from redis.exceptions import ResponseError

from ..engine import Cluster, NodeFailure
from ..engine.errors import COMPLAINTS, first_error
from ..engine.near.copies import Copies
from ..engine.protocol.answers import (
    is_number,
    is_ok,
    is_ok_or_nil,
    is_value,
)
from ..engine.protocol.encoding import Args
from ..engine.protocol.exchange import Batch, IsAnswer
from ..engine.rounds.batch import (
    Outcome,
    call,
    call_each,
    count,
    find,
    keep_found,
    pipeline,
    store,
)
from ..engine.rounds.by_slot import Decode
from ..engine.rounds.observing import tell_found
from ..engine.rounds.scans import Cursors, delete_pages, first_cursors, scan
from ..engine.wording import get_logger
from .codec import Codec
from .keys import Keys, is_lease, loggable
from .leases import lease_of
from .signing import BadSignature, SignedCodec

T = TypeVar("T")

logger = get_logger("django_rb.cache")

Reading = Batch[Outcome[bytes | None]]


class Near(Protocol):
    """What a cache keeps near; see `django_rb.cache.near`."""

    copies: Copies

    def get_or_begin(
        self, key: object, default: Any, version: int | None
    ) -> tuple[Any, Batch[Any] | None]:
        """Return the value of a key, or `default`, if it is near; if not, the batch for it."""


class Operations:
    """The operations of one cache on one cluster.

    Args:
        cluster: the cluster.
        keys: makes the cache's keys.
        codec: the stored form of its values.
        raises: whether a node's failure is raised once the others are done; if not, it is
            logged, and what the node should have said counts as a miss.
        deadline: seconds for one operation, None without limit.

    Attributes:
        near: what is kept near; None for nothing.
    """

    near: Near | None = None

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
        return self._get(self._make_key(key, version), default, unknown, self._read)

    def _get(
        self, made: bytes, default: Any, unknown: Any, read: Callable[[bytes], Reading]
    ) -> Batch[Any]:
        data, failures = yield from read(made)
        value, is_hit = default, data is not None
        if failures:
            value = unknown
        elif is_hit:
            try:
                value = self._decode(cast(bytes, data), made)
            except BadSignature:
                is_hit = False
                self._log_bad_signatures((made,))
        if self.cluster.observers:
            tell_found(is_hit, not is_hit)
        if failures:
            self._raise_or_log(failures)
        return value

    def _read(self, made: bytes) -> Reading:
        """Return what is stored for a key, None for nothing."""
        return call(self.cluster, made, b"GET", made, answer=is_value)

    def get_many(self, keys: list[Any], version: int | None) -> Batch[dict[Any, Any]]:
        if not keys:
            return {}
        made = self._keys.make_many(keys, version)
        bad: list[bytes] = []
        decode = partial(self._codec.decode_found, bad)
        found, failures = yield from self._find(made, keys, decode)
        if bad:
            self._log_bad_signatures(bad)
        if self.cluster.observers:
            tell_found(len(found), len(dict.fromkeys(keys)) - len(found))
        if failures:
            self._raise_or_log(failures)
        return found

    def _find(
        self, made: list[bytes], names: list[Any], decode: Decode = keep_found
    ) -> Batch[Outcome[dict[Any, Any]]]:
        """Look keys up; see `engine.rounds.batch.find`."""
        return find(self.cluster, made, names, decode)

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
            _, failures = yield from count(self.cluster, b"UNLINK", made, lease_of)
        else:
            values, encode = self._codec.encoding(pairs.values(), made)
            _, failures = yield from store(self.cluster, made, values, encode, _expiry(timeout))
        if not failures:
            return []
        self._raise_or_log(failures)
        lost = {key for failure in failures for key in failure.keys}
        return [key for key, sent in zip(pairs, made, strict=True) if sent in lost]

    def add(
        self,
        key: object,
        value: Any,
        timeout: int | None,
        version: int | None,
        condition: bytes = b"NX",
    ) -> Batch[bool]:
        """Store a value on a condition of SET, NX or XX; return whether it was stored."""
        if timeout == 0 and condition == b"XX":
            deleted = yield from self.delete(key, version)
            return deleted
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
            condition,
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
        replies, failures = yield from pipeline(
            self.cluster, made, *commands, answers=answers, for_primary=True
        )
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

    def delete(self, key: object, version: int | None) -> Batch[bool]:
        deleted, failures = yield from self._unlink(self._keys.make(key, version))
        if failures:
            self._raise_or_log(failures)
        return deleted

    def _unlink(self, made: bytes) -> Batch[tuple[bool, list[NodeFailure]]]:
        """Delete a key; who computes its value has no right to store it any more."""
        replies, failures = yield from pipeline(
            self.cluster,
            made,
            (b"UNLINK", lease_of(made)),
            (b"UNLINK", made),
            answers=(is_number,),
            ends_again=True,
        )
        return bool(replies[-1]), failures

    def delete_many(self, keys: list[Any], version: int | None) -> Batch[None]:
        if not keys:
            return
        made = self._keys.make_many(keys, version)
        _, failures = yield from count(self.cluster, b"UNLINK", made, lease_of)
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
            for_primary=True,
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
            _, failures = yield from call(
                self.cluster, new, b"SET", new, data, *expiry, answer=is_ok
            )
            if not failures:
                _, failures = yield from self._unlink(old)
            if failures:
                raise first_error(failures)
        return version + delta

    def clear(self) -> Batch[bool]:
        flush = dict.fromkeys(self.cluster.nodes, (b"FLUSHDB", b"ASYNC"))
        _, failures = yield from call_each(self.cluster, flush, is_ok)
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

    def all_keys(self, match: bytes, page_size: int) -> Batch[list[bytes]]:
        """Return the keys on all nodes, each once; those of leases are left out."""
        cursors: Cursors | None = None
        found: dict[bytes, None] = {}
        while cursors or cursors is None:
            cursors, pages = yield from self.scan(cursors, match, page_size)
            for keys in pages.values():
                found.update(dict.fromkeys(key for key in keys if not is_lease(key)))
        return list(found)

    def delete_pattern(self, match: bytes, page_size: int) -> Batch[int]:
        cursors: Cursors | None = None
        deleted = 0
        while cursors or cursors is None:
            cursors, pages = yield from self.scan(cursors, match, page_size)
            # Leases go first, and are not counted: who computes a value must not store it then.
            for are_leases in (True, False):
                chosen = {
                    host_id: [key for key in keys if is_lease(key) is are_leases]
                    for host_id, keys in pages.items()
                }
                chosen = {host_id: keys for host_id, keys in chosen.items() if keys}
                if chosen:
                    found, failures = yield from delete_pages(self.cluster, chosen)
                    if failures:
                        self._raise_or_log(failures)
                    deleted += 0 if are_leases else found
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
