"""A site with pages about four nodes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.test import override_settings

from django_rb.testing import LocalNodes

from .admin_site import SETTINGS


@pytest.fixture
def site(nodes: LocalNodes, db: None) -> Iterator[LocalNodes]:
    """Four clean nodes, and a site with pages about them."""
    with override_settings(**SETTINGS):
        yield nodes
