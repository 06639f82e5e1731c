"""The stand-ins for the clusters of the settings while tests run.

Even if the settings change, connections are opened only to local nodes and to declared servers
while stand-ins are installed, and never to the site's own nodes.

There is one `StandIns` for each process that runs tests.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from .. import conf
from ..engine import Cluster, guarding
from ..engine.rounds.observing import Observer, add_observer, remove_observer
from ..registry import clusters
from .discovery import NodesError, ServerNotFoundError, find_server
from .nodes import is_local_node
from .places import Place, is_comparing, nodes_of_site
from .stand_in import StandIn


class _Refusal(Observer):
    """Prevents tests from using the nodes of a cluster that was created before they started."""

    def __init__(self, alias: str) -> None:
        self._alias = alias

    def before_use(self) -> None:
        raise ImproperlyConfigured(
            f"This cluster {self._alias!r} was created before the test run started, and uses "
            "nodes that are not for tests. Do not store it in a module or a class: use "
            f"django_rb.clusters[{self._alias!r}] inside the functions that need it."
        )


class StandIns:
    """The stand-ins of all clusters in settings.RB_CLUSTERS.

    Raises:
        ImproperlyConfigured: there is a mistake in the settings.
    """

    def __init__(self) -> None:
        self._site = nodes_of_site()
        self._stand_ins = {
            alias: StandIn(alias, conf.get_config(alias), self._site)
            for alias in conf.get_aliases()
        }
        self._further: list[StandIn] = []  # for settings that tests override
        self._outer: StandIns | None = None  # of the test run that contains this one
        self._outer_guard = guarding.guard
        self._refusals: weakref.WeakKeyDictionary[Cluster, Observer]
        self._refusals = weakref.WeakKeyDictionary()

    def __getitem__(self, alias: str) -> StandIn:
        """Return the stand-in for the cluster with an alias.

        Raises:
            ImproperlyConfigured: the settings had none when the run started.
        """
        if alias not in self._stand_ins:
            conf.check_alias(alias)
            raise ImproperlyConfigured(
                f"The cluster {alias!r} was not in settings.{conf.SETTING} when the test run "
                "started, so there are no nodes for tests in its place."
            )
        return self._stand_ins[alias]

    def check_server(self) -> None:
        """Raise NodesError if local nodes are needed and there is no server to run."""
        for alias, stand_in in self._stand_ins.items():
            if not stand_in.is_declared:
                try:
                    find_server()
                except ServerNotFoundError as error:
                    raise ServerNotFoundError(
                        f"Tests run on local nodes in place of the cluster {alias!r}. {error} "
                        "Or declare servers that only tests use, and that they may flush: "
                        f"settings.{conf.SETTING}[{alias!r}]['TEST'] = {{'HOSTS': […]}} or "
                        "{'DB': 15}."
                    ) from None

    def check_parallel(self) -> None:
        """Raise NodesError if parallel processes would share nodes."""
        for alias, stand_in in self._stand_ins.items():
            if stand_in.is_declared:
                raise NodesError(
                    f"settings.{conf.SETTING}[{alias!r}]['TEST'] declares servers, and tests "
                    "that run in parallel would flush each other's data there. Run them in "
                    "one process, or remove the servers: each process then starts its own "
                    "local nodes."
                )

    def make_cluster(self, alias: str) -> Cluster:
        """Return a new cluster for an alias: on its stand-in, if its nodes are in the settings.

        A test that overrides the settings with other nodes gets those of its own TEST; without
        one it gets a cluster that can only connect to local nodes and declared ones.
        """
        config = conf.get_config(alias)
        own = self._stand_ins.get(alias)
        for stand_in in (own, *self._stand_ins.values()):
            if stand_in is not None and stand_in.stands_for(config):
                return stand_in.make_cluster(config)
        if not config.get("TEST"):
            return conf.build_cluster(alias, config)
        for stand_in in self._further:
            if stand_in.config["TEST"] == config["TEST"] and stand_in.stands_for(config):
                return stand_in.make_cluster(config)
        self._further.append(StandIn(alias, config, self._site))
        return self._further[-1].make_cluster(config)

    def _all(self) -> Iterator[StandIn]:
        yield from self._stand_ins.values()
        yield from list(self._further)

    def check_connection(self, connection: Any) -> None:
        """Raise ImproperlyConfigured for a connection to a server that is not for tests."""
        place = Place.of(connection)
        if (
            is_comparing.get()
            or is_local_node(host=place.host, port=place.port, path=place.path)
            or any(stand_in.declares(place) for stand_in in self._all())
        ):
            return
        raise ImproperlyConfigured(
            f"A test run must not connect to {place.url}, which is neither a local node of "
            "the run nor declared for tests. If only tests use it, and may flush it, declare "
            f"it in the settings of its cluster: settings.{conf.SETTING}[alias]['TEST'] = "
            f"{{'HOSTS': [{place.url!r}]}}."
        )

    def flush_used(self) -> None:
        """Empty the nodes of the clusters that were used since their nodes were emptied."""
        for stand_in in self._all():
            if stand_in.is_used:
                stand_in.flush()

    def install(self) -> None:
        """Put `django_rb.clusters` on the stand-ins from now on.

        Clusters that were created before raise ImproperlyConfigured when they are used.
        """
        global _active  # noqa: PLW0603 (there is one run at a time in a process)
        self._outer, self._outer_guard = _active, guarding.guard
        _active = self
        guarding.guard = self.check_connection
        for alias, cluster in clusters.made().items():
            refusal = self._refusals[cluster] = _Refusal(alias)
            add_observer(cluster, refusal)
        clusters.reset()
        clusters.make = self.make_cluster

    def uninstall(self) -> None:
        """Put `django_rb.clusters` back on its former nodes, and stop all nodes for tests."""
        global _active  # noqa: PLW0603
        _active = self._outer
        clusters.make = conf.make_cluster if _active is None else _active.make_cluster
        clusters.reset()
        for cluster, refusal in list(self._refusals.items()):
            remove_observer(cluster, refusal)
        for stand_in in self._all():
            stand_in.stop()
        guarding.guard = self._outer_guard


_active: StandIns | None = None


def get_stand_ins() -> StandIns:
    """Return the stand-ins of this process.

    Raises:
        ImproperlyConfigured: the program that runs the tests has not created any.
    """
    if _active is None:
        raise ImproperlyConfigured(
            "There are no nodes for tests in place of the site's own, which tests must not "
            "use. For manage.py test, set TEST_RUNNER = 'django_rb.testing.RBDiscoverRunner'. "
            "For pytest, install pytest-django and set its DJANGO_SETTINGS_MODULE to settings "
            f"that contain {conf.SETTING}."
        )
    return _active
