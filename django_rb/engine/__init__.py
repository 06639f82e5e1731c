"""The engine: Redis and sockets, no Django.

from django_rb.engine import Cluster

cluster = Cluster([{"port": 6379}, {"port": 6380}])
"""

from .clients.base import Script
from .clients.fanout import FanoutClient
from .clients.mapping import MappingClient
from .clients.promise import Promise
from .clients.routing import RoutingClient
from .cluster import Cluster
from .errors import (
    BadHostSetup,
    NodeBusy,
    NodeDown,
    NodeFailure,
    ProtocolError,
    UnroutableCommand,
    failures_of,
)
from .nodes.changes import HealthChange, PrimaryChange
from .nodes.health import NodeHealth
from .nodes.hosts import HostInfo
from .nodes.node import Node
from .protocol.commands import MalformedCommand, register_command
from .routing.routers import (
    BaseRouter,
    ConsistentHashingRouter,
    PartitionRouter,
    SlotRouter,
)

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
    "PrimaryChange",
    "Promise",
    "ProtocolError",
    "RoutingClient",
    "Script",
    "SlotRouter",
    "UnroutableCommand",
    "failures_of",
    "register_command",
]
