"""Observers for every cluster of a site, including those that are created later.

Clusters are looked up when they are needed, so that integrations that are started with the
process import neither the engine nor redis-py.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING, Any

from ..signals import cluster_made

if TYPE_CHECKING:
    from ..engine import Cluster
    from ..engine.rounds.observing import Observer


class Watching:
    """Adds an observer to each cluster, between `start` and `stop`.

    Args:
        make_observer: creates it for a cluster's alias; called once for each alias.
    """

    def __init__(self, make_observer: Callable[[str], Observer]) -> None:
        self._make_observer = make_observer
        self._observers: dict[str, Observer] = {}
        self._lock = Lock()

    def start(self) -> None:
        """Add observers from now on."""
        cluster_made.connect(self._on_made, weak=False)
        for alias, cluster in made_clusters().items():
            self._watch(alias, cluster)

    def stop(self) -> None:
        """Remove the observers."""
        from ..engine.rounds.observing import remove_observer  # noqa: PLC0415

        cluster_made.disconnect(self._on_made)
        for alias, cluster in made_clusters().items():
            if alias in self._observers:
                remove_observer(cluster, self._observers[alias])
        self._observers.clear()

    def _on_made(self, *, alias: str, cluster: Cluster, **_: Any) -> None:
        self._watch(alias, cluster)

    def _watch(self, alias: str, cluster: Cluster) -> None:
        from ..engine.rounds.observing import add_observer  # noqa: PLC0415

        with self._lock:
            observer = self._observers.get(alias)
            if observer is None:
                observer = self._observers[alias] = self._make_observer(alias)
        add_observer(cluster, observer)


def made_clusters() -> dict[str, Cluster]:
    """Return the clusters of the site that have been created so far, by alias."""
    if "django_rb.registry" not in sys.modules:
        return {}
    from ..registry import clusters  # noqa: PLC0415

    return clusters.made()
