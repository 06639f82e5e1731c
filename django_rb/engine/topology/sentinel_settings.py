"""Reading the settings for shards that Sentinels watch, and for the Sentinels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote

from ..errors import BadHostSetup
from ..nodes.hosts import HostInfo, as_options, number_hosts, parse_host
from ..nodes.option_checks import check_options, with_numbers
from ..secrecy import hidden, hides_locals
from ..wording import masked

URL_SCHEMES = {"redis+sentinel://": "redis://", "rediss+sentinel://": "rediss://"}
DEFAULT_PORT = 26379

# Options that Sentinels report, and that the settings must not have.
_TOLD = ("host", "port", "unix_socket_path")

# Seconds for a Sentinel, unless SENTINEL_OPTIONS or POOL_OPTIONS give it less or others.
SENTINEL_SECONDS = 0.5


@dataclass(frozen=True)
class Watched:
    """Shards and the Sentinels that watch them.

    Attributes:
        shards: by host id: how to speak to the nodes of each; where they are is not known.
        sentinels: where Sentinels are.
    """

    shards: dict[int, HostInfo]
    sentinels: list[HostInfo]


@hides_locals
def read_watched(
    hosts: object,
    defaults: Mapping[str, Any] | None = None,
    sentinels: object = None,
    sentinel_options: object = None,
    pool_options: Mapping[str, Any] | None = None,
) -> Watched:
    """Read HOSTS, HOST_DEFAULTS, SENTINELS and SENTINEL_OPTIONS of a cluster.

    Raises:
        BadHostSetup: with the setting, its value and what to do.
    """
    for name in _TOLD:
        if isinstance(defaults, Mapping) and name in defaults:
            raise BadHostSetup(
                "Sentinels report the addresses of the nodes. Leave it out.",
                ("HOST_DEFAULTS", name),
            )
    shards: dict[int, HostInfo] = {}
    told_by_urls: list[object] = []
    for host_id, node in sorted(number_hosts(hosts).items()):
        path = ("HOSTS", host_id)
        options = dict(
            _read_url(node, path, told_by_urls) if _is_url(node) else _read(node, path)
        )
        name = options.pop("master_name")
        info = replace(parse_host(host_id, options, defaults), host="", master_name=name)
        for other in shards.values():
            if (other.master_name, other.db) == (name, info.db):
                raise BadHostSetup(
                    f"Hosts {other.host_id} and {host_id} are both the database {info.db} of "
                    f"{masked(name)}. Use a different master_name for each shard.",
                    (*path, "master_name"),
                )
        shards[host_id] = info
    return Watched(
        shards, _read_sentinels(sentinels, told_by_urls, sentinel_options, pool_options)
    )


def _read(node: object, path: tuple[str | int, ...]) -> Mapping[str, Any]:
    example = "{'master_name': 'cache-a'}"
    if not isinstance(node, Mapping):
        raise BadHostSetup(
            f"{masked(node)} is neither a dictionary such as {example} nor a URL such as "
            "'redis+sentinel://10.0.0.7:26379,10.0.0.8:26379/cache-a'.",
            path,
        )
    for told in _TOLD:
        if told in node:
            raise BadHostSetup(
                "Sentinels report the addresses of the nodes. Leave it out, and set the name "
                f"of the shard: {example}.",
                (*path, told),
            )
    name = node.get("master_name")
    if not isinstance(name, str) or not name:
        raise BadHostSetup(
            f"{masked(name)} is not the name of a shard. Use the name in `sentinel monitor`: "
            f"{example}.",
            (*path, "master_name"),
        )
    return node


def _is_url(node: object) -> bool:
    return isinstance(node, str) and node.startswith(tuple(URL_SCHEMES))


def _read_url(
    node: object, path: tuple[str | int, ...], sentinels: list[object]
) -> Mapping[str, Any]:
    """Return the options of ``redis+sentinel://user:password@host:port,host:port/name/db``.

    User, password and TLS are those of the nodes. The Sentinels are added to `sentinels`.
    """
    url = str(node)
    scheme = next(scheme for scheme in URL_SCHEMES if url.startswith(scheme))
    place, mark, query = url.removeprefix(scheme).partition("?")
    servers, _, name_and_db = place.partition("/")
    login, at, addresses = servers.rpartition("@")
    name, _, db = name_and_db.partition("/")
    if not name or not addresses:
        raise BadHostSetup(
            f"{masked(url)} contains no {'shard' if addresses else 'Sentinels'}. A URL looks "
            "like redis+sentinel://10.0.0.7:26379,10.0.0.8:26379/cache-a.",
            path,
        )
    for address in addresses.split(","):
        info = as_options(f"redis://{address}", path)
        sentinels.append({name: value for name, value in info.items() if name in _TOLD})
    options = as_options(f"{URL_SCHEMES[scheme]}{login}{at}unknown/{db}{mark}{query}", path)
    known = {name: value for name, value in options.items() if name not in _TOLD}
    return {**known, "master_name": unquote(name)}


@hides_locals
def _read_sentinels(
    sentinels: object,
    told_by_urls: Sequence[object],
    options: object,
    pool_options: Mapping[str, Any] | None,
) -> list[HostInfo]:
    example = "['redis://10.0.0.7:26379', 'redis://10.0.0.8:26379']"
    if sentinels is None:
        sentinels = ()
    if isinstance(sentinels, str | bytes) or not isinstance(sentinels, Sequence):
        raise BadHostSetup(
            f"{masked(sentinels)} is not a list such as {example}.", ("SENTINELS",)
        )
    named = [*sentinels, *told_by_urls]
    if not named:
        raise BadHostSetup(f"There are no Sentinels. List them: {example}.", ("SENTINELS",))
    if options is not None and not isinstance(options, Mapping):
        raise BadHostSetup(
            f"{masked(options)} is not a dictionary of options such as {{'password': …}}.",
            ("SENTINEL_OPTIONS",),
        )
    options = dict(hidden(options or {}))
    for name in (*_TOLD, "db"):
        if name in options:
            raise BadHostSetup(
                "It is different for each Sentinel. Leave it out, and set it in SENTINELS.",
                ("SENTINEL_OPTIONS", name),
            )
    check_options(with_numbers(options), ("SENTINEL_OPTIONS",))
    infos: dict[tuple[str, int], HostInfo] = {}
    for position, sentinel in enumerate(named):
        given = sentinel
        if isinstance(sentinel, tuple | list) and len(sentinel) == 2:  # as redis-py has it
            given = dict(zip(("host", "port"), sentinel, strict=True))
        try:
            described = {"port": DEFAULT_PORT, **as_options(given, ("SENTINELS", position))}
            if "unix_socket_path" in described:
                raise BadHostSetup(
                    "A Sentinel requires a host and a port.", ("SENTINELS", position)
                )
            info = parse_host(-2 - len(infos), described, {**_seconds(pool_options), **options})
        except BadHostSetup as error:
            raise BadHostSetup(str(error), _path_of(error, position)) from None
        infos.setdefault((info.host.lower(), info.port), info)
    return list(infos.values())


def _path_of(error: BadHostSetup, position: int) -> tuple[str | int, ...]:
    """Return the path in the settings of an option of a Sentinel that `parse_host` refuses."""
    is_of_host = error.path[:1] == ("HOSTS",)
    return ("SENTINELS", position, *error.path[2:]) if is_of_host else error.path


def _seconds(pool_options: Mapping[str, Any] | None) -> dict[str, float]:
    """Return the timeout for Sentinels, in seconds: no longer than that for nodes."""
    names = ("socket_timeout", "socket_connect_timeout")
    given = {name: (pool_options or {}).get(name) for name in names}
    return {
        name: min(SENTINEL_SECONDS, value or SENTINEL_SECONDS) for name, value in given.items()
    }
