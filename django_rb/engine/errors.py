"""The errors of the engine, and the information about nodes that they carry.

Errors have the types that users of redis-py know (`ConnectionError`, `TimeoutError`,
`ResponseError` and its subclasses). What failed on each node of a batch is attached to
the error that is raised, as a tuple of `NodeFailure`; `failures_of()` returns it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from redis import exceptions as redis_errors

_NOTED = 8


class BadHostSetup(ValueError):
    """A cluster cannot be built from these hosts or options; the message says why.

    `path` leads to the mistake, outermost key first: ``("HOSTS", 2, "port")``.
    """

    def __init__(self, message: str, path: Sequence[str | int] = ()) -> None:
        super().__init__(message)
        self.path = tuple(path)


class UnroutableCommand(redis_errors.RedisError):
    """No single node can run this command, and it cannot be split; nothing was sent."""


class ProtocolError(redis_errors.InvalidResponse, redis_errors.ConnectionError):
    """A node sent something that is not RESP, or that cannot be the reply to its command."""


class RefusedEarly(ProtocolError):
    """A node answered with an error before it had received the whole command."""


class CannotOpen(redis_errors.ConnectionError):
    """This process lacks a resource to open a connection; not a failure of the node."""


class NodeDown(redis_errors.ConnectionError):
    """The node failed several times in a row and is not asked for a while; nothing was sent."""


class LostRace(redis_errors.TimeoutError):
    """Another node answered first, so this one's reply was not awaited."""


class Redirected(redis_errors.ReadOnlyError):
    """A node that is a replica by now names its primary (``REDIRECT 10.0.0.1:6379``)."""

    @property
    def place(self) -> str:
        """What it names: host and port."""
        return str(self).partition(" ")[2].partition(" ")[0]


class NodeBusy(redis_errors.ResponseError):
    """A script or function keeps the node busy (``BUSY``), so it refuses other commands."""


@dataclass(frozen=True, slots=True)
class NodeFailure:
    """A failure of one node in one batch.

    `keys` are the keys (as sent) whose commands failed; empty for keyless commands.
    """

    host_id: int
    address: str
    error: Exception
    keys: tuple[bytes | str | int | float, ...] = ()


def failures_of(error: BaseException) -> tuple[NodeFailure, ...]:
    """Return what failed on each node, if a batch raised the error; ``()`` if not."""
    failures: tuple[NodeFailure, ...] = getattr(error, "failures", ())
    return failures


def first_error(failures: Sequence[NodeFailure]) -> Exception:
    """Return the first node's error, its type unchanged, with all failures attached."""
    return attach([failure.error for failure in failures], failures)


def attach(errors: Sequence[Exception], failures: Sequence[NodeFailure]) -> Exception:
    """Return the first of many errors, with the others noted and `failures` attached."""
    first, *others = {id(error): error for error in errors}.values()
    first.failures = tuple(failures)  # type: ignore[attr-defined]
    for other in others[:_NOTED]:
        first.add_note(f"Also failed: {type(other).__name__}: {other}")
    if len(others) > _NOTED:
        first.add_note(f"And {len(others) - _NOTED} more errors.")
    return first


def at_node(text: object, host_id: int, address: str, alias: str | None = None) -> str:
    """Return an error's text with its node and cluster appended.

    Args:
        host_id: below 0 for a server that is not known to own keys.
    """
    node = f"node {host_id}, " if host_id >= 0 else ""
    cluster = "" if alias is None else f", cluster {alias}"
    return f"{text} [{node}{address}{cluster}]"


def is_from(error: BaseException, address: str) -> bool:
    """Return whether an error, with a text from `at_node`, comes from an address."""
    ends = ("]", ", cluster ")
    return any(f"{start}{address}{end}" in str(error) for start in " [" for end in ends)


# The first word of an error reply, and the class redis-py's users know for it.
# https://redis.io/docs/latest/develop/reference/protocol-spec/#simple-errors
_REPLY_CLASSES: dict[str, type[redis_errors.RedisError]] = {
    "BUSY": NodeBusy,
    "CLUSTERDOWN": redis_errors.ClusterDownError,
    "EXECABORT": redis_errors.ExecAbortError,
    "LOADING": redis_errors.BusyLoadingError,
    "MASTERDOWN": redis_errors.MasterDownError,
    "NOAUTH": redis_errors.AuthenticationError,
    "NOPERM": redis_errors.NoPermissionError,
    "NOSCRIPT": redis_errors.NoScriptError,
    "OOM": redis_errors.OutOfMemoryError,
    "READONLY": redis_errors.ReadOnlyError,
    "REDIRECT": Redirected,
    "TRYAGAIN": redis_errors.TryAgainError,
    "WRONGPASS": redis_errors.AuthenticationError,
}


def reply_error(text: str) -> redis_errors.RedisError:
    """Return the exception for an error reply, such as ``OOM command not allowed …``."""
    code, _, rest = text.partition(" ")
    if code == "ERR":
        if rest.startswith("max number of clients reached"):
            return redis_errors.MaxConnectionsError(rest)
        if rest.startswith("Protocol error: invalid bulk length"):
            rest += "; it is larger than the node's proto-max-bulk-len"
        if rest.startswith("Protocol error: unauthenticated"):  # of a command that is not small
            return redis_errors.AuthenticationError(f"Authentication required. {rest}")
        return redis_errors.ResponseError(rest)  # without "ERR", as in redis-py
    make: Callable[[str], redis_errors.RedisError] = _REPLY_CLASSES.get(
        code, redis_errors.ResponseError
    )
    return make(text)


# The node is running but cannot run commands now.
NOT_READY = (redis_errors.BusyLoadingError, redis_errors.MasterDownError, NodeBusy)

# After a failover, the address may not, or not yet, be the primary's.
MOVABLE = (
    redis_errors.BusyLoadingError,
    redis_errors.MasterDownError,
    redis_errors.ReadOnlyError,
)

# The connection leads to a node that is no longer the primary, or has no valid login.
OUTDATED = (redis_errors.ReadOnlyError, redis_errors.AuthenticationError)

# Error replies about the node, not about the command.
COMPLAINTS = (*NOT_READY, *OUTDATED, redis_errors.OutOfMemoryError)
