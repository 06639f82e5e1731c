"""The commands that a block sends, per node, and assertions similar to assertNumQueries."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from types import TracebackType
from typing import Self, overload

from ..engine import Cluster
from ..engine.protocol.encoding import pack
from ..engine.rounds.observing import (
    BatchEvent,
    Command,
    ExchangeEvent,
    Observer,
    add_observer,
    remove_observer,
)
from ..engine.wording import shown_command
from ..registry import clusters

__unittest = True  # failures show the test's own line last

# Sent by connections themselves.
_NOT_CAPTURED = ("AUTH", "HELLO")


class CaptureCommandsContext(Observer):
    """A context manager that captures the commands that a cluster sends to its nodes.

    with CaptureCommandsContext("default") as captured:
        cache.get_many(["a", "b", "c"])
    captured.batches            # 1
    captured.commands           # {0: [("MGET", b":1:a", b":1:c")], 2: [("MGET", b":1:b")]}
    len(captured)               # 2

    Args:
        cluster: a cluster, or its alias in settings.RB_CLUSTERS.

    Attributes:
        batches: how many batches ran: calls that were answered together. A command or a
            pipeline of a local client is a batch, too.
        rounds: how many rounds they took; more than `batches` if a node was asked again.

    Commands of all threads are captured, including those to nodes that then failed. The
    handshakes of connections (AUTH, HELLO …) are not.
    """

    def __init__(self, cluster: Cluster | str = "default") -> None:
        self._cluster = clusters[cluster] if isinstance(cluster, str) else cluster
        self._sent: list[tuple[int, Command]] = []
        self.batches = 0
        self.rounds = 0

    def __enter__(self) -> Self:
        self._sent.clear()
        self.batches = self.rounds = 0
        add_observer(self._cluster, self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        remove_observer(self._cluster, self)

    def __len__(self) -> int:
        return len(self._sent)

    def __iter__(self) -> Iterator[tuple[int, Command]]:
        """Yield (host id, command) in the order in which they were sent."""
        return iter(self._sent)

    @overload
    def __getitem__(self, index: int) -> tuple[int, Command]: ...

    @overload
    def __getitem__(self, index: slice) -> list[tuple[int, Command]]: ...

    def __getitem__(
        self, index: int | slice
    ) -> tuple[int, Command] | list[tuple[int, Command]]:
        return self._sent[index]

    def __repr__(self) -> str:
        return (
            f"<CaptureCommandsContext: {_count(len(self), 'command')} in "
            f"{_count(self.batches, 'batch', 'batches')} to nodes {sorted(self.nodes)}>"
        )

    @property
    def commands(self) -> dict[int, list[Command]]:
        """``{host id: [(name, argument, …), …]}``, arguments as bytes; only for `nodes`."""
        commands: dict[int, list[Command]] = {}
        for host_id, command in sorted(self._sent, key=lambda sent: sent[0]):
            commands.setdefault(host_id, []).append(command)
        return commands

    @property
    def nodes(self) -> set[int]:
        """The ids of the hosts that commands were sent to."""
        return {host_id for host_id, _ in self._sent}

    def describe(self) -> str:
        """Return the captured commands as text, one per line."""
        lines = [
            f"{number}. node {host_id}: {shown_command(command)}"
            for number, (host_id, command) in enumerate(self._sent, start=1)
        ]
        return "\n".join(["Captured commands were:", *(lines or ["none"])])

    def batch_began(self, batch: BatchEvent) -> None:
        """Count a batch."""
        self.batches += 1

    def round_began(self, batch: BatchEvent) -> None:
        """Count a round."""
        self.rounds += 1

    def exchange_ended(self, exchange: ExchangeEvent) -> None:
        """Keep the commands that were sent, except those that ask for a cluster's slots."""
        if exchange.is_question:
            return
        for command in _sent(exchange):
            if str(command[0]).upper() not in _NOT_CAPTURED:
                self._sent.append((exchange.host_id, command))


def _sent(exchange: ExchangeEvent) -> Iterator[Command]:
    """Yield the commands that were sent completely."""
    left = exchange.bytes_out
    for command in exchange.commands() if left else ():
        if exchange.error is not None:  # the last command may be incomplete
            left -= len(pack(command))
            if left < 0:
                return
        yield command


class AssertingContext(CaptureCommandsContext):
    """Captures commands, and fails at the end of the block unless they are as expected.

    Args:
        cluster: a cluster or its alias.
        batches: how many batches are expected; None for any number.
        nodes: how many nodes, or the ids of exactly which hosts, are expected to be sent
            commands; None for any.

    At the end of a block that did not raise anything itself, it raises an AssertionError that
    lists the commands.
    """

    def __init__(
        self,
        cluster: Cluster | str = "default",
        *,
        batches: int | None = None,
        nodes: int | Collection[int] | None = None,
    ) -> None:
        super().__init__(cluster)
        self._expected_batches = batches
        self._expected_nodes = nodes

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        __tracebackhide__ = True  # the same for pytest
        super().__exit__(kind, error, traceback)
        if kind is None:
            for mistake in self._mistakes():
                raise AssertionError(f"{mistake}\n{self.describe()}")

    def _mistakes(self) -> Iterator[str]:
        if self._expected_batches not in {None, self.batches}:
            ran = _count(self.batches, "batch", "batches")
            yield f"{ran} executed, {self._expected_batches} expected"
        expected, touched = self._expected_nodes, self.nodes
        if isinstance(expected, int):
            if expected != len(touched):
                yield f"{_count(len(touched), 'node')} touched, {expected} expected"
        elif expected is not None and set(expected) != touched:
            yield f"Nodes touched: {_ids(touched)}; expected: {_ids(expected)}"


def _ids(host_ids: Collection[int]) -> str:
    return ", ".join(map(str, sorted(host_ids))) or "none"


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
