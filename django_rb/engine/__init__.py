"""The engine: Redis and sockets, no Django.

from django_rb.engine import Cluster

cluster = Cluster([{"port": 6379}, {"port": 6380}])
"""

from .clients import FanoutClient, MappingClient, RoutingClient, Script
from .cluster import Cluster
from .commands import MalformedCommand, register_command
from .connections import Node
from .errors import (
    BadHostSetup,
    NodeFailure,
    ProtocolError,
    UnroutableCommand,
    failures_of,
)
from .hosts import HostInfo
from .promise import Promise
from .routers import BaseRouter, ConsistentHashingRouter, PartitionRouter, SlotRouter

__all__ = [
    "BadHostSetup",
    "BaseRouter",
    "Cluster",
    "ConsistentHashingRouter",
    "FanoutClient",
    "HostInfo",
    "MalformedCommand",
    "MappingClient",
    "Node",
    "NodeFailure",
    "PartitionRouter",
    "Promise",
    "ProtocolError",
    "RoutingClient",
    "Script",
    "SlotRouter",
    "UnroutableCommand",
    "failures_of",
    "register_command",
]
