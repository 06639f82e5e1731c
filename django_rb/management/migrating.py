"""Keys on their way from the nodes of one cluster to their owners in another.

A page of keys is read from every old node at a time, and what it holds goes on in chunks of at
most CHUNK_BYTES, or of one value: memory does not grow with the number of keys. A chunk goes
through the same rounds each time: its values are read (DUMP), stored (RESTORE), compared and
deleted, as far as that was asked for, on all nodes at once. Nothing is kept between chunks but
counts, so that a run may end anywhere, and another one begin.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha1
from operator import attrgetter
from time import monotonic, sleep, time
from typing import Any

from redis.exceptions import ResponseError

from ..engine import Cluster
from ..engine.protocol.encoding import Args
from ..engine.protocol.scripts import LuaScript
from .by_type import NoSuchTypeError, are_same, make_command, read_command
from .output import Progress, RateProgress
from .scanning import Nodes, Pages

# So many bytes, as the old nodes count them, are on their way at once; or one larger value.
CHUNK_BYTES = 16 * 2**20

# With --rate, so often in a second some keys are sent.
TURNS_PER_SECOND = 10

# Clocks that are no further apart are taken for equal, in milliseconds. What is measured of
# them has an error.
EQUAL_CLOCKS = 1000

# A dump ends in the version of its format and a checksum, which differ between servers.
# https://github.com/sripathikrishnan/redis-rdb-tools/wiki/Redis-RDB-Dump-File-Format
DUMP_TAIL = 10

# What nodes say to RESTORE that take no dumps of others, or none at all.
REFUSALS = ("DUMP payload version", "unknown command", "NOPERM", "no permissions")

NEVER, GONE = -1, -2  # as PEXPIRETIME says it

MOST_PROBLEMS = 50  # that are told apart
EXAMPLES = 5  # keys that are named of those that share a fate

# KEYS: the key. ARGV: the SHA1 digest of a dump without its tail; when it expires, or "" where
# that is not looked at. Deletes the key if that is still what it holds, and returns 1 then, 0
# where the key is gone, -1 where it has changed.
_DELETE_UNCHANGED = LuaScript(f"""
local dump = redis.call('DUMP', KEYS[1])
if not dump then return 0 end
if redis.sha1hex(string.sub(dump, 1, -{DUMP_TAIL + 1})) ~= ARGV[1] then return -1 end
if ARGV[2] ~= '' and redis.call('PEXPIRETIME', KEYS[1]) ~= tonumber(ARGV[2]) then return -1 end
return redis.call('UNLINK', KEYS[1])
""")


@dataclass(slots=True, eq=False)
class Copy:
    """A key on its way.

    Attributes:
        source, owner: host ids of its old and its new node.
        size: of its value in the old node's memory, in bytes.
        dump: as DUMP gives it.
        expiry: Unix time in milliseconds on the old node's clock, or NEVER.
    """

    key: bytes
    source: int
    owner: int
    size: int = 0
    dump: bytes = b""
    expiry: int = NEVER


@dataclass
class Transfer:
    """What became of the keys that go from one node to another.

    Attributes:
        keys, size: that were copied, or would be, and their bytes in the old node's memory.
        there: that the new node had, and were left alone.
        different: that both have, with other values or times.
        deleted: from the old node.
        failed: that were not copied.
    """

    keys: int = 0
    size: int = 0
    there: int = 0
    different: int = 0
    deleted: int = 0
    failed: int = 0


@dataclass
class Problem:
    """Keys that share a fate: how many, and some of them."""

    count: int = 0
    keys: list[bytes] = field(default_factory=list)

    def add(self, key: bytes) -> None:
        """Count one more."""
        self.count += 1
        if len(self.keys) < EXAMPLES:
            self.keys.append(key)


@dataclass(frozen=True)
class Facts:
    """What a node says of itself.

    Attributes:
        identity: of the server process and the database.
        ahead: milliseconds by which its clock is ahead of ours.
        knows_times: it knows PEXPIRETIME, which came with Redis 7.
    """

    identity: tuple[bytes, int]
    ahead: int
    knows_times: bool


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What is to be done; see the options of rb_migrate."""

    replace: bool = False
    delete: bool = False
    verify: bool = False
    dry_run: bool = False
    from_any_node: bool = False
    rate: int | None = None


class Side:
    """The nodes of one of the two clusters.

    Attributes:
        nodes: which have failed is noted there.
        facts: by host id, of those that have told.
    """

    def __init__(self, alias: str, cluster: Cluster, timeout: float | None) -> None:
        self.alias = alias
        self.cluster = cluster
        self.nodes = Nodes({alias: cluster}, timeout)
        self.facts: dict[int, Facts] = {}
        self.meet(host_id for _, host_id in self.nodes.addresses)

    def meet(self, host_ids: Iterable[int]) -> None:
        """Ask nodes about themselves."""
        names = [(self.alias, host_id) for host_id in host_ids]
        began = time()
        told = self.nodes.run(dict.fromkeys(names, (("INFO", "server"), ("TIME",))))
        now = (began + time()) / 2
        versed = self.nodes.run(
            dict.fromkeys(told, (("COMMAND", "INFO", "PEXPIRETIME"),)), keep_errors=True
        )
        for name, (info, clock) in told.items():
            said = self.cluster.prototype.response_callbacks["INFO"](info)
            (command,) = versed.get(name, [None])
            _, host_id = name
            self.facts[host_id] = Facts(
                (str(said["run_id"]).encode(), self.cluster.hosts[host_id].db),
                round((int(clock[0]) + int(clock[1]) / 1e6 - now) * 1000),
                isinstance(command, list | dict) and any(command),
            )


class Migration:
    """Takes keys to their new owners, and counts them.

    Args:
        old, new: the clusters.
        wishes: what is to be done.
        progress: is told how far it is.

    Attributes:
        transfers: by the host ids of the old and the new node.
        problems: by what they are, in words.
        stayed: how many keys have the same node in both clusters.
        strays: how many were left out, on nodes that do not own them in the old cluster.
        taken_back: how many were deleted from the old node while they were copied, and so
            from the new one.
    """

    def __init__(self, old: Side, new: Side, wishes: Wishes, progress: RateProgress) -> None:
        self.old, self.new, self.wishes = old, new, wishes
        self.transfers: dict[tuple[int, int], Transfer] = defaultdict(Transfer)
        self.problems: dict[str, Problem] = defaultdict(Problem)
        self.stayed = self.strays = self.taken_back = 0
        self._progress = progress
        self._refusing: set[tuple[int, int]] = set()  # new nodes that refuse old ones' dumps
        self._are_mostly_there = False
        self._next_turn = monotonic()

    def run(self, pattern: bytes, sizes: dict[tuple[str, int], int]) -> None:
        """Take all keys that match a pattern.

        Args:
            pattern: as SCAN MATCH has it.
            sizes: the old nodes, and how many keys they have.
        """
        scanned = Progress(None, "", None, "")
        for pages in self.old.nodes.scan(pattern, sizes, scanned):
            leaving = self._leaving(pages)
            self._progress.add(scanned.done - self._progress.done - len(leaving))
            for chunk in self._in_chunks(self._measured(leaving)):
                if self.wishes.dry_run:
                    self._count(self._without_existing(chunk))
                else:
                    self._wait_for_turn(len(chunk))
                    self._take(chunk)
                self._progress.size += sum(copy.size for copy in chunk)
                self._progress.add(len(chunk))
                for copy in chunk:
                    copy.dump = b""  # the page is kept until its last chunk has gone

    # What goes.

    def _leaving(self, pages: Pages) -> list[Copy]:
        """Return the keys whose owner is another node in the new cluster."""
        leaving: list[Copy] = []
        old, new = self.old.cluster, self.new.cluster
        for (_, source), keys in pages.items():
            if not self.wishes.from_any_node and old.layout is None:
                owners = old.router.get_hosts_for_keys(keys)
                own = [key for key, o in zip(keys, owners, strict=True) if o == source]
                self.strays += len(keys) - len(own)
                keys = own
            owners = new.router.get_hosts_for_keys(keys)
            are_same = {owner: self._are_same(source, owner) for owner in set(owners)}
            leaving += [
                Copy(key, source, owner)
                for key, owner in zip(keys, owners, strict=True)
                if not are_same[owner]
            ]
            self.stayed += sum(are_same[owner] for owner in owners)
        return leaving

    def _are_same(self, source: int, owner: int) -> bool:
        """Whether an old and a new node are one: the same server and the same database."""
        old, new = self.old, self.new
        if owner not in new.facts and (new.alias, owner) not in new.nodes.failures:
            new.meet([owner])  # it has joined a Redis Cluster meanwhile
        if old.cluster.get_address(source) == new.cluster.get_address(owner):
            return True
        here, there = old.facts.get(source), new.facts.get(owner)
        return here is not None and there is not None and here.identity == there.identity

    def _measured(self, copies: Sequence[Copy]) -> Iterator[Copy]:
        """Yield those that are still there, with their sizes."""
        measured = self._ask(self.old, copies, lambda copy: ("MEMORY", "USAGE", copy.key))
        for copy, size in measured:
            if size is not None:
                copy.size = size
                yield copy

    def _in_chunks(self, copies: Iterable[Copy]) -> Iterator[list[Copy]]:
        """Yield some at a time: a few megabytes, and with --rate a few keys."""
        rate = self.wishes.rate
        most = max(1, rate // TURNS_PER_SECOND) if rate else None
        chunk: list[Copy] = []
        size = 0
        for copy in copies:
            if chunk and (size + copy.size > CHUNK_BYTES or len(chunk) == most):
                yield chunk
                chunk, size = [], 0
            chunk.append(copy)
            size += copy.size
        if chunk:
            yield chunk

    def _wait_for_turn(self, count: int) -> None:
        """Wait until so many keys more are no more than --rate allows."""
        if self.wishes.rate:
            now = monotonic()
            sleep(max(0.0, self._next_turn - now))
            self._next_turn = max(now, self._next_turn) + count / self.wishes.rate

    # What is done with a chunk.

    def _take(self, chunk: list[Copy]) -> None:
        wishes = self.wishes
        looks_closer = wishes.delete or wishes.verify
        missing = chunk
        if self._are_mostly_there and not looks_closer and not wishes.replace:
            missing = self._without_existing(chunk)
        stored: list[Copy] = []
        there: list[Copy] = []
        self._store(self._read(missing), stored, there)
        self._are_mostly_there = len(stored) < len(chunk) / 2
        self._take_back_deleted(stored)
        self._count(stored)
        for copy in there:
            self.transfers[copy.source, copy.owner].there += 1
        if looks_closer:
            same = self._same([*there, *stored] if wishes.verify else there)
            if wishes.delete:
                changed = self._delete(same if wishes.verify else [*same, *stored])
                # A set that was not changed may have another order in its next dump.
                changed = self._delete(self._same(self._read(changed)))
                for copy in changed:
                    self._note_different(copy)

    def _count(self, copies: Iterable[Copy]) -> None:
        for copy in copies:
            transfer = self.transfers[copy.source, copy.owner]
            transfer.keys += 1
            transfer.size += copy.size

    def _without_existing(self, chunk: Sequence[Copy]) -> list[Copy]:
        """Return those that the new nodes do not have."""
        missing = []
        asked = self._ask(self.new, chunk, lambda copy: ("EXISTS", copy.key))
        for copy, is_there in asked:
            if is_there and not self.wishes.replace:
                self.transfers[copy.source, copy.owner].there += 1
            else:
                missing.append(copy)
        return missing

    def _read(self, copies: Sequence[Copy]) -> list[Copy]:
        """Return those that are still there, with their dumps and times."""
        found = []
        old = self.old
        now = time() * 1000
        asked = self._ask(
            old,
            copies,
            lambda copy: ("DUMP", copy.key),
            lambda copy: _ask_time(old.facts[copy.source], copy),
        )
        for copy, dump, expiry in asked:
            facts = old.facts[copy.source]
            if dump is None or expiry == GONE:
                continue
            if not facts.knows_times and expiry != NEVER:
                expiry += round(now) + facts.ahead
            copy.dump, copy.expiry = dump, expiry
            found.append(copy)
        return found

    def _store(self, copies: list[Copy], stored: list[Copy], there: list[Copy]) -> None:
        """Store what was read; sort it into what was stored and what was there."""
        refused = [c for c in copies if (c.source, c.owner) in self._refusing]
        if refused:
            copies = [c for c in copies if (c.source, c.owner) not in self._refusing]
        for copy, reply in self._ask(self.new, copies, self._restore, keep_errors=True):
            if reply == b"OK":
                stored.append(copy)
            elif not isinstance(reply, Exception):
                self._note(copy, f"RESTORE was answered with {reply!r}")
            elif (text := str(reply)).startswith("BUSYKEY"):
                there.append(copy)
            elif any(refusal in text for refusal in REFUSALS):
                refused.append(copy)
                self._refusing.add((copy.source, copy.owner))
            elif "Bad data format" in text:  # of this one key
                refused.append(copy)
            else:
                self._note(copy, str(reply))
        if refused:
            self._store_by_type(refused, stored, there)

    def _restore(self, copy: Copy) -> Args:
        expiry = self._new_expiry(copy)
        command: Args = ("RESTORE", copy.key, 0 if expiry is None else expiry, copy.dump)
        if expiry is not None:
            command += ("ABSTTL",)
        return (*command, "REPLACE") if self.wishes.replace else command

    def _store_by_type(
        self, copies: Sequence[Copy], stored: list[Copy], there: list[Copy]
    ) -> None:
        """Store values whose dumps the new nodes refuse."""
        values = dict[bytes, Any]()
        asked = []
        for copy, value in self._ask(self.old, copies, _read_by_type):
            try:
                values[copy.key] = make_command(
                    copy.key,
                    value,
                    self._new_expiry(copy),
                    shift=self._shift(copy),
                    replace=self.wishes.replace,
                )
            except NoSuchTypeError as error:
                if value[0] != b"none":
                    self._note(copy, f"dumps are refused, and {error}")
            else:
                asked.append(copy)
        made = self._ask(self.new, asked, lambda copy: values[copy.key], keep_errors=True)
        for copy, reply in made:
            if not isinstance(reply, Exception):
                (stored if reply else there).append(copy)
            elif "command called from script" in str(reply):
                self._note(copy, f"{LACKING}: {reply}")
            else:
                self._note(copy, str(reply))

    def _take_back_deleted(self, stored: list[Copy]) -> None:
        """Delete what was stored of keys that were deleted from their old nodes meanwhile.

        As their value is still what was stored. Without this, they would come back.
        """
        gone = [copy for copy, is_there in self._ask_existing(stored) if not is_there]
        if not gone:
            return
        undone = self._ask(self.new, gone, lambda copy: self._delete_new(copy))
        for copy, reply in undone:
            if reply == 1:
                self.taken_back += 1
                stored.remove(copy)

    def _ask_existing(self, copies: Sequence[Copy]) -> Iterable[tuple[Copy, int]]:
        """Return what the old nodes have still; where that is all, each was asked once."""
        doubtful: Sequence[Copy] = copies
        if self.old.cluster.layout is None:
            by_node = defaultdict[int, list[Copy]](list)
            for copy in copies:
                by_node[copy.source].append(copy)
            counts = self.old.nodes.run(
                {
                    (self.old.alias, source): [("EXISTS", *(copy.key for copy in share))]
                    for source, share in by_node.items()
                }
            )
            doubtful = [
                copy
                for source, share in by_node.items()
                if counts.get((self.old.alias, source)) != [len(share)]
                for copy in share
            ]
        return self._ask(self.old, doubtful, lambda copy: ("EXISTS", copy.key))

    def _same(self, copies: Sequence[Copy]) -> list[Copy]:
        """Return those of which the new node has the value and the time; note the others."""
        same: list[Copy] = []
        unsure: list[Copy] = []
        new = self.new
        now = time() * 1000
        asked = self._ask(
            new,
            copies,
            lambda copy: ("DUMP", copy.key),
            lambda copy: _ask_time(new.facts[copy.owner], copy),
        )
        for copy, dump, expiry in asked:
            facts = new.facts[copy.owner]
            if not facts.knows_times and expiry >= 0:
                expiry += round(now) + facts.ahead
            wanted = self._new_expiry(copy)
            if dump is None and wanted is not None and wanted <= now + facts.ahead:
                continue  # its time is over
            if dump is None or abs(expiry - (NEVER if wanted is None else wanted)) > 1000:
                self._note_different(copy)
            elif dump[:-DUMP_TAIL] == copy.dump[:-DUMP_TAIL]:
                same.append(copy)
            else:
                unsure.append(copy)
        others = dict[int, Any]()
        for copy, value in self._ask(self.new, unsure, _read_by_type):
            others[id(copy)] = value
        unsure = [copy for copy in unsure if id(copy) in others]
        for copy, value in self._ask(self.old, unsure, _read_by_type):
            if are_same(value, others[id(copy)], self._shift(copy)):
                same.append(copy)
            else:
                self._note_different(copy)
        return same

    def _delete(self, copies: Sequence[Copy]) -> list[Copy]:
        """Delete from the old nodes what did not change there; return what did."""
        changed = []
        for copy, reply in self._ask(self.old, copies, self._delete_old):
            if reply == 1:
                self.transfers[copy.source, copy.owner].deleted += 1
            elif reply == -1:
                changed.append(copy)
        return changed

    def _delete_old(self, copy: Copy) -> Args:
        expiry = copy.expiry if self.old.facts[copy.source].knows_times else ""
        return _delete_unchanged(copy, expiry)

    def _delete_new(self, copy: Copy) -> Args:
        expiry = self._new_expiry(copy)
        if not self.new.facts[copy.owner].knows_times:
            return _delete_unchanged(copy, "")
        return _delete_unchanged(copy, NEVER if expiry is None else expiry)

    # Times.

    def _shift(self, copy: Copy) -> int:
        """Return by how many milliseconds the new node's clock is ahead of the old one's."""
        ahead = self.new.facts[copy.owner].ahead - self.old.facts[copy.source].ahead
        return ahead if abs(ahead) > EQUAL_CLOCKS else 0

    def _new_expiry(self, copy: Copy) -> int | None:
        """Return when a copy expires on the new node's clock; None for never."""
        return None if copy.expiry == NEVER else copy.expiry + self._shift(copy)

    # Nodes.

    def _ask(
        self,
        side: Side,
        copies: Sequence[Copy],
        *commands: Callable[[Copy], Args],
        keep_errors: bool = False,
    ) -> Iterator[tuple[Any, ...]]:
        """Yield copies with what their nodes on one side reply to commands about them.

        Those whose node has failed, or replied with an error, are noted and left out.
        """
        host_of = attrgetter("source" if side is self.old else "owner")
        shares: dict[int, list[Copy]] = defaultdict(list)
        for copy in copies:
            shares[host_of(copy)].append(copy)
        replies = side.nodes.run(
            {
                (side.alias, host_id): [make(copy) for copy in share for make in commands]
                for host_id, share in shares.items()
                if (side.alias, host_id) not in side.nodes.failures
            },
            keep_errors=True,
        )
        step = len(commands)
        for host_id, share in shares.items():
            said = replies.get((side.alias, host_id))
            if said is None:
                for copy in share:
                    self.transfers[copy.source, copy.owner].failed += 1
                continue
            for told in zip(share, *(said[n::step] for n in range(step)), strict=True):
                error = next((r for r in told if isinstance(r, ResponseError)), None)
                if error is None or keep_errors:
                    yield told
                else:
                    self._note(told[0], str(error))

    def _note(self, copy: Copy, problem: str) -> None:
        self.transfers[copy.source, copy.owner].failed += 1
        if problem not in self.problems and len(self.problems) >= MOST_PROBLEMS:
            problem = "other errors"
        self.problems[problem].add(copy.key)

    def _note_different(self, copy: Copy) -> None:
        self.transfers[copy.source, copy.owner].different += 1
        self.problems[DIFFERENT].add(copy.key)


LACKING = "their values need a command that the new node lacks, as for fields that expire"
DIFFERENT = "they are in both layouts, with other values or times"


def _read_by_type(copy: Copy) -> Args:
    return read_command(copy.key)


def _ask_time(facts: Facts, copy: Copy) -> Args:
    return ("PEXPIRETIME" if facts.knows_times else "PTTL", copy.key)


def _delete_unchanged(copy: Copy, expiry: int | str) -> Args:
    digest = sha1(copy.dump[:-DUMP_TAIL], usedforsecurity=False).hexdigest()
    return ("EVALSHA", _DELETE_UNCHANGED.sha, 1, copy.key, digest, expiry)
