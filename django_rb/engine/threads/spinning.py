"""A short spin in place of a wait, where other threads compete for the interpreter.

A wait lets go of the interpreter's lock. To get it back takes a switch interval (5 ms) for each
thread that computes, which is much longer than a node nearby takes to answer. So where a wait
took that long, those that follow look for the answer again and again for a moment first. Where
no thread competes, waits are short, and there is no spin.
"""

from __future__ import annotations

from time import monotonic

from .connections import NOTHING_YET, Connection

# Seconds that a spin takes at most: a node in the same data centre answers in less.
_SPIN_SECONDS = 0.0003

# A wait of so many seconds may have been one for the interpreter.
LONG_WAIT_SECONDS = 0.001

# So many spins follow a long wait; then one more wait shows whether threads still compete.
_SPINS = 32

# A node that did not answer within a spin may be far away: from 1 long wait on, doubled for each
# time that it happens again, so many are not followed by spins.
_MOST_PASSED_OVER = 1024


class Spin:
    """Decides for one node when to spin. Safe to share: a count that is lost does no harm."""

    def __init__(self) -> None:
        self.left = 0  # so many spins are to come
        self._in_vain = 0
        self._passed_over = 0

    def receive(self, connection: Connection) -> int:
        """Do what `Connection.receive_now` does, for as long as a spin takes."""
        self.left -= 1
        until = monotonic() + _SPIN_SECONDS
        while (size := connection.receive_now()) == NOTHING_YET:
            if monotonic() > until:
                self.left = 0
                self._in_vain += 1
                self._passed_over = min(2**self._in_vain, _MOST_PASSED_OVER)
                return size
        self._in_vain = 0
        return size

    def waited(self, seconds: float) -> None:
        """Take note of a wait."""
        if seconds > LONG_WAIT_SECONDS:
            if self._passed_over > 0:
                self._passed_over -= 1
            else:
                self.left = _SPINS
