"""Tools for tests: real nodes on this machine, test runners, and captured commands.

Importing this package starts nothing and needs neither Django nor a server. The parts that need
Django are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .discovery import NodesError, ServerNotFoundError, find_server
from .nodes import LocalNodes

if TYPE_CHECKING:
    from .capture import CaptureCommandsContext
    from .runner import RBDiscoverRunner, RBParallelTestSuite, RBTestRunnerMixin, RBTestSuite
    from .testcases import RBTestCase, RBTestCaseMixin

__all__ = [
    "CaptureCommandsContext",
    "LocalNodes",
    "NodesError",
    "RBDiscoverRunner",
    "RBParallelTestSuite",
    "RBTestCase",
    "RBTestCaseMixin",
    "RBTestRunnerMixin",
    "RBTestSuite",
    "ServerNotFoundError",
    "find_server",
]

_LATE = {
    "CaptureCommandsContext": "capture",
    "RBDiscoverRunner": "runner",
    "RBParallelTestSuite": "runner",
    "RBTestCase": "testcases",
    "RBTestCaseMixin": "testcases",
    "RBTestRunnerMixin": "runner",
    "RBTestSuite": "runner",
}


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return getattr(import_module(f".{_LATE[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
