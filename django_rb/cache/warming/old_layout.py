"""The layout that keys had before, and the commands that are sent to its nodes.

All of these are visits: rounds of a call on the new layout in which the old one is asked, for
a limited time. Failures of the old layout do not make the call fail.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from struct import unpack
from time import monotonic, time
from typing import NamedTuple, cast

from redis.exceptions import ResponseError

from ...engine import Cluster, NodeFailure
from ...engine.errors import COMPLAINTS
from ...engine.protocol.answers import is_number
from ...engine.protocol.encoding import Args, encode_words
from ...engine.protocol.exchange import Batch
from ...engine.protocol.interludes import Visit
from ...engine.protocol.scripts import LuaScript
from ...engine.rounds.batch import call_nodes, count, pipeline
from ...engine.rounds.scans import Cursors, first_cursors, scan
from ...engine.wording import get_logger
from ..companions import lease_of
from .groups import Script, ask_in_groups

logger = get_logger("django_rb.cache")

MOST_SECONDS = 1.0

# Clocks that differ by fewer milliseconds count as equal: the difference may be network time.
SAME_TIME = 2000

_AGAIN_SECONDS = 5.0  # between two attempts to identify a node

FOREVER, NOTHING = -1, -2  # instead of a time, as in PEXPIRETIME's replies


class Found(NamedTuple):
    """What was read of keys.

    Attributes:
        data: what is stored, by key; empty for a key that does not exist.
        ends: when it expires, as Unix time in milliseconds on this machine's clock, or NOTHING,
            by key; keys without an expiry may be missing.
    """

    data: dict[bytes, bytes]
    ends: dict[bytes, float]

    def __bool__(self) -> bool:
        return bool(self.data)


class Moved(NamedTuple):
    """Keys that have other owners in the new layout.

    Attributes:
        keys: the keys.
        now: the ids of their hosts in the new layout.
        then: those in the old one; None if a Redis Cluster's slots are not known yet.
    """

    keys: list[bytes]
    now: list[int]
    then: list[int] | None

    def __bool__(self) -> bool:
        return bool(self.keys)


class _Read(Script):
    """Reads strings and their expiry.

    The reply has a string, or nil, for each key; then the replies to PEXPIRETIME for all of
    them, as doubles in a string; and the node's own time.
    """

    name = b"EVALSHA_RO"
    sha = LuaScript("""
local out, ends = {}, {}
for i, key in ipairs(KEYS) do
  local data = redis.pcall('GET', key)
  out[i] = type(data) == 'string' and data
  ends[i] = struct.pack('>d', redis.call('PEXPIRETIME', key))
end
out[#out + 1] = table.concat(ends)
local time = redis.call('TIME')
out[#out + 1] = time[1] * 1000 + math.floor(time[2] / 1000)
return out
""").sha
    _start = encode_words((name, sha, 1))

    def arguments(self, keys: list[bytes]) -> list[bytes]:
        return [self.sha, b"%d" % len(keys), *keys]

    def encode(self, keys: list[bytes]) -> bytes:
        if len(keys) > 1:
            return super().encode(keys)
        (key,) = keys
        return b"*4\r\n%b$%d\r\n%b\r\n" % (self._start, len(key), key)


_READ = _Read()


@dataclass
class Voided:
    """The result of deleting old copies.

    Attributes:
        deleted: how many were deleted.
        left: the keys that may still have an old copy.
    """

    deleted: int = 0
    left: list[bytes] = field(default_factory=list)


class OldLayout:
    """The cluster that had the keys before another one.

    Args:
        new: the cluster that has the keys now.
        old: the cluster that had them before.
        deadline: seconds for a call; None without limit.

    Attributes:
        seconds: the maximum time that one round of a call waits for it.
        fill_seconds: how long after the start of a read its values may be stored.
    """

    def __init__(self, new: Cluster, old: Cluster, deadline: float | None) -> None:
        self.cluster = old
        self._new = new
        self.seconds = MOST_SECONDS if deadline is None else min(MOST_SECONDS, deadline / 4)
        self.fill_seconds = 2 * self.seconds
        self._same: dict[str, str] = {}  # addresses in the new layout by those in the old one
        self._known: tuple[object, object] | None = None  # the routers at that time
        self._ask_at = 0.0

    def moved(self, keys: Sequence[bytes], now: list[int] | None = None) -> Moved:
        """Return those of the keys that are known to have other owners now.

        Args:
            now: the ids of their hosts in the new layout, if the caller knows them.
        """
        new, old = self._new, self.cluster
        if now is None:
            now = new.router.get_hosts_for_keys(keys)
        if not self._knows_owners:
            return Moved(list(keys), now, None)
        then = old.router.get_hosts_for_keys(keys)
        place_now, place_then = _Places(new, {}), _Places(old, self._same)
        is_static = not (new.router.has_slots and old.router.has_slots)
        if is_static and set(place_now.values()).isdisjoint(place_then.values()):
            return Moved(list(keys), now, then)
        chosen = [
            n
            for n, (one, other) in enumerate(zip(now, then, strict=True))
            if place_now[one] != place_then[other]
        ]
        return Moved(
            [keys[n] for n in chosen], [now[n] for n in chosen], [then[n] for n in chosen]
        )

    @property
    def _knows_owners(self) -> bool:
        layout = self.cluster.layout
        return layout is None or layout.is_known

    # Identities. The same node may have different addresses in the two layouts; then deleting
    # the old copy of a key would delete the new one.

    @property
    def knows_nodes(self) -> bool:
        """Whether it is known which addresses of the two layouts mean the same database.

        The nodes of a Redis Cluster report their addresses; independent nodes are asked once.
        Those that do not answer are asked again after a while.
        """
        new, old = self._new, self.cluster
        if new.router.has_slots or old.router.has_slots:
            return True
        return (_state_of(new), _state_of(old)) == self._known or monotonic() < self._ask_at

    def get_to_know_nodes(self) -> Batch[None]:
        """Ask independent nodes for their identity."""
        if self._ask_at:  # other calls do not wait, except before the first answer
            self._ask_at = monotonic() + _AGAIN_SECONDS
        known = _state_of(self._new), _state_of(self.cluster)
        question: Args = (b"INFO", b"server")
        visit = Visit(self.cluster, call_nodes(self.cluster, question), self.seconds)
        yield visit
        ours, failures = yield from call_nodes(self._new, question)
        theirs, failed = visit.result or ({}, [])
        self._same = self._same | {
            self.cluster.get_address(old_id): self._new.get_address(new_id)
            for new_id, info in ours.items()
            for old_id, other in theirs.items()
            if _run_id(info) == _run_id(other) != b""
            and self._new.hosts[new_id].db == self.cluster.hosts[old_id].db
        }
        if visit.result is not None and all(map(_is_refusal, (*failures, *failed))):
            self._known = known
        self._ask_at = monotonic() + _AGAIN_SECONDS

    # Visits.

    def read(self, moved: Moved) -> Visit[Found]:
        """Read keys; the result has those for which their old nodes have answered."""
        return Visit(self.cluster, self._read(moved), self.seconds)

    def _read(self, moved: Moved) -> Batch[Found]:
        read = Found({}, {})
        if not self._knows_owners:
            return read
        if moved.then is None:  # by now it is known
            moved = self.moved(moved.keys)
        owners = cast(list[int], moved.then)
        answers = yield from ask_in_groups(self.cluster, _READ, moved.keys, owners)
        for group, replies in answers:
            if isinstance(replies, ResponseError):
                self._log_refusal(group[0], replies)
            elif not isinstance(replies, Exception):
                skew = replies.pop() - time() * 1000
                ends: Sequence[float] = unpack(f">{len(group)}d", replies.pop())
                if abs(skew) > SAME_TIME:
                    ends = [end if end < 0 else end - skew for end in ends]
                read.data.update(zip(group, replies, strict=True))
                if max(ends) > FOREVER:
                    read.ends.update(zip(group, ends, strict=True))
                if None in replies:
                    missing = [key for key in group if read.data[key] is None]
                    read.data.update(dict.fromkeys(missing, b""))
                    read.ends.update(dict.fromkeys(missing, NOTHING))
        return read

    def _log_refusal(self, key: bytes, error: ResponseError) -> None:
        """Log once that a node refuses a command for which its user has no permission."""
        if isinstance(error, COMPLAINTS):
            return
        old = self.cluster
        host_id = old.router.get_host_for_key(key)
        if old.recently_logged.is_new((host_id, str(error).partition(" ")[0])):
            logger.warning("Cannot read from node %d of the old layout: %s", host_id, error)

    def void(self, moved: Moved) -> Visit[Voided]:
        """Delete the old copies of keys."""
        return Visit(self.cluster, self._void(moved.keys), self.seconds)

    def _void(self, moved: list[bytes]) -> Batch[Voided]:
        if not self._knows_owners:
            return Voided(left=moved)
        if self.cluster.layout is not None:  # its slots may be known by now
            moved = self.moved(moved).keys
        if not moved:
            return Voided()
        old = self.cluster
        if len(moved) == 1:
            (key,) = moved
            replies, failures = yield from pipeline(
                old,
                key,
                (b"UNLINK", lease_of(key)),
                (b"UNLINK", key),
                answers=(is_number,),
            )
            deleted = replies[-1] or 0
        else:
            deleted, failures = yield from count(old, b"UNLINK", moved, lease_of)
        left = {key for failure in failures for key in failure.keys}
        return Voided(deleted, [key for key in moved if key in left])

    def empty(self) -> Visit[list[NodeFailure]]:
        """Empty the databases of all nodes; the result has the failures."""
        return Visit(self.cluster, self._empty(), self.seconds)

    def _empty(self) -> Batch[list[NodeFailure]]:
        _, failures = yield from call_nodes(self.cluster, (b"FLUSHDB", b"ASYNC"))
        return failures

    def scan(
        self, cursors: Cursors | None, options: Args
    ) -> Visit[tuple[Cursors, Mapping[int, list[bytes]], list[NodeFailure]]]:
        """Read a page of keys on each node that the new layout does not have."""
        return Visit(self.cluster, self._scan(cursors, options), self.seconds)

    def _scan(
        self, cursors: Cursors | None, options: Args
    ) -> Batch[tuple[Cursors, Mapping[int, list[bytes]], list[NodeFailure]]]:
        if cursors is None:
            places = _Places(self._new, {}).values()
            cursors = {
                host_id: cursor
                for host_id, cursor in first_cursors(self.cluster).items()
                if _Places(self.cluster, self._same)[host_id] not in places
            }
        if not cursors:
            return {}, {}, []
        return (yield from scan(self.cluster, cursors, options))


def _state_of(cluster: Cluster) -> object:
    """Return an object that changes whenever a cluster's keys may have other owners."""
    return cluster.router, 0 if cluster.layout is None else cluster.layout.version


class _Places(dict[int, str]):
    """The addresses of hosts by host id.

    Args:
        cluster: the cluster that has these hosts.
        names: other names for addresses.
    """

    def __init__(self, cluster: Cluster, names: Mapping[str, str]) -> None:
        super().__init__(
            (host_id, names.get(node.address, node.address))
            for host_id, node in cluster.nodes.items()
        )
        self._cluster = cluster
        self._names = names

    def __missing__(self, host_id: int) -> str:
        address = self._cluster.get_address(host_id)
        self[host_id] = self._names.get(address, address)
        return self[host_id]


def _run_id(info: bytes) -> bytes:
    """Return the run_id in a reply to INFO."""
    return info.partition(b"run_id:")[2].partition(b"\r\n")[0]


def _is_refusal(failure: NodeFailure) -> bool:
    """Return whether a node refused to answer, for example for lack of permission."""
    return isinstance(failure.error, ResponseError)
