"""Running a command to its end, with the signals that are meant for it."""

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
    """Wait for Ctrl-C or another request to end."""
    with signals_held():
        say("Ctrl-C ends them.")
        sys.stdout.flush()
        while next_signal()[0] not in endings():
            pass


def run(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a command to its end; return its exit status, as a shell would.

    The command is told what this process is told: to end by SIGINT, SIGTERM or SIGHUP. It
    is asked to end (SIGTERM) should this process be killed, where Linux sees to that.
    """
    with signals_held() as before:
        child = subprocess.Popen(  # noqa: S603 (what the user asked for)
            command,
            env=environment,
            preexec_fn=in_child(before),  # noqa: PLW1509 (one thread only)
        )
        while child.poll() is None:
            number, from_terminal = next_signal()
            # What a terminal sends it sends to the child as well, and once is enough.
            if number in endings() and not from_terminal:
                child.send_signal(number)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def endings() -> set[int]:
    """Return the signals that ask for an end; nohup takes SIGHUP out."""
    return {number for number in ENDINGS if signal.getsignal(number) != signal.SIG_IGN}


@contextmanager
def signals_held() -> Iterator[set[int]]:
    """Let signals wait until they are asked for, so that none comes in between."""
    held = {*ENDINGS, signal.SIGCHLD}
    before: set[int] = {*signal.pthread_sigmask(signal.SIG_BLOCK, held)}
    try:
        yield before
    finally:
        while pending := signal.sigpending() & held:
            take_signal(pending)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def take_signal(pending: set[int]) -> None:
    """Take one of some signals; it may have gone to another thread, if there is one."""
    if sys.platform == "linux":
        signal.sigtimedwait(pending, 0)
    else:
        signal.sigwait(pending)


def next_signal() -> tuple[int, bool]:
    """Wait a little for a signal; return it, or 0, and whether a terminal sent it."""
    if sys.platform == "linux":
        info = signal.sigtimedwait({*ENDINGS, signal.SIGCHLD}, LOOK_SECONDS)
        return (info.si_signo, info.si_code > 0) if info else (0, False)
    else:  # few others can say who sent a signal, and some drop SIGCHLD  # noqa: RET505
        time.sleep(LOOK_SECONDS / 10)
        pending = signal.sigpending() & ENDINGS
        return (signal.sigwait(pending), sys.stdin.isatty()) if pending else (0, False)


def in_child(mask: set[int]) -> Callable[[], None]:
    """Return what a child does before it becomes the command."""
    ask_to_end_with_parent = die_with_parent(number=signal.SIGTERM)

    def prepare() -> None:
        if ask_to_end_with_parent:
            ask_to_end_with_parent()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    return prepare
