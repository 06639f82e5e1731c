"""A browser, and two bookshops: one is well, the other has lost two nodes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack

import pytest

from .driver import Browser
from .shops import Shop


@pytest.fixture(scope="session")
def shared_browser() -> Iterator[Browser]:
    browser = Browser()
    yield browser
    browser.close()


@pytest.fixture
def browser(shared_browser: Browser) -> Browser:
    """A browser that is wide and light, and has complained about nothing."""
    shared_browser.look(1280)
    shared_browser.complaints()
    return shared_browser


@pytest.fixture(scope="session")
def shops(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Shop]]:
    """Two bookshops, started side by side."""
    places = [tmp_path_factory.mktemp(name) for name in ("shop", "hurt_shop")]
    with ExitStack() as stack, ThreadPoolExecutor() as pool:
        started = [pool.submit(Shop, place) for place in places]
        for starting in as_completed(started):
            if starting.exception() is None:
                stack.callback(starting.result().close)
        yield [starting.result() for starting in started]


@pytest.fixture(scope="session")
def shop(shops: list[Shop]) -> Shop:
    """A bookshop with four living nodes."""
    return shops[0]


@pytest.fixture(scope="session")
def hurt_shop(shops: list[Shop]) -> Shop:
    """A bookshop of whose four nodes one is killed and one is stopped."""
    shops[1].kill(2)
    shops[1].stop(3)
    return shops[1]
