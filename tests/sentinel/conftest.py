"""Both transports."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.transports import awaited


@pytest.fixture(params=["threads", "loops"])
def transport(request: pytest.FixtureRequest) -> Iterator[str]:
    """Tests run in threads, and once more on event loops."""
    if request.param == "threads":
        yield request.param
    else:
        with awaited():
            yield request.param
