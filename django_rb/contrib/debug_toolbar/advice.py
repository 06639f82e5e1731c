"""Advice on how a request could use fewer calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .recording import Told

# This many consecutive calls from the same line are a loop.
LOOP = 3

# Operations on one key, and their counterparts for many.
TOGETHER = {
    "get": "get_many()",
    "has_key": "get_many()",
    "set": "set_many()",
    "delete": "delete_many()",
    "incr": "map()",
    "touch": "map()",
    "call": "map()",
}


def advise(calls: Sequence[Told]) -> Iterator[str]:
    """Yield a sentence for each loop, and for keys that were read more than once."""
    yield from _loops(calls)
    yield from _repetitions(calls)


def _loops(calls: Sequence[Told]) -> Iterator[str]:
    loops: dict[tuple[str, str, str], list[Told]] = {}
    for call in calls:
        if call["caller"] and call["operation"] in TOGETHER and call["key_count"] == 1:
            loop = loops.setdefault((call["cluster"], call["operation"], call["caller"]), [])
            # Calls that ran in parallel did not wait for each other.
            if not loop or call["at"] >= loop[-1]["at"] + loop[-1]["seconds"]:
                loop.append(call)
    for (cluster, operation, caller), loop in loops.items():
        if len({tuple(call["keys"]) for call in loop}) < LOOP:
            continue
        milliseconds = sum(call["seconds"] for call in loop) * 1000
        yield (
            f"This loop of {len(loop)} {operation}() on {cluster!r} could be replaced by one "
            f"{TOGETHER[operation]}: {milliseconds:.1f} ms in consecutive round trips, at "
            f"{short(caller)}"
        )


def _repetitions(calls: Sequence[Told]) -> Iterator[str]:
    again: dict[int, list[int]] = {}
    for number, call in enumerate(calls, start=1):
        if call["same_as"] is not None:
            again.setdefault(call["same_as"], []).append(number)
    for first, others in again.items():
        call = calls[first - 1]
        numbers = ", ".join(map(str, others[:10])) + (" …" if len(others) > 10 else "")
        yield (
            f"{call['operation']}() of the same {_keys(call['key_count'])} on "
            f"{call['cluster']!r} was executed {len(others) + 1} times: first as call "
            f"{first}, again as {numbers}"
        )


def _keys(count: int) -> str:
    return "key" if count == 1 else f"{count} keys"


def short(caller: str | None) -> str:
    """Return where a call was made, with only the last folder of the path."""
    if caller is None:
        return "a task that began with this call"
    return "/".join(caller.replace("\\", "/").rsplit("/", 2)[-2:])
