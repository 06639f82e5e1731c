"""The metrics of a registry."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)

_CLUSTER = ("cluster",)
_OPERATION = ("cluster", "operation")
_NODE = ("cluster", "node", "address")


class Metrics:
    """All metrics of one registry.

    Args:
        registry: where they are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.calls = Histogram(
            "django_rb_call_seconds",
            "Duration of calls of the cache, of limits and of the engine.",
            _OPERATION,
            buckets=_BUCKETS,
            registry=registry,
        )
        self.call_errors = Counter(
            "django_rb_call_errors",
            "Calls in which a node failed or a command was refused.",
            (*_OPERATION, "error"),
            registry=registry,
        )
        self.hits = Counter(
            "django_rb_cache_hits", "Keys that caches found.", _CLUSTER, registry=registry
        )
        self.misses = Counter(
            "django_rb_cache_misses",
            "Keys that caches looked up and did not find.",
            _CLUSTER,
            registry=registry,
        )
        self.near = Counter(
            "django_rb_near_hits",
            "Keys that were read from near copies.",
            _CLUSTER,
            registry=registry,
        )
        self.near_invalidations = Counter(
            "django_rb_near_invalidations",
            "Changes of keys that nodes reported.",
            _CLUSTER,
            registry=registry,
        )
        self.near_bytes = Gauge(
            "django_rb_near_bytes",
            "Memory of near copies.",
            _CLUSTER,
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.warmed = Counter(
            "django_rb_cache_warmed",
            "Hits of caches that were read from the old layout (WARM_FROM).",
            _CLUSTER,
            registry=registry,
        )
        self.nodes = Histogram(
            "django_rb_node_seconds",
            "Time that a node took for its part of a call.",
            (*_NODE, "operation"),
            buckets=_BUCKETS,
            registry=registry,
        )
        self.node_errors = Counter(
            "django_rb_node_errors",
            "Parts of calls that failed on a node.",
            (*_NODE, "error"),
            registry=registry,
        )
        self.redirects = Counter(
            "django_rb_node_redirects",
            "Requests that were sent again, to a node or in another form.",
            _NODE,
            registry=registry,
        )
        self.sent = Counter(
            "django_rb_node_sent_bytes", "Bytes sent to a node.", _NODE, registry=registry
        )
        self.received = Counter(
            "django_rb_node_received_bytes", "Bytes from a node.", _NODE, registry=registry
        )
        self.connections = Gauge(
            "django_rb_connections",
            "Connections to a node, idle and in use.",
            (*_NODE, "state"),
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.health_changes = Counter(
            "django_rb_node_health_changes",
            "Changes of a node's state to up, failing or down.",
            (*_NODE, "state"),
            registry=registry,
        )

    def on_health_change(
        self, *, alias: str, host_id: int, address: str, state: str, previous: str, **_: Any
    ) -> None:
        """Count a change of a node's health."""
        if state != previous:
            self.health_changes.labels(alias, str(host_id), address, state).inc()
