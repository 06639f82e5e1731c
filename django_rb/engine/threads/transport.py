"""Runs batches in the calling thread.

A batch is a generator that yields the exchanges of a round and, once each of them has its
replies or an error, goes on to the next round or returns its result. The transport holds no
lock while it waits and keeps no state between calls, so any number of threads, greenlets and
signal handlers can use it at the same time.

A connection belongs to one exchange from `Pool.take()` to `Pool.give_back()`. If a round ends
in any other way, `KeyboardInterrupt` and a killed greenlet included, it is closed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from time import monotonic
from typing import TypeVar

from ..errors import ProtocolError
from ..nodes.changes import HealthChanges
from ..nodes.node import Node
from ..protocol.exchange import Batch, Exchange
from ..rounds.again import asks_for_more, look_again
from ..rounds.port import Port
from ..sockets import NOTHING_YET
from ..spinning import Spin
from .connections import KERNEL_WAIT_SECONDS, WOULD_BLOCK
from .lines import FOREVER
from .openings import Openings
from .pool import Pool
from .round import TLS_RECORD, Round
from .tracked import pool_for_tracked

T = TypeVar("T")


class Transport:
    """Runs batches in threads.

    Args:
        changes: the changes of the nodes' health, reported at the end of a call.

    Attributes:
        pools: the pool of each node, by host id; replaced whenever a host is added or removed.
    """

    def __init__(self, changes: HealthChanges) -> None:
        self.pools: dict[int, Pool] = {}
        self._changes = changes
        self._openings = Openings()
        self._spin = Spin()

    def use(self, nodes: Mapping[int, Node]) -> None:
        """Connect to these nodes only, from now on."""
        before = {pool.node: pool for pool in self.pools.values()}
        pools = {node: before.get(node) or Pool(node) for node in nodes.values()}
        self.pools = {host_id: pools[node] for host_id, node in nodes.items()}
        for node, pool in before.items():
            if node not in pools:
                node.epoch += 1  # connections in use are closed after their exchange
                pool.close_idle()

    def run(self, batch: Batch[T], timeout: float | None = None, port: Port | None = None) -> T:
        """Run a batch to its end and return its result.

        Args:
            batch: the generator. Failures of nodes are not raised here; it finds them in its
                exchanges.
            timeout: seconds after which unfinished exchanges fail.
            port: the cluster, for second looks; None if the batch includes them.
        """
        deadline = FOREVER if timeout is None else monotonic() + timeout
        # The pools of a host that is removed meanwhile stay usable until the batch ends.
        latest = pools = self.pools
        given = timeout
        try:
            while True:
                exchanges = next(batch)
                if self.pools is not latest:  # a host was added, and the batch may use it
                    latest = self.pools
                    pools = {**pools, **latest}
                if len(exchanges) != 1 or not self._run_small(
                    exchanges[0], pools, deadline, given
                ):
                    Round(pools, self._openings, self._spin, deadline, given).run(exchanges)
                given = None
                if port is not None and asks_for_more(exchanges):
                    pools = self._look_again(port, exchanges, pools, deadline)
        except StopIteration as end:
            result: T = end.value
            return result
        except BaseException:
            batch.close()
            raise
        finally:
            if self._changes.waiting:
                self._changes.tell()

    def _look_again(
        self,
        port: Port,
        exchanges: Sequence[Exchange],
        pools: dict[int, Pool],
        deadline: float,
    ) -> dict[int, Pool]:
        """Run the second looks after a round; return the pools, new ones included."""
        with closing(look_again(port, exchanges)) as rounds:
            for following in rounds:
                pools = {**pools, **self.pools}  # each round may learn of new nodes
                Round(pools, self._openings, self._spin, deadline).run(following)
        return pools

    def close_idle(self) -> None:
        """Close all idle connections, and have the others closed when they would become idle.

        Those are in use, or are being opened for a call that did not wait for them.
        """
        for pool in self.pools.values():
            pool.node.epoch += 1
            pool.close_idle()

    def count(self, host_id: int) -> tuple[int, int]:
        """Return how many connections to a node are open, and how many of them are idle."""
        pool = self.pools.get(host_id)
        return (0, 0) if pool is None else pool.count()

    def _run_small(  # noqa: PLR0912 (another function call would slow down each get)
        self,
        exchange: Exchange,
        pools: dict[int, Pool],
        deadline: float,
        timeout: float | None,
    ) -> bool:
        """Run one small exchange on an idle connection; return False if it was not started.

        This is the fast path for most calls. In every other case, a round takes over.
        """
        pool = pools[exchange.host_id]
        if exchange.is_tracked:
            tracked = pool.tracked
            pool = tracked if tracked is not None and tracked.idle else pool_for_tracked(pool)
        if (
            exchange.needs_new_connection
            or not pool.node.health.is_well
            or (deadline != FOREVER and monotonic() + KERNEL_WAIT_SECONDS > deadline)
        ):
            return False
        connection = pool.take()
        if connection is None:
            return False
        error: Exception | None = None
        is_done = False
        try:
            exchange.begin(connection.reader, pool.node.has_pushes)
            out = exchange.out
            if connection.is_tls and len(out) > TLS_RECORD:  # type: ignore[arg-type]
                exchange.untouched = False  # TLS may send records and then raise
            if exchange.sent(connection.send(out)) is None:  # type: ignore[arg-type]
                size = NOTHING_YET
                if self._spin.left > 0 and connection.is_plain:
                    size = self._spin.receive(connection.receive_now)
                if size == NOTHING_YET:
                    began = monotonic()
                    size = connection.recv_into(connection.buffer, len(connection.buffer))
                    self._spin.waited(monotonic() - began)
                if not size:
                    raise ConnectionResetError("the node closed the connection")
                is_done = exchange.feed(connection.buffer, size)
                if not is_done:
                    connection.make_room(size)
        except WOULD_BLOCK:  # it is too large, or not answered soon
            pass
        except (OSError, ProtocolError) as caught:
            error = caught
        except BaseException:
            connection.close()
            raise
        if is_done:
            pool.give_back(connection)
            if exchange.on_done is not None and not exchange.has_errors:
                exchange.on_done(exchange)
            return True
        round_ = Round(pools, self._openings, self._spin, deadline, timeout)
        if error is None:
            round_.go_on(exchange, connection, pool)
        else:
            round_.fail(exchange, connection, pool, error)
        return True
