"""The engine: Redis and sockets, no Django.

from django_rb.engine import Cluster

cluster = Cluster([{"port": 6379}, {"port": 6380}])
"""

from .cluster import Cluster
from .connections import Node
from .errors import (
    BadHostSetup,
    NodeFailure,
    ProtocolError,
    UnroutableCommand,
    failures_of,
)
from .hosts import HostInfo
from .routers import BaseRouter, ConsistentHashingRouter, PartitionRouter, SlotRouter

__all__ = [
    "BadHostSetup",
    "BaseRouter",
    "Cluster",
    "ConsistentHashingRouter",
    "HostInfo",
    "Node",
    "NodeFailure",
    "PartitionRouter",
    "ProtocolError",
    "SlotRouter",
    "UnroutableCommand",
    "failures_of",
]
