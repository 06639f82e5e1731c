"""Names of nodes that are looked up as a test wants it: at once, slowly, or not at all."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from typing import Any, Self

import pytest

from django_rb.engine import lookups
from tests.helpers import wait_until


class Names:
    """Stands in for the system's look-ups of names that end in ".test", until its block ends.

    names["node.test"] = ["127.0.0.1"]                    # its addresses
    names["node.test"] = socket.EAI_AGAIN                 # the error of its look-ups
    names["node.test"] = None                             # they hang, until the block ends

    Attributes:
        asked: how often each was looked up.
        most: how many look-ups of each were under way at a time, at most.
    """

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self._under_way: Counter[str] = Counter()
        self._answers: dict[str, list[str] | int | None] = {}
        self._is_over = threading.Event()
        self._counting = threading.Lock()
        self._system = socket.getaddrinfo

    def __setitem__(self, name: str, answer: list[str] | int | None) -> None:
        self._answers[name] = answer

    def under_way(self) -> int:
        """Return how many look-ups are under way."""
        with self._counting:
            return self._under_way.total()

    def end_hanging(self) -> None:
        """Let the look-ups that hang end, as if no name server had answered."""
        is_over, self._is_over = self._is_over, threading.Event()
        is_over.set()

    def __enter__(self) -> Self:
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(socket, "getaddrinfo", self._look_up)
        return self

    def __exit__(self, *exc_info: object) -> None:
        # Not one begins when the names of another test are known.
        wait_until(self._has_ended, 20)
        self._patch.undo()
        for name in self._answers:
            lookups._known.pop(name, None)

    def _has_ended(self) -> bool:
        self.end_hanging()
        return not lookups._under_way

    def _look_up(self, host: Any, port: Any, *args: Any, **options: Any) -> Any:
        if not str(host).endswith(".test"):
            return self._system(host, port, *args, **options)
        with self._counting:
            self.asked[host] += 1
            self._under_way[host] += 1
            self.most[host] = max(self.most[host], self._under_way[host])
        try:
            answer = self._answers[host]
            if answer is None:
                self._is_over.wait()
                answer = socket.EAI_AGAIN
            if isinstance(answer, int):
                raise socket.gaierror(answer, "Name or service not known")
            found: list[Any] = []
            for address in answer:
                found += self._system(address, port, *args, **options)
            return found
        finally:
            with self._counting:
                self._under_way[host] -= 1
