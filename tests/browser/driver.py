"""Debian's Chromium, without a window, as one person uses it."""

from __future__ import annotations

import base64
import os
import re
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from tests.helpers import wait_until

from .shops import PASSWORD, Shop

HEIGHT = 900
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--hide-scrollbars"),
)

# Texts that are hard to read: the contrast of each is by WCAG 2.2, 1.4.3.
PALE = """
const seen = [];
const light = (c) => c.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const rgba = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
for (const element of document.querySelectorAll(".rb *, h1, .breadcrumbs *")) {
  const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
  if (!own || !element.checkVisibility({visibilityProperty: true}) || element.closest("svg, option, noscript")) continue;
  let back = element;
  while (back && (rgba(getComputedStyle(back).backgroundColor)[3] ?? 1) < 1) back = back.parentElement;
  const style = getComputedStyle(element);
  const ground = back ? rgba(getComputedStyle(back).backgroundColor) : [255, 255, 255];
  const [a, b] = [light(rgba(style.color).slice(0, 3)), light(ground.slice(0, 3))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < (parseFloat(style.fontSize) >= 24 ? 3 : 4.5)) seen.push(`${element.textContent.trim().slice(0, 40)}: ${ratio.toFixed(2)}`);
}
return seen;
"""  # noqa: E501
# Ends transitions from light to dark, and returns how many there were.
SETTLE = """
const moving = document.getAnimations();
for (const one of moving) one.finish();
return moving.length;
"""
# Fields without a label, and links and buttons without a name.
NAMELESS = """
return [...document.querySelectorAll(".rb input, .rb select, .rb button, .rb a")]
  .filter((e) => e.type !== "hidden" && !(e.labels?.length || e.textContent.trim()))
  .map((e) => e.outerHTML);
"""


class Browser:
    """A browser that can be made narrow and dark."""

    def __init__(self) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = os.environ["DJANGO_RB_CHROMIUM"]
        for flag in FLAGS:
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        service = Service(os.environ["DJANGO_RB_CHROMEDRIVER"])
        self.driver = webdriver.Chrome(options=options, service=service)
        self.width = 0
        self.look(1280)

    def look(self, width: int, *, dark: bool = False) -> None:
        """Make the browser so wide, in pixels, and as light or dark as its user likes it."""
        self.width = width
        self._tell(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=HEIGHT,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._tell("Emulation.setEmulatedMedia", features=[scheme])

    def _tell(self, command: str, **parameters: Any) -> Any:
        return self.driver.execute_cdp_cmd(command, parameters)

    def log_in(self, shop: Shop, name: str) -> None:
        """Log in, as somebody else if need be."""
        self.driver.get(f"{shop.address}/admin/login/")
        self.driver.delete_all_cookies()
        self.driver.get(f"{shop.address}/admin/login/")
        self.field("username").send_keys(name)
        self.field("password").send_keys(PASSWORD + Keys.ENTER)
        wait_until(lambda: "/login/" not in self.driver.current_url, 10)
        self.driver.execute_script("sessionStorage.clear()")
        self.complaints()

    def open(self, url: str) -> None:
        """Go to a page."""
        self.driver.get(url)

    def field(self, name: str) -> WebElement:
        """Return the field of a form."""
        return self.driver.find_element(By.NAME, name)

    def link(self, text: str) -> WebElement:
        """Return the first link with a text in it."""
        return self.driver.find_element(By.PARTIAL_LINK_TEXT, text)

    def button(self, text: str) -> WebElement:
        """Return the button with a text."""
        return self.driver.find_element(By.XPATH, f"//button[normalize-space()='{text}']")

    @property
    def text(self) -> str:
        """What is to be read on the page, in one line."""
        return " ".join(self.driver.find_element(By.TAG_NAME, "body").text.split())

    def run(self, script: str) -> Any:
        """Return what JavaScript returns."""
        return self.driver.execute_script(script)

    def complaints(self) -> list[str]:
        """Return what the browser has complained about since it was last asked."""
        log: Any = self.driver.get_log
        said = [entry["message"] for entry in log("browser")]
        return [line for line in said if "favicon.ico" not in line]

    def faults(self) -> list[str]:
        """Return what is amiss with the page as somebody sees it."""
        wait_until(lambda: not self.run(SETTLE), 10)
        overhang = self.run("return document.documentElement.scrollWidth") - self.width
        found = [f"{overhang} pixels too wide"] if overhang > 0 else []
        return [*found, *self.run(PALE), *self.run(NAMELESS), *self.complaints()]

    def shoot(self, name: str) -> None:
        """Take a picture of the page, if SCREENSHOTS says where to."""
        if place := os.environ.get("SCREENSHOTS"):
            height = self.run("return document.documentElement.scrollHeight")
            clip = {"x": 0, "y": 0, "width": self.width, "height": min(height, 2600)}
            shot = self._tell(
                "Page.captureScreenshot", captureBeyondViewport=True, clip={**clip, "scale": 1}
            )
            file = re.sub(r"[^\w.-]+", "-", name).strip("-") + ".png"
            (Path(place) / file).write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        """End the browser."""
        self.driver.quit()
