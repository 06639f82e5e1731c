"""What docs/rate-limits.md shows is true."""

from __future__ import annotations

import inspect
import re
from typing import Any

from django_rb.checks.limits import OF_DJANGO_RATELIMIT
from django_rb.ratelimit import RatelimitMixin, ratelimit
from django_rb.ratelimit.conf import NAMES
from django_rb.testing import LocalNodes
from tests.ratelimit.site import get, post, run
from tests.test_readme import ROOT, code_blocks

PAGE = (ROOT / "docs" / "rate-limits.md").read_text()


def test_the_python_shown_runs(nodes: LocalNodes) -> None:
    names: dict[str, Any] = {"__name__": "shown"}
    for block in code_blocks("docs/rate-limits.md", "python"):
        exec(block, names)
    assert names["search"](get()).content == b"found"
    assert run(names["prices"](get())).content == b"cheap"
    tries = [names["login"](post({"password": "guess"})).status_code for _ in range(6)]
    assert tries == [403] * 5 + [429]
    requests = [post({"password": "secret"}, REMOTE_ADDR="10.0.0.2") for _ in range(6)]
    right = [names["login"](request).status_code for request in requests]
    assert right == [200] * 5 + [429]  # charged whatever the password is
    for name in (" Ann", "\N{FULLWIDTH LATIN SMALL LETTER A}nn"):
        assert names["by_name"]("login", post({"username": name})) == "ann"
    assert names["log_in"](post({"username": "ann"})).content == b"welcome"
    assert names["Orders"].as_view()(post()).content == b"ordered"


def test_every_setting_and_argument_is_described() -> None:
    assert [name for name in NAMES if f"`{name}`" not in PAGE] == []
    arguments = list(inspect.signature(ratelimit).parameters)
    assert [name for name in arguments if f"\n| `{name}` | " not in PAGE] == []
    differences = PAGE.partition("The differences:")[2].partition("\n## ")[0]
    assert [name for name in OF_DJANGO_RATELIMIT if f"`{name}`" not in differences] == []
    attributes = [name for name in vars(RatelimitMixin) if name.startswith("ratelimit_")]
    assert [name for name in attributes if f"`{name}`" not in PAGE] == []


def test_links_within_the_page_lead_somewhere() -> None:
    headings = re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)
    anchors = {heading.lower().replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([\w-]+)\)", PAGE)) <= anchors
