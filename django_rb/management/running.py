"""Runs a command to its end, and passes signals on to it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from ..testing.supervising.servers import die_with_parent

ENDINGS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
LOOK_SECONDS = 0.5


def wait(say: Callable[[str], object]) -> None:
    """Wait for Ctrl-C or another signal to end."""
    with signals_held():
        say("Press Ctrl-C to stop them.")
        sys.stdout.flush()
        while next_signal()[0] not in endings():
            pass


def run(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a command to its end; return its exit status as a shell does.

    The command gets the signals that this process gets: SIGINT, SIGTERM or SIGHUP. If this
    process is killed, the command gets SIGTERM (on Linux only).
    """
    with signals_held() as before:
        child = subprocess.Popen(  # noqa: S603 (what the user asked for)
            command,
            env=environment,
            preexec_fn=in_child(before),  # noqa: PLW1509 (one thread only)
        )
        while child.poll() is None:
            number, from_terminal = next_signal()
            # A terminal sends its signals to the child as well, and once is enough.
            if number in endings() and not from_terminal:
                child.send_signal(number)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def endings() -> set[int]:
    """Return the signals that request an end; without SIGHUP after nohup."""
    return {number for number in ENDINGS if signal.getsignal(number) != signal.SIG_IGN}


@contextmanager
def signals_held() -> Iterator[set[int]]:
    """Block signals until they are read, so that none is lost in between."""
    held = {*ENDINGS, signal.SIGCHLD}
    before: set[int] = {*signal.pthread_sigmask(signal.SIG_BLOCK, held)}
    try:
        yield before
    finally:
        while pending := signal.sigpending() & held:
            take_signal(pending)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def take_signal(pending: set[int]) -> None:
    """Take one of the pending signals; another thread may have got it first."""
    if sys.platform == "linux":
        signal.sigtimedwait(pending, 0)
    else:
        signal.sigwait(pending)


def next_signal() -> tuple[int, bool]:
    """Wait briefly for a signal; return it, or 0, and whether a terminal sent it."""
    if sys.platform == "linux":
        info = signal.sigtimedwait({*ENDINGS, signal.SIGCHLD}, LOOK_SECONDS)
        return (info.si_signo, info.si_code > 0) if info else (0, False)
    else:  # few other platforms tell the sender, and some drop SIGCHLD  # noqa: RET505
        time.sleep(LOOK_SECONDS / 10)
        pending = signal.sigpending() & ENDINGS
        return (signal.sigwait(pending), sys.stdin.isatty()) if pending else (0, False)


def in_child(mask: set[int]) -> Callable[[], None]:
    """Return the function that a child calls before it executes the command."""
    ask_to_end_with_parent = die_with_parent(number=signal.SIGTERM)

    def prepare() -> None:
        if ask_to_end_with_parent:
            ask_to_end_with_parent()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    return prepare
