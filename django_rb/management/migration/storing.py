"""Reads values from the old nodes and stores them on the new ones."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from time import time

from ...cache.companions import seal_of
from ...engine.protocol.encoding import Args
from ...engine.protocol.scripts import LuaScript
from .by_type import NoSuchTypeError, make_command, read_command
from .comparing import delete_unchanged
from .copies import GONE, NEVER, Copy
from .sides import Sides

# The error replies to RESTORE of nodes that refuse other servers' dumps, or all dumps.
REFUSALS = re.compile(
    "DUMP payload version|unknown (redis )?command|NOPERM|no permissions|can't run this",
    re.IGNORECASE,
)

LACKING = (
    "their values need a command that the new node does not have, such as for fields that "
    "expire"
)


# KEYS: the key. ARGV: its seal, and the arguments of RESTORE. The seal is not among the KEYS:
# while slots are migrated, servers refuse commands on two keys of which one does not exist.
_RESTORE_UNSEALED = LuaScript("""
if redis.call('EXISTS', ARGV[1]) == 1 then return redis.status_reply('SEALED') end
return redis.pcall('RESTORE', KEYS[1], unpack(ARGV, 2))
""")


def read(sides: Sides, copies: Iterable[Copy]) -> list[Copy]:
    """Return those that the old nodes still have, with their dumps and expiry."""
    old = sides.old
    found = []
    began = time()
    asked = sides.ask(
        old,
        copies,
        lambda copy: (b"DUMP", copy.key),
        lambda copy: old.ask_time(copy.source, copy.key),
    )
    for copy, dump, told in asked:
        if dump is not None and told != GONE:
            copy.dump, copy.expiry = dump, old.read_time(copy.source, told, began)
            found.append(copy)
    return found


class Store:
    """Stores values on the new nodes.

    Args:
        replace: whether existing keys are overwritten.
        seals: whether keys may be sealed; sealed keys are not stored.
    """

    def __init__(self, sides: Sides, *, replace: bool, seals: bool) -> None:
        self._sides = sides
        self._replace = replace
        self._seals = seals
        self._refusing: set[tuple[int, int]] = set()  # pairs whose dumps the new node refuses

    def store(self, copies: Sequence[Copy]) -> tuple[list[Copy], list[Copy]]:
        """Store what was read; return the stored keys, and those that already existed."""
        stored: list[Copy] = []
        there: list[Copy] = []
        refused = [copy for copy in copies if (copy.source, copy.owner) in self._refusing]
        if refused:
            copies = [c for c in copies if (c.source, c.owner) not in self._refusing]
        sides = self._sides
        for copy, reply in sides.ask(sides.new, copies, self._restore, keep_errors=True):
            if reply == b"OK":
                stored.append(copy)
                continue
            text = str(reply)
            if reply == b"SEALED":
                sides.tally.taken_back += 1
            elif text.startswith("BUSYKEY"):
                there.append(copy)
            elif REFUSALS.search(text):
                refused.append(copy)
                self._refusing.add((copy.source, copy.owner))
            elif "Bad data format" in text:  # only of this key
                refused.append(copy)
            else:
                sides.tally.note(copy, text)
        if refused:
            self._store_by_type(refused, stored, there)
        return stored, there

    def _restore(self, copy: Copy) -> Args:
        expiry = self._sides.new_expiry(copy)
        command: Args = (b"RESTORE", copy.key, 0 if expiry is None else expiry, copy.dump)
        if expiry is not None:
            command += (b"ABSTTL",)
        if self._replace:
            command += (b"REPLACE",)
        if self._seals:
            _, key, *rest = command
            script = _RESTORE_UNSEALED.sha
            return (b"EVALSHA", script, 1, key, self._seal(copy), *rest)
        return command

    def _seal(self, copy: Copy) -> bytes:
        return seal_of(copy.key) if self._seals else b""

    def _store_by_type(
        self, refused: Sequence[Copy], stored: list[Copy], there: list[Copy]
    ) -> None:
        """Store values whose dumps the new nodes refuse."""
        sides = self._sides
        commands = dict[Copy, Args]()
        for copy, value in sides.ask(sides.old, refused, read_command):
            try:
                commands[copy] = make_command(
                    copy.key,
                    value,
                    sides.new_expiry(copy),
                    shift=sides.shift(copy),
                    replace=self._replace,
                    seal=self._seal(copy),
                )
            except NoSuchTypeError as error:
                if value != [b"none"]:  # it still exists
                    sides.tally.note(copy, f"dumps are refused, and {error}")
        made = sides.ask(sides.new, commands, commands.__getitem__, keep_errors=True)
        for copy, reply in made:
            if reply == -1:
                sides.tally.taken_back += 1
            elif not isinstance(reply, Exception):
                (stored if reply else there).append(copy)
            elif "command called from script" in str(reply):
                sides.tally.note(copy, f"{LACKING}: {reply}")
            else:
                sides.tally.note(copy, str(reply))

    def take_back_deleted(self, stored: list[Copy]) -> list[Copy]:
        """Delete the stored copies of keys that were deleted from their old nodes meanwhile.

        Copies that have changed are kept. Without this, deleted keys would come back. If keys
        may be sealed, only sealed ones are deleted: a cache also deletes old copies of keys
        that it has stored in the new cluster. Returns the others.
        """
        sides = self._sides
        gone = [copy for copy, is_there in _ask_existing(sides, stored) if not is_there]
        taken = set[Copy]()
        for copy, reply in sides.ask(sides.new, gone, self._delete):
            if reply == 1:
                taken.add(copy)
        sides.tally.taken_back += len(taken)
        return [copy for copy in stored if copy not in taken] if taken else stored

    def _delete(self, copy: Copy) -> Args:
        expiry = None
        if self._sides.new.facts[copy.owner].knows_times:
            expiry = self._sides.new_expiry(copy)
            expiry = NEVER if expiry is None else expiry
        return delete_unchanged(copy, expiry, self._seal(copy))


def _ask_existing(sides: Sides, copies: Sequence[Copy]) -> Iterable[tuple[Copy, int]]:
    """Return whether old nodes still have keys, for nodes that lack some of them."""
    old = sides.old
    doubtful = copies
    if not old.cluster.router.has_slots:  # then one command may have all keys of a node
        by_node = defaultdict[int, list[Copy]](list)
        for copy in copies:
            by_node[copy.source].append(copy)
        counts = old.nodes.run(
            {
                (old.alias, source): [(b"EXISTS", *(copy.key for copy in share))]
                for source, share in by_node.items()
            }
        )
        doubtful = [
            copy
            for source, share in by_node.items()
            if counts.get((old.alias, source), [len(share)]) != [len(share)]
            for copy in share
        ]
    return sides.ask(old, doubtful, lambda copy: ("EXISTS", copy.key))
