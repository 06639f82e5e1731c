"""A short spin in place of a wait, where other threads compete for the interpreter.

A wait lets go of the interpreter's lock. To get it back takes a switch interval (5 ms) for each
thread that computes, which is much longer than a node nearby takes to answer. So where a wait
took long, those that follow look for the answer again and again for a moment first. Where no
thread competes, waits are short, and there is no spin.
"""

from __future__ import annotations

from collections.abc import Callable

from .sockets import NOTHING_YET

# How often a spin looks at one node, or at several: for about half a millisecond. A clock may
# stand still in tests.
LOOKS, LOOKS_AT_MANY = 500, 125

# A wait of so many seconds may have been one for the interpreter.
LONG_WAIT_SECONDS = 0.001

# So many spins follow a long wait; then one more wait shows whether threads still compete.
_SPINS = 32

# Nodes that did not answer within a spin may be far away. Then so many long waits are followed
# by none: 2, and twice as many each time that it happens again.
_MOST_PASSED_OVER = 1024


class Spin:
    """Decides whether to spin. Threads share it: a count that is lost does no harm.

    Attributes:
        left: how many spins are to come before the next wait.
        is_alert: the last wait of an event loop was long. The next is measured more closely:
            a loop that computes makes waits long, too.
    """

    def __init__(self) -> None:
        self.left = 0
        self.is_alert = False
        self._passed_over = 0
        self._most_passed_over = 1

    def receive(self, receive_now: Callable[[], int]) -> int:
        """Do what `Connection.receive_now` does, for as long as a spin takes."""
        for _ in range(LOOKS):
            size = receive_now()
            if size != NOTHING_YET:
                self.left -= 1
                self._most_passed_over = 1
                return size
        self._failed()
        return NOTHING_YET

    def serve(self, serve_what_came: Callable[[], bool]) -> bool:
        """Serve nodes that answer, until the function says that all have; return whether."""
        for _ in range(LOOKS_AT_MANY):
            if serve_what_came():
                self.left -= 1
                self._most_passed_over = 1
                return True
        self._failed()
        return False

    def _failed(self) -> None:
        self.left = 0
        self._most_passed_over = min(2 * self._most_passed_over, _MOST_PASSED_OVER)
        self._passed_over = self._most_passed_over

    def waited(self, seconds: float) -> None:
        """Take note of a wait that ended with an answer."""
        if seconds <= LONG_WAIT_SECONDS:
            return
        if self._passed_over > 0:
            self._passed_over -= 1
        else:
            self.left = _SPINS
