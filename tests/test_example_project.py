"""The example project as `make run` starts it, visited with a browser's cookies."""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import re
import signal
import socket
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http.cookiejar import CookieJar
from itertools import count
from tempfile import TemporaryDirectory
from time import sleep

import pytest

from tests.helpers import wait_until
from tests.management.processes import (
    ROOT,
    Running,
    environment,
    kill,
    pids_in,
    read_until,
    wait_until_gone,
)

MANAGE = str(ROOT / "example_project" / "manage.py")
SECONDS = 30.0

TOOLBAR = re.compile(r"(?s)<(?:div|link)[^>]*(?:djDebugRoot|/debug_toolbar/).*(?=</body>)")

# Each shop has a database of its own.
DATABASES = TemporaryDirectory()
atexit.register(DATABASES.cleanup)
numbers = count(1)

Shop = tuple[Running, str, list[int]]


def open_shop(*args: str, **variables: str) -> Shop:
    """Return the process of the shop, its address, and the process ids of its nodes."""
    process, address, said = serve(*args, **variables)
    return process, address, pids_in(said)


def serve(*args: str, **variables: str) -> tuple[Running, str, str]:
    """Return the process of the shop, its address, and what was said before it opened."""
    process = Running(
        "serve",
        *args,
        script=[MANAGE],
        env=environment(
            "bookshop.settings",
            PYTHONWARNINGS="default",
            BOOKSHOP_DATABASE=f"{DATABASES.name}/{next(numbers)}.sqlite3",
            **variables,
        ),
    )
    try:
        said = read_until(process, "Uvicorn running on")
        address = re.findall(r"opens at (http://127\.0\.0\.1:\d+/)\n", said)[0]
        assert answers(address)
    except BaseException:
        kill(process)
        raise
    return process, address, said


def answers(address: str) -> bool:
    url = urllib.parse.urlsplit(address)
    with socket.socket() as probe:
        return probe.connect_ex((url.hostname, url.port)) == 0


class Visitor:
    """Somebody with a browser."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.cookies = CookieJar()
        self.toolbar = ""
        cookies = urllib.request.HTTPCookieProcessor(self.cookies)
        self._opener = urllib.request.build_opener(cookies)

    def get(self, path: str = "", data: dict[str, str] | None = None) -> str:
        body = None if data is None else urllib.parse.urlencode(data).encode()
        with self._opener.open(self.address + path, body, timeout=SECONDS) as answer:
            assert answer.status == 200
            text: str = answer.read().decode()
            # Without the toolbar, which differs from visit to visit.
            self.toolbar = "".join(TOOLBAR.findall(text))
            return TOOLBAR.sub("", text)

    def post(self, path: str, **data: str) -> str:
        token = next(cookie.value for cookie in self.cookies if cookie.name == "csrftoken")
        return self.get(path, {"csrfmiddlewaretoken": token or "", **data})

    def shares(self, page: str) -> list[tuple[int, int, int]]:
        """What each node had: values, hits and misses."""
        cells = r"<td>(\d+)</td><td>(\d+)</td><td>(\d+)</td>"
        return [(int(a), int(b), int(c)) for a, b, c in re.findall(cells, page)]


class Shops:
    """One that is whole and one that tests harm, each opened when a test wants it first."""

    def __init__(self) -> None:
        self.whole: Shop | None = None
        self.harmed: Shop | None = None

    def get(self) -> Shop:
        self.whole = self.whole or open_shop("0")
        return self.whole

    def give_up(self) -> Shop:
        """Return one for tests that harm it: no other test has it from then on."""
        if self.harmed is None or self.harmed[0].poll() is not None:
            self.harmed, self.whole = self.get(), None
        return self.harmed

    def close(self) -> None:
        for shop in (self.whole, self.harmed):
            if shop is not None:
                close(shop)


def close(shop: Shop) -> None:
    process, _, pids = shop
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 128 + signal.SIGTERM
    kill(process)
    assert len(pids) == 4
    wait_until_gone(*pids)


@pytest.fixture(scope="module")
def shops() -> Iterator[Shops]:
    shops = Shops()
    yield shops
    shops.close()


@pytest.fixture
def shop(shops: Shops) -> Shop:
    return shops.get()


@pytest.fixture
def harmed(shops: Shops) -> Shop:
    return shops.give_up()


@pytest.fixture
def visitor(shop: Shop) -> Visitor:
    return Visitor(shop[1])


class TestPages:
    def test_the_batch_comes_from_all_nodes(self, visitor: Visitor) -> None:
        visitor.get()
        page = visitor.get()
        assert re.search(r"<h1>288 cached values from 4 nodes, in \d+\.\d ms</h1>", page)
        shares = visitor.shares(page)
        assert len(shares) == 4
        assert all(values == hits + misses > 0 for values, hits, misses in shares)
        assert sum(values for values, _, _ in shares) == 288
        nodes = re.findall(r'title="[\w:-]+: (?:hit|miss) on node (\d)"', page)
        assert [nodes.count(str(host_id)) for host_id in range(4)] == [v for v, _, _ in shares]

    def test_the_batch_is_faster(self, visitor: Visitor) -> None:
        visitor.get()
        batch, single = map(float, re.findall(r"<b>(\d+\.\d) ms</b>", visitor.get()))
        assert batch < single

    def test_forgetting_makes_misses(self, visitor: Visitor) -> None:
        visitor.get()
        page = visitor.post("forget/", some="")
        assert sum(misses for _, _, misses in visitor.shares(page)) >= 96
        assert " miss on node" in page
        assert re.search(r"(\d+) values were not there; \1 of them have been stored", page)
        assert re.search(r"<h1>\d+ of 288 values came from the cache, in", page)
        page = visitor.post("forget/", everything="")
        assert "<h1>0 of 288 values came from the cache, in" in page
        assert sum(misses for _, _, misses in visitor.shares(page)) == 288
        # What was missing was stored.
        assert sum(hits for _, hits, _ in visitor.shares(visitor.get())) > 200

    def test_the_session_remembers(self, visitor: Visitor) -> None:
        visitor.get("books/emma/")
        page = visitor.get("books/dracula/")
        assert re.search(r'Seen lately:\s*<a href="/books/emma/">Emma</a></p>', page)
        visitor.post("basket/", slug="dracula")
        page = visitor.post("basket/", slug="dracula")
        assert re.search(r"Dracula</a></td><td>2</td><td>£\d+\.\d\d</td>", page)
        page = visitor.post("forget/", everything="")
        assert "Basket (1)" in page
        assert "Basket (0)" in Visitor(visitor.address).get()

    def test_a_view_is_cached_for_everybody(self, visitor: Visitor) -> None:
        first = visitor.get("bestsellers/")
        assert first.count('<a href="/books/') == 20
        assert re.search(r'<time datetime="[\dT:-]+\.\d{6}', first)
        # The half minute may end between two visits, but not twice.
        others = [Visitor(visitor.address).get("bestsellers/") for _ in range(3)]
        assert any(a == b for a, b in zip([first, *others], others, strict=False))

    def test_of_a_crowd_one_computes(self, visitor: Visitor) -> None:
        times = [re.findall(r"<time .*</time>", visitor.get("almanac/")) for _ in range(2)]
        assert times[0] == times[1] != []
        page = visitor.post("almanac/")
        assert re.findall(r'class="computed">(\d+)<', page) == ["40", "1", "1"]

    def test_a_limit_fills_up_and_drains(self, visitor: Visitor) -> None:
        page = visitor.get("limits/")
        assert self.used(page) == [0, 0, 0]
        assert "http-equiv" not in page
        assert self.used(visitor.post("limits/", times="one")) == [1, 1, 1]
        for _ in range(3):
            page = visitor.post("limits/", times="five")
        assert page.count("<b>full</b>") >= 1
        assert 'http-equiv="refresh" content="1; url=/limits/"' in page
        used = self.used(page)[2]  # one drains in two seconds

        def drained() -> bool:
            sleep(0.2)  # a visit is work
            return self.used(visitor.get("limits/"))[2] < used

        wait_until(drained, SECONDS)

    def used(self, page: str) -> list[int]:
        return [
            int(n) for n in re.findall(r"</td>\s*<td>(\d+)</td><td>\d+</td><td>\d+ s", page)
        ]

    def test_a_name_has_five_tries(self, visitor: Visitor) -> None:
        visitor.get("login/")
        for _ in range(5):
            page = visitor.post("login/", name="bob", password="guess")
            assert "That is not the password of bob." in page
        with pytest.raises(urllib.error.HTTPError) as caught:
            visitor.post("login/", name="bob", password="guess")
        with caught.value as answer:
            assert answer.code == 429
            assert re.search(r"Try again in \d+ second", answer.read().decode())
            assert '"post:name";r=0;t=' in answer.headers["RateLimit"]
        visitor.post("forget/", everything="")  # which forgets no limit
        with pytest.raises(urllib.error.HTTPError) as caught:
            visitor.post("login/", name="bob", password="guess")
        with caught.value as answer:
            assert answer.code == 429
        page = visitor.post("login/", name="Jürgen", password="schlüssel")
        assert "That is not the password of Jürgen." in page
        page = visitor.post("login/", name="ann", password="marginalia")
        assert "Log out ann" in page
        assert "Log in" not in page
        assert "You are logged in as ann." in visitor.get("login/")
        page = visitor.post("logout/")
        assert "Log in" in page
        assert "Log out" not in page

    @pytest.mark.parametrize("path", ["books/nothing/", "forget/"])
    def test_what_is_not_there(self, visitor: Visitor, path: str) -> None:
        with pytest.raises(urllib.error.HTTPError) as caught:
            visitor.get(path)
        caught.value.close()
        assert caught.value.code == (404 if path.startswith("books") else 405)

    def test_an_operator_sees_the_nodes(self, visitor: Visitor) -> None:
        page = "admin/rb_admin/node/"
        assert f'href="/{page}"' in visitor.get()
        assert "nodes answered" not in visitor.get(page)
        login = f"admin/login/?next=/{page}"
        page = visitor.post(login, username="operator", password="marginalia")
        assert "8 of 8 nodes answered." in page

    def test_the_toolbar_tells_what_a_page_asked_for(self, visitor: Visitor) -> None:
        visitor.get()
        assert re.search(r"django-rb: \d+ calls in", visitor.toolbar)
        visitor.get("reading-room/")
        assert re.search(r"django-rb: \d calls in", visitor.toolbar)

    def test_the_style(self, visitor: Visitor) -> None:
        path = re.findall(r'rel="stylesheet" href="/(.*)"', visitor.get())[0]
        assert "prefers-color-scheme: dark" in visitor.get(path)


class TestServe:
    def test_a_port_that_is_taken(self) -> None:
        taken = listen_below_ephemeral_ports()
        port = taken.getsockname()[1]
        process, address, pids = open_shop(str(port), BOOKSHOP_TOOLBAR="off")
        try:
            other = urllib.parse.urlsplit(address).port
            assert other
            assert port < other < port + 50
            process.send_signal(signal.SIGINT)
            assert process.wait(SECONDS) == 0
            wait_until_gone(*pids)
            assert not answers(address)
        finally:
            taken.close()
            kill(process)


def listen_below_ephemeral_ports() -> socket.socket:
    """Listen on a port below those that the system gives to servers that ask for any."""
    for port in random.sample(range(20_000, 30_000), 100):
        with contextlib.suppress(OSError):
            return socket.create_server(("127.0.0.1", port))
    raise AssertionError("100 ports are taken")


class TestWithoutANode:
    def test_every_page_is_served_and_says_which_node_is_gone(self, harmed: Shop) -> None:
        _, address, pids = harmed
        visitors = [Visitor(address) for _ in range(3)]
        for visitor in visitors:
            visitor.get("books/emma/")
            assert "does not answer" not in visitor.post("basket/", slug="emma")
        os.kill(pids[1], signal.SIGKILL)
        pages = [visitor.get() for visitor in visitors]
        for visitor in visitors:
            visitor.get("books/kim/")
            page = visitor.post("basket/", slug="kim")
            assert "Emma</a></td><td>1</td>" in page
            assert "Kim</a></td><td>1</td>" in page
            pages += [page, visitor.get("limits/"), visitor.post("limits/", times="one")]
            visitor.get("bestsellers/")
            visitor.get("login/")
        for page in pages:
            assert re.search(r"Node 1 at 127\.0\.0\.1:\d+/\d does not answer\.", page)
            assert len(re.findall(r"does not answer\.</b>", page)) == 1
        front = pages[len(visitors) - 1]
        missing, lost = re.findall(
            r"(\d+) values were not there[^.]*, and (\d+) could not be, as", front
        )[0]
        assert lost == missing
        assert f"{288 - int(lost)} of 288 values came from the cache" in front
        uncounted = "not counted: its node does not answer"  # of a quarter of the limits
        assert any(uncounted in Visitor(address).get("limits/") for _ in range(60))


class TestEnd:
    @pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
    def test_nothing_is_left_when_it_is_killed(self, harmed: Shop) -> None:
        process, address, pids = harmed
        kill(process)
        wait_until_gone(*pids)
        wait_until(lambda: not answers(address), SECONDS)
