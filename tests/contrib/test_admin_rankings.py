"""Hot and large keys on the pages, with names that somebody chose to do harm."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import override_settings

from django_rb import clusters
from django_rb.testing import LocalNodes

from .admin_site import IN_ADMIN, log_in, text_of

NASTY = "<script>alert(1)</script>\x1b[2J"
SHOWN = r"<script>alert(1)</script>\x1b[2J"


@pytest.fixture
def asked_for(site: LocalNodes) -> Iterator[None]:
    """Somebody asks for the same key all the time."""
    client: Any = clusters["default"].get_routing_client()
    client.set(NASTY, "x" * 50_000)
    client.mset({f"page:{n}": "x" for n in range(50)})
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.wait(0.05):
            client.get(NASTY)

    thread = threading.Thread(target=ask)
    thread.start()
    yield
    is_over.set()
    thread.join()


@pytest.mark.usefixtures("asked_for")
def test_hot_and_large_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("django_rb.contrib.admin.rankings.SECONDS", 1.2)
    client = log_in("view")
    for page in ("hot-keys/", "large-keys/"):
        assert "alert" not in text_of(client.get(f"{IN_ADMIN}{page}"))
    hot = client.get(f"{IN_ADMIN}hot-keys/?look=1&where=cluster:default")
    assert f"{SHOWN} " in text_of(hot)
    assert re.search(r"default \d recency, \d+ of \d+ keys looked at", text_of(hot))
    large = client.get(f"{IN_ADMIN}large-keys/?look=1&where=cluster:default")
    assert re.search(rf"{re.escape(SHOWN)} string \d\d\.\d KiB default \d ", text_of(large))
    assert "51 of 51 keys measured" in text_of(large)
    assert re.search(r"page:\S+ 50 keys", text_of(large))
    for answer in (hot, large):
        assert "<script>alert" not in answer.content.decode()
        assert "\x1b" not in answer.content.decode()
        (url,) = set(re.findall(r'href="([^"]+)">&lt;script', answer.content.decode()))
        assert SHOWN in text_of(client.get(url.replace("&amp;", "&")))


def test_no_clusters(db: None) -> None:
    from .admin_site import SETTINGS

    with override_settings(**SETTINGS, RB_CLUSTERS={}):
        assert log_in("view").get(f"{IN_ADMIN}hot-keys/").status_code == 404
