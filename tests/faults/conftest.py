"""Nodes that may be broken, and are whole again for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.rig import Rig


@pytest.fixture(scope="session")
def shared_rig() -> Iterator[Rig]:
    """Three nodes for the whole suite; use `rig`, which fills them."""
    with Rig(3) as rig:
        yield rig


@pytest.fixture
def transport() -> str:
    """How callers wait: modules that are about both transports have a fixture for both."""
    return "poll"


@pytest.fixture
def rig(shared_rig: Rig, transport: str) -> Rig:
    """Three nodes that hold what `rig.data` says."""
    shared_rig.transport = transport
    shared_rig.fill()
    return shared_rig
