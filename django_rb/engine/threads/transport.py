"""Moves the bytes of a batch's exchanges in the thread that calls.

A batch is a generator that yields the exchanges of a round and, once each of them has its
replies or an error, goes on to the next round or returns its result. It holds no lock while
it waits and keeps no state between calls, so any number of threads, greenlets and signal
handlers may be inside it at once.

A connection belongs to one exchange from `Pool.take()` to `Pool.give_back()`. Every other
way out of a round, `KeyboardInterrupt` and a killed greenlet included, closes it.
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
    """Drives batches in threads.

    Args:
        changes: those of the nodes' health, told at the end of a call.

    Attributes:
        pools: the connections to each node, by host id; another mapping whenever a host
            comes or goes.
    """

    def __init__(self, changes: HealthChanges) -> None:
        self.pools: dict[int, Pool] = {}
        self._changes = changes
        self._openings = Openings()
        self._spin = Spin()

    def use(self, nodes: Mapping[int, Node]) -> None:
        """Have connections to these nodes from now on, and to no others."""
        before = {pool.node: pool for pool in self.pools.values()}
        pools = {node: before.get(node) or Pool(node) for node in nodes.values()}
        self.pools = {host_id: pools[node] for host_id, node in nodes.items()}
        for node, pool in before.items():
            if node not in pools:
                node.epoch += 1  # what is in use now is closed by who uses it
                pool.close_idle()

    def run(self, batch: Batch[T], timeout: float | None = None, port: Port | None = None) -> T:
        """Run a batch to its end and return its result.

        Args:
            batch: the generator; what fails on a node is told to it, not raised here.
            timeout: seconds after which whatever is unfinished has failed.
            port: for second looks; None if the batch takes them itself.
        """
        deadline = FOREVER if timeout is None else monotonic() + timeout
        # Those of a host that is removed meanwhile are known to the end of the batch.
        latest = pools = self.pools
        given = timeout
        try:
            while True:
                exchanges = next(batch)
                if self.pools is not latest:  # and of a new one it may be told
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
        """Run the rounds that follow from replies; return all pools that they may use."""
        with closing(look_again(port, exchanges)) as rounds:
            for following in rounds:
                pools = {**pools, **self.pools}  # there may be new ones in each
                Round(pools, self._openings, self._spin, deadline).run(following)
        return pools

    def close_idle(self) -> None:
        """Close all idle connections."""
        for pool in self.pools.values():
            pool.close_idle()

    def count(self, host_id: int) -> tuple[int, int]:
        """Return how many connections to a node are open, and how many of them are idle."""
        pool = self.pools.get(host_id)
        return (0, 0) if pool is None else pool.count()

    def _run_small(  # noqa: PLR0912 (what a function apart would cost is seen in each get)
        self,
        exchange: Exchange,
        pools: dict[int, Pool],
        deadline: float,
        timeout: float | None,
    ) -> bool:
        """Run one small exchange on an idle connection; return False if nothing was begun.

        What most calls are takes fewer steps here than in a round, which takes over wherever
        something is out of the ordinary.
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
                exchange.untouched = False  # records may leave before send() says so
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
        except WOULD_BLOCK:  # it is no small one, or not answered soon
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
