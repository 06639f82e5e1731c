"""clusters["default"]: one Cluster per alias and process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import partial
from typing import Any

from django.core.signals import setting_changed
from django.dispatch import receiver

from . import conf
from .engine import Cluster, HealthChange
from .engine.secrecy import hides_locals
from .signals import node_health_changed


class Clusters:
    """The clusters of settings.RB_CLUSTERS by alias; each is made when first asked for.

    from django_rb import clusters

    cluster = clusters["default"]
    for alias in clusters: …

    Attributes:
        make: makes the cluster of an alias; a test run makes them on nodes of its own.
    """

    def __init__(self) -> None:
        self.make: Callable[[str], Cluster] = conf.make_cluster
        self._clusters: dict[str, Cluster] = {}

    @hides_locals
    def __getitem__(self, alias: str) -> Cluster:
        """Return the cluster under an alias.

        Raises:
            ImproperlyConfigured: there is none, or its settings have a mistake.
        """
        cluster = self._clusters.get(alias)
        if cluster is None:
            # Two threads may get here at once; one cluster wins, and nothing was connected.
            cluster = self.make(alias)
            cluster.on_health_change(partial(_send_health_change, alias))
            cluster = self._clusters.setdefault(alias, cluster)
        return cluster

    def __iter__(self) -> Iterator[str]:
        return iter(conf.get_aliases())

    def __len__(self) -> int:
        return len(conf.get_aliases())

    def __contains__(self, alias: object) -> bool:
        return alias in conf.get_aliases()

    def made(self) -> dict[str, Cluster]:
        """Return the clusters that were asked for since the last reset(), by alias."""
        return dict(self._clusters)

    def reset(self) -> None:
        """Close all clusters; they are made anew, from the settings as they are then."""
        made, self._clusters = self._clusters, {}
        for cluster in made.values():
            cluster.is_retired = True
            cluster.close()


def _send_health_change(alias: str, change: HealthChange) -> None:
    details = {field.name: getattr(change, field.name) for field in fields(change)}
    node_health_changed.send_robust(sender=Cluster, **{**details, "alias": alias})


clusters = Clusters()


@receiver(setting_changed)
def _reset_when_changed(*, setting: str, **kwargs: Any) -> None:
    """Follow override_settings() in tests."""
    if setting == conf.SETTING:
        clusters.reset()
