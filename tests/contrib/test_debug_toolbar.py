"""What the panel shows of a request, by the own middleware of django-debug-toolbar."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from django_rb.contrib.debug_toolbar.advice import advise
from django_rb.contrib.debug_toolbar.recording import Recording
from django_rb.testing import LocalNodes
from tests.tables import for_each

from .toolbar_site import SESSION

SITE = Path(__file__).with_name("toolbar_site.py")


@pytest.fixture(scope="module")
def told(shared_nodes: LocalNodes) -> dict[str, Any]:
    """The pages of a site with the toolbar."""
    shared_nodes.flush()
    done = subprocess.run(
        [sys.executable, "-m", "tests.contrib.toolbar_site", json.dumps(shared_nodes.hosts)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def panel_of(page: str) -> str:
    """Return the HTML of the panel."""
    return page[page.index('id="RBPanel"') :]


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", html)))


def keys_of(page: str) -> set[str]:
    return set(re.findall(r":1:((?:ann|bob):[\w-]+)", panel_of(page)))


def line_of(text: str) -> int:
    """Return the number of the line of the site that has a text."""
    lines = SITE.read_text().splitlines()
    return next(number for number, line in enumerate(lines, start=1) if text in line)


def test_calls_in_order(told: dict[str, Any]) -> None:
    panel = panel_of(told["in-order"])
    assert re.search(r"<h3>django-rb: 45 calls in \d+\.\d\d ms</h3>", panel)
    names = re.findall(r"<strong>(\w+)</strong> on default", panel)
    assert names == ["set_many", "get_many", *["get"] * 40, "get", "set", "get"]
    first, second, *_ = re.split(r"<tbody>", panel)[1:]
    assert "40 keys" in first
    assert "found" not in text_of(first)
    assert "41 keys" in second
    assert "40 found, 1 missing" in second
    for call in (first, second):
        assert call.count("<svg") == 4
        assert len(set(re.findall(r'fill="(#\w+)"', call))) == 4
    assert re.search(r"MGET", second)
    assert re.search(r"SET \u00d7 \d+", first)
    assert re.search(r"<td>\d+\sB, \d+\sB</td>", first)
    assert f">contrib/toolbar_site.py:{line_of('cache.set_many(dict')} in in_order" in first


def test_bars_are_on_one_time_line(told: dict[str, Any]) -> None:
    panel = panel_of(told["in-order"])
    bars = [
        (float(x), float(width))
        for x, width in re.findall(r'x="([\d.]+)" y="1" width="([\d.]+)"', panel)
    ]
    assert len(bars) == 4 + 4 + 43
    assert all(x >= 0 and x + width <= 1000.2 for x, width in bars)
    one_by_one = [x for x, _ in bars[8:]]
    assert one_by_one == sorted(one_by_one)


def test_what_could_be_fewer_calls(told: dict[str, Any]) -> None:
    panel = text_of(panel_of(told["in-order"]))
    line = line_of("        cache.get(key)")
    assert re.search(
        r"This loop of 40 get\(\) on 'default' could be replaced by one get_many\(\): "
        r"\d+\.\d ms in consecutive round trips, "
        rf"at contrib/toolbar_site\.py:{line} in in_order",
        panel,
    )
    # What was stored in between is asked for anew.
    assert panel.count("of the same key on 'default' was executed 2 times") == 1
    assert "first as call 4, again as 43" in panel
    assert "Fewer calls" not in told["odd-keys"]


def test_odd_keys(told: dict[str, Any]) -> None:
    panel = panel_of(told["odd-keys"])
    assert "<script>" not in panel
    assert ":1:&lt;script&gt;alert(1)&lt;/script&gt;" in panel
    assert r"\xff\x00\x1b[2J" in panel
    assert "\x1b" not in panel
    assert max(map(len, re.findall(r"<code>(.*?)</code>", panel))) <= 200
    assert SESSION not in panel
    assert re.findall(r"<strong>(\w+)</strong> on default", panel)[-2:] == [
        "local",
        "call_nodes",
    ]


def test_errors(told: dict[str, Any]) -> None:
    panel = text_of(panel_of(told["errors"]))
    assert "ResponseError: WRONGTYPE" in panel
    assert "Connection refused. [node 0, 127.0.0.1:1/0, cluster broken]" in panel
    assert "sent again, round 2" in panel
    assert "NoScriptError: NOSCRIPT" in panel
    assert re.search(r"calls in \d+\.\d\d ms, 3 failed", panel)
    assert panel_of(told["errors"]).count('fill="#ef4444"') == 5


def test_no_value_and_no_password_is_shown(told: dict[str, Any]) -> None:
    for name in ("in-order", "odd-keys", "errors"):
        assert "hidden-value" not in panel_of(told[name])
        assert "hunter2" not in told[name]


def test_requests_side_by_side(told: dict[str, Any]) -> None:
    alone = {f"{n}" for n in range(5)}
    beside = {f"side-{n}" for n in range(5)}
    for name in ("ann", "bob"):
        assert keys_of(told[f"/loop/{name}/"]) == {f"{name}:{n}" for n in alone | beside}
        assert keys_of(told[f"/thread/{name}/"]) == {f"{name}:{n}" for n in alone}
        for kind in ("loop", "thread"):
            # What is gathered is no loop, and is not counted to it.
            assert "This loop of 5 get()" in text_of(told[f"/{kind}/{name}/"])
    assert "a task that began with this call" in told["/loop/ann/"]


def test_nothing_and_much(told: dict[str, Any]) -> None:
    assert "No commands were sent to nodes." in panel_of(told["nothing"])
    assert "django-rb: 0 calls" in told["nothing"]
    assert "10 more calls are not shown." in panel_of(told["many"])
    assert "django-rb: 60 calls" in told["many"]
    assert told["off"] == "<html><body>page</body></html>"
    assert "RBPanel_calls;dur=" in told["timing"]


def test_clusters_are_observed_only_while_a_request_is_recorded(told: dict[str, Any]) -> None:
    assert told["observers"] == [0, 0]


def test_recordings_within_each_other() -> None:
    outer, inner = Recording(), Recording()
    outer.start()
    outer.start()
    inner.start()
    inner.stop()
    inner.stop()
    outer.stop()
    assert outer.told() == inner.told() == []


def call(number: int, operation: str, key: str, caller: str | None = "a.py:1") -> Any:
    return {
        "cluster": "default",
        "operation": operation,
        "at": float(number),
        "seconds": 0.5,
        "keys": [key],
        "key_count": 1,
        "caller": caller,
        "same_as": None,
    }


@for_each(
    ("calls", "expected"),
    [
        ([call(n, "set", f"k{n}") for n in range(3)], ["could be replaced by one set_many()"]),
        ([call(n, "call", f"k{n}") for n in range(3)], ["could be replaced by one map()"]),
        ([call(n, "get", f"k{n}") for n in range(2)], []),
        ([call(n, "get", "same") for n in range(5)], []),
        ([call(n, "lock", f"k{n}") for n in range(5)], []),
        ([call(n, "get", f"k{n}", None) for n in range(5)], []),
        ([call(n, "get", f"k{n}", f"a.py:{n}") for n in range(5)], []),
        ([call(0, "get", f"k{n}") for n in range(5)], []),
    ],
)
def test_loops(calls: list[Any], expected: list[str]) -> None:
    said = list(advise(calls))
    assert len(said) == len(expected)
    assert all(words in line for words, line in zip(expected, said, strict=True))


def test_the_toolbar_is_not_needed() -> None:
    code = (
        "import sys; sys.modules['debug_toolbar'] = None\n"
        "import django_rb, django_rb.contrib.watching, django_rb.cache\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
