"""The operations of a cache: the commands that they send, and their results.

Every operation is a generator of the engine's rounds (see `django_rb.engine.rounds.batch`). It
does no I/O, so the same code runs in threads and on event loops.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, TypeVar

from redis.exceptions import ResponseError

from ..engine import Cluster, NodeFailure
from ..engine.errors import COMPLAINTS, first_error
from ..engine.protocol.answers import (
    is_number,
    is_ok,
    is_ok_or_nil,
    is_value,
)
from ..engine.protocol.encoding import Args
from ..engine.protocol.exchange import Batch
from ..engine.rounds.batch import call, call_each, count, find, keep_found, pipeline, store
from ..engine.rounds.by_slot import Decode
from ..engine.rounds.observing import tell_found
from ..engine.rounds.outcomes import Outcome
from ..engine.wording import get_logger
from .codec import Codec, Encoding
from .companions import lease_of
from .keys import Keys, loggable
from .near_options import Near
from .signing import BadSignature, SignedCodec

T = TypeVar("T")

logger = get_logger("django_rb.cache")

Fetching = Batch[Outcome[bytes | None]]


class Operations:
    """The operations of one cache on one cluster.

    Args:
        cluster: the cluster.
        keys: makes the cache's keys.
        codec: the stored form of its values.
        raises: whether a node's failure is raised when the others are done; if not, it is
            logged, and the node's keys count as missing.
        deadline: seconds for one operation, None without limit.

    Attributes:
        near: the near copies; None for none.
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
        """Return a coroutine that runs one of the operations on the running event loop."""
        return self.cluster.arun(operation, self.deadline)

    # Timeouts are in milliseconds here: None for ever, 0 for already expired.

    def get(self, key: object, default: Any, version: int | None, unknown: Any) -> Batch[Any]:
        """Return the value of a key, `default` if there is none.

        Args:
            unknown: the result if the node failed.
        """
        return self._get(self._make_key(key, version), default, unknown, self._fetch)

    def _get(
        self, made: bytes, default: Any, unknown: Any, fetch: Callable[[bytes], Fetching]
    ) -> Batch[Any]:
        data, failures = yield from fetch(made)
        value, is_hit = default, False
        if failures:
            value = unknown
        elif data is not None:
            try:
                value = self._decode(data, made)
                is_hit = True
            except BadSignature:
                self._log_bad_signatures((made,))
        if self.cluster.observers:
            tell_found(is_hit, not is_hit)
        if failures:
            self._raise_or_log(failures)
        return value

    def get_many(self, keys: list[Any], version: int | None) -> Batch[dict[Any, Any]]:
        if not keys:
            return {}
        made = self._keys.make_many(keys, version)
        bad: list[bytes] = []
        decode = partial(self._codec.decode_found, bad)
        found, failures = yield from self._find(made, keys, decode, bad)
        if bad:
            self._log_bad_signatures(bad)
        if self.cluster.observers:
            is_all = len(found) == len(keys)  # else some may have been named twice
            tell_found(len(found), 0 if is_all else len(set(keys)) - len(found))
        if failures:
            self._raise_or_log(failures)
        return found

    def _fetch(self, made: bytes) -> Fetching:
        """Read what is stored for a key; None for nothing."""
        return call(self.cluster, made, b"GET", made, answer=is_value)

    def _find(
        self,
        made: list[bytes],
        names: list[Any],
        decode: Decode = keep_found,
        bad: Sequence[bytes] = (),
    ) -> Batch[Outcome[dict[Any, Any]]]:
        """Read keys; see `engine.rounds.batch.find`.

        Args:
            bad: keys that `decode` has found, with bad signatures.
        """
        return find(self.cluster, made, names, decode)

    def set(
        self, key: object, value: Any, timeout: int | None, version: int | None
    ) -> Batch[None]:
        if timeout == 0:
            yield from self.delete(key, version)
            return
        made = self._make_key(key, version)
        _, failures = yield from self._put(made, self._encode(value, made), timeout)
        if failures:
            self._raise_or_log(failures)

    def _put(self, made: bytes, data: bytes, timeout: int | None) -> Batch[Outcome[Any]]:
        """Store data under a key."""
        return call(self.cluster, made, b"SET", made, data, *_expiry(timeout), answer=is_ok)

    def set_many(
        self, data: Mapping[Any, Any], timeout: int | None, version: int | None
    ) -> Batch[list[Any]]:
        """Return the keys that could not be stored."""
        pairs = dict(data if type(data) is dict else data.items())
        if not pairs:
            return []
        made = self._keys.make_many(pairs, version)
        if timeout == 0:
            failures = yield from self._unlink_many(made)
        else:
            encoding = self._codec.encoding(pairs.values(), made)
            failures = yield from self._put_many(made, encoding, timeout)
        if not failures:
            return []
        self._raise_or_log(failures)
        lost = {key for failure in failures for key in failure.keys}
        return [key for key, sent in zip(pairs, made, strict=True) if sent in lost]

    def _put_many(
        self, made: list[bytes], encoding: Encoding, timeout: int | None
    ) -> Batch[list[NodeFailure]]:
        """Store values under keys."""
        _, failures = yield from store(self.cluster, made, *encoding, _expiry(timeout))
        return failures

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
        made = self._keys.make(key, version)
        if timeout == 0:  # it would expire at once, so only the result matters
            found, failures = yield from self._exists(made)
            if failures:
                self._raise_or_log(failures)
            return found == 0
        data = self._encode(value, made)
        stored, failures = yield from self._put_if(made, data, timeout, condition)
        if failures:
            self._raise_or_log(failures)
        return stored is not None

    def _put_if(
        self, made: bytes, data: bytes, timeout: int | None, condition: bytes
    ) -> Batch[Outcome[Any]]:
        """Store data on a condition of SET; return None if it is not met."""
        options = (*_expiry(timeout), condition)
        return call(self.cluster, made, b"SET", made, data, *options, answer=is_ok_or_nil)

    def get_or_add(
        self, key: object, value: Any, timeout: int | None, version: int | None
    ) -> Batch[Any]:
        """Store a value unless the key exists; return what is stored then.

        A value with a bad signature is replaced. If the node fails, `value` is returned.
        """
        made = self._keys.make(key, version)
        if timeout == 0:  # it would expire at once
            stored, failures = yield from self._fetch(made)
        else:
            data = self._encode(value, made)
            stored, failures = yield from self._put_or_fetch(made, data, timeout)
        if failures:
            self._raise_or_log(failures)
        if stored is None:
            return value
        try:
            return self._decode(stored, made)
        except BadSignature:
            yield from self.set(key, value, timeout, version)
            return value

    def _put_or_fetch(
        self, made: bytes, data: bytes, timeout: int | None
    ) -> Batch[Outcome[bytes | None]]:
        """Store data unless the key exists; return what is stored then."""
        replies, failures = yield from pipeline(
            self.cluster,
            made,
            (b"SET", made, data, *_expiry(timeout), b"NX"),
            (b"GET", made),
            answers=(is_ok_or_nil, is_value),
            for_primary=True,
        )
        return replies[-1], failures

    def delete(self, key: object, version: int | None) -> Batch[bool]:
        deleted, failures = yield from self._unlink(self._keys.make(key, version))
        if failures:
            self._raise_or_log(failures)
        return deleted

    def _unlink(self, made: bytes) -> Batch[tuple[bool, list[NodeFailure]]]:
        """Delete a key and its lease, so that running computations cannot store its value."""
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
        failures = yield from self._unlink_many(self._keys.make_many(keys, version))
        if failures:
            self._raise_or_log(failures)

    def _unlink_many(self, made: list[bytes]) -> Batch[list[NodeFailure]]:
        _, failures = yield from count(self.cluster, b"UNLINK", made, lease_of)
        return failures

    def has_key(self, key: object, version: int | None) -> Batch[bool]:
        found, failures = yield from self._exists(self._keys.make(key, version))
        if failures:
            self._raise_or_log(failures)
        return bool(found)

    def _exists(self, made: bytes) -> Batch[Outcome[int | None]]:
        """Return 1 for a key that exists, else 0."""
        return call(self.cluster, made, b"EXISTS", made, answer=is_number)

    def incr_version(self, key: object, delta: int, version: int) -> Batch[int]:
        """Move a value to another version, with its stored form and expiry.

        The two versions may be on different nodes: the new one is written before the old one
        is deleted.
        """
        old, new = self._keys.make(key, version), self._keys.make(key, version + delta)
        (data, ttl), failures = yield from self._fetch_with_time(old)
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
            _, failures = yield from self._put(new, data, None if ttl == -1 else max(1, ttl))
            if not failures:
                _, failures = yield from self._unlink(old)
            if failures:
                raise first_error(failures)
        return version + delta

    def _fetch_with_time(self, made: bytes) -> Batch[Outcome[list[Any]]]:
        """Read what is stored for a key, and in how many milliseconds it expires."""
        return pipeline(
            self.cluster,
            made,
            (b"GET", made),
            (b"PTTL", made),
            answers=(is_value, is_number),
            for_primary=True,
        )

    def clear(self) -> Batch[bool]:
        flush = dict.fromkeys(self.cluster.nodes, (b"FLUSHDB", b"ASYNC"))
        _, failures = yield from call_each(self.cluster, flush, is_ok)
        if failures:
            self._raise_or_log(failures)
        return not failures

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
        """Raise failures, or log them, according to the cache's settings.

        Failures of nodes are logged by `django_rb.health`; only error replies to commands are
        logged here.
        """
        if self._raises:
            raise first_error(failures)
        self._log_refusals(failures)

    def _log_refusals(self, failures: Sequence[NodeFailure]) -> None:
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
