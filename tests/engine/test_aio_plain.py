"""Plain sockets on event loops: moved by the engine, never by a call that lets go."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop

from django_rb.engine import Cluster
from django_rb.engine.loops.plain import PlainTransport
from django_rb.engine.rounds.batch import find, store
from django_rb.testing import LocalNodes
from tests.engine.peer import Peer
from tests.engine.test_spinning import a_thread_that_computes

NewLoop = Callable[[], asyncio.AbstractEventLoop]

KEYS = [b"key:%d" % number for number in range(40)]
LARGE = b"v" * 8_000_000  # bytes; more than any socket takes at once


@pytest.fixture(
    params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
def new_loop(request: pytest.FixtureRequest) -> NewLoop:
    made: NewLoop = request.param
    return made


@pytest.fixture
def cluster(nodes: LocalNodes) -> Iterator[Cluster]:
    with_nodes = Cluster(nodes.hosts)
    yield with_nodes
    with_nodes.close()


def run(new_loop: NewLoop, main: Any) -> Any:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main)


def pools_of(cluster: Cluster) -> Any:
    (pools,) = cluster._loops._loops
    return pools


def transports_of(cluster: Cluster) -> list[object]:
    pools = pools_of(cluster).pools
    return [each._transport for pool in pools for each in pool.connections]


def test_plain_sockets_are_moved_by_the_engine(cluster: Cluster, new_loop: NewLoop) -> None:
    async def main() -> list[object]:
        await cluster.arun(find(cluster, KEYS))
        return transports_of(cluster)

    found = run(new_loop, main())
    assert len(found) == 4
    assert {type(transport) for transport in found} == {PlainTransport}


def test_unix_sockets_as_well(new_loop: NewLoop, tmp_path: Any) -> None:
    path = str(tmp_path / "node")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                while said := connection.recv(65536):
                    connection.sendall(b"+OK\r\n" * said.count(b"*"))

        threading.Thread(target=answer, daemon=True).start()
        cluster = Cluster([{"unix_socket_path": path}])

        async def main() -> list[object]:
            assert await cluster.aio.set("key", "value")
            return transports_of(cluster)

        (found,) = run(new_loop, main())
        assert isinstance(found, PlainTransport)
        cluster.close()


def test_large_values_go_and_come(cluster: Cluster, new_loop: NewLoop) -> None:
    async def main() -> Any:
        await cluster.arun(store(cluster, KEYS[:3], [LARGE] * 3, bytes))
        found, failures = await cluster.arun(find(cluster, KEYS[:3]))
        assert failures == []
        return found

    assert run(new_loop, main()) == dict.fromkeys(KEYS[:3], LARGE)


def test_what_waits_to_be_sent_keeps_no_context(cluster: Cluster, new_loop: NewLoop) -> None:
    class Request:
        pass

    request_of: contextvars.ContextVar[Request] = contextvars.ContextVar("request")

    async def serve() -> weakref.ref[Request]:
        request_of.set(request := Request())
        await cluster.arun(store(cluster, KEYS[:1], [LARGE], bytes))
        return weakref.ref(request)

    async def main() -> Request | None:
        request = await asyncio.create_task(serve())
        await asyncio.sleep(0)  # the task's last turn is over
        gc.collect()
        return request()

    assert run(new_loop, main()) is None


def test_one_wake_reads_what_came_for_all(cluster: Cluster) -> None:
    """Of four nodes that have answered, the loop need not be woken by each."""
    reads: list[int] = []

    async def main() -> None:
        await cluster.arun(find(cluster, KEYS))
        inbox = pools_of(cluster).inbox
        call = asyncio.create_task(cluster.arun(find(cluster, KEYS)))
        await asyncio.sleep(0)
        expecting = list(inbox.expecting)
        assert len(expecting) == 4
        while not all(transport.has_input() for transport in expecting):
            pass  # the loop does not get to run
        expecting[0]._readable()
        reads.append(len(inbox.expecting))
        assert (await call)[1] == []

    asyncio.run(main())
    assert reads == [0]


def test_a_broken_connection_is_told_of(new_loop: NewLoop) -> None:
    def say(peer: Peer, connection: socket.socket, command: list[bytes]) -> None:
        if command[0] == b"MGET":
            connection.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
            )  # closing resets it
            connection.close()
        else:
            connection.sendall(b"+OK\r\n")

    with Peer(say) as peer:
        cluster = Cluster([peer.host])

        async def main() -> Any:
            assert await cluster.aio.set("key", "value")
            return await cluster.arun(find(cluster, [b"key"]))

        _, (failure,) = run(new_loop, main())
        assert "reset" in str(failure.error).lower() or "closed" in str(failure.error)
        cluster.close()


class TestSpins:
    def test_answers_are_right_beside_a_thread_that_computes(self, cluster: Cluster) -> None:
        values = dict(zip(KEYS, KEYS, strict=True))

        async def main() -> int:
            await cluster.arun(store(cluster, KEYS, KEYS, bytes))
            spin, spins = pools_of(cluster).inbox.spin, 0
            with a_thread_that_computes():
                while spins < 8:
                    before = spin.left
                    found, _ = await cluster.arun(find(cluster, KEYS))
                    assert found == values
                    spins += spin.left == before - 1
            return spins

        asyncio.run(asyncio.wait_for(main(), 30))

    @pytest.mark.parametrize("is_computing", [True, False])
    def test_a_loop_that_computes_itself_does_not_spin(
        self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, is_computing: bool
    ) -> None:
        """A wait is one for the interpreter only if the loop did not compute meanwhile."""
        computed = time.monotonic if is_computing else lambda: 0.0
        monkeypatch.setattr("django_rb.engine.loops.transport.thread_time", computed)

        async def block() -> None:
            while True:
                time.sleep(0.003)
                await asyncio.sleep(0)

        async def main() -> set[bool]:
            await cluster.arun(find(cluster, KEYS))
            spin = pools_of(cluster).inbox.spin
            blocking = asyncio.create_task(block())
            spun = set()
            for _ in range(6):
                spin.left = 0
                await cluster.arun(find(cluster, KEYS))
                spun.add(spin.left > 0)
            blocking.cancel()
            return spun

        assert (True in asyncio.run(main())) is not is_computing

    def test_a_silent_node_is_not_spun_for(self, nodes: LocalNodes) -> None:
        cluster = Cluster(nodes.hosts, pool_options={"socket_timeout": 0.2})

        async def main() -> None:
            await cluster.arun(find(cluster, KEYS))
            spin = pools_of(cluster).inbox.spin
            nodes.pause(0)
            try:
                spin.left = 5
                _, failures = await cluster.arun(find(cluster, KEYS))
                assert [failure.host_id for failure in failures] == [0]
                assert spin.left == 0
            finally:
                nodes.resume(0)

        asyncio.run(main())
        cluster.close()

    def test_what_another_call_raises_is_not_raised_here(self, cluster: Cluster) -> None:
        """A spin reads for all; what breaks there is for whoever awaits it."""
        lost: list[dict[str, Any]] = []

        async def main() -> list[object]:
            await cluster.arun(find(cluster, KEYS))
            inbox = pools_of(cluster).inbox
            asyncio.get_running_loop().set_exception_handler(lambda _, told: lost.append(told))
            other = asyncio.create_task(cluster.arun(find(cluster, KEYS)))
            await asyncio.sleep(0)
            for transport in inbox.expecting:
                transport._receiver._job.exchange.feed = None  # calling it raises TypeError
            inbox.spin.left = 5
            mine = await cluster.arun(find(cluster, KEYS))
            return [mine[1], *await asyncio.gather(other, return_exceptions=True)]

        failures, error = asyncio.run(main())
        assert failures == []
        assert isinstance(error, TypeError)
        assert lost
