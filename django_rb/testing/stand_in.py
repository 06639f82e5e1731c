"""The stand-in for one cluster while tests run.

A cluster's stand-in has its own nodes: local nodes, or those that the settings declare under
TEST. They are started, or emptied, when the cluster is first used. An observer that is removed
at the first use records whether it was used since the nodes were emptied.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import redis
from django.core.exceptions import ImproperlyConfigured

from .. import conf
from ..engine import Cluster
from ..engine.near.tracking import forget_all
from ..engine.rounds.observing import Observer, add_observer, remove_observer
from ..engine.topology.settings import REDIS_CLUSTER, SENTINEL, STATIC
from ..engine.wording import number_of
from ..registry import clusters
from .discovery import NodesError
from .nodes import LocalNodes, can_have_unix_sockets
from .places import ConfiguredNode, Place, find_shared, nodes_of

# The number of primaries of a stand-in that is a Redis Cluster, unless TEST sets it.
PRIMARIES = 3


class StandIn:
    """The nodes of one cluster during tests.

    Args:
        alias: the cluster's alias.
        config: its settings, which are valid.
        site: the site's own nodes, which may not be declared for tests.

    Attributes:
        is_used: commands were sent to the nodes, or might be, since they were emptied.
    """

    def __init__(
        self, alias: str, config: Mapping[str, Any], site: Sequence[ConfiguredNode]
    ) -> None:
        self.alias = alias
        self.config = config
        self.is_used = False
        declared = conf.get_test_config(config)
        self._declared = None if declared is None else nodes_of(alias, declared)
        self._site = site
        self._is_checked = False
        self._places = [node.place for node in nodes_of(alias, config)]
        self._lock = threading.Lock()
        self._nodes: LocalNodes | None = None
        self._nodes_were_lent = False
        self._janitor: Cluster | None = None
        self._watched: weakref.WeakKeyDictionary[Cluster, Observer]
        self._watched = weakref.WeakKeyDictionary()

    @property
    def is_declared(self) -> bool:
        """Whether the settings declare the servers, which other processes may use, too."""
        return self._declared is not None

    def stands_for(self, config: Mapping[str, Any]) -> bool:
        """Whether settings, perhaps overridden by a test, mean the nodes of this cluster."""
        places = [node.place for node in nodes_of(self.alias, config)]
        return len(places) == len(self._places) and all(
            place.may_lead_to(own) for place, own in zip(places, self._places, strict=True)
        )

    def declares(self, place: Place) -> bool:
        """Whether the settings declare a database for tests.

        Raises:
            ImproperlyConfigured: they do, and it is one of the site's.
        """
        is_named = any(
            place.db == node.place.db and place.leads_to(node.place)
            for node in self._declared or ()
        )
        if is_named:
            self._check_declared()
        return is_named

    def _check_declared(self) -> None:
        """Raise ImproperlyConfigured if a declared server is one of the site's."""
        if self._is_checked or self._declared is None:
            return
        if shared := find_shared(self._declared, self._site):
            declared, own = shared
            raise ImproperlyConfigured(
                f"settings.{conf.SETTING}[{self.alias!r}]['TEST']: {declared.info.address} is "
                f"{own}, even if the names differ, and tests flush it. Use a database or "
                "servers that only tests use."
            )
        self._is_checked = True

    def make_cluster(self, config: Mapping[str, Any]) -> Cluster:
        """Return a cluster with these settings on the nodes for tests."""
        self._start()
        cluster = conf.build_cluster(self.alias, self._placed(config))
        watch = self._watched[cluster] = _Watch(self, cluster)
        add_observer(cluster, watch)
        return cluster

    def lend_nodes(self) -> LocalNodes:
        """Return the local nodes, which a test may stop, pause or restart.

        Raises:
            NodesError: there are none, as the settings declare servers.
        """
        if self.is_declared:
            raise NodesError(
                f"The cluster {self.alias!r} has no local nodes: "
                f"settings.{conf.SETTING}[{self.alias!r}]['TEST'] declares servers. Remove "
                "it, or set a number of local nodes there: {'NODES': 2}."
            )
        self._start()
        self.is_used = self._nodes_were_lent = True
        assert self._nodes is not None
        return self._nodes

    def flush(self) -> None:
        """Empty the nodes; local ones that a test has broken are replaced.

        Raises:
            NodesError: it did not work.
        """
        self.is_used = False
        for cluster, watch in list(self._watched.items()):
            add_observer(cluster, watch)
        try:
            if self._nodes is None:
                assert self._janitor is not None
                self._flush_declared(self._janitor)
            else:
                self._flush_local(self._nodes)
        except BaseException:
            self.is_used = True
            raise
        forget_all()
        if self._nodes_were_lent or not self._seems_well():
            self._nodes_were_lent = False
            clusters.reset()  # new clusters have not seen the faults

    def stop(self) -> None:
        """Stop the local nodes."""
        for cluster, watch in list(self._watched.items()):
            remove_observer(cluster, watch)
        if self._janitor is not None:
            self._janitor.close()
        if self._nodes is not None:
            self._nodes.stop()

    def _start(self) -> None:
        with self._lock:
            if self._janitor is not None:
                return
            self._check_declared()
            if not self.is_declared:
                self._nodes = self._make_nodes().start()
            config = {**self._placed(self.config), "HEALTH": None}
            janitor = conf.build_cluster(self.alias, config)
            if self.is_declared:
                try:
                    self._flush_declared(janitor)
                except BaseException:
                    janitor.close()
                    raise
            self._janitor = janitor  # only now: a failed flush has to be repeated

    def _make_nodes(self) -> LocalNodes:
        count = number_of((self.config.get("TEST") or {}).get("NODES"))
        topology = conf.get_topology(self.config)
        if topology == REDIS_CLUSTER:  # HOSTS names any of its nodes
            return LocalNodes(count or PRIMARIES, topology=topology)
        count = count or len(self.config["HOSTS"])
        if topology == SENTINEL:
            return LocalNodes(count, topology=topology, replicas=1)
        return LocalNodes(count, unix_sockets=_want_unix_sockets())

    def _placed(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return settings with the nodes for tests."""
        if self._nodes is not None:
            nodes = self._nodes
            return conf.with_nodes(config, nodes.hosts, nodes.topology, nodes.sentinels)
        placed = conf.get_test_config({**config, "TEST": self.config["TEST"]})
        assert placed is not None
        return placed

    def _flush_declared(self, janitor: Cluster) -> None:
        _, failures = janitor.call_nodes("FLUSHDB")
        for failure in failures:
            raise NodesError(
                f"A node that settings.{conf.SETTING}[{self.alias!r}]['TEST'] declares could "
                f"not be flushed: {failure.error}"
            ) from failure.error

    def _flush_local(self, nodes: LocalNodes) -> None:
        assert self._janitor is not None
        states = nodes.states()
        if nodes.topology != STATIC:
            is_whole = not self._nodes_were_lent and {*states.values()} == {"running"}
            if not is_whole or self._janitor.call_nodes("FLUSHALL")[1]:
                self._renew(nodes)
            return
        broken = {host_id for host_id, state in states.items() if state != "running"}
        _, failures = self._janitor.call_nodes("FLUSHALL", hosts=states.keys() - broken)
        for host_id in broken.union(failure.host_id for failure in failures):
            nodes.restart(host_id)

    def _renew(self, nodes: LocalNodes) -> None:
        """Start new nodes: a Redis Cluster's nodes, and Sentinels, remember past faults."""
        assert self._janitor is not None
        self._janitor.close()
        nodes.stop()
        nodes.start()
        self._janitor = conf.build_cluster(
            self.alias, {**self._placed(self.config), "HEALTH": None}
        )
        clusters.reset()

    def _seems_well(self) -> bool:
        """Whether no cluster of this process has recently seen a node fail."""
        return all(
            health.state == "up"
            for cluster in list(self._watched)
            for health in cluster.health().values()
        )


class _Watch(Observer):
    """Waits for the first use of a cluster."""

    def __init__(self, stand_in: StandIn, cluster: Cluster) -> None:
        self._stand_in = stand_in
        self._cluster = weakref.ref(cluster)

    def before_use(self) -> None:
        self._stand_in.is_used = True
        cluster = self._cluster()
        if cluster is not None:
            remove_observer(cluster, self)


def _want_unix_sockets() -> bool:
    """Return whether local nodes should have unix sockets.

    Not with redis-py before 5.1, which does not close the socket of a refused connection: that
    causes a ResourceWarning in each test of a dead node.
    """
    return can_have_unix_sockets() and redis.VERSION >= (5, 1)
