"""Both transports behind the same calls, so that one text of a test tells of both."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest

from django_rb.engine import Cluster
from django_rb.engine.protocol.exchange import NO_REPLY, Batch
from django_rb.engine.threads.transport import PollTransport

T = TypeVar("T")


@contextmanager
def awaited(new_loop: Callable[[], asyncio.AbstractEventLoop] | None = None) -> Iterator[None]:
    """Let whatever clusters run be run on an event loop; one for each thread."""
    local = threading.local()
    runners: list[asyncio.Runner] = []

    def run(
        self: Cluster, batch: Batch[T], timeout: float | None = None, began: float | None = None
    ) -> T:
        if not hasattr(local, "runner"):
            local.runner = asyncio.Runner(loop_factory=new_loop)
            runners.append(local.runner)
        result: T = local.runner.run(self.arun(batch, timeout))
        return result

    def try_call(self: PollTransport, *_args: object) -> Any:
        return NO_REPLY

    def try_calls(self: PollTransport, *_args: object) -> None:
        return None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cluster, "run", run)
        patch.setattr(PollTransport, "try_call", try_call)
        patch.setattr(PollTransport, "try_calls", try_calls)
        yield
    for runner in runners:
        runner.close()
