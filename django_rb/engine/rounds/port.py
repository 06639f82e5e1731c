"""What batches need of a cluster."""

from __future__ import annotations

from typing import Protocol

from ..routing.routers import BaseRouter


class Port(Protocol):
    """A cluster, as far as batches know it.

    Attributes:
        alias: what errors call it; None where it has no name.
    """

    alias: str | None

    @property
    def router(self) -> BaseRouter:
        """Who owns a key, as of now."""

    def get_address(self, host_id: int) -> str:
        """Return where a node is, for errors."""
