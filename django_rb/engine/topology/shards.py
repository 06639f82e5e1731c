"""Recognising shards, and the cluster itself, in a new answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .slots_replies import Address, Shard


def number_shards(
    before: Mapping[int, Shard], shards: Iterable[Shard], next_id: int
) -> dict[int, Shard]:
    """Return shards by host id: the ids that they had before, or new ones from `next_id` on.

    A shard is the same if its primary has the same id or address, or if both have a member in
    common, such as a replica that was promoted.
    """
    numbered: dict[int, Shard] = {}
    left = dict(before)
    rest = list(shards)
    for is_same in (_has_same_primary, _has_same_address, _shares_members):
        unknown: list[Shard] = []
        for shard in rest:
            host_id = next((i for i, old in left.items() if is_same(old, shard)), None)
            if host_id is None:
                unknown.append(shard)
            else:
                del left[host_id]
                numbered[host_id] = shard
        rest = unknown
    numbered.update(enumerate(rest, next_id))
    return dict(sorted(numbered.items()))


def ids_of(shards: Iterable[Shard]) -> set[str]:
    """Return the ids of all nodes of some shards."""
    return {member.node_id for shard in shards for member in shard.members}


def are_kin(before: Iterable[Shard], shards: Iterable[Shard], asked: Address) -> bool:
    """Return whether an answer has known nodes in addition to the one that was asked.

    They are known by id, or by address: a cluster may have been created anew at the same
    addresses. If there is only one node, that is enough.
    """
    known = [member for shard in before for member in shard.members]
    told = [member for shard in shards for member in shard.members]
    ids = {member.node_id for member in known}
    addresses = {member.address for member in known}
    if len(told) > 1 and len(known) > 1:
        told = [member for member in told if member.address != asked]
        ids -= {member.node_id for member in known if member.address == asked}
    return any(member.node_id in ids or member.address in addresses for member in told)


def _has_same_primary(old: Shard, new: Shard) -> bool:
    return old.primary.node_id == new.primary.node_id


def _has_same_address(old: Shard, new: Shard) -> bool:
    return old.primary.address == new.primary.address


def _shares_members(old: Shard, new: Shard) -> bool:
    ids = {member.node_id for member in old.members}
    addresses = {member.address for member in old.members}
    return any(m.node_id in ids or m.address in addresses for m in new.members)
