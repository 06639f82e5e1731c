"""What E201 says of each thing that may be wrong with a node, on real servers."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme
from django.test import override_settings

from django_rb.checks import check_live_nodes
from django_rb.testing import LocalNodes
from tests.management.processes import django, project
from tests.security.tls import serve_tls

SECRET = "hunter2"
SOUND = {"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}
SECONDS = {"socket_timeout": 0.5, "socket_connect_timeout": 0.5}

Places = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    """Where there is an open server, one with a password, one with TLS, and a web server."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    (folder / "text.pem").write_text("no certificate")
    certificate = authority.issue_cert("127.0.0.1")
    web = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    thread = threading.Thread(target=web.serve_forever, args=[0.01])
    thread.start()
    with (
        LocalNodes(1, options={**SOUND, "requirepass": ""}) as open_nodes,
        LocalNodes(1, options={**SOUND, "requirepass": SECRET}) as closed_nodes,
        serve_tls(open_nodes, certificate, authority, folder, fronts_only=True) as with_tls,
    ):
        yield {
            "open": open_nodes.hosts[0],
            "closed": {**closed_nodes.hosts[0], "password": None},
            "tls": {**with_tls[0], "ssl_ca_certs": str(folder / "ca.pem")},
            "web": {"host": "127.0.0.1", "port": web.server_port},
            "nobody": {"host": "127.0.0.1", "port": 1},
        }
    web.shutdown()
    thread.join()
    web.server_close()


def configured(host: dict[str, Any]) -> override_settings:
    given = {name: value for name, value in host.items() if value is not None}
    return override_settings(
        RB_CLUSTERS={"default": {"HOSTS": [given], "POOL_OPTIONS": SECONDS}}, CACHES={}
    )


# redis-py 5.0 leaves sockets to the collector that it could not set up.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.parametrize(
    ("place", "options", "cause", "cure"),
    [
        ("open", {"ssl": True}, "the settings use TLS, and the port does not", "redis://"),
        (
            "tls",
            {"ssl": None, "ssl_ca_certs": None},
            "the port requires TLS, and the settings do not use it",
            "rediss://",
        ),
        ("web", {}, "not Redis or Valkey; it may be a web server", "'port'"),
        ("web", {"ssl": True}, "does not use TLS", "'port'"),
        ("tls", {"ssl_ca_certs": "/no/ca.pem"}, "'ssl_ca_certs' is '/no/ca.pem'", "path"),
        ("tls", {"ssl_certfile": "/no/c.pem"}, "'ssl_certfile' is '/no/c.pem'", "path"),
        ("tls", {"ssl_ca_certs": __file__}, "'ssl_ca_certs', .* is invalid", "PEM"),
        (
            "tls",
            {"ssl_ca_certs": None},
            "not signed by an authority that this machine trusts",
            "'ssl_ca_certs'",
        ),
        ("tls", {"host": "localhost"}, "certificate is for a different name", "'host'"),
        ("closed", {}, "requires a password, and the settings contain none", "Set 'password'"),
        ("closed", {"password": "guess"}, "rejects this username or password", "ACL LIST"),
        ("open", {"password": "guess"}, "contain a password, but the node's .* none", "Leave"),
        ("open", {"db": 99}, "no database with this number", "'databases'"),
        ("nobody", {}, "no server listens there", "server is running"),
        ("nobody", {"host": "nobody.invalid"}, "the host name cannot be resolved", "'host'"),
        (
            "nobody",
            {"unix_socket_path": "/no/s", "host": None, "port": None},
            "socket",
            "'unixsocket'",
        ),
    ],
)
def test_each_cause_is_told_with_its_cure(
    places: Places, place: str, options: dict[str, Any], cause: str, cure: str
) -> None:
    with configured({**places[place], **options}):
        (message,) = check_live_nodes()
    assert message.id == "django_rb.E201"
    where, _, said = message.msg.partition(": ")
    assert where == "settings.RB_CLUSTERS['default']['HOSTS'][0]"
    assert re.match(rf".*{cause}.* \(.*\[node 0, .*, cluster default\]\)$", said), said
    assert message.hint
    assert cure in message.hint
    assert "guess" not in message.msg + message.hint


def test_a_silent_node_has_no_cause() -> None:
    with LocalNodes(1, options={**SOUND, "requirepass": ""}) as nodes:
        nodes.pause(0)
        with configured(nodes.hosts[0]):
            (message,) = check_live_nodes(timeout=0.3)
    assert message.msg.startswith(
        "settings.RB_CLUSTERS['default']['HOSTS'][0]: Deadline exceeded [node 0, "
    )
    assert "firewall" in str(message.hint)


def test_each_is_printed_once(tmp_path: Path) -> None:
    clusters = {"default": {"HOSTS": [{"host": "127.0.0.1", "port": 1}]}}
    done = django("check", "--tag", "rb_connect", env=project(tmp_path, clusters))
    assert done.returncode == 1
    assert done.stderr.count("Connection refused") == 1
    assert "fails" not in done.stderr
