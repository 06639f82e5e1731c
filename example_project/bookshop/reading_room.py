"""The reading room: every open window of it reads a book and turns a page each second.

Its view is asynchronous. It waits for the nodes without blocking and without a thread, so
that one event loop serves a room full of readers over a few connections.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from uuid import UUID, uuid4

import redis
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_POST

from django_rb.cache import RBCache, get_cache

from .catalogue import BOOKS, Book

PRESENT_SECONDS = 5  # who has turned no page for so long has left
KEPT_SECONDS = 3600
SHOWN = 10


@dataclass(frozen=True)
class Line:
    """A book that is read. What a node that is away would know is None."""

    book: Book
    host_id: int
    pages: int
    readers: int | None


@dataclass(frozen=True)
class NodeLine:
    """A node as it is now. What it would know if it were not away is None."""

    host_id: int
    address: str
    state: str
    keys: int | None
    connections: int | None


class Stopwatch:
    """How long each step of a page took, in ms."""

    def __init__(self) -> None:
        self.times: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time what is inside."""
        started = time.perf_counter()
        yield
        self.times[name] = (time.perf_counter() - started) * 1000

    @property
    def total(self) -> float:
        """How long all of it took."""
        return sum(self.times.values())


async def reading_room(request: HttpRequest) -> HttpResponse:
    """Show the room to somebody who has just come in, and give them a book."""
    context = {
        "reader": uuid4(),
        "book": random.choice(list(BOOKS.values())),
        "books": BOOKS.values(),
        **await look_around(Stopwatch()),
    }
    return render(request, "bookshop/reading_room.html", context)


@require_POST
async def turn_page(request: HttpRequest, slug: str, reader: UUID) -> HttpResponse:
    """Turn a page of a book, and show how the room is now."""
    if slug not in BOOKS:
        raise Http404(f"There is no book {slug!r}.")
    book = BOOKS[slug]
    cache = get_cache()
    watch = Stopwatch()
    with watch.step("aincr"):
        own_pages, page = await asyncio.gather(
            count(cache, f"pages-of:{reader}"), count(cache, pages_key(book))
        )
    room = await look_around(watch, (reader, book))
    context = {"turned": book, "own_pages": own_pages, "page": page, **room}
    return render(request, "bookshop/reading_room_now.html", context)


async def look_around(
    watch: Stopwatch, arrival: tuple[UUID, Book] | None = None
) -> dict[str, object]:
    """Return what a page shows of the room, with a reader who has just taken a book."""
    with watch.step("aget_many"):
        pages = await read_pages()
    ranked = sorted(pages, key=lambda book: -pages[book])[:SHOWN]
    with watch.step("amap"):
        readers = await count_readers(ranked, arrival)
    with watch.step("afanout"):
        nodes = await look_at_nodes()
    lines = [Line(book, owner(book), pages[book], readers[book]) for book in ranked]
    return {"lines": lines, "total": sum(pages.values()), "nodes": nodes, "watch": watch}


async def count(cache: RBCache, key: str) -> int | None:
    """Add one to a counter; return what it is then, or None if that cannot be known."""
    await cache.aadd(key, 0, KEPT_SECONDS)
    try:
        return await cache.aincr(key)
    except (redis.ConnectionError, redis.TimeoutError):
        return None
    except ValueError:  # the cache was emptied in between
        return None


async def read_pages() -> dict[Book, int]:
    """Return how many pages were turned in each book that is read."""
    keys = {pages_key(book): book for book in BOOKS.values()}
    found = await get_cache().aget_many(keys)
    return {keys[key]: pages for key, pages in found.items()}


async def count_readers(
    books: Iterable[Book], arrival: tuple[UUID, Book] | None
) -> dict[Book, int | None]:
    """Return how many read each of some books now, with somebody who has just taken one."""
    now = time.time()
    gone = now - PRESENT_SECONDS
    async with get_cache().cluster.amap() as client:
        if arrival:
            reader, taken = arrival
            key = readers_key(taken)
            client.zadd(key, {str(reader): now}).done(None, unknown)
            client.zremrangebyscore(key, 0, gone).done(None, unknown)
            client.expire(key, KEPT_SECONDS).done(None, unknown)
        readers = {
            book: client.zcount(readers_key(book), gone, "+inf").then(None, unknown)
            for book in books
        }
    return {book: promise.value for book, promise in readers.items()}


async def look_at_nodes() -> list[NodeLine]:
    """Ask each node how it is."""
    cluster = get_cache().cluster
    async with cluster.afanout() as client:
        replies = {
            host_id: (
                client.target([host_id]).dbsize().then(itemgetter(host_id), unknown),
                client.target([host_id]).info("clients").then(itemgetter(host_id), unknown),
            )
            for host_id in cluster.hosts
        }
    health = cluster.health()
    return [
        NodeLine(
            host_id,
            cluster.hosts[host_id].address,
            health[host_id].state,
            keys.value,
            clients.value and clients.value["connected_clients"],
        )
        for host_id, (keys, clients) in replies.items()
    ]


def pages_key(book: Book) -> str:
    """Return the cache key of how many pages were turned in a book."""
    return f"pages:{book.slug}"


def readers_key(book: Book) -> str:
    """Return the key, the engine's, of who reads a book, and since when."""
    return f"readers:{book.slug}"


def owner(book: Book) -> int:
    """Return the node that counts a book's pages."""
    cache = get_cache()
    return cache.cluster.get_host_for_key(cache.make_key(pages_key(book)))


def unknown(error: Exception) -> None:
    """Take the place of what a node that is away would have said."""
    if not isinstance(error, redis.ConnectionError | redis.TimeoutError):
        raise error
