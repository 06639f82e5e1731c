"""Near copies without nodes: which copy counts after what, and how much memory they take."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from typing import Any

import pytest

from django_rb.engine.near.copies import ABSENT, OVERHEAD, Copies
from django_rb.engine.near.tracking import Term

KEY = b"key"


def term() -> Term:
    return Term(1e9)


class Read:
    def __init__(self, copies: Copies) -> None:
        self.copies = copies
        self.since = copies.begin([KEY])


def read(copies: Copies, data: bytes | None, key: bytes = KEY, end: float = 100.0) -> None:
    copies.fill_one(copies.begin([key]), key, data, end, term())


def fill(
    copies: Copies, since: int, keys: list[bytes], values: list[Any], end: float = 100.0
) -> None:
    size = len(keys)
    copies.fill(since, keys, values, [end] * size, [term()] * size)


def test_what_was_read_is_there_until_its_end() -> None:
    copies = Copies(10_000, 10)
    read(copies, b"1")
    assert copies.get(KEY, 99.9) == b"1"
    assert copies.get(KEY, 100.0) is None
    assert OVERHEAD + len(KEY) + 1 < copies.info().bytes < OVERHEAD + 400
    read(copies, None)
    assert copies.get(KEY, 0) is None
    assert copies.info().bytes == 0


def test_a_copy_counts_as_long_as_its_term() -> None:
    copies, mine = Copies(10_000, 10), Term(50.0)
    copies.fill_one(copies.begin([KEY]), KEY, b"1", 100.0, mine)
    assert copies.get(KEY, 49.0) == b"1"
    assert copies.get(KEY, 50.0) is None
    mine.until = 60.0
    assert copies.get(KEY, 50.0) == b"1"


OVERTAKING: list[Any] = [
    lambda copies: copies.drop([KEY]),
    lambda copies: copies.invalidate([KEY]),
    lambda copies: copies.clear(),
    lambda copies: copies.learned([KEY], [b"new"]),
    lambda copies: read(copies, None),
    lambda copies: read(copies, b"new"),
    lambda copies: copies.start_over(),
]


@pytest.mark.parametrize("number", range(len(OVERTAKING)))
@pytest.mark.parametrize("is_single", [True, False])
def test_a_late_reply_is_not_kept(number: int, is_single: bool) -> None:
    copies = Copies(10_000, 10)
    since = copies.begin([KEY])
    OVERTAKING[number](copies)
    if is_single:
        copies.fill_one(since, KEY, b"old", 100.0, term())
    else:
        fill(copies, since, [KEY], [b"old"])
    assert copies.get(KEY, 0) is None
    assert copies.info().bytes == 0


def test_what_came_late_drops_what_another_has_read() -> None:
    copies = Copies(10_000, 10)
    first, second = copies.begin([KEY]), copies.begin([KEY])
    copies.fill_one(second, KEY, b"one", 100.0, term())
    copies.fill_one(first, KEY, b"another", 100.0, term())  # who knows which is newer
    assert copies.get(KEY, 0) is None
    first, second = copies.begin([KEY]), copies.begin([KEY])
    copies.fill_one(second, KEY, b"one", 100.0, term())
    copies.fill_one(first, KEY, b"one", 100.0, term())
    assert copies.get(KEY, 0) == b"one"
    read(copies, b"one")
    copies.learned([KEY], [b"one"])
    assert copies.get(KEY, 0) == b"one"
    copies.learned([KEY], [ValueError()])
    assert copies.get(KEY, 0) is None


def test_a_change_spares_what_is_read_after_it() -> None:
    copies = Copies(10_000, 10)
    read = Read(copies)
    copies.invalidate([KEY, b"c"], read)
    fill(copies, read.since, [KEY, b"b"], [b"1", b"2"])
    assert copies.get_many([KEY, b"b", b"c"], 0) == ([b"1", b"2", None], 1)


def test_a_change_does_not_hide_another_one() -> None:
    copies = Copies(10_000, 10)
    read = Read(copies)
    copies.drop([KEY])  # this process has written to it
    copies.invalidate([KEY], read)
    fill(copies, read.since, [KEY], [b"old"])
    assert copies.get(KEY, 0) is None


def test_a_change_spares_no_read_of_another_cache() -> None:
    copies, others = Copies(10_000, 10), Copies(10_000, 10)
    read = Read(others)
    since = copies.begin([KEY])
    assert since == read.since
    copies.invalidate([KEY], read)
    assert since == read.since


def test_reads_that_never_end_leave_nothing_behind() -> None:
    copies = Copies(10_000, 10)
    for number in range(1000):
        copies.begin([b"key%d" % number, KEY])
    assert len(copies) == copies.info().bytes == 0
    before = memory_of(copies)
    for number in range(100_000):
        copies.begin([b"key%d" % number])
        copies.drop([b"key%d" % number])
    assert memory_of(copies) == before


def memory_of(copies: Copies) -> int:
    """Return bytes, without those of a number."""
    return sum(sys.getsizeof(part) for part in vars(copies).values() if type(part) is not int)


def test_what_made_room_is_not_replaced_by_what_came_late() -> None:
    copies = Copies(10_000, 10)
    since = copies.begin([KEY])
    read(copies, b"new")
    for number in range(1000):
        read(copies, b"1", b"key%d" % number)
    assert copies.get(KEY, 0) is None
    fill(copies, since, [KEY, b"b"], [b"old", b"old"])
    assert copies.get_many([KEY, b"b"], 0) == ([None, None], 2)


def test_what_is_known_of_some_keys_says_nothing_about_others() -> None:
    copies = Copies(100_000, 10)
    keys = [b"key%d" % number for number in range(10)]
    since = copies.begin(keys)
    copies.drop([keys[3]])
    read(copies, b"other", keys[4])
    read(copies, b"5", keys[5])
    fill(copies, since, keys, [b"%d" % number for number in range(10)])
    found, _ = copies.get_many(keys, 0)
    assert found == [b"0", b"1", b"2", None, None, b"5", b"6", b"7", b"8", b"9"]
    copies.drop(keys)
    assert vars(copies)["_bytes"] == 0


def test_missing_keys_are_no_copies() -> None:
    copies = Copies(10_000, 10)
    keys = [KEY, b"b", b"c"]
    late = copies.begin(keys)
    fill(copies, copies.begin(keys), keys, [b"1", None, b"3"])
    assert copies.get_many(keys, 0) == ([b"1", None, b"3"], 1)
    fill(copies, late, keys, [b"1", b"2", b"3"])  # b may be gone since
    assert copies.get_many(keys, 0) == ([b"1", None, b"3"], 1)


def test_a_key_that_is_named_twice_is_counted_once() -> None:
    copies, others = Copies(10_000, 10), Copies(10_000, 10)
    fill(copies, copies.begin([KEY]), [KEY, b"b", KEY], [b"1", b"2", b"1"])
    fill(others, others.begin([KEY]), [KEY, b"b"], [b"1", b"2"])
    assert copies.get_many([KEY, b"b"], 0) == ([b"1", b"2"], 0)
    assert copies.info().bytes == others.info().bytes


@pytest.mark.parametrize("is_single", [True, False])
@pytest.mark.parametrize("part", ["value", "key"])
def test_a_change_while_a_reply_is_stored_wins(is_single: bool, part: str) -> None:
    """It comes from a signal handler, which may run whenever a function returns."""
    copies = Copies(10_000, 10)
    calls: list[str] = []

    class Value(bytes):
        def __len__(self) -> int:
            if part == "value":
                copies.drop([KEY])
            return 3

    class Key(bytes):
        def __hash__(self) -> int:
            calls.append("hash")
            if part == "key" and len(calls) == 2:  # the last look at what has changed
                copies.drop([KEY])
            return hash(KEY)

    since = copies.begin([KEY])
    copies.drop([b"other"])
    if is_single:
        copies.fill_one(since, Key(KEY), Value(b"old"), 100.0, term())
    else:
        fill(copies, since, [Key(KEY)], [Value(b"old")])
    assert copies.get(KEY, 0) is None
    assert vars(copies)["_bytes"] == 0


def test_a_change_while_a_copy_moves_to_the_youngest_table_wins() -> None:
    """It comes from a signal handler, too."""
    copies = Copies(10_000, 10)

    class Table(dict[bytes, Any]):
        def get(self, key: bytes, default: Any = None) -> Any:
            copy = super().get(key, default)
            copies.drop([KEY])
            return copy

        def pop(self, key: bytes, default: Any = None) -> Any:
            copy = super().pop(key, default)
            if copy is not None:
                copies.drop([KEY])
            return copy

    read(copies, b"old")
    vars(copies).update(_older=(Table(vars(copies)["_young"]),), _young={})
    assert copies.get(KEY, 0) is None
    assert copies.get(KEY, 0) is None


def test_that_there_is_no_key_is_kept_where_it_is_asked_for() -> None:
    copies = Copies(10_000, 10, keeps_misses=True)
    read(copies, None)
    assert copies.get(KEY, 0) is ABSENT
    copies.learned([KEY], [None])
    assert copies.get(KEY, 0) is ABSENT
    copies.learned([KEY], [b""])
    assert copies.get(KEY, 0) is None


def test_bytes_are_counted_whatever_threads_do() -> None:
    copies = Copies(50_000, 10)

    def work(seed: int) -> None:
        for number in range(2000):
            key = b"key%d" % ((number * seed) % 50)
            since = copies.begin([key])
            if number % 3:
                copies.fill_one(since, key, b"x" * (number % 200), 100.0, term())
            copies.get(key, 0)
            if number % 5 == 0:
                copies.drop([b"key%d" % (number % 50)])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (7, 11, 13, 17)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    keys = [b"key%d" % number for number in range(50)]
    there = [(key, copies.get(key, 0)) for key in keys]
    size = sum(OVERHEAD + len(key) + len(data) for key, data in there if data is not None)
    assert size < copies.info().bytes <= size + 20_000  # those of the tables
    copies.drop(keys)
    assert vars(copies)["_bytes"] == copies.info().bytes == 0


_PROGRAM = """
import json, sys
from django_rb.engine.near.copies import Copies
from django_rb.engine.near.tracking import Term

def memory():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

max_bytes, size, at_once = map(int, sys.argv[1:])
copies, term, number, most = Copies(max_bytes, 60), Term(1e9), 0, 0
before = memory()
while not copies or copies.evictions < len(copies):
    keys = [b":1:key:%d" % (number + more) for more in range(at_once)]
    values = [b"%0*d" % (size, number + more) for more in range(at_once)]
    number += at_once
    if at_once == 1:
        copies.fill_one(copies.begin(keys), keys[0], values[0], float(number), term)
    else:
        ends, terms = [float(number)] * at_once, [term] * at_once
        copies.fill(copies.begin(keys), keys, values, ends, terms)
    assert copies.info().bytes <= max_bytes
    most = max(most, memory() - before) if number % 500 == 0 else most
print(json.dumps([memory() - before, max(most, memory() - before)]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="It reads /proc.")
@pytest.mark.parametrize(("size", "at_once"), [(60, 1), (60, 20), (5_000, 1)])
def test_memory_of_copies_is_what_they_may_take(size: int, at_once: int) -> None:
    max_bytes = 8 * 2**20
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(max_bytes), str(size), str(at_once)],
        capture_output=True,
        text=True,
        check=True,
    )
    taken, most = json.loads(done.stdout)
    assert 0.85 < taken / max_bytes <= most / max_bytes < 1.1


def test_copies_that_expire_leave_nothing_behind() -> None:
    copies = Copies(1_000_000, 10)
    cold = [b"cold:%04d" % number for number in range(500)]
    hot = [b"hot:%04d" % number for number in range(200)]
    taken = []
    for _ in range(40):
        for keys in (cold, *[hot] * 25):  # the cold ones are read once in a while
            values = [b"v" * 300] * len(keys)
            fill(copies, copies.begin(keys), keys, values, 1e9)
        taken.append(copies.info().bytes)
    assert max(taken[20:]) <= max(taken[:20])


def test_what_is_used_again_is_not_what_makes_room() -> None:
    copies = Copies(100_000, 10)
    read(copies, b"1", b"often")
    read(copies, b"1", b"once")
    for number in range(2000):
        read(copies, b"1", b"key%d" % number)
        copies.get_many([b"often", b"key%d" % (number - 50)], 0)
    assert copies.get_many([b"often", b"once", b"key1999"], 0) == ([b"1", None, b"1"], 1)
    assert copies.info().bytes <= 100_000
    assert copies.info().evictions == 2002 - copies.info().copies


def test_copies_that_change_leave_no_tables_behind() -> None:
    copies = Copies(100_000, 10)
    for number in range(20_000):
        key = b"key%d" % number
        read(copies, b"1", key)
        if number % 100:  # one of a hundred stays
            copies.invalidate([key])
    assert copies.info().evictions == 0
    assert copies.info().copies == 200
    assert copies.info().bytes <= 60_000
    keys = [b"key%d" % number for number in range(0, 20_000, 100)]
    assert copies.get_many(keys, 0) == ([b"1"] * 200, 0)
