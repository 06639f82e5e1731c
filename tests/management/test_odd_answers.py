"""Commands and checks meet replies that cannot be answers: the node fails, and they do not."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from io import StringIO

import pytest
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.test import override_settings

from django_rb import clusters
from django_rb.testing import LocalNodes
from tests.engine.peer import Peer
from tests.management.calls import run_and_fail

ODD = [b"*0\r\n", b":1\r\n", b"$-1\r\n", b"*2\r\n:1\r\n:2\r\n"]


@pytest.fixture(params=ODD)
def node(request: pytest.FixtureRequest) -> Iterator[Peer]:
    def answer(peer: Peer, connection: socket.socket, command: list[bytes]) -> None:
        connection.sendall(request.param)

    with Peer(answer) as peer:
        config = {"default": {"HOSTS": [peer.host], "HEALTH": None}}
        with override_settings(RB_CLUSTERS=config):
            yield peer
            clusters.reset()


@pytest.mark.parametrize(
    "command",
    [
        ("rb_status",),
        ("rb_scan",),
        ("rb_get", "x"),
        ("rb_delete", "x*", "--noinput"),
        ("rb_flushall", "--noinput"),
        ("rb_bench",),
    ],
    ids=lambda command: str(command[0]),
)
def test_a_command_fails_by_its_node(command: tuple[str, ...], node: Peer) -> None:
    run_and_fail(*command)


@pytest.mark.parametrize("names", [("default", "other"), ("other", "default")])
def test_a_migration_fails_by_its_node(
    names: tuple[str, str], node: Peer, open_nodes: LocalNodes
) -> None:
    config = {
        "default": {"HOSTS": [node.host], "HEALTH": None},
        "other": {"HOSTS": open_nodes.hosts},
    }
    with override_settings(RB_CLUSTERS=config):
        _, error = run_and_fail("rb_migrate", *names)
    assert error.startswith("1 of 5 nodes could not be read completely:\ndefault 0: ")


def test_a_check_tells_of_the_node(node: Peer) -> None:
    with pytest.raises(
        SystemCheckError, match=f"Unexpected reply of the node to .*127.0.0.1:{node.port}"
    ):
        call_command("check", "--tag", "rb_connect", stdout=StringIO(), stderr=StringIO())
