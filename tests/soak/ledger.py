"""What a key may hold, from what was written to it. No I/O.

Each key is written by one thread only. A value says which key it is of and which write it
comes from, so that any other value is a reply that went astray. A write whose outcome is
unknown may take effect late, however many came after it: a node that was stopped executes
what it had received.
"""

from __future__ import annotations


class WrongValue(Exception):
    """A key holds what it cannot hold."""


class Key:
    """A key with values.

    Args:
        name: its name.
        may_go_back: a replica takes the place of its node, and need not have the last writes.
    """

    def __init__(self, name: str, *, may_go_back: bool = False) -> None:
        self.name = name
        self._may_go_back = may_go_back
        self._acknowledged = bytearray()  # for each write: whether it was
        self._last: int | None = None  # the write that is known to be in effect

    def next_value(self, size: int) -> str:
        """Return what to write next. The outcome is unknown until `stored` says otherwise."""
        write = len(self._acknowledged)
        self._acknowledged.append(False)
        return f"{self.name}|{write}|{'x' * size}"

    def stored(self) -> None:
        """Take note that the last write was acknowledged."""
        self._acknowledged[-1] = True
        self._last = len(self._acknowledged) - 1

    def deleted(self) -> None:
        """Take note that the key was deleted, and that this was acknowledged."""
        self._last = None

    def check(self, value: object) -> bool:
        """Return whether there is a value; a node that was restarted has lost it.

        Raises:
            WrongValue: this was never written to the key, or was overwritten.
        """
        if value is None:
            return False
        text = value.decode() if isinstance(value, bytes) else str(value)
        name, _, rest = text.partition("|")
        write = rest.partition("|")[0]
        if name != self.name:
            raise WrongValue(f"{self.name} holds {text[:60]!r}")
        if not (write.isdigit() and self._may_be_in_effect(int(write))):
            raise WrongValue(
                f"{self.name} holds its write {write}, though write {self._last} is in effect"
            )
        return True

    def _may_be_in_effect(self, write: int) -> bool:
        was_written = write < len(self._acknowledged)
        return was_written and (
            self._may_go_back or write == self._last or not self._acknowledged[write]
        )


class Counter:
    """A counter. It never goes back, and counts nothing twice.

    Args:
        name: its key.
        may_go_back: as of a `Key`.
    """

    def __init__(self, name: str, *, may_go_back: bool = False) -> None:
        self.name = name
        self._least = 0 if may_go_back else None  # what it may count from, whatever it was
        self._last = 0
        self._unknown = 0

    def begins(self) -> None:
        """Take note that a step is on its way."""
        self._unknown += 1

    def counted(self, value: int) -> None:
        """Take note of the answer to the last step.

        Raises:
            WrongValue: it is less than before, or more than all steps together.
        """
        most = self._last + self._unknown
        self._unknown -= 1
        before = self._last if self._least is None else self._least
        if not before < value <= most:
            raise WrongValue(f"{self.name} is {value}, not {before + 1} to {most}")
        self._last = value

    def lost(self) -> None:
        """Take note that it is not there: its node was restarted."""
        self._unknown -= 1  # that step did nothing
        self._last = 0
