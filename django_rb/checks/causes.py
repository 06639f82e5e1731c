"""Why a node cannot be used, in terms of its settings, and what to do about it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence

import redis

from ..engine import Cluster, SlotRouter
from ..engine.errors import NodeFailure, ProtocolError
from ..engine.nodes.node import Node

# The options for files of TLS.
FILE_OPTIONS = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")

_NOBODY_ANSWERS = (
    "Check that the server is running, that the address is correct, and that no firewall "
    "blocks this machine."
)
_WANTS_A_CERTIFICATE = (
    f"{_NOBODY_ANSWERS} If it requires a client certificate, set 'ssl_certfile' and "
    "'ssl_keyfile'."
)

# The text of an error, the cause, and the solution.
_CAUSES = (
    (
        r"Authentication required",
        "the node requires a password, and the settings contain none for it",
        "Set 'password', and also 'username' unless it is the password of the default user.",
    ),
    (
        r"WRONGPASS|invalid (username|password)|user is disabled",
        "the node rejects this username or password",
        "Compare 'username' and 'password' with the node's ACL LIST or requirepass. Without "
        "'username' it is the password of the default user.",
    ),
    (
        r"without any password configured",
        "the settings contain a password, but the node's default user has none",
        "Leave 'password' out, set requirepass on the node, or set the 'username' that it "
        "belongs to.",
    ),
    (
        r"(?i)hostname mismatch|IP address mismatch|doesn't match",
        "the node's certificate is for a different name",
        "Set 'host' to a name in the certificate, or issue a certificate for this name.",
    ),
    (
        r"certificate has expired|certificate is not yet valid",
        "the node's certificate has expired or is not yet valid",
        "Renew the certificate, or correct the clock of this machine.",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED",
        "the node's certificate is not signed by an authority that this machine trusts",
        "Set 'ssl_ca_certs' to the certificates of the authority that signed it.",
    ),
    (
        r"CERTIFICATE_REQUIRED|certificate required",
        "the node requires a client certificate",
        "Set 'ssl_certfile' to a certificate and 'ssl_keyfile' to its key.",
    ),
    (
        r"NO_CERTIFICATE_OR_CRL_FOUND|PEM lib|KEY_VALUES_MISMATCH",
        "a file of 'ssl_ca_certs', 'ssl_certfile' or 'ssl_keyfile' is invalid",
        "Use PEM files: '-----BEGIN CERTIFICATE-----' or '-----BEGIN PRIVATE KEY-----'. The "
        "key must match the certificate.",
    ),
    (
        r"as reply type byte",
        "the server there is not Redis or Valkey; it may be a web server",
        "Correct 'host' and 'port'.",
    ),
    (
        r"WRONG_VERSION_NUMBER|UNKNOWN_PROTOCOL|RECORD_LAYER_FAILURE",
        "the server there does not use TLS",
        "Correct 'port', or disable TLS: redis:// instead of rediss://, or 'ssl': False.",
    ),
    (
        r"DB index is out of range",
        "the server has no database with this number",
        "Set a lower 'db', or raise 'databases' in the server's configuration.",
    ),
    (
        r"DENIED|protected mode",
        "the server is in protected mode and refuses connections from other machines",
        "Set passwords for its users, and the same ones here; or change its 'protected-mode' "
        "and 'bind'.",
    ),
    (
        r"max number of clients",
        "the server has reached its maximum number of clients",
        "Raise its 'maxclients', or lower POOL_OPTIONS['max_connections'].",
    ),
    (
        r"Name or service not known|nodename nor servname|name resolution|No address",
        "the host name cannot be resolved",
        "Correct 'host', or the name resolution of this machine.",
    ),
    (
        r"(?i)connection refused",
        "no server listens there",
        "Check that the server is running, that 'host' and 'port' are correct, and that it "
        "listens on that address ('bind'), not only on 127.0.0.1.",
    ),
)

_TLS_IS_THERE = (
    "the port requires TLS, and the settings do not use it",
    "Use a rediss:// URL, or 'ssl': True.",
)
_TLS_IS_NOT_THERE = (
    "the settings use TLS, and the port does not",
    "Use the server's tls-port, or disable TLS: redis:// instead of rediss://, or 'ssl': "
    "False.",
)


def find_causes(
    cluster: Cluster, failures: Sequence[NodeFailure], timeout: float
) -> list[tuple[str, str]]:
    """Return why nodes cannot be used, "" if unknown, and what to do about it.

    Nodes that closed the connection, or did not reply to TLS, are asked again in parallel: with
    TLS if it was not used, and without if it was. No password is sent then.

    Args:
        timeout: seconds for that attempt.
    """
    known = {failure.host_id: _cause_of(cluster, failure) for failure in failures}
    silent = [host_id for host_id, cause in known.items() if cause is None]
    otherwise = _answering_otherwise(cluster, silent, timeout) if silent else set()
    for host_id in silent:
        has_tls = cluster.hosts[host_id].ssl
        if host_id in otherwise:
            known[host_id] = _TLS_IS_NOT_THERE if has_tls else _TLS_IS_THERE
        else:
            known[host_id] = ("", _WANTS_A_CERTIFICATE if has_tls else _NOBODY_ANSWERS)
    return [known[failure.host_id] or ("", _NOBODY_ANSWERS) for failure in failures]


def _cause_of(cluster: Cluster, failure: NodeFailure) -> tuple[str, str] | None:
    """Return the cause and solution for an error; None if TLS may be the cause."""
    node, text = cluster.nodes[failure.host_id], str(failure.error)
    for option, path, problem in unreadable_files(node):
        return f"{option!r} is {path!r}, {problem}", "Correct the path or its permissions."
    socket_path = node.info.unix_socket_path
    if socket_path and not os.path.exists(socket_path):  # noqa: PTH110 (a text of settings)
        return "there is no such socket", (
            "Check that the server is running, and that its 'unixsocket' is this path."
        )
    for pattern, cause, cure in _CAUSES:
        if re.search(pattern, text):
            return cause, cure
    # A port with TLS closes connections without it; one without TLS waits for more data.
    kinds = (
        (redis.ConnectionError, redis.TimeoutError) if node.info.ssl else redis.ConnectionError
    )
    is_odd = isinstance(failure.error, kinds) and not isinstance(failure.error, ProtocolError)
    return None if is_odd and not socket_path else ("", _NOBODY_ANSWERS)


def unreadable_files(node: Node) -> Iterator[tuple[str, str, str]]:
    """Yield the TLS options of a node whose files cannot be read, and the reasons."""
    for option in FILE_OPTIONS if node.info.ssl else ():
        path = node.kwargs.get(option)
        if isinstance(path, str | os.PathLike):
            if not os.path.exists(path):  # noqa: PTH110
                yield option, os.fspath(path), "which does not exist"
            elif not os.access(path, os.R_OK):
                yield option, os.fspath(path), "which this process may not read"


def _answering_otherwise(cluster: Cluster, host_ids: Sequence[int], timeout: float) -> set[int]:
    """Return the nodes that answer with the opposite of their TLS setting."""
    places: dict[int, dict[str, object]] = {}
    for host_id in host_ids:
        info = cluster.hosts[host_id]
        places[host_id] = {"host": info.host, "port": info.port, "ssl": not info.ssl}
        if not info.ssl:
            places[host_id]["ssl_cert_reqs"] = "none"
    # Without a deadline, which would not end attempts to connect.
    seconds = {"socket_timeout": timeout / 2, "socket_connect_timeout": timeout / 2}
    asked = Cluster(places, pool_options=seconds, router_cls=SlotRouter)
    try:
        replies, failures = asked.call_nodes("PING")
    finally:
        asked.close()
    wants_login = {
        f.host_id for f in failures if isinstance(f.error, redis.AuthenticationError)
    }
    return {*replies, *wants_login}
