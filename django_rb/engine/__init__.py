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
    NodeBusy,
    NodeDown,
    NodeFailure,
    ProtocolError,
    UnroutableCommand,
    failures_of,
)
from .health import HealthChange, NodeHealth
from .hosts import HostInfo
from .promise import Promise
from .routers import BaseRouter, ConsistentHashingRouter, PartitionRouter, SlotRouter

__all__ = [
    "BadHostSetup",
    "BaseRouter",
    "Cluster",
    "ConsistentHashingRouter",
    "FanoutClient",
    "HealthChange",
    "HostInfo",
    "MalformedCommand",
    "MappingClient",
    "Node",
    "NodeBusy",
    "NodeDown",
    "NodeFailure",
    "NodeHealth",
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
