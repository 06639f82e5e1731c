"""What the shop knows of each book from elsewhere, and keeps in the cache.

Prices come from the publishers, stock from the warehouse, ratings from a review service.
All of them are slow to ask, so that a page lives on what the cache has of them: one
`get_many` for all books and facts, one `set_many` for what it did not have.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from django_rb.cache import RBCache, get_cache

from .catalogue import Book


@dataclass(frozen=True)
class Fact:
    """One kind of fact.

    Attributes:
        seconds: how long the cache may have it.
        ask: finds it out anew.
        words: how it is shown.
    """

    name: str
    seconds: int
    ask: Callable[[Book], float]
    words: str

    def key(self, book: Book) -> str:
        """Return the fact's cache key."""
        return f"{self.name}:{book.slug}"


@dataclass(frozen=True)
class Value:
    """A fact about a book, and where it came from."""

    fact: Fact
    value: float
    key: str
    host_id: int
    hit: bool

    def __str__(self) -> str:
        return self.fact.words.format(self.value)


@dataclass(frozen=True)
class Share:
    """What one node had for a page. `percent` is its part of all values."""

    host_id: int
    address: str
    values: int
    hits: int
    percent: float

    @property
    def misses(self) -> int:
        """The values it did not have."""
        return self.values - self.hits


@dataclass(frozen=True)
class Reading:
    """All facts about some books, and how long it took to read and to fill in, in ms.

    Attributes:
        lost: how many values could not be stored, as their node is away.
    """

    shelf: dict[Book, list[Value]]
    shares: list[Share]
    batch: float
    fill: float
    lost: int

    @property
    def count(self) -> int:
        """How many values there are."""
        return sum(share.values for share in self.shares)

    @property
    def misses(self) -> int:
        """How many of them the cache did not have."""
        return sum(share.misses for share in self.shares)

    @property
    def hits(self) -> int:
        """How many the cache had."""
        return self.count - self.misses

    @property
    def stored(self) -> int:
        """How many it did not have, and has now."""
        return self.misses - self.lost

    @property
    def nodes(self) -> int:
        """How many nodes they came from."""
        return len([share for share in self.shares if share.hits])


def _guess(low: float, high: float, digits: int | None) -> Callable[[Book], float]:
    """Return what stands in for a service that would be asked."""

    def ask(book: Book) -> float:
        # The same for a while, as real facts are.
        chance = random.Random(f"{book.slug} {low} {int(time.time() / 60)}")
        return round(low + (high - low) * chance.random() ** 2, digits)

    return ask


FACTS = (
    Fact("price", 600, _guess(4.49, 29, 2), "£{:.2f}"),
    Fact("stock", 120, _guess(2, 80, None), "{} in stock"),
    Fact("rating", 900, lambda book: 5 - _guess(0.2, 2, 1)(book), "★ {:.1f}"),
    Fact("readers", 60, _guess(1, 400, None), "{} reading"),
)


def read(books: Iterable[Book]) -> Reading:
    """Return all facts about some books, asking for those that the cache does not have."""
    cache = get_cache()
    wanted = {fact.key(book): (fact, book) for book in books for fact in FACTS}
    keys = list(wanted)
    cache.cluster.call_nodes("PING")  # the time to open connections is not what is shown

    started = time.perf_counter()
    values = cache.get_many(keys)
    batch = time.perf_counter() - started

    hits = set(values)
    lost = 0
    started = time.perf_counter()
    for fact in FACTS:  # each has its own timeout
        missing = {
            key: fact.ask(book)
            for key, (kind, book) in wanted.items()
            if kind is fact and key not in hits
        }
        lost += len(cache.set_many(missing, fact.seconds))
        values.update(missing)
    fill = time.perf_counter() - started

    shelf: dict[Book, list[Value]] = {book: [] for _, book in wanted.values()}
    for key, (fact, book) in wanted.items():
        owner = cache.cluster.get_host_for_key(cache.make_key(key))
        shelf[book].append(Value(fact, values[key], key, owner, key in hits))
    shares = _shares(cache, [value for facts in shelf.values() for value in facts])
    return Reading(shelf, shares, batch=batch * 1000, fill=fill * 1000, lost=lost)


def time_one_by_one(reading: Reading) -> float:
    """Return how long it takes, in ms, to read the same values without a batch."""
    cache = get_cache()
    started = time.perf_counter()
    for values in reading.shelf.values():
        for value in values:
            cache.get(value.key)
    return (time.perf_counter() - started) * 1000


def _shares(cache: RBCache, values: Sequence[Value]) -> list[Share]:
    total = Counter(value.host_id for value in values)
    hits = Counter(value.host_id for value in values if value.hit)
    return [
        Share(host_id, info.address, total[host_id], hits[host_id],
              100 * total[host_id] / len(values))
        for host_id, info in cache.cluster.hosts.items()
    ]  # fmt: skip
