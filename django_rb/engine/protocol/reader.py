"""The parser of what nodes say: replies, errors among them, and what they tell unasked."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final, Protocol

from hiredis import Reader

from ..errors import reply_error

NO_REPLY: Final = object()


class Tracking(Protocol):
    """Who takes what a node tells of keys that were read; see `near.tracking`."""

    term: Any

    def told(self, push: Any, spared: Mapping[bytes, object] = ...) -> None:
        """Take note of what the node said unasked."""

    def heard(self, now: float) -> None:
        """Take note that all that came was read, and told."""


class ReplyReader(Reader):
    """A parser for the replies of one connection; error replies come as exceptions.

    Attributes:
        errors: the error replies that came since somebody cleared them.
        is_cut: it has begun to read what follows the last reply that was asked for. That may
            be a push that has not come whole; no more may be asked on its connection.
        tracking: who takes what the node tells unasked; None where that is dropped.
    """

    is_cut = False
    tracking: Tracking | None = None

    def __init__(self) -> None:
        self.errors: list[Exception] = []
        # A method of its own would be a cycle, which a reader cannot tell the collector.
        super().__init__(replyError=partial(_to_error, self.errors), notEnoughData=NO_REPLY)

    def shrink(self) -> None:
        """Let go of the memory that a large reply took; all that came was read.

        hiredis does so where it is fed again. Until then an idle connection would keep it.
        """
        self.feed(b"+OK\r\n")
        self.gets()


def _to_error(errors: list[Exception], text: str) -> Exception:
    error = reply_error(text)
    errors.append(error)
    return error
