"""The parser of what nodes send: replies, error replies and pushes."""

from __future__ import annotations

from functools import partial
from typing import Any, Final, Protocol

from hiredis import Reader

from ..errors import reply_error

NO_REPLY: Final = object()


class Tracking(Protocol):
    """The receiver of a node's pushes about changed keys; see `near.tracking`."""

    term: Any

    def told(self, push: Any, read: Any = None) -> None:
        """Process a push of the node."""

    def heard(self, now: float) -> None:
        """Record that everything received so far was processed."""


class ReplyReader(Reader):
    """A parser for the replies of one connection; error replies come as exceptions.

    Attributes:
        errors: the error replies since the list was last cleared.
        is_cut: it has begun to parse something after the last expected reply. That may be an
            incomplete push; the connection must not be used any more.
        tracking: the receiver of pushes; None if they are dropped.
    """

    is_cut = False
    tracking: Tracking | None = None

    def __init__(self) -> None:
        self.errors: list[Exception] = []
        # No bound method: that would be a reference cycle, and hiredis' readers do not support
        # garbage collection.
        super().__init__(replyError=partial(_to_error, self.errors), notEnoughData=NO_REPLY)

    def shrink(self) -> None:
        """Free the memory that a large reply took; everything received must have been parsed.

        hiredis frees it only when it is fed again, so an idle connection would keep it.
        """
        self.feed(b"+OK\r\n")
        self.gets()


def _to_error(errors: list[Exception], text: str) -> Exception:
    error = reply_error(text)
    errors.append(error)
    return error
