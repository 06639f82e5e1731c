"""Which client a request comes from, as its limits count it.

There are two sources: the address of the connection, and the header X-Forwarded-For. The first
is reliable, but behind a proxy it is the proxy's address. The second starts with what the
client itself sends, and each proxy appends to it. So, beginning with the address of the
connection, entries are read from right to left, as long as each is one of the site's proxies.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest

from .conf import NOBODY, TrustedProxies, get_config

Address = IPv4Address | IPv6Address

# RFC 6052: IPv4 addresses as a translator (NAT64) writes them, in the last 32 bits. RFC 8215's
# prefix for local use is not among them: where in it the IPv4 address is, each site decides.
_NAT64 = int(IPv6Address("64:ff9b::")) >> 32

_LONGEST = 80  # of an IPv6 address with a zone and a port

_WITH_PORT = re.compile(r"\[([^\[\]]+)\](?::\d{1,5})?|([\d.]+):\d{1,5}", re.ASCII)


def client_address(request: HttpRequest) -> Address | None:
    """Return the address of the client that a request comes from.

    X-Forwarded-For is trusted only according to RATELIMIT_TRUSTED_PROXIES. Reading it stops at
    an entry that is not an address; the last address before it counts.

    Returns:
        None if trusted proxies on a unix socket give no address.

    Raises:
        ImproperlyConfigured: the server gives no address, as on a unix socket, and no proxy is
            trusted.
    """
    trusted = get_config().trusted_proxies
    peer = request.META.get("REMOTE_ADDR", "")
    nearest = parse_address(peer)
    if nearest is None and not (trusted.hops or trusted.unix):
        raise ImproperlyConfigured(
            f"REMOTE_ADDR is {peer!r}, which is not the address of a client. Servers on a "
            "unix socket set it so. Set settings.RATELIMIT_TRUSTED_PROXIES to 1 for a proxy "
            "that sets X-Forwarded-For, or to a list of networks that includes 'unix'."
        )
    for hop, named in enumerate(_forwarded_for(request)):
        if not _is_trusted(nearest, hop, trusted) or (address := parse_address(named)) is None:
            break
        nearest = address
    return nearest


def address_key(request: HttpRequest) -> str:
    """Return the client's address, or its network, as limits count it.

    IPv6 addresses are grouped by RATELIMIT_IPV6_MASK, by default in networks of 64 bits, in
    which a client can choose its address. An address that represents an IPv4 address (NAT64)
    counts as that one. Clients for which proxies give no address count as one.
    """
    config = get_config()
    masks = config.ipv4_mask, config.ipv6_mask
    if config.trusted_proxies is NOBODY:
        peer = request.META.get("REMOTE_ADDR", "")
        if len(peer) <= _LONGEST and (network := _network_of(peer, *masks)):
            return network
    address = client_address(request)
    return "unknown" if address is None else _network(address, *masks)


def _network(address: Address, ipv4_mask: int, ipv6_mask: int) -> str:
    if address.version == 6 and int(address) >> 32 == _NAT64:
        address = IPv4Address(int(address) & 0xFFFFFFFF)
    prefix = ipv4_mask if address.version == 4 else ipv6_mask
    host_bits = address.max_prefixlen - prefix
    return str(type(address)(int(address) >> host_bits << host_bits))


@lru_cache(maxsize=1024)
def _network_of(text: str, ipv4_mask: int, ipv6_mask: int) -> str | None:
    address = _parse(text)
    return None if address is None else _network(address, ipv4_mask, ipv6_mask)


def parse_address(text: str) -> Address | None:
    """Return the address in the text of a server or proxy, None if there is none.

    A port, brackets and an IPv6 zone are left out. An IPv4 address in the form of IPv6
    (``::ffff:10.0.0.1``) is the IPv4 address.
    """
    return _parse(text) if len(text) <= _LONGEST else None


@lru_cache(maxsize=1024)
def _parse(text: str) -> Address | None:
    text = text.strip()
    if match := _WITH_PORT.fullmatch(text):
        text = match[1] or match[2]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address


def _forwarded_for(request: HttpRequest) -> Iterator[str]:
    """Yield the entries of X-Forwarded-For, from right to left."""
    rest = request.META.get("HTTP_X_FORWARDED_FOR", "")
    while rest:
        rest, _, named = rest.rpartition(",")
        yield named


def _is_trusted(address: Address | None, hop: int, trusted: TrustedProxies) -> bool:
    if trusted.hops is not None:
        return hop < trusted.hops
    if address is None:
        return trusted.unix
    return any(address in network for network in trusted.networks)
