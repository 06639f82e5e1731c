"""A browser, and two bookshops: one is well, the other has lost two nodes."""

from __future__ import annotations

from collections.abc import Iterator

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
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """A bookshop with four living nodes."""
    shop = Shop(tmp_path_factory.mktemp("shop"))
    yield shop
    shop.close()


@pytest.fixture(scope="session")
def hurt_shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """A bookshop of whose four nodes one is killed and one is stopped."""
    shop = Shop(tmp_path_factory.mktemp("hurt_shop"))
    shop.kill(2)
    shop.stop(3)
    yield shop
    shop.close()
