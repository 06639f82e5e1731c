"""The keys that a page is for: those of a cache, or all keys of a cluster."""

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
    """The keys that a page is for.

    Attributes:
        text: for URLs: "cache:default" or "cluster:default".
        keyspace: has one cluster, and the cache if there is one.
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
        """Whether it is known which nodes own keys."""
        layout = self.cluster.layout
        return layout is None or layout.is_known

    def __str__(self) -> str:
        kind, _, alias = self.text.partition(":")
        return f"{kind} {alias}"


def choices() -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the choices by kind: pairs of `text` and label."""
    clusters = conf.get_aliases()
    return [
        ("Cache", [(f"cache:{alias}", alias) for alias in _caches(clusters)]),
        ("Cluster", [(f"cluster:{alias}", alias) for alias in clusters]),
    ]


def get_where(text: str) -> Where:
    """Return the selected keys; by default those of the first choice.

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
            except ImproperlyConfigured:  # `manage.py check` reports it
                continue
            yield alias


def to_text(key: bytes) -> str:
    """Return a key, which may be any bytes, for URLs."""
    return urlsafe_b64encode(key).decode().rstrip("=")


def from_text(text: str) -> bytes:
    """Return the key in a URL.

    Raises:
        Http404: the text is invalid.
    """
    try:
        return urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        raise Http404("There is no such key.") from None


def asked(request: HttpRequest, name: str) -> str:
    """Return a value from a form or the URL; empty if there is none.

    Keys, which may be any bytes, are passed in the form of `to_text`.
    """
    for source in (request.POST, request.GET):
        try:
            return str(source[name])
        except MultiValueDictKeyError:
            continue
    return ""
