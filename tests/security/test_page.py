"""What docs/security.md shows is true. Its ACL is tested in test_users.py."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import redis

from django_rb import conf
from django_rb.engine.nodes.option_checks import host_options

PAGE = (Path(__file__).resolve().parents[2] / "docs/security.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("block", BLOCKS)
def test_the_settings_shown_have_no_mistake(block: str) -> None:
    names: dict[str, Any] = {}
    exec(block, names)
    for alias, config in names["RB_CLUSTERS"].items():
        assert list(conf.find_mistakes(alias, config)) == []


def test_the_options_exist() -> None:
    shown = set(re.findall(r"`(ssl_\w+)`", PAGE))
    assert shown
    # Some came with a later redis-py than the oldest that is supported.
    assert shown - host_options() <= {"ssl_min_version"}


def test_the_errors_are_what_the_page_says() -> None:
    assert issubclass(redis.AuthenticationError, redis.ConnectionError)
    assert issubclass(redis.exceptions.NoPermissionError, redis.ResponseError)
