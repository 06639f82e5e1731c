"""Whose keys are meant: those of a cache, or all of a cluster."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import dataclass

from django.core.exceptions import ImproperlyConfigured
from django.http import Http404, HttpRequest
from django.utils.datastructures import MultiValueDictKeyError

from ... import conf
from ...cache import RBCache, get_cache
from ...checks.site import caches_of_kind
from ...engine import Cluster
from ...management.base import known_clusters, learn
from ...management.keys import Keyspace, home_of
from .conf import get_options


@dataclass(frozen=True)
class Where:
    """Whose keys are meant.

    Attributes:
        text: as it is in addresses: "cache:default" or "cluster:default".
        keyspace: its one cluster, and its cache if it is one's.
        alias: of the cluster.
    """

    text: str
    keyspace: Keyspace
    alias: str

    @property
    def cluster(self) -> Cluster:
        """The cluster that has the keys."""
        return self.keyspace.clusters[self.alias]

    @property
    def is_known(self) -> bool:
        """Whether anybody can tell who owns a key."""
        layout = self.cluster.layout
        return layout is None or layout.is_known

    def __str__(self) -> str:
        kind, _, alias = self.text.partition(":")
        return f"{kind} {alias}"


def choices() -> list[tuple[str, list[tuple[str, str]]]]:
    """Return what there is to choose from, by kind: texts, and how they are shown."""
    clusters = conf.get_aliases()
    return [
        ("Cache", [(f"cache:{alias}", alias) for alias in _caches(clusters)]),
        ("Cluster", [(f"cluster:{alias}", alias) for alias in clusters]),
    ]


def get_where(text: str) -> Where:
    """Return whose keys are meant; by default those of the first that there is.

    Raises:
        Http404: there is no such cache or cluster.
    """
    known = [choice for _, group in choices() for choice, _ in group]
    if not known:
        raise Http404(f"settings.{conf.SETTING} is empty: there are no nodes.")
    text = text or known[0]
    if text not in known:
        raise Http404("There is no such cache or cluster.")
    kind, _, alias = text.partition(":")
    timeout = get_options().timeout
    if kind == "cluster":
        return Where(text, Keyspace(known_clusters([alias], timeout)), alias)
    cache, home = get_cache(alias), home_of(alias)
    learn(cache.cluster, timeout)
    return Where(text, Keyspace({home: cache.cluster}, cache, alias), home)


def _caches(clusters: list[str]) -> Iterator[str]:
    for alias, _ in caches_of_kind(RBCache):
        if home_of(alias) in clusters:
            try:
                get_cache(alias).check_settings()
            except ImproperlyConfigured:  # `manage.py check` tells
                continue
            yield alias


def to_text(key: bytes) -> str:
    """Return a key, which may be any bytes, as it is in addresses."""
    return urlsafe_b64encode(key).decode().rstrip("=")


def from_text(text: str) -> bytes:
    """Return the key of an address.

    Raises:
        Http404: it is none.
    """
    try:
        return urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        raise Http404("There is no such key.") from None


def asked(request: HttpRequest, name: str) -> str:
    """Return what was asked for, by a form or in the address; empty for nothing.

    What no UTF-8 and no database can say is asked of neither.
    """
    for source in (request.POST, request.GET):
        try:
            return str(source[name])
        except MultiValueDictKeyError:
            continue
    return ""
