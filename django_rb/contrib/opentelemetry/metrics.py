"""The instruments, according to the semantic conventions for database clients where possible.

The SDK takes about ten microseconds per measurement. So each call is recorded only once, in a
histogram; the rest are sums that are stored here, and read when the SDK collects them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeAlias

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from ...signals import node_health_changed
from ..watching import made_clusters

if TYPE_CHECKING:
    from ...engine.rounds.observing import BatchEvent, ExchangeEvent

Attributes: TypeAlias = Mapping[str, str | int | bool]

# The bounds in seconds that the conventions recommend, and smaller ones.
_BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)

_SUMS = (
    (
        "django_rb.node.exchanges",
        "{exchange}",
        "Requests to a node: one for each call and round that it takes part in.",
    ),
    ("django_rb.node.time", "s", "Time that a node took to answer its requests."),
    (
        "django_rb.node.redirects",
        "{redirect}",
        "Requests that sent commands again, to another node or in another form.",
    ),
    ("django_rb.node.errors", "{error}", "Requests to a node that failed."),
    ("django_rb.node.io", "By", "Bytes sent to a node and received from it."),
    (
        "django_rb.node.health_changes",
        "{change}",
        "Changes of a node's health: up, failing or down.",
    ),
    ("django_rb.cache.lookups", "{key}", "Keys that caches looked up, by hit or miss."),
    (
        "django_rb.near.hits",
        "{key}",
        "Keys that were read from near copies, without a request.",
    ),
)


class Sums:
    """The sums of one cluster."""

    def __init__(self) -> None:
        self._lock = Lock()
        # The number of calls, seconds, bytes out and in, by node and operation.
        self._nodes: dict[tuple[int, str, str], list[Any]] = {}
        self._hits = self._misses = self._near = 0
        # Rare events, by the name of a sum and the identity of its series.
        self._rare: Counter[tuple[Any, ...]] = Counter()

    def add(self, batch: BatchEvent, exchanges: Sequence[ExchangeEvent]) -> None:
        """Add a call."""
        operation, nodes = batch.operation, self._nodes
        with self._lock:
            self._hits += batch.hits
            self._misses += batch.misses
            self._near += batch.near
            for exchange in exchanges:
                place = exchange.host_id, exchange.address, operation
                sums = nodes.get(place)
                if sums is None:
                    sums = nodes[place] = [0, 0.0, 0, 0]
                sums[0] += 1
                sums[1] += exchange.seconds
                sums[2] += exchange.bytes_out
                sums[3] += exchange.bytes_in
                if exchange.redirects:
                    self._rare["django_rb.node.redirects", *place[:2]] += 1
                if exchange.error is not None:
                    error_type = describe_error(exchange.error)["error.type"]
                    self._rare["django_rb.node.errors", *place[:2], error_type] += 1

    def add_change(self, host_id: int, address: str, state: str) -> None:
        """Add a change of a node's health."""
        with self._lock:
            self._rare["django_rb.node.health_changes", host_id, address, state] += 1

    def read(self, name: str) -> Sequence[tuple[tuple[Any, ...], float]]:
        """Return the identities of a sum's series, and their values."""
        with self._lock:
            nodes = [(place, *sums) for place, sums in self._nodes.items()]
            rare = [(key[1:], value) for key, value in self._rare.items() if key[0] == name]
            hits, misses, near = self._hits, self._misses, self._near
        match name:
            case "django_rb.node.exchanges":
                return [(place, count) for place, count, *_ in nodes]
            case "django_rb.node.time":
                return [(place, seconds) for place, _, seconds, *_ in nodes]
            case "django_rb.node.io":
                sizes: Counter[tuple[Any, ...]] = Counter()
                for place, _, _, sent, received in nodes:
                    sizes[*place[:2], "transmit"] += sent
                    sizes[*place[:2], "receive"] += received
                return list(sizes.items())
            case "django_rb.cache.lookups":
                return [((True,), hits), ((False,), misses)] if hits or misses else []
            case "django_rb.near.hits":
                return [((), near)] if near else []
        return rare


class Metrics:
    """All instruments, created once for all clusters.

    Args:
        meter: creates them.
    """

    def __init__(self, meter: Meter) -> None:
        self._is_on = False
        self._sums: dict[str, Sums] = {}  # by alias
        self.call_seconds = meter.create_histogram(
            "db.client.operation.duration",
            unit="s",
            description="Duration of calls of the cache, of rate limits and of the engine.",
            explicit_bucket_boundaries_advisory=_BOUNDS,
        )
        for name, unit, description in _SUMS:
            meter.create_observable_counter(
                name, [_Reader(self, name)], unit=unit, description=description
            )
        meter.create_observable_up_down_counter(
            "db.client.connection.count",
            [self._count_connections],
            unit="{connection}",
            description="Connections of this process, idle and in use.",
        )

    def start(self) -> None:
        """Start counting health changes and connections."""
        self._is_on = True
        node_health_changed.connect(self._on_health_change, weak=False)

    def stop(self) -> None:
        """Stop counting; the meter's instruments cannot be removed."""
        self._is_on = False
        node_health_changed.disconnect(self._on_health_change)

    def sums_of(self, alias: str) -> Sums:
        """Return the sums of a cluster."""
        return self._sums.setdefault(alias, Sums())

    def read(self, name: str) -> Iterable[Observation]:
        """Yield the sums with this name."""
        if self._is_on:
            for alias, sums in self._sums.copy().items():
                for words, value in sums.read(name):
                    yield Observation(value, _attributes(name, alias, *words))

    def _on_health_change(
        self, *, alias: str, host_id: int, address: str, state: str, previous: str, **_: Any
    ) -> None:
        if state != previous:
            self.sums_of(alias).add_change(host_id, address, state)

    def _count_connections(self, _: CallbackOptions) -> Iterable[Observation]:
        if not self._is_on:
            return
        for alias, cluster in made_clusters().items():
            for host_id, counted in cluster.connections().items():
                pool = {"db.client.connection.pool.name": f"{alias}/{host_id}"}
                for state, number in (
                    ("idle", counted.idle),
                    ("used", max(0, counted.open - counted.idle)),
                ):
                    yield Observation(number, {**pool, "db.client.connection.state": state})


class _Reader:
    """Reads the sums with one name when the SDK collects them."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        self._metrics = metrics
        self._name = name

    def __call__(self, _: CallbackOptions) -> Iterable[Observation]:
        return self._metrics.read(self._name)


# The attribute for the last part of a series' identity, by the name of its sum.
_LAST = {
    "django_rb.node.exchanges": "django_rb.operation",
    "django_rb.node.time": "django_rb.operation",
    "django_rb.node.errors": "error.type",
    "django_rb.node.io": "network.io.direction",
    "django_rb.node.health_changes": "django_rb.node.state",
}


@lru_cache(maxsize=4096)
def _attributes(name: str, alias: str, *words: Any) -> Attributes:
    attributes: dict[str, str | int | bool] = {"django_rb.cluster": alias}
    if name == "django_rb.cache.lookups":
        return {**attributes, "django_rb.cache.hit": words[0]}
    if not words:
        return attributes
    host_id, address, *last = words
    attributes["django_rb.node"] = host_id
    attributes.update(describe_server(address))
    if last:
        attributes[_LAST[name]] = last[0]
    return attributes


def describe_server(address: str) -> dict[str, str | int]:
    """Return the attributes of the server at an address such as ``10.0.0.1:6379/0``."""
    server = address.rpartition("/")[0]
    if server.startswith("unix:"):
        return {"server.address": server.removeprefix("unix:")}
    host, _, port = server.rpartition(":")
    return {"server.address": host.strip("[]"), "server.port": int(port)}


def describe_error(error: BaseException) -> Mapping[str, str]:
    """Return the attributes of an error: the code of an error reply, or its class."""
    import redis  # noqa: PLC0415 (see RBInstrumentor)

    if isinstance(error, redis.ResponseError):
        code = str(error).partition(" ")[0]
        if code.isupper() and code.isalpha():
            return {"db.response.status_code": code, "error.type": code}
    kind = type(error)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return {"error.type": f"{module}{kind.__qualname__}"}
