"""Both transports behind the same calls, so that one text of a test tells of both."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest

from django_rb.engine import Cluster
from django_rb.engine.protocol.exchange import Batch

T = TypeVar("T")


@contextmanager
def awaited(new_loop: Callable[[], asyncio.AbstractEventLoop] | None = None) -> Iterator[None]:
    """Let whatever clusters run be run on an event loop; one for each thread."""
    local = threading.local()
    runners: list[asyncio.Runner] = []

    def run(self: Cluster, batch: Batch[T], timeout: float | None = None) -> T:
        if not hasattr(local, "runner"):
            local.runner = asyncio.Runner(loop_factory=new_loop)
            runners.append(local.runner)
        result: T = local.runner.run(self.arun(batch, timeout))
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cluster, "run", run)
        yield
    for runner in runners:
        runner.close()
