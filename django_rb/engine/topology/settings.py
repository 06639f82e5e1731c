"""Checking the settings for a cluster's topology."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import BadHostSetup
from ..wording import did_you_mean, masked
from .servers import AddressMap
from .slots_replies import Address

STATIC, SENTINEL, REDIS_CLUSTER = "static", "sentinel", "redis-cluster"

TOPOLOGIES = (STATIC, SENTINEL, REDIS_CLUSTER)


def check_topology(
    topology: object,
    router: object = None,
    router_options: object = None,
    address_map: object = None,
    sentinels: object = None,
    sentinel_options: object = None,
) -> None:
    """Raise BadHostSetup for an unknown topology, or other options that do not fit it."""
    if topology not in TOPOLOGIES:
        raise BadHostSetup(
            f"{masked(topology)} is not a topology. {did_you_mean(topology, TOPOLOGIES)}",
            ("TOPOLOGY",),
        )
    if topology == REDIS_CLUSTER:
        for key, value in (("ROUTER", router), ("ROUTER_OPTIONS", router_options)):
            if value:
                raise BadHostSetup(
                    "The nodes of a Redis Cluster determine where keys are. Leave it out.",
                    (key,),
                )
    if topology != STATIC:
        read_address_map(address_map)
    elif address_map is not None:
        raise BadHostSetup(
            f"It can only be used with 'TOPOLOGY': {REDIS_CLUSTER!r} or {SENTINEL!r}. Leave "
            "it out, or set one of them.",
            ("ADDRESS_MAP",),
        )
    if topology != SENTINEL:
        for key, value in (("SENTINELS", sentinels), ("SENTINEL_OPTIONS", sentinel_options)):
            if value is not None:
                raise BadHostSetup(
                    "It can only be used with Sentinels. Leave it out, or set 'TOPOLOGY': "
                    f"{SENTINEL!r}.",
                    (key,),
                )


def read_address_map(addresses: object) -> AddressMap | None:
    """Return ADDRESS_MAP as a function.

    Raises:
        BadHostSetup: it is neither a function nor a dictionary of addresses.
    """
    if addresses is None or callable(addresses):
        return addresses
    if not isinstance(addresses, Mapping):
        raise BadHostSetup(
            f"{masked(addresses)} is neither a dictionary such as "
            "{'10.0.0.1:6379': '127.0.0.1:7001'} nor a function of host and port.",
            ("ADDRESS_MAP",),
        )
    known = {_read(key, key): _read(value, key) for key, value in addresses.items()}
    return lambda host, port: known.get((host, port), (host, port))


def _read(address: Any, key: object) -> Address:
    """Return the host and port of ``"10.0.0.1:6379"`` or ``("10.0.0.1", 6379)``."""
    host, port = None, None
    if isinstance(address, str):
        host, _, port = address.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
    elif isinstance(address, tuple | list) and len(address) == 2:
        host, port = address
    if not host or not isinstance(host, str) or not str(port).isdecimal():
        raise BadHostSetup(
            f"{masked(address)} is not an address such as '10.0.0.1:6379'.",
            ("ADDRESS_MAP", str(key)),
        )
    return host.lower(), int(str(port))
