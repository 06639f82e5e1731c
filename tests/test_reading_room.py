"""The example project's asynchronous page: a room full of readers, as `make run` serves it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, NoReturn
from urllib.parse import urlsplit
from uuid import UUID

import pytest
import redis
from django.test import AsyncRequestFactory, Client, override_settings
from redis.connection import parse_url

from django_rb.engine import Cluster, SlotRouter
from django_rb.engine.loops.pool import DEFAULT_MAX_CONNECTIONS
from django_rb.testing import LocalNodes
from tests.helpers import Servers
from tests.management.processes import ROOT, kill, pids_in, wait_until_gone
from tests.test_example_project import SECONDS, serve

PATH = "/reading-room/"
READERS = 200
PERSISTENT = 40  # of them go on when a node is gone
IMPATIENT = 20  # others do not wait for their answers
BOOKS = ("emma", "villette", "dracula", "kim", "lord-jim", "germinal", "persuasion", "cranford")
NOT_FINISHED = "kidnapped"
TOKEN = "0123456789abcdef" * 2
UNKNOWN = "\N{EN DASH}"


class Turned(NamedTuple):
    """What a reader is told: how many pages they have turned, and which page it was."""

    own_pages: str
    page: str


class Reader:
    """Somebody with a window of their own, and a book that others read too."""

    def __init__(self, port: int, number: int) -> None:
        self.port = port
        self.id = UUID(int=number)
        self.slug = BOOKS[number % len(BOOKS)]
        self.pages_before = 1000 * number  # nobody else can have turned as many

    async def turn(self) -> Turned:
        """Turn a page and wait for what it says."""
        answer = await ask(self.port, "POST", f"{PATH}{self.slug}/{self.id}/")
        own_pages, page = re.findall(rf'<b id="(?:own-pages|page)">(\d+|{UNKNOWN})</b>', answer)
        return Turned(own_pages, page)

    async def hang_up(self, seconds: float) -> None:
        """Turn a page and go so soon, wherever the server is with it."""
        _, outgoing = await asyncio.open_connection("127.0.0.1", self.port)
        outgoing.write(request("POST", f"{PATH}{NOT_FINISHED}/{self.id}/"))
        await asyncio.sleep(seconds)
        outgoing.transport.abort()


def request(method: str, path: str) -> bytes:
    head = (
        f"{method} {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Connection: close",
        f"Cookie: csrftoken={TOKEN}",
        f"X-CSRFToken: {TOKEN}",
        "Content-Length: 0",
    )
    return "\r\n".join((*head, "", "")).encode()


async def ask(port: int, method: str, path: str) -> str:
    """Return what the server answers, which must be 200."""
    incoming, outgoing = await asyncio.open_connection("127.0.0.1", port)
    try:
        outgoing.write(request(method, path))
        answer = (await incoming.read()).decode()
    finally:
        outgoing.close()
        await outgoing.wait_closed()
    assert answer.startswith("HTTP/1.1 200 OK\r\n"), answer
    return answer


class TestServed:
    def test_many_readers_at_once_and_a_node_that_dies(self) -> None:
        process, address, said = serve("0", BOOKSHOP_TOOLBAR="off")
        pids = pids_in(said)
        (variable,) = re.findall(r"export DJANGO_RB_NODES='(.*)'", said)
        hosts = dict(enumerate(json.loads(variable)["default"]))
        log: list[str] = []
        listener = threading.Thread(target=log.extend, args=[process.stdout])
        listener.start()
        try:
            asyncio.run(visit(urlsplit(address).port or 0, hosts, pids[0]))
            process.send_signal(signal.SIGINT)
            assert process.wait(SECONDS) == 0
        finally:
            process.kill()
            listener.join()
            print(*log)
            kill(process)
        wait_until_gone(*pids)
        # Of a node that dies there is a line each for "fails" and "is down", and nothing else.
        # (It fails once more, for another reason, if an answer was read after it had failed.)
        told = [re.sub(r"(?s)[:\[].*", "", line) for line in log]
        assert told[-4:] == [
            "Node 0 fails",
            "Node 0 is down after 3 failures in a row",
            "INFO",
            "INFO",
        ]
        assert set(told[:-4]) <= {"Node 0 fails"}
        assert len(log) == len(set(log))


async def visit(port: int, hosts: dict[int, str], pid_of_node_0: int) -> None:
    readers = [Reader(port, number) for number in range(READERS)]
    cluster = Cluster(hosts, router_cls=SlotRouter)
    async with asyncio.timeout(SECONDS):
        async with cluster.amap() as client:
            for reader in readers:
                client.set(f":1:pages-of:{reader.id}", reader.pages_before)
        read: Any = parse_url
        options = {host_id: read(url) for host_id, url in hosts.items()}
        with Servers(options) as servers:
            await check_the_crowd(readers, servers)
        await check_without_node_0(readers, cluster, pid_of_node_0)


async def check_the_crowd(readers: Sequence[Reader], servers: Servers) -> None:
    """Everybody turns a page at once: all get their own answers, and every page counts."""
    before = received(servers)
    turned = await asyncio.gather(*(reader.turn() for reader in readers))
    opened = [after - b for after, b in zip(received(servers), before, strict=True)]
    assert max(opened) <= DEFAULT_MAX_CONNECTIONS < READERS
    own_pages = [int(told.own_pages) for told in turned]
    assert own_pages == [reader.pages_before + 1 for reader in readers]
    for slug in BOOKS:
        told_of = zip(readers, turned, strict=True)
        pages = [int(told.page) for reader, told in told_of if reader.slug == slug]
        assert sorted(pages) == list(range(1, READERS // len(BOOKS) + 1))


def received(servers: Servers) -> list[int]:
    """Return how many connections each node was ever asked for."""
    stats = [servers.ask(host_id, "INFO", "stats") for host_id in range(4)]
    return [stat["total_connections_received"] for stat in stats]


async def check_without_node_0(readers: Sequence[Reader], cluster: Cluster, pid: int) -> None:
    """A node dies, and some hang up: all others get answers, true where a node can know."""
    going_on, leaving = readers[:PERSISTENT], readers[-IMPATIENT:]
    first_answer = asyncio.Event()

    async def turn_two(reader: Reader) -> list[Turned]:
        first = await reader.turn()
        first_answer.set()
        return [first, await reader.turn()]

    async def kill_node_0() -> None:
        await first_answer.wait()
        os.kill(pid, signal.SIGKILL)

    async with asyncio.TaskGroup() as group:
        turning = [group.create_task(turn_two(reader)) for reader in going_on]
        group.create_task(kill_node_0())
        for number, reader in enumerate(leaving):
            group.create_task(reader.hang_up(number / 30))
    pages: dict[str, list[str]] = {slug: [] for slug in BOOKS}
    lost = 0
    for reader, task in zip(going_on, turning, strict=True):
        told = task.result()
        pages[reader.slug] += [turn.page for turn in told]
        for turn, own_pages in zip(told, (2, 3), strict=True):
            if turn.own_pages == UNKNOWN:
                assert cluster.get_host_for_key(f":1:pages-of:{reader.id}") == 0
                lost += 1
            else:
                assert int(turn.own_pages) == reader.pages_before + own_pages
    assert 0 < lost < PERSISTENT
    living = {s: p for s, p in pages.items() if cluster.get_host_for_key(f":1:pages:{s}")}
    assert 0 < len(living) < len(BOOKS)
    for told_pages in living.values():
        known = READERS // len(BOOKS)
        assert sorted(map(int, told_pages)) == [known + 1 + n for n in range(len(told_pages))]
    page = await ask(readers[0].port, "GET", PATH)
    assert re.search(rf"</i> 0 at [\d.:/]+</td><td>down</td>(<td>{UNKNOWN}</td>){{2}}", page)
    assert page.count("<td>up</td>") == 3


# In this process.


@pytest.fixture
def site(nodes: LocalNodes, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The example project, without a server."""
    monkeypatch.syspath_prepend(ROOT / "example_project")
    monkeypatch.setenv("BOOKSHOP_TOOLBAR", "off")
    from bookshop import settings

    names = (
        "INSTALLED_APPS",
        "MIDDLEWARE",
        "TEMPLATES",
        "ROOT_URLCONF",
        "STATIC_URL",
        "CACHES",
    )
    with override_settings(**{name: getattr(settings, name) for name in names}):
        yield


@pytest.mark.usefixtures("site")
class TestViews:
    def test_no_thread_and_nothing_that_blocks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from bookshop.reading_room import reading_room, turn_page

        def forbidden(*_: object, **__: object) -> NoReturn:
            raise AssertionError

        monkeypatch.setattr(threading.Thread, "start", forbidden)
        monkeypatch.setattr(redis.Connection, "connect", forbidden)

        async def visit() -> list[int]:
            post, get = AsyncRequestFactory().post(PATH), AsyncRequestFactory().get(PATH)
            turns = [turn_page(post, "emma", UUID(int=number)) for number in range(20)]
            answers = await asyncio.gather(reading_room(get), *turns)
            return [answer.status_code for answer in answers]

        assert asyncio.run(visit()) == [200] * 21

    def test_they_work_under_wsgi(self) -> None:
        client = Client()
        for _ in range(2):
            answer = client.post(f"{PATH}emma/{UUID(int=1)}/").content.decode()
        assert '<b id="own-pages">2</b>' in answer
        assert '<b id="page">2</b> of Emma' in answer
        assert "Emma</td><td>2</td><td>1</td>" in answer
        assert '<b id="total">2</b>' in client.get(PATH).content.decode()

    @pytest.mark.parametrize(
        "path", ["nothing/00000000-0000-4000-8000-000000000001/", "emma/me/"]
    )
    def test_what_is_not_there(self, path: str) -> None:
        assert Client().post(PATH + path).status_code == 404
