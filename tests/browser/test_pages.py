"""The pages about the nodes in a real browser: how they look, and how they are used."""

from __future__ import annotations

from time import monotonic

import pytest
from selenium.common.exceptions import NoAlertPresentException
from selenium.webdriver.common.keys import Keys

from django_rb.contrib.admin.where import to_text
from tests.helpers import wait_until

from .driver import Browser
from .shops import KEYS, NASTY, Shop

SECONDS = 20.0  # on a busy machine

IN_ADMIN, ALONE = "/admin/rb_admin/node/", "/nodes/"
PAGES = {
    "nodes": "",
    "node": "node/default.1/",
    "dead-node": "node/default.2/",
    "slow-log": "slow-log/",
    "keys": "keys/?where=cluster:default&pattern=*",
    "no-keys": "keys/?where=cluster:default&pattern=none:*",
    "hot-keys": "hot-keys/?look=1",
    "large-keys": "large-keys/?look=1",
    "flush": "flush/?cluster=default",
    "delete-those": "keys/delete/?where=cluster:default&pattern=*",
    "key": f"keys/key/?where=cache:json&key={to_text(b'json:1:letters')}",
    "expiry": f"keys/key/expiry/?where=cache:json&key={to_text(b'json:1:letters')}",
    "delete": f"keys/key/delete/?where=cache:json&key={to_text(b'json:1:letters')}",
}


def is_dark(browser: Browser) -> bool:
    colour = browser.run("return getComputedStyle(document.body).backgroundColor")
    return sum(map(int, colour.strip("rgba()").split(",")[:3])) < 3 * 128


@pytest.mark.parametrize(
    ("state", "base"), [("shop", IN_ADMIN), ("hurt_shop", IN_ADMIN), ("hurt_shop", ALONE)]
)
def test_every_page_wide_and_narrow_light_and_dark(
    browser: Browser, request: pytest.FixtureRequest, state: str, base: str
) -> None:
    shop: Shop = request.getfixturevalue(state)
    browser.log_in(shop, shop.operator[0])
    faults: dict[str, list[str]] = {}
    for name, path in PAGES.items():
        browser.look(1280)
        browser.open(f"{shop.address}{base}{path}")
        assert "Nodes Slow log Keys Hot keys Large keys" in browser.text
        for width in (1280, 390):
            for dark in (False, True):
                browser.look(width, dark=dark)
                assert is_dark(browser) == dark
                scheme = "dark" if dark else "light"
                place = "admin" if base == IN_ADMIN else "alone"
                shown = f"{name}-{state}-{place}-{width}-{scheme}"
                browser.shoot(shown)
                if found := browser.faults():
                    faults[shown] = found
    assert faults == {}


def test_the_nodes_of_a_shop_that_is_well(browser: Browser, shop: Shop) -> None:
    browser.log_in(shop, shop.operator[0])
    browser.open(shop.nodes_page)
    assert "8 of 8 nodes answered." in browser.text
    browser.run("window.wasHere = true")
    path = 'return document.querySelector("svg[data-line=ops] path")?.getAttribute("d") || ""'
    wait_until(lambda: browser.run(path).count("L") >= 2, SECONDS)
    # What has the focus, or is being clicked, is not taken away.
    browser.run("""
        window.link = document.getElementById("rb-node-1-0");
        window.answered = document.getElementById("rb-answered").firstChild;
        link.focus();
        answered.data = "as it was";
    """)
    wait_until(lambda: "8 of 8 nodes answered." in browser.text, SECONDS)
    assert browser.run("return link === document.activeElement && answered.isConnected")
    browser.button("Pause").click()
    assert "Paused." in browser.text
    browser.button("Resume").click()
    wait_until(lambda: "Paused." not in browser.text, SECONDS)
    # Lines go on from page to page.
    browser.driver.find_element("id", "rb-node-1-0").click()
    assert "Node 0 of default" in browser.text
    assert browser.run(path).count("L") >= 2
    assert browser.complaints() == []


def test_a_node_that_dies_is_shown_at_once_and_holds_nothing_up(
    browser: Browser, hurt_shop: Shop
) -> None:
    browser.log_in(hurt_shop, hurt_shop.operator[0])
    began = monotonic()
    browser.open(hurt_shop.nodes_page)
    assert "4 of 8 nodes answered." in browser.text
    assert monotonic() - began < SECONDS / 2
    browser.run("window.wasHere = true")
    hurt_shop.kill(0)
    wait_until(lambda: "2 of 8 nodes answered." in browser.text, SECONDS)
    assert browser.run("return window.wasHere")
    assert browser.run("return document.querySelectorAll('.rb-is-up').length") == 2


def test_hostile_keys_and_values(browser: Browser, shop: Shop) -> None:
    browser.log_in(shop, shop.operator[0])
    browser.open(f"{shop.address}{IN_ADMIN}keys/?where=cluster:default&pattern=[!bpr]*")
    for name, (key, _) in KEYS.items():
        where = "cache:default" if name.startswith("pickle") else "cluster:default"
        browser.open(f"{shop.address}{IN_ADMIN}keys/key/?where={where}&key={to_text(key)}")
        assert f"Key {name} " in browser.text or name == NASTY
        assert browser.run("return window.pwned") is None
        with pytest.raises(NoAlertPresentException):
            _ = browser.driver.switch_to.alert
        browser.look(390)
        assert browser.faults() == []
        browser.look(1280)
    browser.open(f"{shop.address}{IN_ADMIN}keys/?where=cluster:default&pattern=*script*")
    browser.link(NASTY).click()
    assert f"Value {NASTY}" in browser.text
    assert "1 key" not in browser.text


def test_by_keyboard_a_key_is_found_changed_and_deleted(browser: Browser, shop: Shop) -> None:
    browser.log_in(shop, shop.operator[0])
    browser.open(f"{shop.address}{IN_ADMIN}keys/?where=cluster:default")
    pattern = browser.field("pattern")
    pattern.clear()
    pattern.send_keys("large" + Keys.ENTER)
    wait_until(lambda: "Change expiry…" in browser.text, SECONDS)
    browser.link("Change expiry…").send_keys(Keys.ENTER)
    wait_until(lambda: "Never expire" in browser.text, SECONDS)
    browser.field("seconds").send_keys("5000" + Keys.ENTER)
    wait_until(lambda: "It expires in 5,000 seconds." in browser.text, SECONDS)
    browser.link("Continue").send_keys(Keys.ENTER)
    wait_until(lambda: "1 h 23 min" in browser.text, SECONDS)
    browser.link("Delete…").send_keys(Keys.ENTER)
    wait_until(lambda: "Delete this key?" in browser.text, SECONDS)
    browser.button("Delete").send_keys(Keys.ENTER)
    wait_until(lambda: "Deleted." in browser.text, SECONDS)
    browser.open(f"{shop.address}/admin/")
    assert browser.text.count("large Node") == 2


def test_who_may_less_sees_less(browser: Browser, shop: Shop) -> None:
    browser.log_in(shop, "clerk")
    assert "Nodes" not in browser.text
    for path in PAGES.values():
        for base in (IN_ADMIN, ALONE):
            browser.open(f"{shop.address}{base}{path}")
            assert "403 Forbidden" in browser.text
    browser.log_in(shop, "reader")
    browser.open(f"{shop.address}{IN_ADMIN}keys/?where=cluster:default")
    assert " keys" in browser.text
    assert "Delete" not in browser.text
    browser.open(shop.nodes_page)
    assert "Flush" not in browser.text


def test_who_is_logged_out_is_told(browser: Browser, shop: Shop) -> None:
    browser.log_in(shop, shop.operator[0])
    browser.open(shop.nodes_page)
    browser.driver.delete_all_cookies()
    wait_until(lambda: "You are logged out" in browser.text, SECONDS)
