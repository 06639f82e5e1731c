"""Tools for tests: real nodes on this machine, for as long as a ``with`` block.

Importing this package starts nothing and needs neither Django nor a server.
"""

from .discovery import NodesError, ServerNotFoundError, find_server
from .nodes import LocalNodes

__all__ = ["LocalNodes", "NodesError", "ServerNotFoundError", "find_server"]
