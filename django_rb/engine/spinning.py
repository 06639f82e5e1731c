"""A short spin instead of a wait, if other threads compete for the GIL.

A wait releases the GIL. Getting it back takes a switch interval (5 ms) for each thread that
computes, much longer than a nearby node takes to answer. So after a long wait, the following
ones first poll for the answer in a loop, for about half a millisecond. If no thread competes,
waits are short, and there is no spin.
"""

from __future__ import annotations

from collections.abc import Callable

from .sockets import NOTHING_YET

# How often a spin polls one node, or several: about half a millisecond. It is a count, not a
# time, because the clock may stand still in tests.
LOOKS, LOOKS_AT_MANY = 500, 125

# A wait of this many seconds may have been a wait for the GIL.
LONG_WAIT_SECONDS = 0.001

# This many spins follow a long wait; then another wait shows whether threads still compete.
_SPINS = 32

# Nodes that did not answer within a spin may be far away. Then the next long waits cause no
# spin: 2 of them, and twice as many after each further failure, up to this number.
_MOST_PASSED_OVER = 1024


class Spin:
    """Decides whether to spin. Threads share it without a lock: a lost count does no harm.

    Attributes:
        left: how many spins are left before the next wait.
        is_alert: the last wait of an event loop was long, so the next one is measured more
            exactly: a loop that computes makes waits long, too.
    """

    def __init__(self) -> None:
        self.left = 0
        self.is_alert = False
        self._passed_over = 0
        self._most_passed_over = 1

    def receive(self, receive_now: Callable[[], int]) -> int:
        """Call `receive_now` until it returns something, for as long as a spin lasts."""
        for _ in range(LOOKS):
            size = receive_now()
            if size != NOTHING_YET:
                self.left -= 1
                self._most_passed_over = 1
                return size
        self._failed()
        return NOTHING_YET

    def serve(self, serve_what_came: Callable[[], bool]) -> bool:
        """Call the function until it says that all nodes have answered; return whether."""
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
        """Record the duration of a wait that ended with an answer."""
        if seconds <= LONG_WAIT_SECONDS:
            return
        if self._passed_over > 0:
            self._passed_over -= 1
        else:
            self.left = _SPINS
